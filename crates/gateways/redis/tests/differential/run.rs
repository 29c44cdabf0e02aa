//! Plays a sequence to two servers at once, and says where their replies part.
//!
//! Invariant: every sequence begins on an empty database, over connections of its own.
//! Invariant: what only one server can know (ids it made, values it took at random) is never taken for a difference.
//! Called by: `main`, `shrink`. Read [`play`] first.

use super::allowed::{self, Allowed};
use super::families::{How, Sequence, Step};
use super::grammar::Word;
use super::resp::{Reply, Wire};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The two servers, and what is forgiven.
#[derive(Clone)]
pub(crate) struct Match<'a> {
    pub(crate) reference: SocketAddr,
    pub(crate) subject: SocketAddr,
    /// The database that this run has to itself, on both.
    pub(crate) database: usize,
    /// Doubles are compared by value: Redis 7.0 prints them in 17 digits.
    pub(crate) by_value: bool,
    pub(crate) allowed: &'a [&'a [Allowed]],
}

/// Where two servers part.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Place of the step in its sequence.
    pub(crate) step: usize,
    /// What was sent, in words.
    pub(crate) command: String,
    pub(crate) reference: Reply,
    pub(crate) subject: Reply,
    pub(crate) why: String,
}

impl Difference {
    /// Differences with the same signature are most likely the same.
    pub(crate) fn signature(&self) -> String {
        let shape = |reply: &Reply| match reply {
            Reply::Error(text) => String::from_utf8_lossy(&text[..text.len().min(24)]).into_owned(),
            other => other.kind().into(),
        };
        let name = self.command.split(' ').next().unwrap_or_default().trim_matches('"').to_uppercase();
        format!("{name}: {} / {}", shape(&self.reference), shape(&self.subject))
    }
}

/// What came out of a sequence.
#[derive(Default)]
pub(crate) struct Played {
    pub(crate) steps: u64,
    pub(crate) difference: Option<Difference>,
    /// Reasons of the allowed differences that were seen.
    pub(crate) allowed: Vec<&'static str>,
}

/// Plays a sequence to both servers.
///
/// # Errors
/// A server cannot be reached, hangs, or speaks no RESP: with the step at which that happened.
pub(crate) fn play(between: &Match, sequence: &Sequence) -> Result<Played, String> {
    let mut game = Game::new(between, sequence)?;
    let mut played = Played::default();
    for (place, step) in sequence.steps.iter().enumerate() {
        let found = game.step(step).map_err(|(who, error)| {
            format!("{who} at step {place}, {}: {error}", game.sides[0].told(step).unwrap_or_default())
        })?;
        played.steps += 1;
        if let Some((command, reference, subject, why)) = found.into_iter().next() {
            let known = between
                .allowed
                .iter()
                .find_map(|table| allowed::reason(table, &command.to_uppercase(), &reference, &subject));
            match known {
                Some(reason) => {
                    // From here on the two may hold different values, rightly: nothing more can be compared.
                    played.allowed.push(reason);
                    return Ok(played);
                }
                None => {
                    played.difference = Some(Difference { step: place, command, reference, subject, why });
                    return Ok(played);
                }
            }
        }
    }
    Ok(played)
}

type Found = Vec<(String, Reply, Reply, String)>;
type Failed = (&'static str, String);

struct Game<'a> {
    between: &'a Match<'a>,
    frames: bool,
    hyperloglog: bool,
    /// Reference first.
    sides: [Side; 2],
    connections: [Connection; 2],
}

/// What is known about a connection, the same on both sides.
#[derive(Default)]
struct Connection {
    /// How the replies of an open transaction are compared.
    queued: Option<Vec<How>>,
    /// Blocking commands that were sent and not yet answered.
    later: Vec<String>,
}

struct Side {
    name: &'static str,
    wires: [Wire; 2],
    /// Ids of stream records that this server made.
    ids: Vec<Vec<u8>>,
    /// The second database of this run.
    other: usize,
}

/// From a run's database to its second one.
pub(crate) const OTHER: usize = 8;

