//! The kernel's version and settings, our rights, and the file systems that we need.

use std::{fs, io, path::Path};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::{
    cgroup::CgroupRoot,
    cli::{
        args::Roots,
        check::{Feature, Need, State},
    },
};

/// The oldest kernel that everything was written for.
const OLDEST: Version = (6, 1, 0);

/// Major, minor, patch.
type Version = (u32, u32, u32);

/// Capabilities by their number (linux/capability.h) and what they are for.
const CAPABILITIES: [(u8, &str, Need, &str); 4] = [
    (39, "CAP_BPF", Need::Required, "no maps and no programs"),
    (
        12,
        "CAP_NET_ADMIN",
        Need::Required,
        "no programs of the network",
    ),
    (
        38,
        "CAP_PERFMON",
        Need::Useful,
        "the verifier is stricter and may refuse programs",
    ),
    (
        21,
        "CAP_SYS_ADMIN",
        Need::Useful,
        "no BPF file system can be mounted, other network namespaces cannot be looked into: source ranges know only bound addresses",
    ),
];

/// All of them.
pub fn features(roots: &Roots) -> Vec<Feature> {
    let release = read("/proc/sys/kernel/osrelease");
    let mut features = vec![kernel(&release), in_kernel_connect(&release)];
    features.extend(capabilities(&read("/proc/self/status")));
    features.extend([cgroup(roots), bpffs(&roots.bpffs_root), jit()]);
    features
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// `6.1.57-amd64` and the like; what is not a number counts as 0.
fn version(release: &str) -> Version {
    let mut parts = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

fn kernel(release: &str) -> Feature {
    let is_old = version(release) < OLDEST;
    Feature {
        feature: "kernel 6.1 or newer".to_owned(),
        need: Need::Useful,
        state: if is_old { State::Missing } else { State::There },
        found: release.to_owned(),
        cost: "untried: the features below tell what works",
    }
}

/// Linux 6.6, 6.5.7 and 6.1.57 give a hook a copy of the address that the kernel itself connects to
/// (`kernel_connect`).
fn in_kernel_connect(release: &str) -> Feature {
    let fixed = match version(release) {
        (6, 1, patch) => patch >= 57,
        (6, 5, patch) => patch >= 7,
        version => version >= (6, 6, 0),
    };
    Feature {
        feature: "connects from inside the kernel keep their address".to_owned(),
        need: Need::Useful,
        state: if fixed { State::There } else { State::Missing },
        found: release.to_owned(),
        cost: "NFS, Ceph and iSCSI mounts by a Service's address remember the backend instead: a reconnect goes to it even when it has gone; mount by a pod's or node's address",
    }
}

fn capabilities(status: &str) -> Vec<Feature> {
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // CAP_SYS_ADMIN stands in for the younger two.
    let has = |set: u64, number: u8| {
        let one = |n: u8| set >> n & 1 == 1;
        one(number) || (matches!(number, 38 | 39) && one(21))
    };
    CAPABILITIES
        .iter()
        .map(|(number, name, need, cost)| {
            let (state, found) = match set {
                None => (State::Unknown, "/proc/self/status does not tell"),
                Some(set) if has(set, *number) => (State::There, "effective"),
                Some(_) => (State::Missing, "not in the effective set"),
            };
            Feature {
                feature: (*name).to_owned(),
                need: *need,
                state,
                found: found.to_owned(),
                cost,
            }
        })
        .collect()
}

fn cgroup(roots: &Roots) -> Feature {
    let result = CgroupRoot::find(roots.cgroup_root.as_deref())
        .map(|root| match root.warning() {
            Some(warning) => warning,
            None if root.is_whole => root.path.display().to_string(),
            None => format!("{} (part of the hierarchy, as asked)", root.path.display()),
        })
        .map_err(io::Error::other);
    let cost = "nothing can be attached: no process's connections are seen";
    Feature::tried("cgroup v2", Need::Required, cost, result)
}

fn bpffs(root: &Path) -> Feature {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let is_bpffs = statfs(existing).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    let result = if is_bpffs {
        Ok(format!("{} is on one", root.display()))
    } else if read("/proc/filesystems")
        .lines()
        .any(|line| line.ends_with("\tbpf"))
    {
        Ok("the agent mounts one when it starts".to_owned())
    } else {
        Err(io::Error::other("the kernel knows no such file system"))
    };
    let cost = "maps and links cannot be pinned: nothing survives the agent";
    Feature::tried("BPF file system", Need::Required, cost, result)
}

fn jit() -> Feature {
    let (state, found) = match read("/proc/sys/net/core/bpf_jit_enable").as_str() {
        "" => (State::Unknown, "net.core.bpf_jit_enable is not readable"),
        "0" => (State::Missing, "net.core.bpf_jit_enable=0"),
        _ => (State::There, "net.core.bpf_jit_enable is on"),
    };
    Feature {
        feature: "BPF JIT compiler".to_owned(),
        need: Need::Useful,
        state,
        found: found.to_owned(),
        cost: "programs are interpreted, several times slower; sysctl net.core.bpf_jit_enable=1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version("6.1.57-amd64"), (6, 1, 57));
        assert_eq!(version("6.18-rc3"), (6, 18, 0));
        assert_eq!(version("6.18.44-fc-v669"), (6, 18, 44));
    }

    #[test]
    fn kernels_that_lose_their_own_address_are_warned_about() {
        for (release, fixed) in [
            ("5.15.0", false),
            ("6.1.56", false),
            ("6.1.57", true),
            ("6.4.16", false),
            ("6.5.6", false),
            ("6.5.7", true),
            ("6.6.0", true),
            ("6.18.44-x", true),
        ] {
            let state = in_kernel_connect(release).state;
            assert_eq!(state == State::There, fixed, "{release}");
        }
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let state = |hex: &str, name: &str| {
            let status = format!("CapPrm:\t0\nCapEff:\t{hex}\n");
            let found = capabilities(&status)
                .into_iter()
                .find(|f| f.feature == name);
            found.map(|f| f.state)
        };
        assert_eq!(state("0000008000001000", "CAP_BPF"), Some(State::There));
        assert_eq!(
            state("0000008000001000", "CAP_NET_ADMIN"),
            Some(State::There)
        );
        assert_eq!(
            state("0000008000001000", "CAP_PERFMON"),
            Some(State::Missing)
        );
        assert_eq!(
            state("0000000000200000", "CAP_BPF"),
            Some(State::There),
            "by CAP_SYS_ADMIN"
        );
        assert_eq!(state("0000000000000000", "CAP_BPF"), Some(State::Missing));
    }
}
