//! Hashes of which some fields end by themselves, and the fields of any hash that are there at a time.
//!
//! Deadlines lie beside the hash, so that one without any takes no byte more. They are kept twice: by field, and in order of time, so that what
//! is due is counted and found in logarithmic time, however much of it there is.
//!
//! Invariant: a hash is [`Value::Timed`](super::Value) iff a field of it has a deadline.
//! Invariant: every deadline belongs to a field that is there, and stands once in the order of its clock.
//! Called by: `collections::value`, `pin`, stores (what is due), handlers (through [`Live`]).

use super::{Hash, Sorted, Value};
use crate::Deadline;
use quorate_types::{Blob, LogTime, Score, WallTime};

/// A hash with deadlines of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timed {
    pub(super) hash: Hash,
    /// A field's deadline: a byte for its clock, then its time.
    of: Hash,
    /// Times and fields, by log time; and by wall time.
    log: Sorted,
    wall: Sorted,
}

impl Timed {
    pub(super) fn new(hash: Hash) -> Self {
        Self { hash, ..Self::default() }
    }

    /// Until when a field is there; nothing for one without a deadline.
    #[must_use]
    pub fn deadline(&self, field: &[u8]) -> Option<Deadline> {
        let kept = self.of.get(field)?;
        let (clock, time) = kept.split_first().expect("a deadline has nine bytes");
        let time = u64::from_be_bytes(time.try_into().expect("a deadline has nine bytes"));
        Some(if *clock == 0 { Deadline::Log(LogTime(time)) } else { Deadline::Wall(WallTime(time)) })
    }

    /// The soonest deadline in each clock.
    #[must_use]
    pub fn soonest(&self) -> (Option<LogTime>, Option<WallTime>) {
        let first = |queue: &Sorted| queue.at(0).map(|(entry, _)| split(&entry).0);
        (first(&self.log).map(LogTime), first(&self.wall).map(WallTime))
    }

    /// Up to `max` fields that are due at these times, soonest first.
    #[must_use]
    pub fn due(&self, wall: WallTime, time: LogTime, max: usize) -> Vec<Blob> {
        let (by_log, by_wall) = self.passed(wall, time);
        let log = self.log.range(0, by_log.min(max as u64));
        let wall = self.wall.range(0, by_wall.min(max as u64));
        log.chain(wall).take(max).map(|(entry, _)| Blob::copy_from(split(&entry).1)).collect()
    }

    /// How many fields are due, by each clock.
    fn passed(&self, wall: WallTime, time: LogTime) -> (u64, u64) {
        let before = |queue: &Sorted, now: u64| match now.checked_add(1) {
            Some(after) => queue.rank_by_lex(&after.to_be_bytes(), false),
            None => queue.len(),
        };
        (before(&self.log, time.0), before(&self.wall, wall.0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Pairs and deadlines.
    pub(super) fn parts(&self) -> u64 {
        self.hash.len() + self.log.len() + self.wall.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of::<Self>() as u64 + self.hash.bytes() + self.of.bytes() + self.log.bytes() + self.wall.bytes()
    }

    /// Sets or removes a field's deadline; the one before. The field is there, or goes at once.
    pub(super) fn set(&mut self, field: &Blob, deadline: Option<Deadline>) -> Option<Deadline> {
        let before = self.deadline(field);
        if before == deadline {
            return before;
        }
        match before {
            Some(Deadline::Log(at)) => drop(self.log.remove(&joined(at.0, field))),
            Some(Deadline::Wall(at)) => drop(self.wall.remove(&joined(at.0, field))),
            None => {}
        }
        let (clock, time, queue) = match deadline {
            Some(Deadline::Log(at)) => (0, at.0, &mut self.log),
            Some(Deadline::Wall(at)) => (1, at.0, &mut self.wall),
            None => {
                self.of.remove(field);
                return before;
            }
        };
        queue.insert(joined(time, field), Score::default());
        let mut kept = vec![clock];
        kept.extend(time.to_be_bytes());
        self.of.insert(field.clone(), Blob::from(kept));
        before
    }

    /// Deadlines from number `from` to before number `to`, those in log time first: the clock, and time and field as bytes.
    pub(super) fn deadlines(&self, from: u64, to: u64) -> impl Iterator<Item = (bool, Blob)> + '_ {
        let len = self.log.len();
        let log = self.log.range(from, to).map(|(entry, _)| (false, entry));
        log.chain(
            self.wall.range(from.saturating_sub(len), to.saturating_sub(len)).map(|(entry, _)| (true, entry)),
        )
    }

    /// Reads one of [`Timed::deadlines`] back; whether its field is there and has none yet.
    pub(super) fn restore(&mut self, is_wall: bool, entry: &Blob) -> bool {
        if entry.len() < 8 {
            return false;
        }
        let (time, field) = split(entry);
        if self.of.contains(field) || !self.hash.contains(field) {
            return false;
        }
        let deadline = if is_wall { Deadline::Wall(WallTime(time)) } else { Deadline::Log(LogTime(time)) };
        self.set(&Blob::copy_from(field), Some(deadline));
        true
    }

    pub(super) fn pin(&self) -> Self {
        Self {
            hash: self.hash.pin(),
            // What is pinned is written in order, never asked by field.
            of: Hash::new(),
            log: self.log.pin(),
            wall: self.wall.pin(),
        }
    }

    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        self.hash.drop_some(max)
            && self.of.drop_some(max)
            && self.log.drop_some(max)
            && self.wall.drop_some(max)
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.hash.check();
        self.of.check();
        self.log.check();
        self.wall.check();
        assert!(!self.is_empty(), "a hash without deadlines is a plain one");
        assert_eq!(self.of.len(), self.log.len() + self.wall.len());
        for (is_wall, entry) in self.deadlines(0, self.of.len()) {
            let (time, field) = split(&entry);
            let wanted = if is_wall { Deadline::Wall(WallTime(time)) } else { Deadline::Log(LogTime(time)) };
            assert_eq!(self.deadline(field), Some(wanted));
            assert!(self.hash.contains(field), "a deadline belongs to a field");
        }
    }
}

/// Time first, so that the order of bytes is that of times.
fn joined(time: u64, field: &[u8]) -> Blob {
    Blob::from([&time.to_be_bytes()[..], field].concat())
}

fn split(entry: &[u8]) -> (u64, &[u8]) {
    let (time, field) = entry.split_at(8);
    (u64::from_be_bytes(time.try_into().expect("the first eight bytes")), field)
}

/// The fields of a hash that are there at a time: those whose deadline has passed are not, whether or not anybody has removed them yet.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    hash: &'a Hash,
    timed: Option<&'a Timed>,
    wall: WallTime,
    time: LogTime,
    passed: u64,
}

