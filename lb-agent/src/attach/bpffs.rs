//! The folder of pins: on a BPF file system, with one agent at a time.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use crate::maps::pinned::{links_dir, maps_dir, version_dir};

/// BPF_FS_MAGIC
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// Where Linux expects its BPF file system.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// Why there is no folder of pins.
#[derive(thiserror::Error, Debug)]
pub enum BpffsError {
    /// The kernel refuses.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// Another agent is at work here.
    #[error(
        "another agent runs with --bpffs-root {0}; stop it first, or give this one a root of its own"
    )]
    Busy(PathBuf),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BpffsError {
    let path = path.to_owned();
    move |source| BpffsError::Io {
        action,
        path,
        source,
    }
}

/// Held while the agent runs: the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Makes the folders of pins and takes their lock. Where `root` is not on a BPF file system, one is
/// mounted: at /sys/fs/bpf for a root below it, else at the root itself.
///
/// # Errors
/// See [`BpffsError`].
pub fn prepare(root: &Path) -> Result<Lock, BpffsError> {
    mount_if_missing(root)?;
    for dir in [maps_dir(root), links_dir(root)] {
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
    }
    let dir = version_dir(root);
    let file = File::open(&dir).map_err(io_error("open", &dir))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(BpffsError::Busy(root.to_owned())),
        Err((_, errno)) => Err(io_error("lock", &dir)(errno.into())),
    }
}

fn mount_if_missing(root: &Path) -> Result<(), BpffsError> {
    let existing = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let kind = statfs(existing).map_err(|e| io_error("look at", existing)(e.into()))?;
    if kind.filesystem_type() == BPF_FS {
        return Ok(());
    }
    let point = if root.starts_with(SYSTEM_BPFFS) {
        Path::new(SYSTEM_BPFFS)
    } else {
        root
    };
    fs::create_dir_all(point).map_err(io_error("create", point))?;
    mount(
        Some("bpf"),
        point,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|e| io_error("mount a BPF file system at", point)(e.into()))?;
    tracing::info!(path = %point.display(), "mounted a BPF file system");
    Ok(())
}
