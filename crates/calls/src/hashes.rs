//! Hashes: fields with values, some of which end by themselves.
//!
//! A field's deadline is like a key's: a time to live runs in log time, an absolute time in wall time. HSET and its like take it away; what
//! only adds to a field's value keeps it.
//!
//! Called by: `call`, through the table.

use crate::args::{self, Clock, Until, int, integer, is, signed};
use crate::call::{PICK, hash, number};
use crate::collections::{Change, Changed, Live, Long, Part};
use crate::decimal::{Decimal, Parsed};
use crate::dice::Dice;
use crate::keys::{Condition, Scan};
use crate::{Deadline, Error, Look, Reading, Writing};
use quorate_types::{Blob, Key, Reply};

type Answer = Result<Reply, Error>;

pub(crate) fn hget(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::bulk_or_nil(hash(r.look, &r.key(1))?.and_then(|hash| hash.get(&r.words[2]))))
}

pub(crate) fn hmget(r: &mut Reading<'_>) -> Answer {
    let hash = hash(r.look, &r.key(1))?;
    let one = |field: &Blob| Reply::bulk_or_nil(hash.and_then(|hash| hash.get(field)));
    Ok(Reply::array(r.words[2..].iter().map(one).collect()))
}

pub(crate) fn hexists(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::flag(hash(r.look, &r.key(1))?.is_some_and(|hash| hash.contains(&r.words[2]))))
}

pub(crate) fn hlen(r: &mut Reading<'_>) -> Answer {
    Ok(number(hash(r.look, &r.key(1))?.map_or(0, |hash| hash.len())))
}

pub(crate) fn hstrlen(r: &mut Reading<'_>) -> Answer {
    let value = hash(r.look, &r.key(1))?.and_then(|hash| hash.get(&r.words[2]));
    Ok(Reply::count(value.map_or(0, |value| value.len())))
}

/// The hash of the first key, to be shown whole; nothing where the answer was left to be handed out, or there is none.
fn all<'a>(r: &mut Reading<'a>, part: Part) -> Result<Option<Live<'a>>, Error> {
    let hash = hash(r.look, &r.key(1))?;
    if let Some(hash) = hash
        && r.leaves(hash.len(), || Long::hash(&hash, part))
    {
        return Ok(None);
    }
    r.session.touch(hash.map_or(0, |hash| hash.places()))?;
    Ok(hash)
}

pub(crate) fn hgetall(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::map(all(r, Part::Pairs)?.map_or_else(Vec::new, |hash| flat(hash.iter()))))
}

pub(crate) fn hkeys(r: &mut Reading<'_>) -> Answer {
    let fields = all(r, Part::Fields)?.map(|hash| hash.iter().map(|(field, _)| Reply::bulk(field)).collect());
    Ok(Reply::array(fields.unwrap_or_default()))
}

pub(crate) fn hvals(r: &mut Reading<'_>) -> Answer {
    let values = all(r, Part::Values)?.map(|hash| hash.iter().map(|(_, value)| Reply::bulk(value)).collect());
    Ok(Reply::array(values.unwrap_or_default()))
}

fn flat(pairs: impl Iterator<Item = (Blob, Blob)>) -> Vec<Reply> {
    pairs.flat_map(|(field, value)| [Reply::bulk(field), Reply::bulk(value)]).collect()
}

pub(crate) fn hscan(r: &mut Reading<'_>) -> Answer {
    Scan::cursor(&r.words[2])?;
    let Some(hash) = hash(r.look, &r.key(1))? else { return Ok(Scan::reply(0, Vec::new())) };
    let scan = Scan::read(r.words, 2, &["NOVALUES"])?;
    let (places, cursor) = scan.places(hash.places());
    r.session.touch(places.end - places.start)?;
    let pairs = places.rev().filter_map(|place| hash.at(place)).filter(|(field, _)| scan.shows(field));
    let items =
        if scan.no_values { pairs.map(|(field, _)| Reply::bulk(field)).collect() } else { flat(pairs) };
    Ok(Scan::reply(cursor, items))
}

