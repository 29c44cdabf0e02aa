//! Sorted sets: members in order of score, then of their bytes.
//!
//! Called by: `call`, through the table.

use crate::args::{self, int, is, next, positive, signed};
use crate::call::{LOOKUP, PICK, SORTED, number, sorted};
use crate::collections::{Change, Changed, Long, Sorted, Value};
use crate::dice::Dice;
use crate::hashes::picks;
use crate::keys::Scan;
use crate::lists::{pop_count, timeout};
use crate::{Error, Found, Look, Reading, Session, Writing};
use quorate_types::{Blob, Key, Reply, Score};

type Answer = Result<Reply, Error>;

fn double(value: Score) -> Reply {
    Reply::Double { value }
}

// Members and scores.

/// The switches of ZADD.
#[derive(Clone, Copy, Default)]
struct Add {
    only_new: bool,
    only_there: bool,
    greater: bool,
    lower: bool,
    changed: bool,
    incr: bool,
}

/// What came of one member.
enum Added {
    Skipped,
    New(Score),
    Moved(Score),
    Same(Score),
}

impl Add {
    fn read(words: &[Blob]) -> Result<(Self, &[Blob]), Error> {
        let mut add = Self::default();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            match () {
                () if is(word, "NX") => add.only_new = true,
                () if is(word, "XX") => add.only_there = true,
                () if is(word, "GT") => add.greater = true,
                () if is(word, "LT") => add.lower = true,
                () if is(word, "CH") => add.changed = true,
                () if is(word, "INCR") => add.incr = true,
                () => break,
            }
            at += 1;
        }
        let pairs = &words[at..];
        if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
            return Err(Error::syntax());
        }
        if add.only_new && add.only_there {
            return Err(Error::reply("ERR XX and NX options at the same time are not compatible"));
        }
        if add.greater && add.lower || add.only_new && (add.greater || add.lower) {
            return Err(Error::reply("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if add.incr && pairs.len() > 2 {
            return Err(Error::reply("ERR INCR option supports a single increment-element pair"));
        }
        Ok((add, pairs))
    }

    fn one(self, w: &mut Writing<'_>, key: &Key, member: &Blob, score: Score) -> Result<Added, Error> {
        let was = sorted(w.look(), key)?.and_then(|sorted| sorted.score(member));
        let Some(was) = was else {
            if self.only_there {
                return Ok(Added::Skipped);
            }
            set(w, key, member, score)?;
            return Ok(Added::New(score));
        };
        if self.only_new {
            return Ok(Added::Skipped);
        }
        let nan = || Error::reply("ERR resulting score is not a number (NaN)");
        let score = if self.incr { was.plus(score).ok_or_else(nan)? } else { score };
        if (self.greater && score <= was) || (self.lower && score >= was) {
            return Ok(Added::Skipped);
        }
        if score == was {
            return Ok(Added::Same(score));
        }
        set(w, key, member, score)?;
        Ok(Added::Moved(score))
    }
}

fn set(w: &mut Writing<'_>, key: &Key, member: &Blob, score: Score) -> Result<(), Error> {
    let change = Change::SortedSet { member: member.clone(), score };
    match w.store.change(key, change)? {
        Changed::Score(_) => Ok(()),
        other => unreachable!("setting a score answers with the one before, not {other:?}"),
    }
}

pub(crate) fn zadd(w: &mut Writing<'_>) -> Answer {
    let (add, pairs) = Add::read(&w.words[2..])?;
    let scores = pairs.iter().step_by(2).map(|word| args::score(word)).collect::<Result<Vec<_>, _>>()?;
    let key = w.key(1);
    sorted(w.look(), &key)?;
    let (mut new, mut moved, mut last) = (0, 0, Reply::Nil);
    for (pair, score) in pairs.chunks_exact(2).zip(scores) {
        match add.one(w, &key, &pair[1], score)? {
            Added::Skipped => {}
            Added::New(score) => (new, last) = (new + 1, double(score)),
            Added::Moved(score) => (moved, last) = (moved + 1, double(score)),
            Added::Same(score) => last = double(score),
        }
    }
    Ok(if add.incr { last } else { Reply::count(if add.changed { new + moved } else { new }) })
}

