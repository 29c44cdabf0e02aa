//! The little of protobuf's encoding that the measured calls need, by hand: the generator must not take the cores that it shares with servers.
//!
//! Source: Protocol Buffers, "Encoding" (varints, wire types 0 and 2).
//! Called by: `etcd`, `watchers`.

use super::Failure;
use bytes::{BufMut, BytesMut};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A length-delimited field: bytes, text, or a message.
pub(crate) fn bytes(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// A field that is a number.
pub(crate) fn number(out: &mut BytesMut, number: u8, value: u64) {
    out.put_u8(number << 3);
    varint(out, value);
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Calls `each` with every field of a message, in order.
///
/// # Errors
/// The bytes are no message, or have fields of another kind.
pub(crate) fn fields<'a>(mut message: &'a [u8], mut each: impl FnMut(u64, Field<'a>)) -> Result<(), Failure> {
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(take_varint(&mut message)?),
            2 => {
                let length = usize::try_from(take_varint(&mut message)?)?;
                let (bytes, rest) =
                    message.split_at_checked(length).ok_or("a field is longer than its message")?;
                message = rest;
                Field::Bytes(bytes)
            }
            other => return Err(format!("a field has the wire type {other}").into()),
        };
        each(tag >> 3, field);
    }
    Ok(())
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Failure> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("a message ends within a number")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

/// The last field of this number that is a number; zero when there is none, as protobuf has it.
///
/// # Errors
/// As [`fields`].
pub(crate) fn find_number(message: &[u8], wanted: u64) -> Result<u64, Failure> {
    let mut found = 0;
    fields(message, |number, field| {
        if let (true, Field::Number(value)) = (number == wanted, field) {
            found = value;
        }
    })?;
    Ok(found)
}

/// The last field of this number that is bytes; empty when there is none.
///
/// # Errors
/// As [`fields`].
pub(crate) fn find_bytes(message: &[u8], wanted: u64) -> Result<&[u8], Failure> {
    let mut found: &[u8] = &[];
    fields(message, |number, field| {
        if let (true, Field::Bytes(value)) = (number == wanted, field) {
            found = value;
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_length_delimited_with_varint_lengths() {
        let mut out = BytesMut::new();
        bytes(&mut out, 1, b"abc");
        bytes(&mut out, 2, &[7; 300]);
        assert_eq!(out[..5], [0x0a, 3, b'a', b'b', b'c']);
        assert_eq!(out[5..8], [0x12, 0xac, 0x02]);
        assert_eq!(out.len(), 5 + 3 + 300);
    }

    #[test]
    fn what_is_written_is_read_and_torn_messages_are_errors() {
        let mut out = BytesMut::new();
        number(&mut out, 3, u64::MAX);
        bytes(&mut out, 2, b"value");
        assert_eq!(find_number(&out, 3).unwrap(), u64::MAX);
        assert_eq!(find_bytes(&out, 2).unwrap(), b"value");
        assert_eq!(find_number(&out, 9).unwrap(), 0);
        for end in [1, 5, out.len() - 1] {
            assert!(find_number(&out[..end], 3).is_err(), "cut at {end}");
        }
        assert!(find_number(&[0x0d, 0, 0, 0, 0], 1).is_err(), "a wire type that is not known");
    }
}
