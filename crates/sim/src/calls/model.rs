//! What calls must have come to: strings, lists, sets and hashes with their deadlines, told naively from words and answers in log order.
//!
//! A key whose deadline has passed by the entry's times is not there; one whose deadline has not is. Which member SPOP took is taken from its
//! answer; that replicas took the same is seen by their answers and digests.
//!
//! Invariant: nothing here shares code with the crate that decides calls.
//! Called by: the model of everything (entries), both drivers (reads, the count of what was popped).

use super::{JUDGED, QUEUE, is_judged, key, scripts};
use crate::model::{Check, ensure};
use crate::probes::Probes;
use quorate_calls::{Deadline, Session};
use quorate_machine::{CALLS_SINCE, Event, Machine, Times};
use quorate_types::{Blob, Key, KeyRange, Keyspace, LogTime, Reply, Revision, WallTime};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    String(Blob),
    List(VecDeque<Blob>),
    Set(BTreeSet<Blob>),
    /// Each field with its value, and until when it is there.
    Hash(Fields),
}

type Fields = BTreeMap<Blob, (Blob, Option<Deadline>)>;

#[derive(Clone, Debug)]
struct Kept {
    value: Value,
    deadline: Option<Deadline>,
    touched: Revision,
}

/// A message to the subscribers of a channel.
pub(crate) type Told = (Blob, Blob);

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Calls {
    keys: BTreeMap<Key, Kept>,
    /// When a key was last seen to change, deleted ones too.
    touched: BTreeMap<Key, Revision>,
    wall: WallTime,
    time: LogTime,
    /// Elements of queues that were pushed, and that were popped.
    pushed: BTreeSet<Blob>,
    popped: BTreeSet<Blob>,
    /// What the entry in hand has to tell subscribers.
    telling: Vec<Told>,
    /// Whether the log says that every node knows calls.
    known: bool,
}

/// What the model says of a call: the answer, or the beginning of an error's text.
type Answer = Result<Reply, &'static str>;

const WRONG_TYPE: &str = "WRONGTYPE";
const NOT_INTEGER: &str = "ERR value is not an integer";
const NO_SUCH_KEY: &str = "ERR no such key";
const SAME: &str = "ERR source and destination objects are the same";
const SYNTAX: &str = "ERR syntax error";

impl Calls {
    /// The next entry's times.
    pub(crate) fn begin(&mut self, wall: WallTime, time: LogTime) {
        (self.wall, self.time) = (wall, time);
        self.telling.clear();
    }

    /// Every node knows the rules of this version.
    pub(crate) fn raised(&mut self, version: u32) {
        self.known |= version >= CALLS_SINCE;
    }

    /// What the entry told subscribers must be what its commits said, once each and in order.
    pub(crate) fn end(&self, events: &[Event]) -> Check {
        let told = events.iter().filter_map(told);
        ensure!(
            told.clone().eq(self.telling.iter().cloned()),
            "an entry told subscribers {:?}, its commits said {:?}",
            told.collect::<Vec<_>>(),
            self.telling
        );
        Ok(())
    }

    /// Judges one call: its answer, or the text of its error.
    pub(crate) fn judge(
        &mut self,
        space: Keyspace,
        words: &[Blob],
        found: Result<&Reply, &Blob>,
        revision: Revision,
        probes: &mut Probes,
    ) -> Check {
        if !self.known {
            probes.hit("calls: refused before every node knows them");
            ensure!(found.is_err(), "{} was executed before every node knew calls", said(words));
            return Ok(());
        }
        let name = words.first().and_then(|word| word.as_text()).unwrap_or_default().to_owned();
        if name == "PUBLISH" {
            if let (Ok(_), [_, channel, message]) = (found, words) {
                self.telling.push((channel.clone(), message.clone()));
            }
            return Ok(());
        }
        if !is_judged(space) {
            return Ok(());
        }
        if name == "SPOP" {
            return self.spop(&key(space, &words[1]), words, found, revision, probes);
        }
        let wanted = self.run(space, &name, words, revision, probes);
        let agrees = match (&wanted, found) {
            (Ok(wanted), Ok(found)) => same(wanted, found),
            (Err(wanted), Err(found)) => found.starts_with(wanted.as_bytes()),
            // A script's error: what it did before stands.
            (Err(wanted), Ok(Reply::Error { text })) => text.starts_with(wanted.as_bytes()),
            _ => false,
        };
        ensure!(
            agrees,
            "{} was answered with {found:?}, by the model with {wanted:?}, at {} / {}",
            said(words),
            self.time,
            self.wall
        );
        if wanted.is_err() {
            probes.hit("calls: one failed");
        }
        Ok(())
    }

