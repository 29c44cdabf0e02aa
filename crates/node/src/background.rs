//! What goes on beside commits: snapshots in slices, segments made ahead, cleaning of mostly dead ones.
//!
//! Invariant: a snapshot gets its name only once the log is synced to its index and tells what all entries up to it came to:
//! nothing behind a snapshot is ever needed again, not even by `why`.
//! Invariant: a payload is cleaned away only when entries that are synced have made it dead.
//! Invariant: at most [`CHUNK_BYTES_MAX`] of a snapshot wait for the disk; the walk pauses instead.
//! Called by: `Partition` at the end of turns; the driver runs [`Work`] where it may wait.

use crate::config::Config;
use quorate_engine::Engine;
use quorate_log::{
    CleanDone, CleanJob, Index, Log, LogError, PrepareDone, PrepareJob, SegmentToClean, SnapshotDone,
    SnapshotWriter,
};
use quorate_machine::Machine;
use quorate_types::{Entry, LogIndex, WallTime};
use std::collections::VecDeque;

/// Bytes of a snapshot that may wait for the disk.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Entries between two marks by which the audit's age is measured.
const MARK_ENTRIES: u64 = 1024;
/// Applied entries between two looks for something to clean.
const CLEAN_ENTRIES: u64 = 4096;

/// Slow I/O, to be run on a thread that may wait.
pub enum Work {
    /// Makes a segment ahead of need, or removes dead files.
    Prepare(PrepareJob),
    /// Writes the next part of a snapshot.
    Snapshot(Box<SnapshotPart>),
    /// Moves live payloads out of mostly dead segments.
    Clean(CleanJob),
}

/// A part of a snapshot on its way to the disk.
pub struct SnapshotPart {
    writer: Box<SnapshotWriter>,
    chunks: Vec<Vec<u8>>,
    last: bool,
}

/// The outcome of [`Work`].
pub enum Done {
    /// Of [`Work::Prepare`].
    Prepare(PrepareDone),
    /// Of a part of a snapshot: its writer for the next part.
    Snapshot(Result<Box<SnapshotWriter>, LogError>),
    /// Of the last part of a snapshot.
    SnapshotFinished(Result<SnapshotDone, LogError>),
    /// Of [`Work::Clean`].
    Clean(CleanDone),
}

impl Work {
    /// Does the I/O.
    #[must_use]
    pub fn run(self) -> Done {
        match self {
            Self::Prepare(job) => Done::Prepare(job.run()),
            Self::Clean(job) => Done::Clean(job.run()),
            Self::Snapshot(part) => {
                let SnapshotPart { mut writer, chunks, last } = *part;
                for chunk in &chunks {
                    if let Err(error) = writer.push(chunk) {
                        return Done::Snapshot(Err(error));
                    }
                }
                if last { Done::SnapshotFinished(writer.finish()) } else { Done::Snapshot(Ok(writer)) }
            }
        }
    }
}

pub(crate) struct Background {
    snapshot: Option<Taking>,
    soon: bool,
    commands: u64,
    bytes_at_snapshot: u64,
    applied: LogIndex,
    /// (index, wall time, bytes of log then), oldest first: where the audit's age begins.
    marks: VecDeque<(LogIndex, WallTime)>,
    cleaning: bool,
    planned: Option<Planned>,
    looked: LogIndex,
    log_bytes: u64,
    /// A preparation failed (a full disk, most likely): wait this many entries before the next.
    pause: u64,
}

/// A cleaning that waits until the state by which it was planned cannot be lost any more.
struct Planned {
    item: SegmentToClean,
    live: Vec<(Index, u32)>,
    /// The last entry of that state.
    applied: LogIndex,
}

/// A snapshot being taken.
struct Taking {
    index: LogIndex,
    /// What the engine has to tell beside the state.
    meta: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    bytes: usize,
    /// All rows are in `chunks` or on their way.
    walked: bool,
    writer: Writer,
}

enum Writer {
    /// Not yet made: the log must be synced to the index first.
    Wanted,
    Here(Box<SnapshotWriter>),
    /// With a part on its way.
    Out,
}

impl Background {
    pub(crate) fn new(applied: LogIndex) -> Self {
        Self {
            snapshot: None,
            soon: false,
            commands: 0,
            bytes_at_snapshot: 0,
            applied,
            marks: VecDeque::new(),
            cleaning: false,
            planned: None,
            looked: applied,
            log_bytes: 0,
            pause: 0,
        }
    }

