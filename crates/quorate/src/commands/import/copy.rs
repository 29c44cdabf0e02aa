//! Copies keys: reads them typed, with their deadlines, and writes them so that nobody sees half of one.
//!
//! Small keys travel in groups: one MULTI reads a group as it was at one moment, one MULTI writes it. A large collection is read in slices
//! into a key of its own at the target, which gets the real name in one step at the end.
//!
//! Invariant: at no time are there more than a group, or one slice, or one string, in memory per worker.
//! Invariant: a key of the target that is to stay is not written to: small keys are watched, large ones come by RENAMENX. Streams, which
//! have one name for good, are only looked for just before.
//! Called by: the workers of `import`.

use super::tally::{Counts, Tally};
use super::wire::{
    Answer, Lost, PATIENCE, PAUSE, Wire, Words, bytes_of, error_of, items_of, list_of, number_of, passes,
    text_of, words,
};
use super::{Existing, Plan};
use crate::failure::Failure;
use redis::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Most elements of a collection that is read in one command.
const WHOLE_ELEMENTS_MAX: u64 = 1000;
/// Most elements, keys and bytes of strings of a group.
const GROUP_ELEMENTS_MAX: u64 = 4000;
const GROUP_KEYS_MAX: usize = 128;
const GROUP_BYTES_MAX: u64 = 1 << 20;
/// Elements asked for at once of a large collection.
pub(super) const SLICE: &[u8] = b"1000";
/// Most words and bytes of one command that fills a collection.
const WRITE_WORDS_MAX: usize = 1000;
const WRITE_BYTES_MAX: usize = 1 << 20;
/// What is left of an import that was broken off deletes itself after this.
const UNFINISHED_MS: &[u8] = b"3600000";
/// How often one key is tried when connections break or others write to it.
const ATTEMPTS_MAX: u32 = 5;

/// The types that are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Hash,
    List,
    Set,
    Zset,
    Stream,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::String,
            "hash" => Self::Hash,
            "list" => Self::List,
            "set" => Self::Set,
            "zset" => Self::Zset,
            "stream" => Self::Stream,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::Zset => "zset",
            Self::Stream => "stream",
        }
    }

    /// The command that tells how large a key is: bytes of a string, elements of the others.
    fn size(self) -> &'static [u8] {
        match self {
            Self::String => b"STRLEN",
            Self::Hash => b"HLEN",
            Self::List => b"LLEN",
            Self::Set => b"SCARD",
            Self::Zset => b"ZCARD",
            Self::Stream => b"XLEN",
        }
    }

    fn read_whole(self, key: &[u8]) -> Words {
        match self {
            Self::String => words(&[b"GET", key]),
            Self::Hash => words(&[b"HGETALL", key]),
            Self::List => words(&[b"LRANGE", key, b"0", b"-1"]),
            Self::Set => words(&[b"SMEMBERS", key]),
            Self::Zset => words(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
            Self::Stream => words(&[b"XLEN", key]),
        }
    }

    /// Words per element, as read and as written.
    fn stride(self) -> usize {
        if matches!(self, Self::Hash | Self::Zset) { 2 } else { 1 }
    }
}

/// A key that a scan named, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) key: Vec<u8>,
    pub(super) kind: Kind,
    size: u64,
}

/// A key as it was read.
struct Body {
    head: Head,
    /// One value of a string; elements of the others, pairs flat.
    parts: Vec<Vec<u8>>,
    /// Wall time in milliseconds at which it expires.
    deadline: Option<i64>,
    /// Fields of a hash with deadlines of their own.
    fields: BTreeMap<i64, Vec<Vec<u8>>>,
}

impl Body {
    fn counts(&self) -> Counts {
        let bytes = self.parts.iter().map(Vec::len).sum::<usize>() + self.head.key.len();
        let elements = (self.parts.len() / self.head.kind.stride()) as u64;
        Counts { keys: 1, elements, bytes: bytes as u64 }
    }
}

