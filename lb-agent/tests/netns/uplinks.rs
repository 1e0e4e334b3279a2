//! Uplinks of every kind: what arrives by them is served, and what leaves by them comes from their own address.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::traffic::Dial;
use xtask::lab::{CLUSTER_CIDR, Lab, Netns, Node, Place};

use crate::harness::{Server, case_unless, errno, servers};
use crate::nodeport::publish;
use crate::packets::{HIDDEN, answered};
use crate::tun::Cable;

/// The cable between the nodes is a device of this kind, named `up1` on both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Vlan,
    Bond,
    Bridge,
    Ipip,
    Sit,
    Tun,
    Vxlan,
}

pub fn trials() -> Vec<Trial> {
    let cases = [
        ("an_uplink_may_be_a_vlan_device", Kind::Vlan),
        ("an_uplink_may_be_a_bond", Kind::Bond),
        ("an_uplink_may_be_a_bridge_with_an_address", Kind::Bridge),
        ("an_uplink_may_be_an_ipip_tunnel", Kind::Ipip),
        ("an_uplink_may_be_a_sit_tunnel", Kind::Sit),
        ("an_uplink_may_be_a_tun_device", Kind::Tun),
        ("an_uplink_may_be_a_vxlan_device", Kind::Vxlan),
    ];
    cases
        .map(|(name, kind)| {
            let obstacle = move || kind.missing();
            case_unless("uplinks", name, obstacle, move |lab| uplink(lab, kind))
        })
        .into()
}

/// The ends of the cable, node-a's first.
const ENDS: [[&str; 2]; 2] = [
    ["192.0.2.1", "192.0.2.2"],
    ["2001:db8:2::1", "2001:db8:2::2"],
];

impl Kind {
    /// Why there can be no such device here.
    fn missing(self) -> Option<String> {
        let words = match self {
            Self::Bond => "type bond",
            Self::Vlan => "link lo type vlan id 7",
            Self::Ipip => "type ipip local 192.0.2.1 remote 192.0.2.2",
            Self::Sit => "type sit local 192.0.2.1 remote 192.0.2.2",
            Self::Vxlan => "type vxlan id 7 dstport 4789",
            Self::Bridge => "type bridge",
            Self::Tun => {
                let is_there = std::path::Path::new("/dev/net/tun").exists();
                return (!is_there).then(|| "needs /dev/net/tun".to_owned());
            }
        };
        let tried = Netns::new().and_then(|netns| netns.ip(&format!("link add probe {words}\n")));
        let refused = tried.err().map(|error| format!("{error:#}"))?;
        let is_unknown =
            refused.contains("Unknown device type") || refused.contains("not supported");
        is_unknown.then(|| format!("needs a kernel with {self:?} devices"))
    }

