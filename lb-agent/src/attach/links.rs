//! Links: made and pinned once, afterwards only given new programs.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, Program, ProgramFd, links::FdLink};
use lb_common::map_table::PROGRAMS;

use super::{Plane, object::chain};
use crate::maps::{pinned::links_dir, sys};

/// Why a program is not attached.
#[derive(thiserror::Error, Debug)]
#[error("attaching {program} to {}: {error}", cgroup.display())]
pub struct LinkError {
    /// Which one.
    pub program: &'static str,
    /// Where.
    pub cgroup: PathBuf,
    /// Why.
    pub error: String,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attached {
    /// Links that got a new program in place.
    pub replaced: usize,
    /// Links that are new.
    pub fresh: usize,
}

/// Gives every pinned link its new program; with `may_attach`, makes the links that are missing.
/// A link whose cgroup is gone, or is not the one served, is made anew.
///
/// # Errors
/// See [`LinkError`].
pub fn attach(
    plane: &mut Plane,
    root: &Path,
    cgroup: &Path,
    may_attach: bool,
) -> Result<Attached, LinkError> {
    let dir = links_dir(root);
    if may_attach {
        remove_strangers(&dir);
    }
    let mut done = Attached::default();
    // Backwards: what shows the VIP in replies is there before anything is translated.
    for (name, _) in PROGRAMS.iter().rev() {
        let broken = |error: String| LinkError {
            program: name,
            cgroup: cgroup.to_owned(),
            error,
        };
        let file = File::open(cgroup).map_err(|e| broken(e.to_string()))?;
        let pin = dir.join(name);
        if replace(plane, name, &pin, &file, may_attach).map_err(broken)? {
            done.replaced += 1;
        } else if may_attach {
            make(plane, name, &pin, &file).map_err(broken)?;
            done.fresh += 1;
        }
    }
    Ok(done)
}

/// Pins that no program of this version answers to: left by another version.
fn remove_strangers(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        // Links on devices have a folder of their own.
        let is_folder = entry.path().is_dir();
        if is_folder
            || PROGRAMS
                .iter()
                .any(|(name, _)| entry.file_name().to_str() == Some(*name))
        {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => {
                tracing::warn!(pin = %entry.path().display(), "removed a link of another version")
            }
            Err(error) => {
                tracing::warn!(pin = %entry.path().display(), %error, "a link of another version stays")
            }
        }
    }
}

/// True when the pinned link now runs the new program. Right after a cgroup's removal the kernel
/// still takes an update, to no effect: so the link's cgroup is compared, too.
///
/// A link to another cgroup that still exists goes on serving it until `may_attach`, when the new plane
/// is complete, and until its own successor is there: a start never takes the old one down first.
fn replace(
    plane: &Plane,
    name: &'static str,
    pin: &Path,
    cgroup: &File,
    may_attach: bool,
) -> Result<bool, String> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(format!("opening {}: {error}", pin.display())),
    };
    let served = cgroup.metadata().map_err(|e| e.to_string())?.ino();
    let shape = sys::link_shape(link.as_fd()).map_err(|e| e.to_string())?;
    let program = program_fd(plane, name)?;
    let updated = sys::link_update(link.as_fd(), program.as_fd(), None);
    if shape.cgroup_id == served {
        match updated {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(format!("replacing the program: {error}")),
        }
    }
    if !may_attach {
        return Ok(false);
    }
    tracing::warn!(
        program = name,
        "the link's cgroup is gone or another one: attaching anew"
    );
    Ok(false)
}

fn program_fd<'a>(plane: &'a Plane, name: &str) -> Result<&'a ProgramFd, String> {
    let fd = match plane.ebpf.program(name) {
        Some(Program::CgroupSockAddr(p)) => p.fd(),
        Some(Program::CgroupSock(p)) => p.fd(),
        Some(_) | None => return Err("not in the object".into()),
    };
    fd.map_err(|e| chain(&e))
}

/// A link in the kernel is always of mode multi: programs of others on the same cgroup go on.
fn make(plane: &mut Plane, name: &'static str, pin: &Path, cgroup: &File) -> Result<(), String> {
    let cgroup: BorrowedFd<'_> = cgroup.as_fd();
    let mode = CgroupAttachMode::Single;
    let link: FdLink = match plane.ebpf.program_mut(name) {
        Some(Program::CgroupSockAddr(p)) => {
            let id = p.attach(cgroup, mode).map_err(|e| chain(&e))?;
            p.take_link(id)
                .map_err(|e| chain(&e))?
                .try_into()
                .map_err(|e| chain(&e))?
        }
        Some(Program::CgroupSock(p)) => {
            let id = p.attach(cgroup, mode).map_err(|e| chain(&e))?;
            p.take_link(id)
                .map_err(|e| chain(&e))?
                .try_into()
                .map_err(|e| chain(&e))?
        }
        Some(_) | None => return Err("not in the object".into()),
    };
    // In the place of the old link, if there is one, in one step: that one serves until then.
    let next = pin.with_file_name(format!("next-{name}"));
    link.pin(&next).map_err(|e| chain(&e))?;
    fs::rename(&next, pin).map_err(|e| format!("putting {} in place: {e}", pin.display()))
}
