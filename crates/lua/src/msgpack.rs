//! The library `cmsgpack`: what lua-cmsgpack 0.4.0 does. Format: the MessagePack specification (msgpack.org).
//!
//! Invariant: unpacking nests no deeper than [`DEPTH_MAX`]; packing writes nil below [`PACK_DEPTH_MAX`], as the library does.
//! Called by: `state`, which puts it into a library table.

use crate::meter::{Args, Meter, bad_argument, float, raise, raise_plain};
use mlua::{Lua, MultiValue, Result, Table, Value};
use std::sync::Arc;

const PACK_DEPTH_MAX: usize = 16;
const DEPTH_MAX: usize = 500;
/// Values that one call gives back: the language's stack bears few more.
const RESULTS_MAX: usize = 7000;

/// The library.
pub(crate) fn library(lua: &Lua, meter: &Arc<Meter>) -> Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("_NAME", "cmsgpack")?;
    table.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    table.raw_set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    table.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    let shared = Arc::clone(meter);
    table.raw_set(
        "pack",
        lua.create_function(move |lua, values: MultiValue| {
            if values.is_empty() {
                return Err(bad_argument(lua, 0, "pack", "MessagePack pack needs input."));
            }
            let mut out = Vec::new();
            for value in &values {
                pack(&shared, value, 0, &mut out)?;
            }
            shared.charge_bytes(out.len())?;
            lua.create_string(out)
        })?,
    )?;
    let put = |name: &'static str, bounds: fn(&Args<'_>) -> Result<(i64, i64)>| {
        let shared = Arc::clone(meter);
        let function = lua.create_function(move |lua, values: MultiValue| {
            let args = Args::new(lua, name, &values);
            let text = args.bytes(1)?;
            let (limit, offset) = bounds(&args)?;
            unpack(lua, &shared, &text.as_bytes(), limit, offset)
        })?;
        table.raw_set(name, function)
    };
    put("unpack", |_| Ok((0, 0)))?;
    put("unpack_one", |args| Ok((1, args.integer_or(2, 0)?)))?;
    put("unpack_limit", |args| Ok((args.integer(2)?, args.integer_or(3, 0)?)))?;
    Ok(table)
}

