//! `maps::sys` against the kernel: maps that nobody else sees.

use std::os::fd::{AsFd as _, OwnedFd};

use lb_agent::maps::sys::{self, Access, Mmap, TypedMap};
use lb_common::{
    id::{BackendId, ServiceId},
    map_table::MapType,
    net::{Addr6, BePort},
    service::Slot,
};
use libtest_mimic::{Arguments, Trial};

/// BPF_F_MMAPABLE
const MMAPABLE: u32 = 1 << 10;

fn main() {
    let is_root = nix::unistd::geteuid().is_root();
    let tests: [(&str, fn()); 9] = [
        ("an_element_of_odd_size_is_mapped_whole", odd_size),
        ("a_mapping_for_reading_is_not_written", read_only),
        ("a_mapping_has_an_end", has_an_end),
        ("another_size_of_value_is_refused", other_size),
        ("a_batch_that_does_not_fit_tells_how_much_did", full),
        ("a_write_asks_for_no_shape_again", asks_once),
        ("every_entry_is_read_in_several_batches", all_entries),
        ("per_cpu_values_are_read_of_every_cpu", per_cpu),
        ("clock_and_cookie_are_the_kernels", clock_and_cookie),
    ];
    let trials = tests.map(|(name, test)| {
        let name = if is_root {
            name.to_owned()
        } else {
            format!("{name} (needs root for BPF maps)")
        };
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(!is_root)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn slot(n: u8) -> Slot<Addr6> {
    Slot {
        addr: Addr6 { ip6: [n; 16] },
        port: BePort::new(u16::from(n)),
        generation: u16::from(n),
        backend: BackendId(u32::from(n)),
        service: ServiceId(u32::from(n)),
    }
}

fn slots() -> OwnedFd {
    let size = u32::try_from(size_of::<Slot<Addr6>>()).expect("a small type");
    assert_ne!(size % 8, 0, "the point of this type");
    sys::create_map(MapType::Array, 4, size, 3, MMAPABLE).expect("an array")
}

/// The last word is shared with no neighbour, and the syscalls see what the mapping wrote.
fn odd_size() {
    let map = slots();
    let memory =
        Mmap::new(map.as_fd(), size_of::<Slot<Addr6>>(), Access::Write).expect("a mapping");
    for n in [2_u8, 0, 1] {
        assert!(memory.set(u32::from(n), &slot(n + 1)));
    }
    for n in 0..3_u8 {
        assert_eq!(memory.get(u32::from(n)), Some(slot(n + 1)));
        assert_eq!(
            sys::lookup(map.as_fd(), &u32::from(n)).expect("a lookup"),
            Some(slot(n + 1))
        );
    }
}

fn read_only() {
    let map = slots();
    let memory = Mmap::new(map.as_fd(), size_of::<Slot<Addr6>>(), Access::Read).expect("a mapping");
    assert!(!memory.set(0, &slot(9)));
    assert!(!memory.store(0, 0, 9));
    let map = TypedMap::new(map).expect("the map's own types");
    map.update(&[1_u32], &[slot(5)]).expect("an update");
    assert_eq!(memory.get(1), Some(slot(5)), "but sees what others write");
}

fn has_an_end() {
    let map = slots();
    let memory =
        Mmap::new(map.as_fd(), size_of::<Slot<Addr6>>(), Access::Write).expect("a mapping");
    assert_eq!(memory.entries(), 3);
    assert_eq!(memory.get::<Slot<Addr6>>(3), None);
    assert!(!memory.set(3, &slot(1)));
    assert_eq!(memory.load(0, 4), None, "32 bytes are four words");
}

fn other_size() {
    let map = slots();
    assert!(Mmap::new(map.as_fd(), 8, Access::Read).is_err());
    assert!(sys::entries::<u32, u64>(map.as_fd()).is_err());
    assert!(sys::lookup::<u32, u64>(map.as_fd(), &0).is_err());
    let memory = Mmap::new(map.as_fd(), size_of::<Slot<Addr6>>(), Access::Read).expect("a mapping");
    assert_eq!(memory.get::<u64>(0), None);
    let same = || map.try_clone().expect("a descriptor");
    assert!(TypedMap::<u32, u64>::new(same()).is_err());
    assert!(TypedMap::<u64, Slot<Addr6>>::new(same()).is_err());
    assert!(TypedMap::<u32, Slot<Addr6>>::new(map).is_ok());
}

fn hash(entries: u32) -> TypedMap<u32, u64> {
    let map = sys::create_map(MapType::Hash, 4, 8, entries, 0).expect("a hash");
    TypedMap::new(map).expect("its own types")
}

fn full() {
    let map = hash(4);
    let keys: Vec<u32> = (0..6).collect();
    let (done, error) = map.update(&keys, &[7_u64; 6]).expect_err("six into four");
    assert_eq!((done, error.raw_os_error()), (4, Some(libc::E2BIG)));
    map.delete(&[0_u32, 1]).expect("both were there");
    let (done, error) = map.delete(&[2_u32, 0]).expect_err("one was not");
    assert_eq!((done, error.raw_os_error()), (1, Some(libc::ENOENT)));
    assert_eq!(sys::entries(map.as_fd()).expect("a read"), [(3_u32, 7_u64)]);
    assert_eq!(
        sys::lookup::<u32, u64>(map.as_fd(), &2).expect("a lookup"),
        None
    );
}

fn asks_once() {
    let map = hash(4);
    std::thread::spawn(move || {
        refuse_questions().expect("a filter");
        assert!(sys::map_shape(map.as_fd()).is_err(), "the filter is there");
        map.update(&[1, 2], &[3, 4]).expect("an update");
        map.delete(&[1]).expect("a removal");
    })
    .join()
    .expect("no question was asked");
}

/// From here on this thread may not ask for the shape of anything (BPF_OBJ_GET_INFO_BY_FD).
#[expect(unsafe_code, reason = "a system call of the test's own")]
fn refuse_questions() -> std::io::Result<()> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const INFO: u32 = aya_obj::generated::bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let bpf = u32::try_from(libc::SYS_bpf).expect("a number");
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).expect("a number");
    // struct seccomp_data: the call's number at 0, its first argument at 16, least half first.
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 3, bpf),
        step(LOAD, 0, 0, 16),
        step(EQUAL, 0, 1, INFO),
        step(RETURN, 0, 0, refused),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: 6,
        filter: steps.as_mut_ptr(),
    };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the filter and its steps live through the call, which copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
    nix::errno::Errno::result(set)?;
    Ok(())
}

