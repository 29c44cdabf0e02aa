//! Scripts: EVAL and its kin, and what a running script may call.
//!
//! Invariant: a script's calls are those of its commit: what it changed stands when it ends with an error, and goes when it goes over its budget.
//! Called by: `call`, through the table.

use crate::args::{int, is};
use crate::call::ITEM;
use crate::table::{Flags, Kind, check, lookup};
use crate::{Error, Host, NoScripts, Run, Session, Store, Writing};
use quorate_types::{Blob, Reply, WallTime};

type Answer = Result<Reply, Error>;

pub(crate) fn eval(w: &mut Writing<'_>) -> Answer {
    eval_text(w, false)
}

pub(crate) fn eval_ro(w: &mut Writing<'_>) -> Answer {
    eval_text(w, true)
}

fn eval_text(w: &mut Writing<'_>, read_only: bool) -> Answer {
    let arguments = Arguments::read(w.words)?;
    let text = &w.words[1];
    keep(w, text)?;
    run(w, text, &arguments, read_only)
}

pub(crate) fn evalsha(w: &mut Writing<'_>) -> Answer {
    eval_sha(w, false)
}

pub(crate) fn evalsha_ro(w: &mut Writing<'_>) -> Answer {
    eval_sha(w, true)
}

fn eval_sha(w: &mut Writing<'_>, read_only: bool) -> Answer {
    let unknown = || Error::reply("NOSCRIPT No matching script. Please use EVAL.");
    let sha = from_hex(&w.words[1]).ok_or_else(unknown)?;
    let arguments = Arguments::read(w.words)?;
    let text = w.store.script(&sha).cloned().ok_or_else(unknown)?;
    run(w, &text, &arguments, read_only)
}

/// Keeps a text for EVALSHA, if it is a script; its SHA-1.
fn keep(w: &mut Writing<'_>, text: &Blob) -> Result<[u8; 20], Error> {
    let sha = w.interpreter.sha1(text);
    if w.store.script(&sha).is_none() {
        w.interpreter.check(&Shebang::read(text)?.script)?;
        w.store.keep_script(sha, text.clone());
    }
    Ok(sha)
}

/// KEYS and ARGV.
struct Arguments<'a> {
    keys: &'a [Blob],
    args: &'a [Blob],
}

impl<'a> Arguments<'a> {
    fn read(words: &'a [Blob]) -> Result<Self, Error> {
        let count = int(&words[2])?;
        let count =
            usize::try_from(count).map_err(|_| Error::reply("ERR Number of keys can't be negative"))?;
        let rest = &words[3..];
        if count > rest.len() {
            return Err(Error::reply("ERR Number of keys can't be greater than number of args"));
        }
        let (keys, args) = rest.split_at(count);
        Ok(Self { keys, args })
    }
}

fn run(w: &mut Writing<'_>, text: &Blob, arguments: &Arguments<'_>, read_only: bool) -> Answer {
    let shebang = Shebang::read(text)?;
    let seed = w.store.random();
    let run = Run { text: &shebang.script, keys: arguments.keys, args: arguments.args, seed, function: None };
    let asks_first = shebang.is_there && !shebang.no_writes;
    let room = Room { asks_first, allow_oom: shebang.allow_oom };
    room.ask(w)?;
    // One without a first line has said nothing: its writes are refused one by one.
    may_only_read(read_only, shebang.is_there && !shebang.no_writes)?;
    hosted(w, &run, read_only || shebang.no_writes, room)
}

/// Refuses what has not said that it only reads, where only that may run.
pub(crate) fn may_only_read(read_only: bool, may_write: bool) -> Result<(), Error> {
    if read_only && may_write {
        return Err(Error::reply("ERR Can not execute a script with write flag using *_ro command."));
    }
    Ok(())
}

/// What a script or function says of memory.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// It is refused as a whole where its keyspace is full: it has said what it is, and not that it only reads.
    pub(crate) asks_first: bool,
    /// It minds no limit.
    pub(crate) allow_oom: bool,
}

