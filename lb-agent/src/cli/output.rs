//! How answers are printed: a table for people, or the same facts as JSON or YAML.
//!
//! # The JSON of `service list` and `service get`
//!
//! An array, one element per service port and family, sorted by namespace, name, port, protocol and
//! family:
//!
//! ```json
//! [{
//!   "namespace": "shop", "name": "web", "port": "http", "protocol": "TCP", "family": "IPv4",
//!   "id": 7, "algorithm": "random", "affinityTimeoutSeconds": 0,
//!   "frontends": [{
//!     "kind": "ClusterIP", "address": "10.96.0.10", "port": 80, "protocol": "TCP",
//!     "lists": {"pod": "cluster", "host": "cluster", "outside": "cluster"},
//!     "sourceRules": {"pod": "allow", "host": "allow", "outside": "allow"}
//!   }],
//!   "sourceRanges": ["192.0.2.0/24"],
//!   "clusterBackends": 1, "localBackends": 0,
//!   "backends": [{
//!     "address": "10.244.1.5", "port": 8080, "id": 12, "ready": true, "serving": true,
//!     "terminating": false, "onNode": true, "inCluster": true, "inLocal": false,
//!     "hintedAway": false
//!   }],
//!   "emptyVerdict": {"cluster": null, "local": "reject"}
//! }]
//! ```
//!
//! - `port` of the service is its name, empty for an unnamed port; `affinityTimeoutSeconds` is 0
//!   without affinity; `algorithm` is `random` or `round-robin`.
//! - `kind`: `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`. A NodePort's `address` is
//!   `nodes`; `status` lists the addresses.
//! - `lists` names, per class of client, the list it uses: `cluster` or `local`; `sourceRules` says
//!   what loadBalancerSourceRanges mean for it: `allow`, `deny`, or `check` by address.
//! - `clusterBackends` and `localBackends` count the places of the two lists.
//! - `emptyVerdict` is null for a list with backends, else `reject` (ECONNREFUSED) or `drop`
//!   (EHOSTUNREACH).
//!
//! The JSON of the other verbs is documented at the types that they print.

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// `-o`
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs
    Yaml,
}

/// The text of an answer, its end of line included.
///
/// # Errors
/// The answer does not serialise.
pub fn render<T: Serialize>(
    format: Format,
    answer: &T,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<String> {
    let mut text = match format {
        Format::Table => table(answer),
        Format::Json => serde_json::to_string_pretty(answer)?,
        Format::Yaml => serde_yaml_ng::to_string(answer)?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Writes an answer to standard output. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// Standard output does not take it.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Columns under headings, as kubectl prints them.
pub fn columns<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_rows_end_with_their_text() {
        let rows = [["a".into(), "1".into()], ["longer".into(), String::new()]];
        assert_eq!(
            columns(["NAME", "N"], rows),
            "NAME     N\na        1\nlonger\n"
        );
    }
}