impl Side {
    fn open(name: &'static str, address: SocketAddr, database: usize, protocol: u8) -> Result<Self, Failed> {
        let connect = || -> Result<Wire, String> {
            let mut wire = Wire::connect(address)?;
            let hello = wire.ask(&[b"HELLO".to_vec(), protocol.to_string().into_bytes()])?;
            if matches!(hello, Reply::Error(_)) {
                return Err(format!("HELLO {protocol}: {hello}"));
            }
            expect(&mut wire, &format!("SELECT {database}"))?;
            Ok(wire)
        };
        let mut wires =
            [connect().map_err(|error| (name, error))?, connect().map_err(|error| (name, error))?];
        let other = database + OTHER;
        for command in [&format!("SELECT {other}"), "FLUSHDB", &format!("SELECT {database}"), "FLUSHDB"] {
            expect(&mut wires[0], command).map_err(|error| (name, error))?;
        }
        for library in 'a'..='i' {
            // It is there or not: either way it is not there then.
            let delete =
                ["FUNCTION", "DELETE", &format!("{library}{other}")].map(|word| word.as_bytes().to_vec());
            wires[0].ask(&delete).map_err(|error| (name, error))?;
        }
        Ok(Self { name, wires, ids: vec![], other })
    }

    /// What is sent, at a time (Unix, in milliseconds) that is the same for both sides.
    fn words(&self, words: &[Word], now: i64) -> Vec<Vec<u8>> {
        words
            .iter()
            .map(|word| match word {
                Word::Plain(text) => text.clone(),
                Word::Seconds(from_now) => (now / 1000 + from_now).to_string().into_bytes(),
                Word::Millis(from_now) => (now + from_now).to_string().into_bytes(),
                Word::Database => self.other.to_string().into_bytes(),
                Word::Own(text) => super::grammar::owned(text, self.other),
                Word::Id(_) if self.ids.is_empty() => b"1-1".to_vec(),
                Word::Id(place) => self.ids[place % self.ids.len()].clone(),
            })
            .collect()
    }

    fn told(&self, step: &Step) -> Option<String> {
        Some(told(&self.words(&step.words, millis())))
    }

    fn ask(&mut self, connection: usize, words: &[Vec<u8>]) -> Result<Reply, Failed> {
        self.wires[connection].ask(words).map_err(|error| (self.name, error))
    }

    fn receive(&mut self, connection: usize) -> Result<Reply, Failed> {
        self.wires[connection].receive().map_err(|error| (self.name, error))
    }

    /// Ids of records by the order in which this server made them.
    fn renamed(&self, reply: Reply) -> Reply {
        if self.ids.is_empty() {
            return reply;
        }
        rewrite(reply, &|text| {
            self.ids.iter().position(|id| id == text).map(|place| format!("<id {place}>").into_bytes())
        })
    }
}

fn expect(wire: &mut Wire, command: &str) -> Result<(), String> {
    let words: Vec<Vec<u8>> = command.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    match wire.ask(&words)? {
        Reply::Status(_) => Ok(()),
        other => Err(format!("{command}: {other}")),
    }
}

/// Unix time in milliseconds.
fn millis() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(now).expect("a time of this age")
}

