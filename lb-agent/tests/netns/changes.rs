//! Live changes while clients dial without pause: not one dial may fail.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, endpoint, slices, svc};
use xtask::lab::traffic::{Dial, read_line};
use xtask::lab::{Lab, ServeOptions};

use crate::harness::{SOON, case, eventually, soon_refused, soon_who, who};
use crate::load::{NAMES, VIP, Web, load, settle};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("changes", name, test);
    vec![
        case("scaling_up_and_down_fails_no_dial", scaling),
        case("draining_and_deleting_a_backend_fails_no_dial", draining),
        case("changes_of_other_services_fail_no_dial", other_services),
        case(
            "an_established_connection_outlives_its_endpoint_and_its_service",
            established,
        ),
        case("a_changed_port_moves_the_service", port_change),
        case("a_service_deleted_and_made_again_serves_again", made_again),
        case(
            "a_service_grows_to_a_thousand_endpoints_and_back_and_fails_no_dial",
            many_endpoints,
        ),
    ]
}

fn scaling(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let _agent = web.node.agent(&[])?;
    let load = web.load()?;
    for round in 0..12 {
        let numbers: &[usize] = [&[0, 1][..], &[0, 1, 2, 3], &[1, 2, 3], &[2, 3], &[0]][round % 5];
        web.publish_numbers(numbers.iter().copied())?;
        thread::sleep(Duration::from_millis(150));
    }
    let by = settle(load)?;
    ensure!(by.len() == 4, "some backends never got into use: {by:?}");
    Ok(())
}

/// Each backend in turn: it is drained, then taken from the list, then its process ends, then it comes back.
fn draining(lab: &Lab) -> Result<()> {
    let mut web = Web::new(lab)?;
    web.publish_numbers(0..4)?;
    let _agent = web.node.agent(&[])?;
    let dial = Dial::tcp(VIP.parse()?);
    let load = web.load()?;
    for leaving in 0..4 {
        let listed = (0..4).map(|number| {
            let endpoint = web.endpoint(number);
            if number == leaving {
                endpoint.terminating(true)
            } else {
                endpoint
            }
        });
        web.publish(listed)?;
        let rest: Vec<&str> = (0..4)
            .filter(|number| *number != leaving)
            .map(|number| NAMES[number])
            .collect();
        soon_who(&web.client, &dial, 60, &rest)?;
        web.publish_numbers((0..4).filter(|number| *number != leaving))?;
        // A dial that began before the change may still be under way to the backend that leaves.
        thread::sleep(Duration::from_millis(200));
        let server = &mut web.pods[leaving];
        // Another port in the meantime: nobody listens where the endpoint was.
        let elsewhere = server.pod.serve(18080)?;
        std::mem::replace(&mut server.serve, elsewhere).stop();
        thread::sleep(Duration::from_millis(100));
        server.serve = server.pod.serve(8080)?;
        web.publish_numbers(0..4)?;
        soon_who(&web.client, &dial, 60, &NAMES)?;
    }
    settle(load)?;
    Ok(())
}

fn other_services(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers(0..4)?;
    let _agent = web.node.agent(&[])?;
    let load = web.load()?;
    for round in 0..10_u8 {
        let documents = (0..round * 5).flat_map(|number| {
            let name = format!("ns/other-{number}");
            let address = format!("10.96.7.{}", number + 1);
            let other = svc(&name).cluster_ip(&address).tcp(80);
            let listed = slices(&name)
                .tcp(8080)
                .endpoint(&web.pods[usize::from(number) % 4].pod);
            [Document::from(other), listed.into()]
        });
        web.node.publish("others", documents)?;
        thread::sleep(Duration::from_millis(100));
    }
    soon_who(
        &web.client,
        &Dial::tcp("10.96.7.45:80".parse()?),
        1,
        &["web-0"],
    )?;
    settle(load)?;
    Ok(())
}

