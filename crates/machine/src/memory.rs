//! Memory of keyspaces: how much each holds, what it may hold, and who goes when it holds more.
//!
//! Bytes are counted from the contents alone, so every replica counts the same and refuses the same command. Which keys go is the leader's
//! choice ([`Machine::victims`]): it knows which were used. It orders them by name, and [`Machine::evict`] deletes exactly those, everywhere.
//!
//! Invariant: bytes of a keyspace = the sum over its keys of [`KEY_BYTES`], name, value and elements; it survives snapshots and rollbacks.
//! Invariant: a key that hangs on a lease, belongs to the server, or names a protected stream is never evicted.
//! Called by: `Machine::execute` (limits, evictions), `calls` (whether there is room), the node (victims), gateways (what is told).

use crate::keys::{Hang, Row};
use crate::rows::Slot;
use crate::{CALLS_SINCE, Event, Machine, Now, Outputs};
use quorate_calls::Deadline;
use quorate_calls::events::Classes;
use quorate_types::{
    Blob, Eviction, Key, Keyspace, LogTime, MemoryLimit, OpError, Outcome, Refusal, WallTime,
};
use std::collections::BTreeSet;

/// Bytes that a key takes beside its name, value and elements: its row, and its places in the two indexes.
pub const KEY_BYTES: u64 = 136;
/// What a keyspace that evicts may hold beyond its limit before growth is refused, as a part of the limit: what is on its way into the log
/// when the leader finds it full. A sixteenth.
const SLACK_PART: u64 = 16;
/// Keys that are compared for each that goes: with so many it is about as good as if all were.
const SAMPLES: usize = 16;
/// Places looked at for one sample, where keys are sparse among them.
const TRIES: u32 = 32;
/// Keys looked at in order, where tries at random find too few.
const WALK: usize = 256;
/// Such walks at most that find nobody, for one choice: names that history still holds may lie between those that are there by the thousand.
const WALKS_IN_VAIN: u32 = 64;
/// Deadlines looked at for the soonest ones of a keyspace.
const DEADLINES_MAX: usize = 4096;

/// What a keyspace holds and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryView {
    /// Bytes that the keyspace holds.
    pub bytes: u64,
    /// What it may hold, and what is done beyond.
    pub limit: MemoryLimit,
}

/// Where a walk over a keyspace's keys stands; kept by the leader, no part of the state.
#[derive(Clone, Debug, Default)]
pub struct Hand {
    name: Blob,
    log: (LogTime, u32),
    wall: (WallTime, u32),
}

/// Keys to be evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Victims {
    /// Their names, the least useful first.
    pub names: Vec<Blob>,
    /// Their places, by which they are known while they are going.
    pub slots: Vec<u32>,
    /// Bytes that they take.
    pub bytes: u64,
}

/// A key that may go: whoever has the highest rank goes first.
struct Candidate {
    rank: u64,
    slot: Slot,
}

impl Machine {
    /// What a keyspace holds and may hold.
    #[must_use]
    pub fn memory(&self, space: Keyspace) -> MemoryView {
        let limit = self.limits_of_memory.get(&space).copied().unwrap_or_default();
        MemoryView { bytes: self.keys.bytes_of(space), limit }
    }

    /// Keyspaces with a memory limit.
    pub fn memory_limits(&self) -> impl Iterator<Item = (Keyspace, MemoryLimit)> {
        self.limits_of_memory
            .iter()
            .filter(|(_, limit)| limit.bytes_max > 0)
            .map(|(space, limit)| (*space, *limit))
    }

    /// Whether a keyspace holds too much for a command that may need more.
    #[must_use]
    pub fn is_full(&self, space: Keyspace) -> bool {
        if self.limits_of_memory.len() == 0 {
            return false;
        }
        let Some(limit) = self.limits_of_memory.get(&space).filter(|limit| limit.bytes_max > 0) else {
            return false;
        };
        let slack = if limit.eviction == Eviction::None { 0 } else { limit.bytes_max / SLACK_PART };
        self.keys.bytes_of(space) > limit.bytes_max.saturating_add(slack)
    }

    /// Whether any keyspace is full.
    #[must_use]
    pub fn is_any_full(&self) -> bool {
        self.limits_of_memory.iter().any(|(space, _)| self.is_full(*space))
    }

    /// Refuses growth of a keyspace that is full.
    pub(crate) fn has_room(&self, space: Keyspace) -> Result<(), OpError> {
        if self.is_full(space) {
            return Err(OpError::Call { text: quorate_calls::OUT_OF_MEMORY.into() });
        }
        Ok(())
    }