pub(crate) fn hrandfield(r: &mut Reading<'_>) -> Answer {
    let mut dice = Dice::new(r.seed);
    let Some(count) = r.words.get(2) else {
        let Some(hash) = hash(r.look, &r.key(1))? else { return Ok(Reply::Nil) };
        let there = there(r, hash)?;
        let field = hash.at(place(&there, dice.below(hash.len())));
        return Ok(Reply::bulk_or_nil(field.map(|(field, _)| field)));
    };
    let count = signed(count)?;
    let with_values = match r.words.get(3) {
        None => false,
        Some(word) if is(word, "WITHVALUES") && r.words.len() == 4 => true,
        Some(_) => return Err(Error::syntax()),
    };
    if with_values && count.unsigned_abs() > u64::MAX / 4 {
        return Err(Error::reply("ERR value is out of range"));
    }
    let Some(hash) = hash(r.look, &r.key(1))? else { return Ok(Reply::array(Vec::new())) };
    let there = there(r, hash)?;
    let places = picks(r, &mut dice, count, (hash.len(), PICK))?;
    let part = if with_values { Part::Pairs } else { Part::Fields };
    if there.is_none()
        && r.leaves(places.len() as u64, || Some(Long::hash(&hash, part)?.picked(places.clone())))
    {
        return Ok(Reply::Nil);
    }
    let pairs = places.into_iter().filter_map(|at| hash.at(place(&there, at)));
    if with_values {
        return Ok(Reply::pairs(flat(pairs)));
    }
    Ok(Reply::array(pairs.map(|(field, _)| Reply::bulk(field)).collect()))
}

/// The places of a hash that has passed fields at some of them; nothing when every place counts.
fn there(r: &mut Reading<'_>, hash: Live<'_>) -> Result<Option<Vec<u64>>, Error> {
    if !hash.has_gaps() {
        return Ok(None);
    }
    r.session.touch(hash.places())?;
    Ok(Some((0..hash.places()).filter(|place| hash.at(*place).is_some()).collect()))
}

/// The place of the field number `at` of those that are there.
fn place(there: &Option<Vec<u64>>, at: u64) -> u64 {
    match there {
        None => at,
        Some(places) => places.get(at as usize).copied().unwrap_or(u64::MAX),
    }
}

/// Random places of a collection: `count` different ones, or, when negative, as many with repetitions; each at a cost, if the answer is given at once.
pub(crate) fn picks(
    r: &mut Reading<'_>,
    dice: &mut Dice,
    count: i64,
    (len, cost): (u64, u64),
) -> Result<Vec<u64>, Error> {
    let cost = if r.slices() { 1 } else { cost };
    if count < 0 {
        let count = count.unsigned_abs();
        r.session.touch(count.saturating_mul(cost))?;
        return Ok((0..count).map(|_| dice.below(len)).collect());
    }
    let count = count.unsigned_abs().min(len);
    r.session.touch(count.saturating_mul(cost))?;
    Ok(if count == len { (0..len).collect() } else { dice.places(count, len) })
}

pub(crate) fn hset(w: &mut Writing<'_>) -> Answer {
    Ok(Reply::count(set_all(w, "hset")?))
}

pub(crate) fn hmset(w: &mut Writing<'_>) -> Answer {
    set_all(w, "hmset")?;
    Ok(Reply::ok())
}

/// How many fields are new.
fn set_all(w: &mut Writing<'_>, command: &str) -> Result<usize, Error> {
    let pairs = &w.words[2..];
    if !pairs.len().is_multiple_of(2) {
        return Err(Error::reply(format!("ERR wrong number of arguments for '{command}' command")));
    }
    let key = w.key(1);
    hash(w.look(), &key)?;
    let mut new = 0;
    for pair in pairs.chunks_exact(2) {
        new += usize::from(set(w, &key, &pair[0], pair[1].clone())?.is_none());
    }
    Ok(new)
}

/// What was there. The field has no deadline then.
fn set(w: &mut Writing<'_>, key: &Key, field: &Blob, value: Blob) -> Result<Option<Blob>, Error> {
    put(w, key, Change::HashSet { field: field.clone(), value })
}

/// What was there. The field keeps its deadline.
fn keep(w: &mut Writing<'_>, key: &Key, field: &Blob, value: Blob) -> Result<Option<Blob>, Error> {
    put(w, key, Change::HashKeep { field: field.clone(), value })
}

fn put(w: &mut Writing<'_>, key: &Key, change: Change) -> Result<Option<Blob>, Error> {
    match w.store.change(key, change)? {
        Changed::Value(was) => Ok(was),
        other => unreachable!("setting a field answers with its value, not {other:?}"),
    }
}

