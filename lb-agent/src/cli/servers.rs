//! Where the health and metrics servers listen (rules 120, 123 and 139), the flags of old included.

use std::net::{IpAddr, SocketAddr};

use super::{
    proxy::{Origin, ProxyConfig},
    settings::{SettingsError, bad},
};

pub(super) const HEALTHZ_PORT: u16 = 10256;
pub(super) const METRICS_PORT: u16 = 10249;
const HEALTHZ_IPV6: &str = "[::]:10256";
const METRICS_IPV6: &str = "[::1]:10249";

/// With an IPv6 `--bind-address` the servers listen in that family unless told otherwise.
pub(super) fn follow_bind_address(proxy: &mut ProxyConfig) {
    let address: Option<IpAddr> = proxy.text("bindAddress").parse().ok();
    if !address.is_some_and(|address| address.is_ipv6()) {
        return;
    }
    for (path, default) in [
        ("healthzBindAddress", HEALTHZ_IPV6),
        ("metricsBindAddress", METRICS_IPV6),
    ] {
        if proxy.said(path).is_none() {
            proxy.set(path, default.to_owned(), Origin::Default);
        }
    }
}

/// `--healthz-port` and `--metrics-port`: 0 is off, else the port of an address that has none.
pub(super) fn with_port(proxy: &mut ProxyConfig, path: &'static str, port: Option<u16>) {
    let Some(port) = port else {
        return;
    };
    let is_given = proxy.origin(path) != Origin::Default;
    let given = is_given.then(|| bare_ip(proxy.text(path)));
    let default = || bare_ip(proxy.text(path)).or_else(|| host(proxy.text(path)));
    let address = match (port, given) {
        (0, _) => String::new(),
        (_, Some(None)) => return,
        (_, Some(ip)) => ip.map_or_else(String::new, |ip| SocketAddr::new(ip, port).to_string()),
        (_, None) => default().map_or_else(String::new, |ip| SocketAddr::new(ip, port).to_string()),
    };
    proxy.set(path, address, Origin::Flag);
}

fn host(text: &str) -> Option<IpAddr> {
    text.parse::<SocketAddr>().ok().map(|address| address.ip())
}

/// An address without port, in brackets or not.
fn bare_ip(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok()
}

/// Rules 120, 123 and 139: an address with or without a port; empty is off.
pub(super) fn bind_address(
    proxy: &ProxyConfig,
    path: &str,
    default_port: u16,
) -> Result<Option<SocketAddr>, SettingsError> {
    let text = proxy.text(path);
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |remedy: &str| bad(proxy.name(path), text, remedy);
    let address = match bare_ip(text) {
        Some(ip) => SocketAddr::new(ip, default_port),
        None => (text.parse())
            .map_err(|_| wrong("neither IP nor IP:PORT; write 0.0.0.0:10256 or [::]:10256"))?,
    };
    if address.port() == 0 {
        return Err(wrong("the port must be 1 to 65535"));
    }
    Ok(Some(address))
}
