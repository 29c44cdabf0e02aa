//! Hashes: fields with values.
//!
//! Called by: `call`, through the table.

use crate::args::{int, is, positive, signed};
use crate::call::{hash, number};
use crate::collections::{Change, Changed, Hash};
use crate::decimal::{Decimal, Parsed};
use crate::dice::Dice;
use crate::keys::Scan;
use crate::{Error, Reading, Writing};
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
    Ok(number(hash(r.look, &r.key(1))?.map_or(0, Hash::len)))
}

pub(crate) fn hstrlen(r: &mut Reading<'_>) -> Answer {
    let value = hash(r.look, &r.key(1))?.and_then(|hash| hash.get(&r.words[2]));
    Ok(Reply::count(value.map_or(0, |value| value.len())))
}

/// The hash of the first key, to be shown whole.
fn all<'a>(r: &mut Reading<'a>) -> Result<Option<&'a Hash>, Error> {
    let hash = hash(r.look, &r.key(1))?;
    r.session.touch(hash.map_or(0, Hash::len))?;
    Ok(hash)
}

pub(crate) fn hgetall(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::map(all(r)?.map_or_else(Vec::new, |hash| flat(hash.iter()))))
}

pub(crate) fn hkeys(r: &mut Reading<'_>) -> Answer {
    let fields = all(r)?.map(|hash| hash.iter().map(|(field, _)| Reply::bulk(field)).collect());
    Ok(Reply::array(fields.unwrap_or_default()))
}

pub(crate) fn hvals(r: &mut Reading<'_>) -> Answer {
    let values = all(r)?.map(|hash| hash.iter().map(|(_, value)| Reply::bulk(value)).collect());
    Ok(Reply::array(values.unwrap_or_default()))
}

fn flat(pairs: impl Iterator<Item = (Blob, Blob)>) -> Vec<Reply> {
    pairs.flat_map(|(field, value)| [Reply::bulk(field), Reply::bulk(value)]).collect()
}

pub(crate) fn hscan(r: &mut Reading<'_>) -> Answer {
    Scan::cursor(&r.words[2])?;
    let Some(hash) = hash(r.look, &r.key(1))? else { return Ok(Scan::reply(0, Vec::new())) };
    let scan = Scan::read(r.words, 2, &["NOVALUES"])?;
    let (places, cursor) = scan.places(hash.len());
    r.session.touch(places.end - places.start)?;
    let pairs = places.rev().filter_map(|place| hash.at(place)).filter(|(field, _)| scan.shows(field));
    let items =
        if scan.no_values { pairs.map(|(field, _)| Reply::bulk(field)).collect() } else { flat(pairs) };
    Ok(Scan::reply(cursor, items))
}

pub(crate) fn hrandfield(r: &mut Reading<'_>) -> Answer {
    let mut dice = Dice::new(r.seed);
    let Some(count) = r.words.get(2) else {
        let hash = hash(r.look, &r.key(1))?;
        let field = hash.and_then(|hash| hash.at(dice.below(hash.len())));
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
    let places = picks(r, &mut dice, count, (hash.len(), 1))?;
    let pairs = places.into_iter().filter_map(|place| hash.at(place));
    if with_values {
        return Ok(Reply::pairs(flat(pairs)));
    }
    Ok(Reply::array(pairs.map(|(field, _)| Reply::bulk(field)).collect()))
}

/// Random places of a collection: `count` different ones, or, when negative, as many with repetitions; each at a cost.
pub(crate) fn picks(
    r: &mut Reading<'_>,
    dice: &mut Dice,
    count: i64,
    (len, cost): (u64, u64),
) -> Result<Vec<u64>, Error> {
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

/// What was there.
fn set(w: &mut Writing<'_>, key: &Key, field: &Blob, value: Blob) -> Result<Option<Blob>, Error> {
    match w.store.change(key, Change::HashSet { field: field.clone(), value })? {
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
    if !is(&w.words[2], "FIELDS") {
        return Err(Error::reply("ERR Mandatory argument FIELDS is missing or not at the right position"));
    }
    let count = positive(&w.words[3]).ok().filter(|count| *count > 0);
    let count = count.ok_or_else(|| Error::reply("ERR Number of fields must be a positive integer"))?;
    if count != w.words.len() as u64 - 4 {
        return Err(Error::reply("ERR The `numfields` parameter must match the number of arguments"));
    }
    let key = w.key(1);
    let mut values = Vec::with_capacity(w.words.len() - 4);
    for field in &w.words[4..] {
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
    set(w, &key, &w.words[2], sum.to_string().into())?;
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
    set(w, &key, &w.words[2], sum.clone())?;
    Ok(Reply::bulk(sum))
}
