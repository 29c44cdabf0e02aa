//! Planted bugs: each breaks one promise on purpose, so that a campaign that finds nothing is known to be able to find.
//!
//! They sit in the seams between the production code and the simulator (the disk, the clock, the wire, a follower of the log), never
//! in a production path.
//!
//! Invariant: without a plant, nothing here changes what the disk does.
//! Called by: the driver; `tests/planted.rs` holds one test for each.

use quorate_log::{Disk, DiskFile, DiskLock, FileInfo, Fill, LogError, SimDisk};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bug to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// `fdatasync` sometimes returns without having written anything out.
    LyingSync,
    /// A write of the log is sometimes swallowed.
    SwallowedWrite,
    /// Commits are answered once written, not once synced.
    EarlyAnswer,
    /// Two clients are given each other's answers.
    SwappedAnswers,
    /// A retry loses its idempotency key on the way.
    KeylessRetry,
    /// A token on its way to the server is one too low.
    TokenOffByOne,
    /// The monotonic clock runs ahead after a restart.
    ClockJump,
    /// The clock stands still: nothing expires, no timer fires.
    StuckClock,
    /// A follower of the log leaves a command out.
    ReplayDrops,
    /// A follower of the log takes two commands in the wrong order.
    ReplaySwaps,
    /// A follower of the log applies a command twice.
    ReplayRepeats,
    /// A copy of a snapshot loses a chunk.
    SnapshotChunkLost,
    /// The cleaner is told that a live payload is dead.
    LivePayloadCleaned,
    /// A follower ends keys by a wall clock of its own instead of the entry's.
    OwnClock,
    /// A follower draws at random from a seed of its own instead of the entry's.
    OwnSeed,
    /// A follower leaves an element in its list when the commit that pushed it is refused.
    UndoForgotten,
    /// A snapshot writes collections as they are when their turn comes, not as they were when it began.
    SnapshotUnpinned,
    /// A restart sets relative deadlines anew.
    DeadlineRestarts,
    /// A read holds a key for gone that is past its deadline by the node's clock, though no entry has ended it.
    ReadByClock,
    /// A follower evicts the keys that it would choose itself, instead of those that the leader has chosen.
    OwnEviction,
    /// A follower lets transactions be open for as long as they like.
    TransactionOverdue,
    /// A restart forgets the alarms that are up.
    AlarmForgotten,
    /// A follower takes a delete for something that grows, so that NOSPACE refuses it.
    AlarmTooWide,
    /// A follower appends batches without what rides with them.
    RiderForgotten,
    /// A follower does not look at the guards that ride with a batch.
    RiderUnguarded,
}

impl Plant {
    /// Every planted bug.
    pub const ALL: [Self; 25] = [
        Self::LyingSync,
        Self::SwallowedWrite,
        Self::EarlyAnswer,
        Self::SwappedAnswers,
        Self::KeylessRetry,
        Self::TokenOffByOne,
        Self::ClockJump,
        Self::StuckClock,
        Self::ReplayDrops,
        Self::ReplaySwaps,
        Self::ReplayRepeats,
        Self::SnapshotChunkLost,
        Self::LivePayloadCleaned,
        Self::OwnClock,
        Self::OwnSeed,
        Self::UndoForgotten,
        Self::SnapshotUnpinned,
        Self::DeadlineRestarts,
        Self::ReadByClock,
        Self::OwnEviction,
        Self::TransactionOverdue,
        Self::AlarmForgotten,
        Self::AlarmTooWide,
        Self::RiderForgotten,
        Self::RiderUnguarded,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LyingSync => "lying-sync",
            Self::SwallowedWrite => "swallowed-write",
            Self::EarlyAnswer => "early-answer",
            Self::SwappedAnswers => "swapped-answers",
            Self::KeylessRetry => "keyless-retry",
            Self::TokenOffByOne => "token-off-by-one",
            Self::ClockJump => "clock-jump",
            Self::StuckClock => "stuck-clock",
            Self::ReplayDrops => "replay-drops",
            Self::ReplaySwaps => "replay-swaps",
            Self::ReplayRepeats => "replay-repeats",
            Self::SnapshotChunkLost => "snapshot-chunk-lost",
            Self::LivePayloadCleaned => "live-payload-cleaned",
            Self::OwnClock => "own-clock",
            Self::OwnSeed => "own-seed",
            Self::UndoForgotten => "undo-forgotten",
            Self::SnapshotUnpinned => "snapshot-unpinned",
            Self::DeadlineRestarts => "deadline-restarts",
            Self::ReadByClock => "read-by-clock",
            Self::OwnEviction => "own-eviction",
            Self::TransactionOverdue => "transaction-overdue",
            Self::AlarmForgotten => "alarm-forgotten",
            Self::AlarmTooWide => "alarm-too-wide",
            Self::RiderForgotten => "rider-forgotten",
            Self::RiderUnguarded => "rider-unguarded",
        }
    }

    /// The plant of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }
}

