//! What packets do to their flow, and how long a flow without packets lives.

use crate::{flow::FlowFlags, net::Proto};

/// What a packet does to its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Step {
    /// Asks for a new one: SYN without ACK, INIT.
    Open,
    /// A datagram: may open, may belong to what is there.
    Datagram,
    /// Belongs to what is there.
    Carry,
    /// The sender's last: FIN, SHUTDOWN, SHUTDOWN ACK.
    Done,
    /// Breaks off: RST, ABORT, SHUTDOWN COMPLETE.
    Reset,
}

const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;

const SCTP_INIT: u8 = 1;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN: u8 = 7;
const SCTP_SHUTDOWN_ACK: u8 = 8;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

impl Step {
    /// By the flags of a TCP header (RFC 9293).
    #[inline(always)]
    pub const fn of_tcp(flags: u8) -> Self {
        if flags & RST != 0 {
            Self::Reset
        } else if flags & (SYN | ACK) == SYN {
            Self::Open
        } else if flags & FIN != 0 {
            Self::Done
        } else {
            Self::Carry
        }
    }

    /// By the type of a packet's first chunk (RFC 9260).
    #[inline(always)]
    pub const fn of_sctp(chunk: u8) -> Self {
        match chunk {
            SCTP_INIT => Self::Open,
            SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => Self::Reset,
            SCTP_SHUTDOWN | SCTP_SHUTDOWN_ACK => Self::Done,
            _ => Self::Carry,
        }
    }

    /// The step of a number that it was turned into.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        match index {
            0 => Self::Open,
            1 => Self::Datagram,
            3 => Self::Done,
            4 => Self::Reset,
            _ => Self::Carry,
        }
    }

    /// May it make a flow?
    #[inline(always)]
    pub const fn may_open(self) -> bool {
        matches!(self, Self::Open | Self::Datagram)
    }
}

/// A flow's flags after a packet of the half that they belong to.
///
/// Whoever floods with forged openers gets no further than the embryonic table: a flow counts as
/// established when the client has shown that it got an answer. A reset is believed for as long as
/// nothing else comes, for sequence numbers are not checked.
#[inline(always)]
pub const fn after(flags: FlowFlags, step: Step) -> FlowFlags {
    let is_reply = flags.has(FlowFlags::REPLY);
    let flags = if is_reply {
        flags.with(FlowFlags::REPLIED)
    } else if flags.has(FlowFlags::REPLIED) && !matches!(step, Step::Open) {
        flags.with(FlowFlags::ESTABLISHED)
    } else {
        flags
    };
    match step {
        Step::Reset => flags.with(FlowFlags::RESET),
        Step::Done if is_reply => flags.with(FlowFlags::BACKEND_DONE),
        Step::Done => flags.with(FlowFlags::CLIENT_DONE),
        Step::Carry => flags.without(FlowFlags::RESET),
        Step::Open | Step::Datagram => flags,
    }
}

/// Seconds without a packet after which a flow is over, as conntrack counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Timeouts {
    /// TCP and SCTP before the client took up an answer.
    pub open_s: u32,
    /// TCP and SCTP established.
    pub established_s: u32,
    /// One side sent its last.
    pub half_closed_s: u32,
    /// Both did.
    pub closed_s: u32,
    /// Broken off.
    pub reset_s: u32,
    /// UDP without an answer, or with one exchange only.
    pub udp_s: u32,
    /// UDP that goes on.
    pub udp_stream_s: u32,
}

impl Timeouts {
    /// kube-proxy's for established and half-closed connections (`--conntrack-tcp-timeout-*`), Linux's
    /// conntrack's for the rest.
    pub const DEFAULT: Self = Self {
        open_s: 60,
        established_s: 86_400,
        half_closed_s: 3_600,
        closed_s: 120,
        reset_s: 10,
        udp_s: 30,
        udp_stream_s: 120,
    };

    /// For a flow in this state.
    #[inline(always)]
    pub const fn of(&self, proto: Proto, flags: FlowFlags) -> u32 {
        let is_established = flags.has(FlowFlags::ESTABLISHED);
        if matches!(proto, Proto::UDP) {
            return if is_established {
                self.udp_stream_s
            } else {
                self.udp_s
            };
        }
        if flags.has(FlowFlags::RESET) {
            self.reset_s
        } else if flags.is_closing() {
            self.closed_s
        } else if !is_established {
            self.open_s
        } else if flags.has(FlowFlags::CLIENT_DONE) || flags.has(FlowFlags::BACKEND_DONE) {
            self.half_closed_s
        } else {
            self.established_s
        }
    }

    /// Was the last packet too long ago? `now_s` may lie a moment before `seen_s` on another CPU.
    #[inline(always)]
    pub const fn is_over(&self, proto: Proto, flags: FlowFlags, seen_s: u32, now_s: u32) -> bool {
        now_s.saturating_sub(seen_s) > self.of(proto, flags)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}
