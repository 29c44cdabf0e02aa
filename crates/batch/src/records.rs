//! Records in a batch: read out of one that was sent, and built into one for records that came by another protocol.
//!
//! Key and value are the same on both sides, absent ones too. A header's name is text for Kafka's clients: what is no UTF-8 is shown with
//! replacement characters. A header without a value is one with an empty value.
//!
//! Called by: the runtime, for readers who want records; the Kafka gateway.

use crate::header::{self, HEADER_BYTES, Header};
use crate::packing::unpack;
use crate::{Bad, is_batch};
use bytes::Bytes;
use quorate_types::record::Header as Pair;
use quorate_types::{Blob, Offset, Record, WallTime, record};

/// What may be made of any batch, however small.
const UNPACKED_BYTES_MIN: usize = 1 << 20;
/// What may be made of any batch, however large.
const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// What may be made of each byte of a larger one. Text seldom packs to less than a fiftieth.
const RATIO_MAX: usize = 256;
/// What a record takes at least: length, attributes, two deltas, key, value, count of headers.
const RECORD_BYTES_MIN: usize = 7;
/// What a header takes at least.
const HEADER_PAIR_BYTES_MIN: usize = 2;

/// A record as a batch has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// The record.
    pub record: Record,
    /// When it was made, as its producer says; milliseconds since the epoch.
    pub time_ms: i64,
}

/// Most bytes that may be made of a batch of so many.
#[must_use]
pub fn unpacked_max(bytes: usize) -> usize {
    bytes.saturating_mul(RATIO_MAX).clamp(UNPACKED_BYTES_MIN, UNPACKED_BYTES_MAX)
}

/// Reads the records of a batch, of which at most `bytes_max` bytes are made.
///
/// # Errors
/// [`Bad`]: it is not whole, cannot be unpacked, or does not hold what it says.
pub fn decode(batch: &[u8], bytes_max: usize) -> Result<Vec<Timed>, Bad> {
    let header = Header::read(batch)?;
    let unpacked = unpack(header.codec()?, &batch[HEADER_BYTES..], bytes_max)?;
    let mut from = From { bytes: &unpacked, record: 0 };
    let count = usize::try_from(header.count).unwrap_or(0);
    let mut records = Vec::with_capacity(count.min(unpacked.len() / RECORD_BYTES_MIN));
    for number in 0..count {
        from.record = number;
        records.push(from.record(&header)?);
    }
    if from.bytes.is_empty() { Ok(records) } else { Err(from.bad("bytes follow the last one")) }
}

/// Checks the records of a batch that is not packed, without copying them.
///
/// # Errors
/// [`Bad::Record`], [`Bad::Length`], [`Bad::Magic`].
pub fn check_records(batch: &[u8]) -> Result<(), Bad> {
    let header = Header::read(batch)?;
    let mut from = From { bytes: &batch[HEADER_BYTES..], record: 0 };
    for number in 0..usize::try_from(header.count).unwrap_or(0) {
        from.record = number;
        from.raw()?;
    }
    if from.bytes.is_empty() { Ok(()) } else { Err(from.bad("bytes follow the last one")) }
}

/// The payload in the layout of [`quorate_types::record`]: a stored batch is read, within `bytes_max`; any other is that already.
///
/// # Errors
/// As [`decode`].
pub fn to_records(payload: &Bytes, bytes_max: usize) -> Result<Bytes, Bad> {
    if !is_batch(payload) {
        return Ok(payload.clone());
    }
    let bytes_max = bytes_max.min(unpacked_max(payload.len()));
    let records: Vec<Record> = decode(payload, bytes_max)?.into_iter().map(|timed| timed.record).collect();
    Ok(record::encode(&records).bytes)
}

/// Writes records as a batch: the place of each after `base`, and the record. `last` is the place after which the batch ends.
pub fn build<'a>(
    records: impl IntoIterator<Item = (u32, &'a Record)>,
    base: Offset,
    last: u32,
    wall: WallTime,
    epoch: i32,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let mut body = Vec::new();
    let mut count = 0;
    for (place, record) in records {
        body.clear();
        body.push(0); // Attributes: none are in use.
        varint(0, &mut body);
        varint(i64::from(place), &mut body);
        sized(record.key.as_deref(), &mut body);
        sized(record.value.as_deref(), &mut body);
        varint(record.headers.len() as i64, &mut body);
        for header in &record.headers {
            sized(Some(String::from_utf8_lossy(&header.name).as_bytes()), &mut body);
            sized(Some(&header.value), &mut body);
        }
        varint(body.len() as i64, out);
        out.extend_from_slice(&body);
        count += 1;
    }
    let head = header::head(base, epoch, wall.0 as i64, last as i32, count);
    out[start..start + HEADER_BYTES].copy_from_slice(&head);
    header::seal(&mut out[start..]);
}