fn pack(meter: &Meter, value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    meter.charge(1)?;
    match value {
        Value::String(text) => {
            let bytes = text.as_bytes();
            let len = bytes.len();
            match len {
                0..32 => out.push(0xa0 | len as u8),
                32..0x100 => out.extend_from_slice(&[0xd9, len as u8]),
                _ => head(out, len, [0xda, 0xdb]),
            }
            meter.charge_bytes(len)?;
            out.extend_from_slice(&bytes);
        }
        Value::Boolean(on) => out.push(0xc2 + u8::from(*on)),
        Value::Integer(_) | Value::Number(_) => pack_number(float(value), out),
        Value::Table(table) if depth < PACK_DEPTH_MAX => pack_table(meter, table, depth + 1, out)?,
        _ => out.push(0xc0),
    }
    Ok(())
}
/// The head of what is longer than the short forms: a code for 16 bits of length, one for 32.
fn head(out: &mut Vec<u8>, len: usize, codes: [u8; 2]) {
    if let Ok(len) = u16::try_from(len) {
        out.push(codes[0]);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(codes[1]);
        out.extend_from_slice(&(len as u32).to_be_bytes()); // The memory of a run holds less than 2^32 of anything.
    }
}
fn pack_number(number: f64, out: &mut Vec<u8>) {
    const TOP: f64 = 9_223_372_036_854_775_808.0;
    if number.floor() == number && (-TOP..TOP).contains(&number) {
        return pack_integer(number as i64, out);
    }
    let narrow = number as f32;
    if f64::from(narrow) == number {
        out.push(0xca);
        out.extend_from_slice(&narrow.to_be_bytes());
    } else {
        out.push(0xcb);
        let number = if number.is_nan() { f64::NAN } else { number }; // One NaN for all processors.
        out.extend_from_slice(&number.to_be_bytes());
    }
}
fn pack_integer(number: i64, out: &mut Vec<u8>) {
    match number {
        0..128 => out.push(number as u8),
        -32..0 => out.push(number as i8 as u8),
        128..0x100 => out.extend_from_slice(&[0xcc, number as u8]),
        -128..-32 => out.extend_from_slice(&[0xd0, number as i8 as u8]),
        0x100..0x1_0000 => {
            out.push(0xcd);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        -0x8000..-128 => {
            out.push(0xd1);
            out.extend_from_slice(&(number as i16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(0xce);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        -0x8000_0000..-0x8000 => {
            out.push(0xd2);
            out.extend_from_slice(&(number as i32).to_be_bytes());
        }
        _ => {
            out.push(if number < 0 { 0xd3 } else { 0xcf });
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}
fn pack_table(meter: &Meter, table: &Table, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    let (mut top, mut count, mut array) = (0_f64, 0_usize, true);
    table.for_each(|key: Value, _: Value| {
        meter.charge(1)?;
        count += 1;
        let number = if matches!(key, Value::Integer(_) | Value::Number(_)) { float(&key) } else { 0.0 };
        if number < 1.0 || number.floor() != number {
            array = false;
        } else {
            top = top.max(number);
        }
        Ok(())
    })?;
    if array && top == count as f64 {
        match count {
            0..16 => out.push(0x90 | count as u8),
            _ => head(out, count, [0xdc, 0xdd]),
        }
        for index in 1..=count {
            pack(meter, &table.raw_get(index)?, depth, out)?;
        }
        return Ok(());
    }
    match count {
        0..16 => out.push(0x80 | count as u8),
        _ => head(out, count, [0xde, 0xdf]),
    }
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        pack(meter, &key, depth, out)?;
        pack(meter, &value, depth, out)?;
    }
    Ok(())
}

fn unpack(lua: &Lua, meter: &Meter, bytes: &[u8], limit: i64, offset: i64) -> Result<MultiValue> {
    let all = limit == 0 && offset == 0;
    if offset < 0 || limit < 0 {
        return Err(raise(
            lua,
            format!(
                "Invalid request to unpack with offset of {offset} and limit of {}.",
                if all { 0 } else { limit }
            ),
        ));
    }
    if offset as usize > bytes.len() {
        return Err(raise(lua, format!("Start offset {offset} greater than input length {}.", bytes.len())));
    }
    meter.charge_bytes(bytes.len())?;
    let mut from = Unpacker { lua, meter, bytes, at: offset as usize };
    let mut values = Vec::new();
    while from.at < bytes.len() && (all || (values.len() as i64) < limit) {
        if values.len() == RESULTS_MAX {
            return Err(raise(lua, "too many values for one call: unpack them with unpack_limit"));
        }
        values.push(from.value(0)?);
    }
    if !all {
        let next = if from.at == bytes.len() { -1 } else { from.at as i64 };
        values.insert(0, Value::Integer(next));
    }
    Ok(MultiValue::from_vec(values))
}

struct Unpacker<'a> {
    lua: &'a Lua,
    meter: &'a Meter,
    bytes: &'a [u8],
    at: usize,
}

impl Unpacker<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.slice(N)?.try_into().expect("as many bytes as were asked for"))
    }
    fn slice(&mut self, len: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return Err(raise(self.lua, "Missing bytes in input.")) };
        let piece = &self.bytes[self.at..end];
        self.at = end;
        Ok(piece)
    }
    fn value(&mut self, depth: usize) -> Result<Value> {
        self.meter.charge(1)?;
        if depth > DEPTH_MAX {
            return Err(raise(self.lua, "Bad data format in input: it is nested too deep."));
        }
        let [code] = self.take()?;
        let number = match code {
            0x00..0x80 => f64::from(code),
            0xe0.. => f64::from(code as i8),
            0xc0 => return Ok(Value::Nil),
            0xc2 => return Ok(Value::Boolean(false)),
            0xc3 => return Ok(Value::Boolean(true)),
            0xca => f64::from(f32::from_be_bytes(self.take()?)),
            0xcb => f64::from_be_bytes(self.take()?),
            0xcc => f64::from(u8::from_be_bytes(self.take()?)),
            0xcd => f64::from(u16::from_be_bytes(self.take()?)),
            0xce => f64::from(u32::from_be_bytes(self.take()?)),
            0xcf => u64::from_be_bytes(self.take()?) as f64,
            0xd0 => f64::from(i8::from_be_bytes(self.take()?)),
            0xd1 => f64::from(i16::from_be_bytes(self.take()?)),
            0xd2 => f64::from(i32::from_be_bytes(self.take()?)),
            0xd3 => i64::from_be_bytes(self.take()?) as f64,
            0xa0..0xc0 => return self.text(usize::from(code & 0x1f)),
            0xd9 => {
                let len = u8::from_be_bytes(self.take()?);
                return self.text(usize::from(len));
            }
            0xda => {
                let len = u16::from_be_bytes(self.take()?);
                return self.text(usize::from(len));
            }
            0xdb => {
                let len = u32::from_be_bytes(self.take()?);
                return self.text(len as usize);
            }
            0x90..0xa0 => return self.array(u32::from(code & 0x0f), depth),
            0x80..0x90 => return self.map(u32::from(code & 0x0f), depth),
            0xdc => {
                let count = u16::from_be_bytes(self.take()?);
                return self.array(u32::from(count), depth);
            }
            0xdd => {
                let count = u32::from_be_bytes(self.take()?);
                return self.array(count, depth);
            }
            0xde => {
                let count = u16::from_be_bytes(self.take()?);
                return self.map(u32::from(count), depth);
            }
            0xdf => {
                let count = u32::from_be_bytes(self.take()?);
                return self.map(count, depth);
            }
            _ => return Err(raise(self.lua, "Bad data format in input.")),
        };
        Ok(Value::Number(number))
    }
    fn text(&mut self, len: usize) -> Result<Value> {
        let lua = self.lua;
        Ok(Value::String(lua.create_string(self.slice(len)?)?))
    }
    fn array(&mut self, count: u32, depth: usize) -> Result<Value> {
        let table = self.lua.create_table()?;
        for index in 1..=count {
            table.raw_set(index, self.value(depth + 1)?)?;
        }
        Ok(Value::Table(table))
    }
    fn map(&mut self, count: u32, depth: usize) -> Result<Value> {
        let table = self.lua.create_table()?;
        for _ in 0..count {
            let key = self.value(depth + 1)?;
            let value = self.value(depth + 1)?;
            match &key {
                Value::Nil => return Err(raise_plain(self.lua, "table index is nil")),
                Value::Number(number) if number.is_nan() => {
                    return Err(raise_plain(self.lua, "table index is NaN"));
                }
                _ => table.raw_set(key, value)?,
            }
        }
        Ok(Value::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_the_shortest_form() {
        let packed = |number: f64| {
            let mut out = Vec::new();
            pack_number(number, &mut out);
            out
        };
        assert_eq!(packed(127.0), [0x7f]);
        assert_eq!(packed(128.0), [0xcc, 0x80]);
        assert_eq!(packed(-32.0), [0xe0]);
        assert_eq!(packed(-33.0), [0xd0, 0xdf]);
        assert_eq!(packed(70000.0), [0xce, 0x00, 0x01, 0x11, 0x70]);
        assert_eq!(packed(1.5), [0xca, 0x3f, 0xc0, 0, 0]);
        assert_eq!(packed(0.1)[0], 0xcb);
    }
}
