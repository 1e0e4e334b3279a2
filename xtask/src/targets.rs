//! Which libraries, programs and tests a package has, as cargo tells.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{tools, workspace};

/// What cargo builds from one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The package's name.
    pub name: String,
    /// Whether it has a library.
    pub has_library: bool,
    /// Whether it has a program with unit tests.
    pub has_binary: bool,
    /// The names of its files in `tests`.
    pub tests: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<RawPackage>,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    test: bool,
}

/// The packages of the workspace.
///
/// # Errors
/// When cargo cannot read a manifest; its words are on stderr then.
pub fn packages() -> Result<Vec<Package>> {
    let mut cargo = tools::cargo(&workspace::root());
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = tools::output(&mut cargo)?;
    let metadata: Metadata =
        serde_json::from_str(&text).context("cargo metadata wrote something else")?;
    Ok(metadata.packages.into_iter().map(package).collect())
}

fn package(raw: RawPackage) -> Package {
    let has = |wanted: &str| {
        let mut targets = raw.targets.iter();
        targets.any(|target| target.test && target.kind.iter().any(|kind| kind == wanted))
    };
    let (has_library, has_binary) = (has("lib"), has("bin"));
    let tests = raw.targets.into_iter();
    let tests = tests.filter(|target| target.kind.iter().any(|kind| kind == "test"));
    Package {
        name: raw.name,
        has_library,
        has_binary,
        tests: tests.map(|target| target.name).collect(),
    }
}
