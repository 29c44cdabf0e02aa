//! Groups of streams: who reads what, what was delivered to whom and not acknowledged, claiming, and what XINFO tells of them.
//!
//! Source: the Redis 7.2 documentation of consumer groups, and the behaviour of a Redis 7.0 server.
//! Invariant: every id, count and option is checked before the first change.
//! Called by: `call`, through the table.

use crate::args::{int, is, next, positive};
use crate::call::number;
use crate::streams::{
    Asked, Consumer, Entry, Facts, Group, Pending, Refs, at_once, changes, edge_id, entries, entry_reply,
    forget, id_reply, ids_with_refs, interval, is_acked, no_such_key, now, numbers, stream, strict_id, view,
};
use crate::{Error, Look, Reading, TOUCH_MAX, Writing};
use quorate_types::{Blob, Key, RecordId, Reply};

type Answer = Result<Reply, Error>;

/// An error that shows names of keys and groups.
fn no_group(parts: &[&[u8]]) -> Error {
    Error::reply([b"NOGROUP No such ", parts.concat().as_slice()].concat())
}

fn no_group_for(key: &Key, group: &Blob) -> Error {
    no_group(&[b"consumer group '", group, b"' for key name '", &key.name, b"'"])
}

/// The stream and group that words 1 and 2 name.
fn named(look: &dyn Look, key: &Key, group: &Blob) -> Result<(Facts, Group), Error> {
    let missing = || no_group(&[b"key '", &key.name, b"' or consumer group '", group, b"'"]);
    let facts = stream(look, key)?.ok_or_else(missing)?;
    let group = view(look)?.group(key, group).ok_or_else(missing)?;
    Ok((facts, group))
}

// XGROUP.

/// What XGROUP says of a key that is not there.
fn key_required() -> Error {
    Error::reply(
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
         MKSTREAM option to create an empty stream automatically.",
    )
}

struct GroupOptions {
    make: bool,
    read: Option<u64>,
}

impl GroupOptions {
    fn read(words: &[Blob], may_make: bool) -> Result<Self, Error> {
        let (mut options, mut at) = (Self { make: false, read: None }, 5);
        while let Some(word) = words.get(at) {
            if may_make && is(word, "MKSTREAM") {
                options.make = true;
            } else if is(word, "ENTRIESREAD") && at + 1 < words.len() {
                options.read = match int(next(words, &mut at)?)? {
                    -1 => None,
                    read => Some(
                        u64::try_from(read)
                            .map_err(|_| Error::reply("ERR value for ENTRIESREAD must be positive or -1"))?,
                    ),
                };
            } else {
                let name = String::from_utf8_lossy(&words[1]).into_owned();
                return Err(Error::reply(format!(
                    "ERR unknown subcommand or wrong number of arguments for '{name}'. Try XGROUP HELP."
                )));
            }
            at += 1;
        }
        Ok(options)
    }
}

pub(crate) fn xgroup_create(w: &mut Writing<'_>) -> Answer {
    let options = GroupOptions::read(w.words, true)?;
    let (key, name) = (w.key(2), &w.words[3]);
    let found = stream(w.look(), &key)?;
    if found.is_none() && !options.make {
        return Err(key_required());
    }
    let last = match w.words[4].as_slice() {
        b"$" => found.unwrap_or_default().last,
        word => strict_id(word)?,
    };
    if found.is_none() {
        changes(w)?.create(&key)?;
    } else if view(w.look())?.group(&key, name).is_some() {
        return Err(Error::reply("BUSYGROUP Consumer Group name already exists"));
    }
    changes(w)?.put_group(&key, name, last, options.read);
    Ok(Reply::ok())
}

/// The stream and group of an XGROUP that needs both.
fn existing(w: &Writing<'_>) -> Result<(Key, Facts), Error> {
    let (key, name) = (w.key(2), &w.words[3]);
    let facts = stream(w.look(), &key)?.ok_or_else(key_required)?;
    view(w.look())?.group(&key, name).ok_or_else(|| no_group_for(&key, name))?;
    Ok((key, facts))
}

pub(crate) fn xgroup_setid(w: &mut Writing<'_>) -> Answer {
    let options = GroupOptions::read(w.words, false)?;
    let (key, facts) = existing(w)?;
    let last = match w.words[4].as_slice() {
        b"$" => facts.last,
        word => edge_id(word, 0)?,
    };
    let name = &w.words[3];
    changes(w)?.put_group(&key, name, last, options.read);
    Ok(Reply::ok())
}

