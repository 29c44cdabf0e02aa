//! A Lua state in which scripts run one after the other, none seeing another: its libraries, its hook, its memory.
//!
//! Invariant: within a run, the collector of a shared state does not work, so nothing in it depends on what earlier runs left behind; in a
//! state of its own it works at instructions that are the same everywhere.
//! Called by: `Scripts`.

use crate::convert::{one_line, to_reply};
use crate::json::{self, Json};
use crate::meter::{Args, Meter, Stop, float, raise};
use crate::redis::{self, Tape, hex, sha1};
use crate::{msgpack, strings, structs};
use mlua::{
    Function, HookTriggers, Lua, LuaOptions, MultiValue, Result, StdLib, Table, Value, VmState,
    chunk::ChunkMode,
};
use quorate_calls::{Error, FunctionSpec, Run};
use quorate_types::{Blob, Reply};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a run may use, and how it is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Units of work.
    pub(crate) units: u64,
    /// Bytes above those in use at its start.
    pub(crate) memory_bytes: usize,
    /// Instructions between two looks.
    pub(crate) grain: u32,
    /// Bytes in use from which on the collector works; none: it does not.
    pub(crate) collect_bytes: Option<u64>,
}

/// How a run went.
pub(crate) enum Ran {
    /// To its end, or to an error of its own.
    Through(std::result::Result<Reply, Error>),
    /// It met a bound.
    Stopped(Stop),
}

/// Bytes of garbage that a shared state keeps between two runs.
const GARBAGE_BYTES_MAX: usize = 2 << 20;
/// What loading a library costs before its text runs, and bytes of the text that cost one more unit.
const LOAD_UNITS: u64 = 500;
const LOAD_UNIT_BYTES: u64 = 16;
/// Bytes allocated that cost a unit, where that is counted.
const UNIT_BYTES: u64 = 64;

pub(crate) struct State {
    lua: Lua,
    enter: Function,
    enter_library: Function,
    meter: Arc<Meter>,
    json: Json,
    used_bytes: usize,
}

