//! The agent's binary: parses the command line and calls the library.

use std::process::ExitCode;

use clap::Parser as _;
use lb_agent::cli::{self, Args};

fn main() -> ExitCode {
    match cli::main(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lb-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