pub(crate) fn hsetnx(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    if hash(w.look(), &key)?.is_some_and(|hash| hash.contains(&w.words[2])) {
        return Ok(Reply::integer(0));
    }
    set(w, &key, &w.words[2], w.words[3].clone())?;
    Ok(Reply::integer(1))
}

pub(crate) fn hdel(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let mut gone = 0;
    for field in &w.words[2..] {
        // The last field takes the key with it; nothing is left to remove then.
        if hash(w.look(), &key)?.is_some_and(|hash| hash.contains(field)) {
            w.store.change(&key, Change::HashRemove { field: field.clone() })?;
            gone += 1;
        }
    }
    Ok(Reply::count(gone))
}

/// `HGETDEL key FIELDS numfields field [field ...]`, of Redis 8.0.
pub(crate) fn hgetdel(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    hash(w.look(), &key)?;
    let fields = fields(w.words, 2)?;
    let mut values = Vec::with_capacity(fields.len());
    for field in fields {
        let value = hash(w.look(), &key)?.and_then(|hash| hash.get(field));
        if value.is_some() {
            w.store.change(&key, Change::HashRemove { field: field.clone() })?;
        }
        values.push(Reply::bulk_or_nil(value));
    }
    Ok(Reply::array(values))
}

pub(crate) fn hincrby(w: &mut Writing<'_>) -> Answer {
    let (key, by) = (w.key(1), int(&w.words[3])?);
    let was = hash(w.look(), &key)?.and_then(|hash| hash.get(&w.words[2]));
    let not_integer = |_| Error::reply("ERR hash value is not an integer");
    let was = was.map_or(Ok(0), |value| int(&value).map_err(not_integer))?;
    let sum = was.checked_add(by);
    let sum = sum.ok_or_else(|| Error::reply("ERR increment or decrement would overflow"))?;
    keep(w, &key, &w.words[2], sum.to_string().into())?;
    Ok(Reply::integer(sum))
}

pub(crate) fn hincrbyfloat(w: &mut Writing<'_>) -> Answer {
    let by = match Decimal::parse(&w.words[3]) {
        Parsed::Finite(by) => by,
        Parsed::Infinite => return Err(Error::reply("ERR value is NaN or Infinity")),
        Parsed::Nothing => return Err(Error::not_float()),
    };
    let key = w.key(1);
    let was = hash(w.look(), &key)?.and_then(|hash| hash.get(&w.words[2]));
    let was = match was.map_or_else(|| Decimal::parse(b"0"), |value| Decimal::parse(&value)) {
        Parsed::Finite(was) => was,
        Parsed::Infinite => return Err(Error::reply("ERR increment would produce NaN or Infinity")),
        Parsed::Nothing => return Err(Error::reply("ERR hash value is not a float")),
    };
    let sum = was.plus(&by);
    let sum = sum.ok_or_else(|| Error::reply("ERR increment would produce NaN or Infinity"))?;
    let sum = Blob::from(sum.to_string());
    keep(w, &key, &w.words[2], sum.clone())?;
    Ok(Reply::bulk(sum))
}

// Fields that end by themselves.

/// The latest deadline of a field, in milliseconds since the epoch, as Redis has it.
const DEADLINE_MAX: i64 = (1 << 46) - 1;

/// `FIELDS numfields field [field ...]` from a place to the end.
fn fields(words: &[Blob], at: usize) -> Result<&[Blob], Error> {
    if !words.get(at).is_some_and(|word| is(word, "FIELDS")) {
        return Err(Error::reply("ERR Mandatory argument FIELDS is missing or not at the right position"));
    }
    counted(words, at + 1, "ERR Number of fields must be a positive integer")
}

fn counted<'a>(words: &'a [Blob], at: usize, none: &'static str) -> Result<&'a [Blob], Error> {
    let count = words
        .get(at)
        .and_then(|word| integer(word))
        .filter(|count| (1..=i64::from(i32::MAX)).contains(count));
    let count = count.ok_or_else(|| Error::reply(none))?;
    let fields = &words[at + 1..];
    if count != fields.len() as i64 {
        return Err(Error::reply("ERR The `numfields` parameter must match the number of arguments"));
    }
    Ok(fields)
}

/// When fields end.
fn until(look: &dyn Look, word: &[u8], clock: Clock, command: &str) -> Result<Until, Error> {
    let value = int(word)?;
    if value < 0 {
        return Err(Error::reply("ERR invalid expire time, must be >= 0"));
    }
    let until = Until::read(look, word, clock, true, command)?;
    if until.at > DEADLINE_MAX {
        return Err(Error::reply(format!("ERR invalid expire time in '{command}' command")));
    }
    Ok(until)
}