    /// Begins where recovery has ended.
    pub(crate) fn resume(&mut self, log: &Log) {
        self.log_bytes = log.file_bytes();
        self.bytes_at_snapshot = self.log_bytes;
    }

    pub(crate) fn snapshot_soon(&mut self) {
        self.soon = true;
    }

    /// Counts an applied entry.
    pub(crate) fn applied(&mut self, entry: &Entry) {
        self.applied = entry.index;
        // An entry without commands costs its replay too.
        self.commands += 1 + entry.commands.len() as u64;
        self.pause = self.pause.saturating_sub(1);
        if self.marks.back().is_none_or(|(index, _)| entry.index.0 >= index.0 + MARK_ENTRIES) {
            self.marks.push_back((entry.index, entry.wall));
        }
    }

    /// Whether an empty entry is wanted, to log what the entries of a snapshot came to.
    pub(crate) fn wants_entry(&self, logged: LogIndex) -> bool {
        self.snapshot.as_ref().is_some_and(|taking| taking.walked && taking.index > logged)
    }

    /// Whether a turn would bring a snapshot on.
    pub(crate) fn wants_turn(&self) -> bool {
        self.soon
            || self.snapshot.as_ref().is_some_and(|taking| !taking.walked && taking.bytes < CHUNK_BYTES_MAX)
    }

    /// Whether the log has grown enough since the last snapshot. A large state lets it grow by as much as the state takes, so that to write
    /// snapshots never costs more than to write the log, and to replay the log not much more than to read the snapshot.
    fn is_due(&self, log: &Log, config: &Config) -> bool {
        let bytes = config.snapshot_bytes.max(1);
        let bytes_due = bytes.max(log.snapshot_bytes());
        let commands_due = u128::from(config.snapshot_commands) * u128::from(bytes_due) / u128::from(bytes);
        let grown = log.file_bytes().saturating_sub(self.bytes_at_snapshot);
        grown >= bytes_due || u128::from(self.commands) >= commands_due
    }

    /// A slice of the snapshot, or the beginning of one.
    pub(crate) fn turn(&mut self, machine: &mut Machine, engine: &dyn Engine, config: &Config) {
        let log = engine.log();
        if self.snapshot.is_none() {
            if !(self.soon || self.is_due(log, config)) || machine.applied() == LogIndex::ZERO {
                return;
            }
            self.soon = false;
            self.commands = 0;
            self.bytes_at_snapshot = log.file_bytes();
            let index = machine.snapshot_begin().index;
            let meta = engine.snapshot_meta();
            let (chunks, writer) = (Vec::new(), Writer::Wanted);
            self.snapshot = Some(Taking { index, meta, chunks, bytes: 0, walked: false, writer });
        }
        let Some(taking) = &mut self.snapshot else { return };
        if taking.walked || taking.bytes >= CHUNK_BYTES_MAX {
            return;
        }
        match machine.snapshot_next(config.snapshot_rows) {
            Some(chunk) => {
                taking.bytes += chunk.len();
                taking.chunks.push(chunk);
            }
            None => taking.walked = true,
        }
    }

    pub(crate) fn take_work(
        &mut self,
        machine: &Machine,
        log: &mut Log,
        config: &Config,
        logged: LogIndex,
    ) -> Option<Work> {
        if self.pause == 0
            && let Some(job) = log.prepare_job()
        {
            return Some(Work::Prepare(job));
        }
        if let Some(part) = self.part(log, logged) {
            return Some(Work::Snapshot(Box::new(part)));
        }
        self.clean(machine, log, config).map(Work::Clean)
    }