impl<'a> Live<'a> {
    pub(super) fn of(hash: &'a Hash) -> Self {
        Self { hash, timed: None, wall: WallTime(0), time: LogTime(0), passed: 0 }
    }

    pub(super) fn at_time(timed: &'a Timed, wall: WallTime, time: LogTime) -> Self {
        let (log, by_wall) = timed.passed(wall, time);
        Self { hash: &timed.hash, timed: Some(timed), wall, time, passed: log + by_wall }
    }

    /// How many fields.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.hash.len() - self.passed
    }

    /// Whether there are none: then the key is not there either.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many places there are; more than fields, while some that have passed are not removed.
    #[must_use]
    pub fn places(&self) -> u64 {
        self.hash.len()
    }

    /// Whether a field at some place has passed.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.passed > 0
    }

    /// The pairs as they are, cheap, and not to be changed; nothing while there are gaps.
    pub(super) fn pin(&self) -> Option<Hash> {
        (!self.has_gaps()).then(|| self.hash.pin())
    }

    /// Bytes in memory, nearly.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.timed.map_or_else(|| self.hash.bytes(), Timed::bytes)
    }

    /// Whether any field has a deadline.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.timed.is_some()
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<Blob> {
        if self.has_passed(field) { None } else { self.hash.get(field) }
    }

    /// Whether a field is there.
    #[must_use]
    pub fn contains(&self, field: &[u8]) -> bool {
        !self.has_passed(field) && self.hash.contains(field)
    }

    /// Until when a field is there that is there.
    #[must_use]
    pub fn deadline(&self, field: &[u8]) -> Option<Deadline> {
        self.timed.and_then(|timed| timed.deadline(field))
    }

    /// Field and value at a place; nothing where the field has passed.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<(Blob, Blob)> {
        self.hash.at(place).filter(|(field, _)| !self.has_passed(field))
    }

    /// All, by place.
    pub fn iter(self) -> impl Iterator<Item = (Blob, Blob)> + 'a {
        self.hash.iter().filter(move |(field, _)| !self.has_passed(field))
    }

    /// The hash as it is, deadlines included.
    #[must_use]
    pub fn value(&self) -> Value {
        match self.timed {
            None => Value::Hash(self.hash.clone()),
            Some(timed) => Value::Timed(Box::new(timed.clone())),
        }
    }

    fn has_passed(&self, field: &[u8]) -> bool {
        self.passed > 0
            && self.deadline(field).is_some_and(|deadline| match deadline {
                Deadline::Log(at) => at <= self.time,
                Deadline::Wall(at) => at <= self.wall,
            })
    }
}
