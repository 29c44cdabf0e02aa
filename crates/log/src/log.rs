//! Appending: entries gather in a buffer, a job writes the buffer with one write and one sync, its completion moves the promises.
//!
//! Invariant: synced <= written <= last. A rewind takes all three back to at most its index, whatever is still under way.
//! Invariant: jobs run and complete in the order they were taken. After the first failure no job touches the disk again.
//! Invariant: a segment is synced whole before the header of the next one is written, whatever the durability.
//! Invariant: nothing here does I/O except the jobs' `run`, `space` and (in recover.rs) `Log::open`.
//! Called by: the engine (append, take_job, complete), the runtime's I/O thread (run).
//! Source: group commit: DeWitt et al., SIGMOD 1984, §5.1; failed syncs: Rebello et al., ATC 2020.

use crate::format::{
    BATCH_HEADER, BatchHeader, FLAG_MARK, FLAG_REWIND, FrameHeader, Manifest, SEGMENT_HEADER, SegmentHeader,
    body_hash, encode_frame, frame_bytes, segment_name,
};
use crate::reader::{LogSegment, Places, Segment, SegmentKind, Table};
use crate::snapshot::SnapshotWriter;
use crate::{
    Disk, DiskFile, DiskLock, Extent, Fill, Index, LogError, LogReader, Position, SnapshotDone, Term,
};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};

/// A segment that nobody has prepared, as the first of a folder, is made while a batch waits: a small one, whose zeros are written in
/// milliseconds, and a prepared one soon follows it. In room that is only reserved each sync would also write the file's metadata.
const UNPREPARED_BYTES: u64 = 4 << 20;

/// Segments that are only reserved after a preparation was waited for: a log that grows faster than zeros are written beside it would wait for each.
/// Its batches are large, so what a sync writes of metadata is little beside them.
const HURRIED_SEGMENTS: u32 = 8;

/// Buffers kept for the next batches; more than a few are only in use when the disk lags.
const SPARE_BUFFERS: usize = 4;
/// A spare buffer bigger than this is given back to the allocator.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// Sizes and limits. [`LogConfig::default`] suits a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes of a segment file. A multiple of 512.
    pub segment_bytes: u64,
    /// Segments kept prepared ahead of need.
    pub segments_ready: usize,
    /// Bytes one batch (one write) may have, header included.
    pub batch_bytes_max: u32,
    /// Bytes one entry may have, body, payload table and 32 bytes of header included.
    pub entry_bytes_max: u32,
    /// Free disk bytes below which [`Space::low`] is said, and a quarter of which preparation never touches.
    pub reserve_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 64 << 20,
            segments_ready: 2,
            batch_bytes_max: 16 << 20,
            entry_bytes_max: 8 << 20,
            reserve_bytes: 512 << 20,
        }
    }
}

impl LogConfig {
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let refuse = |what: String| Err(LogError::Config(what));
        if !self.segment_bytes.is_multiple_of(512) || !(2048..=1 << 32).contains(&self.segment_bytes) {
            return refuse(format!(
                "segment_bytes is {}, wanted a multiple of 512 from 2048 to 4 GiB",
                self.segment_bytes
            ));
        }
        let room = self.segment_bytes - SEGMENT_HEADER as u64;
        if u64::from(self.batch_bytes_max) > room {
            return refuse(format!(
                "batch_bytes_max is {}, a segment has room for {room}",
                self.batch_bytes_max
            ));
        }
        let room = self.batch_bytes_max.saturating_sub(BATCH_HEADER as u32);
        if self.entry_bytes_max > room {
            return refuse(format!(
                "entry_bytes_max is {}, a batch has room for {room}",
                self.entry_bytes_max
            ));
        }
        Ok(())
    }
}

/// An entry to append.
#[derive(Clone, Copy, Debug)]
pub struct AppendEntry<'a> {
    /// Its place: one after the last appended.
    pub index: Index,
    /// The term, kept with it.
    pub term: Term,
    /// The body, opaque to the log.
    pub body: &'a [u8],
    /// The payloads inside the body; may overlap, in any order.
    pub extents: &'a [Extent],
}