/// Writes a batch without records: it only says that nothing is left up to an offset, which a consumer then goes on from.
pub fn empty(base: Offset, last: u32, epoch: i32, out: &mut Vec<u8>) {
    build([], base, last, WallTime(0), epoch, out);
}

/// A record as it lies in a batch.
struct Raw<'a> {
    /// Milliseconds after the batch's first time.
    time: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    /// Headers, and their bytes.
    count: usize,
    headers: &'a [u8],
}

struct From<'a> {
    bytes: &'a [u8],
    /// Which record is read.
    record: usize,
}

impl<'a> From<'a> {
    fn bad(&self, why: &'static str) -> Bad {
        Bad::Record { record: self.record, why }
    }

    fn record(&mut self, header: &Header) -> Result<Timed, Bad> {
        let raw = self.raw()?;
        let mut from = From { bytes: raw.headers, record: self.record };
        let mut headers = Vec::with_capacity(raw.count.min(raw.headers.len() / HEADER_PAIR_BYTES_MIN));
        for _ in 0..raw.count {
            let (name, value) = from.pair()?;
            headers.push(Pair { name: Blob::copy_from(name), value: Blob::copy_from(value) });
        }
        let time_ms = if header.is_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.saturating_add(raw.time)
        };
        let (key, value) = (raw.key.map(Blob::copy_from), raw.value.map(Bytes::copy_from_slice));
        Ok(Timed { record: Record { key, value, headers }, time_ms })
    }

    /// A record as it lies there, checked.
    fn raw(&mut self) -> Result<Raw<'a>, Bad> {
        let length = usize::try_from(self.varint()?).map_err(|_| self.bad("it has a negative length"))?;
        let mut from = From { bytes: self.take(length)?, record: self.record };
        from.take(1)?;
        let time = from.varint()?;
        if from.varint()? != self.record as i64 {
            return Err(self.bad("its offset is not the one after that of the record before it"));
        }
        let (key, value) = (from.sized()?, from.sized()?);
        let count = usize::try_from(from.varint()?).map_err(|_| self.bad("a negative number of headers"))?;
        let headers = from.bytes;
        for _ in 0..count {
            from.pair()?;
        }
        if !from.bytes.is_empty() {
            return Err(self.bad("bytes follow its headers"));
        }
        Ok(Raw { time, key, value, count, headers })
    }

    fn pair(&mut self) -> Result<(&'a [u8], &'a [u8]), Bad> {
        let name = self.sized()?.ok_or_else(|| self.bad("a header has no name"))?;
        Ok((name, self.sized()?.unwrap_or_default()))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or_else(|| self.bad("it is cut off"))?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Bytes with their length before them; -1 for none.
    fn sized(&mut self) -> Result<Option<&'a [u8]>, Bad> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| self.bad("a negative length"))?;
                self.take(length).map(Some)
            }
        }
    }

    /// Seven bits a byte, the low ones first, the sign in the lowest (Protocol Buffers, "sint64").
    fn varint(&mut self) -> Result<i64, Bad> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.bad("a number is too long"))
    }
}

