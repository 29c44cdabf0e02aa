//! Who waits for something to happen: sessions in the queue of a lock, and readers for a change.
//!
//! A reader's wait is one shot: it looks, finds nothing, registers, and is told once when what it looks at may have changed.
//! Watchers read the history at their own pace, so a slow one holds nothing back and costs no buffer.
//!
//! Invariant: a registered reader is told of the first change that touches its interest, or is taken back; never both.
//! Called by: `Partition`.

use quorate_machine::Event;
use quorate_types::{GroupName, Key, KeyRange, LeaseId, LockName, Outcome, Refusal, RequestId};
use std::collections::BTreeMap;

/// What a reader waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// A change of any key of the range.
    Keys(KeyRange),
    /// Records appended to a partition of a stream; to any without a number.
    Stream {
        /// The stream.
        stream: Key,
        /// The partition.
        partition: Option<u32>,
    },
    /// Records appended to any of these partitions.
    Streams(Vec<(Key, u32)>),
    /// Records that a shared group may take: redelivered ones, or new ones of its stream.
    Group {
        /// The stream.
        stream: Key,
        /// The group.
        group: GroupName,
    },
    /// A change of the phase or the members of a group.
    Members(GroupName),
    /// Any new revision.
    Revision,
}

/// Names a registered wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchId(u64);

pub(crate) struct Waiters<T> {
    next: u64,
    readers: BTreeMap<WatchId, (Interest, T)>,
    /// Readers of one key, found without looking at the others.
    by_key: BTreeMap<Key, Vec<WatchId>>,
    /// All other readers.
    others: Vec<WatchId>,
    locks: BTreeMap<(LockName, LeaseId, RequestId), Vec<T>>,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self {
            next: 0,
            readers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            others: Vec::new(),
            locks: BTreeMap::new(),
        }
    }
}

impl<T> Waiters<T> {
    pub(crate) fn register(&mut self, interest: Interest, ticket: T) -> WatchId {
        let id = WatchId(self.next);
        self.next += 1;
        match single(&interest) {
            Some(key) => self.by_key.entry(key.clone()).or_default().push(id),
            None => self.others.push(id),
        }
        self.readers.insert(id, (interest, ticket));
        id
    }

