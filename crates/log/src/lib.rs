//! The replicated log on one disk: segments of checksummed, hash-chained group commits, snapshots, cleaning, backup.
//!
//! The log knows nothing of commands. An entry is opaque bytes plus a list of payload extents: the stream record batches inside
//! it. They are stored once, here; state elsewhere names one by (log index, position in the list) and reads it through
//! [`LogReader::payload`], wherever cleaning has moved it.
//!
//! The log starts no thread and never touches the disk by itself: [`Log::append`] fills a buffer, [`Log::take_job`] hands out one
//! write (and one sync) for everything waiting, the caller runs the [`WriteJob`] where it likes and gives the [`JobDone`] back to
//! [`Log::complete`]. Read `log.rs` first, then `recover.rs`; the bytes are in docs/formats/log.md and docs/formats/snapshot.md.
//!
//! A replicated log overwrites a suffix that was never agreed on by [`Log::rewind`]; a follower is served by [`LogReader::range`] and
//! [`LogReader::term`], or gets the whole log by [`Export`] and [`Import`]. A vote goes into a [`SlotFile`].
//!
//! Invariant: what `complete` reported as synced is there after any crash, unless it was rewound; the rest is there as a prefix, or not.
//! Invariant: bytes that were synced are never cut: when they are damaged, the log refuses to open and names file and offset.
//! Invariant: no clock, no thread, no randomness here, so that the simulator replays it byte for byte.
//! Called by: the engine (append, rewind, recover), the runtime (runs jobs), node (reads payloads and history), the command line (verify, dump).

mod backup;
mod clean;
mod disk;
mod error;
mod export;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod import;
mod log;
mod reader;
mod recover;
mod scan;
mod slot;
mod snapshot;
mod verify;

pub use backup::{BackupJob, BackupReport, restore};
pub use clean::{CleanDone, CleanJob, SegmentToClean};
pub use disk::{Disk, DiskFile, DiskLock, FileDisk, FileInfo, Fill, Op, SimDisk, SimFaults};
pub use error::LogError;
pub use export::{Export, ExportFile};
pub use import::{Import, remove};
pub use log::{AppendEntry, JobDone, Log, LogConfig, PrepareDone, PrepareJob, Space, WriteJob};
pub use reader::{Entries, Entry, LogReader};
pub use recover::{Recovery, TornTail};
pub use slot::SlotFile;
pub use snapshot::{SnapshotDone, SnapshotReader, SnapshotWriter};
pub use verify::{Finding, VerifyReport, dump, verify};

/// Place of an entry in a log. 1 is the first entry, 0 is before all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);

    /// The one after.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

impl std::fmt::Display for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Raft's term: stored with each entry, not interpreted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// One payload inside an entry's body: bytes `offset .. offset + len`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte, counted from the start of the body.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// A place in the run of segments: segment sequence, then byte offset. Later bytes have greater positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's sequence; 0 is before the first.
    pub sequence: u64,
    /// Byte offset in its file.
    pub offset: u64,
}
