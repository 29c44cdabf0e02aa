//! Quorate's own layout of a batch of stream records: key, value and headers of each.
//!
//! The machine stores a batch as it came and hands it out as it came; only compaction by key looks inside.
//! A record without a value is a tombstone: on a compacted stream it deletes its key.

use crate::blob::Blob;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::commit::Payload;
use crate::wire_struct;
use bytes::Bytes;

/// One record as it is appended and read; its offset and timestamp belong to its place in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Groups records; compaction keeps the newest of each key.
    pub key: Option<Blob>,
    /// The content; absent for a tombstone.
    pub value: Option<Bytes>,
    /// Free pairs, in order, names may repeat.
    pub headers: Vec<Header>,
}

/// A header of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: Blob,
    /// Its value.
    pub value: Blob,
}
wire_struct!(Header { name, value });

impl Wire for Bytes {
    fn put(&self, out: &mut Writer) {
        out.bytes(self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        from.shared()
    }
}
wire_struct!(Record { key, value, headers });

/// Encodes records as one payload.
#[must_use]
pub fn encode(records: &[Record]) -> Payload {
    let mut out = Writer::default();
    for record in records {
        record.put(&mut out);
    }
    Payload::from(Bytes::from(out.buffer))
}

/// Decodes a payload of `count` records.
///
/// # Errors
/// [`DecodeError`]: the payload does not hold exactly `count` records.
pub fn decode(payload: &Bytes, count: u32) -> Result<Vec<Record>, DecodeError> {
    let mut from = Reader::new(payload);
    let mut records = Vec::with_capacity((count as usize).min(payload.len()));
    for _ in 0..count {
        records.push(Record::take(&mut from)?);
    }
    from.finish()?;
    Ok(records)
}

/// The keys of a payload's records, and whether each is a tombstone, without copying the values.
///
/// # Errors
/// As [`decode`].
pub fn keys(payload: &Bytes, count: u32) -> Result<Vec<(Option<Blob>, bool)>, DecodeError> {
    Ok(decode(payload, count)?.into_iter().map(|record| (record.key, record.value.is_none())).collect())
}

/// FNV-1a of a record key: chooses its partition the same way in every client of ours.
#[must_use]
pub fn partition_hash(key: &[u8]) -> u32 {
    key.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        let records = vec![
            Record { key: Some("k".into()), value: Some(Bytes::from_static(b"v")), headers: vec![] },
            Record { key: None, value: None, headers: vec![Header { name: "h".into(), value: "x".into() }] },
        ];
        let payload = encode(&records).bytes;
        assert_eq!(decode(&payload, 2), Ok(records));
        assert!(decode(&payload, 1).is_err());
        assert!(decode(&payload, 3).is_err());
    }
}
