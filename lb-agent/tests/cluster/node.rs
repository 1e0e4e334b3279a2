//! A node of the cluster: a laboratory node whose agent watches a real API server.
//!
//! Backends need no pods here: the ranges 10.244.1.0/24 and fd00:244:1::/64 are addresses of the node itself, and one
//! server answers on all of them with the address that it was reached at. Clients are processes of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use xtask::cluster::{Forward, User};
use xtask::lab::traffic::Dial;
use xtask::lab::{Agent, Lab, Node, Task};

use super::objects::{self, node_addresses};
use super::plane::Plane;

/// Where the backends' one server listens.
pub(crate) const BACKEND_PORT: u16 = 8080;

/// How long a change may take from the API server's answer until sockets see it. Far more than needed when nothing
/// else runs: under a second.
const EFFECT: Duration = Duration::from_secs(15);

/// Dials per look. Random choice leaves out one backend of three with a probability of 1e-8.
const DIALS: usize = 48;

/// A node with an agent, clients and backends.
pub(crate) struct TestNode {
    pub(crate) agent: Agent,
    pub(crate) node: Node,
    arguments: Vec<String>,
    _server: Task<()>,
    _doors: Vec<Forward>,
    // Last: it removes what the others stand on.
    lab: Lab,
}

/// What a node is like before its agent starts.
pub(crate) struct Setup<'a> {
    plane: &'a Plane,
    name: &'a str,
    user: User,
    binary: PathBuf,
    arguments: Vec<String>,
    doors: Vec<SocketAddr>,
    has_object: bool,
}

/// A node called `name` in `zone-a`, with a Node object, whose agent has the rights of `deploy/rbac.yaml`.
pub(crate) fn setup<'a>(plane: &'a Plane, name: &'a str) -> Setup<'a> {
    Setup {
        plane,
        name,
        user: User::Agent,
        binary: PathBuf::from(env!("CARGO_BIN_EXE_lb-agent")),
        arguments: Vec::new(),
        doors: vec![plane.cluster.address()],
        has_object: true,
    }
}

impl Setup<'_> {
    /// The agent has another identity.
    pub(crate) fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    /// The agent gets more arguments.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|word| (*word).to_owned()));
        self
    }

    /// The agent is started through another program.
    pub(crate) fn binary(mut self, binary: &Path) -> Self {
        self.binary = binary.to_owned();
        self
    }

    /// The node reaches one more address of this machine.
    pub(crate) fn door_to(mut self, address: SocketAddr) -> Self {
        self.doors.push(address);
        self
    }

    /// The Node object is missing.
    pub(crate) fn without_object(mut self) -> Self {
        self.has_object = false;
        self
    }

    /// Starts the agent with the user's kubeconfig and waits until it serves.
    pub(crate) fn start(self) -> TestNode {
        let node = self.start_unready();
        node.agent.wait_ready().unwrap();
        node
    }

    /// Starts the agent with the user's kubeconfig.
    pub(crate) fn start_unready(self) -> TestNode {
        let kubeconfig = self
            .plane
            .cluster
            .kubeconfig(self.user)
            .display()
            .to_string();
        self.start_with(&["--kubeconfig", &kubeconfig])
    }

    /// Starts the agent with another way to its API server.
    pub(crate) fn start_with(self, source: &[&str]) -> TestNode {
        let lab = Lab::new().unwrap().with_agent(&self.binary);
        let node = lab.node(self.name).unwrap();
        if self.has_object {
            make_node_object(self.plane, &node);
        }
        let server = serve_backends(&node);
        let doors = self
            .doors
            .iter()
            .map(|address| open_door(&node, *address))
            .collect();
        let mut arguments: Vec<String> = source.iter().map(|word| (*word).to_owned()).collect();
        arguments.extend(self.arguments);
        let agent = start_agent(&node, &arguments);
        TestNode {
            agent,
            node,
            arguments,
            _server: server,
            _doors: doors,
            lab,
        }
    }
}

/// Makes the Node object in `zone-a` with the addresses that the node really has.
fn make_node_object(plane: &Plane, node: &Node) {
    plane.apply(&objects::node(&node.name, "zone-a"));
    let addresses = node.host.addresses.map(|address| address.to_string());
    plane.merge_status(&node_addresses(
        &node.name,
        &addresses.each_ref().map(String::as_str),
    ));
}

fn start_agent(node: &Node, arguments: &[String]) -> Agent {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    node.start_agent(&arguments).unwrap()
}