/// How writing ended.
enum Written {
    Done,
    /// The group is to be written key by key; `lost` when some of it may be there already.
    Apart {
        lost: bool,
    },
}

/// One worker: a connection to each side.
pub(super) struct Copier<'a> {
    pub(super) source: Wire,
    pub(super) target: Wire,
    pub(super) plan: &'a Plan,
    pub(super) tally: &'a Mutex<Tally>,
    /// Where large collections grow; this worker's alone.
    pub(super) unfinished: Vec<u8>,
    pub(super) database: i64,
}

impl Copier<'_> {
    /// Copies the keys of one page of a scan.
    ///
    /// # Errors
    /// A side that is gone for good. What is wrong with one key is counted and said.
    pub(super) fn page(&mut self, database: i64, keys: Vec<Vec<u8>>) -> Result<(), Failure> {
        self.database = database;
        self.source.choose(database);
        self.target.choose(self.plan.target_of(database));
        let heads = self.heads(keys)?;
        if self.plan.dry_run {
            return self.count(heads);
        }
        let mut group = Group::default();
        for head in heads {
            if head.kind == Kind::Stream {
                self.stream(&head)?;
            } else if head.kind != Kind::String && head.size > WHOLE_ELEMENTS_MAX {
                self.sliced(&head)?;
            } else {
                if !group.has_room(&head) {
                    self.group(std::mem::take(&mut group).heads)?;
                }
                group.push(head);
            }
        }
        self.group(group.heads)
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        // A worker that panicked has left counts behind which are still counts.
        self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn fail(&self, key: &[u8], why: &str) {
        self.tally().failed(self.database, key, why);
    }

    /// Types and sizes. Keys that are gone, or of a type that cannot be copied, are counted here.
    fn heads(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<Head>, Failure> {
        let types = self.source.ask_again(&each(&keys, |key| words(&[b"TYPE", key])))?;
        let mut found = Vec::with_capacity(keys.len());
        for (key, answer) in keys.into_iter().zip(types) {
            let name = match answer {
                Ok(value) => text_of(&value).unwrap_or_default(),
                Err(error) => {
                    self.fail(&key, &format!("the source refuses TYPE: {error}"));
                    continue;
                }
            };
            match Kind::of(&name) {
                Some(kind) => found.push(Head { key, kind, size: 0 }),
                None if name == "none" => self.tally().vanished(),
                None => self.tally().skipped(&format!("a type that only modules know: {name}")),
            }
        }
        let sizes = self.source.ask_again(&each(&found, |head| words(&[head.kind.size(), &head.key])))?;
        let mut heads = Vec::with_capacity(found.len());
        for (mut head, answer) in found.into_iter().zip(sizes) {
            match answer.map(|value| number_of(&value)) {
                Ok(Some(size)) => {
                    head.size = u64::try_from(size).unwrap_or(0);
                    heads.push(head);
                }
                Ok(None) => self.fail(&head.key, "the source's answer is not understood"),
                Err(error) => self.fail(&head.key, &format!("the source refuses its size: {error}")),
            }
        }
        Ok(heads)
    }

    /// What would be copied.
    fn count(&mut self, heads: Vec<Head>) -> Result<(), Failure> {
        let there = match self.plan.existing {
            Existing::Keep => self.there(&heads)?,
            Existing::Refuse | Existing::Replace => vec![false; heads.len()],
        };
        for (head, there) in heads.into_iter().zip(there) {
            if there {
                self.tally().skipped(ALREADY);
                continue;
            }
            let string = head.kind == Kind::String;
            let bytes = head.key.len() as u64 + if string { head.size } else { 0 };
            let elements = if string { 1 } else { head.size };
            self.tally().copied(head.kind.name(), Counts { keys: 1, elements, bytes }, false);
        }
        Ok(())
    }

    /// Which keys the target has.
    pub(super) fn there(&mut self, heads: &[Head]) -> Result<Vec<bool>, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answers = self.target.ask_again(&each(heads, |head| words(&[b"EXISTS", &head.key])))?;
            match answers.into_iter().collect::<Result<Vec<Value>, String>>() {
                Ok(answers) => {
                    return Ok(answers.iter().map(|answer| matches!(answer, Value::Int(1))).collect());
                }
                Err(why) => self.wait(&Lost::later(why), until)?,
            }
        }
    }

    /// Copies small keys.
    fn group(&mut self, heads: Vec<Head>) -> Result<(), Failure> {
        if heads.is_empty() {
            return Ok(());
        }
        let bodies = self.read(heads)?;
        self.write(bodies)
    }

    /// Reads small keys with their deadlines, all at one moment.
    fn read(&mut self, heads: Vec<Head>) -> Result<Vec<Body>, Failure> {
        let mut commands = vec![words(&[b"MULTI"]), words(&[b"TIME"])];
        for head in &heads {
            commands.push(words(&[self.plan.deadline_command(), &head.key]));
            commands.push(head.kind.read_whole(&head.key));
        }
        commands.push(words(&[b"EXEC"]));
        let mut answers = self.source.ask_again(&commands)?;
        let all = match answers.pop() {
            Some(Ok(value)) => items_of(value),
            Some(Err(_)) | None => None,
        };
        let Some(all) = all.filter(|all| all.len() == heads.len() * 2 + 1) else {
            if heads.len() > 1 {
                // A node of a cluster reads keys of different slots only one by one.
                let apart: Result<Vec<_>, _> = heads.into_iter().map(|head| self.read(vec![head])).collect();
                return Ok(apart?.into_iter().flatten().collect());
            }
            let why = answers.into_iter().find_map(Result::err).unwrap_or_else(|| "EXEC failed".into());
            heads
                .iter()
                .for_each(|head| self.fail(&head.key, &format!("the source refuses to read it: {why}")));
            return Ok(vec![]);
        };
        let mut all = all.into_iter();
        let now = all.next().and_then(wall_ms).unwrap_or(0);
        let mut bodies = Vec::with_capacity(heads.len());
        for head in heads {
            let (Some(deadline), Some(value)) = (all.next(), all.next()) else { break };
            if let Some(why) = error_of(&value).or_else(|| error_of(&deadline)) {
                // Its type changed since it was asked for.
                self.fail(&head.key, &format!("the source refuses to read it: {why}"));
                continue;
            }
            let deadline = self.plan.deadline(now, number_of(&deadline).unwrap_or(-1));
            let parts = match (head.kind, value) {
                (_, Value::Nil) => vec![],
                (Kind::String, value) => bytes_of(&value).into_iter().collect(),
                (_, value) => list_of(value).unwrap_or_default(),
            };
            if parts.is_empty() {
                self.tally().vanished();
                continue;
            }
            bodies.push(Body { head, parts, deadline, fields: BTreeMap::new() });
        }
        self.field_deadlines(&mut bodies)?;
        Ok(bodies)
    }

    /// Fields of hashes that expire by themselves (Redis 7.4).
    fn field_deadlines(&mut self, bodies: &mut [Body]) -> Result<(), Failure> {
        if !self.plan.field_deadlines {
            return Ok(());
        }
        for body in bodies.iter_mut().filter(|body| body.head.kind == Kind::Hash) {
            let names: Vec<&Vec<u8>> = body.parts.iter().step_by(2).collect();
            body.fields = self.field_deadlines_of(&body.head.key, &names)?;
        }
        Ok(())
    }

    fn field_deadlines_of(
        &mut self,
        key: &[u8],
        names: &[&Vec<u8>],
    ) -> Result<BTreeMap<i64, Vec<Vec<u8>>>, Failure> {
        let mut found: BTreeMap<i64, Vec<Vec<u8>>> = BTreeMap::new();
        let count = names.len().to_string();
        let mut command = words(&[b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()]);
        command.extend(names.iter().map(|name| (*name).clone()));
        let answer = self.source.ask_again(&[command])?.pop();
        if let Some(Ok(Value::Array(deadlines))) = answer {
            for (name, deadline) in names.iter().zip(deadlines) {
                if let Some(at) = number_of(&deadline).filter(|at| *at > 0) {
                    found.entry(at).or_default().push((*name).clone());
                }
            }
        }
        Ok(found)
    }

    /// Writes keys that are whole in memory: together, and key by key where that fails.
    fn write(&mut self, bodies: Vec<Body>) -> Result<(), Failure> {
        if let Written::Apart { lost } = self.write_together(&bodies, bodies.len() > 1, false)? {
            for body in bodies {
                self.write_together(std::slice::from_ref(&body), false, lost)?;
            }
        }
        Ok(())
    }

    /// One commit. With `apart`, whatever goes wrong is left to a second attempt key by key; nothing of it is counted then.
    /// `maybe_there`: an earlier attempt may have written some of it.
    fn write_together(
        &mut self,
        bodies: &[Body],
        apart: bool,
        maybe_there: bool,
    ) -> Result<Written, Failure> {
        let until = Instant::now() + PATIENCE;
        let (mut lost, mut contended, mut maybe_there) = (0, 0, maybe_there);
        loop {
            let wanted = match self.wanted(bodies) {
                Ok(wanted) => wanted,
                Err(gone) => {
                    self.wait(&gone, until)?;
                    continue;
                }
            };
            let all: Vec<&Body> =
                bodies.iter().zip(&wanted).filter(|(_, wanted)| **wanted).map(|(body, _)| body).collect();
            let mut commands = vec![words(&[b"MULTI"])];
            for body in &all {
                commands.extend(self.put(body));
            }
            commands.push(words(&[b"EXEC"]));
            let why = match self.target.ask(&commands) {
                Ok(answers) => match outcome(answers) {
                    Outcome::Done(results) => {
                        let refused = self.refused(&all, results);
                        if apart
                            && refused.iter().any(Option::is_some)
                            && self.plan.existing == Existing::Replace
                        {
                            return Ok(Written::Apart { lost: maybe_there });
                        }
                        self.account(bodies, &wanted, &refused, maybe_there);
                        return Ok(Written::Done);
                    }
                    Outcome::Contended => {
                        contended += 1;
                        "somebody writes to it at the target again and again".to_owned()
                    }
                    Outcome::Refused(why) => {
                        if passes(&why) {
                            maybe_there |= why.starts_with("INDETERMINATE");
                            self.wait(&Lost::later(why), until)?;
                            continue;
                        }
                        if apart {
                            return Ok(Written::Apart { lost: maybe_there });
                        }
                        contended = ATTEMPTS_MAX;
                        why
                    }
                },
                Err(gone) if !gone.sent => {
                    // A server that starts again takes its time.
                    self.wait(&gone, until)?;
                    continue;
                }
                Err(gone) => {
                    lost += 1;
                    maybe_there = true;
                    let why = gone.said.clone().unwrap_or_else(|| gone.why.clone());
                    if lost < ATTEMPTS_MAX {
                        self.wait(&gone, until)?;
                    }
                    format!("the target closes the connection: {why}")
                }
            };
            if apart {
                return Ok(Written::Apart { lost: maybe_there });
            }
            if lost >= ATTEMPTS_MAX || contended >= ATTEMPTS_MAX {
                all.iter()
                    .for_each(|body| self.fail(&body.head.key, &format!("the target refuses it: {why}")));
                return Ok(Written::Done);
            }
        }
    }

    /// Which keys are to be written; keys of the target that stay are watched, so that a later look at them is no race.
    fn wanted(&mut self, bodies: &[Body]) -> Result<Vec<bool>, Lost> {
        if self.plan.existing == Existing::Replace {
            return Ok(vec![true; bodies.len()]);
        }
        let mut watch = words(&[b"WATCH"]);
        watch.extend(bodies.iter().map(|body| body.head.key.clone()));
        let mut commands = vec![words(&[b"UNWATCH"]), watch];
        commands.extend(each(bodies, |body| words(&[b"EXISTS", &body.head.key])));
        let answers: Result<Vec<Value>, String> = self.target.ask(&commands)?.into_iter().collect();
        // Whoever cannot tell whether a key is there is asked again.
        let answers = answers.map_err(Lost::later)?;
        Ok(answers.iter().skip(2).map(|answer| matches!(answer, Value::Int(0))).collect())
    }

    /// The commands that put one key.
    fn put(&self, body: &Body) -> Vec<Words> {
        let key = &body.head.key;
        let deadline = body.deadline.map(|at| at.to_string());
        if body.head.kind == Kind::String {
            let mut set = words(&[b"SET", key]);
            set.extend(body.parts.iter().cloned());
            if let Some(at) = deadline {
                set.extend(words(&[b"PXAT", at.as_bytes()]));
            }
            return vec![set];
        }
        let mut commands = Vec::new();
        if self.plan.existing == Existing::Replace {
            commands.push(words(&[b"DEL", key]));
        }
        commands.extend(fill(body.head.kind, key, &body.parts));
        commands.extend(expire_fields(key, &body.fields));
        if let Some(at) = deadline {
            commands.push(words(&[b"PEXPIREAT", key, at.as_bytes()]));
        }
        commands
    }

    /// The first error of each key among the results of EXEC.
    fn refused(&self, all: &[&Body], results: Vec<Value>) -> Vec<Option<String>> {
        let mut results = results.into_iter();
        all.iter()
            .map(|body| {
                let count = self.put(body).len();
                results.by_ref().take(count).filter_map(|result| error_of(&result)).next()
            })
            .collect()
    }

    /// Counts what one commit did. After a connection was lost, a key that is there is the one that was written then.
    fn account(&self, bodies: &[Body], wanted: &[bool], refused: &[Option<String>], lost: bool) {
        let mut refused = refused.iter();
        for (body, wanted) in bodies.iter().zip(wanted) {
            let error = if *wanted { refused.next().and_then(Option::as_ref) } else { None };
            match error {
                Some(why) => self.fail(&body.head.key, &format!("the target refuses it: {why}")),
                None if *wanted || lost => {
                    self.tally().copied(body.head.kind.name(), body.counts(), body.deadline.is_some());
                }
                None => self.tally().skipped(ALREADY),
            }
        }
    }

    /// Waits before a lost connection is made again; gives up when that takes too long.
    pub(super) fn wait(&self, lost: &Lost, until: Instant) -> Result<(), Failure> {
        if lost.refused || Instant::now() >= until {
            return Err(self.target.gone(lost));
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }

    /// Waits until the target is there again, before a large key begins anew; gives up after some attempts.
    pub(super) fn recover(&mut self, lost: &Lost, attempt: u32) -> Result<(), Failure> {
        if lost.refused || attempt >= ATTEMPTS_MAX {
            return Err(self.target.gone(lost));
        }
        // An election takes about as long.
        std::thread::sleep(PAUSE * 8);
        self.target.ask_again(&[words(&[b"PING"])]).map(drop)
    }

    /// Copies a large collection, in slices.
    fn sliced(&mut self, head: &Head) -> Result<(), Failure> {
        if self.plan.existing != Existing::Replace && self.there(std::slice::from_ref(head))? == [true] {
            self.tally().skipped(ALREADY);
            return Ok(());
        }
        for attempt in 1..=ATTEMPTS_MAX {
            match self.slices(head) {
                Ok(()) => return Ok(()),
                Err(Broken::Fatal(failure)) => return Err(failure),
                Err(Broken::Key(why)) => {
                    // What is left of it deletes itself, should this not get through either.
                    let _ = self.target.ask(&[words(&[b"UNLINK", &self.unfinished])]);
                    self.fail(&head.key, &why);
                    return Ok(());
                }
                Err(Broken::Target(lost)) => self.recover(&lost, attempt)?,
            }
        }
        Ok(())
    }

    fn slices(&mut self, head: &Head) -> Result<(), Broken> {
        let unfinished = self.unfinished.clone();
        self.fill_target(vec![words(&[b"UNLINK", &unfinished])])?;
        let mut counts = Counts { keys: 1, elements: 0, bytes: head.key.len() as u64 };
        let mut cursor = b"0".to_vec();
        loop {
            let (next, parts) = self.slice(head, &cursor)?;
            if !parts.is_empty() {
                counts.elements += (parts.len() / head.kind.stride()) as u64;
                counts.bytes += parts.iter().map(Vec::len).sum::<usize>() as u64;
                let mut commands = fill(head.kind, &unfinished, &parts);
                if head.kind == Kind::Hash && self.plan.field_deadlines {
                    let names: Vec<&Vec<u8>> = parts.iter().step_by(2).collect();
                    let fields = self.field_deadlines_of(&head.key, &names).map_err(Broken::Fatal)?;
                    commands.extend(expire_fields(&unfinished, &fields));
                }
                commands.push(words(&[b"PEXPIRE", &unfinished, UNFINISHED_MS]));
                self.fill_target(commands)?;
            }
            match next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        self.name_it(head, counts)
    }

    /// One slice, and where the next begins.
    fn slice(&mut self, head: &Head, cursor: &[u8]) -> Result<Slice, Broken> {
        let key = &head.key;
        if head.kind == Kind::List {
            let from: usize =
                std::str::from_utf8(cursor).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            let to = from + WHOLE_ELEMENTS_MAX as usize;
            let command = words(&[b"LRANGE", key, cursor, (to - 1).to_string().as_bytes()]);
            let parts = list_of(self.source_one(command)?).ok_or_else(not_understood)?;
            let next = (parts.len() == to - from).then(|| to.to_string().into_bytes());
            return Ok((next, parts));
        }
        let name: &[u8] = match head.kind {
            Kind::Hash => b"HSCAN",
            Kind::Set => b"SSCAN",
            _ => b"ZSCAN",
        };
        let answer = self.source_one(words(&[name, key, cursor, b"COUNT", SLICE]))?;
        let mut answer = items_of(answer).ok_or_else(not_understood)?.into_iter();
        let (Some(next), Some(parts)) = (answer.next().as_ref().and_then(bytes_of), answer.next()) else {
            return Err(not_understood());
        };
        Ok(((next != b"0").then_some(next), list_of(parts).ok_or_else(not_understood)?))
    }

    pub(super) fn source_one(&mut self, command: Words) -> Result<Value, Broken> {
        let answer = self.source.ask_again(&[command]).map_err(Broken::Fatal)?.pop();
        answer
            .unwrap_or_else(|| Err("no reply".into()))
            .map_err(|why| Broken::Key(format!("the source refuses to read it: {why}")))
    }

    pub(super) fn fill_target(&mut self, commands: Vec<Words>) -> Result<Vec<Value>, Broken> {
        let answers = self.target.ask(&commands).map_err(Broken::Target)?;
        let answers: Result<Vec<Value>, String> = answers.into_iter().collect();
        answers.map_err(|why| {
            if passes(&why) {
                return Broken::Target(Lost::later(why));
            }
            Broken::Key(format!("the target refuses it: {why}"))
        })
    }

    /// The collection is whole: it gets its deadline, and its name in one step.
    fn name_it(&mut self, head: &Head, counts: Counts) -> Result<(), Broken> {
        let (key, unfinished) = (&head.key, self.unfinished.clone());
        let last = self.source.ask_again(&[
            words(&[b"TIME"]),
            words(&[self.plan.deadline_command(), key]),
            words(&[head.kind.size(), key]),
        ]);
        let mut last = last.map_err(Broken::Fatal)?.into_iter().map(|answer| answer.ok());
        let mut next = || last.next().flatten();
        let now = next().and_then(wall_ms).unwrap_or(0);
        let left = next().as_ref().and_then(number_of).unwrap_or(-1);
        let size = next().as_ref().and_then(number_of).unwrap_or(0);
        let found = self.fill_target(vec![words(&[head.kind.size(), &unfinished])])?;
        let found = found.first().and_then(number_of).unwrap_or(0);
        if size == 0 || found == 0 {
            self.fill_target(vec![words(&[b"UNLINK", &unfinished])])?;
            self.tally().vanished();
            return Ok(());
        }
        let deadline = self.plan.deadline(now, left);
        let at = deadline.map(|at| at.to_string());
        let expire = match &at {
            Some(at) => words(&[b"PEXPIREAT", &unfinished, at.as_bytes()]),
            None => words(&[b"PERSIST", &unfinished]),
        };
        let keep = self.plan.existing != Existing::Replace;
        let rename: &[u8] = if keep { b"RENAMENX" } else { b"RENAME" };
        let commands = [words(&[b"MULTI"]), expire, words(&[rename, &unfinished, key]), words(&[b"EXEC"])];
        let answers = self.target.ask(&commands).map_err(Broken::Target)?;
        let results = match outcome(answers) {
            Outcome::Done(results) => results,
            Outcome::Contended => return Err(Broken::Key("EXEC answers nothing".into())),
            Outcome::Refused(why) if passes(&why) => {
                return Err(Broken::Target(Lost::later(why)));
            }
            Outcome::Refused(why) => return Err(Broken::Key(format!("the target refuses it: {why}"))),
        };
        let renamed = results.last();
        match renamed.and_then(error_of) {
            // It expired in the meantime.
            Some(_) if deadline.is_some() && matches!(results.first(), Some(Value::Int(1))) => {
                self.tally().vanished()
            }
            Some(why) => return Err(Broken::Key(format!("the target refuses it: {why}"))),
            None if matches!(renamed, Some(Value::Int(0))) => {
                self.fill_target(vec![words(&[b"UNLINK", &unfinished])])?;
                self.tally().skipped(ALREADY);
            }
            None => {
                let changed = size != found;
                let mut tally = self.tally();
                tally.sliced(self.database, key, changed);
                let elements = u64::try_from(found).unwrap_or(counts.elements);
                tally.copied(head.kind.name(), Counts { elements, ..counts }, deadline.is_some());
            }
        }
        Ok(())
    }
}

/// Why a key is skipped.
pub(super) const ALREADY: &str = "already at the target";

/// Where the next slice begins, if there is one, and the elements of this one.
type Slice = (Option<Vec<u8>>, Vec<Vec<u8>>);

/// What ends the attempt at one key.
pub(super) enum Broken {
    /// Only this key.
    Key(String),
    /// The connection to the target: the key begins anew.
    Target(Lost),
    /// Everything.
    Fatal(Failure),
}

pub(super) fn not_understood() -> Broken {
    Broken::Key("the source's answer is not understood".into())
}

#[derive(Default)]
struct Group {
    heads: Vec<Head>,
    elements: u64,
    bytes: u64,
}

impl Group {
    fn has_room(&self, head: &Head) -> bool {
        let (elements, bytes) = Self::weight(head);
        self.heads.is_empty()
            || (self.heads.len() < GROUP_KEYS_MAX
                && self.elements + elements <= GROUP_ELEMENTS_MAX
                && self.bytes + bytes <= GROUP_BYTES_MAX)
    }

    fn push(&mut self, head: Head) {
        let (elements, bytes) = Self::weight(&head);
        self.elements += elements;
        self.bytes += bytes;
        self.heads.push(head);
    }

    fn weight(head: &Head) -> (u64, u64) {
        if head.kind == Kind::String { (1, head.size) } else { (head.size, 0) }
    }
}

/// What became of MULTI … EXEC.
enum Outcome {
    Done(Vec<Value>),
    /// A watched key changed.
    Contended,
    Refused(String),
}

fn outcome(mut answers: Vec<Answer>) -> Outcome {
    match answers.pop() {
        Some(Ok(Value::Nil)) => Outcome::Contended,
        Some(Ok(value)) => match items_of(value) {
            Some(results) => Outcome::Done(results),
            None => Outcome::Refused("EXEC's answer is not understood".into()),
        },
        // The first error is the cause; EXEC's own only says that there was one.
        Some(Err(why)) => Outcome::Refused(answers.into_iter().find_map(Result::err).unwrap_or(why)),
        None => Outcome::Refused("no reply".into()),
    }
}

/// The commands that put these elements into a collection, each of a bounded size.
fn fill(kind: Kind, key: &[u8], parts: &[Vec<u8>]) -> Vec<Words> {
    let name: &[u8] = match kind {
        Kind::Hash => b"HSET",
        Kind::List => b"RPUSH",
        Kind::Set => b"SADD",
        _ => b"ZADD",
    };
    let mut commands: Vec<Words> = Vec::new();
    let (mut command, mut bytes) = (words(&[name, key]), 0);
    for element in parts.chunks(kind.stride()) {
        let size: usize = element.iter().map(Vec::len).sum();
        if command.len() > 2 && (command.len() >= WRITE_WORDS_MAX || bytes + size > WRITE_BYTES_MAX) {
            commands.push(std::mem::replace(&mut command, words(&[name, key])));
            bytes = 0;
        }
        bytes += size;
        match (kind, element) {
            // Read as member and score, written as score and member.
            (Kind::Zset, [member, score]) => command.extend([score.clone(), member.clone()]),
            _ => command.extend(element.iter().cloned()),
        }
    }
    commands.push(command);
    commands
}

fn expire_fields(key: &[u8], fields: &BTreeMap<i64, Vec<Vec<u8>>>) -> Vec<Words> {
    let one = |(at, names): (&i64, &Vec<Vec<u8>>)| {
        let (at, count) = (at.to_string(), names.len().to_string());
        let mut command = words(&[b"HPEXPIREAT", key, at.as_bytes(), b"FIELDS", count.as_bytes()]);
        command.extend(names.iter().cloned());
        command
    };
    fields.iter().map(one).collect()
}

fn each<T>(of: &[T], make: impl FnMut(&T) -> Words) -> Vec<Words> {
    of.iter().map(make).collect()
}

/// Milliseconds of the answer to TIME.
pub(super) fn wall_ms(time: Value) -> Option<i64> {
    let parts = items_of(time)?;
    let [seconds, micros] = parts.as_slice() else { return None };
    number_of(seconds)?.checked_mul(1000)?.checked_add(number_of(micros)? / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_filled_by_commands_of_bounded_size_that_keep_pairs_together() {
        let parts: Vec<Vec<u8>> = (0..5000).map(|n: u32| n.to_string().into_bytes()).collect();
        let commands = fill(Kind::Hash, b"h", &parts);
        assert!(
            commands.iter().all(|command| command.len() <= WRITE_WORDS_MAX + 2 && command.len() % 2 == 0)
        );
        let written: Vec<Vec<u8>> =
            commands.into_iter().flat_map(|command| command.into_iter().skip(2)).collect();
        assert_eq!(written, parts);
        let large = vec![vec![b'x'; WRITE_BYTES_MAX]; 3];
        assert_eq!(fill(Kind::List, b"l", &large).len(), 3);
        let scored = fill(Kind::Zset, b"z", &[b"member".to_vec(), b"1.5".to_vec()]);
        assert_eq!(scored, [words(&[b"ZADD", b"z", b"1.5", b"member"])]);
    }

    #[test]
    fn a_group_is_bounded_and_takes_at_least_one_key() {
        let head = |kind, size| Head { key: b"k".to_vec(), kind, size };
        let mut group = Group::default();
        assert!(group.has_room(&head(Kind::String, 512 << 20)));
        group.push(head(Kind::String, GROUP_BYTES_MAX));
        assert!(!group.has_room(&head(Kind::String, 1)));
        let mut group = Group::default();
        group.push(head(Kind::Set, GROUP_ELEMENTS_MAX));
        assert!(!group.has_room(&head(Kind::Set, 1)));
    }

    #[test]
    fn the_time_of_a_server_is_in_milliseconds() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(wall_ms(Value::Array(vec![bulk("1700000000"), bulk("123456")])), Some(1_700_000_000_123));
        assert_eq!(wall_ms(Value::Nil), None);
    }
}