impl State {
    /// A state in which nothing has run.
    pub(crate) fn new() -> Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::new().catch_rust_panics(true))?;
        lua.gc_stop();
        let (meter, json) = (Arc::new(Meter::default()), Json::default());
        let (enter, enter_library) = furnish(&lua, &meter, &json)?;
        lua.gc_collect()?;
        lua.gc_stop(); // A full collection starts the collector again.
        let used_bytes = lua.used_memory();
        Ok(Self { lua, enter, enter_library, meter, json, used_bytes })
    }

    /// A script's text as a function, or a library's.
    ///
    /// # Errors
    /// As Redis words them.
    pub(crate) fn compile(&self, text: &[u8], is_library: bool) -> std::result::Result<Function, Error> {
        let (body, name, what) = if is_library {
            // What the first line says is for who keeps libraries; its end stays, so that lines count as they are.
            let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
            (&text[end..], "@user_function", "function")
        } else {
            (after_shebang(text)?, "@user_script", "script (new function)")
        };
        load(&self.lua, body, name).map_err(|error| {
            let why = match &error {
                mlua::Error::SyntaxError { message, .. } => message.clone(),
                other => other.to_string(),
            };
            Error::Reply(one_line(format!("ERR Error compiling {what}: {why}").as_bytes()))
        })
    }

    /// Runs a library's text; the functions that it registers, and the units that took.
    ///
    /// # Errors
    /// As Redis words them.
    pub(crate) fn register(
        &self,
        main: &Function,
        text_bytes: usize,
        bounds: Bounds,
    ) -> Result<std::result::Result<(Vec<FunctionSpec>, u64), Error>> {
        let refused = |why: &[u8]| {
            Ok(Err(Error::Reply(one_line(&[b"ERR Error registering functions: ", why].concat()))))
        };
        self.meter.start(bounds.units, 0, 0);
        self.json.reset();
        let entered = self.bounded(bounds, |memory_max| {
            self.meter.charge(LOAD_UNITS + text_bytes as u64 / LOAD_UNIT_BYTES)?;
            self.lua.set_memory_limit(memory_max)?;
            self.enter_library.call::<(bool, Value)>(main.clone())
        })?;
        match entered {
            Err(Stop::Memory) => refused(b"ERR FUNCTION LOAD needs too much memory"),
            Err(Stop::Work | Stop::Host) => refused(b"ERR FUNCTION LOAD timeout"),
            Ok((true, Value::Table(all))) => Ok(Ok((registered(&all)?, self.meter.spent()))),
            Ok((_, value)) => refused(&error_text(&value)?.0),
        }
    }

    /// Runs a script.
    pub(crate) fn run(
        &self,
        run: &Run<'_>,
        main: &Function,
        tape: &mut Tape<'_>,
        wall_ms: u64,
        bounds: Bounds,
    ) -> Result<Ran> {
        self.meter.start(bounds.units, run.seed, wall_ms);
        self.json.reset();
        let entered = self.bounded(bounds, |memory_max| self.enter(run, main, tape, memory_max))?;
        let (ended, value) = match entered {
            Ok(answer) => answer,
            Err(stop) => return Ok(Ran::Stopped(stop)),
        };
        let answer =
            if ended { Ok(to_reply(&value, self.meter.resp3())?) } else { Err(failure(run, &value)?) };
        drop(value);
        Ok(Ran::Through(answer))
    }

    /// Enters the language under bounds: whether what was entered ended well, and its value; or the bound that it met.
    fn bounded(
        &self,
        bounds: Bounds,
        enter: impl FnOnce(usize) -> Result<(bool, Value)>,
    ) -> Result<std::result::Result<(bool, Value), Stop>> {
        self.watch(bounds)?;
        let before = self.lua.used_memory();
        let entered = enter(before + bounds.memory_bytes);
        self.lua.set_memory_limit(0)?;
        self.lua.remove_global_hook();
        let (ended, value) = match entered {
            Ok(answer) => answer,
            Err(mlua::Error::MemoryError(_)) => return Ok(Err(Stop::Memory)),
            // The hook may meet the bound after the script's last instruction, outside what catches its errors.
            Err(other) => return self.meter.stopped().map(Err).ok_or(other),
        };
        if !ended && matches!(&value, Value::String(text) if text.as_bytes() == b"not enough memory") {
            self.meter.halt(Stop::Memory);
        }
        Ok(self.meter.stopped().map_or(Ok((ended, value)), Err))
    }

    /// Frees what runs have left, once it is much.
    pub(crate) fn tidy(&self) -> Result<()> {
        if self.lua.used_memory() > self.used_bytes + GARBAGE_BYTES_MAX {
            self.lua.gc_collect()?;
            self.lua.gc_stop();
        }
        Ok(())
    }

    fn enter(
        &self,
        run: &Run<'_>,
        main: &Function,
        tape: &mut Tape<'_>,
        memory_max: usize,
    ) -> Result<(bool, Value)> {
        let list = |values: &[Blob]| -> Result<Table> {
            let table = self.lua.create_table_with_capacity(values.len(), 0)?;
            for (index, value) in values.iter().enumerate() {
                table.raw_set(index + 1, self.lua.create_string(value)?)?;
            }
            Ok(table)
        };
        let (keys, args) = (list(run.keys)?, list(run.args)?);
        let meter = &*self.meter;
        let tape = RefCell::new(tape);
        self.lua.scope(|scope| {
            let tape = &tape;
            let caller = |raises: bool| {
                scope.create_function(move |lua, values: MultiValue| {
                    let mut tape = tape.try_borrow_mut().map_err(|_| mlua::Error::RecursiveMutCallback)?;
                    redis::call(lua, meter, &mut tape, &values, raises)
                })
            };
            let (call, pcall) = (caller(true)?, caller(false)?);
            let check = scope.create_function(move |lua, values: MultiValue| {
                let mut tape = tape.try_borrow_mut().map_err(|_| mlua::Error::RecursiveMutCallback)?;
                redis::acl_check_cmd(lua, meter, &mut tape, &values)
            })?;
            self.lua.set_memory_limit(memory_max)?;
            match run.function {
                None => self.enter.call::<(bool, Value)>((main, keys, args, call, pcall, check)),
                Some(name) => {
                    let name = self.lua.create_string(name)?;
                    let given = (main, name, keys, args, call, pcall, check);
                    self.enter_library.call::<(bool, Value)>(given)
                }
            }
        })
    }

    /// Looks at a run every so many instructions.
    fn watch(&self, bounds: Bounds) -> Result<()> {
        let meter = Arc::clone(&self.meter);
        let triggers = HookTriggers::new().every_nth_instruction(bounds.grain);
        let (seen, floor) = (AtomicU64::new(self.lua.used_memory() as u64), AtomicU64::new(0));
        self.lua.set_global_hook(triggers, move |lua, _| {
            let mut units = u64::from(bounds.grain);
            if let Some(collect_bytes) = bounds.collect_bytes {
                let mut used = lua.used_memory() as u64;
                units += used.saturating_sub(seen.load(Relaxed)) / UNIT_BYTES;
                if used > collect_bytes.max(2 * floor.load(Relaxed)) {
                    units += used / UNIT_BYTES / 4;
                    lua.gc_collect()?;
                    lua.gc_stop();
                    used = lua.used_memory() as u64;
                    floor.store(used, Relaxed);
                }
                seen.store(used, Relaxed);
            }
            meter.charge(units)?;
            Ok(VmState::Continue)
        })
    }
}

