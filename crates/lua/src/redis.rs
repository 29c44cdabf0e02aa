//! The library `redis` (also `server`): calls of commands, and what else Redis gives its scripts.
//!
//! Invariant: a call of a script that runs again from its start is answered from the tape, so no command has its effect twice.
//! Called by: `state`, which puts it into a library table and the calls into each run.

use crate::convert::{one_line, to_lua};
use crate::meter::{Args, Meter, Stop, aborted, float, raise_value};
use crate::number;
use mlua::{Error as LuaError, Lua, MultiValue, Result, Table, Value};
use quorate_calls::{Error, Host};
use quorate_types::{Blob, Reply};
use sha1::{Digest, Sha1};
use std::sync::Arc;

/// What a call costs, in units, beside its bytes.
const CALL_UNITS: u64 = 100;
/// The version whose behaviour scripts find.
const VERSION: (&str, i64) = ("7.4.0", 0x0007_0400);

/// The calls that a run has made, with their answers.
pub(crate) struct Tape<'a> {
    host: &'a mut dyn Host,
    calls: Vec<(Vec<Blob>, std::result::Result<Reply, Error>)>,
    at: usize,
    /// How the host aborted.
    pub(crate) abort: Option<Blob>,
}

impl<'a> Tape<'a> {
    /// A tape before the first call.
    pub(crate) fn new(host: &'a mut dyn Host) -> Self {
        Self { host, calls: Vec::new(), at: 0, abort: None }
    }
    /// Back to the first call.
    pub(crate) fn rewind(&mut self) {
        self.at = 0;
        self.abort = None;
    }
    /// Calls a command, or finds what it answered the first time.
    fn call(&mut self, words: Vec<Blob>) -> &std::result::Result<Reply, Error> {
        let at = self.at;
        self.at += 1;
        if at == self.calls.len() {
            let answer = self.host.call(&words);
            self.calls.push((words, answer));
        } else {
            assert!(self.calls[at].0 == words, "a script that runs again makes the same calls");
        }
        &self.calls[at].1
    }
}

/// `redis.call` (`raises`) or `redis.pcall`.
pub(crate) fn call(
    lua: &Lua,
    meter: &Meter,
    tape: &mut Tape<'_>,
    values: &MultiValue,
    raises: bool,
) -> Result<Value> {
    meter.charge(CALL_UNITS)?;
    let words = match words(values) {
        Ok(words) => words,
        Err(why) => return failed(lua, why.as_bytes(), raises),
    };
    meter.charge_bytes(words.iter().map(|word| word.len()).sum())?;
    match tape.call(words) {
        Ok(Reply::Error { text }) | Err(Error::Reply(text)) => {
            let text = known(text).unwrap_or_else(|| text.clone());
            failed(lua, &text, raises)
        }
        Ok(reply) => to_lua(lua, meter, reply),
        Err(Error::Abort(text)) => {
            let text = text.clone();
            tape.abort = Some(text);
            meter.halt(Stop::Host);
            Err(aborted())
        }
    }
}

/// `redis.acl_check_cmd`: whether the script's caller may run a command on these words. No user changes while a script runs, so this needs no tape.
pub(crate) fn acl_check_cmd(
    lua: &Lua,
    meter: &Meter,
    tape: &mut Tape<'_>,
    values: &MultiValue,
) -> Result<Value> {
    meter.charge(CALL_UNITS)?;
    let words = words(values).map_err(|why| refuse(lua, why))?;
    match tape.host.permitted(&words) {
        Ok(allowed) => Ok(Value::Boolean(allowed)),
        Err(why) => Err(refuse(lua, &String::from_utf8_lossy(why.text()))),
    }
}

fn words(values: &MultiValue) -> std::result::Result<Vec<Blob>, &'static str> {
    if values.is_empty() {
        return Err("ERR Please specify at least one argument for this redis lib call");
    }
    let word = |value: &Value| match value {
        Value::String(text) => Some(Blob::copy_from(&text.as_bytes())),
        Value::Integer(_) | Value::Number(_) => Some(Blob::from(number::argument(float(value)).as_bytes())),
        _ => None,
    };
    let words: Option<Vec<Blob>> = values.iter().map(word).collect();
    words.ok_or("ERR Lua redis lib command arguments must be strings or integers")
}

/// What Redis says in a script in the place of what it says to a client.
fn known(text: &Blob) -> Option<Blob> {
    if text.starts_with(b"ERR unknown command") {
        return Some(Blob::from(&b"ERR Unknown Redis command called from script"[..]));
    }
    if text.starts_with(b"ERR wrong number of arguments for ") {
        return Some(Blob::from(&b"ERR Wrong number of args calling Redis command from script"[..]));
    }
    None
}

