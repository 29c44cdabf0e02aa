//! A store in memory, and a session that reads commands as people write them and shows replies as text.
//!
//! Called by: the tests of this folder.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use quorate_calls::collections::{Change, Changed, Value};
use quorate_calls::permissions::{WRITES, touches};
use quorate_calls::{Deadline, Error, Found, Interpreter, Library, Look, NoScripts, Session, Spec, Store};
use quorate_types::{Blob, Key, Keyspace, LogTime, Millis, Reply, WallTime};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Keys in a map, with places of their own.
#[derive(Default)]
pub struct Memory {
    keys: BTreeMap<Key, (Value, Option<Deadline>)>,
    places: BTreeMap<Keyspace, Vec<Option<Blob>>>,
    pub scripts: BTreeMap<[u8; 20], Blob>,
    pub libraries: BTreeMap<Blob, Library>,
    pub published: Vec<(Blob, Blob, bool)>,
    /// Names that may not be written.
    pub protected: Vec<Blob>,
    /// Names that stand for streams.
    pub streams: Vec<Blob>,
    /// How often something was changed.
    pub changes: u64,
    pub time: LogTime,
    pub wall: WallTime,
    random: u64,
    /// What the command in hand was permitted to do, by name; everything without. Whatever it looks at or changes beyond fails the test: nobody would
    /// have been asked whether it may.
    permitted: RefCell<Option<BTreeMap<Blob, u8>>>,
}

impl Memory {
    fn may(&self, key: &Key, does: u8) {
        if let Some(permitted) = &*self.permitted.borrow() {
            let found = permitted.get(&key.name).copied();
            let asked = found.is_some_and(|done| does == 0 || done & does == does);
            assert!(asked, "{key} is used ({does}) and was not asked for: {permitted:?}");
        }
    }

    pub fn new() -> Self {
        Self { wall: WallTime(1_700_000_000_000), time: LogTime(5_000_000_000), ..Self::default() }
    }

    /// Lets time pass, and ends what is due.
    pub fn advance(&mut self, millis: u64) {
        self.time = self.time.plus(Millis(millis));
        self.wall = self.wall.plus(Millis(millis));
        let (time, wall) = (self.time, self.wall);
        let due = |deadline: &Option<Deadline>| match deadline {
            Some(Deadline::Log(at)) => *at <= time,
            Some(Deadline::Wall(at)) => *at <= wall,
            None => false,
        };
        let due: Vec<Key> =
            self.keys.iter().filter(|(_, (_, d))| due(d)).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.forget(&key);
        }
        let timed: Vec<Key> = self.keys.keys().cloned().collect();
        for key in timed {
            let (value, _) = self.keys.get_mut(&key).unwrap();
            let due = value.timed().map(|timed| timed.due(wall, time, usize::MAX)).unwrap_or_default();
            for field in due {
                value.apply(Change::HashRemove { field }).unwrap();
            }
            if value.is_empty() {
                self.forget(&key);
            }
        }
    }

    pub fn deadline_of(&self, name: &str) -> Option<Deadline> {
        self.keys.get(&Key::new(name)).and_then(|(_, deadline)| *deadline)
    }

    fn remember(&mut self, key: &Key) {
        let places = self.places.entry(key.space).or_default();
        if !places.iter().any(|place| place.as_ref() == Some(&key.name)) {
            match places.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(key.name.clone()),
                None => places.push(Some(key.name.clone())),
            }
        }
    }

    fn forget(&mut self, key: &Key) -> Option<(Value, Option<Deadline>)> {
        let gone = self.keys.remove(key)?;
        let places = self.places.get_mut(&key.space).unwrap();
        *places.iter_mut().find(|place| place.as_ref() == Some(&key.name)).unwrap() = None;
        Some(gone)
    }
}

