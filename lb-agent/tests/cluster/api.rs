//! Objects in and out of the API server, as an administrator would write them.
//!
//! Server-side apply is the one way to write: it makes what is missing and changes what is there, and a field that is
//! left out next time (a label, say) is taken away.

use std::path::Path;

use axum::http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// A blocking client of one API server.
pub(crate) struct Api {
    runtime: Runtime,
    client: Client,
}

impl Api {
    /// A client with the server and the rights of `kubeconfig`.
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).unwrap();
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .unwrap();
            Client::try_from(config).unwrap()
        });
        Self { runtime, client }
    }

    /// Creates or changes `object` and returns what the server made of it.
    pub(crate) fn apply(&self, object: &Value) -> Value {
        self.try_apply(object)
            .unwrap_or_else(|error| panic!("refused: {error}\n{object:#}"))
    }

    /// As [`Api::apply`], where the server may well say no.
    pub(crate) fn try_apply(&self, object: &Value) -> kube::Result<Value> {
        let path = format!("{}?fieldManager=test&force=true", path_of(object));
        self.send(Method::PATCH, &path, Some((APPLY, object)))
    }

    /// Sets fields of the status of an object that exists. A merge and no apply: a Node has two addresses of one type,
    /// which apply takes for one and the same.
    pub(crate) fn merge_status(&self, object: &Value) {
        let path = format!("{}/status", path_of(object));
        self.send(Method::PATCH, &path, Some((MERGE, object)))
            .unwrap_or_else(|error| panic!("{path} refused: {error}\n{object:#}"));
    }

    /// Deletes `object` (its kind, namespace and name are looked at) and does not wait until it is gone.
    pub(crate) fn delete(&self, object: &Value) {
        self.send(Method::DELETE, &path_of(object), None).unwrap();
    }

    /// Whether the server has `object`.
    pub(crate) fn has(&self, object: &Value) -> bool {
        self.send(Method::GET, &path_of(object), None).is_ok()
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> kube::Result<Value> {
        let (content_type, body) = match body {
            Some((content_type, object)) => (content_type, object.to_string().into_bytes()),
            None => (JSON, Vec::new()),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", content_type)
            .body(body)
            .unwrap();
        self.runtime.block_on(self.client.request(request))
    }
}

/// The path of an object, from its own words.
fn path_of(object: &Value) -> String {
    let version = text(object, "/apiVersion");
    let prefix = if version.contains('/') { "apis" } else { "api" };
    let plural = match text(object, "/kind") {
        "Endpoints" => "endpoints".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let place = match object.pointer("/metadata/namespace") {
        Some(Value::String(namespace)) => format!("namespaces/{namespace}/{plural}"),
        _ => plural,
    };
    format!(
        "/{prefix}/{version}/{place}/{}",
        text(object, "/metadata/name")
    )
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no {pointer} in {object:#}"))
}