/// Room on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free bytes.
    pub free: u64,
    /// Less than `reserve_bytes` are free: refuse growth, let deletes, keepalives and compaction go on.
    pub low: bool,
}

/// The log of one partition. One owner appends; [`LogReader`]s read from any thread.
pub struct Log {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) config: LogConfig,
    pub(crate) table: Arc<RwLock<Table>>,
    pub(crate) tail: Arc<Mutex<Tail>>,
    pub(crate) current: Option<Arc<Segment>>,
    /// Sequence of the segment the next batch goes to (0: none yet) and the offset there.
    pub(crate) plan: Position,
    /// Bytes of that segment's file.
    pub(crate) plan_bytes: u64,
    /// That segment's first index: a batch below it begins another segment.
    pub(crate) plan_first: Index,
    /// The index that follows the last batch taken by a job: a batch that begins below it rewinds.
    pub(crate) taken_next: Index,
    /// Rewinds while jobs were under way: the last job taken before it, and where to.
    pub(crate) rewinds: VecDeque<(u64, Index)>,
    /// Where the newest batch that rewinds was planned.
    pub(crate) rewound_at: Option<Position>,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) spare: Vec<Vec<u8>>,
    pub(crate) last: Index,
    pub(crate) written: Index,
    pub(crate) synced: Index,
    pub(crate) synced_at: Position,
    /// Something was planned since the last sync was.
    pub(crate) sync_owed: bool,
    /// The last batch already states everything before it as synced.
    pub(crate) marked: bool,
    pub(crate) jobs_taken: u64,
    pub(crate) jobs_done: u64,
    pub(crate) ready: VecDeque<Ready>,
    pub(crate) next_sequence: u64,
    pub(crate) next_epoch: u64,
    pub(crate) preparing: bool,
    /// Segments still to be only reserved.
    pub(crate) hurried: u32,
    /// The last job that makes its segment itself.
    pub(crate) making: u64,
    pub(crate) recycle: Vec<String>,
    pub(crate) garbage: Vec<String>,
    pub(crate) manifest: Manifest,
    pub(crate) cleaning: bool,
    pub(crate) snapshots: Vec<Index>,
    /// Bytes of the newest of them.
    pub(crate) snapshot_bytes: u64,
    /// Snapshot files that failed verification; removed once a new snapshot is done.
    pub(crate) snapshots_damaged: Vec<String>,
    pub(crate) poison: Option<String>,
    /// Held for its drop.
    #[allow(dead_code)]
    pub(crate) lock: Box<dyn DiskLock>,
}

impl Log {
    /// Adds an entry to the buffer. No I/O: it is neither written nor safe until a job says so.
    ///
    /// # Errors
    /// [`LogError::EntryTooLarge`] (it did not happen); [`LogError::Poisoned`].
    ///
    /// # Panics
    /// When `index` does not follow the last one, or an extent lies outside the body: the caller's bug.
    pub fn append(&mut self, entry: AppendEntry<'_>) -> Result<(), LogError> {
        self.alive()?;
        assert!(entry.index == self.last.next(), "log gap: last {}, offered {}", self.last, entry.index);
        for extent in entry.extents {
            let end = u64::from(extent.offset) + u64::from(extent.len);
            assert!(
                end <= entry.body.len() as u64,
                "a payload ends at {end} in a body of {}",
                entry.body.len()
            );
        }
        let bytes = frame_bytes(entry.body.len(), entry.extents.len());
        if bytes as u64 > u64::from(self.config.entry_bytes_max) {
            let wanted = u64::from(self.config.entry_bytes_max);
            return Err(LogError::EntryTooLarge { found: bytes as u64, wanted });
        }
        let batch_bytes_max = self.config.batch_bytes_max as usize;
        if self.pending.back().is_none_or(|batch| batch.buffer.len() + bytes > batch_bytes_max) {
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.clear();
            buffer.resize(BATCH_HEADER, 0);
            self.pending.push_back(Pending { buffer, first: entry.index, count: 0 });
        }
        let batch = self.pending.back_mut().expect("one was pushed when there was none with room");
        encode_frame(&mut batch.buffer, entry.index, entry.term, entry.body, entry.extents);
        batch.count += 1;
        self.last = entry.index;
        Ok(())
    }