impl TestNode {
    /// Starts the agent again after it was killed, and does not wait until it serves.
    pub(crate) fn start_agent_again(&mut self) {
        self.agent = start_agent(&self.node, &self.arguments);
    }

    /// Waits until the outcomes of many connections to `to` are exactly `wanted`: addresses of backends, or names of
    /// errors such as `ECONNREFUSED`.
    #[track_caller]
    pub(crate) fn expect(&self, to: SocketAddr, wanted: &[&str]) {
        self.expect_within(EFFECT, to, wanted);
    }

    /// As [`TestNode::expect`], with another patience.
    #[track_caller]
    pub(crate) fn expect_within(&self, limit: Duration, to: SocketAddr, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|word| (*word).to_owned()).collect();
        let begun = Instant::now();
        loop {
            let seen = self.node.host.exec(|| Ok(outcomes(to))).unwrap();
            if seen == wanted {
                return;
            }
            assert!(
                begun.elapsed() < limit,
                "dialling {to} gives {seen:?} instead of {wanted:?}\n{}",
                self.lab.report()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Dials `to` until the returned task is told to finish: how often each outcome was seen.
    pub(crate) fn keep_dialling(&self, to: SocketAddr) -> Task<BTreeMap<String, u64>> {
        let task = self.node.host.spawn("client", move |control| {
            let mut seen = BTreeMap::new();
            while !control.stop_asked() {
                *seen.entry(outcome(to)).or_default() += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(seen)
        });
        task.unwrap()
    }

    /// What `lb-agent <arguments>` prints here, as JSON.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.node.cli(arguments).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until the agent has logged `words`.
    #[track_caller]
    pub(crate) fn expect_log(&self, words: &str) {
        let begun = Instant::now();
        while !self.agent.log().contains(words) {
            assert!(
                begun.elapsed() < EFFECT,
                "the agent did not log {words:?}\n{}",
                self.lab.report()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// `address` and `port`, as text, to be dialled.
pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    let address: IpAddr = address.parse().unwrap();
    (address, port).into()
}

/// The two ClusterIPs of a Service, IPv4 first, with port 80.
pub(crate) fn vips(service: &Value) -> [SocketAddr; 2] {
    let addresses = service["spec"]["clusterIPs"].as_array().unwrap();
    let mut vips: Vec<SocketAddr> = addresses
        .iter()
        .map(|vip| at(vip.as_str().unwrap(), 80))
        .collect();
    vips.sort();
    vips.try_into()
        .unwrap_or_else(|vips| panic!("not dual stack: {vips:?}"))
}

fn outcomes(to: SocketAddr) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..DIALS {
        let outcome = outcome(to);
        // Silence takes long, and is the same the next time.
        let is_silence = outcome == "ETIMEDOUT";
        seen.insert(outcome);
        if is_silence {
            break;
        }
    }
    seen
}

fn outcome(to: SocketAddr) -> String {
    match Dial::tcp(to).within(Duration::from_secs(1)).ask() {
        Ok(answer) => answer.by,
        Err(failure) => format!("{:?}", Errno::from_raw(failure.errno)),
    }
}

/// Makes the backend ranges local and serves them.
fn serve_backends(node: &Node) -> Task<()> {
    node.host
        .netns
        .ip("route add local 10.244.1.0/24 dev lo\nroute add local fd00:244:1::/64 dev lo\n")
        .unwrap();
    let task = node.host.spawn("backends", |control| {
        for address in ["0.0.0.0", "::"] {
            let listener = listen(at(address, BACKEND_PORT))?;
            thread::spawn(move || answer_forever(&listener));
        }
        control.say(&"listening")?;
        control.wait_for_stop(Duration::MAX);
        Ok(())
    });
    let task = task.unwrap();
    let _: String = task.hear(Duration::from_secs(5)).unwrap();
    task
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn answer_forever(listener: &TcpListener) {
    loop {
        // A client that is gone before it is accepted, or answered, is no reason to stop.
        let Ok((mut stream, client)) = listener.accept() else {
            continue;
        };
        let Ok(reached) = stream.local_addr() else {
            continue;
        };
        writeln!(stream, "{} {client}", reached.ip()).ok();
    }
}

/// Lets the node reach the API server at the very address that the kubeconfigs name.
fn open_door(node: &Node, server: SocketAddr) -> Forward {
    let listener = node
        .host
        .netns
        .within(|| Ok(TcpListener::bind(server)?))
        .unwrap();
    Forward::start(listener, server).unwrap()
}