fn load(lua: &Lua, text: &[u8], name: &str) -> Result<Function> {
    lua.load(text).set_name(name).set_mode(ChunkMode::Text).into_function()
}

/// The text after a first line `#!lua flags=…`, its line end kept so that lines count as they are.
fn after_shebang(text: &[u8]) -> std::result::Result<&[u8], Error> {
    if !text.starts_with(b"#!") {
        return Ok(text);
    }
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
        return Err(Error::reply("ERR Invalid script shebang"));
    };
    let line = String::from_utf8_lossy(&text[..end]);
    let mut parts = line.split_ascii_whitespace();
    let engine = parts.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(Error::reply(format!("ERR Unexpected engine in script shebang: {engine}").as_bytes()));
    }
    for part in parts {
        let Some(flags) = part.strip_prefix("flags=") else {
            return Err(Error::reply(format!("ERR Unknown lua shebang option: {part}").as_bytes()));
        };
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            if !["no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"]
                .contains(&flag)
            {
                return Err(Error::reply(
                    format!("ERR Unexpected flag in script shebang: {flag}").as_bytes(),
                ));
            }
        }
    }
    Ok(&text[end..])
}

/// What a script ended with, as the error that Redis answers.
fn failure(run: &Run<'_>, value: &Value) -> Result<Error> {
    let (mut whole, line) = error_text(value)?;
    let (name, source) = match run.function {
        None => (hex(&sha1(run.text)), "user_script"),
        Some(function) => (String::from_utf8_lossy(function).into_owned(), "user_function"),
    };
    let place = line.map_or_else(|| ".".to_owned(), |line| format!(", on @{source}:{line}."));
    whole.extend_from_slice(format!(" script: {name}{place}").as_bytes());
    Ok(Error::Reply(one_line(&whole)))
}

/// The text of what was raised, and its line.
fn error_text(value: &Value) -> Result<(Vec<u8>, Option<f64>)> {
    Ok(match value {
        Value::Table(table) => {
            let line: Value = table.raw_get("line")?;
            let line = matches!(line, Value::Integer(_) | Value::Number(_)).then(|| float(&line));
            match table.raw_get("err")? {
                Value::String(text) => (text.as_bytes().to_vec(), line),
                number @ (Value::Integer(_) | Value::Number(_)) => {
                    (crate::number::general(float(&number), 14).into_bytes(), line)
                }
                _ => (b"ERR unknown error".to_vec(), line),
            }
        }
        Value::String(text) => ([b"ERR ", &*text.as_bytes()].concat(), None),
        _ => (b"ERR unknown error".to_vec(), None),
    })
}

