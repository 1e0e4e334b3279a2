use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::runtime::watcher::Event as Word;
use serde_json::{Value, json};

use super::*;
use crate::{k8s::convert::tests::object, model::Kind};

fn service(name: &str, ip: &str) -> Guarded<Service> {
    object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
    }))
}

/// A Service that is no Service inside.
fn unreadable_service(name: &str) -> Guarded<Service> {
    object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"ports": "all"},
    }))
}

/// Feeds words and tells what the last one led to.
fn take<const N: usize>(follower: &mut Follower, words: [Word<Guarded<Service>>; N]) -> Vec<Event> {
    let mut events = Vec::new();
    for word in words {
        events = follower.take(word);
    }
    events
}

/// An event in few words.
fn brief(event: &Event) -> String {
    match event {
        Event::Apply(object) => format!("apply {}", name(&object.reference())),
        Event::Delete(reference) => format!("delete {}", name(reference)),
        Event::Replace(_, objects) => {
            let names: Vec<_> = objects.iter().map(|o| name(&o.reference())).collect();
            format!("replace {}", names.join(" "))
        }
        Event::Skip(skip) => format!("skip {}", skip.object),
        Event::Unskip(object) => format!("unskip {object}"),
        Event::HostAddrs(_) => "addresses".to_owned(),
    }
}

fn name(reference: &ObjectRef) -> String {
    match reference {
        ObjectRef::Service(key) | ObjectRef::Foreign(_, key) | ObjectRef::Slice(key) => {
            key.name.clone()
        }
        ObjectRef::Node(name) | ObjectRef::ServiceCidr(name) => name.clone(),
    }
}

fn briefs(events: &[Event]) -> Vec<String> {
    events.iter().map(brief).collect()
}