    /// Entries after `to` are void: the next append is `to.next()`. For overwriting a suffix that was never agreed on. No I/O, and nothing
    /// on disk is cut: the batch that comes next says that it begins below the one before it, and *later bytes win*.
    ///
    /// Readers stop at `to` at once. Jobs under way may still write what is void now; completing them raises nothing beyond `to`. Until
    /// the next entry is written, a crash forgets the rewind: the void entries are back when the log is opened. (When the crash falls into
    /// the first write of a segment that begins with the next entry, they may be gone and the next entry not there.)
    ///
    /// # Panics
    /// When `to` is after the last entry, or before the newest snapshot: the caller's bug.
    pub fn rewind(&mut self, to: Index) {
        assert!(to <= self.last, "rewind to {to}, the log ends at {}", self.last);
        let newest = self.snapshots.last().copied().unwrap_or_default();
        assert!(to >= newest, "rewind to {to}, below the snapshot at {newest}");
        if to == self.last {
            return;
        }
        while self.pending.back().is_some_and(|batch| batch.first > to) {
            let batch = self.pending.pop_back().expect("it was there a moment ago");
            self.reuse(batch.buffer);
        }
        if let Some(batch) = self.pending.back_mut() {
            batch.cut(to);
        }
        self.last = to;
        self.written = self.written.min(to);
        self.synced = self.synced.min(to);
        if self.jobs_taken > self.jobs_done {
            self.rewinds.push_back((self.jobs_taken, to));
        }
        let written = self.written;
        self.table_mut().written = written;
    }

    /// Everything buffered as one batch: one write and, with `sync`, one `fdatasync` that also covers every earlier unsynced write.
    /// More than `batch_bytes_max` makes several jobs: call until `None`. With nothing buffered and `sync`, a job that only
    /// syncs, when a sync is owed.
    ///
    /// Also `None` while a new segment is needed and a [`PrepareJob`] is under way: it brings one; ask again after
    /// [`Log::complete_prepare`]. And `None` once poisoned.
    pub fn take_job(&mut self, sync: bool) -> Option<WriteJob> {
        if self.poison.is_some() {
            return None;
        }
        let Some(batch) = self.pending.front() else {
            return (sync && self.sync_owed).then(|| self.job(None, None, sync));
        };
        let bytes = batch.buffer.len() as u64;
        let first = batch.first;
        let rewinds = first < self.taken_next;
        // A batch below its segment's first index begins a segment, so that headers alone tell which file holds an index.
        let below = rewinds && first < self.plan_first;
        let roll = if self.plan.sequence == 0 || self.plan.offset + bytes > self.plan_bytes || below {
            let roll = self.plan_roll(bytes)?;
            self.plan_first = first;
            Some(roll)
        } else {
            None
        };
        let batch = self.pending.pop_front().expect("the front was there a moment ago");
        self.taken_next = Index(first.0 + u64::from(batch.count));
        if rewinds {
            self.rewound_at = Some(self.plan);
        }
        let flags = if rewinds { FLAG_REWIND } else { 0 };
        let planned = Planned { batch, flags, offset: self.plan.offset };
        self.plan.offset += bytes;
        self.marked = false;
        self.sync_owed = true;
        Some(self.job(roll, Some(planned), sync))
    }

    /// When everything is synced and idle: a job that writes an empty batch stating so, without a sync of its own. It is what
    /// tells damage to the last synced batch from a torn tail. Call it when idle and at shutdown.
    pub fn mark_job(&mut self) -> Option<WriteJob> {
        let idle =
            self.pending.is_empty() && self.jobs_taken == self.jobs_done && self.synced == self.written;
        let room = self.plan.sequence > 0 && self.plan.offset + BATCH_HEADER as u64 <= self.plan_bytes;
        // A mark names the index that comes next, which a rewind has taken back: the batch that says so comes first.
        let rewound = self.taken_next != self.last.next();
        if self.poison.is_some() || self.marked || !idle || !room || self.sync_owed || rewound {
            return None;
        }
        let batch = Pending { buffer: vec![0; BATCH_HEADER], first: self.last.next(), count: 0 };
        let planned = Planned { batch, flags: FLAG_MARK, offset: self.plan.offset };
        self.plan.offset += BATCH_HEADER as u64;
        self.marked = true;
        Some(self.job(None, Some(planned), false))
    }

