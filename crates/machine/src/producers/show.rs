//! Which producers number what they send to a partition, from outside.
//!
//! Called by: gateways, on behalf of whoever looks after producers.

use super::Place;
use crate::Machine;
use quorate_types::{Key, Numbered, ProducerId, WallTime};

/// A producer of a partition, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerView {
    /// Its number.
    pub producer: ProducerId,
    /// The newest life that has sent anything.
    pub epoch: u16,
    /// Number of the last record that it has sent.
    pub last: u32,
    /// When that was: by the wall clock, if there was a leader all the while.
    pub at: WallTime,
}

impl Machine {
    /// Who numbers its records in a partition, by number; nothing when there is no such stream or partition.
    #[must_use]
    pub fn producers(&self, stream: &Key, partition: u32) -> Option<Vec<ProducerView>> {
        let part = self.streams.place(stream, partition).ok()?;
        let place = |producer| Place { stream: part.stream, partition, producer: ProducerId(producer) };
        let sent = self.numbered.sent.range(place(0)..=place(u64::MAX));
        let view = sent.map(|(place, sent)| {
            let after = sent.batches.last().map_or(0, |batch| Numbered::after(batch.first, batch.records));
            let age = self.time.millis_since(sent.last);
            ProducerView {
                producer: place.producer,
                epoch: sent.epoch,
                last: after.checked_sub(1).unwrap_or(quorate_types::producers::SEQUENCE_MAX),
                at: WallTime(self.wall.0.saturating_sub(age.0)),
            }
        });
        Some(view.collect())
    }
}
