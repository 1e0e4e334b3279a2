//! Where things are in this checkout, and the cargo that builds it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the checkout this program was built from.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Where cargo puts what it builds here: `CARGO_TARGET_DIR`, else `target`.
#[must_use]
pub fn target_dir() -> PathBuf {
    let root = root();
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// cargo for the workspace's own target folder, as the caller of `cargo xtask` asked for it (flags, folders), without
/// what the outer cargo says about this program's package: build scripts that look at it (ring's) would run again and
/// again as builds through `cargo xtask` and plain ones alternate.
#[must_use]
pub fn cargo() -> Command {
    const OF_OUR_PACKAGE: [&str; 5] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
    ];
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let is_of_our_package =
            |name: &str| OF_OUR_PACKAGE.iter().any(|prefix| name.starts_with(prefix));
        if name.to_str().is_some_and(is_of_our_package) {
            command.env_remove(name);
        }
    }
    command
}
