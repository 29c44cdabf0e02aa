//! What a run may still spend, and how it fails: the counters that the host's functions share with the state they live in.
//!
//! Invariant: once a run is aborted it stays so: every charge, hook and `pcall` after that raises again, so a script cannot catch it.
//! Called by: `state` (hooks, start and end of a run) and every library function that works longer than one instruction's time.

use mlua::{Error, Lua, MultiValue, Value};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

/// Why a run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Too much work.
    Work,
    /// Too much memory.
    Memory,
    /// A command that it called went over its own budget.
    Host,
}

/// The counters of a run.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    units: AtomicU64,
    units_max: AtomicU64,
    stop: AtomicU8,
    dice: AtomicU64,
    resp3: AtomicBool,
    wall_ms: AtomicU64,
}

impl Meter {
    /// Starts a run that may use `units_max` units: one for a VM instruction, or for about as much work elsewhere.
    pub(crate) fn start(&self, units_max: u64, seed: u64, wall_ms: u64) {
        self.units.store(0, Relaxed);
        self.units_max.store(units_max, Relaxed);
        self.stop.store(0, Relaxed);
        self.dice.store(seed, Relaxed);
        self.resp3.store(false, Relaxed);
        self.wall_ms.store(wall_ms, Relaxed);
    }
    /// Spends units.
    pub(crate) fn charge(&self, units: u64) -> Result<(), Error> {
        let spent = self.units.load(Relaxed).saturating_add(units);
        self.units.store(spent, Relaxed);
        if spent > self.units_max.load(Relaxed) {
            self.halt(Stop::Work);
        }
        match self.stopped() {
            None => Ok(()),
            Some(_) => Err(aborted()),
        }
    }
    /// Units spent since the start of the run.
    pub(crate) fn spent(&self) -> u64 {
        self.units.load(Relaxed)
    }
    /// Spends what going over so many bytes takes.
    pub(crate) fn charge_bytes(&self, bytes: usize) -> Result<(), Error> {
        self.charge(bytes as u64 / 32)
    }
    /// Stops the run; the first reason stays.
    pub(crate) fn halt(&self, why: Stop) {
        if self.stopped().is_none() {
            let code = match why {
                Stop::Work => 1,
                Stop::Memory => 2,
                Stop::Host => 3,
            };
            self.stop.store(code, Relaxed);
        }
    }
    /// Why it was stopped.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Relaxed) {
            0 => None,
            1 => Some(Stop::Work),
            2 => Some(Stop::Memory),
            _ => Some(Stop::Host),
        }
    }
    /// The next number of the run's own sequence (SplitMix64: Steele, Lea & Flood, OOPSLA 2014).
    pub(crate) fn roll(&self) -> u64 {
        let state = self.dice.load(Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.dice.store(state, Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    /// Starts the sequence anew.
    pub(crate) fn reseed(&self, seed: u64) {
        self.dice.store(seed, Relaxed);
    }
    /// Whether replies come to the script in RESP3's types.
    pub(crate) fn resp3(&self) -> bool {
        self.resp3.load(Relaxed)
    }
    /// Chooses that.
    pub(crate) fn set_resp3(&self, on: bool) {
        self.resp3.store(on, Relaxed);
    }
    /// Wall time of the entry, in seconds.
    pub(crate) fn wall_seconds(&self) -> f64 {
        self.wall_ms.load(Relaxed) as f64 / 1000.0
    }
    /// What a failure means to the script: the value that was raised. A stopped run raises again instead.
    pub(crate) fn settle(&self, lua: &Lua, failure: Value) -> Result<Value, Error> {
        let value = match failure {
            Value::Error(error) => self.open(lua, &error)?,
            Value::String(text) if text.as_bytes() == b"not enough memory" => {
                self.halt(Stop::Memory);
                Value::String(text)
            }
            other => other,
        };
        match self.stopped() {
            None => Ok(value),
            Some(_) => Err(aborted()),
        }
    }
    fn open(&self, lua: &Lua, error: &Error) -> Result<Value, Error> {
        match error {
            Error::CallbackError { cause, .. } => self.open(lua, cause),
            Error::MemoryError(_) => {
                self.halt(Stop::Memory);
                Err(aborted())
            }
            Error::ExternalError(inner) => match inner.downcast_ref::<Raised>() {
                Some(Raised(Some(value))) => Ok(value.clone()),
                _ => Err(aborted()),
            },
            other => Ok(Value::String(lua.create_string(other.to_string())?)),
        }
    }
}

/// A value that a host's function raises; none when the run is aborted.
#[derive(Debug)]
struct Raised(Option<Value>);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raised by a function of the host")
    }
}
impl std::error::Error for Raised {}

