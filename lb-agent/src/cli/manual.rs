//! `completions` and `man`: what a shell and `man` want to know of the command line, from the command line itself.

use std::{fs, path::Path, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{args::Args, output::print};

/// Prints the script that completes words in `shell`.
///
/// # Errors
/// It cannot be printed.
pub fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    print(&script(shell)?)?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "lb-agent", &mut script);
    Ok(String::from_utf8(script)?)
}

/// Prints the manual page of all verbs, or writes one page for each verb into `folder`.
///
/// # Errors
/// It cannot be printed or written.
pub fn man(folder: Option<&Path>) -> anyhow::Result<ExitCode> {
    match folder {
        None => print(&page()?)?,
        Some(folder) => {
            fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(Args::command(), folder))
                .with_context(|| format!("{}", folder.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn page() -> anyhow::Result<String> {
    let mut page = Vec::new();
    Man::new(Args::command()).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_verbs_and_flags() {
        for shell in Shell::value_variants() {
            let script = script(*shell).expect("a script");
            // Fish and elvish name flags without their dashes.
            for word in ["explain", "cleanup", "hostname-override", "max-flows"] {
                assert!(script.contains(word), "{shell}: no {word}");
            }
        }
    }

    #[test]
    fn pages_are_written_for_every_verb() {
        let folder = tempfile::tempdir().expect("a folder");
        man(Some(folder.path())).expect("they are written");
        for (name, word) in [
            ("lb-agent.1", "cleanup"),
            ("lb-agent-run.1", "cluster\\-cidr"),
            ("lb-agent-service-get.1", "NS/NAME"),
        ] {
            let page = fs::read_to_string(folder.path().join(name)).expect(name);
            assert!(
                page.contains(".TH") && page.contains(word),
                "{name}: no {word}"
            );
        }
        assert!(page().expect("a page").contains("lb\\-agent"));
    }
}
