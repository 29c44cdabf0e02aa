//! What can go wrong between a caller and the partition. Each says whether it happened, and what to do.

use quorate_log::LogError;
use quorate_node::Refused;
use quorate_types::Invalid;

/// Why a command or read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// It breaks a bound. It did not happen, and never will as it is.
    #[error("{0}; it did not happen")]
    Invalid(Invalid),
    /// Too much waits already. It did not happen.
    #[error(
        "overloaded: {waiting} commands wait, {max} may; it did not happen, try again in {retry_after_ms} ms"
    )]
    Overloaded {
        /// Commands that wait.
        waiting: u64,
        /// Commands that may wait.
        max: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// Growth is refused. It did not happen.
    #[error(
        "{what} is nearly full: growth is refused, deletes and reads go on; it did not happen. Delete something, shorten retention, or make room"
    )]
    Full {
        /// Disk or memory.
        what: &'static str,
    },
    /// There is no leader that can be reached. It did not happen.
    #[error("{why}; it did not happen, try again later or at another node")]
    NoLeader {
        /// What is missing.
        why: String,
    },
    /// The node opens its folder anew: it has just joined a cluster, or taken a copy of the leader's log. It did not happen.
    #[error("the node opens its folder anew; it did not happen, try again in a moment or at another node")]
    Restarting,
    /// A change of the cluster was refused.
    #[error("{why}")]
    Cluster {
        /// Why.
        why: String,
    },
    /// The node stops or has stopped. It did not happen.
    #[error("the node has stopped ({why}); it did not happen")]
    Stopped {
        /// Why.
        why: String,
    },
    /// The node stopped, or lost its leader, before it could tell: it may or may not have happened.
    #[error(
        "the node stopped or lost its leader before it could tell: it may or may not have happened; repeat it with the same idempotency key, or resolve that key"
    )]
    Indeterminate,
    /// The log could not be read.
    #[error("{0}")]
    Log(LogError),
}

impl From<Refused> for RuntimeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(invalid) => Self::Invalid(invalid),
            Refused::Overloaded { waiting, max, retry_after_ms } => {
                Self::Overloaded { waiting, max, retry_after_ms }
            }
            Refused::Full { what } => Self::Full { what },
            Refused::NoLeader { why } => Self::NoLeader { why },
            Refused::Stopped { why } => Self::Stopped { why },
        }
    }
}

impl From<LogError> for RuntimeError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}
