//! The library `string`, and the functions of `table` and of the language whose work grows with their data: all of it is charged.
//!
//! Invariant: answers and error texts as Lua 5.1 gives them (reference manual §5.4, §5.5).
//! Called by: `state`, which puts them into the library tables.

use crate::meter::{Args, Meter, bad_argument, raise, raise_plain, raise_value, type_name};
use crate::number;
use crate::pattern::{Capture, Fault, Matcher};
use mlua::{Error, Function, Lua, LuaString, MultiValue, Result, Table, Value, Variadic};
use std::sync::Arc;

/// Longest string that `string.rep` makes, in bytes.
const REPEAT_BYTES_MAX: usize = 64 << 20;

/// Replaces the functions of `string` that are not constant in time.
pub(crate) fn install(lua: &Lua, string: &Table, raw_pcall: &Function, meter: &Arc<Meter>) -> Result<()> {
    let put = |name: &'static str, work: fn(&Lua, &Meter, &Args<'_>) -> Result<MultiValue>| {
        let meter = Arc::clone(meter);
        let function = lua.create_function(move |lua, values: MultiValue| {
            work(lua, &meter, &Args::new(lua, name, &values))
        })?;
        string.raw_set(name, function)
    };
    put("rep", repeat)?;
    put("lower", |lua, meter, args| mapped(lua, meter, args, |bytes| bytes.make_ascii_lowercase()))?;
    put("upper", |lua, meter, args| mapped(lua, meter, args, |bytes| bytes.make_ascii_uppercase()))?;
    put("reverse", |lua, meter, args| mapped(lua, meter, args, |bytes| bytes.reverse()))?;
    put("sub", part)?;
    put("find", |lua, meter, args| search(lua, meter, args, true))?;
    put("match", |lua, meter, args| search(lua, meter, args, false))?;
    let guard = raw_pcall.clone();
    let shared = Arc::clone(meter);
    string.raw_set(
        "gsub",
        lua.create_function(move |lua, values: MultiValue| {
            replace(lua, &shared, &guard, &Args::new(lua, "gsub", &values))
        })?,
    )?;
    for name in ["gmatch", "gfind"] {
        let shared = Arc::clone(meter);
        let function = lua.create_function(move |lua, values: MultiValue| {
            let args = Args::new(lua, name, &values);
            each_match(lua, &shared, args.bytes(1)?, args.bytes(2)?)
        })?;
        string.raw_set(name, function)?;
    }
    string.raw_set(
        "dump",
        lua.create_function(|lua, _: MultiValue| -> Result<()> {
            Err(raise(lua, "unable to dump given function"))
        })?,
    )
}

/// A function of the language's own, called with what it costs charged first.
pub(crate) fn charged(
    lua: &Lua,
    name: &'static str,
    native: Function,
    raw_pcall: &Function,
    meter: &Arc<Meter>,
    cost: fn(&MultiValue) -> u64,
) -> Result<Function> {
    let (guard, meter) = (raw_pcall.clone(), Arc::clone(meter));
    lua.create_function(move |lua, mut values: MultiValue| {
        meter.charge(cost(&values))?;
        if name == "insert" && matches!(values.front(), Some(Value::Table(table)) if is_proxy(table)) {
            return Err(raise_plain(lua, "Attempt to modify a readonly table"));
        }
        values.push_front(Value::Function(native.clone()));
        let mut answers: MultiValue = guard.call(values)?;
        if matches!(answers.pop_front(), Some(Value::Boolean(true))) {
            return Ok(answers);
        }
        let failure = meter.settle(lua, answers.pop_front().unwrap_or(Value::Nil))?;
        let Value::String(text) = &failure else { return Err(raise_value(failure)) };
        // Called from here, the function knows neither its name nor its caller's place.
        let text = String::from_utf8_lossy(&text.as_bytes()).replace("to '?'", &format!("to '{name}'"));
        let placed = text.starts_with("user_script:") || text.starts_with("attempt to compare");
        Err(if placed { raise_plain(lua, text) } else { raise(lua, text) })
    })
}

/// Whether a table shows one that nobody may write to.
fn is_proxy(table: &Table) -> bool {
    table.metatable().is_some_and(|meta| {
        matches!(meta.raw_get::<Value>("__metatable"), Ok(Value::Boolean(false)))
            && matches!(meta.raw_get::<Value>("__newindex"), Ok(Value::Function(_)))
    })
}

fn one(value: Value) -> Result<MultiValue> {
    Ok(MultiValue::from_vec(vec![value]))
}
fn text(lua: &Lua, bytes: impl AsRef<[u8]>) -> Result<MultiValue> {
    one(Value::String(lua.create_string(bytes)?))
}

fn repeat(lua: &Lua, meter: &Meter, args: &Args<'_>) -> Result<MultiValue> {
    let piece = args.bytes(1)?;
    let count = usize::try_from(args.integer(2)?).unwrap_or(0);
    let piece = piece.as_bytes();
    let len = piece.len().checked_mul(count).filter(|len| *len <= REPEAT_BYTES_MAX);
    let Some(len) = len else {
        meter.halt(crate::meter::Stop::Memory);
        return Err(crate::meter::aborted());
    };
    meter.charge_bytes(len)?;
    text(lua, piece.repeat(if len == 0 { 0 } else { count }))
}

