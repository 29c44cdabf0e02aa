//! Places: members of sorted sets whose scores are where they lie.
//!
//! Source: the Redis 8.2 documentation of the GEO commands, and the behaviour of such a server.
//! Invariant: a search looks at the members of nine ranges of scores at most, and says how many those are before it looks at one.
//! Invariant: what STORE names is written once the search is over; one that fails has changed nothing.
//! Called by: `call`, through the table.

use crate::args::{int, is, next, score};
use crate::call::sorted;
use crate::collections::{Sorted, Value};
use crate::{Error, Look, Reading, Session, Writing};
use quorate_types::geo::{Area, Point, Unit};
use quorate_types::{Blob, Key, Reply, Score};

type Answer = Result<Reply, Error>;

/// What it costs to find a member and its place.
const PLACE: u64 = 2;

fn unit(word: &[u8]) -> Result<Unit, Error> {
    Unit::named(word).ok_or_else(|| Error::reply("ERR unsupported unit provided. please use M, KM, FT, MI"))
}

/// A longitude, then a latitude.
fn point(words: &[Blob]) -> Result<Point, Error> {
    let (longitude, latitude) = (score(&words[0])?, score(&words[1])?);
    Point::new(longitude, latitude).ok_or_else(|| {
        let shown = [longitude, latitude].map(|part| part.fixed(6));
        Error::reply(format!("ERR invalid longitude,latitude pair {},{}", shown[0], shown[1]))
    })
}

/// A size in a unit.
fn size(word: &[u8], what: &'static str) -> Result<Score, Error> {
    score(word).map_err(|_| Error::reply(format!("ERR need numeric {what}")))
}

pub(crate) fn geoadd(w: &mut Writing<'_>) -> Answer {
    let mut at = 2;
    let (mut if_absent, mut if_there) = (false, false);
    while let Some(word) = w.words.get(at) {
        match () {
            () if is(word, "NX") => if_absent = true,
            () if is(word, "XX") => if_there = true,
            () if is(word, "CH") => {}
            () => break,
        }
        at += 1;
    }
    let places = &w.words[at..];
    if !places.len().is_multiple_of(3) || (if_absent && if_there) {
        return Err(Error::syntax());
    }
    let mut words = vec![Blob::from("zadd")];
    words.extend_from_slice(&w.words[1..at]);
    for place in places.chunks_exact(3) {
        words.extend([point(place)?.score().to_string().into(), place[2].clone()]);
    }
    let Writing { store, interpreter, session, .. } = w;
    crate::sorted::zadd(&mut Writing { store: *store, interpreter: *interpreter, session, words: &words })
}

/// The place of a member.
fn place(sorted: Option<&Sorted>, member: &[u8]) -> Option<Point> {
    Some(Point::of_score(sorted?.score(member)?))
}

fn coordinates(point: Point) -> Reply {
    let double = |value| Reply::Double { value };
    Reply::array(vec![double(point.longitude()), double(point.latitude())])
}

pub(crate) fn geopos(r: &mut Reading<'_>) -> Answer {
    let sorted = sorted(r.look, &r.key(1))?;
    let one = |member: &Blob| place(sorted, member).map_or(Reply::NilArray, coordinates);
    Ok(Reply::array(r.words[2..].iter().map(one).collect()))
}

pub(crate) fn geohash(r: &mut Reading<'_>) -> Answer {
    let sorted = sorted(r.look, &r.key(1))?;
    let one =
        |member: &Blob| Reply::bulk_or_nil(place(sorted, member).map(|found| Blob::from(found.geohash())));
    Ok(Reply::array(r.words[2..].iter().map(one).collect()))
}

pub(crate) fn geodist(r: &mut Reading<'_>) -> Answer {
    let unit = match &r.words[4..] {
        [] => Unit::Meters,
        [word] => unit(word)?,
        _ => return Err(Error::syntax()),
    };
    let sorted = sorted(r.look, &r.key(1))?;
    let (one, other) = (place(sorted, &r.words[2]), place(sorted, &r.words[3]));
    let distance = one.zip(other).map(|(one, other)| unit.of(one.distance(other)));
    Ok(Reply::bulk_or_nil(distance.map(|distance| Blob::from(distance.fixed(4)))))
}

/// Which form of search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// GEOSEARCH, and whether it stores.
    Search { store: bool },
    /// GEORADIUS, around a place or a member, and whether it may store.
    Radius { member: bool, store: bool },
}

/// What a search asks for.
struct Asked<'a> {
    /// Nothing when it is around a member of a key that is not there.
    area: Option<Area>,
    unit: Unit,
    with: [bool; 3],
    /// Farthest first, if in order at all.
    order: Option<bool>,
    count: Option<u64>,
    any: bool,
    store: Option<&'a Blob>,
    by_distance: bool,
}

/// A member that was found, how far it is in the unit asked for, and its score.
struct Near {
    member: Blob,
    distance: Score,
    score: Score,
    point: Point,
}