/// The simulated disk as the log sees it: counts what is worth knowing, and lies where a plant says so.
pub(crate) struct Seam {
    disk: SimDisk,
    plant: Option<Plant>,
    counts: Arc<Counts>,
    trace: bool,
}

/// What went through the seam.
#[derive(Default)]
pub(crate) struct Counts {
    /// Segments that became other segments.
    pub(crate) recycled: AtomicU64,
    /// Files of moved payloads that were made.
    pub(crate) kept: AtomicU64,
    calls: AtomicU64,
}

impl Seam {
    pub(crate) fn new(disk: SimDisk, plant: Option<Plant>, counts: Arc<Counts>, trace: bool) -> Self {
        Self { disk, plant, counts, trace }
    }

    fn tell<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if self.trace {
            eprintln!(
                "       disk: {what}: {}",
                result.as_ref().err().map_or("done".into(), io::Error::to_string)
            );
        }
        result
    }

    fn wrap(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let segment = name.starts_with("seg-");
        match self.plant {
            Some(plant @ (Plant::LyingSync | Plant::SwallowedWrite)) if segment => {
                Arc::new(LyingFile { file, plant, counts: Arc::clone(&self.counts) })
            }
            _ => file,
        }
    }
}

impl Disk for Seam {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64, fill: Fill) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.tell(&format!("create {name}"), self.disk.create(name, bytes, fill))?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.tell(&format!("rename {from} to {to}"), self.disk.rename(from, to))?;
        if from.starts_with("seg-") && to.starts_with("seg-") {
            self.counts.recycled.fetch_add(1, Ordering::Relaxed);
        }
        if to.starts_with("kept-") {
            self.counts.kept.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.tell(&format!("remove {name}"), self.disk.remove(name))
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.tell("sync folder", self.disk.sync_dir())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
    fn lock(&self) -> Result<Box<dyn DiskLock>, LogError> {
        self.disk.lock()
    }
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let counts = Arc::clone(&self.counts);
        Ok(Arc::new(Self { disk: self.disk.sub(name)?, plant: self.plant, counts, trace: self.trace }))
    }
    fn remove_folder(&self, name: &str) -> io::Result<()> {
        self.disk.remove_folder(name)
    }
    fn folders(&self) -> io::Result<Vec<String>> {
        self.disk.folders()
    }
}

struct LyingFile {
    file: Arc<dyn DiskFile>,
    plant: Plant,
    counts: Arc<Counts>,
}

impl LyingFile {
    fn lies(&self, plant: Plant, one_in: u64) -> bool {
        self.plant == plant && self.counts.calls.fetch_add(1, Ordering::Relaxed) % one_in == one_in - 1
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.lies(Plant::SwallowedWrite, 40) { Ok(()) } else { self.file.write_at(offset, bytes) }
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.lies(Plant::LyingSync, 3) { Ok(()) } else { self.file.sync_data() }
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
