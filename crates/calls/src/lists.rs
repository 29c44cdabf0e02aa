//! Lists: queues from both ends. What may block tries once here; waiting is the gateway's.
//!
//! Invariant: a search stops at the budget of elements, before anything has changed.
//! Called by: `call`, through the table; `table`, for timeouts.

use crate::args::{self, int, is, next, positive};
use crate::call::{LOOKUP, TOUCH_MAX, list, number};
use crate::collections::{Change, List, Long, Value};
use crate::decimal::{Decimal, Parsed};
use crate::{Error, Reading, Session, Writing};
use quorate_types::{Blob, Key, Millis, Reply};

type Answer = Result<Reply, Error>;

/// How long a command that may block waits: seconds with a fraction, 0 for ever.
pub(crate) fn timeout(word: &[u8]) -> Result<Millis, Error> {
    match Decimal::parse(word) {
        Parsed::Finite(seconds) if seconds.is_negative() => Err(Error::reply("ERR timeout is negative")),
        Parsed::Finite(seconds) => {
            seconds.millis().ok_or_else(|| Error::reply("ERR timeout is out of range"))
        }
        Parsed::Infinite | Parsed::Nothing => Err(Error::reply("ERR timeout is not a float or out of range")),
    }
}

/// An end of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Head,
    Tail,
}

impl End {
    fn read(word: &[u8]) -> Result<Self, Error> {
        match () {
            () if is(word, "LEFT") => Ok(Self::Head),
            () if is(word, "RIGHT") => Ok(Self::Tail),
            () => Err(Error::syntax()),
        }
    }

    /// Where a new element goes, in a list this long.
    fn to(self, len: u64) -> u64 {
        if self == Self::Head { 0 } else { len }
    }

    /// Where the element at this end is; the list has one at least.
    fn from(self, len: u64) -> u64 {
        if self == Self::Head { 0 } else { len - 1 }
    }
}

fn len(w: &Writing<'_>, key: &Key) -> Result<u64, Error> {
    Ok(list(w.look(), key)?.map_or(0, List::len))
}

pub(crate) fn lpush(w: &mut Writing<'_>) -> Answer {
    push(w, End::Head, false)
}

pub(crate) fn rpush(w: &mut Writing<'_>) -> Answer {
    push(w, End::Tail, false)
}

pub(crate) fn lpushx(w: &mut Writing<'_>) -> Answer {
    push(w, End::Head, true)
}

pub(crate) fn rpushx(w: &mut Writing<'_>) -> Answer {
    push(w, End::Tail, true)
}

fn push(w: &mut Writing<'_>, end: End, only_there: bool) -> Answer {
    let key = w.key(1);
    let mut len = len(w, &key)?;
    if only_there && len == 0 {
        return Ok(Reply::integer(0));
    }
    for value in &w.words[2..] {
        w.store.change(&key, Change::ListInsert { at: end.to(len), value: value.clone() })?;
        len += 1;
    }
    Ok(number(len))
}

pub(crate) fn lpop(w: &mut Writing<'_>) -> Answer {
    pop(w, End::Head, "lpop")
}

pub(crate) fn rpop(w: &mut Writing<'_>) -> Answer {
    pop(w, End::Tail, "rpop")
}

fn pop(w: &mut Writing<'_>, end: End, command: &str) -> Answer {
    if w.words.len() > 3 {
        return Err(Error::reply(format!("ERR wrong number of arguments for '{command}' command")));
    }
    let count = w.words.get(2).map(|word| positive(word)).transpose()?;
    let key = w.key(1);
    let len = len(w, &key)?;
    match count {
        None if len == 0 => Ok(Reply::Nil),
        None => Ok(Reply::bulk_or_nil(take(w, &key, end, len)?)),
        Some(_) if len == 0 => Ok(Reply::NilArray),
        Some(count) => Ok(Reply::array(take_some(w, &key, end, len, count)?)),
    }
}

