//! `--to`: what a client dials.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::net::Proto;

/// An address, a port and a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Never a v4-mapped IPv6 address: such a socket speaks IPv4.
    pub addr: IpAddr,
    /// Host order.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub proto: Proto,
}

/// Why a target is none.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum TargetError {
    /// Neither `ADDR:PORT` nor `[ADDR]:PORT`.
    #[error(
        "{0} is no ADDR:PORT; write 10.96.0.10:80 or [fd00::10]:80, with /udp behind it for UDP"
    )]
    Address(String),
    /// An unknown word behind the slash.
    #[error("{0} is no protocol; write tcp, udp or sctp")]
    Protocol(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (dial, proto) = text.split_once('/').unwrap_or((text, "tcp"));
        let addr: SocketAddr = dial
            .parse()
            .map_err(|_| TargetError::Address(dial.to_owned()))?;
        let proto = match proto.to_ascii_lowercase().as_str() {
            "tcp" => Proto::TCP,
            "udp" => Proto::UDP,
            "sctp" => Proto::SCTP,
            _ => return Err(TargetError::Protocol(proto.to_owned())),
        };
        Ok(Self {
            addr: addr.ip().to_canonical(),
            port: addr.port(),
            proto,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            SocketAddr::new(self.addr, self.port),
            self.proto.name().to_lowercase()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_in_both_families() {
        for (name, text, shown) in [
            ("plain", "10.96.0.10:80", "10.96.0.10:80/tcp"),
            ("udp", "10.96.0.10:53/UDP", "10.96.0.10:53/udp"),
            ("v6", "[fd00::10]:80/tcp", "[fd00::10]:80/tcp"),
            (
                "mapped is v4",
                "[::ffff:10.96.0.10]:80",
                "10.96.0.10:80/tcp",
            ),
        ] {
            assert_eq!(
                text.parse::<Target>().map(|t| t.to_string()),
                Ok(shown.to_owned()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_bad_target_says_how_to_write_one() {
        for (text, part) in [
            ("10.96.0.10", "is no ADDR:PORT"),
            ("fd00::10:80:x", "is no ADDR:PORT"),
            ("10.96.0.10:80/icmp", "icmp is no protocol"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
