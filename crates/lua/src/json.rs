//! The library `cjson`: what lua-cjson 2.1.0 does, with its texts and its order of members.
//!
//! Invariant: settings last for one run. Nesting is bounded by [`DEPTH_MAX`], whatever a script sets.
//! Called by: `state`, which puts it into a library table.

use crate::meter::{Args, Meter, bad_argument, float, raise, type_name};
use crate::number;
use mlua::{Lua, MultiValue, Result, Table, Value};
use std::sync::{Arc, Mutex, PoisonError};

/// How deep values nest at most: the library's default, and the most that a thread's stack is asked to bear.
const DEPTH_MAX: i64 = 1000;

/// What the library's setters set.
#[derive(Clone, Copy, Debug)]
struct Settings {
    sparse_convert: bool,
    sparse_ratio: i64,
    sparse_safe: i64,
    encode_depth_max: i64,
    decode_depth_max: i64,
    precision: i64,
    keep_buffer: bool,
    /// 0: an error, 1: as they are, 2: as null.
    encode_invalid: u8,
    decode_invalid: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth_max: DEPTH_MAX,
            decode_depth_max: DEPTH_MAX,
            precision: 14,
            keep_buffer: true,
            encode_invalid: 0,
            decode_invalid: true,
        }
    }
}

/// The settings of the run in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Json(Arc<Mutex<Settings>>);

impl Json {
    /// Forgets what a run has set.
    pub(crate) fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Settings::default();
    }
    fn now(&self) -> Settings {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The library.
pub(crate) fn library(lua: &Lua, meter: &Arc<Meter>, json: &Json) -> Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("_NAME", "cjson")?;
    table.raw_set("_VERSION", "2.1.0")?;
    table.raw_set("null", Value::NULL)?;
    let (shared, settings) = (Arc::clone(meter), json.clone());
    table.raw_set(
        "encode",
        lua.create_function(move |lua, values: MultiValue| {
            if values.len() != 1 {
                return Err(bad_argument(lua, 1, "encode", "expected 1 argument"));
            }
            let mut encoder =
                Encoder { lua, meter: &shared, settings: settings.now(), out: Vec::new(), paid: 0 };
            encoder.value(&values[0], 0)?;
            encoder.pay()?;
            lua.create_string(encoder.out)
        })?,
    )?;
    let (shared, settings) = (Arc::clone(meter), json.clone());
    table.raw_set(
        "decode",
        lua.create_function(move |lua, values: MultiValue| {
            if values.len() != 1 {
                return Err(bad_argument(lua, 1, "decode", "expected 1 argument"));
            }
            let text = Args::new(lua, "decode", &values).bytes(1)?;
            let bytes = text.as_bytes();
            shared.charge_bytes(bytes.len() * 8)?;
            Decoder { lua, settings: settings.now(), data: &bytes, at: 0 }.whole()
        })?,
    )?;
    setters(lua, &table, json)?;
    Ok(table)
}