impl Look for Memory {
    fn wall(&self) -> WallTime {
        self.wall
    }
    fn time(&self) -> LogTime {
        self.time
    }
    fn find(&self, key: &Key) -> Option<Found<'_>> {
        self.may(key, 0);
        if self.streams.contains(&key.name) {
            return Some(Found::Stream);
        }
        self.keys.get(key).map(|(value, _)| value.found(self.wall, self.time))
    }
    fn deadline(&self, key: &Key) -> Option<Deadline> {
        self.may(key, 0);
        self.keys.get(key).and_then(|(_, deadline)| *deadline)
    }
    fn keys(&self, space: Keyspace) -> u64 {
        self.keys.keys().filter(|key| key.space == space).count() as u64
    }
    fn scan(&self, space: Keyspace, cursor: u64, max: usize) -> (Vec<Blob>, u64) {
        let empty = Vec::new();
        let places = self.places.get(&space).unwrap_or(&empty);
        let from = (cursor as usize).min(places.len());
        let to = (from + max).min(places.len());
        (places[from..to].iter().flatten().cloned().collect(), if to == places.len() { 0 } else { to as u64 })
    }
    fn random_key(&self, space: Keyspace, random: u64) -> Option<Blob> {
        let keys: Vec<_> = self.keys.keys().filter(|key| key.space == space).collect();
        if keys.is_empty() { None } else { Some(keys[(random % keys.len() as u64) as usize].name.clone()) }
    }
    fn permit(&self, spec: &Spec, _space: Keyspace, words: &[Blob]) -> Result<(), Error> {
        // Patterns of SORT name keys that no word is: it takes the right to read all of them.
        let patterns = |word: &Blob| word.eq_ignore_ascii_case(b"BY") || word.eq_ignore_ascii_case(b"GET");
        // SCAN and its like see names that a store shows: it leaves out those that one may not.
        let any = matches!(spec.name, "scan" | "keys" | "randomkey")
            || matches!(spec.name, "sort" | "sort_ro") && words.iter().any(patterns);
        let touched = touches(spec, words).filter(|_| !any);
        let named = touched.map(|touched| {
            let mut named: BTreeMap<Blob, u8> = BTreeMap::new();
            touched.into_iter().for_each(|(at, done)| *named.entry(words[at].clone()).or_default() |= done);
            named
        });
        *self.permitted.borrow_mut() = named;
        Ok(())
    }
    fn script(&self, sha: &[u8; 20]) -> Option<&Blob> {
        self.scripts.get(sha)
    }
    fn library(&self, name: &Blob) -> Option<&Library> {
        self.libraries.get(name)
    }
    fn libraries(&self) -> Vec<Blob> {
        self.libraries.keys().cloned().collect()
    }
    fn library_of(&self, function: &Blob) -> Option<&Library> {
        let named = |library: &&Library| {
            library.functions.iter().any(|other| other.name.eq_ignore_ascii_case(function))
        };
        self.libraries.values().find(named)
    }
}

impl Store for Memory {
    fn may_write(&self, key: &Key) -> Result<(), Error> {
        self.may(key, WRITES);
        if self.protected.contains(&key.name) { Err(Error::reply("PROTECTED this key")) } else { Ok(()) }
    }
    fn put(&mut self, key: &Key, value: Value, deadline: Option<Deadline>) -> Result<(), Error> {
        self.may_write(key)?;
        assert!(!value.is_empty(), "an empty collection is put at {key}");
        self.changes += 1;
        self.keys.insert(key.clone(), (value, deadline));
        self.remember(key);
        Ok(())
    }
    fn change(&mut self, key: &Key, change: Change) -> Result<Changed, Error> {
        self.may_write(key)?;
        if self.streams.contains(&key.name) {
            return Err(Error::wrong_type());
        }
        let there = self.keys.contains_key(key);
        if !there {
            self.keys.insert(key.clone(), (Value::empty_for(&change), None));
            self.remember(key);
        }
        let (value, _) = self.keys.get_mut(key).unwrap();
        let (changed, undo) = value.apply(change).ok_or_else(Error::wrong_type)?;
        self.changes += u64::from(undo.is_some());
        if value.is_empty() {
            self.forget(key);
        }
        Ok(changed)
    }
    fn delete(&mut self, key: &Key) -> Result<bool, Error> {
        self.may_write(key)?;
        let there = self.forget(key).is_some();
        self.changes += u64::from(there);
        Ok(there)
    }
    fn take(&mut self, key: &Key) -> Result<Option<(Value, Option<Deadline>)>, Error> {
        self.may_write(key)?;
        self.changes += 1;
        Ok(self.forget(key))
    }
    fn set_deadline(&mut self, key: &Key, deadline: Option<Deadline>) -> Result<(), Error> {
        self.may_write(key)?;
        self.changes += 1;
        self.keys.get_mut(key).expect("only keys that are there get a deadline").1 = deadline;
        Ok(())
    }
    fn clear(&mut self, space: Keyspace) -> Result<(), Error> {
        self.changes += 1;
        self.keys.retain(|key, _| key.space != space);
        self.places.remove(&space);
        Ok(())
    }
    fn random(&mut self) -> u64 {
        self.random += 1;
        self.random.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    fn publish(&mut self, channel: Blob, message: Blob, sharded: bool) {
        self.published.push((channel, message, sharded));
    }
    fn keep_script(&mut self, sha: [u8; 20], text: Blob) {
        self.scripts.insert(sha, text);
    }
    fn forget_scripts(&mut self) {
        self.scripts.clear();
    }
    fn put_library(&mut self, name: &Blob, library: Option<Library>) {
        match library {
            Some(library) => self.libraries.insert(name.clone(), library),
            None => self.libraries.remove(name),
        };
    }
}

/// A store and who talks to it.
pub struct Redis {
    pub store: Memory,
    pub session: Session,
    pub interpreter: Box<dyn Interpreter>,
}

impl Redis {
    pub fn new() -> Self {
        Self {
            store: Memory::new(),
            session: Session::new(Keyspace::DEFAULT),
            interpreter: Box::new(NoScripts),
        }
    }

