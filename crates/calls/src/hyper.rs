//! HyperLogLog: counting different things in 12 KiB at most, within a percent. A string in Redis' own format, so that one may be copied either way.
//!
//! The estimate is computed in fixed point, with 64 binary places: the same number everywhere, and Redis' own but for a rare last digit.
//!
//! Source: Flajolet et al., "HyperLogLog", AofA 2007; Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", arXiv:1702.01284,
//! algorithm 6; the format is that of Redis (`HYLL`, dense and sparse). Hash: Appleby, MurmurHash64A.
//! Invariant: bytes that a client wrote are read with care: what is no sketch is refused, never trusted.
//! Called by: `call`, through the table.

use crate::call::string;
use crate::collections::Value;
use crate::{Error, Look, Reading, Writing};
use quorate_types::{Key, Reply};

type Answer = Result<Reply, Error>;

/// Registers: 2^14.
const REGISTERS: usize = 1 << 14;
/// Bits of a hash beyond those that name the register.
const RANK_BITS: usize = 50;
const HEADER: usize = 16;
const DENSE_BYTES: usize = HEADER + REGISTERS * 6 / 8;
/// Longest sparse form, as Redis' default has it; and the highest register it can show.
const SPARSE_BYTES_MAX: usize = 3000;
const SPARSE_VALUE_MAX: u8 = 32;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;

pub(crate) fn pfadd(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let was = registers(w.look(), &key)?;
    let mut changed = was.is_none();
    let mut sketch = was.unwrap_or_default();
    for element in &w.words[2..] {
        changed |= sketch.add(element);
    }
    if changed {
        w.put_keeping(&key, Value::String(sketch.encode().into()))?;
    }
    Ok(Reply::flag(changed))
}

pub(crate) fn pfcount(r: &mut Reading<'_>) -> Answer {
    r.session.touch((r.words.len() as u64).saturating_mul(REGISTERS as u64 / 64))?;
    let mut all = Sketch::default();
    for name in &r.words[1..] {
        if let Some(sketch) = registers(r.look, &r.session.key(name))? {
            all.merge(&sketch);
        }
    }
    Ok(Reply::integer(i64::try_from(all.estimate()).unwrap_or(i64::MAX)))
}

pub(crate) fn pfmerge(w: &mut Writing<'_>) -> Answer {
    w.session.touch((w.words.len() as u64).saturating_mul(REGISTERS as u64 / 64))?;
    let mut all = Sketch::default();
    for name in &w.words[1..] {
        if let Some(sketch) = registers(&*w.store, &w.session.key(name))? {
            all.merge(&sketch);
        }
    }
    w.put_keeping(&w.key(1), Value::String(all.encode().into()))?;
    Ok(Reply::ok())
}

fn registers(look: &dyn Look, key: &Key) -> Result<Option<Sketch>, Error> {
    let wrong = || Error::reply("WRONGTYPE Key is not a valid HyperLogLog string value.");
    let corrupt = || Error::reply("INVALIDOBJ Corrupted HLL object detected");
    let Some(bytes) = string(look, key)? else { return Ok(None) };
    let (Some(header), Some(body)) = (bytes.get(..HEADER), bytes.get(HEADER..)) else { return Err(wrong()) };
    match (&header[..4], header[4]) {
        (b"HYLL", DENSE) if bytes.len() == DENSE_BYTES => Ok(Some(Sketch::dense(body))),
        (b"HYLL", SPARSE) => Sketch::sparse(body).ok_or_else(corrupt).map(Some),
        _ => Err(wrong()),
    }
}

/// The registers: how long the longest run of zeros was, plus one, among the hashes that name each.
struct Sketch(Vec<u8>);

impl Default for Sketch {
    fn default() -> Self {
        Self(vec![0; REGISTERS])
    }
}

impl Sketch {
    fn dense(body: &[u8]) -> Self {
        let register = |at: usize| {
            let (byte, shift) = (at * 6 / 8, at * 6 % 8);
            let high = body.get(byte + 1).unwrap_or(&0);
            (u16::from_le_bytes([body[byte], *high]) >> shift & 63) as u8
        };
        Self((0..REGISTERS).map(register).collect())
    }

    /// Runs: `00nnnnnn` n+1 zeros, `01nnnnnn nnnnnnnn` likewise, `1vvvvvnn` n+1 times v+1.
    fn sparse(body: &[u8]) -> Option<Self> {
        let mut registers = Vec::with_capacity(REGISTERS);
        let mut bytes = body.iter();
        while let Some(byte) = bytes.next() {
            let (value, count) = match byte >> 6 {
                0 => (0, usize::from(byte & 63) + 1),
                1 => (0, (usize::from(byte & 63) << 8 | usize::from(*bytes.next()?)) + 1),
                _ => ((byte >> 2 & 31) + 1, usize::from(byte & 3) + 1),
            };
            if registers.len() + count > REGISTERS {
                return None;
            }
            registers.resize(registers.len() + count, value);
        }
        (registers.len() == REGISTERS).then_some(Self(registers))
    }

    fn add(&mut self, element: &[u8]) -> bool {
        let hash = murmur(element);
        let register = &mut self.0[hash as usize & (REGISTERS - 1)];
        let rank = ((hash >> 14 | 1 << RANK_BITS).trailing_zeros() + 1) as u8;
        let changed = rank > *register;
        *register = rank.max(*register);
        changed
    }

    fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(register, other)| *register = (*register).max(*other));
    }

    /// The shorter form that fits; without the cached estimate that Redis may keep in the header.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(b"HYLL");
        bytes[4] = SPARSE;
        bytes[HEADER - 1] = 0x80;
        if self.0.iter().all(|register| *register <= SPARSE_VALUE_MAX) && self.put_sparse(&mut bytes) {
            return bytes;
        }
        bytes.truncate(HEADER);
        bytes[4] = DENSE;
        for four in self.0.chunks_exact(4) {
            let bits = four.iter().rev().fold(0_u32, |bits, register| bits << 6 | u32::from(*register));
            bytes.extend_from_slice(&bits.to_le_bytes()[..3]);
        }
        bytes
    }

    /// Whether it fitted.
    fn put_sparse(&self, bytes: &mut Vec<u8>) -> bool {
        for run in self.0.chunk_by(|a, b| a == b) {
            let mut left = run.len();
            while left > 0 {
                let count = match (run[0], left) {
                    (0, ..=64) => {
                        bytes.push((left - 1) as u8);
                        left
                    }
                    (0, _) => {
                        bytes.extend_from_slice(&[0x40 | ((left - 1) >> 8) as u8, (left - 1) as u8]);
                        left
                    }
                    (value, _) => {
                        let count = left.min(4);
                        bytes.push(0x80 | (value - 1) << 2 | (count - 1) as u8);
                        count
                    }
                };
                left -= count;
            }
            if bytes.len() > HEADER + SPARSE_BYTES_MAX {
                return false;
            }
        }
        true
    }

    fn estimate(&self) -> u64 {
        let mut histogram = [0_u128; 64];
        for register in &self.0 {
            histogram[usize::from(*register)] += 1;
        }
        let share = |count: u128| (count << 64) / REGISTERS as u128;
        let Some(sigma) = sigma(share(histogram[0])) else { return 0 };
        let mut sum = tau(share(REGISTERS as u128 - histogram[RANK_BITS + 1])) * REGISTERS as u128;
        for count in histogram[1..=RANK_BITS].iter().rev() {
            sum = (sum + (count << 64)) >> 1;
        }
        sum += sigma * REGISTERS as u128;
        let product = ALPHA * (REGISTERS * REGISTERS) as u128;
        u64::try_from((product + sum / 2) / sum.max(1)).unwrap_or(u64::MAX)
    }
}

/// In fixed point: 64 binary places.
const ONE: u128 = 1 << 64;
/// 1 / (2 ln 2).
const ALPHA: u128 = 13_306_513_097_844_322_491;

/// Σ x^(2^k) · 2^(k−1), beginning with x; nothing for 1, where it has no bound. Fixed point.
fn sigma(mut x: u128) -> Option<u128> {
    if x >= ONE {
        return None;
    }
    let mut sum = x;
    for shift in 0.. {
        x = (x * x) >> 64;
        let more = x << shift;
        if more == 0 {
            break;
        }
        sum += more;
    }
    Some(sum)
}

/// (1 − x − Σ (1 − x^(2^−k))² · 2^−k) / 3. Fixed point.
fn tau(mut x: u128) -> u128 {
    if x == 0 || x >= ONE {
        return 0;
    }
    let mut sum = ONE - x;
    for shift in 1..64 {
        // The root of a number with 64 places has 32; shifted up first, it keeps 63.
        x = (x << 62).isqrt() << 1;
        let rest = ONE - x.min(ONE);
        let half = rest >> 1;
        sum = sum.saturating_sub(((half * half) >> 62) >> shift);
    }
    sum / 3
}

fn murmur(bytes: &[u8]) -> u64 {
    const MIX: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xadc8_3b19;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MIX);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
        word = word.wrapping_mul(MIX);
        word ^= word >> 47;
        hash = (hash ^ word.wrapping_mul(MIX)).wrapping_mul(MIX);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(MIX);
    }
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(MIX);
    hash ^ hash >> 47
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(count: u32) -> Sketch {
        let mut sketch = Sketch::default();
        for n in 0..count {
            sketch.add(format!("element {n}").as_bytes());
        }
        sketch
    }

    #[test]
    fn estimates_are_within_three_percent() {
        for count in [0, 1, 10, 1000, 20_000, 300_000] {
            let estimate = sketch(count).estimate();
            assert!(estimate.abs_diff(u64::from(count)) * 33 <= u64::from(count), "{count}: {estimate}");
        }
    }

    #[test]
    fn both_forms_hold_the_same_registers() {
        for count in [0, 5, 500, 50_000] {
            let sketch = sketch(count);
            let bytes = sketch.encode();
            let back = if bytes[4] == DENSE {
                Some(Sketch::dense(&bytes[HEADER..]))
            } else {
                Sketch::sparse(&bytes[HEADER..])
            };
            assert_eq!(back.unwrap().0, sketch.0, "{count}");
            assert_eq!(bytes[4] == DENSE, count == 50_000);
        }
    }

    #[test]
    fn a_full_register_counts_too() {
        // All registers at their highest: the sum has nothing but τ's part.
        assert!(Sketch(vec![51; REGISTERS]).estimate() > 1 << 60);
        let mut one = Sketch::default();
        one.0[7] = 51;
        assert_eq!(one.estimate(), 1);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        for body in [&[][..], &[0], &[0x7f], &[0x7f, 0xff, 0], &[0xff; 5000]] {
            assert!(Sketch::sparse(body).is_none());
        }
    }
}