/// Where a search begins, until both halves of its area are known.
#[derive(Clone, Copy)]
enum Shape {
    Circle(Score),
    Box(Score, Score),
}

fn member_place(sorted: Option<&Sorted>, member: &[u8]) -> Result<Option<Point>, Error> {
    match (sorted, place(sorted, member)) {
        (Some(_), None) => Err(Error::reply("ERR could not decode requested zset member")),
        (_, found) => Ok(found),
    }
}

fn radius(words: &[Blob]) -> Result<(Shape, Unit), Error> {
    let radius = size(&words[0], "radius")?;
    if radius < Score::default() {
        return Err(Error::reply("ERR radius cannot be negative"));
    }
    Ok((Shape::Circle(radius), unit(&words[1])?))
}

fn rectangle(words: &[Blob]) -> Result<(Shape, Unit), Error> {
    let (width, height) = (size(&words[0], "width")?, size(&words[1], "height")?);
    if width < Score::default() || height < Score::default() {
        return Err(Error::reply("ERR height or width cannot be negative"));
    }
    Ok((Shape::Box(width, height), unit(&words[2])?))
}

impl<'a> Asked<'a> {
    fn read(words: &'a [Blob], sorted: Option<&Sorted>, form: Form) -> Result<Self, Error> {
        // Around what: known, unknown because there is no key, or not said yet.
        let mut around: Option<Option<Point>> = None;
        let mut shape = None;
        let mut at = 2;
        match form {
            Form::Radius { member: true, .. } => {
                around = Some(member_place(sorted, &words[2])?);
                at = 5;
                if sorted.is_some() {
                    shape = Some(radius(&words[3..])?);
                }
            }
            Form::Radius { member: false, .. } => {
                around = Some(Some(point(&words[2..])?));
                shape = Some(radius(&words[4..])?);
                at = 6;
            }
            Form::Search { store } => at += usize::from(store),
        }
        let mut asked = Self {
            area: None,
            unit: Unit::Meters,
            with: [false; 3],
            order: None,
            count: None,
            any: false,
            store: None,
            by_distance: false,
        };
        let searches = matches!(form, Form::Search { .. });
        let has = |at: usize, more: usize| at + more < words.len();
        while let Some(word) = words.get(at) {
            match () {
                () if is(word, "WITHDIST") => asked.with[0] = true,
                () if is(word, "WITHHASH") => asked.with[1] = true,
                () if is(word, "WITHCOORD") => asked.with[2] = true,
                () if is(word, "ANY") => asked.any = true,
                () if is(word, "ASC") => asked.order = Some(false),
                () if is(word, "DESC") => asked.order = Some(true),
                () if is(word, "COUNT") && has(at, 1) => {
                    let count = int(next(words, &mut at)?)?;
                    let count = u64::try_from(count).ok().filter(|count| *count > 0);
                    asked.count = Some(count.ok_or_else(|| Error::reply("ERR COUNT must be > 0"))?);
                }
                () if matches!(form, Form::Radius { store: true, .. })
                    && (is(word, "STORE") || is(word, "STOREDIST"))
                    && has(at, 1) =>
                {
                    asked.by_distance = is(word, "STOREDIST");
                    asked.store = Some(next(words, &mut at)?);
                }
                () if searches && around.is_none() && is(word, "FROMMEMBER") && has(at, 1) => {
                    around = Some(member_place(sorted, next(words, &mut at)?)?);
                }
                () if searches && around.is_none() && is(word, "FROMLONLAT") && has(at, 2) => {
                    around = Some(Some(point(&words[at + 1..])?));
                    at += 2;
                }
                () if searches && shape.is_none() && is(word, "BYRADIUS") && has(at, 2) => {
                    shape = Some(radius(&words[at + 1..])?);
                    at += 2;
                }
                () if searches && shape.is_none() && is(word, "BYBOX") && has(at, 3) => {
                    shape = Some(rectangle(&words[at + 1..])?);
                    at += 3;
                }
                () if form == (Form::Search { store: true }) && is(word, "STOREDIST") => {
                    asked.by_distance = true;
                }
                () => return Err(Error::syntax()),
            }
            at += 1;
        }
        asked.finish(words, form, around, shape)
    }

