//! The libraries `struct` (packing as Roberto Ierusalimschy's library of that name) and `bit` (as Mike Pall's BitOp).
//!
//! Invariant: sizes and alignment are those of a 64-bit server, whatever this runs on: `l` and `T` have 8 bytes, `i` has 4.
//! Called by: `state`, which puts them into library tables.

use crate::meter::{Args, Meter, bad_argument, raise};
use crate::number;
use mlua::{Lua, MultiValue, Result, Table, Value};
use std::sync::Arc;

const INTEGER_BYTES_MAX: usize = 32;
const ALIGN_MAX: usize = 8;
const RESULTS_MAX: usize = 7000;

/// The library `struct`.
pub(crate) fn structs(lua: &Lua, meter: &Arc<Meter>) -> Result<Table> {
    let table = lua.create_table()?;
    let put = |name: &'static str, work: fn(&Lua, &Meter, &Args<'_>) -> Result<MultiValue>| {
        let meter = Arc::clone(meter);
        let function = lua.create_function(move |lua, values: MultiValue| {
            work(lua, &meter, &Args::new(lua, name, &values))
        })?;
        table.raw_set(name, function)
    };
    put("pack", pack)?;
    put("unpack", unpack)?;
    put("size", size)?;
    Ok(table)
}

/// The options of a format, one by one.
struct Format<'a> {
    lua: &'a Lua,
    name: &'static str,
    text: &'a [u8],
    at: usize,
    little: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(lua: &'a Lua, name: &'static str, text: &'a [u8]) -> Self {
        Self { lua, name, text, at: 0, little: true, align: 1 }
    }
    /// The next option and its size in bytes.
    fn next(&mut self) -> Result<Option<(u8, usize)>> {
        let Some(&option) = self.text.get(self.at) else { return Ok(None) };
        self.at += 1;
        let size = match option {
            b'B' | b'b' | b'x' => 1,
            b'H' | b'h' => 2,
            b'L' | b'l' | b'T' | b'd' => 8,
            b'f' => 4,
            b'c' => self.digits(1)?,
            b'i' | b'I' => {
                let size = self.digits(4)?;
                if size > INTEGER_BYTES_MAX {
                    return Err(raise(
                        self.lua,
                        format!("integral size {size} is larger than limit of {INTEGER_BYTES_MAX}"),
                    ));
                }
                size
            }
            _ => 0,
        };
        Ok(Some((option, size)))
    }
    fn digits(&mut self, absent: usize) -> Result<usize> {
        let from = self.at;
        let mut number = 0_usize;
        while let Some(digit) = self.text.get(self.at).filter(|byte| byte.is_ascii_digit()) {
            self.at += 1;
            number = number * 10 + usize::from(digit - b'0');
            if number > i32::MAX as usize {
                return Err(raise(self.lua, "integral size overflow"));
            }
        }
        Ok(if self.at == from { absent } else { number })
    }
    /// How many bytes come before the option, so that it is aligned.
    fn padding(&self, at: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let size = size.min(self.align);
        // As the library has it: exact where the size is a power of two.
        size.wrapping_sub(at & size.wrapping_sub(1)) & size.wrapping_sub(1)
    }
    /// An option that stands for no value.
    fn control(&mut self, option: u8) -> Result<()> {
        match option {
            b' ' => {}
            b'<' | b'=' => self.little = true,
            b'>' => self.little = false,
            b'!' => {
                let align = self.digits(ALIGN_MAX)?;
                if !align.is_power_of_two() {
                    return Err(raise(self.lua, format!("alignment {align} is not a power of 2")));
                }
                self.align = align;
            }
            _ => {
                let why = format!("invalid format option '{}'", char::from(option));
                return Err(bad_argument(self.lua, 1, self.name, &why));
            }
        }
        Ok(())
    }
}

