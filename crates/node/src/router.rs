//! Which partition a key belongs to: keys map to hash slots, slots to partitions by rendezvous hashing.
//!
//! There is one partition now, and no code that asks here may assume it.
//!
//! Invariant: a key's slot depends on its bytes alone, the same on every node and release.
//! Invariant: adding a partition moves only slots that go to it.
//! Source: Thaler & Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998.

use quorate_types::Key;

/// How many slots there are.
pub const SLOTS: u16 = 16_384;

/// Number of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

/// The map from keys to partitions.
#[derive(Clone, Debug)]
pub struct Router {
    slots: Vec<PartitionId>,
}

impl Router {
    /// Spreads the slots over `partitions`, which are 1 or more.
    ///
    /// # Panics
    /// Without a partition.
    #[must_use]
    pub fn new(partitions: &[PartitionId]) -> Self {
        let best = |slot: u16| {
            let weight = |partition: &&PartitionId| mix(u64::from(slot) << 32 | u64::from(partition.0));
            *partitions.iter().max_by_key(weight).expect("a node hosts a partition")
        };
        Self { slots: (0..SLOTS).map(best).collect() }
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot(key: &Key) -> u16 {
        let hash = key
            .name
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        (mix(hash ^ u64::from(key.space.0)) % u64::from(SLOTS)) as u16
    }

    /// The partition of a key.
    #[must_use]
    pub fn partition(&self, key: &Key) -> PartitionId {
        self.slots[usize::from(Self::slot(key))]
    }
}

/// Finalizer of SplitMix64 (Steele, Lea & Flood, 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_a_partition_moves_only_what_goes_to_it() {
        let ids: Vec<PartitionId> = (0..5).map(PartitionId).collect();
        let (four, five) = (Router::new(&ids[..4]), Router::new(&ids));
        let moved: Vec<usize> =
            (0..usize::from(SLOTS)).filter(|slot| four.slots[*slot] != five.slots[*slot]).collect();
        assert!(moved.iter().all(|slot| five.slots[*slot] == PartitionId(4)));
        let share = usize::from(SLOTS) / 5;
        assert!((share * 9 / 10..share * 11 / 10).contains(&moved.len()), "{} slots moved", moved.len());
    }

    #[test]
    fn a_keys_slot_never_changes() {
        assert_eq!(Router::slot(&Key::new("orders/42")), Router::slot(&Key::new("orders/42")));
        assert_eq!(["", "a", "orders/42"].map(|name| Router::slot(&Key::new(name))), SLOTS_OF_OLD);
    }
    const SLOTS_OF_OLD: [u16; 3] = [10_395, 8_440, 5_802];
}
