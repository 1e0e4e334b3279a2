//! A real folder, followed by the real watcher.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::{Manifests, WatchError};
use crate::model::{Event, Kind, Label, Object, ObjectKey, ObjectRef, Skip};

/// More than any change takes to be told.
const TOLD: Duration = Duration::from_secs(10);
/// Longer than changes are collected.
const QUIET: Duration = Duration::from_millis(400);

struct Followed {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<Result<(), WatchError>>,
}

impl Followed {
    async fn open(path: &Path) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let manifests = Manifests::open(path, "one")
            .await
            .expect("the folder opens");
        let task = tokio::spawn(manifests.run(sender));
        Self { events, task }
    }

    /// Opens a folder and takes its first lists.
    async fn synced(path: &Path) -> Self {
        let mut followed = Self::open(path).await;
        for _ in Kind::ALL {
            let event = followed.next().await;
            assert!(matches!(event, Event::Replace(..)), "{event:?}");
        }
        followed
    }

    async fn next(&mut self) -> Event {
        let event = timeout(TOLD, self.events.recv()).await;
        event.expect("an event in time").expect("the watcher runs")
    }

    async fn assert_next(&mut self, expected: impl IntoIterator<Item = Event>) {
        for event in expected {
            assert_eq!(self.next().await, event);
        }
        self.assert_quiet().await;
    }

    async fn assert_quiet(&mut self) {
        if let Ok(event) = timeout(QUIET, self.events.recv()).await {
            panic!("nothing has changed, but: {event:?}");
        }
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("a file is written");
}

/// As careful programs write: beside it, then renamed over it.
fn replace(dir: &Path, name: &str, text: &str) {
    let beside = dir.join(format!(".{name}.new"));
    fs::write(&beside, text).expect("a file is written");
    fs::rename(beside, dir.join(name)).expect("a file is renamed");
}

fn yaml(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
    )
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef::Service(ObjectKey::new("default", name))
}

fn service(name: &str, ip: &str) -> Object {
    Object::Service(crate::model::Service {
        key: ObjectKey::new("default", name),
        cluster_ips: vec![ip.parse().unwrap()],
        ports: vec![crate::model::ServicePort {
            proto: lb_common::net::Proto::TCP,
            port: 80,
            ..Default::default()
        }],
        ..Default::default()
    })
}

fn skip(object: &str, reason: &str) -> Event {
    Event::Skip(Skip {
        object: object.to_owned(),
        reason: reason.to_owned(),
    })
}

/// The event's skip, whatever its words are.
fn skipped(event: Event) -> Skip {
    let Event::Skip(skip) = event else {
        panic!("no skip: {event:?}");
    };
    skip
}

