//! The consensus library's view of our log: recent entries in memory, older ones read back, terms of all.
//!
//! Invariant: an entry that is not yet written to the log is in `recent`.
//! Invariant: `terms` knows the term of every entry from `terms_from` to the last; older ones are read from the log.
//! Called by: the consensus library, synchronously; `Raft` keeps it in step with the log.

use super::message::from_body;
use quorate_log::{Index, LogError, LogReader};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, StorageError};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

/// Bytes of entries kept in memory for peers that are nearly up to date.
const RECENT_BYTES_MAX: usize = 64 << 20;
/// Committed entries that the library is told of at a time.
const SKELETONS_MAX: u64 = 16_384;

pub(crate) struct Storage {
    reader: LogReader,
    hard: HardState,
    conf: ConfState,
    /// Recent entries, without a gap, up to the last.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// (first index, term) of each run of one term.
    terms: Vec<(u64, u64)>,
    /// Terms from this index on stand in `terms`.
    terms_from: u64,
    last: u64,
    first: u64,
    /// Changes of membership up to here are another cluster's.
    first_at: u64,
    /// Indexes of changes of membership that may still be pending.
    changes: BTreeSet<u64>,
    /// The newest snapshot: index, term, members' roles then.
    snapshot: Option<(u64, u64, ConfState)>,
    /// A snapshot was asked for and there is none.
    snapshot_wanted: RefCell<bool>,
    /// The log could not be read: the engine stops.
    fault: RefCell<Option<String>>,
}

impl Storage {
    /// A storage whose log is known up to `base` only: the snapshot's index and term, or zeros.
    pub(crate) fn new(
        reader: LogReader,
        first: u64,
        base: (u64, u64),
        hard: HardState,
        conf: ConfState,
    ) -> Self {
        Self {
            reader,
            hard,
            conf,
            recent: VecDeque::new(),
            recent_bytes: 0,
            terms: vec![base],
            terms_from: base.0,
            last: base.0,
            first,
            first_at: 0,
            changes: BTreeSet::new(),
            snapshot: None,
            snapshot_wanted: RefCell::new(false),
            fault: RefCell::new(None),
        }
    }

    /// Takes an entry after the last, or in the place of one: then it and all after it are gone.
    pub(crate) fn append(&mut self, entry: Entry) {
        if entry.index <= self.last {
            self.truncate(entry.index);
        }
        assert!(entry.index == self.last + 1, "storage gap: last {}, offered {}", self.last, entry.index);
        self.last = entry.index;
        if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
            self.terms.push((entry.index, entry.term));
        }
        if entry.entry_type != EntryType::EntryNormal && entry.index > self.first_at {
            self.changes.insert(entry.index);
        }
        self.recent_bytes += bytes(&entry);
        self.recent.push_back(entry);
    }

    fn truncate(&mut self, from: u64) {
        assert!(from > self.terms_from, "an entry behind the snapshot was to be replaced");
        while self.recent.back().is_some_and(|entry| entry.index >= from) {
            let dropped = self.recent.pop_back().expect("it was just seen");
            self.recent_bytes -= bytes(&dropped);
        }
        self.terms.retain(|(first, _)| *first < from);
        self.changes.retain(|index| *index < from);
        self.last = from - 1;
    }

    /// Forgets what is written to the log and beyond what memory may hold.
    pub(crate) fn trim(&mut self, written: u64, first: u64) {
        while self.recent_bytes > RECENT_BYTES_MAX
            && self.recent.front().is_some_and(|entry| entry.index <= written)
        {
            let dropped = self.recent.pop_front().expect("it was just seen");
            self.recent_bytes -= bytes(&dropped);
        }
        self.first = self.first.max(first);
    }

    pub(crate) fn set_first(&mut self, first_at: u64) {
        self.first_at = first_at;
    }

    pub(crate) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub(crate) fn applied(&mut self, index: u64) {
        self.changes = self.changes.split_off(&(index + 1));
    }

    pub(crate) fn set_snapshot(&mut self, index: u64, term: u64, conf: ConfState) {
        self.snapshot = Some((index, term, conf));
    }

    pub(crate) fn take_snapshot_wanted(&mut self) -> bool {
        std::mem::take(self.snapshot_wanted.get_mut())
    }

    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Entries from `low` on, up to about `bytes_max` bytes and at least one, from memory or from the log.
    pub(crate) fn read(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, Error> {
        if low < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        let recent_from = self.recent.front().map_or(self.last + 1, |entry| entry.index);
        if low >= recent_from {
            let mut taken = 0u64;
            let rows = self.recent.range((low - recent_from) as usize..(high - recent_from) as usize);
            let fits = |entry: &&Entry| {
                let first = taken == 0;
                taken += bytes(entry) as u64;
                first || taken <= bytes_max
            };
            return Ok(rows.take_while(fits).cloned().collect());
        }
        let found = self.reader.range(Index(low), Index(high.min(recent_from)), bytes_max);
        let rows = found.map_err(|error| self.unreadable(error))?;
        let entry = |row: &quorate_log::Entry| from_body(row.index.0, row.term.0, &row.body, &row.extents);
        rows.iter().map(entry).collect::<Result<_, _>>().map_err(|error| {
            self.fault.borrow_mut().get_or_insert_with(|| format!("entry {low} of the log: {error}"));
            Error::Store(StorageError::LogTemporarilyUnavailable)
        })
    }

    /// Behind the cleaner's back means compacted; anything else stops the engine, and until then nothing is sent.
    fn unreadable(&self, error: LogError) -> Error {
        match error {
            LogError::Compacted { .. } => Error::Store(StorageError::Compacted),
            other => {
                self.fault.borrow_mut().get_or_insert_with(|| other.to_string());
                Error::Store(StorageError::LogTemporarilyUnavailable)
            }
        }
    }

    fn run_term(&self, index: u64) -> u64 {
        let at = self.terms.partition_point(|(first, _)| *first <= index);
        at.checked_sub(1).map_or(0, |at| self.terms[at].1)
    }
}

fn bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 64
}

impl raft::Storage for Storage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.conf.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last + 1, "entries up to {high} of a log that ends at {}", self.last);
        if context.can_async() {
            return self.read(low, high, max_size.into().unwrap_or(u64::MAX));
        }
        // The library only counts what is committed and looks for changes of membership in it. The engine reads the bodies
        // itself, at its own pace.
        let skeleton = |index: u64| {
            let mut entry = Entry { index, term: self.run_term(index), ..Entry::default() };
            if self.changes.contains(&index) {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
            }
            entry
        };
        // Asked for with a bound, the rest is asked for again.
        let most = max_size.into().map_or(u64::MAX, |_| SKELETONS_MAX);
        Ok((low..high.min(low.saturating_add(most))).map(skeleton).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == 0 {
            return Ok(0);
        }
        if index >= self.terms_from && index <= self.last {
            return Ok(self.run_term(index));
        }
        if index + 1 < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last {
            return Err(Error::Store(StorageError::Unavailable));
        }
        self.reader.term(Index(index)).map(|term| term.0).map_err(|error| match self.unreadable(error) {
            compacted @ Error::Store(StorageError::Compacted) => compacted,
            // The library takes anything else for a bug of ours; the fault stops the engine.
            _ => Error::Store(StorageError::Unavailable),
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request: u64, _to: u64) -> raft::Result<Snapshot> {
        let Some((index, term, conf)) = self.snapshot.as_ref().filter(|(index, ..)| *index >= request) else {
            *self.snapshot_wanted.borrow_mut() = true;
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = *index;
        metadata.term = *term;
        metadata.set_conf_state(conf.clone());
        Ok(snapshot)
    }
}
