//! Streams: appending, ranges, trimming, and what XINFO tells. Groups are in `stream_groups`.
//!
//! The bytes of records are not in memory: a reply names them ([`Reply::Record`]), and whoever writes it reads them from the log and
//! [`resolve`]s it. XADD's pairs travel beside its words, as one record ([`xadd_split`]); those of a script are kept by the store.
//!
//! Source: the Redis 7.2 documentation of streams, and the behaviour of a Redis 7.0 server.
//! Invariant: every id, count and option is checked before the first change.
//! Called by: `call`, through the table; gateways ([`xadd_split`], [`refs`], [`resolve`], [`pinned`], [`ready`]).

use crate::args::{self, int, integer, is, next};
use crate::call::number;
use crate::fields;
use crate::{Error, Found, Look, Reading, Session, Writing};
use bytes::Bytes;
use quorate_types::{Blob, Key, Payload, PayloadRef, RecordId, Replies, Reply, record};

type Answer = Result<Reply, Error>;

/// A stream in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Records that are there.
    pub length: u64,
    /// The newest id ever given.
    pub last: RecordId,
    /// The greatest id that XDEL removed.
    pub max_deleted: RecordId,
    /// Records ever appended.
    pub added: u64,
    /// The id of the first record that is there.
    pub first: Option<RecordId>,
    /// The id of the last record that is there.
    pub top: Option<RecordId>,
}

/// A record: its id, and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: RecordId,
    /// The payload.
    pub at: PayloadRef,
    /// Which record of the payload.
    pub record: u32,
}

/// A group in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The id of the last record that was delivered to it.
    pub last: RecordId,
    /// How many records of the stream it has read, where that is known.
    pub read: Option<u64>,
    /// Records delivered and not acknowledged.
    pub pending: u64,
    /// Its consumers.
    pub consumers: u64,
}

/// A consumer of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumer {
    /// When it last asked, in milliseconds of wall time.
    pub seen: u64,
    /// When it last got something.
    pub active: Option<u64>,
    /// Records delivered to it and not acknowledged.
    pub pending: u64,
}

/// A record that was delivered and not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// To whom.
    pub consumer: Blob,
    /// When, in milliseconds of wall time.
    pub at: u64,
    /// How often.
    pub count: u64,
}

/// What a stream remembers of its producers, so that a message that is sent again is not appended again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// For how many seconds of log time an id is remembered.
    pub seconds: u64,
    /// How many ids of each producer.
    pub ids_max: u64,
    /// Producers of which ids are remembered.
    pub producers: u64,
    /// Ids that are remembered.
    pub ids: u64,
    /// Ids ever remembered.
    pub added: u64,
    /// Messages that came again.
    pub repeated: u64,
}

impl Default for Idempotency {
    fn default() -> Self {
        Self { seconds: 100, ids_max: 100, producers: 0, ids: 0, added: 0, repeated: 0 }
    }
}

/// What is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// All but this many of the newest.
    Length(u64),
    /// All before this id.
    From(RecordId),
}

/// Reading streams. Every key but that of [`LookStreams::facts`] names a stream that is there; every group, one of its groups.
pub trait LookStreams {
    /// A stream in numbers.
    ///
    /// # Errors
    /// It has more than one partition, or is compacted by key: Redis knows no such thing.
    fn facts(&self, key: &Key) -> Result<Facts, Error>;
    /// Records whose ids lie between two, both included: up to `max`, the greatest first when `newest_first`.
    fn entries(&self, key: &Key, from: RecordId, to: RecordId, newest_first: bool, max: u64) -> Vec<Entry>;
    /// The bytes of a payload, where the store has them and not the log.
    fn payload(&self, at: PayloadRef) -> Option<Bytes>;
    /// The groups, in order of their names.
    fn groups(&self, key: &Key) -> Vec<(Blob, Group)>;
    /// A group.
    fn group(&self, key: &Key, group: &Blob) -> Option<Group>;
    /// The consumers, in order of their names.
    fn consumers(&self, key: &Key, group: &Blob) -> Vec<(Blob, Consumer)>;
    /// A consumer.
    fn consumer(&self, key: &Key, group: &Blob, consumer: &Blob) -> Option<Consumer>;
    /// What is pending of a record.
    fn pending(&self, key: &Key, group: &Blob, id: RecordId) -> Option<Pending>;
    /// The greatest id that is pending.
    fn last_pending(&self, key: &Key, group: &Blob) -> Option<RecordId>;
    /// What is pending between two ids, both included, of one consumer or of all: up to `max`, in order.
    fn pendings(
        &self,
        key: &Key,
        group: &Blob,
        consumer: Option<&Blob>,
        from: RecordId,
        to: RecordId,
        max: u64,
    ) -> Vec<(RecordId, Pending)>;
    /// What the stream remembers of its producers; nothing where that was never asked for.
    fn idempotency(&self, key: &Key) -> Option<Idempotency>;
    /// The record that a message was appended as, while that is remembered.
    fn said(&self, key: &Key, said: Said<'_>) -> Option<RecordId>;
}

/// What a producer calls a message.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The producer.
    pub producer: &'a Blob,
    /// The message, among those of the producer.
    pub id: &'a Blob,
}