    /// Takes a job's outcome; returns the last index written and the last synced.
    ///
    /// # Errors
    /// The job's failure, after which the log is poisoned: whether the batch is on disk is unknown, and a second sync would
    /// prove nothing. Every later call is [`LogError::Poisoned`].
    ///
    /// # Panics
    /// When jobs are completed out of order.
    pub fn complete(&mut self, done: JobDone) -> Result<(Index, Index), LogError> {
        assert!(done.number == self.jobs_done + 1, "job {} completed after {}", done.number, self.jobs_done);
        self.jobs_done = done.number;
        let ran = match done.result {
            Ok(ran) => ran,
            Err(error) => {
                self.poison.get_or_insert_with(|| error.to_string());
                return Err(error);
            }
        };
        self.alive()?;
        let limit = self.limit(done.number);
        if let Some(segment) = ran.rolled {
            self.synced = self.written;
            self.current = Some(Arc::clone(&segment));
            self.table_mut().push(segment);
        }
        if let Some(batch) = done.batch {
            self.note_written(&batch, limit);
            self.reuse(batch.batch.buffer);
        }
        if ran.synced {
            self.synced = self.written;
        }
        self.synced_at = ran.synced_at;
        assert!(self.synced <= self.written && self.written <= self.last, "synced <= written <= last");
        Ok((self.written, self.synced))
    }

    /// Last index appended, written or not.
    pub fn last(&self) -> Index {
        self.last
    }

    /// Last index written: readable, and safe from the death of this process alone.
    pub fn written(&self) -> Index {
        self.written
    }

    /// Last index synced: safe from power loss.
    pub fn synced(&self) -> Index {
        self.synced
    }

    /// First index from which all entries are still whole.
    pub fn first(&self) -> Index {
        self.reader().first()
    }

    /// Bytes appended and not yet taken by a job.
    pub fn buffered_bytes(&self) -> usize {
        self.pending.iter().map(|batch| batch.buffer.len()).sum()
    }

    /// A handle for reading entries and payloads on any thread.
    pub fn reader(&self) -> LogReader {
        LogReader { table: Arc::clone(&self.table) }
    }

    /// Bytes of all segment files, prepared ones not counted.
    pub fn file_bytes(&self) -> u64 {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.segments.iter().map(|segment| segment.file_bytes).sum()
    }

