//! From JSON to a message, by its descriptor, with the liberties and the error texts of etcd's gateway (Go's `jsonpb`): names of fields as in the
//! protocol or in camel case, unknown fields passed over, whole numbers as numbers or strings, enumerations by name or number, `null` for nothing.
//!
//! Invariant: nesting is bounded before anything recurses, and a value is scanned once a level.
//! Called by: `json`, for every value of a request.

use base64::Engine;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Messages within messages: more than the deepest transaction that the machine takes.
const DEPTH_MAX: usize = 32;
/// Go's standard encoding: padding is wanted, bits after the last byte are not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The message that one JSON value says.
///
/// # Errors
/// What is wrong with it, in the words of etcd's gateway where clients could know them.
pub(super) fn message(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, String> {
    // As Go has it: bytes that are no UTF-8 are replaced.
    let text = String::from_utf8_lossy(text);
    let raw: &RawValue = serde_json::from_str(&text).map_err(|why| syntax(&text, &why))?;
    let mut message = DynamicMessage::new(descriptor.clone());
    fill(&mut message, raw, DEPTH_MAX)?;
    Ok(message)
}

fn syntax(text: &str, why: &serde_json::Error) -> String {
    match text.trim_start().chars().next() {
        _ if why.is_eof() => "unexpected EOF".to_owned(),
        Some(first) if !"{[\"-0123456789tfn".contains(first) => no_value(first),
        _ => format!("invalid JSON: {why}"),
    }
}

fn no_value(first: char) -> String {
    format!("invalid character '{first}' looking for beginning of value")
}

/// What Go calls a value that does not fit, and the type that was wanted.
fn misfit(raw: &str, wanted: &str) -> String {
    let found = match raw.as_bytes().first() {
        Some(b'"') => "string",
        Some(b'[') => "array",
        Some(b'{') => "object",
        Some(b't' | b'f') => "bool",
        _ => "number",
    };
    format!("json: cannot unmarshal {found} into Go value of type {wanted}")
}

fn fill(message: &mut DynamicMessage, raw: &RawValue, depth: usize) -> Result<(), String> {
    let text = raw.get();
    if text == "null" {
        return Ok(());
    }
    if !text.starts_with('{') {
        return Err(misfit(text, "map[string]json.RawMessage"));
    }
    let Some(depth) = depth.checked_sub(1) else { return Err("exceeded max depth".to_owned()) };
    let found: HashMap<String, &RawValue> = serde_json::from_str(text).map_err(|why| why.to_string())?;
    for field in message.descriptor().fields() {
        // Where both names are there, the one in camel case counts.
        let Some(raw) = found.get(field.json_name()).or_else(|| found.get(field.name())) else { continue };
        if let Some(value) = of_field(&field, raw, depth)? {
            message.set_field(&field, value);
        }
    }
    Ok(())
}

fn of_field(field: &FieldDescriptor, raw: &RawValue, depth: usize) -> Result<Option<Value>, String> {
    let text = raw.get();
    if !field.is_list() {
        let message = matches!(field.kind(), Kind::Message(_));
        // Of several that exclude each other, one that is `null` is chosen all the same.
        if text == "null" && (message || field.containing_oneof().is_none()) {
            return Ok(None);
        }
        return of_kind(&field.kind(), raw, depth).map(Some);
    }
    if text == "null" {
        return Ok(None);
    }
    if !text.starts_with('[') {
        return Err(misfit(text, "[]json.RawMessage"));
    }
    let found: Vec<&RawValue> = serde_json::from_str(text).map_err(|why| why.to_string())?;
    let kind = field.kind();
    let values: Result<Vec<Value>, String> =
        found.into_iter().map(|raw| of_kind(&kind, raw, depth)).collect();
    values.map(|values| Some(Value::List(values)))
}

fn of_kind(kind: &Kind, raw: &RawValue, depth: usize) -> Result<Value, String> {
    let text = raw.get();
    match kind {
        Kind::Message(descriptor) => {
            let mut message = DynamicMessage::new(descriptor.clone());
            fill(&mut message, raw, depth)?;
            Ok(Value::Message(message))
        }
        _ if text == "null" => Ok(Value::default_value(kind)),
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(misfit(text, "bool")),
        },
        Kind::String => string(text, "string").map(Value::String),
        Kind::Bytes => bytes(&string(text, "[]uint8")?).map(|bytes| Value::Bytes(bytes.into())),
        Kind::Enum(descriptor) => enumerated(text, descriptor).map(Value::EnumNumber),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number(text, "int64").map(Value::I64),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => number(text, "int32").map(Value::I32),
        Kind::Uint64 | Kind::Fixed64 => number(text, "uint64").map(Value::U64),
        Kind::Uint32 | Kind::Fixed32 => number(text, "uint32").map(Value::U32),
        Kind::Double | Kind::Float => Err("a field of a kind that the protocol does not have".to_owned()),
    }
}

