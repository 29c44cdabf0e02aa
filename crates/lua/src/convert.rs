//! Replies as values of the language, and back, as Redis 7 converts them.
//!
//! Invariant: a reply made here nests at most [`DEPTH_MAX`] deep, so that it can be written wherever replies go.
//! Called by: `redis` (replies of commands) and `state` (what a script returns).

use crate::meter::{Meter, float};
use crate::number;
use mlua::{Lua, Result, Table, Value};
use quorate_types::{Blob, Reply, Score, codec};

/// Levels of arrays in what a script returns: two less than everywhere, for the commit that the reply is a part of.
const DEPTH_MAX: u8 = codec::DEPTH_MAX - 2;

/// A reply as a script sees it.
pub(crate) fn to_lua(lua: &Lua, meter: &Meter, reply: &Reply) -> Result<Value> {
    let resp3 = meter.resp3();
    meter.charge(1)?;
    let bytes = |bytes: &[u8]| -> Result<Value> {
        meter.charge_bytes(bytes.len())?;
        Ok(Value::String(lua.create_string(bytes)?))
    };
    match reply {
        Reply::Nil | Reply::NilArray => Ok(if resp3 { Value::Nil } else { Value::Boolean(false) }),
        Reply::Status { text } => field(lua, "ok", bytes(text)?),
        Reply::Error { text } => field(lua, "err", bytes(text)?),
        Reply::Integer { value } => Ok(Value::Number(*value as f64)),
        Reply::Bulk { value } => bytes(value),
        Reply::Double { value } if resp3 => field(lua, "double", Value::Number(value.get())),
        Reply::Double { value } => bytes(value.to_string().as_bytes()),
        Reply::Boolean { value } if resp3 => Ok(Value::Boolean(*value)),
        Reply::Boolean { value } => Ok(Value::Integer(i64::from(*value))),
        Reply::Verbatim { format, text } if resp3 => {
            let table = lua.create_table()?;
            table.raw_set("format", bytes(format)?)?;
            table.raw_set("string", bytes(text)?)?;
            field(lua, "verbatim_string", Value::Table(table))
        }
        Reply::Verbatim { text, .. } => bytes(text),
        Reply::Map { items } if resp3 => {
            let table = lua.create_table()?;
            for pair in items.0.chunks_exact(2) {
                put(&table, to_lua(lua, meter, &pair[0])?, to_lua(lua, meter, &pair[1])?)?;
            }
            field(lua, "map", Value::Table(table))
        }
        Reply::Set { items } if resp3 => {
            let table = lua.create_table()?;
            for item in &items.0 {
                put(&table, to_lua(lua, meter, item)?, Value::Boolean(true))?;
            }
            field(lua, "set", Value::Table(table))
        }
        Reply::Pairs { items } if resp3 => {
            let table = lua.create_table_with_capacity(items.0.len() / 2, 0)?;
            for (index, pair) in items.0.chunks_exact(2).enumerate() {
                let two = lua.create_table_with_capacity(2, 0)?;
                two.raw_set(1, to_lua(lua, meter, &pair[0])?)?;
                two.raw_set(2, to_lua(lua, meter, &pair[1])?)?;
                table.raw_set(index + 1, two)?;
            }
            Ok(Value::Table(table))
        }
        // RESP2 has a table of two for each name.
        Reply::Named { items } if !resp3 => {
            let table = lua.create_table_with_capacity(items.0.len() / 2, 0)?;
            for (index, pair) in items.0.chunks(2).enumerate() {
                table.raw_set(index + 1, to_lua(lua, meter, &Reply::array(pair.to_vec()))?)?;
            }
            Ok(Value::Table(table))
        }
        Reply::Named { items } => to_lua(lua, meter, &Reply::Map { items: items.clone() }),
        Reply::Record { id, .. } => bytes(id.to_string().as_bytes()),
        Reply::Array { items } | Reply::Set { items } | Reply::Map { items } | Reply::Pairs { items } => {
            let table = lua.create_table_with_capacity(items.0.len(), 0)?;
            for (index, item) in items.0.iter().enumerate() {
                table.raw_set(index + 1, to_lua(lua, meter, item)?)?;
            }
            Ok(Value::Table(table))
        }
    }
}

