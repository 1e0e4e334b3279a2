//! The table that ends a test run.

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
    for (title, names) in [
        ("skipped", names(reports, |results| &results.skips)),
        ("failed", names(reports, |results| &results.failures)),
    ] {
        if !names.is_empty() {
            say::heading(title);
            names.iter().for_each(say::line);
        }
    }
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

fn names(reports: &[Report], of: impl Fn(&Results) -> &Vec<String>) -> Vec<String> {
    let all = reports.iter().flat_map(|report| {
        let names = of(&report.results).iter();
        names.map(|name| format!("  {:<9} {name}", report.layer.to_string()))
    });
    all.collect()
}
