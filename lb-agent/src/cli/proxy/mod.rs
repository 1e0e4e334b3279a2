//! kube-proxy's configuration: one table of its fields and flags (`fields`), from which the command line, the reader
//! of `--config`, its validation, `config explain` and `--write-config-to` are made.

mod fields;
mod file;
mod flags;
mod kind;
mod merged;

pub use fields::{FIELDS, Field, Use};
pub use file::{ProxyFile, ProxyFileError};
pub use flags::{OwnFlag, ProxyFlags};
pub use kind::{Kind, boolean, items};
pub use merged::{Origin, ProxyConfig};
