//! What the network stack can do beside BPF.

use std::{fs, io};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::{
    cli::check::{Feature, Need, State},
    maps::sys,
};

/// The loopback device, the first of every network namespace.
const LOOPBACK: u32 = 1;
/// linux/sock_diag.h
const SOCK_DESTROY: u16 = 21;
/// Port 9 is discard; nothing listens on the address 0.0.0.0:0 of a socket that does not exist.
const NOBODY: u16 = 9;

/// All of them.
pub fn features() -> Vec<Feature> {
    vec![
        socket_destroy(),
        tcx(),
        route_source(),
        forwarding("IPv4", "ipv4/ip_forward"),
        forwarding("IPv6", "ipv6/conf/all/forwarding"),
        mptcp(),
    ]
}

/// Asks for the end of a socket that does not exist: the kernel answers ENOENT if it could.
fn socket_destroy() -> Feature {
    let result = match destroy_nobody() {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            Ok("tried on a socket that is not there".to_owned())
        }
        Err(e) => Err(e),
        Ok(()) => Ok("tried".to_owned()),
    };
    let cost = "UDP sockets connected to a VIP before the start, or to a backend that has gone, are not ended; CONFIG_INET_DIAG_DESTROY=y";
    Feature::tried(
        "ending sockets through netlink (SOCK_DESTROY)",
        Need::Useful,
        cost,
        result,
    )
}

fn destroy_nobody() -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut id = SocketId::new_v4();
    id.source_port = NOBODY;
    id.destination_port = NOBODY;
    let request = InetRequest {
        family: AF_INET,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // The crate knows the dump alone; the destruction has the same body under another type.
    if let Some(kind) = bytes.get_mut(4..6) {
        kind.copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
    }
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer =
        NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    if let NetlinkPayload::Error(error) = answer.payload
        && error.code.is_some()
    {
        return Err(error.to_io());
    }
    Ok(())
}

fn tcx() -> Feature {
    let result = sys::tcx_query(LOOPBACK).map(|()| "tried".to_owned());
    let cost = "programs on devices are filters of the clsact qdisc, which others may delete: they are made again (kernel 6.6 has it)";
    Feature::tried("TCX", Need::Useful, cost, result)
}

/// A flag of a helper, which cannot be tried without a packet.
fn route_source() -> Feature {
    let release =
        nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
    let result = release.map_err(io::Error::from).and_then(|release| {
        let mut numbers = release
            .split(['.', '-'])
            .map_while(|n| n.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= (6, 7) {
            return Ok(format!("kernel {release}"));
        }
        Err(io::Error::other(format!("kernel {release}")))
    });
    let cost = "masqueraded packets leave under their device's first address, whatever their route prefers (kernel 6.7 has it)";
    Feature::tried(
        "the route's source (BPF_FIB_LOOKUP_SRC)",
        Need::Useful,
        cost,
        result,
    )
}

fn forwarding(family: &str, setting: &str) -> Feature {
    let result =
        fs::read_to_string(format!("/proc/sys/net/{setting}")).and_then(|on| match on.trim() {
            "0" => Err(io::Error::other("off")),
            _ => Ok("on".to_owned()),
        });
    let cost = "packets from outside reach no pod, only host-network backends; sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
    Feature::tried(
        format!("forwarding of {family}"),
        Need::Useful,
        cost,
        result,
    )
}

/// Not a lack: where it is on, one more thing is to know.
fn mptcp() -> Feature {
    let is_on = fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|on| on.trim() == "1");
    let found = if is_on {
        "on: connections are translated; getpeername of an MPTCP socket may show the backend"
    } else {
        "off or not built in"
    };
    Feature {
        feature: "MPTCP".to_owned(),
        need: Need::Useful,
        state: State::There,
        found: found.to_owned(),
        cost: "-",
    }
}
