//! Who may talk to the API server: static tokens, and the kubeconfig files that carry them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// An identity known to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// May do everything (group `system:masters`).
    Admin,
    /// Has what every cluster gives kube-proxy: the built-in role `system:node-proxier`, and nothing else.
    NodeProxier,
    /// The service account of `deploy/rbac.yaml`, with the role of that file and nothing else.
    Agent,
}

impl User {
    fn file_name(self) -> &'static str {
        match self {
            Self::Admin => "admin.kubeconfig",
            Self::NodeProxier => "node-proxier.kubeconfig",
            Self::Agent => "agent.kubeconfig",
        }
    }

    pub(super) fn kubeconfig(self, folder: &Path) -> PathBuf {
        folder.join(self.file_name())
    }
}

pub(super) const ADMIN_TOKEN: &str = "admin-of-the-test-cluster";
pub(super) const NODE_PROXIER_TOKEN: &str = "node-proxier-of-the-test-cluster";

/// Writes the API server's table of static tokens. The user `system:kube-proxy` is bound to `system:node-proxier` by
/// the API server itself.
pub(super) fn write_tokens(path: &Path) -> Result<()> {
    let table = format!(
        "{ADMIN_TOKEN},admin,admin,system:masters\n{NODE_PROXIER_TOKEN},system:kube-proxy,system:kube-proxy\n"
    );
    fs::write(path, table).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a kubeconfig for `user` into `folder`. The server's self-signed certificate is the authority: it may not
/// exist yet, for it is read when the file is used.
pub(super) fn write_kubeconfig(
    folder: &Path,
    user: User,
    server: &str,
    ca: &Path,
    token: &str,
) -> Result<()> {
    let path = user.kubeconfig(folder);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": ca } }],
        "users": [{ "name": "test", "user": { "token": token } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "current-context": "test",
    });
    fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))
}
