//! Seeded choices: the same seed makes the same plan of faults and operations, though never the same interleaving.
//!
//! Called by: `faults`, `work`, `probe`.

/// xorshift64* (Vigna, 2016).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Any seed, zero included.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A stream of its own for the `number`th user.
    pub(crate) fn fork(&self, number: u64) -> Self {
        Self::new(self.0 ^ (number + 1).wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// Between both, the first included.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, part: u64) -> bool {
        self.below(100) < part
    }

    /// One of them; they are not empty.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