fn all_entries() {
    const ENTRIES: u32 = 20_000;
    let map = hash(ENTRIES);
    let keys: Vec<u32> = (0..ENTRIES).collect();
    let values: Vec<u64> = keys.iter().map(|key| u64::from(*key) * 3).collect();
    map.update(&keys, &values).expect("all of them fit");
    let mut read = sys::entries::<u32, u64>(map.as_fd()).expect("a read");
    read.sort_unstable();
    assert!(read.into_iter().eq(keys.into_iter().zip(values)));
}

fn per_cpu() {
    let map = sys::create_map(MapType::PerCpuArray, 4, 8, 2, 0).expect("an array");
    let cpus = aya::util::nr_cpus().expect("a number").get() as usize;
    assert_eq!(
        sys::lookup_per_cpu(map.as_fd(), 1).expect("a lookup"),
        Some(vec![0; cpus])
    );
    assert_eq!(sys::lookup_per_cpu(map.as_fd(), 2).expect("a lookup"), None);
    let plain = sys::create_map(MapType::Array, 4, 8, 2, 0).expect("an array");
    assert!(
        sys::lookup_per_cpu(plain.as_fd(), 0).is_err(),
        "another type of map"
    );
}

fn clock_and_cookie() {
    let before = sys::boot_ns().expect("a clock");
    assert!(sys::boot_ns().expect("a clock") >= before && before > 0);
    let here = sys::netns_cookie().expect("a cookie");
    assert_eq!(here, sys::netns_cookie().expect("a cookie"));
    let there = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        // Its loopback is down.
        sys::netns_cookie().expect("a cookie")
    });
    assert_ne!(here, there.join().expect("the thread's word is above"));
    sys::membarrier().expect("a grace period");
    sys::grace_by_map_of_maps().expect("the same without membarrier's command");
}
