//! The agent's binary: parses the command line and calls the library.

use std::process::ExitCode;

use lb_agent::cli::{self, Args};

fn main() -> ExitCode {
    let args = Args::read(std::env::args_os()).unwrap_or_else(|said| said.exit());
    match cli::main(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lb-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