#[tokio::test]
async fn the_first_reading_tells_every_kind_completely() {
    let dir = folder();
    write(dir.path(), "b.yaml", &yaml("b", "10.96.0.2"));
    write(dir.path(), "a.yml", &yaml("a", "10.96.0.1"));
    write(dir.path(), "notes.txt", &yaml("no", "10.96.0.3"));
    write(dir.path(), ".hidden.yaml", &yaml("no", "10.96.0.3"));
    fs::create_dir(dir.path().join("folder.yaml")).unwrap();
    let mut followed = Followed::open(dir.path()).await;
    let services = vec![service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    let expected = [
        Event::Replace(Kind::Service, services),
        Event::Replace(Kind::Slice, vec![]),
        Event::Replace(Kind::Node, vec![]),
        Event::Replace(Kind::ServiceCidr, vec![]),
        Event::Replace(Kind::Foreign(Label::ProxyName), vec![]),
        Event::Replace(Kind::Foreign(Label::Headless), vec![]),
    ];
    followed.assert_next(expected).await;
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let dir = folder();
    write(dir.path(), "a.yaml", &yaml("a", "10.96.0.1"));
    write(dir.path(), "b.yaml", &yaml("b", "10.96.0.2"));
    let mut followed = Followed::synced(dir.path()).await;

    let both = format!("{}---\n{}", yaml("a", "10.96.0.1"), yaml("c", "10.96.0.3"));
    write(dir.path(), "a.yaml", &both);
    let new = Event::Apply(service("c", "10.96.0.3"));
    followed.assert_next([new]).await;

    replace(dir.path(), "b.yaml", &yaml("b", "10.96.0.9"));
    let changed = Event::Apply(service("b", "10.96.0.9"));
    followed.assert_next([changed]).await;

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    let gone = ["a", "c"].map(|name| Event::Delete(reference(name)));
    followed.assert_next(gone).await;
}

#[tokio::test]
async fn a_service_that_is_renamed_comes_before_it_goes() {
    let dir = folder();
    write(dir.path(), "a.yaml", &yaml("a", "10.96.0.1"));
    let mut followed = Followed::synced(dir.path()).await;
    replace(dir.path(), "a.yaml", &yaml("z", "10.96.0.1"));
    let expected = [
        Event::Apply(service("z", "10.96.0.1")),
        Event::Delete(reference("a")),
    ];
    followed.assert_next(expected).await;
}

#[tokio::test]
async fn a_bad_document_leaves_the_others_and_its_last_good_version() {
    let dir = folder();
    let (a, b) = (yaml("a", "10.96.0.1"), yaml("b", "10.96.0.2"));
    write(dir.path(), "a.yaml", &format!("{a}---\n{b}"));
    let mut followed = Followed::synced(dir.path()).await;

    let a_new = yaml("a", "10.96.0.7");
    let b_bad = b.replace("port: 80", "port: http");
    replace(dir.path(), "a.yaml", &format!("{a_new}---\n{b_bad}"));
    let place = "a.yaml: document 2, line 5 (Service default/b)";
    let reason = "spec.ports[0].port: invalid type: string \"http\", expected i32; correct it";
    let expected = [Event::Apply(service("a", "10.96.0.7")), skip(place, reason)];
    followed.assert_next(expected).await;

    replace(dir.path(), "a.yaml", &format!("{a_new}---\n{b}"));
    followed
        .assert_next([Event::Unskip(place.to_owned())])
        .await;
}

#[tokio::test]
async fn a_file_that_is_no_yaml_keeps_its_last_good_objects() {
    let dir = folder();
    write(dir.path(), "a.yaml", &yaml("a", "10.96.0.1"));
    let mut followed = Followed::synced(dir.path()).await;

    replace(dir.path(), "a.yaml", "kind: [Service\n");
    let skip = skipped(followed.next().await);
    assert_eq!(skip.object, "a.yaml: document 1, line 1");
    assert!(skip.reason.starts_with("is not YAML: "), "{}", skip.reason);
    followed.assert_quiet().await;

    replace(dir.path(), "a.yaml", &yaml("a", "10.96.0.2"));
    let expected = [
        Event::Apply(service("a", "10.96.0.2")),
        Event::Unskip(skip.object),
    ];
    followed.assert_next(expected).await;
}

#[tokio::test]
async fn a_document_removed_beside_one_that_is_bad_and_known_is_gone() {
    let dir = folder();
    let (a, b) = (yaml("a", "10.96.0.1"), yaml("b", "10.96.0.2"));
    write(dir.path(), "a.yaml", &format!("{a}---\n{b}"));
    let mut followed = Followed::synced(dir.path()).await;
    replace(dir.path(), "a.yaml", &b.replace("port: 80", "port: http"));
    assert_eq!(followed.next().await, Event::Delete(reference("a")));
    assert!(
        skipped(followed.next().await)
            .object
            .contains("Service default/b")
    );
    followed.assert_quiet().await;
}

#[tokio::test]
async fn an_unreadable_file_keeps_its_objects() {
    let dir = folder();
    write(dir.path(), "a.yaml", &yaml("a", "10.96.0.1"));
    let mut followed = Followed::synced(dir.path()).await;
    fs::write(dir.path().join(".new"), [0xff, 0xfe, 0x00]).unwrap();
    fs::rename(dir.path().join(".new"), dir.path().join("a.yaml")).unwrap();
    assert_eq!(skipped(followed.next().await).object, "a.yaml");
    followed.assert_quiet().await;
}

#[tokio::test]
async fn of_two_documents_for_one_object_the_first_counts() {
    let dir = folder();
    write(dir.path(), "a.yaml", &yaml("web", "10.96.0.1"));
    write(dir.path(), "b.yaml", &yaml("web", "10.96.0.2"));
    let mut followed = Followed::open(dir.path()).await;
    let first = Event::Replace(Kind::Service, vec![service("web", "10.96.0.1")]);
    assert_eq!(followed.next().await, first);
    for _ in 1..Kind::ALL.len() {
        followed.next().await;
    }
    let second = "b.yaml: document 1, line 1 (Service default/web)";
    let reason = "is already in a.yaml: document 1, line 1 (Service default/web), which counts; \
                  remove one of them";
    followed.assert_next([skip(second, reason)]).await;

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    let expected = [
        Event::Apply(service("web", "10.96.0.2")),
        Event::Unskip(second.to_owned()),
    ];
    followed.assert_next(expected).await;
}

/// As kubelet mounts a ConfigMap: file -> ..data/file, ..data -> ..1, replaced by one rename.
fn mount(dir: &Path, version: &str, files: &[(&str, String)]) {
    let real = dir.join(format!("..{version}"));
    fs::create_dir(&real).unwrap();
    for (name, text) in files {
        write(&real, name, text);
        let link = dir.join(name);
        if !link.is_symlink() {
            symlink(PathBuf::from("..data").join(name), link).unwrap();
        }
    }
    symlink(format!("..{version}"), dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let dir = folder();
    mount(dir.path(), "1", &[("a.yaml", yaml("a", "10.96.0.1"))]);
    let mut followed = Followed::synced(dir.path()).await;
    for version in 2..5 {
        let ip = format!("10.96.0.{version}");
        mount(
            dir.path(),
            &version.to_string(),
            &[("a.yaml", yaml("a", &ip))],
        );
        fs::remove_dir_all(dir.path().join(format!("..{}", version - 1))).unwrap();
        followed
            .assert_next([Event::Apply(service("a", &ip))])
            .await;
    }
}

#[tokio::test]
async fn a_linked_file_is_followed_where_it_really_is() {
    let (dir, elsewhere) = (folder(), folder());
    write(elsewhere.path(), "real.yaml", &yaml("a", "10.96.0.1"));
    symlink(
        elsewhere.path().join("real.yaml"),
        dir.path().join("a.yaml"),
    )
    .unwrap();
    let mut followed = Followed::synced(dir.path()).await;
    let start = std::time::Instant::now();
    write(elsewhere.path(), "real.yaml", &yaml("a", "10.96.0.2"));
    assert_eq!(
        followed.next().await,
        Event::Apply(service("a", "10.96.0.2"))
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "told by the kernel, not by a look"
    );
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_its_last_state_and_may_come_back() {
    let parent = folder();
    let dir = parent.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    write(&dir, "a.yaml", &yaml("a", "10.96.0.1"));
    let mut followed = Followed::synced(&dir).await;
    fs::rename(&dir, parent.path().join("away")).unwrap();
    followed.assert_quiet().await;
    fs::create_dir(&dir).unwrap();
    write(&dir, "b.yaml", &yaml("b", "10.96.0.2"));
    let expected = [
        Event::Apply(service("b", "10.96.0.2")),
        Event::Delete(reference("a")),
    ];
    followed.assert_next(expected).await;
    // and is watched as before
    write(&dir, "c.yaml", &yaml("c", "10.96.0.3"));
    followed
        .assert_next([Event::Apply(service("c", "10.96.0.3"))])
        .await;
}

#[tokio::test]
async fn an_emptied_file_is_given_time_to_be_written() {
    let dir = folder();
    write(dir.path(), "a.yaml", &yaml("a", "10.96.0.1"));
    let mut followed = Followed::synced(dir.path()).await;
    write(dir.path(), "a.yaml", "");
    followed.assert_quiet().await;
    // but it may stay empty
    followed.assert_next([Event::Delete(reference("a"))]).await;
}

#[tokio::test]
async fn lists_and_json_are_read() {
    let dir = folder();
    let items = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {{apiVersion: apps/v1, kind: Deployment}}\n",
        yaml("a", "10.96.0.1").trim_end().replace('\n', "\n  ")
    );
    write(dir.path(), "a.yaml", &items);
    let json = r#"{"apiVersion": "v1", "kind": "ServiceList", "items": [
        {"metadata": {"name": "b"}, "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}},
        {"metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}]}}
    ]}"#;
    write(dir.path(), "b.json", json);
    let mut followed = Followed::open(dir.path()).await;
    let services = vec![service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    assert_eq!(
        followed.next().await,
        Event::Replace(Kind::Service, services)
    );
    for _ in 1..Kind::ALL.len() {
        followed.next().await;
    }
    let skip = skipped(followed.next().await);
    assert_eq!(
        skip.object,
        "b.json: document 1, item 2 (Service default/c)"
    );
    assert!(
        skip.reason.starts_with("spec.clusterIP: is missing"),
        "{}",
        skip.reason
    );
    followed.assert_quiet().await;
}

#[tokio::test]
async fn slices_and_endpoints_of_one_service_both_count() {
    let dir = folder();
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
                 metadata: {name: web-ipv4, labels: {kubernetes.io/service-name: web}}\n\
                 endpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 80}]\n";
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\n\
                     subsets: [{addresses: [{ip: 10.0.0.2}, {ip: 'fd00::2'}], ports: [{port: 80}]}]\n";
    write(dir.path(), "web.yaml", &format!("{slice}---\n{endpoints}"));
    let mut followed = Followed::open(dir.path()).await;
    followed.next().await;
    let Event::Replace(Kind::Slice, slices) = followed.next().await else {
        panic!("slices come second");
    };
    let seen: Vec<_> = slices
        .iter()
        .map(|object| {
            let Object::Slice(s) = object else {
                panic!("no slice: {object:?}");
            };
            (
                s.key.name.as_str(),
                s.service.as_str(),
                s.ports.len(),
                s.endpoints.len(),
            )
        })
        .collect();
    let expected = [
        ("web-ipv4", "web", 1, 1),
        ("web/0-ipv4", "web", 1, 1),
        ("web/0-ipv6", "web", 1, 1),
    ];
    assert_eq!(seen, expected);
    for _ in 2..Kind::ALL.len() {
        followed.next().await;
    }

    replace(dir.path(), "web.yaml", slice);
    let gone = ["web/0-ipv4", "web/0-ipv6"]
        .map(|name| Event::Delete(ObjectRef::Slice(ObjectKey::new("default", name))));
    followed.assert_next(gone).await;
}

#[tokio::test]
async fn a_missing_folder_is_refused_at_the_start() {
    let dir = folder();
    let error = Manifests::open(&dir.path().join("no"), "one")
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("--manifests /") && text.contains("/no: "),
        "{text}"
    );
    assert!(text.ends_with("give a folder that can be read"), "{text}");
}

#[tokio::test]
async fn the_watcher_ends_when_nobody_listens() {
    let dir = folder();
    let followed = Followed::synced(dir.path()).await;
    drop(followed.events);
    let ended = timeout(TOLD, followed.task).await.expect("it ends in time");
    assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
}