pub(crate) fn xgroup_destroy(w: &mut Writing<'_>) -> Answer {
    let (key, name) = (w.key(2), &w.words[3]);
    stream(w.look(), &key)?.ok_or_else(key_required)?;
    if view(w.look())?.group(&key, name).is_none() {
        return Ok(Reply::integer(0));
    }
    changes(w)?.drop_group(&key, name);
    Ok(Reply::integer(1))
}

pub(crate) fn xgroup_createconsumer(w: &mut Writing<'_>) -> Answer {
    let (key, _) = existing(w)?;
    let (group, name) = (&w.words[3], &w.words[4]);
    if view(w.look())?.consumer(&key, group, name).is_some() {
        return Ok(Reply::integer(0));
    }
    let seen = now(w.look());
    changes(w)?.put_consumer(&key, group, name, seen, None);
    Ok(Reply::integer(1))
}

pub(crate) fn xgroup_delconsumer(w: &mut Writing<'_>) -> Answer {
    let (key, _) = existing(w)?;
    let (group, name) = (&w.words[3], &w.words[4]);
    let Some(consumer) = view(w.look())?.consumer(&key, group, name) else { return Ok(Reply::integer(0)) };
    w.session.touch(consumer.pending)?;
    let all = view(w.look())?.pendings(&key, group, Some(name), RecordId::ZERO, RecordId::MAX, u64::MAX);
    for (id, _) in &all {
        changes(w)?.put_pending(&key, group, *id, None);
    }
    changes(w)?.drop_consumer(&key, group, name);
    Ok(Reply::count(all.len()))
}

pub(crate) fn xgroup_help(_: &mut Reading<'_>) -> Answer {
    Ok(crate::keys::help(&[
        "XGROUP CREATE key group id|$ [MKSTREAM] [ENTRIESREAD entries-read]",
        "XGROUP CREATECONSUMER key group consumer",
        "XGROUP DELCONSUMER key group consumer",
        "XGROUP DESTROY key group",
        "XGROUP SETID key group id|$ [ENTRIESREAD entries-read]",
        "XGROUP HELP",
    ]))
}

// XREADGROUP.

/// What one stream of an XREADGROUP is asked for.
struct Turn {
    key: Key,
    facts: Facts,
    /// Of the history, what comes after this; otherwise new records.
    history: Option<RecordId>,
}

pub(crate) fn xreadgroup(w: &mut Writing<'_>) -> Answer {
    let asked = Asked::read(w.words)?;
    let group_at = asked.group.ok_or_else(|| Error::reply("ERR Missing GROUP option for XREADGROUP"))?;
    let (group, consumer) = (&w.words[group_at], &w.words[group_at + 1]);
    let mut turns = Vec::with_capacity(asked.count);
    for place in asked.ids() {
        let key = w.key(place - asked.count);
        let found = stream(w.look(), &key)?;
        let there = found.is_some() && view(w.look())?.group(&key, group).is_some();
        let Some(facts) = found.filter(|_| there) else {
            let name: &[u8] = &key.name;
            return Err(no_group(&[
                b"key '",
                name,
                b"' or consumer group '",
                group,
                b"' in XREADGROUP with GROUP option",
            ]));
        };
        let history = match w.words[place].as_slice() {
            b"$" => {
                return Err(Error::reply(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just \
                     return an empty result set.",
                ));
            }
            b">" => None,
            word => Some(strict_id(word)?),
        };
        turns.push(Turn { key, facts, history });
    }
    // What all of them will answer is known before the first change, so that too much of it changes nothing.
    let mut plans = Vec::with_capacity(turns.len());
    for turn in &turns {
        plans.push(plan(w, turn, group, consumer, asked.limit)?);
    }
    let mut served = Vec::new();
    for (turn, plan) in turns.iter().zip(plans) {
        let known = view(w.look())?.consumer(&turn.key, group, consumer);
        let (time, active) = (now(w.look()), known.and_then(|known| known.active));
        changes(w)?.put_consumer(&turn.key, group, consumer, time, active);
        let Some(plan) = plan else { continue };
        let items = match plan {
            Plan::History(history) => again(w, turn, group, history)?,
            Plan::New(found) => deliver(w, turn, group, consumer, asked.no_ack, &found)?,
        };
        served.extend([Reply::bulk(turn.key.name.clone()), Reply::array(items)]);
    }
    Ok(if served.is_empty() { Reply::NilArray } else { Reply::named(served) })
}