fn mapped(lua: &Lua, meter: &Meter, args: &Args<'_>, change: impl Fn(&mut [u8])) -> Result<MultiValue> {
    let mut bytes = args.bytes(1)?.as_bytes().to_vec();
    meter.charge_bytes(bytes.len() * 2)?;
    change(&mut bytes);
    text(lua, bytes)
}

/// From where on, from 0: 1-based, negative ones from the end.
fn from_end(place: i64, len: usize) -> i64 {
    if place >= 0 { place } else { place.saturating_add(len as i64 + 1).max(0) }
}

fn part(lua: &Lua, meter: &Meter, args: &Args<'_>) -> Result<MultiValue> {
    let whole = args.bytes(1)?;
    let bytes = whole.as_bytes();
    let from = from_end(args.integer(2)?, bytes.len()).max(1);
    let to = from_end(args.integer_or(3, -1)?, bytes.len()).min(bytes.len() as i64);
    let piece = if from <= to { &bytes[from as usize - 1..to as usize] } else { &[] };
    meter.charge_bytes(piece.len())?;
    text(lua, piece)
}

fn fault(lua: &Lua, fault: Fault) -> Error {
    match fault {
        Fault::Pattern(why) => raise(lua, why),
        Fault::Aborted => crate::meter::aborted(),
    }
}
fn shown(lua: &Lua, subject: &[u8], capture: Capture) -> Result<Value> {
    match capture {
        Capture::Text(from, len) => Ok(Value::String(lua.create_string(&subject[from..from + len])?)),
        Capture::Place(at) => Ok(Value::Integer(at as i64 + 1)),
    }
}
fn captures(
    lua: &Lua,
    subject: &[u8],
    matcher: &Matcher<'_>,
    whole: Option<(usize, usize)>,
) -> Result<Vec<Value>> {
    let found = matcher.captured(whole).map_err(|why| fault(lua, why))?;
    found.into_iter().map(|capture| shown(lua, subject, capture)).collect()
}

fn search(lua: &Lua, meter: &Meter, args: &Args<'_>, find: bool) -> Result<MultiValue> {
    let (subject, pattern) = (args.bytes(1)?, args.bytes(2)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let start = (from_end(args.integer_or(3, 1)?, subject.len()) - 1).clamp(0, subject.len() as i64) as usize;
    let plain = !matches!(args.at(4), None | Some(Value::Nil | Value::Boolean(false)));
    if find && (plain || !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte))) {
        meter.charge_bytes((subject.len() - start) * 4)?;
        return Ok(match position(&subject[start..], &pattern, meter)? {
            None => MultiValue::from_vec(vec![Value::Nil]),
            Some(at) => {
                let from = start + at;
                MultiValue::from_vec(vec![
                    Value::Integer(from as i64 + 1),
                    Value::Integer((from + pattern.len()) as i64),
                ])
            }
        });
    }
    let anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&subject, &pattern, meter);
    let mut at = start;
    loop {
        if let Some(end) = matcher.begin(at, usize::from(anchored)).map_err(|why| fault(lua, why))? {
            matcher.settle().map_err(|why| fault(lua, why))?;
            let mut answers = Vec::new();
            if find {
                answers.extend([Value::Integer(at as i64 + 1), Value::Integer(end as i64)]);
            }
            answers.extend(captures(lua, &subject, &matcher, (!find).then_some((at, end)))?);
            return Ok(MultiValue::from_vec(answers));
        }
        at += 1;
        if anchored || at > subject.len() {
            matcher.settle().map_err(|why| fault(lua, why))?;
            return one(Value::Nil);
        }
    }
}

/// Where a piece is found first. Work is bounded by the product of the lengths, so every candidate is charged.
fn position(subject: &[u8], piece: &[u8], meter: &Meter) -> Result<Option<usize>> {
    let Some((first, rest)) = piece.split_first() else { return Ok(Some(0)) };
    let mut from = 0;
    while let Some(at) = subject[from..].iter().position(|byte| byte == first) {
        let at = from + at;
        let tail = &subject[at + 1..];
        if tail.len() < rest.len() {
            return Ok(None);
        }
        meter.charge(1 + rest.len() as u64 / 32)?;
        if tail.starts_with(rest) {
            return Ok(Some(at));
        }
        from = at + 1;
    }
    Ok(None)
}