    pub(crate) fn unregister(&mut self, id: WatchId) -> Option<T> {
        let (interest, ticket) = self.readers.remove(&id)?;
        match single(&interest) {
            Some(key) => {
                if let Some(ids) = self.by_key.get_mut(key) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        self.by_key.remove(key);
                    }
                }
            }
            None => self.others.retain(|other| *other != id),
        }
        Some(ticket)
    }

    pub(crate) fn readers(&self) -> usize {
        self.readers.len()
    }

    pub(crate) fn park(&mut self, lock: LockName, lease: LeaseId, request: RequestId, ticket: T) {
        self.locks.entry((lock, lease, request)).or_default().push(ticket);
    }

    /// Tells readers of changed keys.
    pub(crate) fn changed<'a>(&mut self, keys: impl Iterator<Item = &'a Key>, told: &mut Vec<T>) {
        if self.readers.is_empty() {
            return;
        }
        let mut ids = Vec::new();
        for key in keys {
            if let Some(readers) = self.by_key.get(key) {
                ids.extend_from_slice(readers);
            }
            for id in &self.others {
                if matches!(&self.readers[id].0, Interest::Keys(range) if range.contains(key)) {
                    ids.push(*id);
                }
            }
        }
        self.tell(ids, told);
    }

    /// Tells readers of any key: what has changed is not known any more.
    pub(crate) fn forgotten(&mut self, told: &mut Vec<T>) {
        self.tell_where(|interest| matches!(interest, Interest::Keys(_)), told);
    }

    /// Tells readers of a new revision.
    pub(crate) fn moved(&mut self, told: &mut Vec<T>) {
        self.tell_matching(|interest| matches!(interest, Interest::Revision), told);
    }

    /// Tells those whom an event concerns: readers into `told`, lock waiters into `answered`.
    pub(crate) fn happened(&mut self, event: &Event, told: &mut Vec<T>, answered: &mut Vec<(T, Outcome)>) {
        match event {
            Event::Granted { lock, lease, request, token } => {
                let waiting = self.locks.remove(&(lock.clone(), *lease, *request)).unwrap_or_default();
                answered.extend(waiting.into_iter().map(|ticket| (ticket, Outcome::Granted { token: *token })));
            }
            Event::WaitEnded { lock, lease, request, error } => {
                let waiting = self.locks.remove(&(lock.clone(), *lease, *request)).unwrap_or_default();
                let outcome = Outcome::Refused { refusal: Refusal::Command { error: error.clone() } };
                answered.extend(waiting.into_iter().map(|ticket| (ticket, outcome.clone())));
            }
            Event::StreamAppended { stream, partition } => self.tell_matching(
                |interest| match interest {
                    Interest::Stream { stream: of, partition: wanted } => {
                        of == stream && wanted.is_none_or(|wanted| wanted == *partition)
                    }
                    Interest::Streams(all) => all.iter().any(|(of, wanted)| of == stream && wanted == partition),
                    Interest::Group { stream: of, .. } => of == stream,
                    Interest::Keys(_) | Interest::Members(_) | Interest::Revision => false,
                },
                told,
            ),
            Event::GroupReady { stream, group } => self.tell_matching(
                |interest| matches!(interest, Interest::Group { stream: of, group: wanted } if of == stream && wanted == group),
                told,
            ),
            Event::GroupMoved { group } => {
                self.tell_matching(|interest| matches!(interest, Interest::Members(of) if of == group), told);
            }
            Event::Flushed { space } => self.tell_where(
                |interest| matches!(interest, Interest::Keys(range) if range.start.space == *space),
                told,
            ),
            Event::LeaseEnded { .. }
            | Event::Published { .. }
            | Event::Evicted { .. }
            | Event::Happened { .. } => {}
        }
    }

    /// Everybody who waits, when the node stops.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.by_key.clear();
        self.others.clear();
        let readers = std::mem::take(&mut self.readers).into_values().map(|(_, ticket)| ticket);
        let locks = std::mem::take(&mut self.locks).into_values().flatten();
        readers.chain(locks).collect()
    }

    /// As [`Waiters::tell_matching`], readers of a single key too.
    fn tell_where(&mut self, matches: impl Fn(&Interest) -> bool, told: &mut Vec<T>) {
        let ids = self.readers.iter().filter(|(_, (interest, _))| matches(interest)).map(|(id, _)| *id);
        self.tell(ids.collect(), told);
    }

    fn tell_matching(&mut self, matches: impl Fn(&Interest) -> bool, told: &mut Vec<T>) {
        let ids = self.others.iter().filter(|id| matches(&self.readers[id].0)).copied().collect();
        self.tell(ids, told);
    }

    fn tell(&mut self, ids: Vec<WatchId>, told: &mut Vec<T>) {
        for id in ids {
            told.extend(self.unregister(id));
        }
    }
}

/// The key of an interest in one key alone.
fn single(interest: &Interest) -> Option<&Key> {
    match interest {
        Interest::Keys(range) if *range == KeyRange::single(range.start.clone()) => Some(&range.start),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::Keyspace;

    /// Who is told of an event: readers of a key, of all keys, and of a stream, in keyspaces 0 and 1.
    fn told_of(tell: impl FnOnce(&mut Waiters<&'static str>, &mut Vec<&'static str>)) -> Vec<&'static str> {
        let mut waiters = Waiters::default();
        for (space, [one, all]) in [(Keyspace(0), ["one 0", "all 0"]), (Keyspace(1), ["one 1", "all 1"])] {
            let key = |name: &str| Key { space, name: name.into() };
            waiters.register(Interest::Keys(KeyRange::single(key("k"))), one);
            waiters.register(Interest::Keys(KeyRange { start: key(""), end: None }), all);
        }
        waiters.register(Interest::Stream { stream: "s".into(), partition: None }, "stream");
        waiters.register(Interest::Revision, "revision");
        let mut told = Vec::new();
        tell(&mut waiters, &mut told);
        told.sort_unstable();
        told
    }

    #[test]
    fn a_flush_is_told_to_whoever_waits_for_any_key_of_the_keyspace() {
        let flushed = Event::Flushed { space: Keyspace(1) };
        assert_eq!(
            told_of(|waiters, told| waiters.happened(&flushed, told, &mut Vec::new())),
            ["all 1", "one 1"]
        );
    }

    #[test]
    fn changes_that_are_forgotten_before_they_were_told_wake_whoever_waits_for_keys() {
        assert_eq!(told_of(Waiters::forgotten), ["all 0", "all 1", "one 0", "one 1"]);
    }
}
