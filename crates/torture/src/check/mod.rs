//! The checks: pure functions from what was seen to what cannot have been.
//!
//! Invariant: nothing here talks to anybody; the same history gives the same verdict.
//! Called by: `run`. Each check has tests with planted anomalies, which must be found.

pub(crate) mod appends;
pub(crate) mod locks;
pub(crate) mod registers;
pub(crate) mod revisions;

use std::fmt;

/// Something that cannot have happened in any order that respects real time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anomaly {
    /// A short name, stable across runs.
    pub(crate) kind: &'static str,
    /// What was seen, and what it contradicts.
    pub(crate) what: String,
}

impl Anomaly {
    pub(crate) fn new(kind: &'static str, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.what)
    }
}