    /// Sets what a keyspace may hold; what is not named stays.
    pub(crate) fn limit_memory(
        &mut self,
        space: Keyspace,
        bytes_max: Option<u64>,
        eviction: Option<Eviction>,
        now: &Now,
    ) -> Outcome {
        if space.is_internal() || self.version < CALLS_SINCE {
            let error = OpError::Internal { space: u64::from(space.0) };
            return Outcome::Refused { refusal: Refusal::Command { error } };
        }
        let before = self.limits_of_memory.get(&space).copied().unwrap_or_default();
        let limit = MemoryLimit {
            bytes_max: bytes_max.unwrap_or(before.bytes_max),
            eviction: eviction.unwrap_or(before.eviction),
        };
        self.limits_of_memory.set(space, (limit != MemoryLimit::default()).then_some(limit));
        self.note_uses(now.time);
        Outcome::Done { revision: self.revision }
    }

    /// Has uses noted while somebody goes by them.
    pub(crate) fn note_uses(&mut self, now: LogTime) {
        let evicts = |limit: &MemoryLimit| limit.bytes_max > 0 || limit.eviction != Eviction::None;
        let counts = |limit: &MemoryLimit| matches!(limit.eviction, Eviction::AllLfu | Eviction::VolatileLfu);
        let on = self.limits_of_memory.iter().any(|(_, limit)| evicts(limit));
        let counting = self.limits_of_memory.iter().any(|(_, limit)| counts(limit));
        self.keys.note_uses(on, counting, now);
    }

    /// Deletes what the leader chose, as far as it may go now.
    pub(crate) fn evict(&mut self, space: Keyspace, names: &[Blob], now: &Now, out: &mut Outputs) -> Outcome {
        let eviction = self.memory(space).limit.eviction;
        if eviction != Eviction::None && !space.is_internal() {
            for name in names {
                let key = Key { space, name: name.clone() };
                if self.keys.get(&key).is_some_and(|row| may_go(row, eviction)) {
                    self.drop_key(&key, now);
                    if self.listens {
                        let (key, class, event) = (key.clone(), Classes::EVICTED, "evicted");
                        out.events.push(Event::Happened { key, class, event });
                    }
                    out.events.push(Event::Evicted { key });
                }
            }
        }
        Outcome::Done { revision: self.revision }
    }

    /// Chooses keys to evict, so that about `wanted` bytes are freed: at most `keys_max`, and none that is `going` already. Nothing is changed.
    ///
    /// The times are the leader's, `seed` is fresh entropy.
    #[must_use]
    pub fn victims(
        &self,
        space: Keyspace,
        (wanted, keys_max): (u64, usize),
        (wall, time): (WallTime, LogTime),
        seed: u64,
        going: &BTreeSet<u32>,
        hand: &mut Hand,
    ) -> Victims {
        let eviction = self.memory(space).limit.eviction;
        let mut victims = Victims::default();
        if eviction == Eviction::None {
            return victims;
        }
        if eviction == Eviction::VolatileTtl {
            let soonest = self.soonest(space, (wanted, keys_max), (wall, time), going);
            // Rows that were flushed may lie before all that are there, until they are swept: then it goes by samples, as with other policies.
            if !soonest.names.is_empty() || !self.keys.sweeps() {
                return soonest;
            }
        }
        let mut gone = going.clone();
        let mut pool: Vec<Candidate> = Vec::with_capacity(2 * SAMPLES);
        let (mut draw, mut in_vain) = (seed, 0);
        let samples =
            if matches!(eviction, Eviction::AllRandom | Eviction::VolatileRandom) { 1 } else { SAMPLES };
        while victims.bytes < wanted && victims.names.len() < keys_max {
            self.sample(space, eviction, samples, ((wall, time), &mut draw, hand), &mut |slot, rank| {
                let new = !gone.contains(&slot.0) && pool.iter().all(|candidate| candidate.slot != slot);
                if new {
                    pool.push(Candidate { rank, slot });
                }
                new
            });
            // The best of earlier samples stay in the running.
            pool.sort_unstable_by_key(|candidate| candidate.rank);
            if pool.len() > SAMPLES {
                pool.drain(..pool.len() - SAMPLES);
            }
            let Some(Candidate { slot, .. }) = pool.pop() else {
                in_vain += 1;
                if in_vain > WALKS_IN_VAIN {
                    break;
                }
                continue;
            };
            gone.insert(slot.0);
            self.choose(slot, &mut victims);
        }
        victims
    }

    fn choose(&self, slot: Slot, victims: &mut Victims) {
        let (key, row) = self.keys.at(slot).expect("the caller saw it there");
        victims.bytes += self.weight(key, row);
        victims.names.push(key.name.clone());
        victims.slots.push(slot.0);
    }