#[test]
fn a_list_is_told_when_it_is_complete() {
    let mut follower = Follower::new(Kind::Service);
    let (a, b) = (service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    assert_eq!(take(&mut follower, [Word::Init]), []);
    assert_eq!(
        take(&mut follower, [Word::InitApply(a), Word::InitApply(b)]),
        []
    );
    let found = take(&mut follower, [Word::InitDone]);
    assert_eq!(briefs(&found), ["replace a b"]);
    assert!(matches!(found[0], Event::Replace(Kind::Service, _)));
}

#[test]
fn a_list_that_begins_again_forgets_its_first_half() {
    let mut follower = Follower::new(Kind::Service);
    let (a, b) = (service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    let words = [
        Word::Init,
        Word::InitApply(a),
        Word::Init,
        Word::InitApply(b),
        Word::InitDone,
    ];
    assert_eq!(briefs(&take(&mut follower, words)), ["replace b"]);
}

#[test]
fn changes_are_told_as_they_come() {
    let mut follower = Follower::new(Kind::Service);
    let found = take(&mut follower, [Word::Apply(service("a", "10.96.0.1"))]);
    assert_eq!(briefs(&found), ["apply a"]);
    let found = take(&mut follower, [Word::Delete(service("a", "10.96.0.1"))]);
    assert_eq!(briefs(&found), ["delete a"]);
}

#[test]
fn an_object_that_is_no_longer_ours_is_deleted() {
    let mut follower = Follower::new(Kind::Service);
    let headless = || Word::Apply(service("a", "None"));
    assert_eq!(briefs(&take(&mut follower, [headless()])), [] as [&str; 0]);
    let words = [Word::Apply(service("a", "10.96.0.1")), headless()];
    assert_eq!(briefs(&take(&mut follower, words)), ["delete a"]);
    assert_eq!(briefs(&take(&mut follower, [headless()])), [] as [&str; 0]);
}

#[test]
fn an_unreadable_object_is_told_once_and_stays_in_force() {
    let mut follower = Follower::new(Kind::Service);
    take(&mut follower, [Word::Apply(service("a", "10.96.0.1"))]);
    let found = take(&mut follower, [Word::Apply(unreadable_service("a"))]);
    let [Event::Skip(skip)] = &found[..] else {
        panic!("not one skip: {found:?}");
    };
    assert_eq!(skip.object, "Service shop/a");
    assert_eq!(
        skip.reason,
        "spec.ports: invalid type: string \"all\", expected a sequence; correct it, or delete the object"
    );
    let found = take(&mut follower, [Word::Apply(unreadable_service("a"))]);
    assert_eq!(found, []);
    let found = take(&mut follower, [Word::Apply(service("a", "10.96.0.2"))]);
    assert_eq!(briefs(&found), ["apply a", "unskip Service shop/a"]);
}

#[test]
fn an_unreadable_object_that_is_deleted_is_gone() {
    let mut follower = Follower::new(Kind::Service);
    let words = [
        Word::Apply(service("a", "10.96.0.1")),
        Word::Apply(unreadable_service("a")),
        Word::Delete(unreadable_service("a")),
    ];
    let found = take(&mut follower, words);
    assert_eq!(briefs(&found), ["delete a", "unskip Service shop/a"]);
}

#[test]
fn an_unreadable_object_stays_in_force_through_a_new_list() {
    let mut follower = Follower::new(Kind::Service);
    let words = [
        Word::Init,
        Word::InitApply(service("a", "10.96.0.1")),
        Word::InitApply(service("b", "10.96.0.2")),
        Word::InitDone,
        Word::Init,
        Word::InitApply(unreadable_service("a")),
        Word::InitApply(service("c", "10.96.0.3")),
        Word::InitDone,
    ];
    let found = take(&mut follower, words);
    assert_eq!(
        briefs(&found),
        ["apply c", "delete b", "skip Service shop/a"]
    );
    // and through one more
    let words = [
        Word::Init,
        Word::InitApply(unreadable_service("a")),
        Word::InitDone,
    ];
    assert_eq!(briefs(&take(&mut follower, words)), ["delete c"]);
    // but not if it is not in it
    let found = take(&mut follower, [Word::Init, Word::InitDone]);
    assert_eq!(briefs(&found), ["replace ", "unskip Service shop/a"]);
}

#[test]
fn an_unreadable_object_in_the_first_list_leaves_the_others() {
    let mut follower = Follower::new(Kind::Service);
    let words = [
        Word::Init,
        Word::InitApply(unreadable_service("a")),
        Word::InitApply(service("b", "10.96.0.2")),
        Word::InitDone,
    ];
    let found = take(&mut follower, words);
    assert_eq!(briefs(&found), ["replace b", "skip Service shop/a"]);
}

#[test]
fn a_bad_part_is_told_beside_the_object() {
    let mut follower = Follower::new(Kind::Service);
    let bad: Value = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "a"},
        "spec": {"clusterIP": "10.96.0.1", "externalIPs": ["x", "y"]},
    });
    let found = take(&mut follower, [Word::Apply(object(bad.clone()))]);
    assert_eq!(briefs(&found), ["apply a", "skip Service shop/a"]);
    let words = [Word::Init, Word::InitApply(object(bad)), Word::InitDone];
    assert_eq!(briefs(&take(&mut follower, words)), ["replace a"]);
    let found = take(&mut follower, [Word::Apply(service("a", "10.96.0.1"))]);
    assert_eq!(briefs(&found), ["apply a", "unskip Service shop/a"]);
}

#[test]
fn endpoints_take_back_slices_they_no_longer_mean() {
    let mut follower = Follower::new(Kind::Slice);
    let endpoints = |subsets: Value| -> Word<Guarded<Endpoints>> {
        Word::Apply(object(json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": "shop", "name": "a"},
            "subsets": subsets,
        })))
    };
    let both =
        json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]);
    let one = json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]);
    let found = follower.take(endpoints(both));
    assert_eq!(briefs(&found), ["apply a/0-ipv4", "apply a/0-ipv6"]);
    let found = follower.take(endpoints(one));
    assert_eq!(briefs(&found), ["apply a/0-ipv4", "delete a/0-ipv6"]);
    let found = follower.take(endpoints(json!([])));
    assert_eq!(briefs(&found), ["delete a/0-ipv4"]);
}