    fn finish(
        mut self,
        words: &'a [Blob],
        form: Form,
        around: Option<Option<Point>>,
        shape: Option<(Shape, Unit)>,
    ) -> Result<Self, Error> {
        if form == (Form::Search { store: true }) {
            self.store = Some(&words[1]);
        }
        if self.store.is_some() && self.with.contains(&true) {
            let command = match form {
                Form::Search { .. } => "GEOSEARCHSTORE is",
                Form::Radius { .. } => "STORE option in GEORADIUS is",
            };
            return Err(Error::reply(format!(
                "ERR {command} not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            )));
        }
        let name = || words[0].to_string().to_ascii_uppercase();
        if around.is_none() {
            let text = "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for";
            return Err(Error::reply(format!("{text} {}", name())));
        }
        if shape.is_none() && matches!(form, Form::Search { .. }) {
            let text = "ERR exactly one of BYRADIUS and BYBOX can be specified for";
            return Err(Error::reply(format!("{text} {}", name())));
        }
        if self.any && self.count.is_none() {
            return Err(Error::reply("ERR the ANY argument requires COUNT argument"));
        }
        if let (Some(Some(center)), Some((shape, unit))) = (around, shape) {
            self.unit = unit;
            self.area = Some(match shape {
                Shape::Circle(radius) => Area::circle(center, radius, unit),
                Shape::Box(width, height) => Area::rectangle(center, width, height, unit),
            });
        }
        Ok(self)
    }

    /// What lies in the area, in the order asked for.
    fn found(&self, sorted: &Sorted, session: &mut Session) -> Result<Vec<Near>, Error> {
        let Some(area) = &self.area else { return Ok(Vec::new()) };
        let ranks = area
            .ranges()
            .into_iter()
            .map(|(from, to)| (sorted.rank_by_score(from, false), sorted.rank_by_score(to, false)));
        let ranks: Vec<(u64, u64)> = ranks.collect();
        // With ANY the search may end early; how much it looks at then is not known before.
        let enough = if self.any { self.count.unwrap_or(u64::MAX) } else { u64::MAX };
        session.touch(ranks.iter().map(|(from, to)| (to - from).saturating_mul(PLACE)).sum())?;
        let mut found = Vec::new();
        for (from, to) in ranks {
            for (member, score) in sorted.range(from, to) {
                if found.len() as u64 >= enough {
                    break;
                }
                let point = Point::of_score(score);
                if let Some(meters) = area.distance(point) {
                    found.push(Near { member, distance: self.unit.of(meters), score, point });
                }
            }
        }
        match self.order {
            Some(true) => found.sort_by_key(|near| std::cmp::Reverse(near.distance)),
            Some(false) => found.sort_by_key(|near| near.distance),
            // The nearest, when not all are wanted.
            None if self.count.is_some() && !self.any => found.sort_by_key(|near| near.distance),
            None => {}
        }
        found.truncate(usize::try_from(self.count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
        Ok(found)
    }

    fn reply(&self, found: Vec<Near>) -> Reply {
        let [distance, hash, place] = self.with;
        let one = |near: Near| {
            let member = Reply::bulk(near.member);
            if !self.with.contains(&true) {
                return member;
            }
            let mut parts = vec![member];
            parts.extend(distance.then(|| Reply::bulk(near.distance.fixed(4))));
            parts.extend(hash.then(|| Reply::integer(near.score.truncated())));
            parts.extend(place.then(|| coordinates(near.point)));
            Reply::array(parts)
        };
        Reply::array(found.into_iter().map(one).collect())
    }
}

fn search(look: &dyn Look, session: &mut Session, words: &[Blob], key: &Key, form: Form) -> Answer {
    let sorted = sorted(look, key)?;
    let asked = Asked::read(words, sorted, form)?;
    let found = sorted.map(|sorted| asked.found(sorted, session)).transpose()?;
    Ok(asked.reply(found.unwrap_or_default()))
}

fn search_and_store(w: &mut Writing<'_>, key: &Key, form: Form) -> Answer {
    let words = w.words;
    let sorted = sorted(&*w.store, key)?;
    let asked = Asked::read(words, sorted, form)?;
    let found = sorted.map(|sorted| asked.found(sorted, w.session)).transpose()?.unwrap_or_default();
    let Some(name) = asked.store else { return Ok(asked.reply(found)) };
    let mut stored = Sorted::new();
    w.session.touch((found.len() as u64).saturating_mul(crate::call::SORTED))?;
    for near in found {
        stored.insert(near.member, if asked.by_distance { near.distance } else { near.score });
    }
    let to = w.session.key(name);
    w.put_or_delete(&to, Value::Sorted(stored))
}

pub(crate) fn geosearch(r: &mut Reading<'_>) -> Answer {
    let key = r.key(1);
    search(r.look, r.session, r.words, &key, Form::Search { store: false })
}

pub(crate) fn geosearchstore(w: &mut Writing<'_>) -> Answer {
    let key = w.key(2);
    search_and_store(w, &key, Form::Search { store: true })
}

pub(crate) fn georadius(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    search_and_store(w, &key, Form::Radius { member: false, store: true })
}

pub(crate) fn georadiusbymember(w: &mut Writing<'_>) -> Answer {
    let key = w.key(1);
    search_and_store(w, &key, Form::Radius { member: true, store: true })
}

pub(crate) fn georadius_ro(r: &mut Reading<'_>) -> Answer {
    let key = r.key(1);
    search(r.look, r.session, r.words, &key, Form::Radius { member: false, store: false })
}

pub(crate) fn georadiusbymember_ro(r: &mut Reading<'_>) -> Answer {
    let key = r.key(1);
    search(r.look, r.session, r.words, &key, Form::Radius { member: true, store: false })
}