/// Takes the element at an end; the list has `len`, which is not 0.
fn take(w: &mut Writing<'_>, key: &Key, end: End, len: u64) -> Result<Option<Blob>, Error> {
    let at = end.from(len);
    let value = list(w.look(), key)?.and_then(|list| list.get(at));
    w.store.change(key, Change::ListRemove { at })?;
    Ok(value)
}

fn take_some(w: &mut Writing<'_>, key: &Key, end: End, len: u64, count: u64) -> Result<Vec<Reply>, Error> {
    let count = count.min(len);
    w.session.touch(count)?;
    let mut taken = Vec::with_capacity(usize::try_from(count).expect("a command's budget fits memory"));
    if count == len {
        // All of them: the key goes at once.
        let list = list(w.look(), key)?;
        taken.extend(list.into_iter().flat_map(List::iter).map(Reply::bulk));
        if end == End::Tail {
            taken.reverse();
        }
        w.store.delete(key)?;
        return Ok(taken);
    }
    for gone in 0..count {
        taken.push(Reply::bulk_or_nil(take(w, key, end, len - gone)?));
    }
    Ok(taken)
}

pub(crate) fn blpop(w: &mut Writing<'_>) -> Answer {
    pop_first(w, End::Head)
}

pub(crate) fn brpop(w: &mut Writing<'_>) -> Answer {
    pop_first(w, End::Tail)
}

/// Pops from the first key that has something.
fn pop_first(w: &mut Writing<'_>, end: End) -> Answer {
    let last = w.words.len() - 1;
    timeout(&w.words[last])?;
    for name in &w.words[1..last] {
        let key = w.session.key(name);
        let len = len(w, &key)?;
        if len > 0 {
            let value = take(w, &key, end, len)?;
            return Ok(Reply::array(vec![Reply::bulk(name.clone()), Reply::bulk_or_nil(value)]));
        }
    }
    Ok(Reply::NilArray)
}

pub(crate) fn lmpop(w: &mut Writing<'_>) -> Answer {
    pop_many(w, 1)
}

pub(crate) fn blmpop(w: &mut Writing<'_>) -> Answer {
    timeout(&w.words[1])?;
    pop_many(w, 2)
}

fn pop_many(w: &mut Writing<'_>, at: usize) -> Answer {
    let (names, at) = args::counted(w.words, at, "ERR numkeys should be greater than 0")?;
    let end = End::read(w.words.get(at).ok_or_else(Error::syntax)?)?;
    let count = pop_count(&w.words[at + 1..])?;
    for name in names {
        let key = w.session.key(name);
        let len = len(w, &key)?;
        if len > 0 {
            let taken = take_some(w, &key, end, len, count)?;
            return Ok(Reply::array(vec![Reply::bulk(name.clone()), Reply::array(taken)]));
        }
    }
    Ok(Reply::NilArray)
}

/// `[COUNT n]` of LMPOP and ZMPOP.
pub(crate) fn pop_count(words: &[Blob]) -> Result<u64, Error> {
    match words {
        [] => Ok(1),
        [switch, count, rest @ ..] if is(switch, "COUNT") => {
            let count = positive(count).ok().filter(|count| *count > 0);
            let count = count.ok_or_else(|| Error::reply("ERR count should be greater than 0"))?;
            if rest.is_empty() { Ok(count) } else { Err(Error::syntax()) }
        }
        _ => Err(Error::syntax()),
    }
}

pub(crate) fn lmove(w: &mut Writing<'_>) -> Answer {
    let (from, to) = (End::read(&w.words[3])?, End::read(&w.words[4])?);
    move_one(w, from, to)
}

pub(crate) fn blmove(w: &mut Writing<'_>) -> Answer {
    let (from, to) = (End::read(&w.words[3])?, End::read(&w.words[4])?);
    timeout(&w.words[5])?;
    move_one(w, from, to)
}

pub(crate) fn rpoplpush(w: &mut Writing<'_>) -> Answer {
    move_one(w, End::Tail, End::Head)
}