/// What a library has registered, as the prelude tells it.
fn registered(all: &Table) -> Result<Vec<FunctionSpec>> {
    let bytes = |value: Value| match value {
        Value::String(text) => Some(Blob::copy_from(&text.as_bytes())),
        _ => None,
    };
    let mut functions = Vec::with_capacity(all.raw_len());
    for row in all.sequence_values::<Table>() {
        let row = row?;
        functions.push(FunctionSpec {
            name: bytes(row.raw_get(1)?).unwrap_or_default(),
            description: bytes(row.raw_get(2)?),
            flags: row.raw_get(3)?,
        });
    }
    Ok(functions)
}

/// What the handler of errors makes of one: a table with its text and its line.
fn handle(lua: &Lua, meter: &Meter, failure: Value) -> Result<Value> {
    if meter.stopped().is_some() {
        return Ok(Value::Nil);
    }
    let failure = match meter.settle(lua, failure) {
        Ok(value) => value,
        Err(_) => return Ok(Value::Nil), // Aborted: nobody will read it.
    };
    let table = match failure {
        Value::Table(table) => table,
        other => {
            let table = lua.create_table()?;
            let mut text = b"ERR ".to_vec();
            match &other {
                Value::String(why) => text.extend_from_slice(&why.as_bytes()),
                number @ (Value::Integer(_) | Value::Number(_)) => {
                    text.extend_from_slice(crate::number::general(float(number), 14).as_bytes());
                }
                Value::Boolean(on) => text.extend_from_slice(if *on { b"true" } else { b"false" }),
                other => text.extend_from_slice(crate::meter::type_name(other).as_bytes()),
            }
            table.raw_set("err", lua.create_string(text)?)?;
            table
        }
    };
    for level in 1..200 {
        let line = lua.inspect_stack(level, |frame| {
            let source = frame.source().source;
            let here = source.is_some_and(|source| matches!(&*source, "@user_script" | "@user_function"));
            here.then(|| frame.current_line()).flatten()
        });
        match line {
            None => break,
            Some(None) => {}
            Some(Some(line)) => {
                table.raw_set("line", line)?;
                break;
            }
        }
    }
    Ok(Value::Table(table))
}

/// Puts the libraries into a state. Gives the functions through which runs enter: of scripts, and of functions.
fn furnish(lua: &Lua, meter: &Arc<Meter>, json: &Json) -> Result<(Function, Function)> {
    let globals = lua.globals();
    let raw = lua.create_table()?;
    for name in [
        "assert",
        "error",
        "getmetatable",
        "ipairs",
        "next",
        "pcall",
        "rawequal",
        "rawget",
        "rawset",
        "select",
        "setfenv",
        "setmetatable",
        "tonumber",
        "tostring",
        "type",
        "xpcall",
    ] {
        raw.raw_set(name, globals.raw_get::<Function>(name)?)?;
    }
    let [string, table, math, coroutine] =
        ["string", "table", "math", "coroutine"].map(|name| globals.raw_get::<Table>(name));
    let (string, table, math, coroutine) = (string?, table?, math?, coroutine?);
    for (library, names) in [
        (&string, &["format", "sub", "find", "lower"][..]),
        (&coroutine, &["create", "resume"]),
        (&table, &["concat", "sort"]),
    ] {
        for name in names {
            raw.raw_set(*name, library.raw_get::<Function>(*name)?)?;
        }
    }
    let native = lua.create_table()?;
    natives(lua, &native, meter)?;
    let raw_pcall: Function = raw.raw_get("pcall")?;
    strings::install(lua, &string, &raw_pcall, meter)?;
    for (name, cost) in [
        ("insert", (|values| if values.len() > 2 { table_len(values) } else { 1 }) as fn(&MultiValue) -> u64),
        ("remove", |values| if values.len() > 1 { table_len(values) } else { 1 }),
        ("concat", |values| table_len(values) * 4),
        ("sort", |values| table_len(values) * 16),
        ("maxn", |values| table_len(values) * 2),
    ] {
        let charged = strings::charged(lua, name, table.raw_get(name)?, &raw_pcall, meter, cost)?;
        table.raw_set(name, charged)?;
    }
    let unpack = strings::charged(lua, "unpack", globals.raw_get("unpack")?, &raw_pcall, meter, |values| {
        let end = values.get(2).map_or_else(|| table_len(values), |end| float(end).clamp(0.0, 8000.0) as u64);
        end / 4
    })?;
    native.raw_set("unpack", unpack)?;
    let format = strings::charged(lua, "format", string.raw_get("format")?, &raw_pcall, meter, |values| {
        let bytes = values
            .iter()
            .map(|value| if let Value::String(text) = value { text.as_bytes().len() } else { 8 });
        bytes.sum::<usize>() as u64 / 8
    })?;
    string.raw_set("format", format)?;
    let lib = lua.create_table()?;
    for (name, library) in [
        ("string", string),
        ("table", table),
        ("math", math),
        ("coroutine", coroutine),
        ("cjson", json::library(lua, meter, json)?),
        ("cmsgpack", msgpack::library(lua, meter)?),
        ("struct", structs::structs(lua, meter)?),
        ("bit", structs::bits(lua)?),
        ("redis", redis::library(lua, meter)?),
        ("os", clock(lua, meter)?),
    ] {
        lib.raw_set(name, library)?;
    }
    let prelude = load(lua, include_bytes!("prelude.lua"), "=prelude")?;
    prelude.call((native, lib, raw))
}