fn field(lua: &Lua, name: &str, value: Value) -> Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}
/// A member of a map; what cannot be a key (nil, NaN) is left out.
fn put(table: &Table, key: Value, value: Value) -> Result<()> {
    match key {
        Value::Nil => Ok(()),
        Value::Number(number) if number.is_nan() => Ok(()),
        key => table.raw_set(key, value),
    }
}

/// What a script returned, as a reply.
pub(crate) fn to_reply(value: &Value, resp3: bool) -> Result<Reply> {
    at_depth(value, resp3, 0)
}

fn at_depth(value: &Value, resp3: bool, depth: u8) -> Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::bulk(&*text.as_bytes()),
        Value::Boolean(value) if resp3 => Reply::Boolean { value: *value },
        Value::Boolean(true) => Reply::integer(1),
        Value::Integer(_) | Value::Number(_) => Reply::integer(number::truncate(float(value))),
        Value::Table(_) if depth == DEPTH_MAX => Reply::error(format!(
            "ERR a script's reply is nested deeper than {DEPTH_MAX} levels: return a flatter one"
        )),
        Value::Table(table) => of_table(table, resp3, depth)?,
        _ => Reply::Nil,
    })
}

/// A table is what its first known field says it is, else an array up to the first nil.
fn of_table(table: &Table, resp3: bool, depth: u8) -> Result<Reply> {
    if let Value::String(text) = table.raw_get("err")? {
        return Ok(Reply::Error { text: one_line(&text.as_bytes()) });
    }
    if let Value::String(text) = table.raw_get("ok")? {
        return Ok(Reply::Status { text: one_line(&text.as_bytes()) });
    }
    let double: Value = table.raw_get("double")?;
    if matches!(double, Value::Integer(_) | Value::Number(_)) {
        let double = float(&double);
        return Ok(Score::new(double).map_or_else(|| Reply::bulk("nan"), |value| Reply::Double { value }));
    }
    if let Value::Table(map) = table.raw_get("map")? {
        return members(&map, resp3, depth, true);
    }
    if let Value::Table(set) = table.raw_get("set")? {
        return members(&set, resp3, depth, false);
    }
    if let Value::String(digits) = table.raw_get("big_number")? {
        return Ok(Reply::Bulk { value: one_line(&digits.as_bytes()) });
    }
    if let Value::Table(verbatim) = table.raw_get("verbatim_string")?
        && let Value::String(text) = verbatim.raw_get("string")?
        && let Value::String(format) = verbatim.raw_get("format")?
    {
        return Ok(Reply::Verbatim {
            format: Blob::copy_from(&format.as_bytes()),
            text: Blob::copy_from(&text.as_bytes()),
        });
    }
    let mut items = Vec::new();
    loop {
        match table.raw_get(items.len() + 1)? {
            Value::Nil => return Ok(Reply::array(items)),
            value => items.push(at_depth(&value, resp3, depth + 1)?),
        }
    }
}

fn members(table: &Table, resp3: bool, depth: u8, values: bool) -> Result<Reply> {
    let mut items = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if !matches!(key, Value::String(_) | Value::Integer(_) | Value::Number(_) | Value::Boolean(_)) {
            return Ok(Reply::error(
                "ERR keys that are tables, functions or threads have no order that replicas share: use strings or numbers",
            ));
        }
        items.push(at_depth(&key, resp3, depth + 1)?);
        if values {
            items.push(at_depth(&value, resp3, depth + 1)?);
        }
    }
    Ok(if values { Reply::map(items) } else { Reply::set(items) })
}

/// A text that fits a line: a line end in it would end the reply.
pub(crate) fn one_line(bytes: &[u8]) -> Blob {
    let clean = bytes.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte });
    Blob::from(clean.collect::<Vec<u8>>().as_slice())
}