fn setters(lua: &Lua, table: &Table, json: &Json) -> Result<()> {
    let put = |name: &'static str, work: fn(&Json, &Args<'_>) -> Result<Vec<Value>>| {
        let json = json.clone();
        let function = lua.create_function(move |lua, values: MultiValue| {
            if values.len() > if name == "encode_sparse_array" { 3 } else { 1 } {
                return Err(bad_argument(lua, 2, name, "found too many arguments"));
            }
            Ok(MultiValue::from_vec(work(&json, &Args::new(lua, name, &values))?))
        })?;
        table.raw_set(name, function)
    };
    put("encode_sparse_array", |json, args| {
        if let Some(on) = boolean(args, 1)? {
            json.set(|now| now.sparse_convert = on);
        }
        if let Some(ratio) = ranged(args, 2, 0, i64::from(i32::MAX))? {
            json.set(|now| now.sparse_ratio = ratio);
        }
        if let Some(safe) = ranged(args, 3, 0, i64::from(i32::MAX))? {
            json.set(|now| now.sparse_safe = safe);
        }
        let now = json.now();
        Ok(vec![
            Value::Boolean(now.sparse_convert),
            Value::Integer(now.sparse_ratio),
            Value::Integer(now.sparse_safe),
        ])
    })?;
    put("encode_max_depth", |json, args| {
        if let Some(depth) = ranged(args, 1, 1, i64::from(i32::MAX))? {
            json.set(|now| now.encode_depth_max = depth);
        }
        Ok(vec![Value::Integer(json.now().encode_depth_max)])
    })?;
    put("decode_max_depth", |json, args| {
        if let Some(depth) = ranged(args, 1, 1, i64::from(i32::MAX))? {
            json.set(|now| now.decode_depth_max = depth);
        }
        Ok(vec![Value::Integer(json.now().decode_depth_max)])
    })?;
    put("encode_number_precision", |json, args| {
        if let Some(digits) = ranged(args, 1, 1, 14)? {
            json.set(|now| now.precision = digits);
        }
        Ok(vec![Value::Integer(json.now().precision)])
    })?;
    put("encode_keep_buffer", |json, args| {
        if let Some(on) = boolean(args, 1)? {
            json.set(|now| now.keep_buffer = on);
        }
        Ok(vec![Value::Boolean(json.now().keep_buffer)])
    })?;
    put("encode_invalid_numbers", |json, args| {
        match args.at(1) {
            Some(Value::String(text)) if text.as_bytes() == b"null" => json.set(|now| now.encode_invalid = 2),
            _ => {
                if let Some(on) = boolean(args, 1)? {
                    json.set(|now| now.encode_invalid = u8::from(on));
                }
            }
        }
        Ok(vec![Value::Boolean(json.now().encode_invalid != 0)])
    })?;
    put("decode_invalid_numbers", |json, args| {
        if let Some(on) = boolean(args, 1)? {
            json.set(|now| now.decode_invalid = on);
        }
        Ok(vec![Value::Boolean(json.now().decode_invalid)])
    })
}

fn boolean(args: &Args<'_>, number: usize) -> Result<Option<bool>> {
    match args.at(number) {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::Boolean(on)) => Ok(Some(*on)),
        Some(Value::String(text)) if text.as_bytes() == b"on" => Ok(Some(true)),
        Some(Value::String(text)) if text.as_bytes() == b"off" => Ok(Some(false)),
        _ => Err(args.bad(number, "invalid option")),
    }
}
fn ranged(args: &Args<'_>, number: usize, low: i64, high: i64) -> Result<Option<i64>> {
    if args.none(number) {
        return Ok(None);
    }
    let value = args.integer(number)?;
    if (low..=high).contains(&value) {
        return Ok(Some(value));
    }
    Err(args.bad(number, &format!("expected integer between {low} and {high}")))
}

struct Encoder<'a> {
    lua: &'a Lua,
    meter: &'a Meter,
    settings: Settings,
    out: Vec<u8>,
    paid: usize,
}