fn each_match(lua: &Lua, meter: &Arc<Meter>, subject: LuaString, pattern: LuaString) -> Result<Function> {
    let meter = Arc::clone(meter);
    let at = std::sync::atomic::AtomicUsize::new(0);
    lua.create_function(move |lua, _: MultiValue| {
        use std::sync::atomic::Ordering::Relaxed;
        let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
        let mut matcher = Matcher::new(&subject, &pattern, &meter);
        let mut from = at.load(Relaxed);
        while from <= subject.len() {
            if let Some(end) = matcher.begin(from, 0).map_err(|why| fault(lua, why))? {
                matcher.settle().map_err(|why| fault(lua, why))?;
                at.store(if end == from { end + 1 } else { end }, Relaxed);
                return Ok(MultiValue::from_vec(captures(lua, &subject, &matcher, Some((from, end)))?));
            }
            from += 1;
        }
        at.store(usize::MAX, Relaxed);
        matcher.settle().map_err(|why| fault(lua, why))?;
        one(Value::Nil)
    })
}

fn replace(lua: &Lua, meter: &Meter, raw_pcall: &Function, args: &Args<'_>) -> Result<MultiValue> {
    let (subject, pattern) = (args.bytes(1)?, args.bytes(2)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let with = match args.at(3) {
        Some(Value::Integer(_) | Value::Number(_)) => Value::String(args.bytes(3)?),
        Some(value @ (Value::String(_) | Value::Function(_) | Value::Table(_))) => value.clone(),
        _ => return Err(bad_argument(lua, 3, "gsub", "string/function/table expected")),
    };
    let count_max = args.integer_or(4, subject.len() as i64 + 1)?;
    let anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&subject, &pattern, meter);
    let (mut at, mut count, mut made) = (0, 0, Vec::new());
    while count < count_max {
        let found = matcher.begin(at, usize::from(anchored)).map_err(|why| fault(lua, why))?;
        if let Some(end) = found {
            count += 1;
            matcher.settle().map_err(|why| fault(lua, why))?;
            let before = made.len();
            put_replacement(lua, meter, raw_pcall, &with, &subject, &matcher, (at, end), &mut made)?;
            meter.charge_bytes((made.len() - before) * 2)?;
            if made.len() > REPEAT_BYTES_MAX {
                meter.halt(crate::meter::Stop::Memory);
                return Err(crate::meter::aborted());
            }
        }
        match found {
            Some(end) if end > at => at = end,
            _ if at < subject.len() => {
                made.push(subject[at]);
                at += 1;
            }
            _ => break,
        }
        if anchored {
            break;
        }
    }
    matcher.settle().map_err(|why| fault(lua, why))?;
    made.extend_from_slice(subject.get(at..).unwrap_or_default());
    meter.charge_bytes(made.len())?;
    let whole = lua.create_string(made)?;
    Ok(MultiValue::from_vec(vec![Value::String(whole), Value::Integer(count)]))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the state of one replacement; a struct for one call would say no more"
)]
fn put_replacement(
    lua: &Lua,
    meter: &Meter,
    raw_pcall: &Function,
    with: &Value,
    subject: &[u8],
    matcher: &Matcher<'_>,
    (from, to): (usize, usize),
    out: &mut Vec<u8>,
) -> Result<()> {
    let first = || -> Result<Value> {
        let found = matcher.captured(Some((from, to))).map_err(|why| fault(lua, why))?;
        shown(lua, subject, found[0])
    };
    let value = match with {
        Value::String(template) => {
            return expand(lua, &template.as_bytes(), subject, matcher, (from, to), out);
        }
        Value::Table(table) => table.get::<Value>(first()?)?,
        function => {
            let mut call = captures(lua, subject, matcher, Some((from, to)))?;
            call.insert(0, function.clone());
            let mut answers: MultiValue = raw_pcall.call(Variadic::from(call))?;
            let ok = matches!(answers.pop_front(), Some(Value::Boolean(true)));
            let value = answers.pop_front().unwrap_or(Value::Nil);
            if !ok {
                return Err(raise_value(meter.settle(lua, value)?));
            }
            value
        }
    };
    match &value {
        Value::Nil | Value::Boolean(false) => out.extend_from_slice(&subject[from..to]),
        Value::String(bytes) => out.extend_from_slice(&bytes.as_bytes()),
        Value::Integer(_) | Value::Number(_) => {
            out.extend_from_slice(number::general(crate::meter::float(&value), 14).as_bytes());
        }
        other => return Err(raise(lua, format!("invalid replacement value (a {})", type_name(other)))),
    }
    Ok(())
}

fn expand(
    lua: &Lua,
    template: &[u8],
    subject: &[u8],
    matcher: &Matcher<'_>,
    (from, to): (usize, usize),
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut bytes = template.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'0') => out.extend_from_slice(&subject[from..to]),
            Some(digit @ b'1'..=b'9') => {
                let index = usize::from(digit - b'1');
                let capture = if index == 0 {
                    matcher.captured(Some((from, to))).map(|found| found[0])
                } else {
                    matcher.capture(index)
                };
                match capture.map_err(|why| fault(lua, why))? {
                    Capture::Text(from, len) => out.extend_from_slice(&subject[from..from + len]),
                    Capture::Place(at) => out.extend_from_slice((at + 1).to_string().as_bytes()),
                }
            }
            Some(other) => out.push(other),
            None => out.push(0), // C's terminator, which the language copies here.
        }
    }
    Ok(())
}
