//! Who is before whom in the queue of a lock, and who is first: what the waiters and observers of one name share, so that none of them looks at all
//! the others.
//!
//! Create revisions only grow: before a place that is known nobody can appear any more, only go. So a queue is read from the history up to its newest
//! place, once for all waiters, and a look asks for the nearest place before its own, throwing away those that are gone.
//!
//! Invariant: every place that is there and was made no later than `known` is in `places`.
//! Called by: `lock`.

use quorate_machine::{Machine, Selection};
use quorate_types::{Blob, Key, KeyRange, KeyValue, Revision, Select};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Changes that one step back through the history looks at, and bytes of them that it finds.
const LINES_MAX: usize = 4096;
const BYTES_MAX: usize = 1 << 20;
/// A history of so many revisions is read rather than the queue, however short that is.
const REVISIONS_FEW: u64 = 64;

/// The queues that somebody waits in.
#[derive(Default)]
pub(crate) struct Queues(Mutex<HashMap<Key, Arc<Mutex<Places>>>>);

impl Queues {
    /// The queue of all keys that begin with `below`.
    pub(crate) fn enter<'a>(&'a self, below: &Key) -> Waiting<'a> {
        let places = Arc::clone(locked(&self.0).entry(below.clone()).or_default());
        Waiting { queues: self, range: KeyRange::prefix(below.clone()), below: below.clone(), places }
    }

    /// The same, where somebody waits in it or observes it already.
    pub(crate) fn known(&self, below: &Key) -> Option<Waiting<'_>> {
        let places = Arc::clone(locked(&self.0).get(below)?);
        Some(Waiting { queues: self, range: KeyRange::prefix(below.clone()), below: below.clone(), places })
    }
}

/// A queue, as long as somebody waits in it.
pub(crate) struct Waiting<'a> {
    queues: &'a Queues,
    below: Key,
    range: KeyRange,
    places: Arc<Mutex<Places>>,
}

impl Waiting<'_> {
    /// The newest place that was made before revision `created`, and when it was made.
    pub(crate) fn before(&self, machine: &Machine, created: Revision) -> Option<(Key, Revision)> {
        let mut places = locked(&self.places);
        if places.known.next() < created {
            places.learn(machine, &self.range);
        }
        loop {
            let (made, name) = places.all.range(..(created, Blob::EMPTY)).next_back()?.clone();
            let key = Key { name: name.clone(), ..self.below.clone() };
            if machine.get(&key).is_some_and(|found| found.create_revision == made) {
                return Some((key, made));
            }
            places.all.remove(&(made, name));
        }
    }

    /// The oldest place.
    pub(crate) fn first(&self, machine: &Machine) -> Option<KeyValue> {
        let mut places = locked(&self.places);
        loop {
            // What was made later than all that is known is no older than any of it: only when none is left does it matter.
            let Some((made, name)) = places.all.first().cloned() else {
                if places.known == machine.revision() {
                    return None;
                }
                places.learn(machine, &self.range);
                continue;
            };
            let key = Key { name: name.clone(), ..self.below.clone() };
            let found = machine.get_plain(&key).ok().flatten().filter(|found| found.create_revision == made);
            if found.is_some() {
                return found;
            }
            places.all.remove(&(made, name));
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut queues = locked(&self.queues.0);
        // One is that of the map.
        if Arc::strong_count(&self.places) == 2 {
            queues.remove(&self.below);
        }
    }
}

#[derive(Default)]
struct Places {
    all: BTreeSet<(Revision, Blob)>,
    known: Revision,
}

impl Places {
    /// Reads what was made since, or all that is there: whichever is likely less.
    fn learn(&mut self, machine: &Machine, range: &KeyRange) {
        let current = machine.revision();
        let since = current.0.saturating_sub(self.known.0);
        if self.known == Revision::ZERO
            || since > REVISIONS_FEW.max(self.all.len() as u64)
            || !self.read_on(machine, range, current)
        {
            self.read_all(machine, range, current);
        }
        self.known = current;
    }

    /// Goes on through the history; whether it still has all of it.
    fn read_on(&mut self, machine: &Machine, range: &KeyRange, current: Revision) -> bool {
        let mut next = self.known.next();
        while next <= current {
            let Ok(found) = machine.plain_changes(range.start.space, Some(range), next, LINES_MAX, BYTES_MAX)
            else {
                return false;
            };
            let made = found.changes.iter().filter_map(|change| change.now.as_ref());
            self.all.extend(made.map(|key| (key.create_revision, key.key.name.clone())));
            next = found.next;
        }
        true
    }