    /// Free room on the disk now. One system call.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn space(&self) -> Result<Space, LogError> {
        let free =
            self.disk.free_bytes().map_err(LogError::io("ask for free space of", "the data folder"))?;
        Ok(Space { free, low: free < self.config.reserve_bytes })
    }

    /// The next piece of preparation: a segment zero-filled (or recycled, or in a hurry reserved) ahead of need, and dead files removed. One at a time; run it on a
    /// thread that may wait, not the one that runs write jobs. `None` when there is nothing to do.
    pub fn prepare_job(&mut self) -> Option<PrepareJob> {
        // Segments are made in sequence: one made ahead of a job that still has to make the one before it would, after a crash, follow a
        // segment that is not there.
        let wanted = self.lacks_segment();
        if self.preparing || self.poison.is_some() || (!wanted && self.garbage.is_empty()) {
            return None;
        }
        self.preparing = true;
        let make = wanted.then(|| Make {
            sequence: self.next_sequence,
            epoch: self.next_epoch,
            recycle: self.recycle.pop(),
            fill: if self.hurried > 0 { Fill::Reserved } else { Fill::Written },
        });
        if make.is_some() {
            self.next_epoch += 1;
            self.hurried = self.hurried.saturating_sub(1);
        }
        let garbage = std::mem::take(&mut self.garbage);
        Some(PrepareJob { disk: Arc::clone(&self.disk), config: self.config, garbage, make })
    }

    /// Takes a preparation's outcome.
    ///
    /// # Errors
    /// Why it failed. The log goes on: a segment is then made on the commit path when it is needed. Wait before trying
    /// again: the disk may be full.
    pub fn complete_prepare(&mut self, done: PrepareDone) -> Result<(), LogError> {
        assert!(self.preparing, "a preparation was completed that was not under way");
        self.preparing = false;
        self.garbage.extend(done.leftover);
        if let Some(ready) = done.result? {
            assert!(ready.sequence == self.next_sequence, "segments are prepared in sequence");
            self.next_sequence += 1;
            self.ready.push_back(ready);
        }
        Ok(())
    }

    /// Whether a prepared segment is missing, so that [`Log::prepare_job`] is worth its call.
    pub fn wants_preparing(&self) -> bool {
        !self.preparing && (self.lacks_segment() || !self.garbage.is_empty())
    }

    fn lacks_segment(&self) -> bool {
        // Of those that are only reserved no more than one: they are quickly made, and slower to use once the hurry is over.
        let ready =
            if self.hurried > 0 { self.config.segments_ready.min(1) } else { self.config.segments_ready };
        self.ready.len() < ready && self.making <= self.jobs_done
    }

    /// Begins a snapshot of the state after entry `index`; `meta` is the caller's (machine version, digest…) and is read back first.
    /// The writer does its I/O in `push` and `finish`: run it off the thread.
    ///
    /// # Errors
    /// [`LogError::SnapshotAhead`] unless the log is synced to `index`: a snapshot must never outlive its log.
    pub fn snapshot_writer(&self, index: Index, meta: &[u8]) -> Result<SnapshotWriter, LogError> {
        self.alive()?;
        if index > self.synced {
            return Err(LogError::SnapshotAhead { index, synced: self.synced });
        }
        Ok(SnapshotWriter::new(Arc::clone(&self.disk), index, self.synced_at, meta))
    }

    /// Takes a finished snapshot: the newest two are kept, older ones are removed by the next preparation.
    ///
    /// # Panics
    /// When the log was rewound below it meanwhile: the caller's bug.
    pub fn snapshot_done(&mut self, done: &SnapshotDone) {
        assert!(done.index <= self.last, "snapshot at {}, the log ends at {}", done.index, self.last);
        if !self.snapshots.contains(&done.index) {
            self.snapshots.push(done.index);
            self.snapshots.sort_unstable();
        }
        self.snapshot_bytes = done.bytes;
        self.garbage.append(&mut self.snapshots_damaged);
        while self.snapshots.len() > 2 {
            let old = self.snapshots.remove(0);
            self.garbage.push(crate::format::Name::Snapshot(old).file());
        }
    }

    /// Indexes of the snapshots kept, oldest first.
    pub fn snapshots(&self) -> &[Index] {
        &self.snapshots
    }

    /// Bytes of the newest snapshot; 0 while there is none.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    pub(crate) fn alive(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment after the current one, for a batch of so many bytes; `None` while a preparation is about to bring it.
    fn plan_roll(&mut self, bytes: u64) -> Option<Roll> {
        let ready = match self.ready.pop_front() {
            Some(ready) => ready,
            None if self.preparing => {
                self.hurried = HURRIED_SEGMENTS;
                return None;
            }
            None => {
                let (sequence, epoch) = (self.next_sequence, self.next_epoch);
                self.next_sequence += 1;
                self.next_epoch += 1;
                self.making = self.jobs_taken + 1;
                let full = self.config.segment_bytes;
                let fits = SEGMENT_HEADER as u64 + bytes <= UNPREPARED_BYTES;
                let file_bytes = if fits { full.min(UNPREPARED_BYTES) } else { full };
                Ready { sequence, epoch, recycled: false, file: None, file_bytes }
            }
        };
        self.plan = Position { sequence: ready.sequence, offset: SEGMENT_HEADER as u64 };
        self.plan_bytes = ready.file_bytes;
        Some(Roll { ready })
    }

    fn job(&mut self, roll: Option<Roll>, batch: Option<Planned>, sync: bool) -> WriteJob {
        self.jobs_taken += 1;
        if sync {
            self.sync_owed = false;
        }
        let (disk, tail) = (Arc::clone(&self.disk), Arc::clone(&self.tail));
        WriteJob { number: self.jobs_taken, disk, tail, roll, batch, sync }
    }

    /// How far a job may still move the promises: rewinds that came after it was taken hold it back.
    fn limit(&mut self, number: u64) -> Index {
        let limit = self.rewinds.iter().map(|(_, to)| *to).min().unwrap_or(Index(u64::MAX));
        while self.rewinds.front().is_some_and(|(taken, _)| *taken <= number) {
            self.rewinds.pop_front();
        }
        limit
    }

    fn note_written(&mut self, planned: &Planned, limit: Index) {
        let batch = &planned.batch;
        let segment = self.current.as_ref().expect("a batch is written into a segment");
        let SegmentKind::Log(log) = &segment.kind else {
            unreachable!("the current segment is a log segment")
        };
        let last = Index(batch.first.0 + u64::from(batch.count) - 1);
        self.written = last.min(limit);
        // Places change under the table's lock, so that a reader who holds it sees batches and their marks agree.
        let mut table = self.table_mut();
        table.written = self.written;
        let mut places = log.places();
        places.end = planned.offset + batch.buffer.len() as u64;
        places.last = last;
        if batch.count > 0 {
            places.note(batch.first, planned.offset, planned.flags & FLAG_REWIND != 0);
        }
    }

    fn reuse(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() <= SPARE_BYTES_MAX {
            self.spare.push(buffer);
        }
    }
}

