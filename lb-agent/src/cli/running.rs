//! Whether an agent runs: it holds an exclusive lock on the folder of its layout's version, which the
//! kernel lets go of when the process ends, however it ends. A process id would not do: it may be
//! another pid namespace's, or another process's by now.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::maps::pinned::version_dir;

/// Does an agent hold the lock?
///
/// # Errors
/// The folder is there, but cannot be opened or locked.
pub fn agent_runs(bpffs_root: &Path) -> io::Result<bool> {
    match lock(&version_dir(bpffs_root), FlockArg::LockSharedNonblock)? {
        Locked::Held => Ok(true),
        Locked::Missing | Locked::Ours(_) => Ok(false),
    }
}

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Locked {
    /// Ours until dropped.
    Ours(Flock<File>),
    /// Somebody else's.
    Held,
    /// There is no such folder.
    Missing,
}

/// Asks for the lock on a folder, without waiting.
///
/// # Errors
/// The folder is there, but cannot be opened or locked.
pub fn lock(dir: &PathBuf, how: FlockArg) -> io::Result<Locked> {
    let file = match File::open(dir) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Locked::Missing),
        Err(e) => return Err(e),
    };
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Locked::Ours(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(Locked::Held),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_runs_while_its_lock_is_held() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = version_dir(root.path());
        assert!(!agent_runs(root.path()).expect("nothing there"));
        std::fs::create_dir(&dir).expect("a folder");
        assert!(!agent_runs(root.path()).expect("nobody holds it"));
        let held = lock(&dir, FlockArg::LockExclusiveNonblock).expect("a free lock");
        assert!(agent_runs(root.path()).expect("we hold it"));
        drop(held);
        assert!(!agent_runs(root.path()).expect("let go"));
    }
}
