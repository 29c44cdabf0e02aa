//! Random picks from one number of an entry's seed.
//!
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64); Floyd, "A sample of brilliance", CACM 30(9), 1987.
//! Invariant: the same seed gives the same picks everywhere.
//! Called by: `sets`, `hashes`, `sorted`, `keys`.

use hashbrown::HashSet;

/// A sequence of random numbers.
pub(crate) struct Dice(u64);

impl Dice {
    /// The sequence of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A place below `bound`, which is not 0. (Its bias is below bound / 2^64.)
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// `count` different places below `bound`, which is at least `count`.
    pub(crate) fn places(&mut self, count: u64, bound: u64) -> Vec<u64> {
        assert!(count <= bound, "{count} different places of {bound}");
        let capacity = usize::try_from(count).expect("a command's budget fits memory");
        // Asked only whether it has a place, never for its order, which therefore cannot show.
        let mut seen = HashSet::with_capacity_and_hasher(capacity, foldhash::fast::FixedState::default());
        let mut places = Vec::with_capacity(capacity);
        for last in bound - count..bound {
            let pick = self.below(last + 1);
            let place = if seen.insert(pick) { pick } else { last };
            if place == last {
                seen.insert(last);
            }
            places.push(place);
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_different_and_reach_everywhere() {
        let mut hits = [0; 10];
        for seed in 0..2000 {
            let mut places = Dice::new(seed).places(3, 10);
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 3);
            for place in places {
                hits[place as usize] += 1;
            }
        }
        assert!(hits.iter().all(|hits| (450..750).contains(hits)), "{hits:?}");
        let mut all = Dice::new(1).places(10, 10);
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }
}