impl Encoder<'_> {
    fn pay(&mut self) -> Result<()> {
        let fresh = self.out.len() - self.paid;
        self.paid = self.out.len();
        if self.out.len() > 64 << 20 {
            self.meter.halt(crate::meter::Stop::Memory);
        }
        self.meter.charge(1 + fresh as u64 / 16)
    }
    fn refused(&self, value: &Value, why: &str) -> mlua::Error {
        raise(self.lua, format!("Cannot serialise {}: {why}", type_name(value)))
    }
    fn value(&mut self, value: &Value, depth: i64) -> Result<()> {
        self.pay()?;
        match value {
            Value::Nil => self.out.extend_from_slice(b"null"),
            Value::Boolean(on) => self.out.extend_from_slice(if *on { b"true" } else { b"false" }),
            Value::Integer(_) | Value::Number(_) => self.number(value)?,
            Value::String(text) => self.text(&text.as_bytes()),
            Value::LightUserData(pointer) if pointer.0.is_null() => self.out.extend_from_slice(b"null"),
            Value::Table(table) => self.table(value, table, depth + 1)?,
            other => return Err(self.refused(other, "type not supported")),
        }
        Ok(())
    }
    fn number(&mut self, value: &Value) -> Result<()> {
        let number = float(value);
        if !number.is_finite() {
            match self.settings.encode_invalid {
                0 => return Err(self.refused(value, "must not be NaN or Inf")),
                1 => {}
                _ => {
                    self.out.extend_from_slice(b"null");
                    return Ok(());
                }
            }
            if number.is_nan() {
                self.out.extend_from_slice(b"nan"); // The sign of a NaN is no number's.
                return Ok(());
            }
        }
        let text = number::general(number, self.settings.precision as usize);
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }
    fn text(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        for byte in bytes {
            match byte {
                b'"' | b'\\' | b'/' => self.out.extend_from_slice(&[b'\\', *byte]),
                8 => self.out.extend_from_slice(b"\\b"),
                9 => self.out.extend_from_slice(b"\\t"),
                10 => self.out.extend_from_slice(b"\\n"),
                12 => self.out.extend_from_slice(b"\\f"),
                13 => self.out.extend_from_slice(b"\\r"),
                0..32 | 127 => self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => self.out.push(*byte),
            }
        }
        self.out.push(b'"');
    }
    fn table(&mut self, value: &Value, table: &Table, depth: i64) -> Result<()> {
        if depth > self.settings.encode_depth_max.min(DEPTH_MAX) {
            return Err(raise(self.lua, format!("Cannot serialise, excessive nesting ({depth})")));
        }
        let len = self.array_len(value, table)?;
        if len > 0 {
            self.out.push(b'[');
            for index in 1..=len {
                if index > 1 {
                    self.out.push(b',');
                }
                self.value(&table.raw_get(index)?, depth)?;
            }
            self.out.push(b']');
            return Ok(());
        }
        self.out.push(b'{');
        let mut comma = false;
        for pair in table.pairs::<Value, Value>() {
            let (key, member) = pair?;
            if comma {
                self.out.push(b',');
            }
            comma = true;
            match &key {
                Value::String(text) => self.text(&text.as_bytes()),
                Value::Integer(_) | Value::Number(_) => {
                    self.out.push(b'"');
                    self.number(&key)?;
                    self.out.push(b'"');
                }
                _ => return Err(self.refused(value, "table key must be a number or string")),
            }
            self.out.push(b':');
            self.value(&member, depth)?;
        }
        self.out.push(b'}');
        Ok(())
    }
    /// How long a table is as an array; 0 where it is an object.
    fn array_len(&mut self, value: &Value, table: &Table) -> Result<i64> {
        let (mut top, mut items) = (0_i64, 0_i64);
        let mut object = false;
        table.for_each(|key: Value, _: Value| {
            self.meter.charge(1)?;
            let number = match key {
                Value::Integer(number) => number as f64,
                Value::Number(number) => number,
                _ => 0.0,
            };
            if number < 1.0 || number.floor() != number {
                object = true;
            } else if !object {
                top = top.max(number::truncate(number));
                items += 1;
            }
            Ok(())
        })?;
        if object {
            return Ok(0);
        }
        let now = &self.settings;
        if now.sparse_ratio > 0 && top > items.saturating_mul(now.sparse_ratio) && top > now.sparse_safe {
            if !now.sparse_convert {
                return Err(self.refused(value, "excessively sparse array"));
            }
            return Ok(0);
        }
        Ok(top)
    }
}

enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Wrong(&'static str),
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Self::ObjectBegin => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::ArrayBegin => "T_ARR_BEGIN",
            Self::ArrayEnd => "T_ARR_END",
            Self::Text(_) => "T_STRING",
            Self::Number(_) => "T_NUMBER",
            Self::Boolean(_) => "T_BOOLEAN",
            Self::Null => "T_NULL",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::End => "T_END",
            Self::Wrong(why) => why,
        }
    }
}

struct Decoder<'a> {
    lua: &'a Lua,
    settings: Settings,
    data: &'a [u8],
    at: usize,
}

