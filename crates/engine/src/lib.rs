//! The engine gives every command its place in one order and says when that place is certain.
//!
//! [`Engine`] is the seam: `local` is one process with group commit; a replicated engine stands behind the same trait.
//! The node proposes commands with the two clock readings of [`Clock`]; the engine gives back entries in order once they are committed:
//! under [`Durability::Always`] once they are on disk.
//!
//! Invariant: committed entries come out in order, each exactly once, and never come back changed after a crash.
//! Invariant: no thread and no clock here: I/O leaves as jobs, time comes in as an argument.
//! Called by: `node`; the jobs are run by the runtime, or by the simulator.

mod clock;
mod local;

pub use clock::{Clock, Instant};
pub use local::{Local, Opened};

use quorate_log::{JobDone, Log, LogError, WriteJob};
use quorate_types::{Command, Decided, DecodeError, Entry, LogIndex, LogTime, WallTime};

/// When a commit may be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced to disk. The default.
    #[default]
    Always,
    /// Once it is handed to the operating system; synced every so often. A power loss may cost the last interval.
    Interval,
    /// Once it is handed to the operating system; synced when the log pleases.
    None,
}

/// What one turn has to order.
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    /// Wall time, not before that of any entry before.
    pub wall: WallTime,
    /// Log time, not before that of any entry before.
    pub time: LogTime,
    /// Entropy for the entry.
    pub seed: u64,
    /// Version of the machine's rules.
    pub machine_version: u32,
    /// The commands in order.
    pub commands: Vec<Command>,
    /// What earlier entries came to.
    pub decided: Vec<Decided>,
}

/// Why the engine cannot go on, or could not open.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The log refuses.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An entry of the log is not one that this build understands.
    #[error(
        "entry {index} cannot be read: {error}. Nothing was changed: open it with the release that wrote it"
    )]
    Entry {
        /// The entry.
        index: LogIndex,
        /// Why.
        error: DecodeError,
    },
}

/// Orders commands.
pub trait Engine {
    /// Gives commands the next place. Not yet certain: [`Engine::next_committed`] gives the entry back when it is.
    ///
    /// # Errors
    /// [`EngineError::Log`]: nothing was ordered.
    fn propose(&mut self, proposal: Proposal) -> Result<LogIndex, EngineError>;

    /// I/O to be run now, in the order taken, anywhere; its outcome comes back by [`Engine::complete`].
    fn take_job(&mut self) -> Option<WriteJob>;

    /// I/O that only syncs what was written before: for [`Durability::Interval`].
    fn take_sync_job(&mut self) -> Option<WriteJob>;

    /// Takes the outcome of a job.
    ///
    /// # Errors
    /// A failed write or sync: what was proposed and is not committed may be lost, and the engine is of no further use.
    fn complete(&mut self, done: JobDone) -> Result<(), EngineError>;

    /// The next entry that is certain, in order.
    fn next_committed(&mut self) -> Option<Entry>;

    /// The last place given.
    fn last(&self) -> LogIndex;

    /// How many proposed entries are not yet given back.
    fn in_flight(&self) -> usize;

    /// The log below, for reading, snapshots and cleaning.
    fn log(&self) -> &Log;

    /// The log below, for snapshots and cleaning.
    fn log_mut(&mut self) -> &mut Log;
}