/// A batch being filled.
pub(crate) struct Pending {
    pub(crate) buffer: Vec<u8>,
    pub(crate) first: Index,
    pub(crate) count: u32,
}

impl Pending {
    /// Drops the entries after `to`, which is at or after its first.
    fn cut(&mut self, to: Index) {
        let keep = to.0 - self.first.0 + 1;
        if keep >= u64::from(self.count) {
            return;
        }
        let mut at = BATCH_HEADER;
        for _ in 0..keep {
            at += FrameHeader::peek(&self.buffer[at..]).bytes() as usize;
        }
        self.buffer.truncate(at);
        self.count = u32::try_from(keep).expect("less than the count, a u32");
    }
}

/// A batch with its place.
struct Planned {
    batch: Pending,
    flags: u32,
    offset: u64,
}

/// A prepared segment; `file` is absent when it must be made on the spot.
pub(crate) struct Ready {
    pub(crate) sequence: u64,
    pub(crate) epoch: u64,
    pub(crate) recycled: bool,
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) file_bytes: u64,
}

struct Roll {
    ready: Ready,
}

/// The end of the log as the jobs see it. Only the running job touches it.
pub(crate) struct Tail {
    pub(crate) next_job: u64,
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) name: String,
    pub(crate) epoch: u64,
    pub(crate) salt: u64,
    pub(crate) chain: u64,
    pub(crate) at: Position,
    pub(crate) synced_at: Position,
    /// Written since the last sync.
    pub(crate) dirty: bool,
    pub(crate) failed: Option<String>,
}

/// One write and at most one sync. `Send`: run it on any thread, in the order taken.
#[must_use = "a job that is not run leaves the log waiting for it"]
pub struct WriteJob {
    number: u64,
    disk: Arc<dyn Disk>,
    tail: Arc<Mutex<Tail>>,
    roll: Option<Roll>,
    batch: Option<Planned>,
    sync: bool,
}

impl WriteJob {
    /// Does the I/O. Give the outcome to [`Log::complete`].
    ///
    /// # Panics
    /// When an earlier job was not run before.
    pub fn run(mut self) -> JobDone {
        let tail = Arc::clone(&self.tail);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(tail.next_job == self.number, "job {} was run before {}", self.number, tail.next_job);
        tail.next_job += 1;
        let result = match &tail.failed {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None => self.run_in(&mut tail),
        };
        if let Err(error) = &result {
            tail.failed.get_or_insert_with(|| error.to_string());
        }
        JobDone { number: self.number, batch: self.batch, result }
    }

    /// Whether this job syncs.
    pub fn syncs(&self) -> bool {
        self.sync
    }