fn pack(lua: &Lua, meter: &Meter, args: &Args<'_>) -> Result<MultiValue> {
    let text = args.bytes(1)?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, "pack", &text);
    let (mut out, mut argument) = (Vec::new(), 2);
    while let Some((option, size)) = format.next()? {
        meter.charge(1 + size as u64 / 32)?;
        out.resize(out.len() + format.padding(out.len(), option, size), 0);
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = args.number(argument)?;
                let value = if number < 0.0 { number::truncate(number) as u64 } else { number as u64 };
                let bytes = (0..size).map(|place| if place < 8 { (value >> (place * 8)) as u8 } else { 0 });
                if format.little {
                    out.extend(bytes)
                } else {
                    out.extend(bytes.rev())
                }
                argument += 1;
            }
            b'x' => out.push(0),
            b'f' => {
                let bytes = (args.number(argument)? as f32).to_le_bytes();
                if format.little {
                    out.extend(bytes)
                } else {
                    out.extend(bytes.iter().rev())
                }
                argument += 1;
            }
            b'd' => {
                let bytes = args.number(argument)?.to_le_bytes();
                if format.little {
                    out.extend(bytes)
                } else {
                    out.extend(bytes.iter().rev())
                }
                argument += 1;
            }
            b'c' | b's' => {
                let bytes = args.bytes(argument)?;
                let bytes = bytes.as_bytes();
                argument += 1;
                let size = if size == 0 { bytes.len() } else { size };
                if bytes.len() < size {
                    return Err(args.bad(argument, "string too short"));
                }
                meter.charge_bytes(size)?;
                out.extend_from_slice(&bytes[..size]);
                if option == b's' {
                    out.push(0);
                }
            }
            other => format.control(other)?,
        }
    }
    Ok(MultiValue::from_vec(vec![Value::String(lua.create_string(out)?)]))
}

fn unpack(lua: &Lua, meter: &Meter, args: &Args<'_>) -> Result<MultiValue> {
    let (text, data) = (args.bytes(1)?, args.bytes(2)?);
    let (text, data) = (text.as_bytes(), data.as_bytes());
    let from = args.integer_or(3, 1)?;
    let Some(mut at) = usize::try_from(from).ok().and_then(|from| from.checked_sub(1)) else {
        return Err(args.bad(3, "offset must be 1 or greater"));
    };
    let mut format = Format::new(lua, "unpack", &text);
    let mut values: Vec<Value> = Vec::new();
    let fits = |at: usize, size: usize| size <= data.len() && at <= data.len() - size;
    while let Some((option, mut size)) = format.next()? {
        meter.charge(1 + size as u64 / 32)?;
        at = at.saturating_add(format.padding(at, option, size));
        if !fits(at, size) {
            return Err(args.bad(2, "data string too short"));
        }
        if values.len() >= RESULTS_MAX {
            return Err(raise(lua, "stack overflow (too many results)"));
        }
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let signed = option.is_ascii_lowercase();
                values.push(Value::Number(integer(&data[at..at + size], format.little, signed)));
            }
            b'x' => {}
            b'f' => {
                let mut bytes: [u8; 4] = data[at..at + 4].try_into().expect("four bytes are there");
                if !format.little {
                    bytes.reverse();
                }
                values.push(Value::Number(f64::from(f32::from_le_bytes(bytes))));
            }
            b'd' => {
                let mut bytes: [u8; 8] = data[at..at + 8].try_into().expect("eight bytes are there");
                if !format.little {
                    bytes.reverse();
                }
                values.push(Value::Number(f64::from_le_bytes(bytes)));
            }
            b'c' => {
                if size == 0 {
                    let Some(Value::Number(before)) = values.pop() else {
                        return Err(raise(lua, "format 'c0' needs a previous size"));
                    };
                    size = usize::try_from(number::truncate(before)).unwrap_or(usize::MAX);
                    if !fits(at, size) {
                        return Err(args.bad(2, "data string too short"));
                    }
                }
                meter.charge_bytes(size)?;
                values.push(Value::String(lua.create_string(&data[at..at + size])?));
            }
            b's' => {
                meter.charge_bytes(data.len() - at)?;
                let Some(len) = data[at..].iter().position(|byte| *byte == 0) else {
                    return Err(raise(lua, "unfinished string in data"));
                };
                values.push(Value::String(lua.create_string(&data[at..at + len])?));
                size = len + 1;
            }
            other => format.control(other)?,
        }
        at += size;
    }
    values.push(Value::Integer(at as i64 + 1));
    Ok(MultiValue::from_vec(values))
}

