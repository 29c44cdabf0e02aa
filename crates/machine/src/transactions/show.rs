//! What a transaction looks like from outside.
//!
//! Called by: gateways, on behalf of whoever looks after producers.

use super::{State, Transaction};
use crate::Machine;
use quorate_types::{Blob, Key, Millis, ProducerId, WallTime};

/// What has become of the last transaction under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There was none since the name was taken over.
    Empty,
    /// It is open.
    Open,
    /// It ended well.
    Committed,
    /// It was dropped.
    Aborted,
}

/// A transaction as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionView {
    /// Who it belongs to.
    pub producer: ProducerId,
    /// The newest life of that.
    pub epoch: u16,
    /// How far it is.
    pub stage: Stage,
    /// How long it may be open.
    pub timeout: Millis,
    /// How long it has been what it is, in log time.
    pub age: Millis,
    /// When that began: by the wall clock, if there was a leader all the while.
    pub since: WallTime,
    /// The partitions that it has named, of streams that are there.
    pub parts: Vec<(Key, u32)>,
    /// Batches that it holds.
    pub batches: u64,
}

impl Machine {
    /// What is held under a name of a producer's.
    #[must_use]
    pub fn transaction(&self, name: &Blob) -> Option<TransactionView> {
        self.transactions.names.get(name).map(|found| self.view_of(found))
    }

    /// All names of producers, in order, and what is held under them.
    #[must_use]
    pub fn transactions(&self) -> Vec<(Blob, TransactionView)> {
        self.transactions.names.iter().map(|(name, found)| (name.clone(), self.view_of(found))).collect()
    }

    fn view_of(&self, found: &Transaction) -> TransactionView {
        let Transaction { producer, epoch, timeout, batches, .. } = *found;
        let age = self.time.millis_since(found.since);
        let name = |stream| self.streams.name(stream).cloned();
        let parts = found.parts.iter().filter_map(|part| Some((name(part.stream)?, part.partition)));
        TransactionView {
            producer,
            epoch,
            stage: match found.state {
                State::Empty => Stage::Empty,
                State::Open => Stage::Open,
                State::Committed => Stage::Committed,
                State::Aborted => Stage::Aborted,
            },
            timeout,
            age,
            since: WallTime(self.wall.0.saturating_sub(age.0)),
            parts: parts.collect(),
            batches,
        }
    }
}