    fn run_in(&mut self, tail: &mut Tail) -> Result<Ran, LogError> {
        let rolled = match self.roll.take() {
            Some(roll) => Some(self.start_segment(tail, roll)?),
            None => None,
        };
        if let Some(planned) = &mut self.batch {
            write_batch(tail, planned)?;
        }
        if self.sync {
            sync(tail)?;
        }
        Ok(Ran { rolled, synced: self.sync, synced_at: tail.synced_at })
    }

    fn start_segment(&self, tail: &mut Tail, roll: Roll) -> Result<Arc<Segment>, LogError> {
        // Even when nobody asked for durability: else a crash could keep the new segment and lose the end of the old.
        sync(tail)?;
        let ready = roll.ready;
        let name = segment_name(ready.sequence);
        let file = match ready.file {
            Some(file) => file,
            None => {
                let small = ready.file_bytes <= UNPREPARED_BYTES;
                let fill = if small { Fill::Written } else { Fill::Reserved };
                make_segment(&*self.disk, &ready_header(&ready), fill)?
            }
        };
        let planned = self.batch.as_ref().expect("a segment is begun only for a batch");
        let header = SegmentHeader {
            active: true,
            rewinds: planned.flags & FLAG_REWIND != 0,
            first: planned.batch.first,
            chain_before: tail.chain,
            end_before: tail.at.offset,
            ..ready_header_of(ready.sequence, ready.epoch, ready.file_bytes, ready.recycled)
        };
        file.write_at(0, &header.encode()).map_err(LogError::io("write", &name))?;
        tail.name.clone_from(&name);
        tail.file = Some(Arc::clone(&file));
        tail.epoch = header.epoch;
        tail.salt = header.salt();
        tail.at = Position { sequence: header.sequence, offset: SEGMENT_HEADER as u64 };
        tail.dirty = true;
        let places = Places::empty(Index(header.first.0 - 1));
        let (first, file_bytes) = (header.first, header.segment_bytes);
        let kind = SegmentKind::Log(LogSegment::new(header, places));
        Ok(Arc::new(Segment::new(name, file, file_bytes, first, kind)))
    }
}

fn write_batch(tail: &mut Tail, planned: &mut Planned) -> Result<(), LogError> {
    assert!(planned.offset == tail.at.offset, "a batch goes where the one before it ended");
    let buffer = &mut planned.batch.buffer;
    let (head, body) = buffer.split_at_mut(BATCH_HEADER);
    let header = BatchHeader {
        flags: planned.flags,
        epoch: tail.epoch,
        first: planned.batch.first,
        count: planned.batch.count,
        body_bytes: u32::try_from(body.len()).expect("batch_bytes_max is a u32"),
        chain_before: tail.chain,
        body_hash: body_hash(body, tail.salt),
        synced: tail.synced_at,
    };
    header.encode(tail.salt, head);
    let file = tail.file.as_ref().expect("a segment was begun before its first batch");
    file.write_at(planned.offset, buffer).map_err(LogError::io("write", &tail.name))?;
    tail.chain = header.chain();
    tail.at.offset += header.bytes();
    tail.dirty = true;
    Ok(())
}

fn sync(tail: &mut Tail) -> Result<(), LogError> {
    if let Some(file) = tail.file.as_ref().filter(|_| tail.dirty) {
        file.sync_data().map_err(LogError::io("sync", &tail.name))?;
    }
    tail.dirty = false;
    tail.synced_at = tail.at;
    Ok(())
}

fn ready_header(ready: &Ready) -> SegmentHeader {
    ready_header_of(ready.sequence, ready.epoch, ready.file_bytes, ready.recycled)
}

/// The header of a segment that waits for its first batch.
pub(crate) fn ready_header_of(
    sequence: u64,
    epoch: u64,
    segment_bytes: u64,
    recycled: bool,
) -> SegmentHeader {
    SegmentHeader {
        active: false,
        recycled,
        rewinds: false,
        sequence,
        epoch,
        segment_bytes,
        first: Index::ZERO,
        chain_before: 0,
        end_before: 0,
    }
}

