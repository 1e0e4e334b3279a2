//! A server that answers as an API server would, over real HTTP.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, extract::State, http::Uri, response::Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, time::timeout};

use super::*;
use crate::{
    config::EndpointsSource,
    model::{Kind, Object, ObjectRef},
};

/// More than any change takes to be told, pauses after failures included.
const TOLD: Duration = Duration::from_secs(20);

/// What the server says, by path.
#[derive(Default)]
struct Script {
    lists: BTreeMap<String, (u16, Value)>,
    /// Lines of watches; without them a watch is silent.
    watches: BTreeMap<String, Vec<Value>>,
    /// By path, too.
    requests: Vec<(String, String)>,
}

struct Server {
    script: Arc<Mutex<Script>>,
    /// Its own, so that it takes its connections with it.
    runtime: Option<Runtime>,
    address: SocketAddr,
}

const SERVICES: &str = "/api/v1/services";
/// Services by the labels that give them to other proxies.
const NAMED: &str = "/api/v1/services (named)";
const HEADLESS: &str = "/api/v1/services (headless)";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

impl Server {
    fn start() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let (runtime, address) = serve(([127, 0, 0, 1], 0).into(), &script);
        let server = Self {
            script,
            runtime: Some(runtime),
            address,
        };
        for path in [SERVICES, NAMED, HEADLESS, SLICES, NODES, CIDRS] {
            server.list(path, &[]);
        }
        server
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Items of a list do not say what they are, as with a real server.
    fn list(&self, path: &str, items: &[Value]) {
        let mut items = items.to_vec();
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.retain(|name, _| name != "apiVersion" && name != "kind");
        }
        let list = json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "7"}, "items": items,
        });
        self.answer(path, 200, list);
    }

    fn answer(&self, path: &str, code: u16, body: Value) {
        let mut script = self.script.lock().unwrap();
        script.lists.insert(path.to_owned(), (code, body));
    }

    /// What the next watch of a path says before it ends; then, watches are silent again.
    fn watch(&self, path: &str, lines: &[Value]) {
        let mut script = self.script.lock().unwrap();
        script.watches.insert(path.to_owned(), lines.to_vec());
    }

    fn requests(&self, path: &str) -> Vec<String> {
        let script = self.script.lock().unwrap();
        let of_path = script.requests.iter().filter(|(of, _)| of == path);
        of_path.map(|(_, request)| request.clone()).collect()
    }

    async fn follow(&self) -> mpsc::Receiver<Event> {
        let (sender, events) = mpsc::channel(64);
        let master = format!("http://{}", self.address);
        let api = crate::k8s::Api::open(None, Some(&master), None, Arc::default())
            .await
            .expect("a client");
        for watch in api.watches(EndpointsSource::Slices, "one", &sender) {
            tokio::spawn(watch);
        }
        events
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(address: SocketAddr, script: &Arc<Mutex<Script>>) -> (Runtime, SocketAddr) {
    let listener = std::net::TcpListener::bind(address).expect("a port");
    let address = listener.local_addr().expect("its address");
    listener.set_nonblocking(true).expect("a socket");
    let app = Router::new()
        .fallback(respond)
        .with_state(Arc::clone(script));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread");
    runtime.spawn(async {
        let listener = TcpListener::from_std(listener).expect("a runtime");
        axum::serve(listener, app).await.expect("the server runs");
    });
    (runtime, address)
}

async fn respond(State(script): State<Arc<Mutex<Script>>>, uri: Uri) -> Response {
    let mut script = script.lock().unwrap();
    let query = uri.query().unwrap_or_default();
    let path = match uri.path() {
        SERVICES if query.contains("labelSelector=service.kubernetes.io%2Fservice") => NAMED,
        SERVICES if query.contains("labelSelector=service.kubernetes.io%2Fheadless") => HEADLESS,
        other => other,
    };
    let request = (path.to_owned(), uri.to_string());
    script.requests.push(request);
    if !query.contains("watch=true") {
        let (code, body) = script.lists[path].clone();
        return Response::builder()
            .status(code)
            .body(Body::from(body.to_string()))
            .unwrap();
    }
    let Some(lines) = script.watches.remove(path) else {
        let silence = stream::pending::<Result<String, Infallible>>();
        return Response::new(Body::from_stream(silence));
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Response::new(Body::from(text))
}

fn service(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": version.to_string()},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

fn status(code: u16, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": message, "reason": "", "code": code,
    })
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    let event = timeout(TOLD, events.recv()).await;
    event.expect("an event in time").expect("the watches run")
}

/// The next event that is about Services.
async fn next_service(events: &mut mpsc::Receiver<Event>) -> Event {
    loop {
        let event = next(events).await;
        let is_other = matches!(&event, Event::Replace(kind, _) if *kind != Kind::Service);
        if !is_other {
            return event;
        }
    }
}

fn names(event: &Event) -> Vec<String> {
    let Event::Replace(_, objects) = event else {
        panic!("no list: {event:?}");
    };
    let names = objects.iter().map(|object| match object.reference() {
        ObjectRef::Service(key) | ObjectRef::Foreign(_, key) | ObjectRef::Slice(key) => key.name,
        ObjectRef::Node(name) | ObjectRef::ServiceCidr(name) => name,
    });
    names.collect()
}

#[tokio::test]
async fn every_kind_is_listed_with_its_selectors() {
    let server = Server::start();
    let mut events = server.follow().await;
    let mut kinds = Vec::new();
    for _ in Kind::ALL {
        let Event::Replace(kind, objects) = next(&mut events).await else {
            panic!("lists come first");
        };
        assert_eq!(objects, []);
        kinds.push(kind);
    }
    kinds.sort();
    assert_eq!(kinds, Kind::ALL);
    let not_foreign = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io\
                       %2Fheadless";
    for (path, selector) in [
        (SERVICES, not_foreign),
        (
            NAMED,
            "labelSelector=service.kubernetes.io%2Fservice-proxy-name&",
        ),
        (
            HEADLESS,
            "labelSelector=service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name",
        ),
        (SLICES, not_foreign),
        (NODES, "fieldSelector=metadata.name%3Done"),
    ] {
        let requests = server.requests(path);
        assert!(requests[0].contains(selector), "{}", requests[0]);
    }
}

#[tokio::test]
async fn changes_follow_the_list() {
    let server = Server::start();
    server.list(SERVICES, &[service("a", 1)]);
    let lines = [
        json!({"type": "ADDED", "object": service("b", 8)}),
        json!({"type": "DELETED", "object": service("a", 9)}),
    ];
    server.watch(SERVICES, &lines);
    let mut events = server.follow().await;
    assert_eq!(names(&next_service(&mut events).await), ["a"]);
    let event = next_service(&mut events).await;
    assert!(
        matches!(&event, Event::Apply(Object::Service(s)) if s.key.name == "b"),
        "{event:?}"
    );
    let event = next_service(&mut events).await;
    assert!(
        matches!(&event, Event::Delete(ObjectRef::Service(k)) if k.name == "a"),
        "{event:?}"
    );
}

/// Rule 3: the deletion waits for the addition that the other watch tells later.
#[tokio::test]
async fn a_service_that_gets_the_label_is_handed_over_before_it_goes() {
    let server = Server::start();
    server.list(SERVICES, &[service("a", 1)]);
    let deleted = json!({"type": "DELETED", "object": service("a", 8)});
    server.watch(SERVICES, &[deleted]);
    let mut theirs = service("a", 8);
    theirs["metadata"]["labels"] = json!({"service.kubernetes.io/headless": ""});
    let added = json!({"type": "ADDED", "object": theirs});
    server.watch(HEADLESS, &[added]);
    let mut events = server.follow().await;
    let mut told = Vec::new();
    while told.len() < 2 {
        match next(&mut events).await {
            Event::Apply(object) => told.push(object.reference()),
            Event::Delete(reference) => told.push(reference),
            Event::Replace(..) => {}
            other @ (Event::Skip(_) | Event::Unskip(_) | Event::HostAddrs(_)) => {
                panic!("{other:?}")
            }
        }
    }
    let key = crate::model::ObjectKey::new("shop", "a");
    assert_eq!(
        told,
        [
            ObjectRef::Foreign(crate::model::Label::Headless, key.clone()),
            ObjectRef::Service(key)
        ]
    );
}

#[tokio::test]
async fn a_watch_that_is_too_old_lists_again() {
    let gone = status(410, "too old resource version");
    let server = Server::start();
    server.list(SERVICES, &[service("a", 1), service("b", 2)]);
    server.watch(SERVICES, &[json!({"type": "ERROR", "object": gone})]);
    let mut events = server.follow().await;
    assert_eq!(names(&next_service(&mut events).await), ["a", "b"]);
    server.list(SERVICES, &[service("b", 2)]);
    assert_eq!(names(&next_service(&mut events).await), ["b"]);
}

#[tokio::test]
async fn an_object_that_is_no_service_leaves_the_others() {
    let mut bad = service("bad", 1);
    bad["spec"]["ports"] = json!("all");
    let server = Server::start();
    server.list(SERVICES, &[bad, service("good", 2)]);
    let mut events = server.follow().await;
    assert_eq!(names(&next_service(&mut events).await), ["good"]);
    let event = next_service(&mut events).await;
    assert!(
        matches!(&event, Event::Skip(skip) if skip.object == "Service shop/bad"),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_cluster_without_service_cidrs_is_done_without() {
    let server = Server::start();
    server.answer(CIDRS, 404, status(404, "no such resource"));
    let mut events = server.follow().await;
    let mut lists = Vec::new();
    for _ in Kind::ALL {
        let event = next(&mut events).await;
        assert_eq!(names(&event), [] as [&str; 0]);
        lists.push(event);
    }
    assert!(lists.contains(&Event::Replace(Kind::ServiceCidr, vec![])));
    let more = timeout(Duration::from_secs(2), events.recv()).await;
    assert!(more.is_err(), "told once, not again: {more:?}");
    assert_eq!(server.requests(CIDRS).len(), 1, "asked again slowly");
}

#[tokio::test]
async fn service_cidrs_that_stay_forbidden_are_done_without() {
    let server = Server::start();
    server.answer(CIDRS, 403, status(403, "not for you"));
    let mut events = server.follow().await;
    let begun = Instant::now();
    for _ in 1..Kind::ALL.len() {
        assert_ne!(
            next(&mut events).await,
            Event::Replace(Kind::ServiceCidr, vec![])
        );
    }
    let last = timeout(GRACE * 3, events.recv()).await.expect("in time");
    assert_eq!(last, Some(Event::Replace(Kind::ServiceCidr, vec![])));
    assert!(begun.elapsed() > GRACE, "asked for some time first");
}

#[tokio::test]
async fn rights_that_come_late_are_noticed() {
    let server = Server::start();
    server.answer(SERVICES, 403, status(403, "services is forbidden"));
    let mut events = server.follow().await;
    for _ in 0..3 {
        assert!(!matches!(
            next(&mut events).await,
            Event::Replace(Kind::Service, _)
        ));
    }
    server.list(SERVICES, &[service("a", 1)]);
    assert_eq!(names(&next_service(&mut events).await), ["a"]);
}

#[tokio::test]
async fn a_server_that_was_away_is_followed_again() {
    let mut server = Server::start();
    server.list(SERVICES, &[service("a", 1)]);
    // a watch that ends is taken up again, and by then nobody is there
    server.watch(
        SERVICES,
        &[json!({"type": "MODIFIED", "object": service("a", 8)})],
    );
    let mut events = server.follow().await;
    assert_eq!(names(&next_service(&mut events).await), ["a"]);
    assert!(matches!(next_service(&mut events).await, Event::Apply(_)));
    server.stop();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.watch(
        SERVICES,
        &[json!({"type": "ADDED", "object": service("b", 9)})],
    );
    server.runtime = Some(serve(server.address, &server.script).0);
    let event = next_service(&mut events).await;
    assert!(
        matches!(&event, Event::Apply(Object::Service(s)) if s.key.name == "b"),
        "{event:?}"
    );
    let lists = server.requests(SERVICES);
    let lists = lists.iter().filter(|r| !r.contains("watch=true")).count();
    assert_eq!(lists, 1, "taken up where it was, without a new list");
}

#[tokio::test]
async fn watches_end_when_nobody_listens() {
    let server = Server::start();
    let (sender, events) = mpsc::channel(64);
    let master = format!("http://{}", server.address);
    let api = crate::k8s::Api::open(None, Some(&master), None, Arc::default())
        .await
        .expect("a client");
    let watches = api.watches(EndpointsSource::Endpoints, "one", &sender);
    drop(events);
    let ended = timeout(TOLD, futures::future::join_all(watches)).await;
    assert!(ended.is_ok());
}

#[test]
fn a_watch_is_begun_anew_only_where_asking_again_cannot_help() {
    let start = |code: u16| {
        let status = serde_json::from_value(status(code, "x")).expect("a status");
        watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
    };
    let table = [
        (410, true),
        (403, true),
        (404, true),
        (429, false),
        (500, false),
    ];
    for (code, expected) in table {
        let error = start(code);
        assert_eq!(Trouble::of(&error).needs_list(&error), expected, "{code}");
    }
}
