//! Which devices get which role: one row each.

use lb_common::net::{Addr4, Addr6};

use super::*;
use crate::devices::link::LinkAddr;

fn link(index: u32, name: &str, kind: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: kind.to_owned(),
        layer: Layer::Ethernet,
        master: None,
        is_loopback: false,
        leads_elsewhere: false,
        alias: String::new(),
        mac: vec![2, 0, 0, 0, 0, 1],
        addrs: Vec::new(),
        has_route_out: false,
        has_default_route: false,
    }
}

impl Link {
    fn addr(mut self, text: &str) -> Self {
        let net: ipnet::IpNet = text.parse().expect(text);
        self.addrs.push(LinkAddr {
            ip: net.addr(),
            prefix: net.prefix_len(),
            is_secondary: false,
        });
        self
    }

    fn secondary(mut self, text: &str) -> Self {
        self = self.addr(text);
        if let Some(addr) = self.addrs.last_mut() {
            addr.is_secondary = true;
        }
        self
    }

    fn elsewhere(self) -> Self {
        Self {
            leads_elsewhere: true,
            ..self
        }
    }

    fn port_of(self, master: u32) -> Self {
        Self {
            master: Some(master),
            ..self
        }
    }

    fn on(self, layer: Layer) -> Self {
        Self { layer, ..self }
    }

    fn routed(self) -> Self {
        Self {
            has_route_out: true,
            ..self
        }
    }
}

fn loopback() -> Link {
    Link {
        is_loopback: true,
        ..link(1, "lo", "").addr("127.0.0.1/8").addr("192.0.2.9/32")
    }
}

/// Names of the devices with programs, in order of their indices.
fn served(links: &[Link], packets: &Packets) -> Vec<String> {
    let roles = select(links, packets, &DetectLocal::ClusterCidr);
    let with_programs = roles.into_values().filter(|role| role.programs.is_some());
    with_programs.map(|role| role.name).collect()
}

fn packets(devices: &[&str], pod_devices: &[&str]) -> Packets {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Packets {
        devices: owned(devices),
        pod_devices: owned(pod_devices),
        ..Packets::default()
    }
}

#[test]
fn devices_with_a_node_address_or_a_route_out_are_served() {
    let table: &[(&str, Vec<Link>, &[&str])] = &[
        (
            "hardware with an address",
            vec![loopback(), link(2, "eth0", "").addr("172.18.0.1/24")],
            &["eth0"],
        ),
        (
            "IPv6 alone",
            vec![link(2, "eth0", "").addr("fd00:18::1/64")],
            &["eth0"],
        ),
        (
            "link-local addresses reach nobody",
            vec![
                link(2, "a", "").addr("169.254.1.1/32").addr("fe80::1/64"),
                link(3, "b", ""),
            ],
            &[],
        ),
        (
            "a tunnel with no more than routes",
            vec![link(2, "tunl0", "ipip").on(Layer::Network).routed()],
            &["tunl0"],
        ),
        (
            "an overlay whose address stands alone",
            vec![link(2, "flannel.1", "vxlan").addr("10.244.1.0/32")],
            &["flannel.1"],
        ),
        (
            "a pod's veth, without an address",
            vec![link(2, "veth0", "veth").elsewhere()],
            &[],
        ),
        (
            "a pod's veth, with the gateway's address",
            vec![link(2, "veth0", "veth").elsewhere().addr("10.244.1.1/32")],
            &[],
        ),
        (
            "a node that is a container: its uplink is a veth",
            vec![link(2, "eth0", "veth").elsewhere().addr("172.18.0.1/24")],
            &["eth0"],
        ),
        (
            "a bond and its ports",
            vec![
                link(2, "eth0", "").port_of(4),
                link(3, "eth1", "").addr("192.0.2.1/24").port_of(4),
                link(4, "bond0", "bond").addr("172.18.0.1/24"),
            ],
            &["bond0"],
        ),
        (
            "a bridge and its ports",
            vec![
                link(2, "eth0", "").port_of(3),
                link(3, "br0", "bridge").addr("172.18.0.1/24"),
            ],
            &["br0"],
        ),
        (
            "a VLAN and its parent without an address",
            vec![
                link(2, "eth0", ""),
                link(3, "eth0.7", "vlan").addr("172.18.0.1/24"),
            ],
            &["eth0.7"],
        ),
        (
            "a VRF's device is met itself",
            vec![
                link(2, "eth0", "").addr("172.18.0.1/24").port_of(3),
                link(3, "red", "vrf").addr("192.0.2.1/24"),
            ],
            &["eth0"],
        ),
        (
            "dummies meet no packet",
            vec![link(2, "kube-ipvs0", "dummy").addr("10.96.0.10/32")],
            &[],
        ),
        (
            "our own",
            vec![
                link(2, LB0, "veth").routed(),
                link(3, LB0_PEER, "veth").routed(),
            ],
            &[],
        ),
        (
            "a link header that is not known",
            vec![link(2, "ib0", "").addr("172.18.0.1/24").on(Layer::Other)],
            &[],
        ),
    ];
    for (what, links, expected) in table {
        assert_eq!(served(links, &Packets::default()), *expected, "{what}");
    }
}

