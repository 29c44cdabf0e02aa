//! What went wrong, for people and for scripts: a message, the next step, an exit code.
//!
//! Invariant: an exit code tells whether it happened (0), did not (3, 4, 6), or cannot be known (5).
//! Called by: every command returns a [`Failure`]; `main` says it.

use quorate_log::LogError;
use std::fmt;
use std::process::ExitCode;

/// Exit codes; `quorate --help` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything not named below.
    Failed,
    /// The command line contradicts itself.
    Usage,
    /// What was asked for is not there.
    Missing,
    /// Refused by what is there. It did not happen.
    Refused,
    /// It may or may not have happened.
    Unknown,
    /// No server answered, or it takes nothing now. It did not happen.
    Unreachable,
    /// A data folder is damaged or cannot be opened.
    Damaged,
    /// `lock`, `elect`: the lease was lost.
    LeaseLost,
    /// `lock`, `elect`: not got.
    NotHeld,
    /// `lock`, `elect`: the command could not be run.
    CannotRun,
    /// `lock`, `elect`: there is no such command.
    NoCommand,
    /// Nobody reads stdout any more: not worth a word.
    Closed,
    /// A signal ended the wait.
    Signal(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Closed => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Missing => 3,
            Exit::Refused => 4,
            Exit::Unknown => 5,
            Exit::Unreachable => 6,
            Exit::Damaged => 7,
            Exit::LeaseLost => 124,
            Exit::NotHeld => 125,
            Exit::CannotRun => 126,
            Exit::NoCommand => 127,
            Exit::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What was found and wanted.
    pub(crate) what: String,
    /// What to do next; empty when the message says it already.
    pub(crate) next: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: next.into() }
    }

    /// The operating system refused something.
    pub(crate) fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Exit::Failed, format!("{doing}: {error}"), "")
    }

    /// The server answered in a way that this client does not understand.
    pub(crate) fn strange(what: impl fmt::Display) -> Self {
        Self::new(
            Exit::Failed,
            format!("the server's answer is not understood: {what}"),
            "compare `quorate --version` with the version in `quorate status`",
        )
    }

    /// The same, with another exit code.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Says it on stderr.
    pub(crate) fn say(&self) -> ExitCode {
        if self.exit != Exit::Closed {
            eprintln!("error: {self}");
        }
        ExitCode::from(self.exit.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.next.is_empty() { Ok(()) } else { write!(f, "\n next: {}", self.next) }
    }
}

/// A data folder that is not served; the error names the file, the offset and what to do.
impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let exit = match &error {
            LogError::TargetNotEmpty { .. } | LogError::Locked { .. } => Exit::Refused,
            _ => Exit::Damaged,
        };
        Self::new(exit, error.to_string(), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_and_then_what_next() {
        let failure = Failure::new(Exit::Refused, "it is held", "wait for it");
        assert_eq!(failure.to_string(), "it is held\n next: wait for it");
        assert_eq!(Failure::new(Exit::Refused, "it is held", "").to_string(), "it is held");
    }

    #[test]
    fn every_exit_code_is_its_own() {
        let all = [
            Exit::Closed,
            Exit::Failed,
            Exit::Usage,
            Exit::Missing,
            Exit::Refused,
            Exit::Unknown,
            Exit::Unreachable,
            Exit::Damaged,
            Exit::LeaseLost,
            Exit::NotHeld,
            Exit::CannotRun,
            Exit::NoCommand,
            Exit::Signal(15),
        ];
        let mut codes: Vec<u8> = all.iter().map(|exit| exit.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all.len());
    }
}
