//! `cleanup`: detaches and unpins everything below one `--bpffs-root`. Only what is pinned there:
//! programs of the same name may be another agent's. And `lb0`, which says whose it is.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{fcntl::FlockArg, mount};

use super::{
    args::CleanupArgs,
    output::print,
    running::{Locked, lock},
};
use crate::{
    attach::devices::{self, How},
    devices::{lb0, reserved_ports},
    maps::sys,
};

/// How long an agent that is ending may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The system's own BPF file system stays mounted.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";
/// Files that the kernel itself puts into every BPF file system.
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

/// Runs the verb.
///
/// # Errors
/// An agent runs there, or something cannot be removed.
pub fn execute(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let root = &args.roots.bpffs_root;
    let versions = versions(root)?;
    let mut removed = Removed::default();
    for dir in &versions {
        clean_version(root, dir, args.force, &mut removed)?;
    }
    let unmounted = unmount(root)?;
    if versions.is_empty() && !unmounted {
        print(&format!("nothing is pinned under {}\n", root.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!(
        "{}: {} links detached, {} maps unpinned{}{}\n",
        root.display(),
        removed.links,
        removed.maps,
        if removed.devices > 0 {
            ", lb0 removed"
        } else {
            ""
        },
        if unmounted {
            ", BPF file system unmounted"
        } else {
            ""
        }
    ))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Removed {
    links: usize,
    maps: usize,
    devices: usize,
}

/// The folders `v1`, `v2` and so on: every version's, for an older one may have been left.
fn versions(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut dirs: Vec<_> = entries(root)?
        .into_iter()
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            name.strip_prefix('v')
                .is_some_and(|n| n.parse::<u32>().is_ok())
                && path.is_dir()
        })
        .collect();
    dirs.sort();
    Ok(dirs)
}

/// What is in a folder; nothing, if it is not there.
fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("read {}", dir.display())),
    };
    read.map(|entry| {
        Ok(entry
            .with_context(|| format!("read {}", dir.display()))?
            .path())
    })
    .collect()
}

/// An agent that was just told to stop takes a moment.
fn lock_patiently(dir: &PathBuf, force: bool) -> anyhow::Result<Locked> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let locked = lock(dir, FlockArg::LockExclusiveNonblock)
            .with_context(|| format!("lock {}", dir.display()))?;
        if !matches!(locked, Locked::Held) || force || Instant::now() >= give_up {
            return Ok(locked);
        }
        std::thread::sleep(PATIENCE / 50);
    }
}

fn clean_version(
    root: &Path,
    dir: &PathBuf,
    force: bool,
    removed: &mut Removed,
) -> anyhow::Result<()> {
    // Held to the end: no agent starts meanwhile.
    let locked = lock_patiently(dir, force)?;
    if matches!(locked, Locked::Held) && !force {
        anyhow::bail!(
            "an agent runs with --bpffs-root {}: stop it first, or take its data plane away under it with --force",
            root.display()
        );
    }
    let links = dir.join("links");
    // Devices first: without them no packet asks for the maps.
    for (folder, how) in [("devices", How::Tcx), ("filters", How::Clsact)] {
        for pin in entries(&links.join(folder))? {
            devices::detach(how, &pin);
            remove(&pin)?;
            removed.links += 1;
        }
    }
    for pin in entries(&links)?.iter().filter(|pin| !pin.is_dir()) {
        detach(pin);
        remove(pin)?;
        removed.links += 1;
    }
    removed.devices += usize::from(lb0::remove(root)?);
    reserved_ports::release(root).context("give back net.ipv4.ip_local_reserved_ports")?;
    for pin in entries(&dir.join("maps"))? {
        remove(&pin)?;
        removed.maps += 1;
    }
    for folder in [
        links.join("devices"),
        links.join("filters"),
        links,
        dir.join("maps"),
        dir.clone(),
    ] {
        match fs::remove_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("remove {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Without a pin a link ends with its last holder; an agent may still hold it.
fn detach(pin: &Path) {
    let Ok(link) = sys::open_pin(pin) else {
        return;
    };
    if let Err(error) = sys::link_detach(link.as_fd()) {
        tracing::debug!(pin = %pin.display(), %error, "the link is not detached by itself");
    }
}

fn remove(pin: &Path) -> anyhow::Result<()> {
    fs::remove_file(pin).with_context(|| format!("unpin {}", pin.display()))
}

/// Takes the root away: a BPF file system that is mounted exactly there and holds nothing else, or
/// an empty folder of a larger one.
fn unmount(root: &Path) -> anyhow::Result<bool> {
    let is_own = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| KERNELS_OWN.iter().any(|own| n == *own))
    };
    if root == Path::new(SYSTEM_BPFFS) || !entries(root)?.iter().all(is_own) {
        return Ok(false);
    }
    if !is_bpffs_mount(root)? {
        // Not empty after all, not there, or not ours to remove: it may stay.
        fs::remove_dir(root).ok();
        return Ok(false);
    }
    mount::umount(root).with_context(|| format!("unmount {}", root.display()))?;
    Ok(true)
}

fn is_bpffs_mount(root: &Path) -> anyhow::Result<bool> {
    let Ok(root) = root.canonicalize() else {
        return Ok(false);
    };
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    Ok(crate::cgroup::mounts(&table, "bpf").contains(&root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_folders_are_touched() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["v1", "v12", "vx", "other"] {
            fs::create_dir(root.path().join(name)).expect(name);
        }
        let found = versions(root.path()).expect("a list");
        assert_eq!(found, [root.path().join("v1"), root.path().join("v12")]);
    }

    #[test]
    fn a_root_that_is_not_there_holds_nothing() {
        assert_eq!(
            versions(Path::new("/nowhere/at/all")).expect("a list"),
            Vec::<PathBuf>::new()
        );
    }
}
