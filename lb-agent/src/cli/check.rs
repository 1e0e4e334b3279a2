//! `check`: which kernel features are there, which are missing and what that costs. Features are
//! tried, not derived from the kernel's version, wherever they can be tried without a trace.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    args::{Roots, ShowArgs},
    output::{columns, print, render},
    probe,
};

/// What a feature is to us.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub enum Need {
    /// Nothing works without it.
    Required,
    /// Something works less well, or not at all.
    Useful,
}

/// What was found.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It works.
    There,
    /// It does not.
    Missing,
    /// It could not be tried.
    Unknown,
}

/// One feature.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Feature {
    /// What it is.
    pub feature: String,
    /// Must it be there?
    pub need: Need,
    /// Is it?
    pub state: State,
    /// What was found, or why it could not be tried.
    pub found: String,
    /// What its absence costs, and what helps.
    pub cost: &'static str,
}

/// The JSON of `check`: keys are the fields' names.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// No required feature is missing; also the exit code.
    pub usable: bool,
    /// Every feature.
    pub features: Vec<Feature>,
}

impl Feature {
    /// A feature that was tried: an error is its absence, but EPERM only tells that we may not try.
    pub fn tried(
        feature: impl Into<String>,
        need: Need,
        cost: &'static str,
        result: Result<String, std::io::Error>,
    ) -> Self {
        let (state, found) = match result {
            Ok(found) => (State::There, found),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                (State::Unknown, format!("{e}; run as root"))
            }
            Err(e) => (State::Missing, e.to_string()),
        };
        Self {
            feature: feature.into(),
            need,
            state,
            found,
            cost,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// The answer cannot be printed.
pub fn execute(show: &ShowArgs) -> anyhow::Result<ExitCode> {
    let report = report(&show.roots);
    print(&render(show.output, &report, text)?)?;
    Ok(if report.usable {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn report(roots: &Roots) -> Report {
    let mut features = probe::system::features(roots);
    features.extend(probe::bpf::features(roots));
    features.extend(probe::network::features());
    Report {
        usable: is_usable(&features),
        features,
    }
}

/// What could not be tried may be there.
fn is_usable(features: &[Feature]) -> bool {
    !features
        .iter()
        .any(|f| f.need == Need::Required && f.state == State::Missing)
}

/// For people. The cost is shown where there is one to pay.
pub fn text(report: &Report) -> String {
    let rows = report.features.iter().map(|f| {
        let state = match (f.state, f.need) {
            (State::There, _) => "there",
            (State::Missing, Need::Required) => "MISSING",
            (State::Missing, Need::Useful) => "missing",
            (State::Unknown, _) => "unknown",
        };
        let cost = if f.state == State::There { "-" } else { f.cost };
        [
            f.feature.clone(),
            state.to_owned(),
            f.found.clone(),
            cost.to_owned(),
        ]
    });
    let table = columns(
        ["FEATURE", "STATE", "FOUND", "WHAT ITS ABSENCE COSTS"],
        rows,
    );
    let count = |need| {
        let missing = |f: &&Feature| f.need == need && f.state != State::There;
        report.features.iter().filter(missing).count()
    };
    let end = match (report.usable, count(Need::Required), count(Need::Useful)) {
        (false, ..) => "not usable: a required feature is missing".to_owned(),
        (true, 0, 0) => "usable: everything is there".to_owned(),
        (true, 0, less) => {
            format!("usable: {less} useful features are missing or could not be tried")
        }
        (true, unknown, _) => {
            format!("may be usable: {unknown} required features could not be tried")
        }
    };
    format!("{table}\n{end}\n")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn feature(need: Need, result: Result<&str, i32>) -> Feature {
        let result = result
            .map(str::to_owned)
            .map_err(io::Error::from_raw_os_error);
        Feature::tried("thing", need, "no things", result)
    }

    #[test]
    fn only_a_missing_required_feature_makes_it_unusable() {
        let (there, missing, may_not) = (Ok("here"), Err(libc::EINVAL), Err(libc::EPERM));
        assert!(is_usable(&[
            feature(Need::Required, there),
            feature(Need::Useful, missing)
        ]));
        assert!(is_usable(&[feature(Need::Required, may_not)]));
        assert!(!is_usable(&[feature(Need::Required, missing)]));
    }

    #[test]
    fn the_table_says_what_an_absence_costs() {
        let features = vec![
            feature(Need::Required, Ok("here")),
            feature(Need::Useful, Err(libc::EINVAL)),
        ];
        let report = Report {
            usable: true,
            features,
        };
        assert_eq!(
            text(&report),
            "\
FEATURE   STATE     FOUND                            WHAT ITS ABSENCE COSTS
thing     there     here                             -
thing     missing   Invalid argument (os error 22)   no things

usable: 1 useful features are missing or could not be tried
"
        );
    }
}
