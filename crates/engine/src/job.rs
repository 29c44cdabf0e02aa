//! I/O as data: what has to be on disk before something may be said.
//!
//! Invariant: a vote is on disk before the log's part of the same job is begun.
//! Called by: the engines (make, take back); the runtime's I/O thread and the simulator (run).

use quorate_log::{LogError, SlotFile, WriteJob};
use std::sync::{Arc, Mutex, PoisonError};

/// One piece of I/O. Run it on any thread, in the order taken.
#[must_use = "a job that is not run leaves the engine waiting for it"]
pub struct Job {
    pub(crate) identity: Option<(Arc<Mutex<SlotFile>>, Vec<u8>)>,
    pub(crate) write: Option<WriteJob>,
}

/// What a job did; give it back to the engine.
#[must_use = "only the engine's `complete` moves its promises"]
pub struct JobDone {
    pub(crate) identity: Result<(), LogError>,
    pub(crate) write: Option<quorate_log::JobDone>,
}

impl Job {
    pub(crate) fn of(write: WriteJob) -> Self {
        Self { identity: None, write: Some(write) }
    }

    /// Does the I/O.
    pub fn run(self) -> JobDone {
        let identity = match self.identity {
            None => Ok(()),
            Some((file, content)) => file.lock().unwrap_or_else(PoisonError::into_inner).write(&content),
        };
        // After a vote that may be lost nothing may be written that depends on it.
        let write = if identity.is_ok() { self.write.map(WriteJob::run) } else { None };
        JobDone { identity, write }
    }

    /// Whether this job syncs.
    #[must_use]
    pub fn syncs(&self) -> bool {
        self.identity.is_some() || self.write.as_ref().is_some_and(WriteJob::syncs)
    }
}

impl JobDone {
    /// Whether the disk did what was asked.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.identity.is_ok() && self.write.as_ref().is_none_or(quorate_log::JobDone::is_ok)
    }
}