impl Room {
    /// Refuses what may not run while its keyspace is full, before anything else is asked of it.
    pub(crate) fn ask(self, w: &Writing<'_>) -> Result<(), Error> {
        if self.asks_first && !self.allow_oom && w.store.is_full(w.session.space) {
            return Err(Error::reply(crate::OUT_OF_MEMORY));
        }
        Ok(())
    }
}

/// Runs a script, or a function of a library.
pub(crate) fn hosted(w: &mut Writing<'_>, run: &Run<'_>, read_only: bool, room: Room) -> Answer {
    let mut session = w.session.script();
    session.minds_room &= !room.allow_oom;
    let mut host = Running { store: &mut *w.store, session, read_only, abort: None };
    let ended = w.interpreter.run(run, &mut host);
    let Running { session, abort, .. } = host;
    w.session.adopt(&session);
    match (abort, ended) {
        // A script cannot catch what takes it back.
        (Some(abort), _) | (None, Err(abort @ Error::Abort(_))) => Err(abort),
        (None, Ok(reply)) => Ok(reply),
        // What it did before the error stands, so this is an answer, not a refusal.
        (None, Err(Error::Reply(text))) => Ok(Reply::Error { text }),
    }
}

/// A running script's way to the store.
struct Running<'a> {
    store: &'a mut dyn Store,
    session: Session,
    read_only: bool,
    abort: Option<Error>,
}

/// How many values a reply is made of, itself not counted.
fn items(reply: &Reply) -> u64 {
    match reply {
        Reply::Array { items }
        | Reply::Set { items }
        | Reply::Map { items }
        | Reply::Named { items }
        | Reply::Pairs { items } => items.0.iter().map(|item| 1 + self::items(item)).sum(),
        _ => 0,
    }
}

impl Host for Running<'_> {
    fn call(&mut self, words: &[Blob]) -> Result<Reply, Error> {
        if let Some(abort) = &self.abort {
            return Err(abort.clone());
        }
        self.allowed(words)?;
        if is(&words[0], "SELECT") {
            self.session.space = self.session.database(&words[1])?;
            return Ok(Reply::ok());
        }
        let answer = crate::write(self.store, &mut NoScripts, &mut self.session, words)
            .and_then(|reply| crate::streams::for_script(self.store, reply))
            .and_then(|reply| self.session.spend(ITEM * items(&reply)).map(|()| reply))
            .map_err(of_script);
        // What it has begun it may finish, so that memory never cuts a script in half; as Redis has it.
        let writes = lookup(&words[0]).is_some_and(|spec| matches!(spec.kind, Kind::Write(_)));
        let refused = matches!(&answer, Err(error) if **error.text() == *crate::OUT_OF_MEMORY.as_bytes());
        self.session.minds_room &= !writes || refused;
        if let Err(abort @ Error::Abort(_)) = &answer {
            self.abort = Some(abort.clone());
        }
        answer
    }

    fn permitted(&self, words: &[Blob]) -> Result<bool, Error> {
        let invalid = || Error::reply("ERR Invalid command passed to redis.acl_check_cmd()");
        let name = words.first().ok_or_else(invalid)?;
        let mut spec = lookup(name).ok_or_else(invalid)?;
        if matches!(spec.kind, Kind::Container) && words.len() > 1 {
            spec = lookup(&[spec.name.as_bytes(), b"|", &words[1]].concat()).ok_or_else(invalid)?;
        }
        Ok(self.store.permit(spec, self.session.space, words).is_ok())
    }

    fn wall(&self) -> WallTime {
        self.store.wall()
    }
}

/// What is not allowed is said to scripts in words of its own.
fn of_script(error: Error) -> Error {
    match error.text().strip_prefix(b"NOPERM ") {
        Some(why) => Error::reply([b"ERR ACL failure in script: ", why].concat()),
        None => error,
    }
}