enum Plan {
    History(Vec<(RecordId, Pending)>),
    New(Vec<Entry>),
}

fn plan(
    w: &mut Writing<'_>,
    turn: &Turn,
    group: &Blob,
    consumer: &Blob,
    limit: u64,
) -> Result<Option<Plan>, Error> {
    let look: &dyn Look = &*w.store;
    let limit = at_once(limit);
    if let Some(after) = turn.history {
        let found = after.next().map_or_else(Vec::new, |from| {
            view(look).map_or_else(
                |_| Vec::new(),
                |streams| streams.pendings(&turn.key, group, Some(consumer), from, RecordId::MAX, limit),
            )
        });
        w.session.touch(found.len() as u64)?;
        return Ok(Some(Plan::History(found)));
    }
    let after = view(look)?.group(&turn.key, group).unwrap_or_default().last;
    let Some(from) = after.next().filter(|_| turn.facts.top.is_some_and(|top| top > after)) else {
        return Ok(None);
    };
    let found = entries(look, w.session, &turn.key, &turn.facts, (from, RecordId::MAX), false, limit)?;
    Ok(Some(Plan::New(found)))
}

/// Delivers once more what a consumer has pending.
fn again(
    w: &mut Writing<'_>,
    turn: &Turn,
    group: &Blob,
    history: Vec<(RecordId, Pending)>,
) -> Result<Vec<Reply>, Error> {
    let time = now(w.look());
    let mut items = Vec::with_capacity(history.len());
    for (id, pending) in history {
        let entry = view(w.look())?.entries(&turn.key, id, id, false, 1).first().copied();
        match entry {
            Some(entry) => {
                items.push(entry_reply(&entry));
                let pending = Pending { at: time, count: pending.count.saturating_add(1), ..pending };
                changes(w)?.put_pending(&turn.key, group, id, Some(pending));
            }
            None => items.push(Reply::array(vec![id_reply(id), Reply::NilArray])),
        }
    }
    Ok(items)
}

/// Delivers new records.
fn deliver(
    w: &mut Writing<'_>,
    turn: &Turn,
    group: &Blob,
    consumer: &Blob,
    no_ack: bool,
    found: &[Entry],
) -> Result<Vec<Reply>, Error> {
    let time = now(w.look());
    let Group { mut last, mut read, .. } = view(w.look())?.group(&turn.key, group).unwrap_or_default();
    for entry in found {
        read = read_after(&turn.facts, last, read, entry.id);
        last = entry.id;
    }
    let changes = changes(w)?;
    changes.put_group(&turn.key, group, last, read);
    changes.put_consumer(&turn.key, group, consumer, time, Some(time));
    if !no_ack {
        for entry in found {
            let pending = Pending { consumer: consumer.clone(), at: time, count: 1 };
            changes.put_pending(&turn.key, group, entry.id, Some(pending));
        }
    }
    Ok(found.iter().map(entry_reply).collect())
}

/// How many records a group has read once it reads this one; nothing where deleted records make that unknown.
fn read_after(facts: &Facts, last: RecordId, read: Option<u64>, id: RecordId) -> Option<u64> {
    let first = facts.first.unwrap_or(RecordId::ZERO);
    match read {
        Some(read) if last >= first && !has_tombstones(facts, last) => Some(read + 1),
        _ if facts.added > 0 => distance(facts, id),
        read => read,
    }
}

/// Whether a record from this id on was deleted, as far as the greatest deleted id tells.
fn has_tombstones(facts: &Facts, from: RecordId) -> bool {
    facts.length > 0 && facts.max_deleted != RecordId::ZERO && from <= facts.max_deleted
}