impl Decoder<'_> {
    fn whole(mut self) -> Result<Value> {
        if self.data.len() >= 2 && (self.data[0] == 0 || self.data[1] == 0) {
            return Err(raise(self.lua, "JSON parser does not support UTF-16 or UTF-32"));
        }
        let (token, at) = self.next();
        let value = self.value(token, at, 0)?;
        match self.next() {
            (Token::End, _) => Ok(value),
            (token, at) => Err(self.expected("the end", &token, at)),
        }
    }
    fn expected(&self, wanted: &str, found: &Token, at: usize) -> mlua::Error {
        raise(self.lua, format!("Expected {wanted} but found {} at character {}", found.name(), at + 1))
    }
    fn value(&mut self, token: Token, at: usize, depth: i64) -> Result<Value> {
        match token {
            Token::Text(text) => Ok(Value::String(self.lua.create_string(text)?)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Boolean(on) => Ok(Value::Boolean(on)),
            Token::Null => Ok(Value::NULL),
            Token::ObjectBegin => self.object(depth + 1),
            Token::ArrayBegin => self.array(depth + 1),
            other => Err(self.expected("value", &other, at)),
        }
    }
    fn deeper(&self, depth: i64) -> Result<()> {
        if depth <= self.settings.decode_depth_max.min(DEPTH_MAX) {
            return Ok(());
        }
        Err(raise(
            self.lua,
            format!("Found too many nested data structures ({depth}) at character {}", self.at),
        ))
    }
    fn object(&mut self, depth: i64) -> Result<Value> {
        self.deeper(depth)?;
        let table = self.lua.create_table()?;
        let (mut token, mut at) = self.next();
        if matches!(token, Token::ObjectEnd) {
            return Ok(Value::Table(table));
        }
        loop {
            let Token::Text(key) = token else { return Err(self.expected("object key string", &token, at)) };
            match self.next() {
                (Token::Colon, _) => {}
                (found, at) => return Err(self.expected("colon", &found, at)),
            }
            let (first, place) = self.next();
            let member = self.value(first, place, depth)?;
            table.raw_set(self.lua.create_string(key)?, member)?;
            match self.next() {
                (Token::ObjectEnd, _) => return Ok(Value::Table(table)),
                (Token::Comma, _) => (token, at) = self.next(),
                (found, at) => return Err(self.expected("comma or object end", &found, at)),
            }
        }
    }
    fn array(&mut self, depth: i64) -> Result<Value> {
        self.deeper(depth)?;
        let table = self.lua.create_table()?;
        let (mut token, mut at) = self.next();
        if matches!(token, Token::ArrayEnd) {
            return Ok(Value::Table(table));
        }
        for index in 1.. {
            let item = self.value(token, at, depth)?;
            table.raw_set(index, item)?;
            match self.next() {
                (Token::ArrayEnd, _) => break,
                (Token::Comma, _) => (token, at) = self.next(),
                (found, at) => return Err(self.expected("comma or array end", &found, at)),
            }
        }
        Ok(Value::Table(table))
    }
    fn next(&mut self) -> (Token, usize) {
        while matches!(self.data.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        let at = self.at;
        let Some(&byte) = self.data.get(at) else { return (Token::End, at) };
        let simple = match byte {
            b'{' => Some(Token::ObjectBegin),
            b'}' => Some(Token::ObjectEnd),
            b'[' => Some(Token::ArrayBegin),
            b']' => Some(Token::ArrayEnd),
            b':' => Some(Token::Colon),
            b',' => Some(Token::Comma),
            _ => None,
        };
        if let Some(token) = simple {
            self.at += 1;
            return (token, at);
        }
        let rest = &self.data[at..];
        match byte {
            b'"' => return self.text(),
            b'-' | b'0'..=b'9' => {
                if !self.settings.decode_invalid && odd_number(rest) {
                    return (Token::Wrong("invalid number"), at);
                }
                return self.number();
            }
            _ => {}
        }
        for (word, token) in
            [("true", Token::Boolean(true)), ("false", Token::Boolean(false)), ("null", Token::Null)]
        {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return (token, at);
            }
        }
        if self.settings.decode_invalid && odd_number(rest) {
            return self.number();
        }
        (Token::Wrong("invalid token"), at)
    }
    fn number(&mut self) -> (Token, usize) {
        let at = self.at;
        match leading_number(&self.data[at..]) {
            None => (Token::Wrong("invalid number"), at),
            Some((number, len)) => {
                self.at += len;
                (Token::Number(number), at)
            }
        }
    }
    fn text(&mut self) -> (Token, usize) {
        let start = self.at;
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let Some(&byte) = self.data.get(self.at) else {
                return (Token::Wrong("unexpected end of string"), self.at);
            };
            match byte {
                b'"' => {
                    self.at += 1;
                    return (Token::Text(out), start);
                }
                b'\\' => {
                    let escape = match self.data.get(self.at + 1) {
                        Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
                        Some(b'b') => 8,
                        Some(b't') => 9,
                        Some(b'n') => 10,
                        Some(b'f') => 12,
                        Some(b'r') => 13,
                        Some(b'u') => match self.unicode() {
                            None => return (Token::Wrong("invalid unicode escape code"), self.at),
                            Some((letter, len)) => {
                                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                                self.at += len;
                                continue;
                            }
                        },
                        _ => return (Token::Wrong("invalid escape code"), self.at),
                    };
                    out.push(escape);
                    self.at += 2;
                }
                other => {
                    out.push(other);
                    self.at += 1;
                }
            }
        }
    }
    /// The letter of the escape at hand, and how long the escape is: two are one letter beyond the basic plane.
    fn unicode(&self) -> Option<(char, usize)> {
        let unit = |at: usize| -> Option<u32> {
            let digits = self.data.get(at..at + 6)?;
            if !digits.starts_with(b"\\u") || !digits[2..].iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            u32::from_str_radix(std::str::from_utf8(&digits[2..]).ok()?, 16).ok()
        };
        let high = unit(self.at)?;
        if !(0xd800..0xe000).contains(&high) {
            return Some((char::from_u32(high)?, 6));
        }
        let low = unit(self.at + 6)?;
        if high >= 0xdc00 || !(0xdc00..0xe000).contains(&low) {
            return None;
        }
        Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?, 12))
    }
}