    pub fn call(&mut self, words: &[Blob]) -> Reply {
        let before = self.store.changes;
        // Each line is a commit of its own.
        self.session = self.session.clone().after(0);
        *self.store.permitted.borrow_mut() = None;
        match quorate_calls::write(&mut self.store, &mut *self.interpreter, &mut self.session, words) {
            Ok(reply) => reply,
            Err(error) => {
                let aborted = matches!(error, Error::Abort(_));
                assert!(
                    aborted || self.store.changes == before,
                    "{words:?} failed after a change: {error:?}"
                );
                Reply::error(error.text().clone())
            }
        }
    }

    /// Executes a line as redis-cli reads it; its reply as text.
    pub fn run(&mut self, line: &str) -> String {
        show(&self.call(&words(line)))
    }

    /// Executes each line on the left and demands the reply on the right.
    #[track_caller]
    pub fn transcript(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (command, wanted) = line.split_once(" → ").unwrap_or((line, "OK"));
            assert_eq!(self.run(command.trim()), wanted.trim(), "{command}");
        }
    }
}

/// Words between blanks; quotes hold words together, `\xNN` is a byte.
pub fn words(line: &str) -> Vec<Blob> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), Vec::new(), false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(Blob::from(std::mem::take(&mut word)));
                }
                any = false;
            }
            '\\' => {
                assert_eq!(chars.next(), Some('x'));
                let hex: String = chars.by_ref().take(2).collect();
                word.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            c => word.extend(c.to_string().as_bytes()),
        }
    }
    if any || !word.is_empty() {
        words.push(Blob::from(word));
    }
    words
}

/// A reply as text: bulks in quotes, numbers bare, doubles with a comma, lists in brackets, sets and maps in braces.
pub fn show(reply: &Reply) -> String {
    let list = |items: &[Reply]| items.iter().map(show).collect::<Vec<_>>().join(" ");
    match reply {
        Reply::Nil => "nil".into(),
        Reply::NilArray => "nil[]".into(),
        Reply::Status { text } => text.to_string(),
        Reply::Error { text } => format!("-{text}"),
        Reply::Integer { value } => value.to_string(),
        Reply::Double { value } => format!(",{value}"),
        Reply::Boolean { value } => format!("#{value}"),
        Reply::Bulk { value } | Reply::Verbatim { text: value, .. } => format!("\"{value}\""),
        Reply::Array { items } => format!("[{}]", list(&items.0)),
        Reply::Set { items } => {
            let mut shown: Vec<_> = items.0.iter().map(show).collect();
            shown.sort();
            format!("{{{}}}", shown.join(" "))
        }
        Reply::Record { id, .. } => format!("record {id}"),
        Reply::Map { items } | Reply::Named { items } => {
            let mut shown: Vec<_> =
                items.0.chunks(2).map(|p| format!("{}: {}", show(&p[0]), show(&p[1]))).collect();
            shown.sort();
            format!("{{{}}}", shown.join(", "))
        }
        Reply::Pairs { items } => {
            let shown: Vec<_> =
                items.0.chunks(2).map(|p| format!("[{} {}]", show(&p[0]), show(&p[1]))).collect();
            format!("[{}]", shown.join(" "))
        }
    }
}
