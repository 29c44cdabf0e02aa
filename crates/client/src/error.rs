//! What can go wrong for a client. Each error says whether the request may have taken effect.
//!
//! Called by: every method of [`crate::Client`].

use serde_json::Value;
use std::time::Duration;

/// Why a request has no good answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// A URL cannot be used.
    #[error("{url} is no URL of a server: {why}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// TLS cannot be used.
    #[error("TLS cannot be used: {why}")]
    Tls {
        /// What is wrong.
        why: String,
    },
    /// The server refused it, and says why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No server could be reached within the patience. It did not happen.
    #[error("no server could be reached, so it did not happen: {why}")]
    Unreachable {
        /// What went wrong last.
        why: String,
    },
    /// It was sent, and no answer came within the patience. It may or may not have happened.
    #[error(
        "it was sent and not answered, it may or may not have happened ({why}): resolve idempotency key {key}, or send the same again under it"
    )]
    Indeterminate {
        /// The key under which it was sent; empty for what needs none.
        key: String,
        /// What went wrong last.
        why: String,
    },
    /// The server answered something that is not of this protocol.
    #[error("the server at {url} answered in an unexpected way: {why}")]
    Unexpected {
        /// The server.
        url: String,
        /// What is unexpected.
        why: String,
    },
}

impl ClientError {
    /// The stable code of a problem, such as `guard_failed`; nothing for other errors.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.problem().map(|problem| problem.code.as_str())
    }

    /// The problem that the server told.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::Url { .. }
            | Self::Tls { .. }
            | Self::Unreachable { .. }
            | Self::Indeterminate { .. }
            | Self::Unexpected { .. } => None,
        }
    }

    /// Whether the request may have taken effect.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.may_have_happened,
            Self::Indeterminate { .. } | Self::Unexpected { .. } => true,
            Self::Url { .. } | Self::Tls { .. } | Self::Unreachable { .. } => false,
        }
    }
}

/// A problem as the server tells it (RFC 9457).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{detail} ({code}, status {status})")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Its stable code.
    pub code: String,
    /// What happened, for people.
    pub detail: String,
    /// Whether it may have taken effect.
    pub may_have_happened: bool,
    /// `no`, `same`, `after` or `ask`.
    pub retry: String,
    /// When the same request may pass.
    pub retry_after: Option<Duration>,
    /// All members.
    pub body: Value,
}

impl Problem {
    /// Reads a problem; nothing when the body is none, as from a proxy in between.
    pub(crate) fn read(status: u16, body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| body[name].as_str().map(String::from);
        Some(Self {
            status,
            code: text("error")?,
            detail: text("detail")?,
            may_have_happened: text("took_effect")? != "no",
            retry: text("retry")?,
            retry_after: body["retry_after_ms"].as_u64().map(Duration::from_millis),
            body,
        })
    }
}
