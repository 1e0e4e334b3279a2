//! What the verbs say, in one look: progress on stderr, results on stdout. Colour only where a terminal shows it and
//! nobody asked for none (`NO_COLOR`).

use std::fmt::Display;
use std::io::{IsTerminal, stderr, stdout};

/// One line of progress.
pub fn step(line: &str) {
    eprintln!(
        "{} {line}",
        paint(Colour::Cyan, "==>", stderr().is_terminal())
    );
}

/// One line of a result.
#[expect(clippy::print_stdout, reason = "the results of a command line program")]
pub fn line(text: impl Display) {
    println!("{text}");
}

/// A heading above results, an empty line before it.
pub fn heading(text: &str) {
    line(format!("\n{}", bold(text)));
}

/// The colours in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// What is wrong.
    Red,
    /// What is right.
    Green,
    /// What was left out.
    Yellow,
    /// What is under way.
    Cyan,
    /// What stands beside.
    Grey,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Cyan => "36",
            Self::Grey => "90",
        }
    }
}

/// `text` in a colour, for stdout.
#[must_use]
pub fn colour(colour: Colour, text: &str) -> String {
    paint(colour, text, stdout().is_terminal())
}

/// `text` in bold, for stdout.
#[must_use]
pub fn bold(text: &str) -> String {
    escape("1", text, stdout().is_terminal())
}

fn paint(colour: Colour, text: &str, terminal: bool) -> String {
    escape(colour.code(), text, terminal)
}

fn escape(code: &str, text: &str, terminal: bool) -> String {
    if terminal && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