pub(crate) fn hexpire(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: true, relative: true }, "hexpire")
}

pub(crate) fn hpexpire(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: false, relative: true }, "hpexpire")
}

pub(crate) fn hexpireat(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: true, relative: false }, "hexpireat")
}

pub(crate) fn hpexpireat(w: &mut Writing<'_>) -> Answer {
    expire_by(w, Clock { seconds: false, relative: false }, "hpexpireat")
}

/// −2: no such field; 0: the condition does not hold; 1: set; 2: it has passed, and the field is gone.
fn expire_by(w: &mut Writing<'_>, clock: Clock, command: &str) -> Answer {
    let key = w.key(1);
    hash(w.look(), &key)?;
    let until = until(w.look(), &w.words[2], clock, command)?;
    let mut condition = Condition::default();
    let mut at = 4;
    match &w.words[3] {
        word if is(word, "NX") => condition.if_none = true,
        word if is(word, "XX") => condition.if_any = true,
        word if is(word, "GT") => condition.if_later = true,
        word if is(word, "LT") => condition.if_earlier = true,
        _ => at = 3,
    }
    if !w.words.get(at).is_some_and(|word| is(word, "FIELDS")) {
        return Err(Error::reply("ERR Mandatory argument FIELDS is missing or not at the right position"));
    }
    let fields = counted(w.words, at + 1, "ERR Parameter `numFields` should be greater than 0")?;
    let deadline = until.deadline(w.look());
    let mut replies = Vec::with_capacity(fields.len());
    for field in fields {
        let found = hash(w.look(), &key)?.filter(|hash| hash.contains(field));
        let now = args::wall(w.look());
        let old =
            found.map(|hash| hash.deadline(field).map(|old| now.saturating_add(args::left(w.look(), old))));
        replies.push(Reply::integer(match old {
            None => -2,
            Some(old) if !condition.holds(old, until.at) => 0,
            Some(_) => 1 + i64::from(end_at(w, &key, field, deadline)?),
        }));
    }
    Ok(Reply::array(replies))
}

/// Lets a field that is there end at a deadline, or at once when it has passed; whether it is gone.
fn end_at(w: &mut Writing<'_>, key: &Key, field: &Blob, deadline: Option<Deadline>) -> Result<bool, Error> {
    let change = match deadline {
        Some(_) => Change::HashDeadline { field: field.clone(), deadline },
        None => Change::HashRemove { field: field.clone() },
    };
    w.store.change(key, change)?;
    Ok(deadline.is_none())
}

pub(crate) fn httl(r: &mut Reading<'_>) -> Answer {
    ttl_by(r, |_, millis| millis.saturating_add(999) / 1000)
}

pub(crate) fn hpttl(r: &mut Reading<'_>) -> Answer {
    ttl_by(r, |_, millis| millis)
}

pub(crate) fn hexpiretime(r: &mut Reading<'_>) -> Answer {
    ttl_by(r, |wall, millis| wall.saturating_add(millis).saturating_add(999) / 1000)
}

pub(crate) fn hpexpiretime(r: &mut Reading<'_>) -> Answer {
    ttl_by(r, i64::saturating_add)
}

/// −2: no such field; −1: it has no deadline.
fn ttl_by(r: &mut Reading<'_>, show: fn(i64, i64) -> i64) -> Answer {
    let hash = hash(r.look, &r.key(1))?;
    let one = |field: &Blob| match hash.filter(|hash| hash.contains(field)) {
        None => -2,
        Some(hash) => {
            let left = hash.deadline(field).map(|deadline| args::left(r.look, deadline));
            left.map_or(-1, |left| show(args::wall(r.look), left))
        }
    };
    Ok(Reply::array(fields(r.words, 2)?.iter().map(|field| Reply::integer(one(field))).collect()))
}

/// −2: no such field; −1: it had no deadline.
pub(crate) fn hpersist(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    hash(w.look(), &key)?;
    let mut replies = Vec::new();
    for field in fields(w.words, 2)? {
        let found = hash(w.look(), &key)?.filter(|hash| hash.contains(field));
        let had = found.map(|hash| hash.deadline(field).is_some());
        if had == Some(true) {
            w.store.change(&key, Change::HashDeadline { field: field.clone(), deadline: None })?;
        }
        replies.push(Reply::integer(match had {
            None => -2,
            Some(false) => -1,
            Some(true) => 1,
        }));
    }
    Ok(Reply::array(replies))
}

