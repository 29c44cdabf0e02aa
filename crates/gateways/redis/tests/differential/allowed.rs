//! The differences that are meant. Every other one fails the test.
//!
//! Invariant: each row says why; a row that no run needs is taken out.
//! Called by: `run`.

use crate::resp::Reply;

/// A difference that is allowed, because of its reason.
pub(crate) struct Allowed {
    /// First words of the command, in capitals; empty for any command.
    pub(crate) command: &'static str,
    /// Why Quorate answers something else, or cannot know what Redis answers.
    pub(crate) why: &'static str,
    /// Whether these two replies, the reference's first, are such a difference.
    pub(crate) applies: fn(&Reply, &Reply) -> bool,
}

/// Whether a difference is allowed, and why.
pub(crate) fn reason(
    table: &[Allowed],
    command: &str,
    reference: &Reply,
    subject: &Reply,
) -> Option<&'static str> {
    table
        .iter()
        .find(|row| {
            (row.command.is_empty()
                || command == row.command
                || command.starts_with(&format!("{} ", row.command)))
                && (row.applies)(reference, subject)
        })
        .map(|row| row.why)
}

fn error(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Error(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// What Quorate answers otherwise than Redis, by design.
pub(crate) const BY_DESIGN: &[Allowed] = &[];

/// What Redis 7.0 answers otherwise than Redis since 7.2, which Quorate follows.
pub(crate) const SINCE_SEVEN: &[Allowed] = &[Allowed {
    command: "",
    why: "texts of errors have changed since 7.0; both refuse",
    applies: |reference, subject| match (error(reference), error(subject)) {
        (Some(one), Some(other)) => one.split(' ').next() == other.split(' ').next(),
        _ => false,
    },
}];