    pub(crate) fn done(&mut self, done: Done, engine: &mut dyn Engine) -> Option<String> {
        let log = engine.log_mut();
        match done {
            Done::Prepare(done) => {
                let failed = log.complete_prepare(done).err()?;
                self.pause = 64;
                Some(format!("a segment could not be made ahead of need: {failed}"))
            }
            Done::Snapshot(Ok(writer)) => {
                if let Some(taking) = &mut self.snapshot {
                    taking.writer = Writer::Here(writer);
                }
                None
            }
            Done::SnapshotFinished(Ok(done)) => {
                log.snapshot_done(&done);
                if let (Some(taken), Some(replica)) = (self.snapshot.take(), engine.replica()) {
                    replica.snapshot_taken(taken.index, &taken.meta);
                }
                self.looked = LogIndex::ZERO; // More may be cleaned now.
                None
            }
            Done::Snapshot(Err(error)) | Done::SnapshotFinished(Err(error)) => {
                self.snapshot = None;
                Some(format!(
                    "no snapshot was made: {error}. The log keeps everything; the next one is tried later"
                ))
            }
            Done::Clean(done) => {
                self.cleaning = false;
                let failed = log.complete_clean(done).err()?;
                self.looked = self.applied;
                Some(format!("cleaning failed, nothing was changed: {failed}"))
            }
        }
    }

    fn part(&mut self, log: &Log, logged: LogIndex) -> Option<SnapshotPart> {
        let taking = self.snapshot.as_mut()?;
        if matches!(taking.writer, Writer::Wanted) && log.synced().0 >= taking.index.0 {
            match log.snapshot_writer(Index(taking.index.0), &taking.meta) {
                Ok(writer) => taking.writer = Writer::Here(Box::new(writer)),
                Err(_) => return None, // The log has failed; the partition says so.
            }
        }
        let last = taking.walked && logged >= taking.index;
        if !matches!(taking.writer, Writer::Here(_)) || (taking.chunks.is_empty() && !last) {
            return None;
        }
        let Writer::Here(writer) = std::mem::replace(&mut taking.writer, Writer::Out) else {
            unreachable!("it was just matched")
        };
        taking.bytes = 0;
        Some(SnapshotPart { writer, chunks: std::mem::take(&mut taking.chunks), last })
    }

    fn clean(&mut self, machine: &Machine, log: &mut Log, config: &Config) -> Option<CleanJob> {
        if self.planned.is_none() {
            self.planned = self.plan(machine, log, config);
        }
        // Under `interval` and `none` a power loss may take the last entries back, and with them what made a payload dead.
        let safe = LogIndex(log.synced().0);
        let Planned { item, live, .. } = self.planned.take_if(|planned| planned.applied <= safe)?;
        let job = log.clean(item, live).ok()?;
        self.cleaning = true;
        Some(job)
    }

    fn plan(&mut self, machine: &Machine, log: &Log, config: &Config) -> Option<Planned> {
        if self.cleaning || self.applied.0 < self.looked.0 + CLEAN_ENTRIES && self.looked != LogIndex::ZERO {
            return None;
        }
        let floor = self.audit_floor(machine.wall(), log, config);
        let live = |first: Index, last: Index| machine.live_bytes(LogIndex(first.0), LogIndex(last.0));
        let Some(item) = log.clean_plan(Index(floor.0), &live).into_iter().next() else {
            self.looked = self.applied.max(LogIndex(1));
            return None;
        };
        let live = machine.live_payloads(LogIndex(item.first().0), LogIndex(item.last().0));
        let live = live.into_iter().map(|at| (Index(at.index.0), at.sub)).collect();
        Some(Planned { item, live, applied: machine.applied() })
    }

    /// The last entry that `why` no longer asks for: older than the audit's age, or beyond its bytes.
    fn audit_floor(&mut self, wall: WallTime, log: &Log, config: &Config) -> LogIndex {
        let oldest = wall.0.saturating_sub(config.audit_age.0);
        while self.marks.get(1).is_some_and(|(_, at)| at.0 < oldest) {
            self.marks.pop_front();
        }
        // Entries before the first mark belong to an earlier life of the process: their age is unknown here, so only the
        // bound on bytes lets them go.
        let by_age =
            self.marks.front().filter(|(_, at)| at.0 < oldest).map_or(LogIndex::ZERO, |(index, _)| *index);
        let first = log.first().0;
        let last = log.last().0;
        let bytes = log.file_bytes();
        let over = bytes.saturating_sub(config.audit_bytes);
        // Bytes are spread evenly enough over entries for a bound of this kind.
        let share = u128::from(last.saturating_sub(first)) * u128::from(over) / u128::from(bytes.max(1));
        let by_bytes = if over == 0 { 0 } else { first + share as u64 };
        by_age.max(LogIndex(by_bytes))
    }
}