pub(crate) fn brpoplpush(w: &mut Writing<'_>) -> Answer {
    timeout(&w.words[3])?;
    move_one(w, End::Tail, End::Head)
}

fn move_one(w: &mut Writing<'_>, from: End, to: End) -> Answer {
    let (source, target) = (w.key(1), w.key(2));
    let source_len = len(w, &source)?;
    if source_len == 0 {
        return Ok(Reply::Nil);
    }
    let mut target_len = len(w, &target)?;
    w.store.may_write(&source)?;
    w.store.may_write(&target)?;
    if source == target {
        if from == to || source_len == 1 {
            return Ok(Reply::bulk_or_nil(
                list(w.look(), &source)?.and_then(|list| list.get(from.from(source_len))),
            ));
        }
        target_len -= 1;
    }
    let value =
        take(w, &source, from, source_len)?.expect("a list that is not empty has an element at each end");
    w.store.change(&target, Change::ListInsert { at: to.to(target_len), value: value.clone() })?;
    Ok(Reply::bulk(value))
}

pub(crate) fn llen(r: &mut Reading<'_>) -> Answer {
    Ok(number(list(r.look, &r.key(1))?.map_or(0, List::len)))
}

pub(crate) fn lindex(r: &mut Reading<'_>) -> Answer {
    let list = list(r.look, &r.key(1))?;
    let Some(list) = list else { return Ok(Reply::Nil) };
    let at = args::from_end(int(&r.words[2])?, list.len());
    Ok(Reply::bulk_or_nil(u64::try_from(at).ok().and_then(|at| list.get(at))))
}

pub(crate) fn lrange(r: &mut Reading<'_>) -> Answer {
    let (start, end) = (int(&r.words[2])?, int(&r.words[3])?);
    let Some(list) = list(r.look, &r.key(1))? else { return Ok(Reply::array(Vec::new())) };
    let (from, to) = args::range(start, end, list.len());
    if r.leaves(to - from, || Some(Long::list(list, from, to))) {
        return Ok(Reply::Nil);
    }
    r.session.touch(to - from)?;
    Ok(Reply::array(list.range(from, to).map(Reply::bulk).collect()))
}

pub(crate) fn lset(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let Some(list) = list(w.look(), &key)? else { return Err(Error::reply("ERR no such key")) };
    let at = args::from_end(int(&w.words[2])?, list.len());
    let at = u64::try_from(at).ok().filter(|at| *at < list.len());
    let at = at.ok_or_else(|| Error::reply("ERR index out of range"))?;
    w.store.change(&key, Change::ListSet { at, value: w.words[3].clone() })?;
    Ok(Reply::ok())
}

pub(crate) fn ltrim(w: &mut Writing<'_>) -> Answer {
    let (start, end) = (int(&w.words[2])?, int(&w.words[3])?);
    let key = w.key(1);
    let Some(list) = list(&*w.store, &key)? else { return Ok(Reply::ok()) };
    let len = list.len();
    let (from, to) = args::range(start, end, len);
    let (kept, gone) = (to - from, len - (to - from));
    if kept == 0 {
        w.store.delete(&key)?;
    } else if kept < gone {
        // What stays is the smaller part: it is built anew.
        w.session.touch(kept)?;
        let mut new = List::new();
        list.range(from, to).for_each(|value| new.push_back(value));
        w.put_keeping(&key, Value::List(new))?;
    } else {
        w.session.touch(gone)?;
        for at in (to..len).rev() {
            w.store.change(&key, Change::ListRemove { at })?;
        }
        for _ in 0..from {
            w.store.change(&key, Change::ListRemove { at: 0 })?;
        }
    }
    Ok(Reply::ok())
}

/// Places of the elements that equal a value, from the head or the tail, up to a number of them (0: all), looking at `looks` elements (0: all).
struct Search<'a> {
    value: &'a [u8],
    backwards: bool,
    skip: u64,
    most: u64,
    looks: u64,
}