#[test]
fn named_devices_are_served_and_no_others() {
    let links = [
        loopback(),
        link(2, "eth0", "").addr("172.18.0.1/24"),
        link(3, "eth1", ""),
        link(4, "wg0", "wireguard").on(Layer::Network),
        link(5, "port", "").port_of(6),
        link(6, "br0", "bridge"),
    ];
    for (devices, expected) in [
        (&["eth1"][..], &["eth1"][..]),
        (&["eth*", "wg0"], &["eth0", "eth1", "wg0"]),
        (&["*"], &["eth0", "eth1", "wg0", "br0"]),
        (&["lo"], &["lo"]),
        (&["port"], &[]),
    ] {
        assert_eq!(
            served(&links, &packets(devices, &[])),
            expected,
            "{devices:?}"
        );
    }
}

#[test]
fn pod_devices_are_served_as_such() {
    let links = [
        link(2, "eth0", "").addr("172.18.0.1/24"),
        link(3, "kata1", "veth").elsewhere(),
    ];
    let roles = select(&links, &packets(&[], &["kata*"]), &DetectLocal::ClusterCidr);
    let flags: Vec<u32> = roles.values().map(|role| role.val.flags).collect();
    assert_eq!(flags, [DeviceVal::UPLINK, DeviceVal::POD_DEVICE]);
    assert!(roles.values().all(|role| role.programs.is_some()));
}

#[test]
fn detectors_by_device_mark_what_arrives_there_as_a_pods() {
    let links = [
        link(2, "eth0", "").addr("172.18.0.1/24"),
        link(3, "cni0", "bridge").addr("10.244.1.1/24"),
        link(4, "cali1", "veth").elsewhere(),
    ];
    let flags = |detector| {
        let roles = select(&links, &Packets::default(), &detector);
        let flags = roles.into_values();
        flags
            .map(|role| (role.name, role.val.flags))
            .collect::<Vec<_>>()
    };
    let (up, pods) = (DeviceVal::UPLINK, DeviceVal::POD_SIDE);
    assert_eq!(
        flags(DetectLocal::BridgeInterface("cni0".into())),
        [("eth0".to_owned(), up), ("cni0".to_owned(), up | pods)]
    );
    assert_eq!(
        flags(DetectLocal::InterfaceNamePrefix("cali".into())),
        [
            ("eth0".to_owned(), up),
            ("cni0".to_owned(), up),
            ("cali1".to_owned(), pods)
        ]
    );
}

#[test]
fn masquerade_takes_the_devices_first_address_or_the_default_routes() {
    let default = Link {
        has_default_route: true,
        ..link(3, "eth1", "")
            .addr("172.19.0.1/24")
            .addr("fd00:19::1/64")
    };
    let links = [
        link(2, "eth0", "")
            .secondary("172.18.0.9/24")
            .addr("169.254.7.7/16")
            .addr("172.18.0.1/24"),
        default,
        link(4, "wg0", "wireguard").routed(),
    ];
    let roles = select(&links, &Packets::default(), &DetectLocal::ClusterCidr);
    let masq: Vec<_> = roles
        .values()
        .map(|role| (role.val.masq4, role.val.masq6))
        .collect();
    let v4 = |a, b| Addr4::from(std::net::Ipv4Addr::new(172, a, 0, b));
    let v6 = Addr6::from(std::net::Ipv6Addr::new(0xfd00, 0x19, 0, 0, 0, 0, 0, 1));
    assert_eq!(masq, [(v4(18, 1), v6), (v4(19, 1), v6), (v4(19, 1), v6)]);
}
