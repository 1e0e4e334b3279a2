//! Architectures that images are made for, and what each calls them.

use anyhow::{Result, bail};
use clap::ValueEnum;

/// An architecture, by its name in images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Arch {
    /// `x86_64`
    Amd64,
    /// `aarch64`
    Arm64,
}

impl Arch {
    /// This machine's.
    ///
    /// # Errors
    /// When no image is made for it.
    pub fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("no image is made for {other}; name one with --arch"),
        }
    }

    /// As images have it.
    #[must_use]
    pub fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust has it.
    #[must_use]
    pub fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The target of a static binary.
    #[must_use]
    pub fn target(self) -> String {
        format!("{}-unknown-linux-musl", self.rust())
    }
}
