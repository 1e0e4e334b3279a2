//! `config explain`: what `run` would be configured with, and who said so.

use std::{fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    args::{ConfigCommand, RunArgs},
    output::{columns, print, render},
    proxy::{FIELDS, Field, Origin, OwnFlag, ProxyConfig, Use},
    settings::for_any_host,
};

/// One value.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Place in a KubeProxyConfiguration; empty: a flag of ours.
    pub field: String,
    /// Its flag; empty: none.
    pub flag: String,
    /// What it holds.
    pub value: String,
    /// `default`, `flag`, or the file.
    pub source: String,
    /// Why it changes nothing, if so.
    pub note: String,
}

/// Runs the verb.
///
/// # Errors
/// As `run` would refuse it.
pub fn execute(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Explain { run, output } = command;
    // Checked as `run` checks it, but for what is looked for on this host: another one may be meant.
    let checked = for_any_host(run)?;
    let rows = rows(&checked.proxy, run.proxy.own());
    print(&render(*output, &rows, |rows| table(rows))?)?;
    for warning in checked.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

/// `--write-config-to`
///
/// # Errors
/// As `run` would refuse it, or the file cannot be written.
pub fn write(args: &RunArgs, to: &Path) -> anyhow::Result<ExitCode> {
    let checked = for_any_host(args)?;
    let text = serde_yaml_ng::to_string(&checked.config.shown)?;
    fs::write(to, text).with_context(|| format!("--write-config-to {}", to.display()))?;
    print(&format!("wrote {}\n", to.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// kube-proxy's fields in the order of its table, then our own flags by name.
pub fn rows(proxy: &ProxyConfig, own: &[OwnFlag]) -> Vec<Row> {
    let mut own: Vec<Row> = own.iter().map(own_row).collect();
    own.sort_by(|a, b| a.flag.cmp(&b.flag));
    FIELDS
        .iter()
        .map(|field| row(field, proxy))
        .chain(own)
        .collect()
}

fn row(field: &Field, proxy: &ProxyConfig) -> Row {
    Row {
        field: field.path.to_owned(),
        flag: dashes(field.flag),
        value: proxy.text(field.path).to_owned(),
        source: match (proxy.origin(field.path), proxy.file()) {
            (Origin::File, Some(file)) => file.to_owned(),
            (Origin::Flag, _) => "flag".to_owned(),
            (Origin::Default | Origin::File, _) => "default".to_owned(),
        },
        note: match field.use_ {
            Use::Yes => String::new(),
            Use::Moot(why) | Use::Warned(why) => why.to_owned(),
        },
    }
}

fn own_row(flag: &OwnFlag) -> Row {
    Row {
        field: String::new(),
        flag: dashes(&flag.name),
        value: flag.value.clone(),
        source: if flag.is_given { "flag" } else { "default" }.to_owned(),
        note: String::new(),
    }
}

fn dashes(flag: &str) -> String {
    match flag.len() {
        0 => String::new(),
        1 => format!("-{flag}"),
        _ => format!("--{flag}"),
    }
}

/// For people.
pub fn table(rows: &[Row]) -> String {
    let or = |text: &str, none: &str| {
        let is_there = !text.is_empty();
        if is_there { text } else { none }.to_owned()
    };
    columns(
        ["FIELD", "FLAG", "VALUE", "SOURCE", "NOTE"],
        rows.iter().map(|row| {
            [
                or(&row.field, "-"),
                or(&row.flag, "-"),
                or(&row.value, "\"\""),
                row.source.clone(),
                row.note.clone(),
            ]
        }),
    )
}