/// Rule 88.
fn established(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let _agent = web.node.agent(&[])?;
    let dial = Dial::tcp(VIP.parse()?);
    let dial_in_pod = dial.clone();
    let task = web.client.spawn("connection", move |control| {
        let socket = dial_in_pod.open()?;
        let greeting = read_line(&socket)?;
        control.say(&greeting)?;
        let mut stream: TcpStream = socket.into();
        while control.hear::<bool>(Duration::from_secs(30))? {
            stream.write_all(b"ping")?;
            let mut echo = [0; 4];
            stream.read_exact(&mut echo)?;
            control.say(&(echo == *b"ping"))?;
        }
        Ok(())
    })?;
    let echoes = || -> Result<()> {
        task.tell(&true)?;
        ensure!(task.hear::<bool>(SOON)?);
        Ok(())
    };
    ensure!(task.hear::<String>(SOON)?.starts_with("web-0"));
    echoes()?;
    web.publish_numbers([1])?;
    soon_who(&web.client, &dial, 5, &["web-1"])?;
    echoes().context("the endpoint left")?;
    web.publish_numbers([])?;
    soon_refused(&web.client, &dial, Errno::ECONNREFUSED)?;
    echoes().context("no endpoint is left")?;
    web.node.withdraw("web")?;
    eventually(SOON, || {
        let listed = web.node.cli(&["service", "list"])?;
        ensure!(!String::from_utf8_lossy(&listed.stdout).contains("ns/web"));
        Ok(())
    })?;
    echoes().context("the Service is gone")
}

fn port_change(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    let listed = || Document::from(slices("ns/web").tcp(8080).endpoint(web.endpoint(0)));
    let publish = |port| {
        let service = svc("ns/web").cluster_ip("10.96.0.10").tcp(port);
        web.node
            .publish::<Document>("web", [service.into(), listed()])
    };
    publish(80)?;
    let _agent = web.node.agent(&[])?;
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 1)? == ["web-0"]);
    publish(81)?;
    soon_who(
        &web.client,
        &Dial::tcp("10.96.0.10:81".parse()?),
        1,
        &["web-0"],
    )?;
    soon_refused(&web.client, &Dial::tcp(VIP.parse()?), Errno::ECONNREFUSED)
}

fn made_again(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let _agent = web.node.agent(&[])?;
    let dial = Dial::tcp(VIP.parse()?).within(Duration::from_millis(300));
    for number in [1, 2, 3] {
        web.node.withdraw("web")?;
        eventually(SOON, || {
            ensure!(web.client.ask(&dial)?.is_err());
            Ok(())
        })?;
        web.publish_numbers([number])?;
        soon_who(&web.client, &dial, 3, &[NAMES[number]])?;
    }
    Ok(())
}

/// One pod answers at every address of 10.250.0.0/16.
fn many_endpoints(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let (client, many) = (node.pod("client")?, node.pod("many")?);
    many.netns.ip("route add local 10.250.0.0/16 dev lo\n")?;
    let [v4, _] = many.addresses;
    node.host.netns.ip(&format!(
        "route add 10.250.0.0/16 via {v4} dev pod1 onlink\n"
    ))?;
    let _serve = many.serve_with(&ServeOptions::new(&["0.0.0.0:8080".parse()?]))?;
    let publish = |count: u16| {
        let endpoints = (1..=count).map(|number| {
            let [high, low] = number.to_be_bytes();
            endpoint(&many, "node-a").at(Some(Ipv4Addr::new(10, 250, high, low).into()), None)
        });
        let listed = slices("ns/web").tcp(8080).endpoints(endpoints);
        node.publish::<Document>(
            "web",
            [
                svc("ns/web").cluster_ip("10.96.0.10").tcp(80).into(),
                listed.into(),
            ],
        )
    };
    publish(1)?;
    let _agent = node.agent(&[])?;
    let load = load(&client, vec![Dial::tcp(VIP.parse()?)])?;
    for count in [300_u16, 3, 1000, 1, 300, 2] {
        publish(count)?;
        eventually(SOON, || {
            let listed = node.cli(&["service", "get", "ns/web", "-o", "json"])?;
            let seen = String::from_utf8_lossy(&listed.stdout)
                .matches("\"10.250.")
                .count();
            ensure!(seen == usize::from(count), "{seen} endpoints, not {count}");
            Ok(())
        })?;
    }
    settle(load)?;
    Ok(())
}
