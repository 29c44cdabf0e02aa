//! What ends a run before it has a verdict. Anomalies are no errors: they are what a run is for, and are reported.
//!
//! Called by: every module of this crate.

use std::io;

/// Why a run could not be carried through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// A call to the operating system.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        error: io::Error,
    },
    /// A command that had to succeed.
    #[error("`{command}` failed: {said}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        said: String,
    },
    /// Something that had to happen in time.
    #[error("{what} did not happen within {seconds} s; last seen: {seen}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What was there instead.
        seen: String,
    },
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
}

impl Trouble {
    /// Names what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Trouble {
        let what = what.into();
        move |error| Trouble::Io { what, error }
    }
}
