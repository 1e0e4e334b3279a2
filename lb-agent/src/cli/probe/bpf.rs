//! What bpf(2) can do: programs, hooks, helpers and maps, each tried with the smallest object that
//! needs it.

use std::{fs::File, io, os::fd::AsFd as _};

use aya::{
    Btf,
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};
use aya_obj::btf::BtfKind;
use lb_common::map_table::{MapType as Shape, PROGRAMS};

use crate::{
    cgroup::CgroupRoot,
    cli::{
        args::Roots,
        check::{Feature, Need},
    },
    maps::sys::{self, Access, Mmap},
    observe::attached::attach_type,
};

/// BPF_F_MMAPABLE
const MMAPABLE: u32 = 1 << 10;

/// Helpers of connect, sendmsg, recvmsg and getpeername hooks: required ones first.
const HELPERS: &[(BpfHelper, &str, Need, &str)] = &[
    (
        BpfHelper::BPF_FUNC_get_netns_cookie,
        "get_netns_cookie",
        Need::Required,
        "clients cannot be told apart",
    ),
    (
        BpfHelper::BPF_FUNC_get_socket_cookie,
        "get_socket_cookie",
        Need::Required,
        "no sessions of UDP",
    ),
    (
        BpfHelper::BPF_FUNC_sk_storage_get,
        "sk_storage_get",
        Need::Required,
        "sockets do not show what they dialled",
    ),
    (
        BpfHelper::BPF_FUNC_ktime_get_boot_ns,
        "ktime_get_boot_ns",
        Need::Required,
        "no session affinity",
    ),
    (
        BpfHelper::BPF_FUNC_get_prandom_u32,
        "get_prandom_u32",
        Need::Required,
        "no choice of backends",
    ),
    (
        BpfHelper::BPF_FUNC_set_retval,
        "set_retval",
        Need::Required,
        "refusals cannot say ECONNREFUSED or EHOSTUNREACH",
    ),
    (
        BpfHelper::BPF_FUNC_ringbuf_reserve,
        "ringbuf_reserve",
        Need::Required,
        "rare events are not reported",
    ),
];

/// Helpers of programs on devices.
const PACKET_HELPERS: &[(BpfHelper, &str, &str)] = &[
    (
        BpfHelper::BPF_FUNC_redirect_neigh,
        "redirect_neigh",
        "packets are not translated: masqueraded ones cannot be sent on",
    ),
    (
        BpfHelper::BPF_FUNC_fib_lookup,
        "fib_lookup",
        "packets are not translated: routes are unknown",
    ),
    (
        BpfHelper::BPF_FUNC_check_mtu,
        "check_mtu",
        "packets are not translated: too large ones could not be told",
    ),
    (
        BpfHelper::BPF_FUNC_skc_lookup_tcp,
        "skc_lookup_tcp",
        "packets are not translated: ports of the host's connections are unknown",
    ),
    (
        BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
        "ktime_get_coarse_ns",
        "packets are not translated: flows have no clock",
    ),
];

/// Types of maps in use.
const MAP_TYPES: &[(MapType, &str)] = &[
    (MapType::Hash, "hash"),
    (MapType::Array, "array"),
    (MapType::PerCpuArray, "per-CPU array"),
    (MapType::LruHash, "LRU hash"),
    (MapType::LpmTrie, "longest prefix"),
    (MapType::SkStorage, "socket storage"),
    (MapType::RingBuf, "ring buffer"),
];

/// All of them.
pub fn features(roots: &Roots) -> Vec<Feature> {
    let mut features = vec![btf()];
    features.extend(programs());
    features.extend(hooks(roots));
    features.extend(helpers());
    features.extend(packet_helpers());
    features.extend(map_types());
    features.extend([mapped_arrays(), batches(), grace_period(), sock_destroy()]);
    features
}

/// A trial that says yes, no, or why it could not be made.
fn answer<E: std::error::Error + Send + Sync + 'static>(
    result: Result<bool, E>,
) -> Result<String, io::Error> {
    match result {
        Ok(true) => Ok("tried".to_owned()),
        Ok(false) => Err(io::Error::other("the kernel does not know it")),
        Err(error) => Err(errno(&error).unwrap_or_else(|| io::Error::other(error))),
    }
}

/// The error number behind an error of aya's.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let number = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        if let Some(number) = number {
            return Some(io::Error::from_raw_os_error(number));
        }
        next = error.source();
    }
    None
}

fn btf() -> Feature {
    const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
    let result = File::open(VMLINUX).map(|_| VMLINUX.to_owned());
    let cost = "bpftool prints bytes instead of fields; CONFIG_DEBUG_INFO_BTF=y";
    Feature::tried("BTF of the kernel", Need::Useful, cost, result)
}

