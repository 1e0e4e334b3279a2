//! Timeouts of flows, held below those of netfilter's own connection tracking where it is at work.
//!
//! Answers of a backend on this node pass netfilter. Had it forgotten the connection before we do, it would
//! take an answer for an opener, and a CNI's MASQUERADE would give it another source.

use std::{fs, path::Path};

use lb_common::track::Timeouts;

const SETTINGS: &str = "/proc/sys/net/netfilter";

/// `own`, each no longer than netfilter's; as they are where netfilter tracks nothing.
pub fn below_netfilters(own: Timeouts) -> Timeouts {
    cap(own, |name| {
        let path = Path::new(SETTINGS).join(format!("nf_conntrack_{name}"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    })
}

fn cap(own: Timeouts, netfilter: impl Fn(&str) -> Option<u32>) -> Timeouts {
    let below = |own: u32, names: &[&str]| {
        let theirs = names.iter().filter_map(|name| netfilter(name)).min();
        theirs.map_or(own, |theirs| own.min(theirs.saturating_sub(1).max(1)))
    };
    Timeouts {
        open_s: below(
            own.open_s,
            &["tcp_timeout_syn_sent", "tcp_timeout_syn_recv"],
        ),
        established_s: below(own.established_s, &["tcp_timeout_established"]),
        half_closed_s: below(
            own.half_closed_s,
            &["tcp_timeout_fin_wait", "tcp_timeout_close_wait"],
        ),
        closed_s: below(own.closed_s, &["tcp_timeout_time_wait"]),
        reset_s: below(own.reset_s, &["tcp_timeout_close"]),
        udp_s: below(own.udp_s, &["udp_timeout"]),
        udp_stream_s: below(own.udp_stream_s, &["udp_timeout_stream"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_netfilter_they_stay_as_they_are() {
        assert_eq!(cap(Timeouts::DEFAULT, |_| None), Timeouts::DEFAULT);
    }

    #[test]
    fn each_is_held_below_netfilters_of_its_state() {
        let linux = |name: &str| match name {
            "tcp_timeout_syn_sent" => Some(120),
            "tcp_timeout_syn_recv" => Some(60),
            "tcp_timeout_established" => Some(432_000),
            "tcp_timeout_fin_wait" | "tcp_timeout_time_wait" => Some(120),
            "tcp_timeout_close_wait" => Some(60),
            "tcp_timeout_close" => Some(10),
            "udp_timeout" => Some(0),
            _ => None,
        };
        let expected = Timeouts {
            open_s: 59,
            established_s: 86_400,
            half_closed_s: 59,
            closed_s: 119,
            reset_s: 9,
            udp_s: 1,
            udp_stream_s: 120,
        };
        assert_eq!(cap(Timeouts::DEFAULT, linux), expected);
    }
}