/// How many records were appended up to this id, where that can be told.
fn distance(facts: &Facts, id: RecordId) -> Option<u64> {
    let Facts { added, length, last, max_deleted, first, .. } = *facts;
    let first = first.unwrap_or(RecordId::ZERO);
    if added == 0 {
        return Some(0);
    }
    if length == 0 && id <= last {
        return Some(added);
    }
    if id >= last {
        return (id == last).then_some(added);
    }
    if max_deleted == RecordId::ZERO || max_deleted < first {
        match id.cmp(&first) {
            std::cmp::Ordering::Less => return added.checked_sub(length),
            std::cmp::Ordering::Equal => return added.checked_sub(length).map(|before| before + 1),
            std::cmp::Ordering::Greater => {}
        }
    }
    None
}

fn lag(facts: &Facts, group: &Group) -> Reply {
    let read = match group.read {
        _ if facts.added == 0 => Some(0),
        Some(read) if !has_tombstones(facts, group.last) => Some(read),
        _ => distance(facts, group.last),
    };
    read.map_or(Reply::Nil, |read| {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Reply::integer(signed(facts.added).saturating_sub(signed(read)))
    })
}

// Acknowledging, and what is pending.

pub(crate) fn xack(w: &mut Writing<'_>) -> Answer {
    let (key, group) = (w.key(1), &w.words[2]);
    if stream(w.look(), &key)?.is_none() || view(w.look())?.group(&key, group).is_none() {
        return Ok(Reply::integer(0));
    }
    let ids = w.words[3..].iter().map(|word| strict_id(word)).collect::<Result<Vec<_>, _>>()?;
    w.session.touch(ids.len() as u64)?;
    let mut acknowledged = 0;
    for id in ids {
        if view(w.look())?.pending(&key, group, id).is_some() {
            changes(w)?.put_pending(&key, group, id, None);
            acknowledged += 1;
        }
    }
    Ok(number(acknowledged))
}

/// `XACKDEL key group [KEEPREF | DELREF | ACKED] IDS numids id [id ...]`, of Redis 8.2. −1: it is not pending; 1: acknowledged and removed; 2:
/// acknowledged, and another group still needs it.
pub(crate) fn xackdel(w: &mut Writing<'_>) -> Answer {
    let (key, group) = (w.key(1), &w.words[2]);
    let found = stream(w.look(), &key)?;
    let (refs, ids) = ids_with_refs(&w.words[3..])?;
    if found.is_none() || view(w.look())?.group(&key, group).is_none() {
        return Ok(Reply::array(vec![Reply::integer(-1); ids.len()]));
    }
    let streams = view(&*w.store)?;
    let others: Vec<_> = streams.groups(&key).into_iter().filter(|(name, _)| name != group).collect();
    w.session.touch((ids.len() as u64).saturating_mul(2 + others.len() as u64))?;
    let (mut codes, mut acked, mut removed) = (Vec::with_capacity(ids.len()), Vec::new(), Vec::new());
    for id in ids {
        if acked.contains(&id) || streams.pending(&key, group, id).is_none() {
            codes.push(Reply::integer(-1));
            continue;
        }
        acked.push(id);
        let stays = refs == Refs::Acked && !is_acked(&*streams, &key, &others, id);
        if !stays {
            removed.push(id);
        }
        codes.push(Reply::integer(if stays { 2 } else { 1 }));
    }
    drop(streams);
    // It refuses all or nothing, and comes before what cannot be refused.
    changes(w)?.remove(&key, &removed)?;
    for id in acked {
        changes(w)?.put_pending(&key, group, id, None);
    }
    if refs == Refs::Delete {
        for id in removed {
            forget(w, &key, &others, id)?;
        }
    }
    Ok(Reply::array(codes))
}