/// Makes a segment file under its final name, which exists only once the file is whole.
pub(crate) fn make_segment(
    disk: &dyn Disk,
    header: &SegmentHeader,
    fill: Fill,
) -> Result<Arc<dyn DiskFile>, LogError> {
    let name = segment_name(header.sequence);
    let temporary = format!("prep-{}.tmp", header.sequence);
    let file =
        disk.create(&temporary, header.segment_bytes, fill).map_err(LogError::io("create", &temporary))?;
    file.write_at(0, &header.encode()).map_err(LogError::io("write", &temporary))?;
    file.sync_data().map_err(LogError::io("sync", &temporary))?;
    disk.rename(&temporary, &name).map_err(LogError::io("rename to", &name))?;
    disk.sync_dir().map_err(LogError::io("sync folder of", &name))?;
    Ok(file)
}

/// What a job did; for [`Log::complete`].
#[must_use = "only `Log::complete` moves the promises"]
pub struct JobDone {
    number: u64,
    batch: Option<Planned>,
    result: Result<Ran, LogError>,
}

impl JobDone {
    /// Whether the disk did what was asked.
    pub fn is_ok(&self) -> bool {
        self.result.is_ok()
    }
}

struct Ran {
    rolled: Option<Arc<Segment>>,
    synced: bool,
    synced_at: Position,
}

/// Prepares one segment and removes dead files. `Send`.
#[must_use = "while it is not completed, no new segment can be begun"]
pub struct PrepareJob {
    disk: Arc<dyn Disk>,
    config: LogConfig,
    garbage: Vec<String>,
    make: Option<Make>,
}

struct Make {
    sequence: u64,
    epoch: u64,
    recycle: Option<String>,
    fill: Fill,
}

impl PrepareJob {
    /// Does the I/O: up to `segment_bytes` of writing. Give the outcome to [`Log::complete_prepare`].
    pub fn run(self) -> PrepareDone {
        let result = self.run_in();
        let mut leftover = Vec::new();
        if result.is_err() {
            // Removing twice is harmless; forgetting a file would leave it until the next opening.
            leftover = self.garbage;
            leftover.extend(self.make.and_then(|make| make.recycle));
        }
        PrepareDone { result, leftover }
    }

    fn run_in(&self) -> Result<Option<Ready>, LogError> {
        for name in &self.garbage {
            match self.disk.remove(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(LogError::io("remove", name)(error));
                }
                _ => {}
            }
        }
        let Some(make) = &self.make else { return Ok(None) };
        let recycled = make.recycle.is_some();
        let header = ready_header_of(make.sequence, make.epoch, self.config.segment_bytes, recycled);
        let file = match &make.recycle {
            Some(old) => self.recycle(old, &header)?,
            None => {
                self.check_room(header.segment_bytes)?;
                make_segment(&*self.disk, &header, make.fill)?
            }
        };
        let Make { sequence, epoch, .. } = *make;
        Ok(Some(Ready { sequence, epoch, recycled, file: Some(file), file_bytes: header.segment_bytes }))
    }

    /// Gives a dead segment's file a new name and epoch. The old name is in no manifest any more, so a crash at any point leaves
    /// either a file to be removed or a prepared segment.
    fn recycle(&self, old: &str, header: &SegmentHeader) -> Result<Arc<dyn DiskFile>, LogError> {
        let name = segment_name(header.sequence);
        let file = self.disk.open(old).map_err(LogError::io("open", old))?;
        file.write_at(0, &header.encode()).map_err(LogError::io("write", old))?;
        file.sync_data().map_err(LogError::io("sync", old))?;
        self.disk.rename(old, &name).map_err(LogError::io("rename to", &name))?;
        self.disk.sync_dir().map_err(LogError::io("sync folder of", &name))?;
        Ok(file)
    }

    fn check_room(&self, bytes: u64) -> Result<(), LogError> {
        let free =
            self.disk.free_bytes().map_err(LogError::io("ask for free space of", "the data folder"))?;
        let needed = bytes + self.config.reserve_bytes / 4;
        if free < needed {
            return Err(LogError::Full { what: "preparing a segment", needed, free });
        }
        Ok(())
    }
}

/// What a preparation did; for [`Log::complete_prepare`].
#[must_use = "while it is not completed, no new segment can be begun"]
pub struct PrepareDone {
    result: Result<Option<Ready>, LogError>,
    leftover: Vec<String>,
}
