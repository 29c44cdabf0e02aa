//! The head of a batch: 61 bytes, and what can be told from them and the checksum without looking at a record.
//!
//! Called by: the gateway, for what a producer sends; `records`.

use crate::Bad;
use bytes::Bytes;
use quorate_types::Offset;

/// Bytes before the records.
pub const HEADER_BYTES: usize = 61;
/// What stored batches have in place of a base offset: it tells them from payloads of [`quorate_types::record`], which begin with 0 or 1.
pub const MARK: [u8; 8] = *b"\x02kbatch2";

/// Where the length is counted from.
const LENGTH_FROM: usize = 12;
/// Where the checksum is counted from.
const CHECKED_FROM: usize = 21;
const MAGIC: i8 = 2;

/// How records are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, whole or in the chunks of its Java library.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// RFC 8878.
    Zstd,
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The checksum that it says.
    pub crc: u32,
    /// Codec, kind of time, whether it belongs to a transaction or is a marker of one.
    pub attributes: i16,
    /// Offset of its last record, less that of its first.
    pub last_offset_delta: i32,
    /// Time of its first record, milliseconds since the epoch.
    pub base_timestamp: i64,
    /// The latest of its times.
    pub max_timestamp: i64,
    /// Who produced it; -1 for nobody in particular.
    pub producer_id: i64,
    /// Which life of the producer.
    pub producer_epoch: i16,
    /// Number of its first record among those of its producer.
    pub base_sequence: i32,
    /// Records.
    pub count: i32,
}

impl Header {
    /// Reads a head, and checks that the bytes are one whole batch of this version. The checksum is [`check`]'s.
    ///
    /// # Errors
    /// [`Bad::Length`], [`Bad::Magic`].
    pub fn read(bytes: &[u8]) -> Result<Self, Bad> {
        let found = bytes.len();
        if found < HEADER_BYTES {
            return Err(Bad::Length { found, said: HEADER_BYTES as i64 });
        }
        let said = i64::from(i32::from_be_bytes(at(bytes, 8))) + LENGTH_FROM as i64;
        let magic = i8::from_be_bytes(at(bytes, 16));
        if magic != MAGIC {
            return Err(Bad::Magic(magic));
        }
        if i64::try_from(found) != Ok(said) {
            return Err(Bad::Length { found, said });
        }
        Ok(Self {
            crc: u32::from_be_bytes(at(bytes, 17)),
            attributes: i16::from_be_bytes(at(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(at(bytes, 23)),
            base_timestamp: i64::from_be_bytes(at(bytes, 27)),
            max_timestamp: i64::from_be_bytes(at(bytes, 35)),
            producer_id: i64::from_be_bytes(at(bytes, 43)),
            producer_epoch: i16::from_be_bytes(at(bytes, 51)),
            base_sequence: i32::from_be_bytes(at(bytes, 53)),
            count: i32::from_be_bytes(at(bytes, 57)),
        })
    }

    /// How its records are packed.
    ///
    /// # Errors
    /// [`Bad::Codec`].
    pub fn codec(&self) -> Result<Codec, Bad> {
        Ok(match self.attributes & 7 {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            other => return Err(Bad::Codec(other as u8)),
        })
    }
    /// Whether its time is that of its append, for all of its records.
    #[must_use]
    pub fn is_append_time(&self) -> bool {
        self.attributes & 8 != 0
    }
    /// Whether it is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 16 != 0
    }
    /// Whether it holds a marker of a transaction, and no records.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 32 != 0
    }
}

/// Checks what a producer sent: one whole batch with a right checksum, and one offset for each record.
///
/// # Errors
/// [`Bad`] says what is wrong. What is compressed is not looked into.
pub fn check(bytes: &[u8]) -> Result<Header, Bad> {
    let header = Header::read(bytes)?;
    let found = crc32c::crc32c(&bytes[CHECKED_FROM..]);
    if found != header.crc {
        return Err(Bad::Checksum { found, said: header.crc });
    }
    header.codec()?;
    let offsets = i64::from(header.last_offset_delta) + 1;
    if header.count < 1 || i64::from(header.count) != offsets {
        return Err(Bad::Count { count: header.count, offsets });
    }
    Ok(header)
}

/// A batch as it is stored: a copy, with [`MARK`] for its base offset.
#[must_use]
pub fn stored(batch: &[u8]) -> Bytes {
    let mut stored = Vec::with_capacity(batch.len());
    stored.extend_from_slice(&MARK);
    stored.extend_from_slice(batch.get(MARK.len()..).unwrap_or_default());
    Bytes::from(stored)
}

/// Whether a payload is a stored batch.
#[must_use]
pub fn is_batch(payload: &[u8]) -> bool {
    payload.starts_with(&MARK) && payload.len() >= HEADER_BYTES
}

/// Writes a stored batch as consumers get it: with the offset of its first record, and the epoch of the leader.
pub fn served(stored: &[u8], base: Offset, epoch: i32, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(stored);
    place(&mut out[start..], base, epoch);
}

/// Sets offset and epoch of a batch; bytes that are too few for that are left as they are.
pub(crate) fn place(batch: &mut [u8], base: Offset, epoch: i32) {
    if batch.len() >= HEADER_BYTES {
        batch[..8].copy_from_slice(&(base.0 as i64).to_be_bytes());
        batch[12..16].copy_from_slice(&epoch.to_be_bytes());
    }
}

/// Sets length and checksum of a batch that was just built.
pub(crate) fn seal(batch: &mut [u8]) {
    let length = (batch.len() - LENGTH_FROM) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CHECKED_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The head of a batch that is built: uncompressed, with the time of its append, of no producer. Length and checksum follow by [`seal`].
pub(crate) fn head(base: Offset, epoch: i32, time_ms: i64, last_offset_delta: i32, count: i32) -> [u8; 61] {
    let mut head = [0; HEADER_BYTES];
    head[16] = MAGIC as u8;
    head[21..23].copy_from_slice(&8i16.to_be_bytes());
    head[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    head[27..35].copy_from_slice(&time_ms.to_be_bytes());
    head[35..43].copy_from_slice(&time_ms.to_be_bytes());
    head[43..51].copy_from_slice(&(-1i64).to_be_bytes());
    head[51..53].copy_from_slice(&(-1i16).to_be_bytes());
    head[53..57].copy_from_slice(&(-1i32).to_be_bytes());
    head[57..61].copy_from_slice(&count.to_be_bytes());
    place(&mut head, base, epoch);
    head
}

fn at<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    bytes[from..from + N].try_into().expect("the head was checked to be whole")
}