pub(crate) fn xpending(r: &mut Reading<'_>) -> Answer {
    let words = r.words;
    let (key, group) = (r.key(1), &words[2]);
    if words.len() == 3 {
        named(r.look, &key, group)?;
        return summary(r, &key, group);
    }
    if !(6..=9).contains(&words.len()) {
        return Err(Error::syntax());
    }
    let (mut start, mut idle) = (3, 0);
    if is(&words[3], "IDLE") {
        idle = int(&words[4])?;
        if words.len() < 8 {
            return Err(Error::syntax());
        }
        start += 2;
    }
    let count = u64::try_from(int(&words[start + 2])?).unwrap_or(0);
    let (from, to) = interval(&words[start], &words[start + 1])?;
    // What follows the consumer is not looked at.
    let consumer = words.get(start + 3);
    named(r.look, &key, group)?;
    let streams = view(r.look)?;
    let time = now(r.look);
    let least = u64::try_from(idle).unwrap_or(0);
    let (mut items, mut from, mut looked) = (Vec::new(), Some(from), 0);
    while let Some(start) = from.filter(|_| (items.len() as u64) < count) {
        // Those that are not idle for long enough are looked at, and not shown.
        let max = if least == 0 { count - items.len() as u64 } else { count.max(1000) };
        let found = streams.pendings(&key, group, consumer, start, to, max.min(TOUCH_MAX + 1));
        looked += found.len() as u64;
        if looked > TOUCH_MAX {
            break;
        }
        from = found.last().and_then(|(id, _)| id.next());
        for (id, pending) in found {
            let idle = time.saturating_sub(pending.at);
            if idle >= least && (items.len() as u64) < count {
                let row = [id_reply(id), Reply::bulk(pending.consumer), number(idle), number(pending.count)];
                items.push(Reply::array(row.to_vec()));
            }
        }
    }
    r.session.touch(looked)?;
    Ok(Reply::array(items))
}

fn summary(r: &mut Reading<'_>, key: &Key, group: &Blob) -> Answer {
    let streams = view(r.look)?;
    let pending = streams.group(key, group).unwrap_or_default().pending;
    if pending == 0 {
        return Ok(Reply::array(vec![number(0), Reply::Nil, Reply::Nil, Reply::NilArray]));
    }
    let consumers = streams.consumers(key, group);
    let first = streams.pendings(key, group, None, RecordId::ZERO, RecordId::MAX, 1);
    let last = streams.last_pending(key, group);
    let edge = |id: Option<RecordId>| id.map_or(Reply::Nil, id_reply);
    let busy = consumers.into_iter().filter(|(_, consumer)| consumer.pending > 0);
    let busy = busy.map(|(name, consumer)| {
        Reply::array(vec![Reply::bulk(name), Reply::bulk(consumer.pending.to_string())])
    });
    Ok(Reply::array(vec![
        number(pending),
        edge(first.first().map(|(id, _)| *id)),
        edge(last),
        Reply::array(busy.collect()),
    ]))
}

// Claiming.

pub(crate) fn xclaim(w: &mut Writing<'_>) -> Answer {
    let (key, group, consumer) = (w.key(1), &w.words[2], &w.words[3]);
    named(w.look(), &key, group)?;
    let option = |word: &Blob, what: &str| {
        int(word).map_err(|_| Error::reply(format!("ERR Invalid {what} argument for XCLAIM")))
    };
    let least = u64::try_from(option(&w.words[4], "min-idle-time")?).unwrap_or(0);
    let ids: Vec<RecordId> = w.words[5..].iter().map_while(|word| strict_id(word).ok()).collect();
    let time = now(w.look());
    let (mut force, mut just_id, mut at) = (false, false, 5 + ids.len());
    let (mut delivered, mut count, mut last): (Option<i64>, i64, _) = (None, -1, RecordId::ZERO);
    while let Some(word) = w.words.get(at) {
        let more = at + 1 < w.words.len();
        match () {
            () if is(word, "FORCE") => force = true,
            () if is(word, "JUSTID") => just_id = true,
            () if is(word, "IDLE") && more => {
                let idle = option(next(w.words, &mut at)?, "IDLE option")?;
                delivered = Some(i64::try_from(time).unwrap_or(i64::MAX).saturating_sub(idle));
            }
            () if is(word, "TIME") && more => {
                delivered = Some(option(next(w.words, &mut at)?, "TIME option")?)
            }
            () if is(word, "RETRYCOUNT") && more => {
                count = option(next(w.words, &mut at)?, "RETRYCOUNT option")?
            }
            () if is(word, "LASTID") && more => last = strict_id(next(w.words, &mut at)?)?,
            () => {
                let text = [b"ERR Unrecognized XCLAIM option '", &word[..], b"'"].concat();
                return Err(Error::reply(text));
            }
        }
        at += 1;
    }
    w.session.touch(ids.len() as u64)?;
    let found = view(w.look())?.group(&key, group).unwrap_or_default();
    if last > found.last {
        changes(w)?.put_group(&key, group, last, found.read);
    }
    // A time that cannot be is now.
    let delivered = delivered.and_then(|at| u64::try_from(at).ok()).filter(|at| *at <= time).unwrap_or(time);
    let claim =
        Claim { key: &key, group, consumer, time, delivered, count: u64::try_from(count).ok(), just_id };
    claim.seen(w)?;
    let mut items = Vec::new();
    for id in ids {
        let entry = view(w.look())?.entries(&key, id, id, false, 1).first().copied();
        let pending = view(w.look())?.pending(&key, group, id);
        let Some(entry) = entry else {
            if pending.is_some() {
                changes(w)?.put_pending(&key, group, id, None);
            }
            continue;
        };
        let old = match pending {
            Some(pending) if time.saturating_sub(pending.at) >= least => pending,
            None if force => Pending { consumer: consumer.clone(), at: time, count: 1 },
            _ => continue,
        };
        items.push(claim.take(w, &entry, old)?);
    }
    Ok(Reply::array(items))
}