fn varint(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left > 0x7f {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn sized(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        None => varint(-1, out),
        Some(bytes) => {
            varint(bytes.len() as i64, out);
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MARK, check, served, stored};
    use proptest::prelude::*;
    use std::io::Write;

    fn record(key: Option<&str>, value: Option<&'static str>, headers: &[(&str, &str)]) -> Record {
        Record {
            key: key.map(Blob::from),
            value: value.map(Bytes::from),
            headers: headers.iter().map(|(n, v)| Pair { name: (*n).into(), value: (*v).into() }).collect(),
        }
    }

    fn built(records: &[Record]) -> Vec<u8> {
        let mut out = Vec::new();
        let last = records.len() as u32 - 1;
        build((0..).zip(records), Offset(7), last, WallTime(99), 3, &mut out);
        out
    }

    /// The same batch with its records packed, as a producer would send it.
    fn packed(batch: &[u8], codec: u8) -> Vec<u8> {
        let body = &batch[HEADER_BYTES..];
        let packed = match codec {
            1 => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(body).unwrap();
                to.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(body).unwrap(),
            3 => {
                let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
                to.write_all(body).unwrap();
                to.finish().unwrap()
            }
            4 => ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest),
            // Snappy's chunks.
            _ => {
                let mut out = b"\x82SNAPPY\x00\0\0\0\x01\0\0\0\x01".to_vec();
                for chunk in body.chunks(5) {
                    let one = snap::raw::Encoder::new().compress_vec(chunk).unwrap();
                    out.extend((one.len() as u32).to_be_bytes());
                    out.extend(one);
                }
                out
            }
        };
        let mut all = batch[..HEADER_BYTES].to_vec();
        all[22] = if codec == 5 { 2 } else { codec };
        all.extend(packed);
        header::seal(&mut all);
        all
    }

    fn some() -> Vec<Record> {
        vec![
            record(Some("k"), Some("v"), &[("h", "1"), ("h", "2")]),
            record(None, None, &[]),
            record(Some(""), Some(""), &[("", "")]),
        ]
    }

    #[test]
    fn what_is_built_is_a_batch_and_reads_back() {
        let records = some();
        let batch = built(&records);
        let header = check(&batch).unwrap();
        assert_eq!((header.count, header.last_offset_delta, header.max_timestamp), (3, 2, 99));
        assert_eq!((&batch[..8], &batch[12..16]), (&7u64.to_be_bytes()[..], &3u32.to_be_bytes()[..]));
        let read = decode(&batch, 1000).unwrap();
        assert!(read.iter().all(|timed| timed.time_ms == 99));
        assert_eq!(read.into_iter().map(|timed| timed.record).collect::<Vec<_>>(), records);
    }

    #[test]
    fn every_codec_is_read() {
        let records = some();
        for codec in 0..=5 {
            let batch = if codec == 0 { built(&records) } else { packed(&built(&records), codec) };
            check(&batch).unwrap();
            let kept = stored(&batch);
            let payload = to_records(&kept, usize::MAX).unwrap();
            assert_eq!(record::decode(&payload, 3).unwrap(), records, "codec {codec}");
        }
    }

    #[test]
    fn serving_patches_offset_and_epoch_and_leaves_the_checksum_right() {
        let batch = built(&some());
        let kept = stored(&batch);
        assert!(is_batch(&kept) && kept[..8] == MARK);
        assert!(!is_batch(&record::encode(&some()).bytes), "a payload of ours is never taken for a batch");
        let mut out = vec![1];
        served(&kept, Offset(1 << 40), 12, &mut out);
        check(&out[1..]).unwrap();
        assert_eq!(out[1..9], (1u64 << 40).to_be_bytes());
        assert_eq!(out[13..17], 12u32.to_be_bytes());
        assert_eq!(out[17..], batch[16..]);
    }

    #[test]
    fn what_is_wrong_with_a_batch_is_said() {
        let batch = built(&some());
        let changed = |at: usize, to: u8| {
            let mut changed = batch.clone();
            changed[at] = to;
            changed
        };
        let sealed = |at: usize, to: u8| {
            let mut changed = changed(at, to);
            header::seal(&mut changed);
            changed
        };
        assert!(matches!(check(&batch[..60]), Err(Bad::Length { .. })));
        assert!(matches!(check(&batch[..batch.len() - 1]), Err(Bad::Length { .. })));
        assert!(matches!(check(&[&batch[..], &batch[..]].concat()), Err(Bad::Length { .. })));
        assert!(matches!(check(&changed(8, 0x80)), Err(Bad::Length { .. })));
        assert_eq!(check(&changed(16, 1)), Err(Bad::Magic(1)));
        assert!(matches!(check(&changed(70, 0xee)), Err(Bad::Checksum { .. })));
        assert!(matches!(check(&sealed(60, 2)), Err(Bad::Count { count: 2, offsets: 3 })));
        assert!(matches!(check(&sealed(57, 0x80)), Err(Bad::Count { .. })));
        assert_eq!(check(&sealed(22, 5)), Err(Bad::Codec(5)));
        assert!(matches!(decode(&sealed(60, 4), 1000), Err(Bad::Record { record: 3, .. })));
        assert!(matches!(decode(&sealed(60, 2), 1000), Err(Bad::Record { record: 1, .. })));
        assert!(matches!(decode(&sealed(22, 1), 1000), Err(Bad::Packing(_))));
    }

    #[test]
    fn a_small_batch_does_not_unpack_to_a_large_one() {
        let zeros = Record { value: Some(Bytes::from(vec![0; 3 << 20])), ..Record::default() };
        let batch = built(&[zeros]);
        for codec in 1..=4 {
            let small = packed(&batch, codec);
            let bound = decode(&small, 1 << 20);
            assert_eq!(bound, Err(Bad::Large { max: 1 << 20 }), "codec {codec}");
            assert_eq!(decode(&small, 4 << 20).unwrap().len(), 1, "codec {codec}");
        }
        let kept = stored(&packed(&batch, 4));
        assert!(kept.len() < 4096 && to_records(&kept, usize::MAX).is_err(), "the ratio is bounded too");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), codec in 0u8..6) {
            let _ = check(&bytes);
            let _ = decode(&bytes, 1 << 16);
            let mut batch = built(&some())[..HEADER_BYTES].to_vec();
            batch[22] = codec;
            batch.extend(bytes);
            header::seal(&mut batch);
            let _ = check(&batch);
            let read = decode(&batch, 1 << 16);
            if codec == 0 {
                prop_assert_eq!(read.map(drop), check_records(&batch), "both see the same");
            }
        }
    }
}