    fn run(
        &mut self,
        space: Keyspace,
        name: &str,
        words: &[Blob],
        at: Revision,
        probes: &mut Probes,
    ) -> Answer {
        let first = words.get(1).map(|name| key(space, name)).unwrap_or_default();
        match name {
            "GET" => self.string(&first).map(Reply::bulk_or_nil),
            "SET" => self.set(first, words, at),
            "INCR" => self.increment(&first, at),
            "DEL" => {
                let keys = words[1..].iter().map(|name| key(space, name));
                Ok(Reply::count(keys.filter(|key| self.remove(key, at)).count()))
            }
            "PEXPIRE" => {
                let deadline = Deadline::Log(self.time.plus(quorate_types::Millis(number(&words[2]))));
                let there = self.live(&first).is_some();
                if let Some(kept) = self.keys.get_mut(&first).filter(|kept| kept.deadline != Some(deadline)) {
                    kept.deadline = Some(deadline);
                    self.touch(&first, at);
                }
                Ok(Reply::flag(there))
            }
            "PERSIST" => {
                let had = self.live(&first).is_some_and(|kept| kept.deadline.is_some());
                if let Some(kept) = self.keys.get_mut(&first).filter(|_| had) {
                    kept.deadline = None;
                    self.touch(&first, at);
                }
                Ok(Reply::flag(had))
            }
            "RPUSH" | "LPUSH" => self.push(&first, &words[2..], name == "RPUSH", at),
            "LPOP" => self.lpop(&first, words, at),
            "LRANGE" => Ok(Reply::array(self.list(&first)?.into_iter().map(Reply::bulk).collect())),
            "SADD" => self.sadd(&first, &words[2..], at),
            "SREM" => self.srem(&first, &words[2..], at),
            "SMEMBERS" => Ok(Reply::set(self.members(&first)?.into_iter().map(Reply::bulk).collect())),
            "HSET" => self.hset(&first, &words[2], &words[3], at),
            "HPEXPIRE" => self.hpexpire(&first, &words[5], number(&words[2]), at, probes),
            "HDEL" => self.hdel(&first, &words[2], at),
            "HGETALL" => {
                let pairs = self.hash(&first)?.into_iter();
                Ok(Reply::map(
                    pairs.flat_map(|(name, (value, _))| [Reply::bulk(name), Reply::bulk(value)]).collect(),
                ))
            }
            "RENAME" => {
                let kept = self.live(&first).cloned().ok_or(NO_SUCH_KEY)?;
                let to = key(space, &words[2]);
                if to != first {
                    self.remove(&first, at);
                    self.put(to, kept.value, kept.deadline, at);
                    probes.hit("calls: a key renamed");
                }
                Ok(Reply::ok())
            }
            "COPY" => {
                let to = key(space, &words[2]);
                if to == first {
                    return Err(SAME);
                }
                let Some(kept) = self.live(&first).cloned() else { return Ok(Reply::integer(0)) };
                self.put(to, kept.value, kept.deadline, at);
                Ok(Reply::integer(1))
            }
            "FLUSHDB" => {
                let all: Vec<Key> = self.keys.keys().filter(|key| key.space == space).cloned().collect();
                for key in all {
                    self.remove(&key, at);
                }
                probes.hit("calls: a keyspace flushed");
                Ok(Reply::ok())
            }
            "EVAL" => self.script(space, words, at, probes),
            other => panic!("the model does not know {other}, which clients say in a judged keyspace"),
        }
    }

    // Scripts that are known by their text.

