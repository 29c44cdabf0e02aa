//! One machine of the cluster: its disk, its clocks, and the process on it.
//!
//! Invariant: what a crash takes is what is not on the disk; the world keeps about the process only what it saw of it from outside.
//! Called by: the cluster's world.

use crate::oracle::OpId;
use quorate_engine::{CopyWanted, Instant, Job, JobDone};
use quorate_log::{Export, Import, SimDisk};
use quorate_node::{Done, Partition, Work};
use quorate_types::{LogIndex, NodeId, Term};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Wall time at the beginning: some day in 2023.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;

/// A copy of another's log on its way.
pub(crate) struct Copying {
    pub(crate) wanted: CopyWanted,
    /// The life of the process that offers it.
    pub(crate) life: u64,
    pub(crate) export: Arc<Export>,
    pub(crate) import: Option<Import>,
}

/// See the module's documentation.
pub(crate) struct Server {
    pub(crate) node: NodeId,
    pub(crate) disk: SimDisk,
    pub(crate) process: Option<Box<Partition<OpId>>>,
    /// The life of the process, and how many it had.
    pub(crate) life: u64,
    pub(crate) lives: u64,
    pub(crate) boot: u64,
    /// Taken out of service for good.
    pub(crate) retired: bool,
    /// Its clock's speed in thousandths, its reading at `booted_ns`, and how far its wall clock is off.
    pub(crate) rate: u64,
    pub(crate) origin_ns: u64,
    pub(crate) booted_ns: u64,
    pub(crate) skew_ms: i64,
    pub(crate) paused_until: u64,
    pub(crate) turn_at: u64,
    /// When the process last read its clock.
    pub(crate) beat_ns: u64,
    /// How slow the disk is.
    pub(crate) slowness: u64,
    pub(crate) disk_free_ns: u64,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) jobs_done: VecDeque<JobDone>,
    /// What each job under way makes durable: term, vote, and whether the replica still has to catch up.
    pub(crate) promises: VecDeque<(Term, NodeId, bool)>,
    pub(crate) durable: (Term, NodeId, bool),
    pub(crate) works: VecDeque<Work>,
    pub(crate) works_done: VecDeque<Done>,
    pub(crate) copying: Option<Copying>,
    /// The last entry that was followed.
    pub(crate) followed: LogIndex,
    /// Entries that it has given places to, as the leader of this term.
    pub(crate) ordered: Option<(Term, LogIndex)>,
    /// By leader's term: when that leader had read its clock when its log time was last heard in this life.
    pub(crate) heard: BTreeMap<Term, u64>,
    /// A write or sync was told to fail.
    pub(crate) failing: bool,
    /// It lost unsynced data or was damaged, and is not known to have caught up.
    pub(crate) lossy: bool,
    /// Its power is to fail in the middle of some operation to come.
    pub(crate) armed: bool,
    /// A bit of a synced file that was flipped: to be found by the next opening.
    pub(crate) flipped: Option<(String, u64, u8)>,
    /// The identity file as it once was, and the whole disk: for planted bugs.
    pub(crate) old_identity: Option<Vec<u8>>,
    pub(crate) old_disk: Option<Vec<(String, Vec<u8>)>>,
}

impl Server {
    pub(crate) fn new(node: NodeId, disk: SimDisk, rate: u64, origin_ns: u64, now_ns: u64) -> Self {
        Self {
            node,
            disk,
            process: None,
            life: 0,
            lives: 0,
            boot: 1,
            retired: false,
            rate,
            origin_ns,
            booted_ns: now_ns,
            skew_ms: 0,
            paused_until: 0,
            turn_at: u64::MAX,
            beat_ns: now_ns,
            slowness: 1,
            disk_free_ns: 0,
            jobs: VecDeque::new(),
            jobs_done: VecDeque::new(),
            promises: VecDeque::new(),
            durable: (Term::ZERO, NodeId::ZERO, false),
            works: VecDeque::new(),
            works_done: VecDeque::new(),
            copying: None,
            followed: LogIndex::ZERO,
            ordered: None,
            heard: BTreeMap::new(),
            failing: false,
            lossy: false,
            armed: false,
            flipped: None,
            old_identity: None,
            old_disk: None,
        }
    }

    /// What its clocks say at a moment of true time.
    pub(crate) fn instant(&self, now_ns: u64) -> Instant {
        let passed = now_ns.saturating_sub(self.booted_ns);
        let wall_ms = (EPOCH_MS + now_ns / 1_000_000).saturating_add_signed(self.skew_ms);
        Instant { monotonic_ns: self.origin_ns + passed * self.rate / 1000, wall_ms }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
            && self.jobs_done.is_empty()
            && self.works.is_empty()
            && self.works_done.is_empty()
    }

    /// Everything that was under way in the process dies with it.
    pub(crate) fn forget_process(&mut self) {
        self.process = None;
        self.jobs.clear();
        self.jobs_done.clear();
        self.promises.clear();
        self.works.clear();
        self.works_done.clear();
        self.copying = None;
        self.ordered = None;
        self.heard.clear();
        self.turn_at = u64::MAX;
        self.disk_free_ns = 0;
    }
}
