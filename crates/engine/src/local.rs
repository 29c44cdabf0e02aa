//! The embedded default: one process, one log, group commit.
//!
//! Invariant: an entry is given back only when its durability is met: synced (`always`), or written (`interval`, `none`).
//! Called by: `node` through [`Engine`].

use crate::{Durability, Engine, EngineError, Identity, Job, JobDone, Opened, Proposal, Replay, Standing};
use quorate_log::{AppendEntry, Disk, Extent, Index, Log, LogConfig, LogError};
use quorate_types::codec::Writer;
use quorate_types::{ClusterId, Entry, LogIndex, NodeId, Term};
use std::collections::VecDeque;
use std::sync::Arc;

/// The term of a log that never was a cluster's.
const TERM: Term = Term(1);

/// See the module's documentation.
pub struct Local {
    log: Log,
    durability: Durability,
    /// That of the last entry: terms never go back, and the log may have been a cluster's.
    term: Term,
    /// Proposed entries, oldest first, kept so that applying them needs no decoding.
    in_flight: VecDeque<Entry>,
    scratch: Writer,
}

impl Local {
    /// Opens the log of a folder.
    ///
    /// # Errors
    /// What [`Log::open`] refuses: it names the file, the offset and what to do. [`EngineError::Identity`]: the folder belongs to a
    /// cluster, where this node alone must not decide anything.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        durability: Durability,
    ) -> Result<(Self, Opened), EngineError> {
        refuse_cluster(&disk)?;
        let (log, recovery) = Log::open(disk, config)?;
        let term = match recovery.last {
            Index::ZERO => TERM,
            last => log.reader().term(last).map_or(TERM, |term| Term(term.0)),
        };
        let mut entries = recovery.entries;
        if term > TERM {
            // A cluster's log may hold entries that later ones replaced, which only a second reading leaves out.
            let from = recovery.snapshot.as_ref().map_or(Index(1), |snapshot| snapshot.index().next());
            for entry in entries {
                entry?;
            }
            entries = log.reader().entries(from)?;
        }
        let mut notes = recovery.notes;
        notes.extend(recovery.damaged_snapshots.iter().map(LogError::to_string));
        let opened = Opened {
            snapshot: recovery.snapshot,
            entries: Replay(Some(entries)),
            torn: recovery.torn,
            notes,
            last: LogIndex(recovery.last.0),
        };
        let (in_flight, scratch) = (VecDeque::new(), Writer::default());
        Ok((Self { log, durability, term, in_flight, scratch }, opened))
    }

    /// When commits are answered.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

fn refuse_cluster(disk: &Arc<dyn Disk>) -> Result<(), EngineError> {
    match Identity::read(disk)? {
        Some(identity) if identity.cluster != ClusterId::ZERO => Err(EngineError::Identity(format!(
            "the data folder belongs to node {} of cluster {:016x}: start it with --node-id {} (or, when its quorum is lost for good, see `quorate cluster recover --help`)",
            identity.node, identity.cluster.0, identity.node
        ))),
        Some(identity) if identity.log > 0 => Err(EngineError::Identity(format!(
            "the data folder was a cluster's, its log is in log-{}: start it with --node-id {}, or open that sub-folder",
            identity.log, identity.node
        ))),
        _ => Ok(()),
    }
}

impl Engine for Local {
    fn standing(&self) -> Standing {
        Standing { term: self.term, leader: Some(NodeId::ZERO), leads: true, orders: true }
    }

    fn propose(&mut self, proposal: Proposal) -> Result<LogIndex, EngineError> {
        let index = LogIndex(self.log.last().next().0);
        let entry = proposal.into_entry(index, self.term);
        self.scratch.clear();
        entry.encode_body(&mut self.scratch);
        let extent = |e: &quorate_types::codec::Extent| Extent { offset: e.offset, len: e.len };
        let extents: Vec<Extent> = self.scratch.extents.iter().map(extent).collect();
        let term = quorate_log::Term(self.term.0);
        self.log.append(AppendEntry {
            index: Index(index.0),
            term,
            body: &self.scratch.buffer,
            extents: &extents,
        })?;
        self.in_flight.push_back(entry);
        Ok(index)
    }

    fn take_job(&mut self) -> Option<Job> {
        if self.log.buffered_bytes() == 0 {
            return None;
        }
        self.log.take_job(self.durability == Durability::Always).map(Job::of)
    }

    fn take_sync_job(&mut self) -> Option<Job> {
        self.log.take_job(true).map(Job::of)
    }

    fn take_mark_job(&mut self) -> Option<Job> {
        self.log.mark_job().map(Job::of)
    }

    fn complete(&mut self, done: JobDone) -> Result<(), EngineError> {
        done.identity?;
        if let Some(done) = done.write {
            self.log.complete(done)?;
        }
        Ok(())
    }

    fn next_committed(&mut self) -> Result<Option<Entry>, EngineError> {
        Ok(if self.has_committed() { self.in_flight.pop_front() } else { None })
    }

    fn has_committed(&self) -> bool {
        let certain = match self.durability {
            Durability::Always => self.log.synced(),
            Durability::Interval | Durability::None => self.log.written(),
        };
        self.in_flight.front().is_some_and(|entry| entry.index.0 <= certain.0)
    }

    fn last(&self) -> LogIndex {
        LogIndex(self.log.last().0)
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    fn snapshot_meta(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_log::FileDisk;
    use quorate_types::{Command, Commit, LogTime, Op, WallTime};

    fn proposal(value: &str) -> Proposal {
        let put =
            Op::Put { key: "k".into(), value: value.into(), lease: quorate_types::LeaseId(0), prev: false };
        let commands = vec![Command::commit(Commit::of(vec![put]))];
        Proposal { wall: WallTime(1), time: LogTime(1), commands, ..Proposal::default() }
    }

    fn open(folder: &std::path::Path, durability: Durability) -> (Local, Vec<Entry>) {
        let disk = Arc::new(FileDisk::open(folder).unwrap());
        let config = LogConfig {
            segment_bytes: 1 << 20,
            batch_bytes_max: 1 << 18,
            entry_bytes_max: 1 << 16,
            ..LogConfig::default()
        };
        let (engine, opened) = Local::open(disk, config, durability).unwrap();
        (engine, opened.entries.map(Result::unwrap).collect())
    }

    #[test]
    fn an_entry_is_committed_only_when_its_durability_is_met_and_replays_as_it_was() {
        for durability in [Durability::Always, Durability::Interval, Durability::None] {
            let folder = tempfile::tempdir().unwrap();
            let (mut engine, found) = open(folder.path(), durability);
            assert!(found.is_empty());
            engine.propose(proposal("a")).unwrap();
            engine.propose(proposal("b")).unwrap();
            assert!(!engine.has_committed());
            let job = engine.take_job().unwrap();
            assert_eq!(job.syncs(), durability == Durability::Always);
            assert!(engine.take_job().is_none(), "both went into one batch");
            engine.complete(job.run()).unwrap();
            let committed: Vec<Entry> = std::iter::from_fn(|| engine.next_committed().unwrap()).collect();
            assert_eq!(committed.len(), 2);
            drop(engine);
            assert_eq!(open(folder.path(), durability).1, committed);
        }
    }
}