fn string(text: &str, wanted: &str) -> Result<String, String> {
    if text.starts_with('"') {
        serde_json::from_str(text).map_err(|why| why.to_string())
    } else {
        Err(misfit(text, wanted))
    }
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    BASE64.decode(&text).map_err(|why| {
        let at = match why {
            InvalidByte(at, _) | InvalidLastSymbol(at, _) => at,
            InvalidLength(_) | InvalidPadding => text.len() - text.len() % 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

fn enumerated(text: &str, descriptor: &EnumDescriptor) -> Result<i32, String> {
    if let Some(name) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        let value = descriptor.get_value_by_name(name).map(|value| value.number());
        return value.ok_or_else(|| format!("unknown value {text:?} for enum {}", descriptor.full_name()));
    }
    let package = descriptor.package_name().len() + 1;
    let (package, name) = descriptor.full_name().split_at(package);
    number(text, &format!("{package}{}", name.replace('.', "_")))
}

/// A whole number, in quotes or not.
fn number<T: serde::de::DeserializeOwned + Default>(text: &str, wanted: &str) -> Result<T, String> {
    let plain = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let first = match plain.chars().next() {
        None => return Err("unexpected end of JSON input".to_owned()),
        Some(first) => first,
    };
    if plain == "null" {
        return Ok(T::default());
    }
    serde_json::from_str(plain).map_err(|why| match first {
        '-' | '0'..='9' if why.is_data() => {
            format!("json: cannot unmarshal number {plain} into Go value of type {wanted}")
        }
        '{' | '[' | 't' | 'f' => misfit(plain, wanted),
        '-' | '0'..='9' => format!("invalid JSON: {why}"),
        _ => no_value(first),
    })
}

#[cfg(test)]
mod tests {
    use super::super::ROUTES;
    use super::*;

    fn check(path: &str, text: &str, wanted: Result<&str, &str>) {
        let input = ROUTES[path].method.input();
        let found = message(&input, text.as_bytes()).map(|message| super::super::encode::text(&message));
        assert_eq!(found.as_deref().map_err(String::as_str), wanted, "{text}");
    }

    #[test]
    fn json_is_read_as_etcd_reads_it() {
        let range = |text, wanted| check("/v3/kv/range", text, wanted);
        range(r#"{"key":"Zm9v","unknown":{"a":[1]},"range_end":null}"#, Ok(r#"{"key":"Zm9v"}"#));
        range(
            r#"{"rangeEnd":"AA==","limit":1,"revision":"2","sortOrder":"DESCEND","sort_target":3}"#,
            Ok(
                r#"{"range_end":"AA==","limit":"1","revision":"2","sort_order":"DESCEND","sort_target":"MOD"}"#,
            ),
        );
        range(r#"{"key":"Zm9v","key":"Zm9w"}"#, Ok(r#"{"key":"Zm9w"}"#));
        range(r#"{"key":"Zh=="}"#, Ok(r#"{"key":"Zg=="}"#));
        range("null", Ok("{}"));
        range(
            r#"{"sort_order":"NOPE"}"#,
            Err(r#"unknown value "\"NOPE\"" for enum etcdserverpb.RangeRequest.SortOrder"#),
        );
        range(r#"{"key":"Zm9"}"#, Err("illegal base64 data at input byte 0"));
        range(r#"{"key":"Zm9vYg"}"#, Err("illegal base64 data at input byte 4"));
        range(r#"{"key":"Zm-_"}"#, Err("illegal base64 data at input byte 2"));
        range(r#"{"key":5}"#, Err("json: cannot unmarshal number into Go value of type []uint8"));
        range(r#"{"limit":"x"}"#, Err("invalid character 'x' looking for beginning of value"));
        range(r#"{"limit":1.5}"#, Err("json: cannot unmarshal number 1.5 into Go value of type int64"));
        range(r#"{"limit":"1e2"}"#, Err("json: cannot unmarshal number 1e2 into Go value of type int64"));
        range(r#"{"limit":""}"#, Err("unexpected end of JSON input"));
        range(
            r#"{"limit":"99999999999999999999"}"#,
            Err("json: cannot unmarshal number 99999999999999999999 into Go value of type int64"),
        );
        range(r#"{"limit":true}"#, Err("json: cannot unmarshal bool into Go value of type int64"));
        range(r#"{"serializable":1}"#, Err("json: cannot unmarshal number into Go value of type bool"));
        range(r#"{"key":"Zm9v""#, Err("unexpected EOF"));
        range("[]", Err("json: cannot unmarshal array into Go value of type map[string]json.RawMessage"));
        let txn = |text, wanted| check("/v3/kv/txn", text, wanted);
        txn(r#"{"success":[null,{}]}"#, Ok(r#"{"success":[{},{}]}"#));
        txn(
            r#"{"success":{}}"#,
            Err("json: cannot unmarshal object into Go value of type []json.RawMessage"),
        );
        let deep = format!("{}{}", r#"{"success":[{"request_txn":"#.repeat(100), "}]}".repeat(100));
        txn(&deep.replace(":}", ":{}}"), Err("exceeded max depth"));
    }
}