    fn script(&mut self, space: Keyspace, words: &[Blob], at: Revision, probes: &mut Probes) -> Answer {
        let keys = number(&words[2]) as usize;
        let (keys, args) = words[3..].split_at(keys);
        match words[1].as_text().unwrap_or_default() {
            scripts::COUNT_AND_PUSH => {
                let count = self.increment(&key(space, &keys[0]), at)?;
                self.push(&key(space, &keys[1]), &args[..1], true, at)?;
                Ok(count)
            }
            scripts::FILL => {
                let list = key(space, &keys[0]);
                let some: Vec<Blob> = (1..=number(&args[0]))
                    .map(|number| Blob::from([&args[1][..], number.to_string().as_bytes()].concat()))
                    .collect();
                let len = self.push(&list, &some, true, at)?;
                let left = quorate_types::Millis(number(&args[2]));
                let deadline = Some(Deadline::Log(self.time.plus(left)));
                if let Some(kept) = self.keys.get_mut(&list) {
                    kept.deadline = deadline;
                }
                probes.hit("calls: hundreds of elements by one script");
                Ok(len)
            }
            scripts::TELL => {
                self.telling.push((keys[0].clone(), args[0].clone()));
                Ok(Reply::integer(0))
            }
            scripts::OVER_BUDGET => {
                probes.hit("calls: a script over its budget taken back");
                Err("ERR")
            }
            other => panic!("the model does not know the script {other}"),
        }
    }

    // One command each.

    fn set(&mut self, key: Key, words: &[Blob], at: Revision) -> Answer {
        let deadline = match &words[3..] {
            [] => None,
            [switch, given] => {
                let given = number(given);
                match switch.as_text() {
                    Some("PX") => Some(Deadline::Log(self.time.plus(quorate_types::Millis(given)))),
                    Some("EX") => Some(Deadline::Log(self.time.plus(quorate_types::Millis(given * 1000)))),
                    Some("PXAT") => Some(Deadline::Wall(WallTime(given))),
                    _ => return Err(SYNTAX),
                }
            }
            _ => return Err(SYNTAX),
        };
        if deadline.is_some_and(|deadline| self.passed(deadline)) {
            self.remove(&key, at);
        } else {
            self.put(key, Value::String(words[2].clone()), deadline, at);
        }
        Ok(Reply::ok())
    }

    fn increment(&mut self, key: &Key, at: Revision) -> Answer {
        let was = match self.string(key)? {
            None => 0,
            Some(value) => value.as_text().and_then(|text| text.parse::<i64>().ok()).ok_or(NOT_INTEGER)?,
        };
        let deadline = self.live(key).and_then(|kept| kept.deadline);
        self.put(key.clone(), Value::String((was + 1).to_string().into()), deadline, at);
        Ok(Reply::integer(was + 1))
    }

    fn push(&mut self, key: &Key, some: &[Blob], tail: bool, at: Revision) -> Answer {
        let mut list = self.list(key)?;
        for element in some {
            if tail { list.push_back(element.clone()) } else { list.push_front(element.clone()) }
        }
        if key.space == QUEUE {
            self.pushed.extend(some.iter().cloned());
        }
        let len = list.len();
        self.replace(key, Value::List(list), at);
        Ok(Reply::count(len))
    }

    fn lpop(&mut self, key: &Key, words: &[Blob], at: Revision) -> Answer {
        let mut list = self.list(key)?;
        let count = words.get(2).map(|count| number(count) as usize);
        if list.is_empty() {
            return Ok(if count.is_some() { Reply::NilArray } else { Reply::Nil });
        }
        let taken: Vec<Blob> = list.drain(..count.unwrap_or(1).min(list.len())).collect();
        if key.space == QUEUE {
            self.popped.extend(taken.iter().cloned());
        }
        self.replace(key, Value::List(list), at);
        let mut replies = taken.into_iter().map(Reply::bulk);
        Ok(match count {
            Some(_) => Reply::array(replies.collect()),
            None => replies.next().unwrap_or(Reply::Nil),
        })
    }

    fn sadd(&mut self, key: &Key, some: &[Blob], at: Revision) -> Answer {
        let mut set = self.members(key)?;
        let new = some.iter().filter(|member| set.insert((*member).clone())).count();
        if key.space == QUEUE {
            self.pushed.extend(some.iter().cloned());
        }
        if new > 0 {
            self.replace(key, Value::Set(set), at);
        }
        Ok(Reply::count(new))
    }

    fn srem(&mut self, key: &Key, some: &[Blob], at: Revision) -> Answer {
        let mut set = self.members(key)?;
        let gone = some.iter().filter(|member| set.remove(*member)).count();
        if gone > 0 {
            self.replace(key, Value::Set(set), at);
        }
        Ok(Reply::count(gone))
    }