/// `HGETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST] FIELDS numfields field [field ...]`, of Redis 8.0.
pub(crate) fn hgetex(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    hash(w.look(), &key)?;
    let persist = is(&w.words[2], "PERSIST");
    let (ends, at) = match Clock::of(&w.words[2]) {
        Some(clock) => (Some(until(w.look(), &w.words[3], clock, "hgetex")?), 4),
        None => (None, 2 + usize::from(persist)),
    };
    let fields = fields(w.words, at)?;
    let mut values = Vec::with_capacity(fields.len());
    for field in fields {
        let found = hash(w.look(), &key)?.and_then(|hash| Some((hash.get(field)?, hash.deadline(field))));
        if let Some((_, old)) = &found {
            match ends {
                Some(until) => drop(end_at(w, &key, field, until.deadline(w.look()))?),
                None if persist && old.is_some() => {
                    w.store.change(&key, Change::HashDeadline { field: field.clone(), deadline: None })?;
                }
                None => {}
            }
        }
        values.push(Reply::bulk_or_nil(found.map(|(value, _)| value)));
    }
    Ok(Reply::array(values))
}

/// `HSETEX key [FNX | FXX] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL] FIELDS numfields field value [field value ...]`, of Redis 8.0.
pub(crate) fn hsetex(w: &mut Writing<'_>) -> Answer {
    let wrong = || Error::reply("ERR wrong number of arguments for 'hsetex' command");
    let twice = |expiry: bool, said: bool| match (said, expiry) {
        (false, _) => Ok(()),
        (true, true) => {
            Err(Error::reply("ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified"))
        }
        (true, false) => Err(Error::reply("ERR Only one of FXX or FNX arguments can be specified")),
    };
    let (mut only, mut given, mut keeps, mut pairs) = (None, None, false, None);
    let mut at = 2;
    while pairs.is_none() {
        let word = w.words.get(at).ok_or_else(wrong)?;
        match () {
            () if is(word, "FIELDS") => {
                let count = w.words.get(at + 1).ok_or_else(wrong)?;
                let count = integer(count).filter(|count| (1..=i64::from(i32::MAX)).contains(count));
                let count = count.ok_or_else(|| Error::reply("ERR invalid number of fields"))?;
                if (w.words.len() - at - 2) as i64 != 2 * count {
                    return Err(wrong());
                }
                pairs = Some(&w.words[at + 2..]);
            }
            () if is(word, "FNX") || is(word, "FXX") => {
                twice(false, only.is_some())?;
                only = Some(is(word, "FXX"));
            }
            () if is(word, "KEEPTTL") => {
                twice(true, keeps || given.is_some())?;
                keeps = true;
            }
            () => {
                let clock =
                    Clock::of(word).ok_or_else(|| Error::reply(format!("ERR unknown argument: {word}")))?;
                twice(true, keeps || given.is_some())?;
                at += 1;
                let word = w.words.get(at).ok_or_else(wrong)?;
                // What is no number is told ahead of what comes behind it.
                int(word)?;
                given = Some((word, clock));
            }
        }
        at += 1;
    }
    let ends = given.map(|(word, clock)| until(w.look(), word, clock, "hsetex")).transpose()?;
    let (key, pairs) = (w.key(1), pairs.unwrap_or_default());
    let found = hash(w.look(), &key)?;
    if let Some(there) = only
        && pairs.iter().step_by(2).any(|field| found.is_some_and(|hash| hash.contains(field)) != there)
    {
        return Ok(Reply::integer(0));
    }
    let deadline = ends.map(|until| until.deadline(w.look()));
    for pair in pairs.chunks_exact(2) {
        match deadline {
            // What has passed already is not written; what was there goes.
            Some(None) => {
                if hash(w.look(), &key)?.is_some_and(|hash| hash.contains(&pair[0])) {
                    w.store.change(&key, Change::HashRemove { field: pair[0].clone() })?;
                }
            }
            Some(Some(_)) => {
                keep(w, &key, &pair[0], pair[1].clone())?;
                end_at(w, &key, &pair[0], deadline.flatten())?;
            }
            None if keeps => drop(keep(w, &key, &pair[0], pair[1].clone())?),
            None => drop(set(w, &key, &pair[0], pair[1].clone())?),
        }
    }
    Ok(Reply::integer(1))
}
