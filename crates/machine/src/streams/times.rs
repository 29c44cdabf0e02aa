//! Records by time: where a partition goes on from a moment.
//!
//! Invariant: wall time never goes back along a partition, so the batches of a moment and later are its end.
//! Called by: [`crate::reads`].

use super::{PartKey, Streams};
use quorate_types::{Key, Offset, OpError, WallTime};

impl Streams {
    /// The first offset that is kept of a batch appended at `wall` or later; nothing when all were appended before.
    ///
    /// # Errors
    /// [`OpError::StreamMissing`], [`OpError::PartitionMissing`].
    pub(crate) fn offset_at(
        &self,
        stream: &Key,
        partition: u32,
        wall: WallTime,
    ) -> Result<Option<Offset>, OpError> {
        let key = self.part_key(stream, partition)?;
        let head = self.part(key).head;
        let (mut low, mut high) = (head.first, head.next);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            match self.wall_from(key, middle) {
                Some((before, end)) if before < wall => low = end,
                _ => high = middle,
            }
        }
        Ok((low < head.next && self.wall_from(key, low).is_some()).then_some(low))
    }

    /// When the batch that holds an offset, or the first after it, was appended, and where it ends.
    fn wall_from(&self, key: PartKey, from: Offset) -> Option<(WallTime, Offset)> {
        self.batches_from(key, from).next().map(|(batch, _)| (batch.wall, batch.end()))
    }
}