/// The failure of a run that is aborted.
pub(crate) fn aborted() -> Error {
    Error::external(Raised(None))
}
/// Raises a value.
pub(crate) fn raise_value(value: Value) -> Error {
    Error::external(Raised(Some(value)))
}
/// Raises a text as it is.
pub(crate) fn raise_plain(lua: &Lua, text: impl AsRef<[u8]>) -> Error {
    match lua.create_string(text) {
        Ok(text) => raise_value(Value::String(text)),
        Err(error) => error,
    }
}
/// Raises a text, with the place of the caller before it.
pub(crate) fn raise(lua: &Lua, text: impl AsRef<[u8]>) -> Error {
    let mut whole = place(lua).into_bytes();
    whole.extend_from_slice(text.as_ref());
    raise_plain(lua, whole)
}
/// `user_script:LINE: ` of the function that called the host's; nothing where that has no lines.
fn place(lua: &Lua) -> String {
    lua.inspect_stack(1, |frame| {
        let line = frame.current_line()?;
        let source = frame.source();
        Some(format!("{}:{line}: ", source.short_src?))
    })
    .flatten()
    .unwrap_or_default()
}
/// Raises `bad argument #N to 'NAME' (WHY)`; a method does not count its own object.
pub(crate) fn bad_argument(lua: &Lua, number: usize, name: &str, why: &str) -> Error {
    let method = lua.inspect_stack(0, |frame| frame.names().name_what.is_some_and(|what| what == "method"));
    match (method, number) {
        (Some(true), 1) => raise(lua, format!("calling '{name}' on bad self ({why})")),
        (Some(true), _) => raise(lua, format!("bad argument #{} to '{name}' ({why})", number - 1)),
        _ => raise(lua, format!("bad argument #{number} to '{name}' ({why})")),
    }
}

/// The arguments of a library function, read as the language reads them.
pub(crate) struct Args<'a> {
    lua: &'a Lua,
    name: &'static str,
    values: &'a MultiValue,
}

impl<'a> Args<'a> {
    /// Arguments of `name`.
    pub(crate) fn new(lua: &'a Lua, name: &'static str, values: &'a MultiValue) -> Self {
        Self { lua, name, values }
    }
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
    /// An argument, counted from 1; nothing past the last.
    pub(crate) fn at(&self, number: usize) -> Option<&'a Value> {
        self.values.get(number - 1)
    }
    /// Whether it is absent or nil.
    pub(crate) fn none(&self, number: usize) -> bool {
        matches!(self.at(number), None | Some(Value::Nil))
    }
    /// It should have been something else.
    pub(crate) fn wrong(&self, number: usize, wanted: &str) -> Error {
        let found = self.at(number).map_or("no value", type_name);
        bad_argument(self.lua, number, self.name, &format!("{wanted} expected, got {found}"))
    }
    /// It is not good.
    pub(crate) fn bad(&self, number: usize, why: &str) -> Error {
        bad_argument(self.lua, number, self.name, why)
    }
    /// A string; numbers are turned into one.
    pub(crate) fn bytes(&self, number: usize) -> Result<mlua::LuaString, Error> {
        match self.at(number) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Integer(_) | Value::Number(_))) => {
                self.lua.create_string(crate::number::general(float(value), 14))
            }
            _ => Err(self.wrong(number, "string")),
        }
    }
    /// A number; strings that look like one are turned into it.
    pub(crate) fn number(&self, number: usize) -> Result<f64, Error> {
        match self.at(number) {
            Some(value @ (Value::Integer(_) | Value::Number(_))) => Ok(float(value)),
            Some(Value::String(text)) => {
                crate::number::parse(&text.as_bytes()).ok_or_else(|| self.wrong(number, "number"))
            }
            _ => Err(self.wrong(number, "number")),
        }
    }
    /// A number without its fraction, as C's cast has it.
    pub(crate) fn integer(&self, number: usize) -> Result<i64, Error> {
        Ok(crate::number::truncate(self.number(number)?))
    }
    /// Likewise, or what stands for an absent one.
    pub(crate) fn integer_or(&self, number: usize, absent: i64) -> Result<i64, Error> {
        if self.none(number) { Ok(absent) } else { self.integer(number) }
    }
}

/// The double of a number.
pub(crate) fn float(value: &Value) -> f64 {
    match value {
        Value::Integer(number) => *number as f64,
        Value::Number(number) => *number,
        _ => 0.0,
    }
}
/// The language's name for a value's type.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) | Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Table(_) => "table",
        Value::Function(_) => "function",
        Value::Thread(_) => "thread",
        _ => "userdata",
    }
}