    /// What was popped must have been in the set, and is not any more.
    fn spop(
        &mut self,
        key: &Key,
        words: &[Blob],
        found: Result<&Reply, &Blob>,
        at: Revision,
        probes: &mut Probes,
    ) -> Check {
        let members = self.members(key);
        let (mut set, reply) = match (members, found) {
            (Ok(set), Ok(reply)) => (set, reply),
            (Err(_), Err(text)) if text.starts_with(WRONG_TYPE.as_bytes()) => return Ok(()),
            (wanted, found) => {
                return Err(format!("{} was answered with {found:?}, the set is {wanted:?}", said(words)));
            }
        };
        let taken: Vec<Blob> = match reply {
            Reply::Nil => Vec::new(),
            Reply::Bulk { value } => vec![value.clone()],
            Reply::Set { items } | Reply::Array { items } => {
                items.0.iter().filter_map(bulk).cloned().collect()
            }
            other => return Err(format!("{} was answered with {other:?}", said(words))),
        };
        let wanted = words.get(2).map_or(1, |count| number(count) as usize).min(set.len());
        ensure!(
            taken.len() == wanted,
            "{} gave {} members, there were {wanted} to give",
            said(words),
            taken.len()
        );
        for member in &taken {
            ensure!(
                set.remove(member),
                "{} gave {member}, which is not in the set: popped twice, or never added",
                said(words)
            );
        }
        if key.space == QUEUE {
            self.popped.extend(taken.iter().cloned());
        }
        if !taken.is_empty() {
            probes.hit("calls: a member popped at random");
            self.replace(key, Value::Set(set), at);
        }
        Ok(())
    }

    fn hset(&mut self, key: &Key, name: &Blob, value: &Blob, at: Revision) -> Answer {
        let mut hash = self.hash(key)?;
        let new = (value.clone(), None);
        let was = hash.insert(name.clone(), new.clone());
        if was.as_ref() != Some(&new) {
            self.replace(key, Value::Hash(hash), at);
        }
        Ok(Reply::flag(was.is_none()))
    }

    fn hdel(&mut self, key: &Key, name: &Blob, at: Revision) -> Answer {
        let mut hash = self.hash(key)?;
        let gone = hash.remove(name).is_some();
        if gone {
            self.replace(key, Value::Hash(hash), at);
        }
        Ok(Reply::flag(gone))
    }

    fn hpexpire(&mut self, key: &Key, name: &Blob, millis: u64, at: Revision, probes: &mut Probes) -> Answer {
        let deadline = Some(Deadline::Log(self.time.plus(quorate_types::Millis(millis))));
        let mut hash = self.hash(key)?;
        let Some(kept) = hash.get_mut(name) else { return Ok(Reply::array(vec![Reply::integer(-2)])) };
        probes.hit("calls: a field that ends by itself");
        if kept.1 != deadline {
            kept.1 = deadline;
            self.replace(key, Value::Hash(hash), at);
        }
        Ok(Reply::array(vec![Reply::integer(1)]))
    }

    // Keys.

    fn passed(&self, deadline: Deadline) -> bool {
        passed(deadline, Times { wall: self.wall, time: self.time })
    }

    fn live(&mut self, key: &Key) -> Option<&Kept> {
        if self.keys.get(key).and_then(|kept| kept.deadline).is_some_and(|deadline| self.passed(deadline)) {
            self.keys.remove(key);
        }
        let times = Times { wall: self.wall, time: self.time };
        if let Some(Value::Hash(hash)) = self.keys.get_mut(key).map(|kept| &mut kept.value) {
            hash.retain(|_, (_, deadline)| !deadline.is_some_and(|deadline| passed(deadline, times)));
            if hash.is_empty() {
                self.keys.remove(key);
            }
        }
        self.keys.get(key)
    }

