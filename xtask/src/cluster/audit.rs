//! What the API server was asked to list and watch, and by whom: its audit log.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A request to list or to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked: the user's name.
    pub user: String,
    /// Path and query, as they came.
    pub uri: String,
}

/// Writes which requests are kept.
pub(super) fn write_policy(folder: &Path) -> Result<()> {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["ResponseStarted", "ResponseComplete", "Panic"],
        "rules": [{ "level": "Metadata", "verbs": ["list", "watch"] }, { "level": "None" }],
    });
    let path = policy_path(folder);
    fs::write(&path, policy.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// For the API server's command line.
pub(super) fn arguments(folder: &Path) -> [String; 2] {
    [
        format!("--audit-policy-file={}", policy_path(folder).display()),
        format!("--audit-log-path={}", log_path(folder).display()),
    ]
}

/// Every request so far.
pub(super) fn requests(folder: &Path) -> Result<Vec<Request>> {
    let path = log_path(folder);
    let log = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    // The last line may be in the making.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(request).collect()
}

fn request(line: &str) -> Result<Request> {
    let event: Value = serde_json::from_str(line)?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(Request {
        user: text(&event["user"]["username"]).context("nobody asked")?,
        uri: text(&event["requestURI"]).context("nothing was asked")?,
    })
}

fn policy_path(folder: &Path) -> PathBuf {
    folder.join("audit-policy.json")
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("audit.jsonl")
}