/// Changing streams. As with all changes, a refused commit takes them back.
pub trait ChangeStreams {
    /// Makes a stream where nothing is.
    ///
    /// # Errors
    /// The key may not be written.
    fn create(&mut self, key: &Key) -> Result<(), Error>;
    /// Appends a record under an id that is greater than every one before; makes the stream. Without `words` (names and values in turn) it is the record that travels
    /// beside the call.
    ///
    /// # Errors
    /// The key may not be written, or no record came.
    fn append(&mut self, key: &Key, id: RecordId, words: &[Blob]) -> Result<(), Error>;
    /// Cuts off the oldest records, no more than `max`; how many.
    fn trim(&mut self, key: &Key, trim: Trim, max: u64) -> u64;
    /// Removes records; how many were there.
    ///
    /// # Errors
    /// One of them is part of a batch of several; nothing happened.
    fn remove(&mut self, key: &Key, ids: &[RecordId]) -> Result<u64, Error>;
    /// Sets the numbers that XSETID sets.
    ///
    /// # Errors
    /// A greater id is still in use; nothing happened.
    fn set_id(
        &mut self,
        key: &Key,
        last: RecordId,
        added: Option<u64>,
        max_deleted: Option<RecordId>,
    ) -> Result<(), Error>;
    /// Sets for how many seconds of log time ids of producers are remembered, and how many of each; forgets those that are.
    fn set_idempotency(&mut self, key: &Key, seconds: u64, ids_max: u64);
    /// Remembers the record that a message was appended as; or, without one, counts that it came again.
    fn say(&mut self, key: &Key, said: Said<'_>, record: Option<RecordId>);
    /// Makes a group or moves it: the last id delivered, and how many records it has read.
    fn put_group(&mut self, key: &Key, group: &Blob, last: RecordId, read: Option<u64>);
    /// Removes a group with all that is pending.
    fn drop_group(&mut self, key: &Key, group: &Blob);
    /// Makes a consumer, or notes when it was seen and when it was active.
    fn put_consumer(&mut self, key: &Key, group: &Blob, consumer: &Blob, seen: u64, active: Option<u64>);
    /// Removes a consumer of whom nothing is pending.
    fn drop_consumer(&mut self, key: &Key, group: &Blob, consumer: &Blob);
    /// Notes that a record is pending, or that it is no more. Its consumer is there.
    fn put_pending(&mut self, key: &Key, group: &Blob, id: RecordId, pending: Option<Pending>);
}

/// The words of an XADD up to its id, and the record that its pairs are; nothing when it is worded wrongly, or is another command: then it is
/// called as it is, and says what is wrong with it.
#[must_use]
pub fn xadd_split(words: &[Blob]) -> Option<(Vec<Blob>, Payload)> {
    if !is(words.first()?, "XADD") || words.len() < 5 {
        return None;
    }
    let adding = Adding::read(words).ok()?;
    // What names its message by its pairs needs them where it is decided.
    if matches!(adding.said, Some((_, None))) {
        return None;
    }
    let pairs = adding.at + 1;
    if pairs >= words.len() || (words.len() - pairs) % 2 == 1 {
        return None;
    }
    let payload = record::encode(&[fields::to_record(&words[pairs..])]);
    Some((words[..pairs].to_vec(), payload))
}

/// The payloads that a reply names, each once.
#[must_use]
pub fn refs(reply: &Reply) -> Vec<PayloadRef> {
    fn collect(reply: &Reply, found: &mut Vec<PayloadRef>) {
        match reply {
            Reply::Record { at, .. } => found.push(*at),
            Reply::Array { items }
            | Reply::Set { items }
            | Reply::Map { items }
            | Reply::Named { items }
            | Reply::Pairs { items } => items.0.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(reply, &mut found);
    found.sort_unstable();
    found.dedup();
    found
}

/// The reply with the fields of the records that it names. A record whose bytes are gone has nil in their place, as one that was deleted.
pub fn resolve(reply: Reply, bytes: &mut dyn FnMut(PayloadRef) -> Option<Bytes>) -> Reply {
    let mut all = |items: Replies| Replies(items.0.into_iter().map(|item| resolve(item, bytes)).collect());
    match reply {
        Reply::Record { id, at, record } => {
            let found = bytes(at).and_then(|payload| record::nth(&payload, record).ok());
            let words = found.map(|found| fields::of_record(&found).into_iter().map(Reply::bulk).collect());
            Reply::array(vec![id_reply(id), words.map_or(Reply::NilArray, Reply::array)])
        }
        Reply::Array { items } => Reply::Array { items: all(items) },
        Reply::Set { items } => Reply::Set { items: all(items) },
        Reply::Map { items } => Reply::Map { items: all(items) },
        Reply::Named { items } => Reply::Named { items: all(items) },
        Reply::Pairs { items } => Reply::Pairs { items: all(items) },
        other => other,
    }
}

/// What a script sees of a reply: records that the store itself has. Those in the log are not read while an entry is applied.
pub(crate) fn for_script(look: &dyn Look, reply: Reply) -> Answer {
    let named = refs(&reply);
    if named.is_empty() {
        return Ok(reply);
    }
    let streams = view(look)?;
    if named.iter().any(|at| streams.payload(*at).is_none()) {
        return Err(Error::reply(
            "ERR a script cannot read records that were appended outside of scripts: their bytes are in the log. \
             Read them with XRANGE or XREAD before, and pass on what the script needs",
        ));
    }
    Ok(resolve(reply, &mut |at| streams.payload(at)))
}

/// The words of an XREAD whose `$` are the newest ids of now: what a client waits behind must not move while it waits.
#[must_use]
pub fn pinned(look: &dyn Look, session: &Session, words: &[Blob]) -> Vec<Blob> {
    let mut pinned = words.to_vec();
    let Ok(asked) = Asked::read(words) else { return pinned };
    for place in asked.ids() {
        if words[place].as_slice() == b"$" {
            let key = session.key(&words[place - asked.count]);
            let last = stream(look, &key).ok().flatten().map_or(RecordId::ZERO, |facts| facts.last);
            pinned[place] = last.to_string().into();
        }
    }
    pinned
}

/// Whether an XREAD or XREADGROUP would be answered now, be it with an error.
#[must_use]
pub fn ready(look: &dyn Look, session: &Session, words: &[Blob]) -> bool {
    let Ok(asked) = Asked::read(words) else { return true };
    let served = |place: usize| {
        let key = session.key(&words[place - asked.count]);
        let found = stream(look, &key)?;
        let Some(group) = asked.group else {
            let Some(facts) = found else { return Ok(false) };
            let after = if words[place].as_slice() == b"$" { facts.last } else { strict_id(&words[place])? };
            return Ok(facts.top.is_some_and(|top| top > after));
        };
        let facts = found.ok_or_else(Error::syntax)?;
        let group = view(look)?.group(&key, &words[group]).ok_or_else(Error::syntax)?;
        Ok::<_, Error>(words[place].as_slice() != b">" || facts.top.is_some_and(|top| top > group.last))
    };
    asked.ids().any(|place| served(place).unwrap_or(true))
}

// What handlers share.

/// The store's streams.
pub(crate) fn view(look: &dyn Look) -> Result<Box<dyn LookStreams + '_>, Error> {
    look.streams().ok_or_else(none)
}

pub(crate) fn changes<'a>(w: &'a mut Writing<'_>) -> Result<&'a mut dyn ChangeStreams, Error> {
    w.store.change_streams().ok_or_else(none)
}

fn none() -> Error {
    Error::reply("ERR this store has no streams")
}

/// The stream of a key.
pub(crate) fn stream(look: &dyn Look, key: &Key) -> Result<Option<Facts>, Error> {
    match look.find(key) {
        None => Ok(None),
        Some(Found::Stream) => view(look)?.facts(key).map(Some),
        Some(_) => Err(Error::wrong_type()),
    }
}

/// An id as a reply.
pub(crate) fn id_reply(id: RecordId) -> Reply {
    Reply::bulk(id.to_string())
}

pub(crate) fn entry_reply(entry: &Entry) -> Reply {
    Reply::Record { id: entry.id, at: entry.at, record: entry.record }
}

fn invalid_id() -> Error {
    Error::reply("ERR Invalid stream ID specified as stream command argument")
}

fn part(digits: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(digits).map_err(|_| invalid_id())?;
    // As C reads it, with zeros and a plus in front.
    text.parse().map_err(|_| invalid_id())
}

/// `ms` or `ms-seq`.
pub(crate) fn id(word: &[u8], missing: u64) -> Result<RecordId, Error> {
    if word.len() > 127 {
        return Err(invalid_id());
    }
    match word.iter().position(|byte| *byte == b'-') {
        Some(dash) => Ok(RecordId { ms: part(&word[..dash])?, seq: part(&word[dash + 1..])? }),
        None => Ok(RecordId { ms: part(word)?, seq: missing }),
    }
}

/// An id whose missing part is 0.
pub(crate) fn strict_id(word: &[u8]) -> Result<RecordId, Error> {
    id(word, 0)
}

/// `-`, `+`, or an id.
pub(crate) fn edge_id(word: &[u8], missing: u64) -> Result<RecordId, Error> {
    match word {
        b"-" => Ok(RecordId::ZERO),
        b"+" => Ok(RecordId::MAX),
        _ => id(word, missing),
    }
}

/// A range of ids, both ends included.
pub(crate) fn interval(start: &[u8], end: &[u8]) -> Result<(RecordId, RecordId), Error> {
    let (start, after) = start.strip_prefix(b"(").map_or((start, false), |rest| (rest, true));
    let edge = |word: &[u8], exclusive, missing| {
        if exclusive { id(word, missing) } else { edge_id(word, missing) }
    };
    let mut from = edge(start, after, 0)?;
    if after {
        from = from.next().ok_or_else(|| Error::reply("ERR invalid start ID for the interval"))?;
    }
    let (end, before) = end.strip_prefix(b"(").map_or((end, false), |rest| (rest, true));
    let mut to = edge(end, before, u64::MAX)?;
    if before {
        to = to.prev().ok_or_else(|| Error::reply("ERR invalid end ID for the interval"))?;
    }
    Ok((from, to))
}

// Appending and trimming.

/// How far to trim.
#[derive(Clone, Copy)]
struct Cut {
    trim: Trim,
    approximate: bool,
    /// 0 for no limit.
    limit: u64,
    refs: Refs,
}

/// What becomes of a record that groups still refer to, when it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refs {
    /// It stays pending, without its fields.
    Keep,
    /// It is pending nowhere any more.
    Delete,
    /// It is removed only when every group has had and acknowledged it.
    Acked,
}

impl Refs {
    pub(crate) fn read(word: &[u8]) -> Option<Self> {
        match () {
            () if is(word, "KEEPREF") => Some(Self::Keep),
            () if is(word, "DELREF") => Some(Self::Delete),
            () if is(word, "ACKED") => Some(Self::Acked),
            () => None,
        }
    }
}

/// Whether every group has had a record and acknowledged it.
pub(crate) fn is_acked(streams: &dyn LookStreams, key: &Key, groups: &[(Blob, Group)], id: RecordId) -> bool {
    groups.iter().all(|(name, group)| group.last >= id && streams.pending(key, name, id).is_none())
}

/// Takes a record out of what is pending in any group.
pub(crate) fn forget(
    w: &mut Writing<'_>,
    key: &Key,
    groups: &[(Blob, Group)],
    id: RecordId,
) -> Result<(), Error> {
    for (name, _) in groups {
        if view(w.look())?.pending(key, name, id).is_some() {
            changes(w)?.put_pending(key, name, id, None);
        }
    }
    Ok(())
}

/// The switches that XADD and XTRIM share, as they are read.
#[derive(Default)]
struct Switches {
    cut: Option<Cut>,
    limit: Option<u64>,
    refs: Option<Refs>,
}

impl Cut {
    /// Reads one of the switches; `false` for another word.
    fn read(words: &[Blob], at: &mut usize, switches: &mut Switches) -> Result<bool, Error> {
        let Switches { cut, limit, refs } = switches;
        let word = &words[*at];
        if let Some(found) = Refs::read(word) {
            return Ok(refs.replace(found).is_none());
        }
        let more = words.len() - *at - 1;
        if (is(word, "MAXLEN") || is(word, "MINID")) && more > 0 {
            if cut.is_some() {
                return Err(Error::reply(
                    "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                ));
            }
            let maxlen = is(word, "MAXLEN");
            *at += 1;
            let approximate = more >= 2 && words[*at].as_slice() == b"~";
            if approximate || (more >= 2 && words[*at].as_slice() == b"=") {
                *at += 1;
            }
            let trim = if maxlen {
                let length = int(&words[*at])?;
                let length = u64::try_from(length)
                    .map_err(|_| Error::reply("ERR The MAXLEN argument must be >= 0."))?;
                Trim::Length(length)
            } else {
                Trim::From(strict_id(&words[*at])?)
            };
            *cut = Some(Self { trim, approximate, limit: 0, refs: Refs::Keep });
            return Ok(true);
        }
        if is(word, "LIMIT") && more > 0 {
            *at += 1;
            let value = u64::try_from(int(&words[*at])?)
                .map_err(|_| Error::reply("ERR The LIMIT argument must be >= 0."))?;
            *limit = Some(value);
            return Ok(true);
        }
        Ok(false)
    }

    /// Checks the switches against one another.
    fn checked(switches: Switches) -> Result<Option<Self>, Error> {
        let refs = switches.refs.unwrap_or(Refs::Keep);
        match (switches.cut.map(|cut| Self { refs, ..cut }), switches.limit) {
            (None, Some(limit)) if limit > 0 => Err(Error::reply(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            )),
            (Some(Self { approximate: false, .. }), Some(_)) => {
                Err(Error::reply("ERR syntax error, LIMIT cannot be used without the special ~ option"))
            }
            (Some(cut), Some(limit)) => Ok(Some(Self { limit, ..cut })),
            (cut, _) => Ok(cut),
        }
    }

    /// How many records lie in whole pieces before the place to cut at.
    fn whole_pieces(self, w: &Writing<'_>, key: &Key) -> Result<u64, Error> {
        let streams = view(w.look())?;
        let before = match self.trim {
            Trim::Length(kept) => streams.facts(key)?.length.saturating_sub(kept),
            Trim::From(id) => match id.prev() {
                Some(last) => streams.entries(key, RecordId::ZERO, last, false, PIECES_MAX).len() as u64,
                None => 0,
            },
        };
        // The last piece is whole when nothing after it is kept.
        let all = before == streams.facts(key)?.length;
        Ok(if all { before } else { before - before % PIECE })
    }

    fn apply(self, w: &mut Writing<'_>, key: &Key) -> Result<u64, Error> {
        let mut max = if self.limit == 0 { u64::MAX } else { self.limit };
        if self.approximate {
            max = max.min(self.whole_pieces(w, key)?);
        }
        // Without groups nothing refers to a record.
        if self.refs == Refs::Keep || view(w.look())?.groups(key).is_empty() {
            return Ok(changes(w)?.trim(key, self.trim, max));
        }
        self.apply_to_groups(w, key, max)
    }

    /// The same, with what groups refer to in mind.
    fn apply_to_groups(self, w: &mut Writing<'_>, key: &Key, max: u64) -> Result<u64, Error> {
        let streams = view(&*w.store)?;
        let (groups, length) = (streams.groups(key), streams.facts(key)?.length);
        let (to, too_many) = match self.trim {
            Trim::Length(kept) => (Some(RecordId::MAX), length.saturating_sub(kept)),
            Trim::From(id) => (id.prev(), length),
        };
        let Some(to) = to else { return Ok(0) };
        // Records that a group still needs are passed over; others make up for them where a length is asked for.
        let looked_at = if self.refs == Refs::Acked { length } else { too_many.min(max) };
        let found = streams.entries(key, RecordId::ZERO, to, false, looked_at.min(crate::TOUCH_MAX + 1));
        w.session.touch((found.len() as u64).saturating_mul(1 + groups.len() as u64))?;
        if self.refs == Refs::Delete {
            drop(streams);
            for entry in &found {
                forget(w, key, &groups, entry.id)?;
            }
            return Ok(changes(w)?.trim(key, self.trim, max));
        }
        let acked = found.iter().map(|entry| entry.id).filter(|id| is_acked(&*streams, key, &groups, *id));
        let most = usize::try_from(too_many.min(max)).unwrap_or(usize::MAX);
        let mut acked: Vec<RecordId> = acked.take(most).collect();
        drop(streams);
        // The oldest are cut off; those among others that stay are removed, and leave a gap.
        let first = acked.iter().zip(&found).take_while(|(id, entry)| **id == entry.id).count();
        acked.drain(..first);
        let cut = changes(w)?.trim(key, Trim::Length(0), first as u64);
        // What lies in a batch of several is kept whole, and stays.
        let changes = changes(w)?;
        Ok(cut + acked.iter().map(|id| changes.remove(key, &[*id]).unwrap_or(0)).sum::<u64>())
    }
}

/// Records in a piece: with `~`, Redis cuts off whole ones only, which keep a hundred records by default (stream-node-max-entries).
const PIECE: u64 = 100;
/// Records that one cut with `~` looks at.
const PIECES_MAX: u64 = 100 * PIECE;

/// The id that an XADD asks for.
#[derive(Clone, Copy)]
enum Wanted {
    Any,
    Milliseconds(u64),
    Exactly(RecordId),
}

struct Adding<'a> {
    no_make: bool,
    /// The producer, and what it calls the message; nothing when its pairs are its name.
    said: Option<(&'a Blob, Option<&'a Blob>)>,
    cut: Option<Cut>,
    wanted: Wanted,
    /// Where the id stands.
    at: usize,
}

impl<'a> Adding<'a> {
    fn read(words: &'a [Blob]) -> Result<Self, Error> {
        let mut said = None;
        let (mut no_make, mut switches, mut at) = (false, Switches::default(), 2);
        loop {
            let Some(word) = words.get(at) else { return Err(arity()) };
            if word.as_slice() == b"*" {
                break;
            }
            if is(word, "NOMKSTREAM") {
                no_make = true;
            } else if said.is_none() && (is(word, "IDMP") || is(word, "IDMPAUTO")) {
                let producer = next(words, &mut at)?;
                let id = if is(word, "IDMP") { Some(next(words, &mut at)?) } else { None };
                if producer.is_empty() || id.is_some_and(|id| id.is_empty()) {
                    return Err(Error::reply(
                        "ERR the names of a producer and of its message may not be empty",
                    ));
                }
                said = Some((producer, id));
            } else if !Cut::read(words, &mut at, &mut switches)? {
                break;
            }
            at += 1;
        }
        let word = &words[at];
        let wanted = match word.as_slice() {
            b"*" => Wanted::Any,
            _ => match word.strip_suffix(b"-*") {
                Some(ms) => Wanted::Milliseconds(part(ms)?),
                None => Wanted::Exactly(strict_id(word)?),
            },
        };
        if said.is_some() && !matches!(wanted, Wanted::Any) {
            return Err(Error::reply("ERR IDMP and IDMPAUTO go with an id that the server makes: *"));
        }
        Ok(Self { no_make, said, cut: Cut::checked(switches)?, wanted, at })
    }