    /// What the device carries.
    fn families(self) -> &'static [usize] {
        match self {
            Self::Ipip => &[0],
            Self::Sit => &[1],
            Self::Vlan | Self::Bond | Self::Bridge | Self::Tun | Self::Vxlan => &[0, 1],
        }
    }

    /// The commands that make `up1` at the end that is `own`, over `eth1` or, for tunnels, over `eth0`.
    fn commands(self, own: &Place, other: &Place) -> String {
        let [local, remote] = [own, other].map(|place| place.addresses[0]);
        match self {
            Self::Vlan => "link add link eth1 name up1 type vlan id 7\n".to_owned(),
            Self::Bond => "link add up1 type bond mode active-backup miimon 100\n\
                           link set eth1 down\nlink set eth1 master up1\n"
                .to_owned(),
            Self::Bridge => "link add up1 type bridge\nlink set eth1 master up1\n".to_owned(),
            Self::Ipip => format!("link add up1 type ipip local {local} remote {remote}\n"),
            Self::Sit => format!("link add up1 type sit local {local} remote {remote}\n"),
            Self::Vxlan => format!(
                "link add up1 type vxlan id 7 dstport 4789 local {local} remote {remote} dev eth0\n"
            ),
            Self::Tun => String::new(),
        }
    }

    /// Connects two nodes, and routes the pods of the second by it.
    fn connect(self, nodes: [&Node; 2]) -> Result<Option<Cable>> {
        let [a, b] = nodes.map(|node| &node.host);
        let mut cable = None;
        match self {
            Self::Tun => cable = Some(Cable::new([&a.netns, &b.netns], "up1")?),
            Self::Ipip | Self::Sit | Self::Vxlan => {}
            Self::Vlan | Self::Bond | Self::Bridge => a.netns.ip(&format!(
                "link add eth1 type veth peer name eth1 netns {}\nlink set eth1 up\n",
                b.netns.path().display()
            ))?,
        }
        for (nth, own, other) in [(0, a, b), (1, b, a)] {
            let under = if matches!(self, Self::Vlan | Self::Bridge) {
                "link set eth1 up\n"
            } else {
                ""
            };
            own.netns
                .ip(&(under.to_owned() + &self.commands(own, other)))?;
            let [v4, v6] = ENDS.map(|ends| ends[nth]);
            own.netns.ip(&format!(
                "link set up1 up\naddr add {v4}/24 dev up1\naddr add {v6}/64 dev up1 nodad\n"
            ))?;
        }
        for family in self.families() {
            let pods = ["10.244.2.0/24", "fd00:244:2::/64"][*family];
            a.netns.ip(&format!(
                "route replace {pods} dev up1 via {}\n",
                ENDS[*family][1]
            ))?;
        }
        Ok(cable)
    }
}

fn dials(address: IpAddr) -> [Dial; 2] {
    let to = SocketAddr::new(address, 30080);
    [Dial::tcp(to), Dial::udp(to)]
}

fn uplink(lab: &Lab, kind: Kind) -> Result<()> {
    let nodes = [lab.node("node-a")?, lab.node("node-b")?];
    let outside = lab.outside("outside")?;
    let [node, other] = &nodes;
    let local: [Server; 1] = servers(node, ["local"], 8080)?;
    let remote: [Server; 1] = servers(other, ["remote"], 8080)?;
    let _cable = kind.connect([node, other])?;
    for family in kind.families() {
        let [own, peer] = [0, 1].map(|end| ENDS[*family][end].parse::<IpAddr>());
        let (own, peer) = (own?, peer?);
        let seen = |from: &Place, to: IpAddr, expected: IpAddr| -> Result<()> {
            for dial in dials(to) {
                let client = answered(from, &dial)?;
                ensure!(client == expected, "{dial} came from {client}");
            }
            Ok(())
        };
        publish(node, &local)?;
        let agent = node.agent(&["--nodeport-addresses", "all"])?;
        seen(&other.host, own, peer).context("a backend of this node")?;
        drop(agent);
        let flags = ["--nodeport-addresses", "all", "--masquerade-local-backends"];
        let agent = node.agent(&flags)?;
        seen(&other.host, own, HIDDEN[*family].parse()?).context("through lb0")?;
        drop(agent);
        publish(node, &remote)?;
        let agent = node.agent(&["--nodeport-addresses", "all"])?;
        let dialled = node.host.addresses[*family];
        seen(&outside, dialled, own).context("a backend behind the uplink")?;
        drop(agent);
        let agent = node.agent(&["--no-redirect", "--cluster-cidr", CLUSTER_CIDR])?;
        seen(&outside, dialled, own).context("forwarded to it")?;
        drop(agent);
        publish(node, &[])?;
        let _agent = node.agent(&["--nodeport-addresses", "all"])?;
        for dial in dials(own) {
            let refusal = errno(&other.host, &dial)?;
            ensure!(refusal == Errno::ECONNREFUSED, "{dial}: {refusal}");
        }
    }
    Ok(())
}
