//! Connected UDP sockets whose backend no longer serves are ended, and nothing else is (rules 88 to 95).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use xtask::lab::traffic::{Dial, peer_of, receive};
use xtask::lab::{Lab, Place, Task};

use crate::harness::{SOON, case, eventually};
use crate::load::{VIP, Web};

const VIP6: &str = "[fd00:96::a]:80";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("udp_ends", name, test);
    vec![
        case(
            "a_socket_whose_backend_has_left_is_ended_in_pod_and_host",
            left,
        ),
        case("a_socket_whose_backend_drains_is_left_alone", drains),
        case("the_sockets_of_a_deleted_service_are_ended", deleted),
        case("what_left_while_no_agent_ran_is_made_up_for", made_up_for),
    ]
}

/// A connected socket that asks whenever it is told to.
struct Asker {
    task: Task<()>,
}

/// Who answered, if anybody did; and whether the socket still has its peer.
type Told = (Option<String>, bool);

impl Asker {
    fn new(place: &Place, dial: Dial) -> Result<Self> {
        let task = place.spawn("asker", move |control| {
            let socket = dial.within(Duration::from_millis(500)).open()?;
            while control.hear::<bool>(Duration::from_secs(60))? {
                let answer = socket
                    .send(b"hello")
                    .ok()
                    .and_then(|_| receive(&socket).ok());
                let by = |(text, _): (String, _)| text.split(' ').next().map(str::to_owned);
                let told: Told = (answer.and_then(by), peer_of(&socket).is_ok());
                control.say(&told)?;
            }
            Ok(())
        })?;
        Ok(Self { task })
    }

    fn ask(&self) -> Result<Told> {
        self.task.tell(&true)?;
        self.task.hear(SOON)
    }

    /// Asks until the socket has no peer any more.
    fn is_ended(&self) -> Result<()> {
        eventually(SOON, || match self.ask()? {
            (_, false) => Ok(()),
            still => bail!("the socket goes on: {still:?}"),
        })
    }

    /// Fails where the socket was ended, or its backend does not answer.
    fn goes_on(&self) -> Result<()> {
        let told = self.ask()?;
        ensure!(matches!(told, (Some(_), true)), "{told:?}");
        Ok(())
    }
}

/// Sockets to the Service from pod and host in both families and as v4-mapped ones.
fn askers(web: &Web) -> Result<Vec<Asker>> {
    let (v4, v6): (SocketAddr, SocketAddr) = (VIP.parse()?, VIP6.parse()?);
    let mut askers = Vec::new();
    for place in [&*web.client, &web.node.host] {
        for dial in [Dial::udp(v4), Dial::udp(v6), Dial::udp(v4).mapped()] {
            askers.push(Asker::new(place, dial)?);
        }
    }
    for asker in &askers {
        asker.goes_on()?;
    }
    Ok(askers)
}

/// Both servers run on: only the endpoint leaves.
fn left(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let agent = web.node.agent(&[])?;
    let askers = askers(&web)?;
    let straight = Asker::new(&web.client, Dial::udp(web.pods[0].pod.v4(8080)))?;
    straight.goes_on()?;
    let tcp = Dial::tcp(VIP.parse()?);
    let connection = web.client.spawn("connection", move |control| {
        let socket = tcp.open()?;
        control.say(&true)?;
        control.hear::<bool>(Duration::from_secs(60))?;
        control.say(&peer_of(&socket).is_ok())
    })?;
    ensure!(connection.hear::<bool>(SOON)?);
    web.publish_numbers([1])?;
    for asker in &askers {
        asker.is_ended()?;
    }
    straight.goes_on()?;
    connection.tell(&true)?;
    ensure!(connection.hear::<bool>(SOON)?, "TCP was ended");
    // It is said when all namespaces have been seen to.
    eventually(SOON, || {
        let log = agent.log();
        ensure!(log.contains("ended connected UDP sockets"), "{log}");
        Ok(())
    })?;
    // New sockets reach who is there now.
    for asker in self::askers(&web)? {
        ensure!(asker.ask()?.0.as_deref() == Some("web-1"));
    }
    Ok(())
}

/// Rule 90. Another endpoint that leaves makes the agent look.
fn drains(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let _agent = web.node.agent(&[])?;
    let askers = askers(&web)?;
    web.publish([web.endpoint(0).terminating(true), web.endpoint(1)])?;
    let leaving: Vec<Asker> = eventually(SOON, || {
        let leaving = self::askers(&web)?;
        for asker in &leaving {
            ensure!(asker.ask()?.0.as_deref() == Some("web-1"), "not yet");
        }
        Ok(leaving)
    })?;
    web.publish([web.endpoint(0).terminating(true)])?;
    for asker in &leaving {
        asker.is_ended()?;
    }
    for asker in &askers {
        asker.goes_on()?;
    }
    Ok(())
}

/// Rule 92.
fn deleted(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let _agent = web.node.agent(&[])?;
    let askers = askers(&web)?;
    web.node.withdraw("web")?;
    askers.iter().try_for_each(Asker::is_ended)
}

fn made_up_for(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let mut agent = web.node.agent(&[])?;
    let askers = askers(&web)?;
    agent.kill9()?;
    web.publish_numbers([1])?;
    for asker in &askers {
        asker.goes_on()?;
    }
    agent.restart()?;
    askers.iter().try_for_each(Asker::is_ended)
}