    fn id(&self, look: &dyn Look, last: RecordId) -> Result<RecordId, Error> {
        if last == RecordId::MAX {
            return Err(Error::reply(
                "ERR The stream has exhausted the last possible ID, unable to add more items",
            ));
        }
        let smaller = || {
            Error::reply("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        };
        let id = match self.wanted {
            Wanted::Any if look.wall().0 > last.ms => RecordId { ms: look.wall().0, seq: 0 },
            Wanted::Any => last.next().ok_or_else(smaller)?,
            Wanted::Milliseconds(ms) if ms == last.ms => {
                RecordId { ms, seq: last.seq.checked_add(1).ok_or_else(smaller)? }
            }
            Wanted::Milliseconds(ms) => RecordId { ms, seq: 0 },
            Wanted::Exactly(id) => id,
        };
        if id > last { Ok(id) } else { Err(smaller()) }
    }
}

fn arity() -> Error {
    Error::reply("ERR wrong number of arguments for 'xadd' command")
}

pub(crate) fn xadd(w: &mut Writing<'_>) -> Answer {
    let adding = Adding::read(w.words)?;
    let pairs = &w.words[adding.at + 1..];
    if pairs.len() % 2 == 1 || (pairs.is_empty() && !w.session.is_recorded()) {
        return Err(arity());
    }
    if matches!(adding.wanted, Wanted::Exactly(RecordId::ZERO)) {
        return Err(Error::reply("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let key = w.key(1);
    let found = stream(w.look(), &key)?;
    if found.is_none() && adding.no_make {
        return Ok(Reply::Nil);
    }
    let by_pairs = adding.said.map(|(_, id)| id.cloned().unwrap_or_else(|| name_of(pairs)));
    let said = adding.said.zip(by_pairs.as_ref()).map(|((producer, _), id)| Said { producer, id });
    let before = match said.filter(|_| found.is_some()) {
        Some(said) => view(w.look())?.said(&key, said).map(|record| (said, record)),
        None => None,
    };
    if let Some((said, record)) = before {
        changes(w)?.say(&key, said, None);
        return Ok(id_reply(record));
    }
    let id = adding.id(w.look(), found.unwrap_or_default().last)?;
    changes(w)?.append(&key, id, pairs)?;
    if let Some(said) = said {
        changes(w)?.say(&key, said, Some(id));
    }
    if let Some(cut) = adding.cut {
        cut.apply(w, &key)?;
    }
    Ok(id_reply(id))
}

/// The name of a message that is named by its pairs.
fn name_of(pairs: &[Blob]) -> Blob {
    let mut all = Vec::new();
    for word in pairs {
        all.extend((word.len() as u64).to_le_bytes());
        all.extend_from_slice(word);
    }
    Blob::copy_from(&xxhash_rust::xxh3::xxh3_128(&all).to_be_bytes())
}

/// `XCFGSET key [IDMP-DURATION seconds] [IDMP-MAXSIZE ids]`, of Redis 8.6.
pub(crate) fn xcfgset(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    stream(w.look(), &key)?.ok_or_else(no_such_key)?;
    let mut wanted = view(w.look())?.idempotency(&key).unwrap_or_default();
    let mut at = 2;
    while let Some(word) = w.words.get(at) {
        let mut value = |most: u64| {
            let value = u64::try_from(int(next(w.words, &mut at)?)?).ok();
            value.filter(|value| (1..=most).contains(value)).ok_or_else(|| {
                Error::reply(format!(
                    "ERR {} must be between 1 and {most}",
                    word.to_string().to_ascii_uppercase()
                ))
            })
        };
        match () {
            () if is(word, "IDMP-DURATION") => wanted.seconds = value(86_400)?,
            () if is(word, "IDMP-MAXSIZE") => wanted.ids_max = value(10_000)?,
            () => return Err(Error::syntax()),
        }
        at += 1;
    }
    changes(w)?.set_idempotency(&key, wanted.seconds, wanted.ids_max);
    Ok(Reply::ok())
}

pub(crate) fn xtrim(w: &mut Writing<'_>) -> Answer {
    let (mut switches, mut at) = (Switches::default(), 2);
    while at < w.words.len() {
        if !Cut::read(w.words, &mut at, &mut switches)? {
            return Err(Error::syntax());
        }
        at += 1;
    }
    let cut = Cut::checked(switches)?
        .ok_or_else(|| Error::reply("ERR syntax error, XTRIM must be called with MAXLEN or MINID options"))?;
    let key = w.key(1);
    if stream(w.look(), &key)?.is_none() {
        return Ok(Reply::integer(0));
    }
    Ok(number(cut.apply(w, &key)?))
}

pub(crate) fn xdel(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    if stream(w.look(), &key)?.is_none() {
        return Ok(Reply::integer(0));
    }
    let ids = w.words[2..].iter().map(|word| strict_id(word)).collect::<Result<Vec<_>, _>>()?;
    w.session.touch(ids.len() as u64)?;
    Ok(number(changes(w)?.remove(&key, &ids)?))
}

/// `[KEEPREF | DELREF | ACKED] IDS numids id [id ...]`, the policy before or after the ids.
pub(crate) fn ids_with_refs(words: &[Blob]) -> Result<(Refs, Vec<RecordId>), Error> {
    let (mut refs, mut ids, mut at) = (None, None, 0);
    while let Some(word) = words.get(at) {
        at += 1;
        if let Some(found) = Refs::read(word) {
            if refs.replace(found).is_some() {
                return Err(Error::syntax());
            }
        } else if is(word, "IDS") && ids.is_none() && at < words.len() {
            let count = integer(&words[at]).filter(|count| *count > 0 && *count <= i64::from(i32::MAX));
            let count = count.ok_or_else(|| Error::reply("ERR Number of IDs must be a positive integer"))?;
            let named = words.get(at + 1..at + 1 + count as usize).ok_or_else(|| {
                Error::reply("ERR The `numids` parameter must match the number of arguments")
            })?;
            ids = Some(named);
            at += 1 + named.len();
        } else {
            return Err(Error::syntax());
        }
    }
    let ids = ids.ok_or_else(Error::syntax)?;
    let ids = ids.iter().map(|word| strict_id(word)).collect::<Result<Vec<_>, _>>()?;
    Ok((refs.unwrap_or(Refs::Keep), ids))
}

/// `XDELEX key [KEEPREF | DELREF | ACKED] IDS numids id [id ...]`, of Redis 8.2. −1: no such record; 1: removed; 2: a group still needs it.
pub(crate) fn xdelex(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let found = stream(w.look(), &key)?;
    let (refs, ids) = ids_with_refs(&w.words[2..])?;
    if found.is_none() {
        return Ok(Reply::array(vec![Reply::integer(-1); ids.len()]));
    }
    let codes = remove_with_refs(w, &key, refs, &ids)?;
    Ok(Reply::array(codes.into_iter().map(Reply::integer).collect()))
}

/// Removes records as far as groups let it; what to answer for each.
pub(crate) fn remove_with_refs(
    w: &mut Writing<'_>,
    key: &Key,
    refs: Refs,
    ids: &[RecordId],
) -> Result<Vec<i64>, Error> {
    let streams = view(&*w.store)?;
    let groups = streams.groups(key);
    w.session.touch((ids.len() as u64).saturating_mul(1 + groups.len() as u64))?;
    let (mut codes, mut removed) = (Vec::with_capacity(ids.len()), Vec::new());
    for id in ids {
        codes.push(match () {
            () if refs == Refs::Acked && !is_acked(&*streams, key, &groups, *id) => 2,
            () if removed.contains(id) || streams.entries(key, *id, *id, false, 1).is_empty() => -1,
            () => {
                removed.push(*id);
                1
            }
        });
    }
    drop(streams);
    // It refuses all or nothing, and comes before what cannot be refused.
    changes(w)?.remove(key, &removed)?;
    if refs == Refs::Delete {
        for id in ids {
            forget(w, key, &groups, *id)?;
        }
    }
    Ok(codes)
}

pub(crate) fn xsetid(w: &mut Writing<'_>) -> Answer {
    let last = strict_id(&w.words[2])?;
    let (mut added, mut max_deleted, mut at) = (None, None, 3);
    while let Some(word) = w.words.get(at) {
        match () {
            () if is(word, "ENTRIESADDED") && at + 1 < w.words.len() => {
                let value = u64::try_from(int(next(w.words, &mut at)?)?);
                added = Some(value.map_err(|_| Error::reply("ERR entries_added must be positive"))?);
            }
            () if is(word, "MAXDELETEDID") && at + 1 < w.words.len() => {
                let id = strict_id(next(w.words, &mut at)?)?;
                if last < id {
                    return Err(Error::reply(
                        "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                    ));
                }
                max_deleted = Some(id);
            }
            () => return Err(Error::syntax()),
        }
        at += 1;
    }
    let key = w.key(1);
    let facts = stream(w.look(), &key)?.ok_or_else(|| Error::reply("ERR no such key"))?;
    if last < facts.max_deleted {
        return Err(Error::reply(
            "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id",
        ));
    }
    if facts.top.is_some_and(|top| last < top) {
        return Err(Error::reply(
            "ERR The ID specified in XSETID is smaller than the target stream top item",
        ));
    }
    if facts.length > 0 && added.is_some_and(|added| added < facts.length) {
        return Err(Error::reply(
            "ERR The entries_added specified in XSETID is smaller than the target stream length",
        ));
    }
    let max_deleted = max_deleted.filter(|id| *id != RecordId::ZERO);
    changes(w)?.set_id(&key, last, added, max_deleted)?;
    Ok(Reply::ok())
}

// Reading.

pub(crate) fn xlen(r: &mut Reading<'_>) -> Answer {
    let found = stream(r.look, &r.key(1))?;
    Ok(number(found.map_or(0, |facts| facts.length)))
}

pub(crate) fn xrange(r: &mut Reading<'_>) -> Answer {
    range(r, 2, 3, false)
}

pub(crate) fn xrevrange(r: &mut Reading<'_>) -> Answer {
    range(r, 3, 2, true)
}

fn range(r: &mut Reading<'_>, start: usize, end: usize, newest_first: bool) -> Answer {
    let (from, to) = interval(&r.words[start], &r.words[end])?;
    let (mut count, mut at) = (None, 4);
    while let Some(word) = r.words.get(at) {
        if !is(word, "COUNT") || at + 1 == r.words.len() {
            return Err(Error::syntax());
        }
        count = Some(u64::try_from(int(next(r.words, &mut at)?)?).unwrap_or(0));
        at += 1;
    }
    let key = r.key(1);
    let Some(facts) = stream(r.look, &key)? else { return Ok(Reply::array(Vec::new())) };
    if count == Some(0) {
        return Ok(Reply::NilArray);
    }
    let entries = entries(r.look, r.session, &key, &facts, (from, to), newest_first, count.unwrap_or(0))?;
    Ok(Reply::array(entries.iter().map(entry_reply).collect()))
}

/// How many records a command hands out that may give fewer than asked for, and all for 0: who reads on by the last id misses none.
pub(crate) fn at_once(count: u64) -> u64 {
    const RECORDS_MAX: u64 = 5_000;
    if count == 0 { RECORDS_MAX } else { count.min(RECORDS_MAX) }
}

/// Records between two ids, `count` of them, or all for 0; within what a command may touch.
pub(crate) fn entries(
    look: &dyn Look,
    session: &mut Session,
    key: &Key,
    facts: &Facts,
    (from, to): (RecordId, RecordId),
    newest_first: bool,
    count: u64,
) -> Result<Vec<Entry>, Error> {
    let most = if count == 0 { facts.length } else { count.min(facts.length) };
    // One more than may be: then it is known to be too much, and nothing is.
    let found = view(look)?.entries(key, from, to, newest_first, most.min(crate::TOUCH_MAX + 1));
    session.touch(found.len() as u64)?;
    Ok(found)
}

/// The words of an XREAD or XREADGROUP.
pub(crate) struct Asked {
    pub(crate) block: Option<u64>,
    pub(crate) limit: u64,
    /// Place of the group's name, the consumer's after it.
    pub(crate) group: Option<usize>,
    pub(crate) no_ack: bool,
    /// Place of the first stream.
    pub(crate) streams: usize,
    /// How many streams.
    pub(crate) count: usize,
}

impl Asked {
    pub(crate) fn read(words: &[Blob]) -> Result<Self, Error> {
        let grouped = is(&words[0], "XREADGROUP");
        let (mut block, mut limit, mut group, mut no_ack, mut at) = (None, 0, None, false, 1);
        while let Some(word) = words.get(at) {
            let more = words.len() - at - 1;
            match () {
                () if is(word, "BLOCK") && more > 0 => block = Some(timeout(next(words, &mut at)?)?),
                () if is(word, "COUNT") && more > 0 => {
                    limit = u64::try_from(int(next(words, &mut at)?)?).unwrap_or(0);
                }
                () if is(word, "STREAMS") && more > 0 => {
                    if more % 2 == 1 {
                        let (name, sign) = if grouped { ("xreadgroup", '>') } else { ("xread", '$') };
                        return Err(Error::reply(format!(
                            "ERR Unbalanced '{name}' list of streams: for each stream key an ID or '{sign}' must be specified."
                        )));
                    }
                    if grouped && group.is_none() {
                        return Err(Error::reply("ERR Missing GROUP option for XREADGROUP"));
                    }
                    return Ok(Self { block, limit, group, no_ack, streams: at + 1, count: more / 2 });
                }
                () if is(word, "GROUP") && more >= 2 => {
                    if !grouped {
                        return Err(Error::reply(
                            "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
                        ));
                    }
                    group = Some(at + 1);
                    at += 2;
                }
                () if is(word, "NOACK") => {
                    if !grouped {
                        return Err(Error::reply(
                            "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
                        ));
                    }
                    no_ack = true;
                }
                () => return Err(Error::syntax()),
            }
            at += 1;
        }
        Err(Error::syntax())
    }

    /// Places of the ids; each stream's name is `count` words before its id.
    pub(crate) fn ids(&self) -> std::ops::Range<usize> {
        self.streams + self.count..self.streams + self.count * 2
    }
}

/// A time to wait in milliseconds.
fn timeout(word: &[u8]) -> Result<u64, Error> {
    let millis =
        integer(word).ok_or_else(|| Error::reply("ERR timeout is not an integer or out of range"))?;
    u64::try_from(millis).map_err(|_| Error::reply("ERR timeout is negative"))
}

/// How long an XREAD or XREADGROUP is willing to wait, 0 for ever; nothing when it is not.
pub(crate) fn wait_of(words: &[Blob]) -> Result<Option<u64>, Error> {
    Ok(Asked::read(words)?.block)
}

pub(crate) fn xread(r: &mut Reading<'_>) -> Answer {
    let asked = Asked::read(r.words)?;
    let mut wanted = Vec::with_capacity(asked.count);
    for place in asked.ids() {
        let (key, word) = (r.key(place - asked.count), &r.words[place]);
        let found = stream(r.look, &key)?;
        let after = match word.as_slice() {
            b"$" => found.unwrap_or_default().last,
            b">" => {
                return Err(Error::reply(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
                ));
            }
            word => strict_id(word)?,
        };
        wanted.extend(found.map(|facts| (key, facts, after)));
    }
    let mut served = Vec::new();
    for (key, facts, after) in wanted {
        let Some(from) = after.next().filter(|_| facts.top.is_some_and(|top| top > after)) else { continue };
        let found =
            entries(r.look, r.session, &key, &facts, (from, RecordId::MAX), false, at_once(asked.limit))?;
        served.push(Reply::bulk(key.name));
        served.push(Reply::array(found.iter().map(entry_reply).collect()));
    }
    Ok(if served.is_empty() { Reply::NilArray } else { Reply::named(served) })
}

// XINFO.

pub(crate) fn no_such_key() -> Error {
    Error::reply("ERR no such key")
}

pub(crate) fn xinfo_stream(r: &mut Reading<'_>) -> Answer {
    let key = r.key(2);
    let facts = stream(r.look, &key)?.ok_or_else(no_such_key)?;
    match &r.words[3..] {
        [] => {}
        [full, rest @ ..] if is(full, "FULL") => {
            let count = match rest {
                [] => 10,
                [word, count] if is(word, "COUNT") => u64::try_from(int(count)?).unwrap_or(10),
                _ => return Err(unknown_or_wrong(&r.words[1])),
            };
            return crate::stream_groups::xinfo_full(r, &key, &facts, count);
        }
        _ => return Err(unknown_or_wrong(&r.words[1])),
    }
    let streams = view(r.look)?;
    let edge = |newest_first| {
        let found = streams.entries(&key, RecordId::ZERO, RecordId::MAX, newest_first, 1);
        found.first().map_or(Reply::Nil, entry_reply)
    };
    let mut items = numbers(&facts);
    items.extend([Reply::bulk("groups"), Reply::count(streams.groups(&key).len())]);
    items.extend([Reply::bulk("first-entry"), edge(false), Reply::bulk("last-entry"), edge(true)]);
    if let Some(found) = streams.idempotency(&key) {
        let fields = [
            ("idmp-duration", found.seconds),
            ("idmp-maxsize", found.ids_max),
            ("pids-tracked", found.producers),
            ("iids-tracked", found.ids),
            ("iids-added", found.added),
            ("iids-duplicates", found.repeated),
        ];
        items.extend(fields.into_iter().flat_map(|(name, value)| [Reply::bulk(name), number(value)]));
    }
    Ok(Reply::map(items))
}

fn unknown_or_wrong(subcommand: &[u8]) -> Error {
    let subcommand = String::from_utf8_lossy(subcommand);
    Error::reply(format!(
        "ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try XINFO HELP."
    ))
}

/// The numbers that both forms of XINFO STREAM begin with.
pub(crate) fn numbers(facts: &Facts) -> Vec<Reply> {
    // Redis' nodes hold a hundred records each; here there are none, and this is how many they would be.
    let nodes = facts.length.div_ceil(100);
    vec![
        Reply::bulk("length"),
        number(facts.length),
        Reply::bulk("radix-tree-keys"),
        number(nodes),
        Reply::bulk("radix-tree-nodes"),
        number(nodes + 1),
        Reply::bulk("last-generated-id"),
        id_reply(facts.last),
        Reply::bulk("max-deleted-entry-id"),
        id_reply(facts.max_deleted),
        Reply::bulk("entries-added"),
        number(facts.added),
        Reply::bulk("recorded-first-entry-id"),
        id_reply(facts.first.unwrap_or(RecordId::ZERO)),
    ]
}

pub(crate) fn xinfo_help(_: &mut Reading<'_>) -> Answer {
    Ok(crate::keys::help(&[
        "XINFO CONSUMERS key group",
        "XINFO GROUPS key",
        "XINFO STREAM key [FULL [COUNT count]]",
        "XINFO HELP",
    ]))
}

/// Wall time of now, in milliseconds.
pub(crate) fn now(look: &dyn Look) -> u64 {
    u64::try_from(args::wall(look)).unwrap_or(0)
}
