//! The engine gives every command its place in one order and says when that place is certain.
//!
//! [`Engine`] is the seam: [`Local`] is one process with group commit, [`Raft`] a replica of a cluster.
//! The node proposes commands with the two clock readings of [`Clock`]; the engine gives back entries in order once they are committed:
//! under [`Durability::Always`] once they are on disk, on a quorum's disks in a cluster.
//!
//! Invariant: committed entries come out in order, each exactly once, and never come back changed after a crash.
//! Invariant: no thread and no clock here: I/O leaves as jobs, messages to peers as values, time comes in as an argument.
//! Called by: `node`; the jobs are run by the runtime, or by the simulator.

mod clock;
mod job;
mod local;
mod raft;

pub use clock::{Clock, Instant};
pub use job::{Job, JobDone};
pub use local::Local;
pub use raft::{
    Change, ChangeError, CopyWanted, Identity, Member, Members, Message, PeerProgress, Raft, RaftConfig, Role,
};

use quorate_log::{Entries, Log, LogError, SnapshotReader, TornTail};
use quorate_types::{
    Command, Decided, DecodeError, Entry, LogIndex, LogTime, NodeId, Origin, Term, WallTime,
};

/// When a commit may be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced to disk, on a quorum's disks in a cluster. The default.
    #[default]
    Always,
    /// Once it is handed to the operating system, of a quorum in a cluster; synced every so often. A power loss may cost the
    /// last interval.
    Interval,
    /// Once it is handed to the operating system; synced when the log pleases. Refused by a cluster.
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
    /// Which node took which of them.
    pub origins: Vec<Origin>,
    /// What earlier entries came to.
    pub decided: Vec<Decided>,
}

impl Proposal {
    fn into_entry(self, index: LogIndex, term: Term) -> Entry {
        let Self { wall, time, seed, machine_version, commands, origins, decided } = self;
        let mut entry = Entry { index, term, wall, time, seed, machine_version, commands, origins, decided };
        entry.seal();
        entry
    }
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
    /// Only a leader orders, and not while it hands leadership over.
    #[error("this node does not lead: nothing was ordered")]
    NotLeader,
    /// The consensus library refuses.
    #[error("consensus: {0}")]
    Consensus(String),
    /// The folder's identity does not fit.
    #[error("{0}")]
    Identity(String),
}

/// Where a node stands in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The term.
    pub term: Term,
    /// The leader, when one is known.
    pub leader: Option<NodeId>,
    /// Whether this node leads.
    pub leads: bool,
    /// Whether it orders what is proposed: it leads, and is not handing leadership over.
    pub orders: bool,
}

/// What opening found: restore the snapshot, then apply the entries, before anything is proposed.
pub struct Opened {
    /// The newest good snapshot.
    pub snapshot: Option<SnapshotReader>,
    /// Certain entries after it.
    pub entries: Replay,
    /// What a crash left unfinished and was cut.
    pub torn: Option<TornTail>,
    /// Everything else worth saying.
    pub notes: Vec<String>,
    /// The last certain entry.
    pub last: LogIndex,
}

/// Entries of the log, decoded, in order.
pub struct Replay(Option<Entries>);

impl Iterator for Replay {
    type Item = Result<Entry, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match self.0.as_mut()?.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error.into())),
        };
        let index = LogIndex(entry.index.0);
        let decoded = Entry::decode_body(index, Term(entry.term.0), &entry.body);
        Some(decoded.map_err(|error| EngineError::Entry { index, error }))
    }
}

/// Orders commands.
pub trait Engine: Send {
    /// Where this node stands. A single node always leads.
    fn standing(&self) -> Standing;

    /// Gives commands the next place. Not yet certain: [`Engine::next_committed`] gives the entry back when it is; another entry in
    /// its place, or one of a later term, says that it never will be.
    ///
    /// # Errors
    /// [`EngineError::Log`], [`EngineError::NotLeader`]: nothing was ordered.
    fn propose(&mut self, proposal: Proposal) -> Result<LogIndex, EngineError>;

    /// I/O to be run now, in the order taken, anywhere; its outcome comes back by [`Engine::complete`].
    fn take_job(&mut self) -> Option<Job>;

    /// I/O that only syncs what was written before: for [`Durability::Interval`].
    fn take_sync_job(&mut self) -> Option<Job>;

    /// I/O that notes on disk, without a sync, that everything is synced: when idle, and at the end.
    fn take_mark_job(&mut self) -> Option<Job>;

    /// Takes the outcome of a job.
    ///
    /// # Errors
    /// A failed write or sync: what was proposed and is not committed may be lost, and the engine is of no further use.
    fn complete(&mut self, done: JobDone) -> Result<(), EngineError>;

    /// The next entry that is certain, in order.
    ///
    /// # Errors
    /// It cannot be read back from the log: the engine is of no further use.
    fn next_committed(&mut self) -> Result<Option<Entry>, EngineError>;

    /// Whether [`Engine::next_committed`] has something.
    fn has_committed(&self) -> bool;

    /// The last place given.
    fn last(&self) -> LogIndex;

    /// How many entries proposed here are not yet given back.
    fn in_flight(&self) -> usize;

    /// The log below, for reading, snapshots and cleaning.
    fn log(&self) -> &Log;

    /// The log below, for snapshots and cleaning.
    fn log_mut(&mut self) -> &mut Log;

    /// What a snapshot of the state after the last entry given back has to tell beside the state.
    fn snapshot_meta(&self) -> Vec<u8>;

    /// The replica's side of the engine; nothing for a single node.
    fn replica(&mut self) -> Option<&mut Raft> {
        None
    }

    /// The replica's side of the engine, to look at; nothing for a single node.
    fn as_replica(&self) -> Option<&Raft> {
        None
    }
}