impl Running<'_> {
    /// Whether a script may call this; in Redis' words for scripts.
    fn allowed(&self, words: &[Blob]) -> Result<(), Error> {
        if words.first().and_then(|name| lookup(name)).is_none() {
            return Err(Error::reply("ERR Unknown Redis command called from script"));
        }
        let spec = check(words).map_err(|error| {
            let arity = error.text().starts_with(b"ERR wrong number");
            if arity {
                Error::reply("ERR Wrong number of args calling Redis command from script")
            } else {
                error
            }
        })?;
        let is_select = spec.name == "select";
        if spec.flags.has(Flags::NOSCRIPT) || (matches!(spec.kind, Kind::Connection) && !is_select) {
            return Err(Error::reply("ERR This Redis command is not allowed from script"));
        }
        if self.read_only && matches!(spec.kind, Kind::Write(_)) {
            return Err(Error::reply("ERR Write commands are not allowed from read-only scripts."));
        }
        Ok(())
    }
}

/// What a script's first line, if it begins with `#!`, says of it.
struct Shebang {
    /// Whether there is one.
    is_there: bool,
    no_writes: bool,
    allow_oom: bool,
    /// The text without that line, whose end stays so that lines keep their numbers.
    script: Blob,
}

impl Shebang {
    fn read(text: &Blob) -> Result<Self, Error> {
        if !text.starts_with(b"#!") {
            return Ok(Self { is_there: false, no_writes: false, allow_oom: false, script: text.clone() });
        }
        let end = text.iter().position(|byte| *byte == b'\n');
        let (line, script) = text.split_at(end.ok_or_else(|| Error::reply("ERR Invalid script shebang"))?);
        let mut shebang = Self { is_there: true, no_writes: false, allow_oom: false, script: script.into() };
        let line = &line[2..];
        let line = String::from_utf8_lossy(line);
        let mut parts = line.split_ascii_whitespace();
        let engine = parts.next().unwrap_or_default();
        if !engine.eq_ignore_ascii_case("lua") {
            return Err(Error::reply(format!("ERR Unexpected engine in script shebang: {engine}")));
        }
        for part in parts {
            let Some(flags) = part.strip_prefix("flags=") else {
                return Err(Error::reply(format!("ERR Unknown lua shebang option: {part}")));
            };
            for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
                match flag {
                    "no-writes" => shebang.no_writes = true,
                    "allow-oom" => shebang.allow_oom = true,
                    "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                    _ => return Err(Error::reply(format!("ERR Unexpected flag in script shebang: {flag}"))),
                }
            }
        }
        Ok(shebang)
    }
}

pub(crate) fn load(w: &mut Writing<'_>) -> Answer {
    let sha = keep(w, &w.words[2])?;
    Ok(Reply::bulk(to_hex(&sha)))
}

pub(crate) fn exists(r: &mut crate::Reading<'_>) -> Answer {
    let there = |word: &Blob| Reply::flag(from_hex(word).is_some_and(|sha| r.look.script(&sha).is_some()));
    Ok(Reply::array(r.words[2..].iter().map(there).collect()))
}

pub(crate) fn flush(w: &mut Writing<'_>) -> Answer {
    match &w.words[2..] {
        [] => {}
        [mode] if is(mode, "SYNC") || is(mode, "ASYNC") => {}
        _ => return Err(Error::reply("ERR SCRIPT FLUSH only support SYNC|ASYNC option")),
    }
    w.store.forget_scripts();
    Ok(Reply::ok())
}

/// A script runs inside the turn that answers; none is ever found running.
pub(crate) fn kill(_: &mut crate::Reading<'_>) -> Answer {
    Err(Error::reply("NOTBUSY No scripts in execution right now."))
}

pub(crate) fn help(_: &mut crate::Reading<'_>) -> Answer {
    Ok(crate::keys::help(&[
        "SCRIPT EXISTS sha1 [sha1 ...]",
        "SCRIPT FLUSH [ASYNC|SYNC]",
        "SCRIPT KILL",
        "SCRIPT LOAD script",
        "SCRIPT HELP",
    ]))
}

fn to_hex(sha: &[u8; 20]) -> String {
    sha.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(word: &[u8]) -> Option<[u8; 20]> {
    if word.len() != 40 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut sha = [0; 20];
    for (byte, pair) in sha.iter_mut().zip(word.chunks_exact(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).expect("two hexadecimal digits");
    }
    Some(sha)
}