fn failed(lua: &Lua, text: &[u8], raises: bool) -> Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("err", lua.create_string(one_line(text))?)?;
    table.raw_set("ignore_error_stats_update", true)?; // Redis' own mark, which scripts that walk the table see.
    if raises { Err(raise_value(Value::Table(table))) } else { Ok(Value::Table(table)) }
}
fn refuse(lua: &Lua, text: &str) -> LuaError {
    match failed(lua, text.as_bytes(), true) {
        Err(error) => error,
        Ok(value) => raise_value(value),
    }
}

/// The library, without the calls, which belong to a run.
pub(crate) fn library(lua: &Lua, meter: &Arc<Meter>) -> Result<Table> {
    let table = lua.create_table()?;
    for (level, name) in ["LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"].into_iter().enumerate() {
        table.raw_set(name, level)?;
    }
    for (name, flags) in
        [("REPL_NONE", 0), ("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3)]
    {
        table.raw_set(name, flags)?;
    }
    table.raw_set("REDIS_VERSION", VERSION.0)?;
    table.raw_set("REDIS_VERSION_NUM", VERSION.1)?;
    table.raw_set("SERVER_NAME", "redis")?;
    table.raw_set("SERVER_VERSION", VERSION.0)?;
    table.raw_set("SERVER_VERSION_NUM", VERSION.1)?;
    table.raw_set("call", Value::Boolean(false))?;
    table.raw_set("pcall", Value::Boolean(false))?;
    let put = |name: &'static str, work: fn(&Lua, &Meter, &MultiValue) -> Result<Value>| {
        let meter = Arc::clone(meter);
        table.raw_set(name, lua.create_function(move |lua, values: MultiValue| work(lua, &meter, &values))?)
    };
    put("error_reply", |lua, _, values| single(lua, values, "err"))?;
    put("status_reply", |lua, _, values| single(lua, values, "ok"))?;
    put("sha1hex", |lua, meter, values| {
        if values.len() != 1 {
            return Err(refuse(lua, "ERR wrong number of arguments"));
        }
        // What is no string counts as the empty one, as in Redis.
        let text = Args::new(lua, "sha1hex", values)
            .bytes(1)
            .map(|text| text.as_bytes().to_vec())
            .unwrap_or_default();
        meter.charge_bytes(text.len() * 16)?;
        Ok(Value::String(lua.create_string(hex(&sha1(&text)))?))
    })?;
    put("log", |lua, _, values| {
        if values.len() < 2 {
            return Err(refuse(lua, "ERR redis.log() requires two arguments or more."));
        }
        let Ok(level) = Args::new(lua, "log", values).number(1) else {
            return Err(refuse(lua, "ERR First argument must be a number (log level)."));
        };
        if !(0.0..4.0).contains(&level) {
            return Err(refuse(lua, "ERR Invalid debug level."));
        }
        Ok(Value::Nil) // Every replica runs the script: a line on each of them would say nothing.
    })?;
    put("setresp", |lua, meter, values| {
        if values.len() != 1 {
            return Err(refuse(lua, "ERR redis.setresp() requires one argument."));
        }
        match Args::new(lua, "setresp", values).integer(1) {
            Ok(2) => meter.set_resp3(false),
            Ok(3) => meter.set_resp3(true),
            _ => return Err(refuse(lua, "ERR RESP version must be 2 or 3.")),
        }
        Ok(Value::Nil)
    })?;
    put("replicate_commands", |_, _, _| Ok(Value::Boolean(true)))?;
    put("breakpoint", |_, _, _| Ok(Value::Boolean(false)))?;
    put("debug", |_, _, _| Ok(Value::Nil))?;
    put("set_repl", |lua, _, values| {
        if values.len() != 1 {
            return Err(refuse(lua, "ERR redis.set_repl() requires two arguments."));
        }
        if !matches!(Args::new(lua, "set_repl", values).integer(1), Ok(0..=3)) {
            return Err(refuse(
                lua,
                "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
            ));
        }
        Ok(Value::Nil)
    })?;
    table.raw_set("acl_check_cmd", Value::Boolean(false))?;
    Ok(table)
}

/// `error_reply` and `status_reply`: a table with one field. An error has a code before its text, `ERR` where none is given.
fn single(lua: &Lua, values: &MultiValue, name: &str) -> Result<Value> {
    let (true, Some(Value::String(text))) = (values.len() == 1, values.front()) else {
        return failed(lua, b"ERR wrong number or type of arguments", false);
    };
    let table = lua.create_table()?;
    if name == "ok" {
        table.raw_set(name, text)?;
        return Ok(Value::Table(table));
    }
    let bytes = text.as_bytes();
    let bytes = bytes.strip_prefix(b"-").unwrap_or(&bytes);
    let bytes = bytes.strip_suffix(b"\r\n").unwrap_or(bytes);
    let mut whole = if bytes.contains(&b' ') { Vec::new() } else { b"ERR ".to_vec() };
    whole.extend_from_slice(bytes);
    table.raw_set(name, lua.create_string(whole)?)?;
    Ok(Value::Table(table))
}

/// SHA-1 (RFC 3174).
pub(crate) fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}
/// In hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every text");
        text
    })
}
