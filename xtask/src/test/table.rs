//! The table that ends a test run.

use super::results::Skip;
use super::{Report, Results};
use crate::say::{self, Colour, bold, colour};

/// Prints the table, the names behind its numbers, and the sum alone on the last line; returns the sum.
pub(super) fn print(reports: &[Report]) -> Results {
    let mut all = Results::default();
    say::line(format!(
        "\n{}",
        bold(&format!(
            "{:<10}{:>8}{:>8}{:>9}{:>9}",
            "layer", "passed", "failed", "skipped", "seconds"
        ))
    ));
    for report in reports {
        say::line(row(report));
        all.add(report.results.clone());
    }
    list("skipped", reports, |results| skips(&results.skips));
    list("failed", reports, |results| results.failures.clone());
    say::line(format!(
        "\n{} passed, {} failed, {} skipped",
        all.passed, all.failed, all.skipped
    ));
    all
}

fn row(report: &Report) -> String {
    let Report {
        layer,
        results,
        time,
    } = report;
    format!(
        "{:<10}{}{}{}{:>9.1}",
        layer.to_string(),
        number(results.passed, 8, Colour::Green),
        number(results.failed, 8, Colour::Red),
        number(results.skipped, 9, Colour::Yellow),
        time.as_secs_f64()
    )
}

/// A nought stays without colour.
fn number(number: u64, width: usize, hue: Colour) -> String {
    let text = format!("{number:>width$}");
    if number == 0 {
        text
    } else {
        colour(hue, &text)
    }
}

fn list(title: &str, reports: &[Report], of: impl Fn(&Results) -> Vec<String>) {
    let mut is_first = true;
    for report in reports {
        for entry in of(&report.results) {
            if is_first {
                say::heading(title);
                is_first = false;
            }
            say::line(format!("  {:<9} {entry}", report.layer.to_string()));
        }
    }
}

/// A line for each test, but one for all where more than three lack the same thing.
fn skips(skips: &[Skip]) -> Vec<String> {
    let mut lines = Vec::new();
    for skip in skips {
        let alike = skips.iter().filter(|other| other.reason == skip.reason);
        let line = match alike.count() {
            count @ 4.. => format!("{count} tests: {}", skip.reason),
            _ if skip.name.is_empty() => skip.reason.clone(),
            _ => format!("{}: {}", skip.name, skip.reason),
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(name: &str, reason: &str) -> Skip {
        let (name, reason) = (name.to_owned(), reason.to_owned());
        Skip { name, reason }
    }

    #[test]
    fn many_tests_that_lack_the_same_share_a_line() {
        let mut all: Vec<Skip> = ["a", "b", "c", "d"]
            .map(|name| skip(name, "needs root"))
            .into();
        all.push(skip("e", "this kernel has no MPTCP"));
        all.push(skip("", "no Go"));
        assert_eq!(
            skips(&all),
            [
                "4 tests: needs root",
                "e: this kernel has no MPTCP",
                "no Go"
            ]
        );
    }
}
