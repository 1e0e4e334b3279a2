//! What the benchmark asks of bpf(2) beyond the agent: empty programs to compare with, and the kernel's
//! own count of calls and nanoseconds.
#![expect(unsafe_code, reason = "system calls are this file's purpose")]

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_info, bpf_prog_type};
use lb_agent::maps::sys::{attr, raw, sys_bpf};

/// `r0 = 1; exit`: a program that lets every call go on.
const EMPTY: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// How often a program ran and for how long, while statistics were on.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    pub count: u64,
    pub ns: u64,
}

/// An empty program on a hook of a cgroup, until dropped.
#[derive(Debug)]
pub struct Empty {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    pub fn attach(cgroup: BorrowedFd<'_>, hook: bpf_attach_type) -> io::Result<Self> {
        let program = load(bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook, &EMPTY)?;
        let link = link(program.as_fd(), raw(cgroup), hook)?;
        Ok(Self {
            program,
            _link: link,
        })
    }

    pub fn runs(&self) -> io::Result<Runs> {
        runs(self.program.as_fd())
    }
}

/// Loads a program of plain instructions.
pub fn load(
    kind: bpf_prog_type,
    hook: bpf_attach_type,
    instructions: &[u64],
) -> io::Result<OwnedFd> {
    let mut a = attr();
    // SAFETY: the union's member for BPF_PROG_LOAD; plain integers.
    let load = unsafe { &mut a.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.expected_attach_type = hook as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = c"GPL".as_ptr() as u64;
    owned(bpf(bpf_cmd::BPF_PROG_LOAD, &mut a)?)
}

/// Attaches a program to a cgroup (its descriptor) or to a device of this network namespace (its index).
pub fn link(program: BorrowedFd<'_>, target: u32, hook: bpf_attach_type) -> io::Result<OwnedFd> {
    let mut a = attr();
    a.link_create.__bindgen_anon_1.prog_fd = raw(program);
    a.link_create.__bindgen_anon_2.target_fd = target;
    a.link_create.attach_type = hook as u32;
    owned(bpf(bpf_cmd::BPF_LINK_CREATE, &mut a)?)
}

/// BPF_F_TEST_XDP_LIVE_FRAMES
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames that live frames hand over at a time, the most that the stack takes as one list.
const BATCH: u32 = 64;

/// Runs an XDP program on `count` frames that go on into the receive path of a device of this network namespace.
pub fn live_frames(
    program: BorrowedFd<'_>,
    frame: &[u8],
    device: u32,
    count: u32,
) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let context: [u32; 6] = [0, length, 0, device, 0, 0];
    let mut a = attr();
    a.test.prog_fd = raw(program);
    a.test.data_in = frame.as_ptr() as u64;
    a.test.data_size_in = length;
    a.test.ctx_in = context.as_ptr() as u64;
    a.test.ctx_size_in = u32::try_from(size_of_val(&context)).map_err(io::Error::other)?;
    a.test.repeat = count;
    a.test.flags = LIVE_FRAMES;
    a.test.batch_size = BATCH;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut a).map(drop)
}

/// Opens a program by its id.
pub fn program(id: u32) -> io::Result<OwnedFd> {
    let mut a = attr();
    a.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    owned(bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut a)?)
}

/// The kernel's statistics of a program.
pub fn runs(program: BorrowedFd<'_>) -> io::Result<Runs> {
    // SAFETY: a structure of integers and arrays of such.
    let mut info: bpf_prog_info = unsafe { zeroed() };
    let mut a = attr();
    a.info.bpf_fd = raw(program);
    a.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).map_err(io::Error::other)?;
    a.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut a)?;
    Ok(Runs {
        count: info.run_cnt,
        ns: info.run_time_ns,
    })
}

/// Callers point `attr` at values that live through the call.
fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: see above.
    unsafe { sys_bpf(cmd, attr) }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
