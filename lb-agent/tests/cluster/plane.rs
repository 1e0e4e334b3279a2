//! The control planes of the tests: one that all share, and others for tests that break theirs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::cluster::{Cluster, User};

use super::api::Api;
use super::objects::{Object, namespace};

/// Where etcd and kube-apiserver are; set by `main` before the first test.
pub(crate) static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// How long the control plane itself may take. The keeper of ServiceCIDRs waits 10 s before it lets one go.
const PATIENCE: Duration = Duration::from_secs(60);

static SHARED: Mutex<Option<Arc<Plane>>> = Mutex::new(None);

/// A control plane and its administrator.
pub(crate) struct Plane {
    pub(crate) api: Api,
    pub(crate) cluster: Cluster,
}

impl Plane {
    /// A control plane of the test's own.
    pub(crate) fn start() -> Self {
        let programs = PROGRAMS
            .get()
            .expect("main finds the programs before it runs tests");
        let cluster = Cluster::start(programs).unwrap();
        let api = Api::new(&cluster.kubeconfig(User::Admin));
        Self { api, cluster }
    }

    /// The control plane that every test may use and none may break. Its controllers run, so a Service with a selector
    /// gets slices from Pods, and hand-made Endpoints are mirrored.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let plane = shared.get_or_insert_with(|| {
            let mut plane = Self::start();
            if plane.cluster.has_controllers() {
                plane.cluster.start_controllers().unwrap();
            }
            Arc::new(plane)
        });
        Arc::clone(plane)
    }

    /// Ends the shared control plane; statics are not dropped by themselves.
    pub(crate) fn end_shared() {
        drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Makes a Namespace; a test has one of its own.
    pub(crate) fn namespace(&self, name: &str) {
        self.api.apply(&namespace(name).0);
    }

    /// Creates or changes an object and returns what the server made of it.
    pub(crate) fn apply(&self, object: &Object) -> Value {
        self.api.apply(&object.0)
    }

    /// Sets fields of an object's status.
    pub(crate) fn merge_status(&self, object: &Object) {
        self.api.merge_status(&object.0);
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, object: &Object) {
        self.api.delete(&object.0);
    }

    /// Applies an object that the API server takes only after something else took effect in it.
    pub(crate) fn apply_when_possible(&self, object: &Object) -> Value {
        let begun = Instant::now();
        loop {
            match self.api.try_apply(&object.0) {
                Ok(made) => return made,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "still refused: {error}"),
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a deleted object that a finalizer holds is gone.
    pub(crate) fn wait_until_gone(&self, object: &Object) {
        let begun = Instant::now();
        while self.api.has(&object.0) {
            assert!(begun.elapsed() < PATIENCE, "still there: {:#}", object.0);
            thread::sleep(Duration::from_millis(100));
        }
    }
}