    /// Bytes that a key takes, with all that is its own.
    fn weight(&self, key: &Key, row: &Row) -> u64 {
        let elements = if row.kind.has_body() { self.bodies.get(row.body).bytes() } else { 0 };
        crate::keys::row_bytes(key, row) + elements
    }

    /// Shows keys of a keyspace that may go, with their ranks, until so many were new to whoever is shown them: picked at random, or in order where they are sparse.
    fn sample(
        &self,
        space: Keyspace,
        eviction: Eviction,
        wanted: usize,
        (now, draw, hand): ((WallTime, LogTime), &mut u64, &mut Hand),
        found: &mut dyn FnMut(Slot, u64) -> bool,
    ) {
        let slots = u64::from(self.keys.slots().max(1));
        let (mut count, mut tries) = (0, TRIES * wanted as u32);
        let fits = |slot: Slot| {
            let (key, row) = self.keys.at(slot)?;
            (key.space == space && may_go(row, eviction)).then(|| self.rank(slot, row, eviction, now))
        };
        while count < wanted && tries > 0 {
            *draw = xxhash_rust::xxh3::xxh3_64(&draw.to_le_bytes());
            let slot = Slot((*draw % slots) as u32);
            tries -= 1;
            if fits(slot).is_some_and(|rank| found(slot, rank)) {
                count += 1;
            }
            // One in eight or fewer: most tries would be in vain for each of the samples.
            if tries < (TRIES - 8) * wanted as u32 && count * 8 < wanted {
                break;
            }
        }
        if count >= wanted {
            return;
        }
        for slot in self.walk(space, eviction, hand) {
            if fits(slot).is_some_and(|rank| found(slot, rank)) {
                count += 1;
                if count >= wanted {
                    break;
                }
            }
        }
    }

    /// The next keys after where the hand stands: with deadlines, those that have one.
    fn walk(&self, space: Keyspace, eviction: Eviction, hand: &mut Hand) -> Vec<Slot> {
        if !eviction.is_volatile() {
            return self.keys.next_names(space, &mut hand.name, WALK);
        }
        let mut slots = self.keys.next_due_log(&mut hand.log, WALK / 2);
        slots.extend(self.keys.next_due_wall(&mut hand.wall, WALK / 2));
        slots
    }

    fn rank(&self, slot: Slot, row: &Row, eviction: Eviction, now: (WallTime, LogTime)) -> u64 {
        let used = self.keys.use_of(slot, now.1);
        match eviction {
            Eviction::AllLfu | Eviction::VolatileLfu => {
                u64::from(u8::MAX - used.count) << 56 | used.idle_ns >> 8
            }
            Eviction::AllLru | Eviction::VolatileLru => used.idle_ns,
            Eviction::VolatileTtl => u64::MAX - left_ms(row, now).unwrap_or(u64::MAX),
            Eviction::None | Eviction::AllRandom | Eviction::VolatileRandom => 0,
        }
    }

    /// The keys of a keyspace that would end first.
    fn soonest(
        &self,
        space: Keyspace,
        (wanted, keys_max): (u64, usize),
        (wall, time): (WallTime, LogTime),
        going: &BTreeSet<u32>,
    ) -> Victims {
        let mut due: Vec<(u64, Slot)> = Vec::new();
        for slot in self.keys.first_due(DEADLINES_MAX) {
            let Some((key, row)) = self.keys.at(slot) else { continue };
            let Some(left) = left_ms(row, (wall, time)) else { continue };
            if key.space == space && !going.contains(&slot.0) {
                due.push((left, slot));
            }
        }
        due.sort_unstable();
        let mut victims = Victims::default();
        for (_, slot) in due {
            if victims.bytes >= wanted || victims.names.len() >= keys_max {
                break;
            }
            self.choose(slot, &mut victims);
        }
        victims
    }
}

/// Milliseconds until a key ends by itself, if it does.
fn left_ms(row: &Row, (wall, time): (WallTime, LogTime)) -> Option<u64> {
    match row.deadline()? {
        Deadline::Log(at) => Some(at.0.saturating_sub(time.0) / 1_000_000),
        Deadline::Wall(at) => Some(at.0.saturating_sub(wall.0)),
    }
}

/// Whether a policy may take a key.
fn may_go(row: &Row, eviction: Eviction) -> bool {
    match row.hang() {
        Hang::Lease(_) => false,
        Hang::Nothing => !eviction.is_volatile(),
        Hang::Until(_) => true,
    }
}