fn table_len(values: &MultiValue) -> u64 {
    match values.front() {
        Some(Value::Table(table)) => table.raw_len() as u64,
        _ => 0,
    }
}

fn natives(lua: &Lua, native: &Table, meter: &Arc<Meter>) -> Result<()> {
    native.raw_set("null", Value::NULL)?;
    let shared = Arc::clone(meter);
    native.raw_set("settle", lua.create_function(move |lua, failure: Value| shared.settle(lua, failure))?)?;
    let shared = Arc::clone(meter);
    native
        .raw_set("handler", lua.create_function(move |lua, failure: Value| handle(lua, &shared, failure))?)?;
    let shared = Arc::clone(meter);
    native.raw_set("charge", lua.create_function(move |_, units: u64| shared.charge(units))?)?;
    let shared = Arc::clone(meter);
    native.raw_set(
        "compile",
        lua.create_function(move |lua, values: MultiValue| {
            let args = Args::new(lua, "loadstring", &values);
            let text = args.bytes(1)?;
            let text = text.as_bytes();
            shared.charge(100 + text.len() as u64)?;
            let name = if args.none(2) {
                String::from_utf8_lossy(&text).into_owned()
            } else {
                String::from_utf8_lossy(&args.bytes(2)?.as_bytes()).into_owned()
            };
            // mlua stops at a name with a zero byte; the language does so silently.
            let name = name.split('\0').next().unwrap_or_default().to_owned();
            match load(lua, &text, &name) {
                Ok(function) => Ok((Value::Function(function), Value::Nil)),
                Err(mlua::Error::SyntaxError { message, .. }) => {
                    Ok((Value::Nil, Value::String(lua.create_string(message)?)))
                }
                Err(other) => Err(other),
            }
        })?,
    )?;
    let shared = Arc::clone(meter);
    native.raw_set(
        "random",
        lua.create_function(move |lua, values: MultiValue| {
            let args = Args::new(lua, "random", &values);
            let part = (shared.roll() >> 11) as f64 / (1_u64 << 53) as f64;
            let (low, high, place) = match args.len() {
                0 => return Ok(part),
                1 => (1, args.integer(1)?, 1),
                2 => (args.integer(1)?, args.integer(2)?, 2),
                _ => return Err(raise(lua, "wrong number of arguments")),
            };
            if low > high {
                return Err(args.bad(place, "interval is empty"));
            }
            Ok((part * (high as f64 - low as f64 + 1.0)).floor() + low as f64)
        })?,
    )?;
    let shared = Arc::clone(meter);
    native.raw_set(
        "randomseed",
        lua.create_function(move |lua, values: MultiValue| {
            shared.reseed(Args::new(lua, "randomseed", &values).integer(1)? as u64);
            Ok(())
        })?,
    )
}

/// The library `os`: only a clock, which stands still during a run.
fn clock(lua: &Lua, meter: &Arc<Meter>) -> Result<Table> {
    let table = lua.create_table()?;
    let shared = Arc::clone(meter);
    table.raw_set("clock", lua.create_function(move |_, ()| Ok(shared.wall_seconds()))?)?;
    Ok(table)
}
