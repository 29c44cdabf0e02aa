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

/// The id of a record in the id order of its partition: Redis' `ms-seq`. Ids order as offsets do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Milliseconds since the epoch: when it was appended, unless whoever did gave another.
    pub ms: u64,
    /// Tells records of one millisecond apart.
    pub seq: u64,
}
wire_struct!(RecordId { ms, seq });

impl RecordId {
    /// Before every record.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };
    /// The last that a record can have.
    pub const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// The id after it, unless it is the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match (self.seq.checked_add(1), self.ms.checked_add(1)) {
            (Some(seq), _) => Some(Self { seq, ..self }),
            (None, Some(ms)) => Some(Self { ms, seq: 0 }),
            (None, None) => None,
        }
    }
    /// The id before it, unless it is the first.
    #[must_use]
    pub fn prev(self) -> Option<Self> {
        match (self.seq.checked_sub(1), self.ms.checked_sub(1)) {
            (Some(seq), _) => Some(Self { seq, ..self }),
            (None, Some(ms)) => Some(Self { ms, seq: u64::MAX }),
            (None, None) => None,
        }
    }
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// One record of a payload, by its place in it.
///
/// # Errors
/// [`DecodeError`]: the payload holds no such record.
pub fn nth(payload: &Bytes, place: u32) -> Result<Record, DecodeError> {
    let mut from = Reader::new(payload);
    for _ in 0..place {
        Record::take(&mut from)?;
    }
    Record::take(&mut from)
}

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