    fn read_all(&mut self, machine: &Machine, range: &KeyRange, current: Revision) {
        let mut into = Selection::of(Select { keys_only: true, ..Select::of(range.clone()) });
        let read = machine.gather(&mut into, range.start.name.clone(), current, usize::MAX);
        read.expect("the current revision can be read");
        self.all = into.done().keys.into_iter().map(|key| (key.create_revision, key.key.name)).collect();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is a memory of the state, and right after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_machine::Outputs;
    use quorate_types::{
        Command, Commit, Entry, Keyspace, LeaseId, LogIndex, LogTime, Op, Order, Sort, Term, WallTime,
    };

    fn key(name: &str) -> Key {
        Key { space: Keyspace::DEFAULT, name: name.into() }
    }

    fn apply(machine: &mut Machine, ops: Vec<Op>) {
        let index = machine.applied().0 + 1;
        let mut entry = Entry {
            index: LogIndex(index),
            term: Term(1),
            wall: WallTime(1000),
            time: LogTime(index * 1000),
            seed: index,
            machine_version: 1,
            commands: vec![Command::commit(Commit::of(ops))],
            origins: vec![],
            decided: vec![],
        };
        entry.seal();
        machine.apply(&entry, &mut Outputs::default());
    }

    fn write(name: &str) -> Op {
        let (value, lease) = (Some("v".into()), Some(LeaseId::ZERO));
        Op::Write { key: key(name), value, lease, prev: false, keep: false }
    }

    fn erase(name: &str) -> Op {
        Op::Erase { range: KeyRange::single(key(name)), prev: false }
    }

    /// What a look at all places finds.
    fn slowly(machine: &Machine, range: &KeyRange, created: Revision) -> Option<(Key, Revision)> {
        let upto = Revision(created.0.checked_sub(1).filter(|upto| *upto > 0)?);
        let select = Select {
            limit: 1,
            created: (Revision(1), upto),
            sort: Sort::Create,
            order: Some(Order::Descending),
            ..Select::of(range.clone())
        };
        let mut into = Selection::of(select);
        machine.gather(&mut into, range.start.name.clone(), machine.revision(), usize::MAX).unwrap();
        into.done().keys.into_iter().next().map(|found| (found.key, found.create_revision))
    }

    #[test]
    fn whoever_is_before_a_place_is_found_whatever_came_and_went() {
        let mut machine = Machine::new(1);
        let (queues, below) = (Queues::default(), key("l/"));
        let queue = queues.enter(&below);
        let mut random = 7u64;
        let mut draw = |upto: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % upto
        };
        for step in 0..4000 {
            let name = format!("l/{}", draw(40));
            match draw(10) {
                0..4 => apply(&mut machine, vec![write(&name)]),
                4..7 => apply(&mut machine, vec![erase(&name)]),
                // The same name at another revision; what is no place; many revisions between two looks.
                7 => {
                    apply(&mut machine, vec![erase(&name)]);
                    apply(&mut machine, vec![write(&name)]);
                }
                8 => apply(&mut machine, vec![write("m/other"), write(&format!("{name}b"))]),
                _ => (0..draw(150)).for_each(|_| apply(&mut machine, vec![write("elsewhere")])),
            }
            // Everybody goes, and somebody comes who was not known.
            if draw(40) == 0 {
                apply(&mut machine, vec![Op::Erase { range: queue.range.clone(), prev: false }]);
                apply(&mut machine, vec![write(&name)]);
            }
            if draw(3) == 0 {
                let oldest = Select {
                    limit: 1,
                    sort: Sort::Create,
                    order: Some(Order::Ascending),
                    ..Select::of(queue.range.clone())
                };
                let mut into = Selection::of(oldest);
                machine.gather(&mut into, below.name.clone(), machine.revision(), usize::MAX).unwrap();
                let wanted = into.done().keys.into_iter().next();
                assert_eq!(queue.first(&machine), wanted, "step {step}");
            }
            if let Some(found) = machine.get(&key(&name)).filter(|_| draw(2) == 0) {
                let created = found.create_revision;
                let wanted = slowly(&machine, &queue.range, created);
                assert_eq!(queue.before(&machine, created), wanted, "step {step}");
            }
        }
        let second = queues.known(&below).expect("somebody waits in it");
        drop(queue);
        assert_eq!(locked(&queues.0).len(), 1, "somebody waits in it");
        drop(second);
        assert!(locked(&queues.0).is_empty() && queues.known(&below).is_none());
    }
}
