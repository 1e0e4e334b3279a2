//! Programs on devices where the kernel has no TCX (before Linux 6.6): filters of the clsact qdisc, under a
//! priority and a handle of ours. That a filter is ours says the id of the program that we pinned for it: the
//! handle may be another agent's.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use crate::{devices::netlink::Conversation, maps::sys::bpf_attach_type};

/// Before every other filter that does not claim the same.
const PRIORITY: u32 = 1;
/// `lb`, in ASCII.
const HANDLE: u32 = 0x6c62;
/// ETH_P_ALL, in network order, as the low half of `tcm_info` has it.
const ALL_PROTOCOLS: u32 = (3_u16).to_be() as u32;

/// Which filters of a device.
fn parent(hook: bpf_attach_type) -> TcHandle {
    let minor = if hook == bpf_attach_type::BPF_TCX_INGRESS {
        TcHandle::MIN_INGRESS
    } else {
        TcHandle::MIN_EGRESS
    };
    TcHandle {
        major: u16::MAX,
        minor,
    }
}

fn message(device: u32, hook: bpf_attach_type) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(i32::try_from(device).map_err(io::Error::other)?);
    message.header.parent = parent(hook);
    message.header.handle = TcHandle::from(HANDLE);
    message.header.info = (PRIORITY << 16) | ALL_PROTOCOLS;
    Ok(message)
}

/// Runs a program at a hook of a device; in the place of the filter under our handle, if there is one.
///
/// # Errors
/// The kernel's: EINVAL or ENOENT where an ingress qdisc stands in clsact's place.
pub fn put(
    device: u32,
    hook: bpf_attach_type,
    program: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    let ask = Conversation::open()?;
    add_qdisc(&ask, device)?;
    let fd = u32::try_from(program.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut filter = message(device, hook)?;
    filter.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]),
    ];
    ask.change(Message::NewTrafficFilter(filter), NLM_F_CREATE)
}

/// The qdisc costs nothing of its own, and others may have filters there: it is never removed.
fn add_qdisc(ask: &Conversation, device: u32) -> io::Result<()> {
    let mut qdisc = TcMessage::with_index(i32::try_from(device).map_err(io::Error::other)?);
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    qdisc.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
    match ask.change(
        Message::NewQueueDiscipline(qdisc),
        NLM_F_CREATE | NLM_F_EXCL,
    ) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Ids of the programs that run as filters under our priority and handle at a hook of a device.
///
/// # Errors
/// The kernel's; a device that is gone has none.
pub fn programs(device: u32, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut request = TcMessage::with_index(i32::try_from(device).map_err(io::Error::other)?);
    request.header.parent = parent(hook);
    let found = match Conversation::open()?.dump(Message::GetTrafficFilter(request)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => {
            return Ok(Vec::new());
        }
        found => found?,
    };
    Ok(found.iter().filter_map(program_id).collect())
}

fn program_id(message: &Message) -> Option<u32> {
    let Message::NewTrafficFilter(filter) = message else {
        return None;
    };
    if filter.header.handle != TcHandle::from(HANDLE) || filter.header.info >> 16 != PRIORITY {
        return None;
    }
    let options = filter.attributes.iter().find_map(|attribute| {
        if let TcAttribute::Options(options) = attribute {
            Some(options)
        } else {
            None
        }
    })?;
    options.iter().find_map(|option| {
        if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
            Some(*id)
        } else {
            None
        }
    })
}

/// Removes the filter that runs this program; one of somebody else's under the same handle stays.
///
/// # Errors
/// The kernel's.
pub fn remove(device: u32, hook: bpf_attach_type, program: u32) -> io::Result<()> {
    if !programs(device, hook)?.contains(&program) {
        return Ok(());
    }
    let mut filter = message(device, hook)?;
    filter.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
    Conversation::open()?.change(Message::DelTrafficFilter(filter), 0)
}
