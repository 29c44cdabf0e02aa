//! Sets: members without order.
//!
//! Called by: `call`, through the table.

use crate::args::{self, is, positive, signed};
use crate::call::{LOOKUP, PICK, number, set};
use crate::collections::{Change, Changed, Long, Set, Value};
use crate::dice::Dice;
use crate::hashes::picks;
use crate::keys::Scan;
use crate::{Error, Look, Reading, Session, Writing};
use quorate_types::{Blob, Key, Reply};

type Answer = Result<Reply, Error>;

pub(crate) fn sadd(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let mut new = 0;
    for member in &w.words[2..] {
        new += usize::from(add(w, &key, member)?);
    }
    Ok(Reply::count(new))
}

fn add(w: &mut Writing<'_>, key: &Key, member: &Blob) -> Result<bool, Error> {
    match w.store.change(key, Change::SetAdd { member: member.clone() })? {
        Changed::Flag(new) => Ok(new),
        other => unreachable!("adding a member answers whether it is new, not {other:?}"),
    }
}

pub(crate) fn srem(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let mut gone = 0;
    for member in &w.words[2..] {
        gone += usize::from(remove(w, &key, member)?);
    }
    Ok(Reply::count(gone))
}

/// Whether it was there.
fn remove(w: &mut Writing<'_>, key: &Key, member: &Blob) -> Result<bool, Error> {
    let there = set(w.look(), key)?.is_some_and(|set| set.contains(member));
    if there {
        w.store.change(key, Change::SetRemove { member: member.clone() })?;
    }
    Ok(there)
}

pub(crate) fn smove(w: &mut Writing<'_>) -> Answer {
    let (from, to, member) = (w.key(1), w.key(2), &w.words[3]);
    let Some(source) = set(w.look(), &from)? else { return Ok(Reply::integer(0)) };
    let there = source.contains(member);
    set(w.look(), &to)?;
    if from == to || !there {
        return Ok(Reply::flag(there));
    }
    w.store.may_write(&from)?;
    w.store.may_write(&to)?;
    remove(w, &from, member)?;
    add(w, &to, member)?;
    Ok(Reply::integer(1))
}

pub(crate) fn scard(r: &mut Reading<'_>) -> Answer {
    Ok(number(set(r.look, &r.key(1))?.map_or(0, Set::len)))
}

pub(crate) fn sismember(r: &mut Reading<'_>) -> Answer {
    Ok(Reply::flag(set(r.look, &r.key(1))?.is_some_and(|set| set.contains(&r.words[2]))))
}

pub(crate) fn smismember(r: &mut Reading<'_>) -> Answer {
    let set = set(r.look, &r.key(1))?;
    let one = |member: &Blob| Reply::flag(set.is_some_and(|set| set.contains(member)));
    Ok(Reply::array(r.words[2..].iter().map(one).collect()))
}

pub(crate) fn smembers(r: &mut Reading<'_>) -> Answer {
    let set = set(r.look, &r.key(1))?;
    if r.leaves(set.map_or(0, Set::len), || set.map(Long::set)) {
        return Ok(Reply::Nil);
    }
    r.session.touch(set.map_or(0, Set::len))?;
    Ok(Reply::set(set.into_iter().flat_map(Set::iter).map(Reply::bulk).collect()))
}

pub(crate) fn sscan(r: &mut Reading<'_>) -> Answer {
    Scan::cursor(&r.words[2])?;
    let Some(set) = set(r.look, &r.key(1))? else { return Ok(Scan::reply(0, Vec::new())) };
    let scan = Scan::read(r.words, 2, &[])?;
    let (places, cursor) = scan.places(set.len());
    r.session.touch(places.end - places.start)?;
    let members = places.rev().filter_map(|place| set.at(place)).filter(|member| scan.shows(member));
    Ok(Scan::reply(cursor, members.map(Reply::bulk).collect()))
}

pub(crate) fn srandmember(r: &mut Reading<'_>) -> Answer {
    if r.words.len() > 3 {
        return Err(Error::syntax());
    }
    let count = r.words.get(2).map(|word| signed(word)).transpose()?;
    let set = set(r.look, &r.key(1))?;
    let mut dice = Dice::new(r.seed);
    match (count, set) {
        (None, None) => Ok(Reply::Nil),
        (None, Some(set)) => Ok(Reply::bulk_or_nil(set.at(dice.below(set.len())))),
        (Some(_), None) => Ok(Reply::array(Vec::new())),
        (Some(count), Some(set)) => {
            let places = picks(r, &mut dice, count, (set.len(), PICK))?;
            if r.leaves(places.len() as u64, || Some(Long::set(set).picked(places.clone()))) {
                return Ok(Reply::Nil);
            }
            Ok(Reply::array(places.into_iter().filter_map(|at| set.at(at)).map(Reply::bulk).collect()))
        }
    }
}

pub(crate) fn spop(w: &mut Writing<'_>) -> Answer {
    if w.words.len() > 3 {
        return Err(Error::syntax());
    }
    let count = w.words.get(2).map(|word| positive(word)).transpose()?;
    let key = w.key(1);
    let len = set(w.look(), &key)?.map_or(0, Set::len);
    match count {
        None if len == 0 => Ok(Reply::Nil),
        None => {
            let mut dice = Dice::new(w.store.random());
            Ok(Reply::bulk_or_nil(pop(w, &key, &mut dice)?))
        }
        Some(count) => {
            let count = count.min(len);
            w.session.touch(if count == len { len } else { count * (PICK + LOOKUP) })?;
            pop_some(w, &key, count, len)
        }
    }
}