pub(crate) fn zincrby(w: &mut Writing<'_>) -> Answer {
    let by = args::score(&w.words[2])?;
    let add = Add { incr: true, ..Add::default() };
    match add.one(w, &w.key(1), &w.words[3], by)? {
        Added::New(score) | Added::Moved(score) | Added::Same(score) => Ok(double(score)),
        Added::Skipped => Ok(Reply::Nil),
    }
}

pub(crate) fn zrem(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    let mut gone = 0;
    for member in &w.words[2..] {
        if sorted(w.look(), &key)?.is_some_and(|sorted| sorted.score(member).is_some()) {
            w.store.change(&key, Change::SortedRemove { member: member.clone() })?;
            gone += 1;
        }
    }
    Ok(Reply::count(gone))
}

pub(crate) fn zcard(r: &mut Reading<'_>) -> Answer {
    Ok(number(sorted(r.look, &r.key(1))?.map_or(0, Sorted::len)))
}

pub(crate) fn zscore(r: &mut Reading<'_>) -> Answer {
    let score = sorted(r.look, &r.key(1))?.and_then(|sorted| sorted.score(&r.words[2]));
    Ok(score.map_or(Reply::Nil, double))
}

pub(crate) fn zmscore(r: &mut Reading<'_>) -> Answer {
    let sorted = sorted(r.look, &r.key(1))?;
    let one = |member: &Blob| sorted.and_then(|sorted| sorted.score(member)).map_or(Reply::Nil, double);
    Ok(Reply::array(r.words[2..].iter().map(one).collect()))
}

pub(crate) fn zrank(r: &mut Reading<'_>) -> Answer {
    rank(r, false, "zrank")
}

pub(crate) fn zrevrank(r: &mut Reading<'_>) -> Answer {
    rank(r, true, "zrevrank")
}

fn rank(r: &mut Reading<'_>, reverse: bool, command: &str) -> Answer {
    let with_score = match r.words.get(3) {
        None => false,
        Some(_) if r.words.len() > 4 => {
            return Err(Error::reply(format!("ERR wrong number of arguments for '{command}' command")));
        }
        Some(word) if is(word, "WITHSCORE") => true,
        Some(_) => return Err(Error::syntax()),
    };
    let found = sorted(r.look, &r.key(1))?.and_then(|sorted| {
        let rank = sorted.rank(&r.words[2])?;
        let rank = if reverse { sorted.len() - 1 - rank } else { rank };
        Some((rank, sorted.score(&r.words[2])?))
    });
    Ok(match found {
        Some((rank, score)) if with_score => Reply::array(vec![number(rank), double(score)]),
        Some((rank, _)) => number(rank),
        None if with_score => Reply::NilArray,
        None => Reply::Nil,
    })
}

// Ranges.

/// What a range is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// A range of members, lowest end first.
enum Span<'a> {
    Rank(i64, i64),
    Score((Score, bool), (Score, bool)),
    Lex(Edge<'a>, Edge<'a>),
}

/// An end of a range by bytes.
#[derive(Clone, Copy)]
enum Edge<'a> {
    First,
    Last,
    /// And whether the member itself is outside.
    At(&'a [u8], bool),
}

impl<'a> Span<'a> {
    fn read(by: By, low: &'a [u8], high: &'a [u8]) -> Result<Self, Error> {
        Ok(match by {
            By::Rank => Self::Rank(int(low)?, int(high)?),
            By::Score => Self::Score(score_edge(low)?, score_edge(high)?),
            By::Lex => Self::Lex(lex_edge(low)?, lex_edge(high)?),
        })
    }

    /// The ranks, half open; from the highest rank on when `reverse` and by rank.
    fn ranks(&self, sorted: &Sorted, reverse: bool) -> (u64, u64) {
        let len = sorted.len();
        let (from, to) = match *self {
            Self::Rank(low, high) => {
                let (from, to) = args::range(low, high, len);
                if reverse { (len - to, len - from) } else { (from, to) }
            }
            Self::Score((low, low_out), (high, high_out)) => {
                (sorted.rank_by_score(low, low_out), sorted.rank_by_score(high, !high_out))
            }
            Self::Lex(low, high) => {
                let rank = |edge, is_low: bool| match edge {
                    Edge::First => 0,
                    Edge::Last => len,
                    Edge::At(member, out) => sorted.rank_by_lex(member, out == is_low),
                };
                (rank(low, true), rank(high, false))
            }
        };
        (from.min(to), to)
    }
}

