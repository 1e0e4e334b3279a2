//! What we ask of etcd itself, behind the API server's back, over its JSON gateway on plain HTTP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Forgets every revision before the current one: a watch that resumes from an older one is answered 410 Gone.
/// Returns the revision that is the oldest one left.
///
/// # Errors
/// When etcd on `port` does not answer or refuses.
pub(super) fn compact(port: u16) -> Result<i64> {
    let range = post(port, "/v3/kv/range", &json!({ "key": "AA==" }))?;
    let revision: i64 = range["header"]["revision"]
        .as_str()
        .context("etcd's answer holds no revision")?
        .parse()
        .context("etcd's revision is no number")?;
    post(
        port,
        "/v3/kv/compaction",
        &json!({ "revision": revision.to_string(), "physical": true }),
    )?;
    Ok(revision)
}

/// Stores `value` under `key`, unseen by the API server's validation.
///
/// # Errors
/// When etcd on `port` does not answer or refuses.
pub(super) fn put(port: u16, key: &str, value: &str) -> Result<()> {
    let body = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) });
    post(port, "/v3/kv/put", &body).map(drop)
}

/// Whether etcd on `port` serves requests.
pub(super) fn is_healthy(port: u16) -> bool {
    exchange(port, "GET /health HTTP/1.0\r\n\r\n")
        .is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

fn post(port: u16, path: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(port, &request)
        .with_context(|| format!("etcd on port {port} did not answer {path}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("etcd's answer to {path} is cut short"))?;
    if !head.starts_with("HTTP/1.0 200") {
        bail!("etcd refused {path}: {answer}");
    }
    serde_json::from_str(body).with_context(|| format!("etcd's answer to {path} is no JSON"))
}

/// HTTP/1.0, so that the answer is neither chunked nor kept open and its end is the connection's.
fn exchange(port: u16, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