/// What becomes of a record that is claimed.
struct Claim<'a> {
    key: &'a Key,
    group: &'a Blob,
    consumer: &'a Blob,
    time: u64,
    delivered: u64,
    count: Option<u64>,
    just_id: bool,
}

impl Claim<'_> {
    /// Notes that the consumer asked.
    fn seen(&self, w: &mut Writing<'_>) -> Result<(), Error> {
        let known = view(w.look())?.consumer(self.key, self.group, self.consumer);
        let active = known.and_then(|known| known.active);
        changes(w)?.put_consumer(self.key, self.group, self.consumer, self.time, active);
        Ok(())
    }

    fn take(&self, w: &mut Writing<'_>, entry: &Entry, old: Pending) -> Answer {
        let count = match self.count {
            Some(count) => count,
            None => old.count.saturating_add(u64::from(!self.just_id)),
        };
        let pending = Pending { consumer: self.consumer.clone(), at: self.delivered, count };
        let changes = changes(w)?;
        changes.put_pending(self.key, self.group, entry.id, Some(pending));
        changes.put_consumer(self.key, self.group, self.consumer, self.time, Some(self.time));
        Ok(if self.just_id { id_reply(entry.id) } else { entry_reply(entry) })
    }
}

pub(crate) fn xautoclaim(w: &mut Writing<'_>) -> Answer {
    let (key, group, consumer) = (w.key(1), &w.words[2], &w.words[3]);
    let least =
        int(&w.words[4]).map_err(|_| Error::reply("ERR Invalid min-idle-time argument for XAUTOCLAIM"))?;
    let least = u64::try_from(least).unwrap_or(0);
    let (from, _) = interval(&w.words[5], b"+")?;
    let (mut count, mut just_id, mut at) = (100, false, 6);
    while let Some(word) = w.words.get(at) {
        match () {
            () if is(word, "COUNT") && at + 1 < w.words.len() => {
                let value = positive(next(w.words, &mut at)?).ok().filter(|count| *count > 0);
                count = value.ok_or_else(|| Error::reply("ERR COUNT must be > 0"))?;
            }
            () if is(word, "JUSTID") => just_id = true,
            () => return Err(Error::syntax()),
        }
        at += 1;
    }
    let time = now(w.look());
    // Ten times as many are looked at as are wanted; one more tells where to go on.
    let count = at_once(count);
    let looks = count.saturating_mul(10);
    let (_, numbers) = named(w.look(), &key, group)?;
    w.session.touch(looks.min(numbers.pending))?;
    let found = view(w.look())?.pendings(&key, group, None, from, RecordId::MAX, looks.saturating_add(1));
    let claim = Claim { key: &key, group, consumer, time, delivered: time, count: None, just_id };
    claim.seen(w)?;
    let (mut items, mut gone, mut cursor) = (Vec::new(), Vec::new(), RecordId::ZERO);
    for (place, (id, pending)) in found.into_iter().enumerate() {
        if place as u64 >= looks || (items.len() + gone.len()) as u64 >= count {
            cursor = id;
            break;
        }
        let entry = view(w.look())?.entries(&key, id, id, false, 1).first().copied();
        match entry {
            None => {
                changes(w)?.put_pending(&key, group, id, None);
                gone.push(id_reply(id));
            }
            Some(entry) if time.saturating_sub(pending.at) >= least => {
                items.push(claim.take(w, &entry, pending)?);
            }
            Some(_) => {}
        }
    }
    Ok(Reply::array(vec![id_reply(cursor), Reply::array(items), Reply::array(gone)]))
}