/// The number in some bytes; of more than eight, the lowest count.
fn integer(bytes: &[u8], little: bool, signed: bool) -> f64 {
    let place = |index: usize| if little { bytes[index] } else { bytes[bytes.len() - 1 - index] };
    let low = bytes.len().min(8);
    let value = (0..low).fold(0_u64, |sum, index| sum | u64::from(place(index)) << (index * 8));
    if !signed {
        return value as f64;
    }
    let spare = 64 - low as u32 * 8;
    if spare == 64 { 0.0 } else { ((value << spare) as i64 >> spare) as f64 }
}

fn size(lua: &Lua, _: &Meter, args: &Args<'_>) -> Result<MultiValue> {
    let text = args.bytes(1)?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, "size", &text);
    let mut at = 0_usize;
    while let Some((option, size)) = format.next()? {
        at += format.padding(at, option, size);
        match option {
            b's' => return Err(args.bad(1, "option 's' has no fixed size")),
            b'c' if size == 0 => return Err(args.bad(1, "option 'c0' has no fixed size")),
            other if !other.is_ascii_alphanumeric() => format.control(other)?,
            _ => {}
        }
        at += size;
    }
    Ok(MultiValue::from_vec(vec![Value::Integer(at as i64)]))
}

/// The library `bit`: numbers as 32 bits, rounded to the nearest integer, modulo 2^32.
pub(crate) fn bits(lua: &Lua) -> Result<Table> {
    let table = lua.create_table()?;
    let put = |name: &'static str, work: fn(&Args<'_>) -> Result<i32>| {
        let function = lua.create_function(move |lua, values: MultiValue| {
            work(&Args::new(lua, name, &values)).map(i64::from)
        })?;
        table.raw_set(name, function)
    };
    put("tobit", |args| bits_of(args, 1))?;
    put("bnot", |args| Ok(!bits_of(args, 1)?))?;
    put("bswap", |args| Ok(bits_of(args, 1)?.swap_bytes()))?;
    put("band", |args| folded(args, |a, b| a & b))?;
    put("bor", |args| folded(args, |a, b| a | b))?;
    put("bxor", |args| folded(args, |a, b| a ^ b))?;
    put("lshift", |args| Ok(bits_of(args, 1)?.wrapping_shl(bits_of(args, 2)? as u32)))?;
    put("rshift", |args| Ok((bits_of(args, 1)? as u32).wrapping_shr(bits_of(args, 2)? as u32) as i32))?;
    put("arshift", |args| Ok(bits_of(args, 1)?.wrapping_shr(bits_of(args, 2)? as u32)))?;
    put("rol", |args| Ok(bits_of(args, 1)?.rotate_left(bits_of(args, 2)? as u32 & 31)))?;
    put("ror", |args| Ok(bits_of(args, 1)?.rotate_right(bits_of(args, 2)? as u32 & 31)))?;
    table.raw_set(
        "tohex",
        lua.create_function(|lua, values: MultiValue| {
            let args = Args::new(lua, "tohex", &values);
            let value = bits_of(&args, 1)? as u32;
            let digits = if args.none(2) { 8 } else { bits_of(&args, 2)? };
            let text = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
            let shown = digits.unsigned_abs().min(8) as usize;
            lua.create_string(&text[8 - shown..])
        })?,
    )?;
    Ok(table)
}
fn bits_of(args: &Args<'_>, number: usize) -> Result<i32> {
    // Adding 2^52 + 2^51 leaves the rounded integer in the lowest bits of the double.
    Ok((args.number(number)? + 6_755_399_441_055_744.0).to_bits() as u32 as i32)
}
fn folded(args: &Args<'_>, with: fn(i32, i32) -> i32) -> Result<i32> {
    let mut value = bits_of(args, 1)?;
    for number in 2..=args.len() {
        value = with(value, bits_of(args, number)?);
    }
    Ok(value)
}