/// A command as redis-cli takes it.
pub(crate) fn told(words: &[Vec<u8>]) -> String {
    let plain = |word: &Vec<u8>| {
        !word.is_empty() && word.iter().all(|byte| byte.is_ascii_graphic() && !b"\"'\\".contains(byte))
    };
    words
        .iter()
        .map(|word| {
            if plain(word) {
                String::from_utf8_lossy(word).into_owned()
            } else {
                format!("\"{}\"", word.escape_ascii())
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

impl<'a> Game<'a> {
    fn new(between: &'a Match<'a>, sequence: &Sequence) -> Result<Self, String> {
        let open = |name, address| {
            Side::open(name, address, between.database, sequence.protocol)
                .map_err(|(who, error)| format!("{who}: {error}"))
        };
        Ok(Self {
            between,
            frames: sequence.family == "pubsub",
            hyperloglog: sequence.family == "hyperloglog",
            sides: [open("the reference", between.reference)?, open("the subject", between.subject)?],
            connections: <[Connection; 2]>::default(),
        })
    }

    /// One step on both sides; what differed, if anything.
    fn step(&mut self, step: &Step) -> Result<Found, Failed> {
        let mut found = vec![];
        if let How::Sleep(millis) = step.how {
            sleep(Duration::from_millis(millis));
            return Ok(found);
        }
        self.settle(step.connection, &mut found)?;
        if !found.is_empty() {
            return Ok(found);
        }
        if self.frames {
            return self.framed(step);
        }
        let open = self.connections[step.connection].queued.is_some();
        let how = match step.how {
            How::Pop | How::State if open => return Ok(found),
            How::Random | How::Scan if open => How::Kind,
            How::Later if open => How::Exact,
            how => how,
        };
        match how {
            How::Later => self.send(step).map(|()| found),
            How::State => self.state(step),
            How::Scan => self.scan(step),
            How::Random | How::Pop => self.random(step, how),
            _ => self.plain(step, how),
        }
    }

    /// Waits for what is still to come on a connection.
    fn settle(&mut self, connection: usize, found: &mut Found) -> Result<(), Failed> {
        for command in std::mem::take(&mut self.connections[connection].later) {
            let reference = self.sides[0].receive(connection)?;
            let subject = self.sides[1].receive(connection)?;
            found.extend(self.compare(&command, How::Exact, reference, subject));
        }
        Ok(())
    }

    fn send(&mut self, step: &Step) -> Result<(), Failed> {
        let now = millis();
        for side in &mut self.sides {
            let words = side.words(&step.words, now);
            side.wires[step.connection].send(&words).map_err(|error| (side.name, error))?;
        }
        self.connections[step.connection].later.push(self.sides[0].told(step).unwrap_or_default());
        // A blocked client must be known to be waiting before anything else happens: which of two comes first is no difference.
        sleep(Duration::from_millis(25));
        Ok(())
    }

    /// Sends to both, then hears both, so that their waiting overlaps.
    fn both(&mut self, connection: usize, words: &[Word]) -> Result<(Reply, Reply), Failed> {
        let now = millis();
        for side in &mut self.sides {
            let words = side.words(words, now);
            side.wires[connection].send(&words).map_err(|error| (side.name, error))?;
        }
        Ok((self.sides[0].receive(connection)?, self.sides[1].receive(connection)?))
    }

    fn plain(&mut self, step: &Step, how: How) -> Result<Found, Failed> {
        let command = self.sides[0].told(step).unwrap_or_default();
        let name = first(step);
        if name == "XADD" {
            // Two records in one millisecond may have ids that are the same on one server and not on the other.
            sleep(Duration::from_millis(2));
        }
        let (reference, subject) = self.both(step.connection, &step.words)?;
        self.learn_ids(&name, &reference, &subject);
        let connection = &mut self.connections[step.connection];
        let ok = |reply: &Reply| *reply == Reply::Status(b"OK".to_vec());
        let mut hows = None;
        match name.as_str() {
            "MULTI" if ok(&reference) => connection.queued = Some(vec![]),
            "EXEC" | "DISCARD" => hows = connection.queued.take(),
            "RESET" => connection.queued = None,
            _ => {}
        }
        if reference == Reply::Status(b"QUEUED".to_vec())
            && let Some(queued) = &mut connection.queued
        {
            queued.push(how);
        }
        let found = match (hows, &reference, &subject) {
            (Some(hows), Reply::Array(one), Reply::Array(other))
                if one.len() == other.len() && one.len() == hows.len() =>
            {
                for (one, other) in one.iter().zip(other) {
                    // Inside a transaction nobody says which reply an id came from: every new text that looks like one is one.
                    self.learn_ids("XADD", one, other);
                }
                let (one, other) = (one.clone(), other.clone());
                let pairs = hows.into_iter().zip(one.into_iter().zip(other));
                pairs
                    .filter_map(|(how, (one, other))| self.compare(&command, how, one, other))
                    .next()
                    .into_iter()
                    .collect()
            }
            _ => self.compare(&command, how, reference, subject).into_iter().collect(),
        };
        if name == "RESET" {
            for side in &mut self.sides {
                let database = self.between.database.to_string().into_bytes();
                side.ask(step.connection, &[b"SELECT".to_vec(), database])?;
            }
        }
        Ok(found)
    }

    fn learn_ids(&mut self, name: &str, reference: &Reply, subject: &Reply) {
        let id = |reply: &Reply| match reply {
            Reply::Bulk(text)
                if text.len() > 12 && text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') =>
            {
                text.contains(&b'-').then(|| text.clone())
            }
            _ => None,
        };
        if name == "XADD"
            && let (Some(one), Some(other)) = (id(reference), id(subject))
        {
            self.sides[0].ids.push(one);
            self.sides[1].ids.push(other);
        }
    }

    /// A command whose reply may be any number of frames: all up to the answer to a PING behind it, on both connections.
    fn framed(&mut self, step: &Step) -> Result<Found, Failed> {
        let command = self.sides[0].told(step).unwrap_or_default();
        let mut heard = [vec![], vec![]];
        let now = millis();
        for (side, heard) in self.sides.iter_mut().zip(&mut heard) {
            let words = side.words(&step.words, now);
            side.wires[step.connection].send(&words).map_err(|error| (side.name, error))?;
            side.frames(step.connection, heard)?;
            side.frames(1 - step.connection, heard)?;
        }
        if heard[0].len() != heard[1].len() {
            // Messages to others are not promised by the time their sender is answered.
            sleep(Duration::from_millis(100));
            for (side, heard) in self.sides.iter_mut().zip(&mut heard) {
                side.frames(1 - step.connection, heard)?;
                side.frames(step.connection, heard)?;
            }
        }
        let [reference, subject] = heard;
        let how = if first(step) == "PUBLISH" { How::Unordered } else { step.how };
        Ok(self.compare(&command, how, Reply::Array(reference), Reply::Array(subject)).into_iter().collect())
    }

    /// A whole scan on each side, as a set.
    fn scan(&mut self, step: &Step) -> Result<Found, Failed> {
        let command = self.sides[0].told(step).unwrap_or_default();
        let cursor = if first(step) == "SCAN" { 1 } else { 2 };
        if step.words.get(cursor) != Some(&Word::Plain(b"0".to_vec())) {
            // What a cursor from nowhere gives is open; that it is a cursor, or none, is not.
            return self.plain(step, How::Kind);
        }
        let mut ends = vec![];
        for side in &mut self.sides {
            let mut words = side.words(&step.words, millis());
            let mut seen = BTreeSet::new();
            let mut calls = 0;
            ends.push(loop {
                let reply = side.ask(step.connection, &words)?;
                let Reply::Array(parts) = &reply else { break reply };
                let [Reply::Bulk(next), values] = parts.as_slice() else { break reply };
                match values.items() {
                    Some(items)
                        if command.to_uppercase().starts_with("HSCAN")
                            || command.to_uppercase().starts_with("ZSCAN") =>
                    {
                        seen.extend(items.chunks(2).map(|pair| Reply::Array(pair.to_vec())));
                    }
                    Some(items) => seen.extend(items.iter().cloned()),
                    None => break reply,
                }
                calls += 1;
                if next == b"0" || calls > 1000 {
                    break Reply::Array(seen.into_iter().collect());
                }
                if let Some(word) = words.get_mut(cursor) {
                    word.clone_from(next);
                }
            });
        }
        let subject = ends.pop().unwrap_or(Reply::Nil);
        let reference = ends.pop().unwrap_or(Reply::Nil);
        Ok(self.compare(&command, How::Exact, reference, subject).into_iter().collect())
    }

    /// A command that answers values at random: as many, of the same type, and all of them there.
    fn random(&mut self, step: &Step, how: How) -> Result<Found, Failed> {
        let command = self.sides[0].told(step).unwrap_or_default();
        let key = match step.words.get(1) {
            Some(Word::Plain(key)) => key.clone(),
            _ => b"a".to_vec(),
        };
        let universe: Vec<Vec<u8>> = match first(step).as_str() {
            "RANDOMKEY" => vec![b"KEYS".to_vec(), b"*".to_vec()],
            "HRANDFIELD" => vec![b"HGETALL".to_vec(), key.clone()],
            "ZRANDMEMBER" => [&b"ZRANGE"[..], &key, b"0", b"-1", b"WITHSCORES"].map(<[u8]>::to_vec).to_vec(),
            _ => vec![b"SMEMBERS".to_vec(), key.clone()],
        };
        let mut all = vec![];
        for side in &mut self.sides {
            all.push(side.ask(step.connection, &universe)?);
        }
        let (reference, subject) = self.both(step.connection, &step.words)?;
        if matches!(reference, Reply::Error(_)) || matches!(subject, Reply::Error(_)) {
            return Ok(self.compare(&command, How::Exact, reference, subject).into_iter().collect());
        }
        let mut why = None;
        let (one, other) = (reference.leaves(), subject.leaves());
        if reference.kind() != subject.kind() || one.len() != other.len() {
            why = Some("another type, or another number of values");
        }
        for (leaves, all) in [&one, &other].into_iter().zip(&all) {
            let there: BTreeSet<Option<&[u8]>> = all.leaves().into_iter().map(Reply::text).collect();
            if leaves.iter().any(|leaf| leaf.text().is_some() && !there.contains(&leaf.text())) {
                why = Some("a value that was not there");
            }
        }
        if how == How::Pop && why.is_none() {
            let taken = |leaves: &[&Reply]| {
                leaves.iter().filter_map(|leaf| leaf.text()).map(<[u8]>::to_vec).collect::<Vec<_>>()
            };
            let takes = [taken(&other), taken(&one)];
            for (side, taken) in self.sides.iter_mut().zip(takes) {
                if !taken.is_empty() {
                    side.ask(step.connection, &[vec![b"SREM".to_vec(), key.clone()], taken].concat())?;
                }
            }
        }
        Ok(why
            .map(|why| (command, reference.clone(), subject.clone(), why.to_string()))
            .into_iter()
            .collect())
    }

    /// The whole value of a key.
    fn state(&mut self, step: &Step) -> Result<Found, Failed> {
        let Some(Word::Plain(key)) = step.words.first() else { return Ok(vec![]) };
        let kind = [Word::Plain(b"TYPE".to_vec()), Word::Plain(key.clone())];
        let (reference, subject) = self.both(0, &kind)?;
        let whole = |text: &str| -> Vec<Word> {
            let words =
                text.split(' ').map(|word| if word == "k" { key.clone() } else { word.as_bytes().to_vec() });
            words.map(Word::Plain).collect()
        };
        let (how, words) = match reference.text() {
            Some(b"string") if self.hyperloglog => (How::Exact, whole("PFCOUNT k")),
            Some(b"string") => (How::Exact, whole("GET k")),
            Some(b"list") => (How::Exact, whole("LRANGE k 0 -1")),
            Some(b"set") => (How::Unordered, whole("SMEMBERS k")),
            Some(b"hash") => (How::Pairs, whole("HGETALL k")),
            Some(b"zset") => (How::Exact, whole("ZRANGE k 0 -1 WITHSCORES")),
            Some(b"stream") => (How::Exact, whole("XRANGE k - +")),
            _ => (How::Exact, vec![]),
        };
        let name = String::from_utf8_lossy(key).into_owned();
        let mut found: Found =
            self.compare(&format!("TYPE {name}"), How::Exact, reference, subject).into_iter().collect();
        if found.is_empty() && !words.is_empty() {
            let step = Step { connection: 0, words, how };
            found.extend(self.plain(&step, how)?);
            let left = Step { connection: 0, words: whole("PTTL k"), how: How::Near };
            found.extend(self.plain(&left, How::Near)?);
        }
        Ok(found)
    }

    fn compare(
        &self,
        command: &str,
        how: How,
        reference: Reply,
        subject: Reply,
    ) -> Option<(String, Reply, Reply, String)> {
        let name = command.split(' ').next().unwrap_or_default().to_uppercase();
        let one = ordered(masked(&name, self.sides[0].renamed(reference.clone())), how);
        let other = ordered(masked(&name, self.sides[1].renamed(subject.clone())), how);
        let near = (how == How::Near)
            .then(|| if name.contains("PTTL") || name.contains("PEXPIRE") { APART_MILLIS } else { 1 });
        let same = match how {
            How::Kind => one.kind() == other.kind(),
            _ => same(&one, &other, near, self.between.by_value),
        };
        (!same).then(|| (command.to_string(), reference, subject, format!("compared {how:?}")))
    }
}

impl Side {
    /// All frames up to the answer to a PING.
    fn frames(&mut self, connection: usize, heard: &mut Vec<Reply>) -> Result<(), Failed> {
        let nonce = b"the end of the frames".to_vec();
        let wire = &mut self.wires[connection];
        wire.send(&[b"PING".to_vec(), nonce.clone()]).map_err(|error| (self.name, error))?;
        loop {
            let frame = self.receive(connection)?;
            if frame.leaves().iter().any(|leaf| leaf.text() == Some(&nonce)) {
                return Ok(());
            }
            heard.push(frame);
        }
    }
}

fn first(step: &Step) -> String {
    match step.words.first() {
        Some(Word::Plain(name)) => String::from_utf8_lossy(name).to_uppercase(),
        _ => String::new(),
    }
}

/// Texts for which `name` knows another one.
fn rewrite(reply: Reply, name: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Reply {
    let all = |items: Vec<Reply>| items.into_iter().map(|item| rewrite(item, name)).collect();
    match reply {
        Reply::Bulk(text) => Reply::Bulk(name(&text).unwrap_or(text)),
        Reply::Array(items) => Reply::Array(all(items)),
        Reply::Map(items) => Reply::Map(all(items)),
        Reply::Push(items) => Reply::Push(all(items)),
        Reply::Set(items) => Reply::Set(all(items)),
        other => other,
    }
}

/// Without the parts that name a server, count its memory, or are a time since something happened.
fn masked(name: &str, reply: Reply) -> Reply {
    // It repeats the words, and with them ids that each side has made by its own clock.
    if let Reply::Error(text) = &reply
        && text.starts_with(b"ERR unknown command")
        && let Some(end) = text.windows(11).position(|part| part == b", with args")
    {
        return Reply::Error(text[..end].to_vec());
    }
    const FIELDS: [&[u8]; 12] = [
        b"idle",
        b"inactive",
        b"radix-tree-keys",
        b"radix-tree-nodes",
        b"version",
        b"id",
        b"seen-time",
        b"active-time",
        b"server",
        b"mode",
        b"modules",
        b"role",
    ];
    match name {
        "XINFO" | "HELLO" => mask_fields(reply, &FIELDS),
        "XPENDING" => mask_idle(reply),
        _ => reply,
    }
}

fn mask_fields(reply: Reply, fields: &[&[u8]]) -> Reply {
    let all = |items: Vec<Reply>| {
        let mut hide = false;
        let mut kept = vec![];
        for item in items {
            let was = std::mem::take(&mut hide);
            hide = !was && item.text().is_some_and(|text| fields.contains(&text));
            kept.push(if was { Reply::Nil } else { mask_fields(item, fields) });
        }
        kept
    };
    match reply {
        Reply::Array(items) => Reply::Array(all(items)),
        Reply::Map(items) => Reply::Map(all(items)),
        other => other,
    }
}

/// The third of four parts of a pending entry: for how long.
fn mask_idle(reply: Reply) -> Reply {
    let Reply::Array(items) = reply else { return reply };
    let entry = |item: Reply| match item {
        Reply::Array(mut parts) if parts.len() == 4 && matches!(parts[2], Reply::Integer(_)) => {
            parts[2] = Reply::Integer(0);
            Reply::Array(parts)
        }
        other => other,
    };
    Reply::Array(items.into_iter().map(entry).collect())
}

/// In an order of its own where the server may choose one.
fn ordered(reply: Reply, how: How) -> Reply {
    let sorted = |items: Vec<Reply>| {
        let mut items: Vec<Reply> = items.into_iter().map(|item| ordered(item, how)).collect();
        items.sort();
        items
    };
    let pairs = |items: Vec<Reply>| {
        let mut pairs: Vec<Vec<Reply>> = items.chunks(2).map(<[Reply]>::to_vec).collect();
        pairs.sort();
        pairs.concat()
    };
    match (how, reply) {
        (How::Unordered, Reply::Array(items)) => Reply::Array(sorted(items)),
        (How::Unordered, Reply::Set(items)) => Reply::Set(sorted(items)),
        (How::Pairs, Reply::Array(items)) => Reply::Array(pairs(items)),
        (How::Pairs | How::Unordered, Reply::Map(items)) => Reply::Map(pairs(items)),
        (_, reply) => reply,
    }
}

/// Longest time between the same command on two servers.
const APART_MILLIS: u64 = 130;

/// `near`: how far apart whole numbers may be that are times.
fn same(one: &Reply, other: &Reply, near: Option<u64>, by_value: bool) -> bool {
    if one == other {
        return true;
    }
    if let (Some(items), Some(others)) = (one.items(), other.items()) {
        return one.kind() == other.kind()
            && items.len() == others.len()
            && items.iter().zip(others).all(|(one, other)| same(one, other, near, by_value));
    }
    match (one, other) {
        (Reply::Integer(one), Reply::Integer(other)) if *one >= 0 && *other >= 0 => {
            near.is_some_and(|near| one.abs_diff(*other) <= near)
        }
        (Reply::Bulk(_) | Reply::Double(_), Reply::Bulk(_) | Reply::Double(_))
            if by_value && one.kind() == other.kind() =>
        {
            match (number(one), number(other)) {
                (Some(one), Some(other)) => one == other,
                _ => false,
            }
        }
        _ => false,
    }
}

fn number(reply: &Reply) -> Option<f64> {
    std::str::from_utf8(reply.text()?).ok()?.parse().ok()
}