impl Search<'_> {
    fn run(&self, list: &List, session: &mut Session) -> Result<Vec<u64>, Error> {
        let looks = if self.looks == 0 { list.len() } else { self.looks.min(list.len()) };
        let (mut seen, mut skipped, mut found) = (0_u64, 0, Vec::new());
        let mut values: Box<dyn Iterator<Item = Blob>> =
            if self.backwards { Box::new(list.iter().rev()) } else { Box::new(list.iter()) };
        while seen < looks && (self.most == 0 || (found.len() as u64) < self.most) {
            if seen == TOUCH_MAX {
                return Err(session.touch(list.len()).err().unwrap_or_else(Error::syntax));
            }
            let Some(value) = values.next() else { break };
            if *value == *self.value {
                if skipped < self.skip {
                    skipped += 1;
                } else {
                    found.push(if self.backwards { list.len() - 1 - seen } else { seen });
                }
            }
            seen += 1;
        }
        drop(values);
        session.touch(seen)?;
        Ok(found)
    }
}

pub(crate) fn lrem(w: &mut Writing<'_>) -> Answer {
    let count = args::signed(&w.words[2])?;
    let key = w.key(1);
    let Some(list) = list(&*w.store, &key)? else { return Ok(Reply::integer(0)) };
    let value = &w.words[3];
    let search = Search { value, backwards: count < 0, skip: 0, most: count.unsigned_abs(), looks: 0 };
    let mut places = search.run(list, w.session)?;
    w.session.touch(places.len() as u64 * LOOKUP)?;
    // From the tail on, so that the other places stay what they are.
    places.sort_unstable();
    for at in places.iter().rev() {
        w.store.change(&key, Change::ListRemove { at: *at })?;
    }
    Ok(Reply::count(places.len()))
}

pub(crate) fn linsert(w: &mut Writing<'_>) -> Answer {
    let after = match () {
        () if is(&w.words[2], "AFTER") => 1,
        () if is(&w.words[2], "BEFORE") => 0,
        () => return Err(Error::syntax()),
    };
    let key = w.key(1);
    let Some(list) = list(&*w.store, &key)? else { return Ok(Reply::integer(0)) };
    let search = Search { value: &w.words[3], backwards: false, skip: 0, most: 1, looks: 0 };
    let len = list.len();
    match search.run(list, w.session)?.first() {
        None => Ok(Reply::integer(-1)),
        Some(place) => {
            w.store.change(&key, Change::ListInsert { at: place + after, value: w.words[4].clone() })?;
            Ok(number(len + 1))
        }
    }
}

pub(crate) fn lpos(r: &mut Reading<'_>) -> Answer {
    let mut search = Search { value: &r.words[2], backwards: false, skip: 0, most: 1, looks: 0 };
    let (mut many, mut at) = (false, 3);
    while let Some(word) = r.words.get(at) {
        let value = next(r.words, &mut at)?;
        match () {
            () if is(word, "RANK") => {
                let rank = args::signed(value)?;
                if rank == 0 {
                    return Err(Error::reply(
                        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
                         or use negative to start from the end of the list",
                    ));
                }
                search.backwards = rank < 0;
                search.skip = rank.unsigned_abs() - 1;
            }
            () if is(word, "COUNT") => {
                search.most = positive(value).map_err(|_| Error::reply("ERR COUNT can't be negative"))?;
                many = true;
            }
            () if is(word, "MAXLEN") => {
                search.looks = positive(value).map_err(|_| Error::reply("ERR MAXLEN can't be negative"))?;
            }
            () => return Err(Error::syntax()),
        }
        at += 1;
    }
    let places = match list(r.look, &r.key(1))? {
        Some(list) => search.run(list, r.session)?,
        None => Vec::new(),
    };
    let mut places = places.into_iter().map(number);
    Ok(if many { Reply::array(places.collect()) } else { places.next().unwrap_or(Reply::Nil) })
}
