//! The command line: what users type, and the verbs that look at the data plane or take it away.
//!
//! Everything but `run` and `programs` works on the pinned maps alone, while the agent runs and
//! after it has gone.

pub mod args;
pub mod client;
pub mod dial;
pub mod explain;
pub mod explanation;
pub mod output;
pub mod proxy_config;
pub mod service;
pub mod settings;
pub mod view;

pub use args::Args;