// XINFO.

pub(crate) fn xinfo_groups(r: &mut Reading<'_>) -> Answer {
    let key = r.key(2);
    let facts = stream(r.look, &key)?.ok_or_else(no_such_key)?;
    let groups = view(r.look)?.groups(&key);
    let shown = groups.into_iter().map(|(name, group)| {
        Reply::map(vec![
            Reply::bulk("name"),
            Reply::bulk(name),
            Reply::bulk("consumers"),
            number(group.consumers),
            Reply::bulk("pending"),
            number(group.pending),
            Reply::bulk("last-delivered-id"),
            id_reply(group.last),
            Reply::bulk("entries-read"),
            group.read.map_or(Reply::Nil, number),
            Reply::bulk("lag"),
            lag(&facts, &group),
        ])
    });
    Ok(Reply::array(shown.collect()))
}

pub(crate) fn xinfo_consumers(r: &mut Reading<'_>) -> Answer {
    let (key, group) = (r.key(2), &r.words[3]);
    stream(r.look, &key)?.ok_or_else(no_such_key)?;
    let streams = view(r.look)?;
    streams.group(&key, group).ok_or_else(|| no_group_for(&key, group))?;
    let time = now(r.look);
    let shown = streams.consumers(&key, group).into_iter().map(|(name, consumer)| {
        let Consumer { seen, active, pending } = consumer;
        Reply::map(vec![
            Reply::bulk("name"),
            Reply::bulk(name),
            Reply::bulk("pending"),
            number(pending),
            Reply::bulk("idle"),
            number(time.saturating_sub(seen)),
            Reply::bulk("inactive"),
            active.map_or(Reply::integer(-1), |active| number(time.saturating_sub(active))),
        ])
    });
    Ok(Reply::array(shown.collect()))
}

/// XINFO STREAM key FULL.
pub(crate) fn xinfo_full(r: &mut Reading<'_>, key: &Key, facts: &Facts, count: u64) -> Answer {
    let streams = view(r.look)?;
    let found = entries(r.look, r.session, key, facts, (RecordId::ZERO, RecordId::MAX), false, count)?;
    let mut items = numbers(facts);
    items.extend([Reply::bulk("entries"), Reply::array(found.iter().map(entry_reply).collect())]);
    let max = if count == 0 { TOUCH_MAX } else { count };
    let mut groups = Vec::new();
    for (name, group) in streams.groups(key) {
        let pending = streams.pendings(key, &name, None, RecordId::ZERO, RecordId::MAX, max);
        r.session.touch(pending.len() as u64)?;
        let pending = pending.into_iter().map(|(id, pending)| {
            let Pending { consumer, at, count } = pending;
            Reply::array(vec![id_reply(id), Reply::bulk(consumer), number(at), number(count)])
        });
        let mut consumers = Vec::new();
        for (consumer, numbers) in streams.consumers(key, &name) {
            let own = streams.pendings(key, &name, Some(&consumer), RecordId::ZERO, RecordId::MAX, max);
            r.session.touch(own.len() as u64)?;
            let own = own.into_iter().map(|(id, pending)| {
                Reply::array(vec![id_reply(id), number(pending.at), number(pending.count)])
            });
            consumers.push(Reply::map(vec![
                Reply::bulk("name"),
                Reply::bulk(consumer),
                Reply::bulk("seen-time"),
                number(numbers.seen),
                Reply::bulk("active-time"),
                numbers.active.map_or(Reply::integer(-1), number),
                Reply::bulk("pel-count"),
                number(numbers.pending),
                Reply::bulk("pel"),
                Reply::array(own.collect()),
            ]));
        }
        groups.push(Reply::map(vec![
            Reply::bulk("name"),
            Reply::bulk(name.clone()),
            Reply::bulk("last-delivered-id"),
            id_reply(group.last),
            Reply::bulk("entries-read"),
            group.read.map_or(Reply::Nil, number),
            Reply::bulk("lag"),
            lag(facts, &group),
            Reply::bulk("pel-count"),
            number(group.pending),
            Reply::bulk("pel"),
            Reply::array(pending.collect()),
            Reply::bulk("consumers"),
            Reply::array(consumers),
        ]));
    }
    items.extend([Reply::bulk("groups"), Reply::array(groups)]);
    Ok(Reply::map(items))
}
