//! What can be wrong with a part of an object.

use std::fmt;

/// A part of an object that is left out: field, value, what is wrong with it, and what to do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
#[error("{field}: {value:?} {problem}; {remedy}")]
pub struct Fault {
    /// As a path: `spec.externalIPs[1]`.
    pub field: String,
    /// As it stands in the object.
    pub value: String,
    /// What is wrong with the value, to be read right behind it.
    pub problem: &'static str,
    /// What to write instead.
    pub remedy: &'static str,
}

/// Collects the faults of one object.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Notes one. `(problem, remedy)` belong together and are often constants.
    pub fn add(
        &mut self,
        field: impl fmt::Display,
        value: impl fmt::Display,
        (problem, remedy): (&'static str, &'static str),
    ) {
        self.0.push(Fault {
            field: field.to_string(),
            value: value.to_string(),
            problem,
            remedy,
        });
    }

    /// In the order of their finding.
    pub fn into_vec(self) -> Vec<Fault> {
        self.0
    }
}
