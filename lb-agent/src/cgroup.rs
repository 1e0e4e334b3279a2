//! The cgroup v2 directory whose processes are served: found in the mount table, so that hybrid
//! hierarchies work, or given.
//!
//! Programs attached to a directory run for it and everything below. In a container with a cgroup
//! namespace of its own the mount shows that container's cgroup alone; the kernel lets this be seen
//! only by the files that its own root lacks.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

const MOUNT_TABLE: &str = "/proc/self/mountinfo";
/// A file of every cgroup v2 directory but the kernel's own root.
const NOT_IN_ROOT: &str = "cgroup.events";

/// A usable directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CgroupRoot {
    /// Where it is.
    pub path: PathBuf,
    /// All processes of this kernel are below it; otherwise some are not served.
    pub is_whole: bool,
    /// Named by `--cgroup-root`.
    pub is_given: bool,
}

/// Why there is none.
#[derive(thiserror::Error, Debug)]
pub enum CgroupError {
    /// The mount table shows none.
    #[error(
        "no cgroup v2 hierarchy is mounted here; mount one (mount -t cgroup2 none /sys/fs/cgroup), let the container see the host's, or name one with --cgroup-root"
    )]
    NotMounted,
    /// The directory given is something else.
    #[error(
        "--cgroup-root {0}: not a cgroup v2 directory; `grep cgroup2 /proc/self/mountinfo` shows where one is mounted"
    )]
    NotCgroup2(PathBuf),
    /// It cannot be looked at.
    #[error("{path}: {error}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// errno.
        error: io::Error,
    },
}

impl CgroupRoot {
    /// The directory given, or the first cgroup v2 mount.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn find(given: Option<&Path>) -> Result<Self, CgroupError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => mounted()?,
        };
        let at = |error: io::Error| CgroupError::Io {
            path: path.clone(),
            error,
        };
        let kind = statfs(&path).map_err(|e| at(e.into()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(CgroupError::NotCgroup2(path));
        }
        Ok(Self {
            is_whole: !path.join(NOT_IN_ROOT).exists(),
            is_given: given.is_some(),
            path,
        })
    }

    /// Why some processes are not served, if so.
    pub fn warning(&self) -> Option<String> {
        if self.is_whole || self.is_given {
            return None;
        }
        Some(format!(
            "{} is not the root of the cgroup v2 hierarchy: only processes below it are served; mount the host's hierarchy into this container and name it with --cgroup-root",
            self.path.display()
        ))
    }
}

fn mounted() -> Result<PathBuf, CgroupError> {
    let table = fs::read_to_string(MOUNT_TABLE).map_err(|error| CgroupError::Io {
        path: MOUNT_TABLE.into(),
        error,
    })?;
    let mounts = mounts(&table, "cgroup2");
    let whole = mounts.iter().find(|path| !path.join(NOT_IN_ROOT).exists());
    whole
        .or(mounts.first())
        .cloned()
        .ok_or(CgroupError::NotMounted)
}

/// Mount points of a type of file system in the form of /proc/self/mountinfo (proc_pid_mountinfo(5)): the file
/// system's type stands behind a lone dash, the mount point is the fifth field.
pub(crate) fn mounts(table: &str, file_system: &str) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| {
            let (mount, system) = line.split_once(" - ")?;
            if system.split(' ').next()? != file_system {
                return None;
            }
            Some(PathBuf::from(unescape(mount.split(' ').nth(4)?)))
        })
        .collect()
}

/// Spaces and the like are octal in the mount table.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                text.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_hierarchy_is_found_where_it_is_mounted() {
        let table = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";
        assert_eq!(
            mounts(table, "cgroup2"),
            [PathBuf::from("/sys/fs/cgroup/unified")]
        );
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table = "41 31 0:38 / /run/my\\040host/cgroup rw - cgroup2 none rw\n";
        assert_eq!(
            mounts(table, "cgroup2"),
            [PathBuf::from("/run/my host/cgroup")]
        );
    }

    #[test]
    fn a_directory_of_another_kind_is_refused_with_the_remedy() {
        let error = CgroupRoot::find(Some(Path::new("/proc"))).expect_err("not a cgroup");
        assert!(matches!(error, CgroupError::NotCgroup2(_)), "{error}");
        assert!(error.to_string().contains("--cgroup-root /proc"));
    }
}