/// Whether what begins here is a number to C but not to JSON: `+1`, `01`, `0x1`, `inf`, `nan`.
fn odd_number(text: &[u8]) -> bool {
    let text = match text.first() {
        Some(b'+') => return true,
        Some(b'-') => &text[1..],
        _ => text,
    };
    match text.first() {
        Some(b'0') => text.get(1).is_some_and(|byte| matches!(byte, b'x' | b'X' | b'0'..=b'9')),
        Some(b'1'..=b'9') | None => false,
        _ => ["inf", "nan"]
            .iter()
            .any(|word| text.len() >= 3 && text[..3].eq_ignore_ascii_case(word.as_bytes())),
    }
}

/// The number at the beginning of a text, and how long it is, as C's `strtod` has it.
fn leading_number(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let body = &text[sign..];
    let digits =
        |from: usize, ok: fn(&u8) -> bool| body[from.min(body.len())..].iter().take_while(|b| ok(b)).count();
    let named = ["infinity", "inf", "nan"]
        .into_iter()
        .find(|word| body.len() >= word.len() && body[..word.len()].eq_ignore_ascii_case(word.as_bytes()));
    let len = if let Some(word) = named {
        word.len()
    } else if body.len() > 2
        && body[0] == b'0'
        && matches!(body[1], b'x' | b'X')
        && body[2].is_ascii_hexdigit()
    {
        2 + digits(2, u8::is_ascii_hexdigit)
    } else {
        let whole = digits(0, u8::is_ascii_digit);
        let mut len = whole;
        if body.get(len) == Some(&b'.') {
            let fraction = digits(len + 1, u8::is_ascii_digit);
            if whole + fraction > 0 {
                len += 1 + fraction;
            }
        }
        if len == 0 {
            return None;
        }
        if matches!(body.get(len), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(body.get(len + 1), Some(b'+' | b'-')));
            let exponent = digits(len + 1 + sign, u8::is_ascii_digit);
            if exponent > 0 {
                len += 1 + sign + exponent;
            }
        }
        len
    };
    Some((number::parse(&text[..sign + len])?, sign + len))
}