fn programs() -> Vec<Feature> {
    [
        (
            ProgramType::CgroupSockAddr,
            "programs of type cgroup_sock_addr",
            "connections cannot be translated; CONFIG_CGROUP_BPF=y",
        ),
        (
            ProgramType::CgroupSock,
            "programs of type cgroup_sock",
            "NodePorts cannot be protected, sockets' state is not cleared",
        ),
    ]
    .map(|(kind, name, cost)| {
        Feature::tried(
            name,
            Need::Required,
            cost,
            answer(is_program_supported(kind)),
        )
    })
    .into()
}

/// Asks every hook which programs run there.
fn hooks(roots: &Roots) -> Vec<Feature> {
    let cgroup = CgroupRoot::find(roots.cgroup_root.as_deref())
        .map_err(io::Error::other)
        .and_then(|root| File::open(root.path));
    PROGRAMS
        .iter()
        .map(|(_, hook)| {
            let result = cgroup.as_ref().map_err(|e| io::Error::other(e.to_string()));
            let result = result.and_then(|cgroup| {
                let kind = attach_type(hook).ok_or_else(|| io::Error::other("no such hook"))?;
                let running = sys::effective_programs(cgroup.as_fd(), kind)?;
                Ok(format!("{} programs run there", running.len()))
            });
            let cost = if hook.contains("post_bind") || hook.contains("sock_release") {
                "NodePorts cannot be protected, sockets' state is not cleared"
            } else {
                "what passes this hook is not translated"
            };
            Feature::tried(format!("hook {hook}"), Need::Required, cost, result)
        })
        .collect()
}

fn helpers() -> impl Iterator<Item = Feature> {
    let kind = ProgramType::CgroupSockAddr;
    HELPERS.iter().map(move |(helper, name, need, cost)| {
        let result = answer(is_helper_supported(kind, *helper));
        Feature::tried(format!("helper {name}"), *need, cost, result)
    })
}

fn packet_helpers() -> impl Iterator<Item = Feature> {
    PACKET_HELPERS.iter().map(|(helper, name, cost)| {
        let result = answer(is_helper_supported(ProgramType::SchedClassifier, *helper));
        Feature::tried(format!("helper {name}"), Need::Required, cost, result)
    })
}

fn map_types() -> impl Iterator<Item = Feature> {
    MAP_TYPES.iter().map(|(kind, name)| {
        let result = answer(is_map_supported(*kind));
        Feature::tried(
            format!("map type {name}"),
            Need::Required,
            "the data plane cannot be loaded",
            result,
        )
    })
}

/// Really maps one and writes through it.
fn mapped_arrays() -> Feature {
    let result = sys::create_map(Shape::Array, 4, 8, 1, MMAPABLE).and_then(|map| {
        let memory = Mmap::new(map.as_fd(), 8, Access::Write)?;
        if memory.set(0, &7_u64) && memory.get(0) == Some(7_u64) {
            return Ok("tried".to_owned());
        }
        Err(io::Error::other("what was written is not read back"))
    });
    let cost = "backend lists cannot be published by one store";
    Feature::tried("arrays in shared memory", Need::Required, cost, result)
}

fn batches() -> Feature {
    let result = sys::create_map(Shape::Array, 4, 8, 4, 0).and_then(|map| {
        let map = sys::TypedMap::new(map)?;
        map.update(&[0_u32, 1, 2, 3], &[5_u64; 4])
            .map_err(|(_, e)| e)?;
        let read = sys::entries::<u32, u64>(map.as_fd())?;
        if read.len() == 4 && read.iter().all(|(_, value)| *value == 5) {
            return Ok("tried".to_owned());
        }
        Err(io::Error::other("what was written is not read back"))
    });
    let cost = "maps cannot be read whole: no command but cleanup works";
    Feature::tried("batches of map entries", Need::Required, cost, result)
}

fn grace_period() -> Feature {
    let result = sys::membarrier().map(|()| "tried".to_owned());
    let cost = "with nohz_full the kernel has none: a write to a map of maps waits instead";
    Feature::tried(
        "membarrier(MEMBARRIER_CMD_GLOBAL)",
        Need::Useful,
        cost,
        result,
    )
}

fn sock_destroy() -> Feature {
    let result = Btf::from_sys_fs()
        .map_err(io::Error::other)
        .and_then(|btf| {
            btf.id_by_type_name_kind("bpf_sock_destroy", BtfKind::Func)
                .map_err(|_| io::Error::other("not among the kernel's functions"))
        })
        .map(|id| format!("BTF id {id}"));
    let cost = "sockets are ended through netlink instead, one by one (kernel 6.5 has it)";
    Feature::tried("bpf_sock_destroy", Need::Useful, cost, result)
}
