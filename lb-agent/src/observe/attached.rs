//! Whether the kernel really runs our programs: what each pinned link carries, compared by program
//! id with what the hook of the cgroup runs. Never by name: other agents on this kernel bear the same.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use lb_common::map_table::PROGRAMS;
use serde::Serialize;

use crate::maps::{
    pinned::links_dir,
    sys::{self, bpf_attach_type},
};

/// How deep below a cgroup v2 mount a link's cgroup is looked for.
const MAX_DEPTH: usize = 8;

/// One program's place.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Its name.
    pub program: &'static str,
    /// Its hook.
    pub hook: &'static str,
    /// Id of the program that its pinned link carries; null: no link.
    pub program_id: Option<u32>,
    /// The link is there and its cgroup still exists.
    pub attached: bool,
    /// The hook of the cgroup runs this very program.
    pub effective: bool,
    /// What is wrong, if anything.
    pub problem: Option<String>,
}

/// Looks at every program.
pub fn attachments(bpffs_root: &Path, cgroup: &Path) -> Vec<Attachment> {
    let directory = File::open(cgroup);
    PROGRAMS
        .iter()
        .map(|(program, hook)| {
            let found = match &directory {
                Ok(directory) => look(&links_dir(bpffs_root).join(program), directory, hook),
                Err(error) => Err(format!("cgroup {}: {error}", cgroup.display())),
            };
            let (program_id, effective, problem) = match found {
                Ok(found) => found,
                Err(problem) => (None, false, Some(problem)),
            };
            Attachment {
                program,
                hook,
                program_id,
                attached: program_id.is_some(),
                effective,
                problem,
            }
        })
        .collect()
}

type Found = (Option<u32>, bool, Option<String>);

fn look(pin: &Path, cgroup: &File, hook: &str) -> Result<Found, String> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err("not attached: its link is missing".to_owned());
        }
        Err(e) => return Err(format!("{}: {e}", pin.display())),
    };
    let shape = sys::link_shape(link.as_fd()).map_err(|e| format!("{}: {e}", pin.display()))?;
    if shape.cgroup_id == 0 {
        return Err("not attached: the cgroup of its link is gone".to_owned());
    }
    let id = shape.program_id;
    let Some(attach_type) = attach_type(hook) else {
        return Err(format!("no hook is known as {hook}"));
    };
    let running = sys::effective_programs(cgroup.as_fd(), attach_type)
        .map_err(|e| format!("asking which programs run at {hook}: {e}"))?;
    if running.contains(&id) {
        return Ok((Some(id), true, None));
    }
    let served = cgroup.metadata().map(|m| m.ino()).unwrap_or_default();
    let problem = if served == shape.cgroup_id {
        format!("program {id} is attached, but the hook does not run it")
    } else {
        format!(
            "program {id} is attached to another cgroup (id {}) than the one looked at",
            shape.cgroup_id
        )
    };
    Ok((Some(id), false, Some(problem)))
}

/// The kernel's number of a hook of the map table.
pub fn attach_type(hook: &str) -> Option<bpf_attach_type> {
    use bpf_attach_type as t;
    Some(match hook {
        "cgroup/connect4" => t::BPF_CGROUP_INET4_CONNECT,
        "cgroup/connect6" => t::BPF_CGROUP_INET6_CONNECT,
        "cgroup/sendmsg4" => t::BPF_CGROUP_UDP4_SENDMSG,
        "cgroup/sendmsg6" => t::BPF_CGROUP_UDP6_SENDMSG,
        "cgroup/recvmsg4" => t::BPF_CGROUP_UDP4_RECVMSG,
        "cgroup/recvmsg6" => t::BPF_CGROUP_UDP6_RECVMSG,
        "cgroup/getpeername4" => t::BPF_CGROUP_INET4_GETPEERNAME,
        "cgroup/getpeername6" => t::BPF_CGROUP_INET6_GETPEERNAME,
        "cgroup/post_bind4" => t::BPF_CGROUP_INET4_POST_BIND,
        "cgroup/post_bind6" => t::BPF_CGROUP_INET6_POST_BIND,
        "cgroup/sock_release" => t::BPF_CGROUP_INET_SOCK_RELEASE,
        _ => return None,
    })
}

/// The directory of the cgroup that the pinned links are attached to, below a cgroup v2 mount: so
/// that `status` needs no `--cgroup-root` for an agent that has one.
pub fn linked_cgroup(bpffs_root: &Path, mount: &Path) -> Option<PathBuf> {
    let id = PROGRAMS.iter().find_map(|(program, _)| {
        let link = sys::open_pin(&links_dir(bpffs_root).join(program)).ok()?;
        sys::link_shape(link.as_fd())
            .ok()
            .map(|shape| shape.cgroup_id)
    })?;
    find_cgroup(mount, id, MAX_DEPTH)
}

/// A cgroup's id is the inode number of its directory.
fn find_cgroup(dir: &Path, id: u64, depth: usize) -> Option<PathBuf> {
    if dir.metadata().ok()?.ino() == id {
        return Some(dir.to_owned());
    }
    if depth == 0 {
        return None;
    }
    dir.read_dir()
        .ok()?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|entry| find_cgroup(&entry.path(), id, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_of_the_map_table_is_known_to_the_kernel() {
        for (program, hook) in PROGRAMS {
            assert!(attach_type(hook).is_some(), "{program}");
        }
    }

    #[test]
    fn nothing_pinned_is_nothing_attached() {
        let empty = tempfile::tempdir().expect("a folder");
        let found = attachments(empty.path(), Path::new("/proc"));
        assert_eq!(found.len(), PROGRAMS.len());
        assert!(
            found
                .iter()
                .all(|a| !a.attached && !a.effective && a.problem.is_some())
        );
    }
}