    fn string(&mut self, key: &Key) -> Result<Option<Blob>, &'static str> {
        match self.live(key).map(|kept| &kept.value) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value.clone())),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn list(&mut self, key: &Key) -> Result<VecDeque<Blob>, &'static str> {
        match self.live(key).map(|kept| &kept.value) {
            None => Ok(VecDeque::new()),
            Some(Value::List(list)) => Ok(list.clone()),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn members(&mut self, key: &Key) -> Result<BTreeSet<Blob>, &'static str> {
        match self.live(key).map(|kept| &kept.value) {
            None => Ok(BTreeSet::new()),
            Some(Value::Set(set)) => Ok(set.clone()),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn hash(&mut self, key: &Key) -> Result<Fields, &'static str> {
        match self.live(key).map(|kept| &kept.value) {
            None => Ok(BTreeMap::new()),
            Some(Value::Hash(hash)) => Ok(hash.clone()),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// Puts a collection under the deadline that its key has; an empty one goes.
    fn replace(&mut self, key: &Key, value: Value, at: Revision) {
        let empty = match &value {
            Value::String(_) => false,
            Value::List(list) => list.is_empty(),
            Value::Set(set) => set.is_empty(),
            Value::Hash(hash) => hash.is_empty(),
        };
        if empty {
            self.remove(key, at);
        } else {
            let deadline = self.live(key).and_then(|kept| kept.deadline);
            self.put(key.clone(), value, deadline, at);
        }
    }

    fn put(&mut self, key: Key, value: Value, deadline: Option<Deadline>, at: Revision) {
        self.touched.insert(key.clone(), at);
        self.keys.insert(key, Kept { value, deadline, touched: at });
    }

    fn touch(&mut self, key: &Key, at: Revision) {
        self.touched.insert(key.clone(), at);
        if let Some(kept) = self.keys.get_mut(key) {
            kept.touched = at;
        }
    }

    fn remove(&mut self, key: &Key, at: Revision) -> bool {
        let there = self.live(key).is_some();
        if there {
            self.keys.remove(key);
            self.touched.insert(key.clone(), at);
        }
        there
    }

    /// A guard said that nothing in the range changed after `since`.
    pub(crate) fn unchanged(&self, range: &KeyRange, since: Revision, probes: &mut Probes) -> Check {
        if !is_judged(range.start.space) {
            return Ok(());
        }
        probes.hit("calls: a watched key was left alone");
        let changed = self.touched.iter().find(|(key, at)| range.contains(key) && **at > since);
        ensure!(changed.is_none(), "a guard passed on keys unchanged since {since}: {changed:?}");
        Ok(())
    }

    // A machine that has applied the same entries.

    /// Compares every judged key, as of the last entry.
    pub(crate) fn agrees(&self, machine: &Machine) -> Check {
        let times = Times { wall: self.wall, time: self.time };
        for space in [JUDGED, QUEUE] {
            let found = ask(machine, times, space, &["KEYS", "*"])?;
            let names: BTreeSet<&Blob> = items(&found).iter().filter_map(bulk).collect();
            let live = |(key, kept): (&Key, &Kept)| key.space == space && !past(kept, times);
            let wanted: BTreeSet<&Blob> =
                self.keys.iter().filter(|(key, kept)| live((key, kept))).map(|(key, _)| &key.name).collect();
            ensure!(
                names == wanted,
                "keys of {space:?}: machine {names:?}, model {wanted:?}, at {} / {}",
                times.time,
                times.wall
            );
        }
        for key in self.keys.keys() {
            self.shows(machine, times, key)?;
        }
        Ok(())
    }

    /// Compares one key as it is read at `times`: whether it is there is told by the last entry, what is left of it by the reader's clock.
    pub(crate) fn shows(&self, machine: &Machine, times: Times, key: &Key) -> Check {
        let applied = Times { wall: self.wall, time: self.time };
        let kept = self.keys.get(key).filter(|kept| !past(kept, applied));
        let name = key.name.as_text().unwrap_or_default();
        let (words, wanted): (&[&str], Reply) = match kept.map(|kept| &kept.value) {
            None => (&["EXISTS", name], Reply::integer(0)),
            Some(Value::String(value)) => (&["GET", name], Reply::bulk(value.clone())),
            Some(Value::List(list)) => {
                (&["LRANGE", name, "0", "-1"], Reply::array(list.iter().cloned().map(Reply::bulk).collect()))
            }
            Some(Value::Set(set)) => {
                (&["SMEMBERS", name], Reply::set(set.iter().cloned().map(Reply::bulk).collect()))
            }
            Some(Value::Hash(hash)) => {
                let there = |(_, (_, deadline)): &(&Blob, &(Blob, Option<Deadline>))| {
                    !deadline.is_some_and(|deadline| passed(deadline, applied))
                };
                let pairs = hash.iter().filter(there).flat_map(|(name, (value, _))| [name, value]);
                (&["HGETALL", name], Reply::map(pairs.cloned().map(Reply::bulk).collect()))
            }
        };
        let found = ask(machine, times, key.space, words)?;
        ensure!(
            same(&wanted, &found),
            "{key}, whose deadline is {:?}, was read as {found:?} at {} / {}, it is {wanted:?}",
            self.keys.get(key).and_then(|kept| kept.deadline),
            times.time,
            times.wall
        );
        let left = kept.map_or(-2, |kept| kept.deadline.map_or(-1, |deadline| left(deadline, times)));
        let found = ask(machine, times, key.space, &["PTTL", name])?;
        ensure!(found == Reply::integer(left), "{key} has {found:?} to live, by the model {left} ms");
        Ok(())
    }

    /// Keys that it knows, with the deadline that each has and when it last changed.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&Key, Option<Deadline>, Revision)> {
        self.keys.iter().map(|(key, kept)| (key, kept.deadline, kept.touched))
    }

    /// Whether an element of a queue was pushed, popped, or is still there.
    pub(crate) fn accounts_for(&self, element: &Blob) -> Check {
        ensure!(self.pushed.contains(element), "{element} was acknowledged, and nobody has pushed it");
        let there =
            self.keys.iter().filter(|(key, _)| key.space == QUEUE).any(|(_, kept)| match &kept.value {
                Value::List(list) => list.contains(element),
                Value::Set(set) => set.contains(element),
                Value::String(_) | Value::Hash(_) => false,
            });
        let popped = self.popped.contains(element);
        ensure!(there != popped, "{element} was pushed: popped {popped}, still there {there}");
        Ok(())
    }
}

/// What an event tells subscribers, if it does.
pub(crate) fn told(event: &Event) -> Option<Told> {
    match event {
        Event::Published { channel, message, .. } => Some((channel.clone(), message.clone())),
        _ => None,
    }
}

/// Asks a machine at a time.
pub(crate) fn ask(machine: &Machine, times: Times, space: Keyspace, words: &[&str]) -> Check<Reply> {
    let words: Vec<Blob> = words.iter().map(|word| Blob::from(*word)).collect();
    machine
        .call(times, &mut Session::new(space), &words, 7)
        .map_err(|error| format!("{} is refused: {}", said(&words), error.text()))
}

/// A key goes at its deadline, and a hash with the last of its fields.
fn past(kept: &Kept, times: Times) -> bool {
    let gone = |deadline: &Option<Deadline>| deadline.is_some_and(|deadline| passed(deadline, times));
    let empty = matches!(&kept.value, Value::Hash(hash) if hash.values().all(|(_, deadline)| gone(deadline)));
    gone(&kept.deadline) || empty
}

/// Whether a deadline has passed.
pub(crate) fn passed(deadline: Deadline, times: Times) -> bool {
    match deadline {
        Deadline::Log(at) => at <= times.time,
        Deadline::Wall(at) => at <= times.wall,
    }
}

/// Milliseconds to live, begun ones counted.
fn left(deadline: Deadline, times: Times) -> i64 {
    let left = match deadline {
        Deadline::Log(at) => at.0.saturating_sub(times.time.0).div_ceil(1_000_000),
        Deadline::Wall(at) => at.0.saturating_sub(times.wall.0),
    };
    i64::try_from(left).unwrap_or(i64::MAX)
}

fn number(word: &Blob) -> u64 {
    word.as_text().and_then(|text| text.parse().ok()).expect("clients say numbers where numbers belong")
}

fn bulk(reply: &Reply) -> Option<&Blob> {
    if let Reply::Bulk { value } = reply { Some(value) } else { None }
}

fn items(reply: &Reply) -> &[Reply] {
    match reply {
        Reply::Array { items } | Reply::Set { items } | Reply::Map { items } | Reply::Pairs { items } => {
            &items.0
        }
        _ => &[],
    }
}

/// Whether two replies say the same: sets and maps in any order.
fn same(wanted: &Reply, found: &Reply) -> bool {
    match (wanted, found) {
        (Reply::Set { .. }, Reply::Set { .. }) => {
            let members = |reply| items(reply).iter().filter_map(bulk).cloned().collect::<BTreeSet<Blob>>();
            items(wanted).len() == items(found).len() && members(wanted) == members(found)
        }
        (Reply::Map { .. }, Reply::Map { .. }) => {
            let pairs = |reply| {
                let pairs =
                    items(reply).chunks(2).map(|pair| (bulk(&pair[0]).cloned(), bulk(&pair[1]).cloned()));
                pairs.collect::<BTreeMap<_, _>>()
            };
            items(wanted).len() == items(found).len() && pairs(wanted) == pairs(found)
        }
        _ => wanted == found,
    }
}

fn said(words: &[Blob]) -> String {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    words.join(" ")
}
