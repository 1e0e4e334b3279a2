//! Reads what test programs print: libtest's format, which libtest-mimic writes too. Counts come from the summary line
//! that ends each program, names and reasons from the line of each test.

/// What came of some tests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Results {
    /// Tests that proved what they say.
    pub passed: u64,
    /// Tests that did not.
    pub failed: u64,
    /// Tests that could not run here.
    pub skipped: u64,
    /// The names of the failed.
    pub failures: Vec<String>,
    /// The skipped.
    pub skips: Vec<Skip>,
}

/// A test, or more than one, that could not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The test's name, empty for a layer as a whole.
    pub name: String,
    /// Why it could not run.
    pub reason: String,
}

impl Results {
    /// One thing that went wrong outside of any test.
    #[must_use]
    pub fn failure(words: impl Into<String>) -> Self {
        Self {
            failed: 1,
            failures: vec![words.into()],
            ..Self::default()
        }
    }

    /// One thing that could not run.
    #[must_use]
    pub fn skip(reason: impl Into<String>) -> Self {
        let skip = Skip {
            name: String::new(),
            reason: reason.into(),
        };
        Self {
            skipped: 1,
            skips: vec![skip],
            ..Self::default()
        }
    }

    /// Adds what came of others.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    /// Takes in one line of a test program.
    pub fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.passed += number_before(summary, " passed");
            self.failed += number_before(summary, " failed");
            self.skipped += number_before(summary, " ignored");
            return;
        }
        let Some((name, outcome)) = test_line(line) else {
            return;
        };
        if outcome.starts_with("FAILED") {
            self.failures.push(name);
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason_in(reason).to_owned();
            self.skips.push(Skip { name, reason });
        }
    }
}

/// `test <name> ... <outcome>`: the name and the outcome. A test that writes to the terminal itself may put its words
/// between the two.
fn test_line(line: &str) -> Option<(String, &str)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // libtest-mimic aligns names, and puts the kind of a test before it.
    let words: Vec<&str> = name.split_whitespace().collect();
    Some((words.join(" "), outcome))
}

/// libtest writes `ignored, reason`, libtest-mimic `ignored (reason)`.
fn reason_in(rest: &str) -> &str {
    if let Some(reason) = rest.strip_prefix(", ") {
        return reason;
    }
    let bare = rest
        .strip_prefix(" (")
        .and_then(|rest| rest.strip_suffix(')'));
    bare.unwrap_or("no reason given")
}

fn number_before(text: &str, word: &str) -> u64 {
    let Some((before, _)) = text.split_once(word) else {
        return 0;
    };
    let digits = before.rsplit(' ').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(text: &str) -> Results {
        let mut results = Results::default();
        text.lines().for_each(|line| results.read(line));
        results
    }

    #[test]
    fn counts_of_several_programs_add_up() {
        let results = results(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.20s\n",
        );
        assert_eq!((results.passed, results.failed, results.skipped), (4, 2, 1));
    }

    #[test]
    fn a_failed_test_is_named_once() {
        let results = results(
            "test net::ports_keep_their_order ... FAILED\n\nfailures:\n\nfailures:\n    net::ports_keep_their_order\n",
        );
        assert_eq!(results.failures, ["net::ports_keep_their_order"]);
    }

    #[test]
    fn both_harnesses_tell_why_a_test_was_skipped() {
        let results = results(
            "test slow ... ignored, takes an hour\ntest [families] udp_lite   ... ignored (needs root)\ntest bare ... ignored\n",
        );
        let skips = results.skips.iter();
        let skips: Vec<_> = skips.map(|skip| (&*skip.name, &*skip.reason)).collect();
        assert_eq!(
            skips,
            [
                ("slow", "takes an hour"),
                ("[families] udp_lite", "needs root"),
                ("bare", "no reason given")
            ]
        );
    }

    #[test]
    fn lines_of_no_harness_count_nothing() {
        assert_eq!(
            results("running 3 tests\ntest tube\nthe test result: 5 passed; 1 failed\n"),
            Results::default()
        );
    }
}