fn pop_some(w: &mut Writing<'_>, key: &Key, count: u64, len: u64) -> Answer {
    let mut popped = Vec::new();
    if count == len {
        popped.extend(set(w.look(), key)?.into_iter().flat_map(Set::iter).map(Reply::bulk));
        w.store.delete(key)?;
        return Ok(Reply::set(popped));
    }
    let mut dice = Dice::new(w.store.random());
    for _ in 0..count {
        popped.extend(pop(w, key, &mut dice)?.map(Reply::bulk));
    }
    Ok(Reply::set(popped))
}

fn pop(w: &mut Writing<'_>, key: &Key, dice: &mut Dice) -> Result<Option<Blob>, Error> {
    let member = set(w.look(), key)?.and_then(|set| set.at(dice.below(set.len())));
    if let Some(member) = &member {
        w.store.change(key, Change::SetRemove { member: member.clone() })?;
    }
    Ok(member)
}

/// What is made of several sets.
#[derive(Clone, Copy)]
enum Combine {
    Inter,
    Union,
    Diff,
}

impl Combine {
    /// The members, at most `most` of them (0: all) for an intersection.
    fn of(self, look: &dyn Look, session: &mut Session, names: &[Blob], most: u64) -> Result<Set, Error> {
        // Every key is looked at before anything is answered, so that a wrong type is said even where another key is missing.
        let keys = names.iter().map(|name| set(look, &session.key(name)));
        let sets = keys.collect::<Result<Vec<_>, _>>()?;
        match self {
            Self::Inter => inter(&sets, session, most),
            Self::Union => union(&sets, session),
            Self::Diff => diff(&sets, session),
        }
    }
}

fn inter(sets: &[Option<&Set>], session: &mut Session, most: u64) -> Result<Set, Error> {
    let mut found = Set::new();
    let Some(mut sets) = sets.iter().copied().collect::<Option<Vec<_>>>() else { return Ok(found) };
    sets.sort_by_key(|set| set.len());
    let Some((smallest, others)) = sets.split_first() else { return Ok(found) };
    session.touch(smallest.len().saturating_mul(1 + LOOKUP * others.len() as u64))?;
    for member in smallest.iter() {
        if most != 0 && found.len() == most {
            break;
        }
        if others.iter().all(|other| other.contains(&member)) {
            found.insert(member);
        }
    }
    Ok(found)
}

fn union(sets: &[Option<&Set>], session: &mut Session) -> Result<Set, Error> {
    session.touch(sets.iter().flatten().map(|set| set.len() * LOOKUP).sum())?;
    let mut found = Set::new();
    for member in sets.iter().flatten().flat_map(|set| set.iter()) {
        found.insert(member);
    }
    Ok(found)
}

fn diff(sets: &[Option<&Set>], session: &mut Session) -> Result<Set, Error> {
    let mut found = Set::new();
    let Some((Some(first), others)) = sets.split_first() else { return Ok(found) };
    session.touch(first.len().saturating_mul(1 + LOOKUP * others.len() as u64))?;
    for member in first.iter() {
        if !others.iter().flatten().any(|other| other.contains(&member)) {
            found.insert(member);
        }
    }
    Ok(found)
}

fn answer(r: &mut Reading<'_>, combine: Combine) -> Answer {
    let found = combine.of(r.look, r.session, &r.words[1..], 0)?;
    Ok(Reply::set(found.iter().map(Reply::bulk).collect()))
}

fn store(w: &mut Writing<'_>, combine: Combine) -> Answer {
    let found = combine.of(&*w.store, w.session, &w.words[2..], 0)?;
    w.put_or_delete(&w.key(1), Value::Set(found))
}

pub(crate) fn sinter(r: &mut Reading<'_>) -> Answer {
    answer(r, Combine::Inter)
}

pub(crate) fn sunion(r: &mut Reading<'_>) -> Answer {
    answer(r, Combine::Union)
}

pub(crate) fn sdiff(r: &mut Reading<'_>) -> Answer {
    answer(r, Combine::Diff)
}

pub(crate) fn sinterstore(w: &mut Writing<'_>) -> Answer {
    store(w, Combine::Inter)
}

pub(crate) fn sunionstore(w: &mut Writing<'_>) -> Answer {
    store(w, Combine::Union)
}

pub(crate) fn sdiffstore(w: &mut Writing<'_>) -> Answer {
    store(w, Combine::Diff)
}

pub(crate) fn sintercard(r: &mut Reading<'_>) -> Answer {
    let (names, most) = card_words(r.words)?;
    let found = Combine::Inter.of(r.look, r.session, names, most)?;
    Ok(number(found.len()))
}

/// `numkeys key… [LIMIT n]` of SINTERCARD and ZINTERCARD.
pub(crate) fn card_words(words: &[Blob]) -> Result<(&[Blob], u64), Error> {
    let count =
        args::integer(&words[1]).and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let count = count.ok_or_else(|| Error::reply("ERR numkeys should be greater than 0"))?;
    let names = count.checked_add(2).and_then(|end| words.get(2..end));
    let names =
        names.ok_or_else(|| Error::reply("ERR Number of keys can't be greater than number of args"))?;
    let (mut most, mut rest) = (0, &words[2 + count..]);
    while let [switch, limit, others @ ..] = rest {
        if !is(switch, "LIMIT") {
            return Err(Error::syntax());
        }
        most = positive(limit).map_err(|_| Error::reply("ERR LIMIT can't be negative"))?;
        rest = others;
    }
    if rest.is_empty() { Ok((names, most)) } else { Err(Error::syntax()) }
}