fn score_edge(word: &[u8]) -> Result<(Score, bool), Error> {
    let (text, outside) = match word {
        [b'(', rest @ ..] => (rest, true),
        _ => (word, false),
    };
    let score = Score::parse(text).ok_or_else(|| Error::reply("ERR min or max is not a float"))?;
    Ok((score, outside))
}

fn lex_edge(word: &[u8]) -> Result<Edge<'_>, Error> {
    match word {
        b"-" => Ok(Edge::First),
        b"+" => Ok(Edge::Last),
        [b'[', member @ ..] => Ok(Edge::At(member, false)),
        [b'(', member @ ..] => Ok(Edge::At(member, true)),
        _ => Err(Error::reply("ERR min or max not valid string range item")),
    }
}

/// What a ZRANGE command of any form asks for.
struct Range<'a> {
    span: Span<'a>,
    reverse: bool,
    with_scores: bool,
    offset: i64,
    limit: i64,
}

/// How a command's form leaves it open, or fixes it.
#[derive(Clone, Copy)]
struct Form {
    by: Option<By>,
    reverse: Option<bool>,
    store: bool,
}

impl<'a> Range<'a> {
    /// `words` begin with the two ends.
    fn read(words: &'a [Blob], form: Form) -> Result<Self, Error> {
        let (mut by, mut reverse) = (form.by, form.reverse);
        let (mut with_scores, mut limits) = (false, None);
        let mut at = 2;
        while let Some(word) = words.get(at) {
            match () {
                () if is(word, "WITHSCORES") && !form.store => with_scores = true,
                () if is(word, "LIMIT") => {
                    let offset = int(next(words, &mut at)?)?;
                    limits = Some((offset, int(next(words, &mut at)?)?));
                }
                () if is(word, "REV") && form.reverse.is_none() => reverse = Some(true),
                () if is(word, "BYSCORE") && form.by.is_none() => by = Some(By::Score),
                () if is(word, "BYLEX") && form.by.is_none() => by = Some(By::Lex),
                () => return Err(Error::syntax()),
            }
            at += 1;
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if limits.is_some_and(|(_, limit)| limit != -1) && by == By::Rank {
            return Err(Error::reply(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Lex {
            return Err(Error::reply("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        // By score and by bytes, the higher end comes first in a reverse range.
        let swapped = reverse && by != By::Rank;
        let (low, high) = if swapped { (&words[1], &words[0]) } else { (&words[0], &words[1]) };
        let (offset, limit) = limits.unwrap_or((0, -1));
        Ok(Self { span: Span::read(by, low, high)?, reverse, with_scores, offset, limit })
    }

    /// The members, in the order asked for.
    fn members(&self, sorted: &Sorted, session: &mut Session) -> Result<Vec<(Blob, Score)>, Error> {
        let (from, to) = self.ranks(sorted);
        session.touch(to - from)?;
        let members = sorted.range(from, to);
        Ok(if self.reverse { members.rev().collect() } else { members.collect() })
    }

    /// The ranks asked for, half open.
    fn ranks(&self, sorted: &Sorted) -> (u64, u64) {
        let (mut from, mut to) = self.span.ranks(sorted, self.reverse);
        let skip = u64::try_from(self.offset).unwrap_or(u64::MAX).min(to - from);
        let take = u64::try_from(self.limit).unwrap_or(u64::MAX).min(to - from - skip);
        if self.reverse {
            to -= skip;
            from = to - take;
        } else {
            from += skip;
            to = from + take;
        }
        (from, to)
    }
}

fn shown(members: impl IntoIterator<Item = (Blob, Score)>, with_scores: bool) -> Reply {
    if with_scores {
        return scored(members);
    }
    Reply::array(members.into_iter().map(|(member, _)| Reply::bulk(member)).collect())
}

fn scored(members: impl IntoIterator<Item = (Blob, Score)>) -> Reply {
    Reply::pairs(
        members.into_iter().flat_map(|(member, score)| [Reply::bulk(member), double(score)]).collect(),
    )
}

fn range(r: &mut Reading<'_>, by: Option<By>, reverse: Option<bool>) -> Answer {
    let range = Range::read(&r.words[2..], Form { by, reverse, store: false })?;
    let Some(sorted) = sorted(r.look, &r.key(1))? else { return Ok(Reply::array(Vec::new())) };
    let (from, to) = range.ranks(sorted);
    let long = || Some(Long::sorted(sorted, (from, to), range.reverse, range.with_scores));
    if r.leaves(to - from, long) {
        return Ok(Reply::Nil);
    }
    Ok(shown(range.members(sorted, r.session)?, range.with_scores))
}

pub(crate) fn zrange(r: &mut Reading<'_>) -> Answer {
    range(r, None, None)
}

pub(crate) fn zrevrange(r: &mut Reading<'_>) -> Answer {
    range(r, Some(By::Rank), Some(true))
}

pub(crate) fn zrangebyscore(r: &mut Reading<'_>) -> Answer {
    range(r, Some(By::Score), Some(false))
}

pub(crate) fn zrevrangebyscore(r: &mut Reading<'_>) -> Answer {
    range(r, Some(By::Score), Some(true))
}

pub(crate) fn zrangebylex(r: &mut Reading<'_>) -> Answer {
    range(r, Some(By::Lex), Some(false))
}

pub(crate) fn zrevrangebylex(r: &mut Reading<'_>) -> Answer {
    range(r, Some(By::Lex), Some(true))
}

pub(crate) fn zrangestore(w: &mut Writing<'_>) -> Answer {
    let range = Range::read(&w.words[3..], Form { by: None, reverse: None, store: true })?;
    let members = match sorted(&*w.store, &w.key(2))? {
        Some(sorted) => range.members(sorted, w.session)?,
        None => Vec::new(),
    };
    store(w, members)
}

fn store(w: &mut Writing<'_>, members: Vec<(Blob, Score)>) -> Answer {
    w.session.touch(members.len() as u64 * SORTED)?;
    let mut new = Sorted::new();
    for (member, score) in members {
        new.insert(member, score);
    }
    w.put_or_delete(&w.key(1), Value::Sorted(new))
}

pub(crate) fn zcount(r: &mut Reading<'_>) -> Answer {
    count(r, By::Score)
}

pub(crate) fn zlexcount(r: &mut Reading<'_>) -> Answer {
    count(r, By::Lex)
}

fn count(r: &mut Reading<'_>, by: By) -> Answer {
    let span = Span::read(by, &r.words[2], &r.words[3])?;
    let ranks = sorted(r.look, &r.key(1))?.map(|sorted| span.ranks(sorted, false));
    Ok(number(ranks.map_or(0, |(from, to)| to - from)))
}

pub(crate) fn zremrangebyrank(w: &mut Writing<'_>) -> Answer {
    remove_range(w, By::Rank)
}

pub(crate) fn zremrangebyscore(w: &mut Writing<'_>) -> Answer {
    remove_range(w, By::Score)
}

pub(crate) fn zremrangebylex(w: &mut Writing<'_>) -> Answer {
    remove_range(w, By::Lex)
}

fn remove_range(w: &mut Writing<'_>, by: By) -> Answer {
    let span = Span::read(by, &w.words[2], &w.words[3])?;
    let key = w.key(1);
    let Some(sorted) = sorted(&*w.store, &key)? else { return Ok(Reply::integer(0)) };
    let (from, to) = span.ranks(sorted, false);
    take(w, &key, from, to)?;
    Ok(number(to - from))
}

/// Takes the members of these ranks away.
fn take(w: &mut Writing<'_>, key: &Key, from: u64, to: u64) -> Result<Vec<(Blob, Score)>, Error> {
    let Some(sorted) = sorted(&*w.store, key)? else { return Ok(Vec::new()) };
    let all = to - from == sorted.len();
    w.session.touch((to - from) * if all { 1 } else { SORTED })?;
    let members: Vec<_> = sorted.range(from, to).collect();
    if all {
        w.store.delete(key)?;
        return Ok(members);
    }
    for (member, _) in &members {
        w.store.change(key, Change::SortedRemove { member: member.clone() })?;
    }
    Ok(members)
}

// Taking from the ends.

fn take_end(w: &mut Writing<'_>, key: &Key, highest: bool, count: u64) -> Result<Vec<(Blob, Score)>, Error> {
    let len = sorted(w.look(), key)?.map_or(0, Sorted::len);
    let count = count.min(len);
    if !highest {
        return take(w, key, 0, count);
    }
    let mut members = take(w, key, len - count, len)?;
    members.reverse();
    Ok(members)
}

pub(crate) fn zpopmin(w: &mut Writing<'_>) -> Answer {
    pop(w, false)
}

pub(crate) fn zpopmax(w: &mut Writing<'_>) -> Answer {
    pop(w, true)
}

fn pop(w: &mut Writing<'_>, highest: bool) -> Answer {
    if w.words.len() > 3 {
        return Err(Error::syntax());
    }
    let count = w.words.get(2).map(|word| positive(word)).transpose()?;
    let members = take_end(w, &w.key(1), highest, count.unwrap_or(1))?;
    if count.is_some() {
        return Ok(scored(members));
    }
    Ok(Reply::array(members.into_iter().flat_map(|(m, s)| [Reply::bulk(m), double(s)]).collect()))
}

pub(crate) fn bzpopmin(w: &mut Writing<'_>) -> Answer {
    pop_first(w, false)
}

pub(crate) fn bzpopmax(w: &mut Writing<'_>) -> Answer {
    pop_first(w, true)
}

fn pop_first(w: &mut Writing<'_>, highest: bool) -> Answer {
    let last = w.words.len() - 1;
    timeout(&w.words[last])?;
    for name in &w.words[1..last] {
        let key = w.session.key(name);
        if let Some((member, score)) = take_end(w, &key, highest, 1)?.pop() {
            return Ok(Reply::array(vec![Reply::bulk(name.clone()), Reply::bulk(member), double(score)]));
        }
    }
    Ok(Reply::NilArray)
}

pub(crate) fn zmpop(w: &mut Writing<'_>) -> Answer {
    pop_many(w, 1)
}

pub(crate) fn bzmpop(w: &mut Writing<'_>) -> Answer {
    timeout(&w.words[1])?;
    pop_many(w, 2)
}

fn pop_many(w: &mut Writing<'_>, at: usize) -> Answer {
    let (names, at) = args::counted(w.words, at, "ERR numkeys should be greater than 0")?;
    let highest = match w.words.get(at) {
        Some(word) if is(word, "MIN") => false,
        Some(word) if is(word, "MAX") => true,
        _ => return Err(Error::syntax()),
    };
    let count = pop_count(&w.words[at + 1..])?;
    for name in names {
        let key = w.session.key(name);
        let taken = take_end(w, &key, highest, count)?;
        if !taken.is_empty() {
            let pairs = taken.into_iter().map(|(m, s)| Reply::array(vec![Reply::bulk(m), double(s)]));
            return Ok(Reply::array(vec![Reply::bulk(name.clone()), Reply::array(pairs.collect())]));
        }
    }
    Ok(Reply::NilArray)
}

// Random members and scanning.

pub(crate) fn zrandmember(r: &mut Reading<'_>) -> Answer {
    let mut dice = Dice::new(r.seed);
    let Some(count) = r.words.get(2) else {
        let sorted = sorted(r.look, &r.key(1))?;
        let member = sorted.and_then(|sorted| sorted.at(dice.below(sorted.len())));
        return Ok(Reply::bulk_or_nil(member.map(|(member, _)| member)));
    };
    let count = signed(count)?;
    let with_scores = match r.words.get(3) {
        None => false,
        Some(word) if is(word, "WITHSCORES") && r.words.len() == 4 => true,
        Some(_) => return Err(Error::syntax()),
    };
    if with_scores && count.unsigned_abs() > u64::MAX / 4 {
        return Err(Error::reply("ERR value is out of range"));
    }
    let Some(sorted) = sorted(r.look, &r.key(1))? else { return Ok(Reply::array(Vec::new())) };
    let places = picks(r, &mut dice, count, (sorted.len(), PICK))?;
    let long = || Long::sorted(sorted, (0, 0), false, with_scores).picked(places.clone());
    if r.leaves(places.len() as u64, || Some(long())) {
        return Ok(Reply::Nil);
    }
    Ok(shown(places.into_iter().filter_map(|rank| sorted.at(rank)), with_scores))
}

pub(crate) fn zscan(r: &mut Reading<'_>) -> Answer {
    Scan::cursor(&r.words[2])?;
    let Some(sorted) = sorted(r.look, &r.key(1))? else { return Ok(Scan::reply(0, Vec::new())) };
    let scan = Scan::read(r.words, 2, &[])?;
    let whole = scan.is_whole(sorted.len());
    r.session.touch(if whole { sorted.len() } else { scan.count })?;
    let (members, cursor) =
        if whole { (sorted.iter().collect(), 0) } else { sorted.scan(scan.cursor, scan.count) };
    let shown = members.into_iter().filter(|(member, _)| scan.shows(member));
    let items = shown.flat_map(|(m, s)| [Reply::bulk(m), Reply::bulk(s.to_string())]);
    Ok(Scan::reply(cursor, items.collect()))
}

// Several sets at once.

/// What is made of several sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Combine {
    Union,
    Inter,
    Diff,
}

/// What becomes of the scores of one member.
#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: Score, b: Score) -> Score {
        match self {
            // ∞ − ∞ counts as 0, as Redis has it.
            Self::Sum => a.plus(b).unwrap_or_default(),
            Self::Min => a.min(b),
            Self::Max => a.max(b),
        }
    }
}

/// A set or sorted set as the source of a combination.
#[derive(Clone, Copy)]
struct Source<'a> {
    found: Option<Found<'a>>,
    weight: Score,
}

impl<'a> Source<'a> {
    fn len(&self) -> u64 {
        match self.found {
            Some(Found::Set(set)) => set.len(),
            Some(Found::Sorted(sorted)) => sorted.len(),
            _ => 0,
        }
    }

    /// The score, without its weight; 1 for a member of a plain set.
    fn score(&self, member: &[u8]) -> Option<Score> {
        match self.found {
            Some(Found::Set(set)) => set.contains(member).then(|| Score::from_i64(1)),
            Some(Found::Sorted(sorted)) => sorted.score(member),
            _ => None,
        }
    }

    /// The members with their weighted scores; 0 × ∞ counts as 0.
    fn iter(&self) -> Box<dyn Iterator<Item = (Blob, Score)> + 'a> {
        let weight = self.weight;
        let weighted = move |score: Score| score.times(weight).unwrap_or_default();
        match self.found {
            Some(Found::Set(set)) => {
                Box::new(set.iter().map(move |member| (member, weighted(Score::from_i64(1)))))
            }
            Some(Found::Sorted(sorted)) => {
                Box::new(sorted.iter().map(move |(m, score)| (m, weighted(score))))
            }
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// The form of a combination's command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Answer,
    Store,
    Card,
}

/// A combination, read from its words.
struct Combination<'a> {
    sources: Vec<Source<'a>>,
    combine: Combine,
    aggregate: Aggregate,
    with_scores: bool,
    most: u64,
}

impl<'a> Combination<'a> {
    /// `at`: where the number of keys is.
    fn read(
        look: &'a dyn Look,
        session: &Session,
        words: &[Blob],
        at: usize,
        (combine, shape): (Combine, Shape),
    ) -> Result<Self, Error> {
        let count = int(&words[at])?;
        if count < 1 {
            let name = String::from_utf8_lossy(&words[0]).to_lowercase();
            return Err(Error::reply(format!("ERR at least 1 input key is needed for '{name}' command")));
        }
        let end = usize::try_from(count).ok().and_then(|count| count.checked_add(at + 1));
        let end = end.filter(|end| *end <= words.len()).ok_or_else(Error::syntax)?;
        let one = Score::from_i64(1);
        let sources = words[at + 1..end].iter().map(|name| match look.find(&session.key(name)) {
            None => Ok(Source { found: None, weight: one }),
            Some(found @ (Found::Set(_) | Found::Sorted(_))) => {
                Ok(Source { found: Some(found), weight: one })
            }
            Some(_) => Err(Error::wrong_type()),
        });
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let mut read = Self { sources, combine, aggregate: Aggregate::Sum, with_scores: false, most: 0 };
        read.switches(&words[end..], shape)?;
        Ok(read)
    }

    fn switches(&mut self, words: &[Blob], shape: Shape) -> Result<(), Error> {
        let weighable = self.combine != Combine::Diff && shape != Shape::Card;
        let mut at = 0;
        while let Some(word) = words.get(at) {
            match () {
                () if is(word, "WEIGHTS") && weighable => {
                    for source in &mut self.sources {
                        let weight = Score::parse(next(words, &mut at)?);
                        source.weight =
                            weight.ok_or_else(|| Error::reply("ERR weight value is not a float"))?;
                    }
                }
                () if is(word, "AGGREGATE") && weighable => {
                    let how = next(words, &mut at)?;
                    self.aggregate = match () {
                        () if is(how, "SUM") => Aggregate::Sum,
                        () if is(how, "MIN") => Aggregate::Min,
                        () if is(how, "MAX") => Aggregate::Max,
                        () => return Err(Error::syntax()),
                    };
                }
                () if is(word, "WITHSCORES") && shape == Shape::Answer => self.with_scores = true,
                () if is(word, "LIMIT") && shape == Shape::Card => {
                    let most = positive(next(words, &mut at)?);
                    self.most = most.map_err(|_| Error::reply("ERR LIMIT can't be negative"))?;
                }
                () => return Err(Error::syntax()),
            }
            at += 1;
        }
        Ok(())
    }

    fn run(mut self, session: &mut Session) -> Result<Sorted, Error> {
        match self.combine {
            Combine::Union => self.union(session),
            Combine::Inter => {
                self.sources.sort_by_key(Source::len);
                self.inter(session)
            }
            Combine::Diff => self.diff(session),
        }
    }

    fn union(&self, session: &mut Session) -> Result<Sorted, Error> {
        session.touch(self.sources.iter().map(|source| source.len() * SORTED).sum())?;
        let mut found = Sorted::new();
        for (member, score) in self.sources.iter().flat_map(Source::iter) {
            let score = found.score(&member).map_or(score, |other| self.aggregate.of(other, score));
            found.insert(member, score);
        }
        Ok(found)
    }

    fn inter(&self, session: &mut Session) -> Result<Sorted, Error> {
        let mut found = Sorted::new();
        let Some((smallest, others)) = self.sources.split_first() else { return Ok(found) };
        session.touch(smallest.len().saturating_mul(SORTED + LOOKUP * others.len() as u64))?;
        for (member, score) in smallest.iter() {
            if self.most != 0 && found.len() == self.most {
                break;
            }
            let all = others.iter().try_fold(score, |sum, other| {
                let score = other.score(&member)?;
                Some(match score.times(other.weight) {
                    Some(score) => self.aggregate.of(sum, score),
                    // 0 × ∞ is no number: it makes a sum 0, and is neither the lowest nor the highest. As Redis has it.
                    None if matches!(self.aggregate, Aggregate::Sum) => Score::default(),
                    None => sum,
                })
            });
            if let Some(score) = all {
                found.insert(member, score);
            }
        }
        Ok(found)
    }

    fn diff(&self, session: &mut Session) -> Result<Sorted, Error> {
        let mut found = Sorted::new();
        let Some((first, others)) = self.sources.split_first() else { return Ok(found) };
        session.touch(first.len().saturating_mul(SORTED + LOOKUP * others.len() as u64))?;
        for (member, score) in first.iter() {
            if !others.iter().any(|other| other.score(&member).is_some()) {
                found.insert(member, score);
            }
        }
        Ok(found)
    }
}

fn combined(r: &mut Reading<'_>, combine: Combine) -> Answer {
    let read = Combination::read(r.look, r.session, r.words, 1, (combine, Shape::Answer))?;
    let with_scores = read.with_scores;
    let found = read.run(r.session)?;
    Ok(shown(found.iter(), with_scores))
}

fn combined_store(w: &mut Writing<'_>, combine: Combine) -> Answer {
    let read = Combination::read(&*w.store, w.session, w.words, 2, (combine, Shape::Store))?;
    let found = read.run(w.session)?;
    w.put_or_delete(&w.key(1), Value::Sorted(found))
}

pub(crate) fn zunion(r: &mut Reading<'_>) -> Answer {
    combined(r, Combine::Union)
}

pub(crate) fn zinter(r: &mut Reading<'_>) -> Answer {
    combined(r, Combine::Inter)
}

pub(crate) fn zdiff(r: &mut Reading<'_>) -> Answer {
    combined(r, Combine::Diff)
}

pub(crate) fn zunionstore(w: &mut Writing<'_>) -> Answer {
    combined_store(w, Combine::Union)
}

pub(crate) fn zinterstore(w: &mut Writing<'_>) -> Answer {
    combined_store(w, Combine::Inter)
}

pub(crate) fn zdiffstore(w: &mut Writing<'_>) -> Answer {
    combined_store(w, Combine::Diff)
}

pub(crate) fn zintercard(r: &mut Reading<'_>) -> Answer {
    let read = Combination::read(r.look, r.session, r.words, 1, (Combine::Inter, Shape::Card))?;
    Ok(number(read.run(r.session)?.len()))
}
