//! The bytes on disk: segment headers, batch headers, entry frames, the manifest, and file names. See docs/formats/log.md.
//!
//! Invariant: everything is little-endian; every structure starts at a multiple of 8 bytes.
//! Invariant: a batch header only parses under its own segment's epoch and salt, so stale bytes of a recycled file never do.
//! Invariant: nothing here panics on any bytes, and nothing allocates more than the bytes given.
//! Called by: the log (encode), scan, recovery, reader, verify (decode).

use crate::{Extent, Index, LogError, Position, Term};
use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_HEADER: usize = 512;
pub(crate) const BATCH_HEADER: usize = 72;
pub(crate) const FRAME_HEADER: usize = 32;
pub(crate) const EXTENT_BYTES: usize = 12;
pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"QRTSEG\r\n";
pub(crate) const MANIFEST_MAGIC: &[u8; 8] = b"QRTMAN\r\n";
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"QBAT");
pub(crate) const KIND_ENTRY: u8 = 1;
pub(crate) const FLAG_MARK: u32 = 1;
/// The batch's first index is at or below the one before it: entries from there on that lie before it are void.
pub(crate) const FLAG_REWIND: u32 = 4;
/// The chain value before the first batch of a log.
pub(crate) const GENESIS: u64 = 0x5175_6F72_6174_6531;

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4 bytes"))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"))
}
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
pub(crate) fn align8(bytes: usize) -> usize {
    bytes.div_ceil(8) * 8
}

/// Checks magic and version of a file that begins with 8 bytes of magic and a `u32` version.
pub(crate) fn check_magic(file: &str, head: &[u8], magic: &'static [u8; 8]) -> Result<(), LogError> {
    if head.len() < 12 || &head[..8] != magic {
        let found = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let wanted = std::str::from_utf8(&magic[..6]).expect("every magic begins with six letters");
        return Err(LogError::Foreign { file: file.to_owned(), found, wanted });
    }
    let found = u32_at(head, 8);
    if found != VERSION {
        return Err(LogError::Version { file: file.to_owned(), found, wanted: VERSION });
    }
    Ok(())
}

/// What a file's name says it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Segment(u64),
    Kept { first: Index, last: Index, generation: u64 },
    Snapshot(Index),
    Manifest,
    Temporary,
    Other,
}

pub(crate) const MANIFEST: &str = "manifest.qman";

impl Name {
    pub(crate) fn parse(name: &str) -> Name {
        if name == MANIFEST {
            return Name::Manifest;
        }
        let Some((stem, kind)) = name.rsplit_once('.') else { return Name::Other };
        let mut parts = stem.split('-');
        let mut number = |wanted: Option<&str>| -> Option<u64> {
            let part = parts.next()?;
            match wanted {
                Some(word) => (part == word).then_some(0),
                None => part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?,
            }
        };
        let parsed = match kind {
            "tmp" => Some(Name::Temporary),
            "qseg" if stem.starts_with("seg-") => {
                number(Some("seg")).and_then(|_| number(None)).map(Name::Segment)
            }
            "qseg" if stem.starts_with("kept-") => number(Some("kept")).and_then(|_| {
                let (first, last) = (Index(number(None)?), Index(number(None)?));
                Some(Name::Kept { first, last, generation: number(None)? })
            }),
            "qsnap" => {
                number(Some("snap")).and_then(|_| number(None)).map(|index| Name::Snapshot(Index(index)))
            }
            _ => None,
        };
        // Only the exact spelling counts: two names must never mean one file.
        parsed
            .filter(|name_is| matches!(name_is, Name::Temporary) || name_is.file() == name)
            .unwrap_or(Name::Other)
    }

    pub(crate) fn file(&self) -> String {
        match self {
            Name::Segment(sequence) => segment_name(*sequence),
            Name::Kept { first, last, generation } => {
                format!("kept-{:020}-{:020}-{generation}.qseg", first.0, last.0)
            }
            Name::Snapshot(index) => format!("snap-{:020}.qsnap", index.0),
            Name::Manifest => MANIFEST.to_owned(),
            Name::Temporary | Name::Other => String::new(),
        }
    }
}

pub(crate) fn segment_name(sequence: u64) -> String {
    format!("seg-{sequence:016}.qseg")
}

/// The first 512 bytes of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// In use, or prepared ahead of need.
    pub(crate) active: bool,
    /// The file was something else before: its stale bytes are not zero.
    pub(crate) recycled: bool,
    /// Its first batch rewinds: entries from `first` on in earlier segments are void.
    pub(crate) rewinds: bool,
    pub(crate) sequence: u64,
    /// Never used twice in a folder.
    pub(crate) epoch: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) first: Index,
    /// Chain value of the last batch of the segment before.
    pub(crate) chain_before: u64,
    /// Where the segment before ended: bytes after it there mean nothing.
    pub(crate) end_before: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0u8; SEGMENT_HEADER];
        put(&mut out, 0, SEGMENT_MAGIC);
        put(&mut out, 8, &VERSION.to_le_bytes());
        let flags = u32::from(self.active) | u32::from(self.recycled) << 1 | u32::from(self.rewinds) << 2;
        put(&mut out, 12, &flags.to_le_bytes());
        put(&mut out, 16, &self.sequence.to_le_bytes());
        put(&mut out, 24, &self.epoch.to_le_bytes());
        put(&mut out, 32, &self.segment_bytes.to_le_bytes());
        put(&mut out, 40, &self.first.0.to_le_bytes());
        put(&mut out, 48, &self.chain_before.to_le_bytes());
        put(&mut out, 56, &self.end_before.to_le_bytes());
        let sum = crc32c::crc32c(&out[..SEGMENT_HEADER - 4]);
        put(&mut out, SEGMENT_HEADER - 4, &sum.to_le_bytes());
        out
    }

    pub(crate) fn decode(file: &str, bytes: &[u8]) -> Result<SegmentHeader, LogError> {
        if bytes.len() < SEGMENT_HEADER {
            let found = format!("{} bytes", bytes.len());
            return Err(LogError::damage(file, 0, found, "a segment header of 512 bytes"));
        }
        let sum = crc32c::crc32c(&bytes[..SEGMENT_HEADER - 4]);
        let wanted = u32_at(bytes, SEGMENT_HEADER - 4);
        // A flipped magic fails the checksum and is damage; a file with nothing of ours in front is foreign.
        if sum != wanted && &bytes[..8] == SEGMENT_MAGIC {
            let found = format!("header checksum {sum:08x}");
            return Err(LogError::damage(file, 0, found, format!("{wanted:08x}")));
        }
        check_magic(file, bytes, SEGMENT_MAGIC)?;
        let flags = u32_at(bytes, 12);
        if flags & !7 != 0 {
            let found = format!("segment flags {flags:#x}");
            return Err(LogError::damage(file, 12, found, "only the flags of format version 1"));
        }
        Ok(SegmentHeader {
            active: flags & 1 != 0,
            recycled: flags & 2 != 0,
            rewinds: flags & 4 != 0,
            sequence: u64_at(bytes, 16),
            epoch: u64_at(bytes, 24),
            segment_bytes: u64_at(bytes, 32),
            first: Index(u64_at(bytes, 40)),
            chain_before: u64_at(bytes, 48),
            end_before: u64_at(bytes, 56),
        })
    }

    pub(crate) fn salt(&self) -> u64 {
        salt(self.epoch, self.chain_before)
    }
}

/// Seeds every hash in a segment. It depends on everything ever logged, so payload bytes cannot be made to pass for a batch.
pub(crate) fn salt(epoch: u64, chain_before: u64) -> u64 {
    let mut bytes = [0u8; 16];
    put(&mut bytes, 0, &epoch.to_le_bytes());
    put(&mut bytes, 8, &chain_before.to_le_bytes());
    xxh3_64(&bytes)
}

/// The 72 bytes before a group commit's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) flags: u32,
    pub(crate) epoch: u64,
    /// Index of the first entry; of the next one to come when `count` is 0.
    pub(crate) first: Index,
    pub(crate) count: u32,
    pub(crate) body_bytes: u32,
    pub(crate) chain_before: u64,
    pub(crate) body_hash: u64,
    /// Everything before this place had been synced when the batch was written.
    pub(crate) synced: Position,
}

/// Why 72 bytes are not a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// No magic, or another epoch: not a batch of this segment.
    Nothing { magic: u32, epoch: u64 },
    /// A batch of this segment, with a wrong checksum.
    Hash { found: u64, wanted: u64 },
}

impl BatchHeader {
    pub(crate) fn encode(&self, salt: u64, out: &mut [u8]) {
        put(out, 0, &BATCH_MAGIC.to_le_bytes());
        put(out, 4, &self.flags.to_le_bytes());
        put(out, 8, &self.epoch.to_le_bytes());
        put(out, 16, &self.first.0.to_le_bytes());
        put(out, 24, &self.count.to_le_bytes());
        put(out, 28, &self.body_bytes.to_le_bytes());
        put(out, 32, &self.chain_before.to_le_bytes());
        put(out, 40, &self.body_hash.to_le_bytes());
        put(out, 48, &self.synced.sequence.to_le_bytes());
        put(out, 56, &self.synced.offset.to_le_bytes());
        let hash = xxh3_64_with_seed(&out[..64], salt);
        put(out, 64, &hash.to_le_bytes());
    }

    /// `bytes` holds at least 72.
    pub(crate) fn decode(bytes: &[u8], epoch: u64, salt: u64) -> Result<BatchHeader, HeaderFault> {
        let found_epoch = u64_at(bytes, 8);
        let magic = u32_at(bytes, 0);
        let found = xxh3_64_with_seed(&bytes[..64], salt);
        let wanted = u64_at(bytes, 64);
        if found != wanted {
            if magic == BATCH_MAGIC && found_epoch == epoch {
                return Err(HeaderFault::Hash { found, wanted });
            }
            return Err(HeaderFault::Nothing { magic, epoch: found_epoch });
        }
        if magic != BATCH_MAGIC || found_epoch != epoch {
            return Err(HeaderFault::Nothing { magic, epoch: found_epoch });
        }
        Ok(BatchHeader {
            flags: u32_at(bytes, 4),
            epoch: found_epoch,
            first: Index(u64_at(bytes, 16)),
            count: u32_at(bytes, 24),
            body_bytes: u32_at(bytes, 28),
            chain_before: u64_at(bytes, 32),
            body_hash: u64_at(bytes, 40),
            synced: Position { sequence: u64_at(bytes, 48), offset: u64_at(bytes, 56) },
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        BATCH_HEADER as u64 + u64::from(self.body_bytes)
    }

    pub(crate) fn rewinds(&self) -> bool {
        self.flags & FLAG_REWIND != 0
    }

    /// The index after its last entry.
    pub(crate) fn next(&self) -> Index {
        Index(self.first.0 + u64::from(self.count))
    }

    /// The chain value after this batch. The synced position is left out: it is filled in at the last moment and says
    /// nothing about content.
    pub(crate) fn chain(&self) -> u64 {
        let mut bytes = [0u8; 40];
        put(&mut bytes, 0, &self.chain_before.to_le_bytes());
        put(&mut bytes, 8, &self.body_hash.to_le_bytes());
        put(&mut bytes, 16, &self.first.0.to_le_bytes());
        put(&mut bytes, 24, &self.count.to_le_bytes());
        put(&mut bytes, 28, &self.body_bytes.to_le_bytes());
        put(&mut bytes, 32, &self.epoch.to_le_bytes());
        xxh3_64(&bytes)
    }
}

pub(crate) fn body_hash(body: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(body, salt)
}

/// Bytes of a frame on disk, padding included.
pub(crate) fn frame_bytes(body: usize, extents: usize) -> usize {
    align8(FRAME_HEADER + extents * EXTENT_BYTES + body)
}

/// Appends an entry frame.
pub(crate) fn encode_frame(out: &mut Vec<u8>, index: Index, term: Term, body: &[u8], extents: &[Extent]) {
    let at = out.len();
    let total = frame_bytes(body.len(), extents.len());
    let body_bytes = u32::try_from(body.len()).expect("append checked entry_bytes_max, which is below 4 GiB");
    let count = u32::try_from(extents.len()).expect("append checked entry_bytes_max, extents included");
    out.extend_from_slice(&[KIND_ENTRY, 0, 0, 0]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&body_bytes.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&index.0.to_le_bytes());
    out.extend_from_slice(&term.0.to_le_bytes());
    for extent in extents {
        let (from, to) = (extent.offset as usize, extent.offset as usize + extent.len as usize);
        out.extend_from_slice(&extent.offset.to_le_bytes());
        out.extend_from_slice(&extent.len.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body[from..to]).to_le_bytes());
    }
    seal_frame_head(&mut out[at..]);
    out.extend_from_slice(body);
    out.resize(at + total, 0);
}

/// The frame's fixed fields; the extents follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: u8,
    pub(crate) extents: u32,
    pub(crate) body_bytes: u32,
    pub(crate) index: Index,
    pub(crate) term: Term,
}

impl FrameHeader {
    /// Reads the fixed fields from at least 32 bytes, without the checksum, which also covers the extents.
    pub(crate) fn peek(bytes: &[u8]) -> FrameHeader {
        FrameHeader {
            kind: bytes[0],
            extents: u32_at(bytes, 4),
            body_bytes: u32_at(bytes, 8),
            index: Index(u64_at(bytes, 16)),
            term: Term(u64_at(bytes, 24)),
        }
    }

    /// Header and extents.
    pub(crate) fn head_bytes(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.extents) * EXTENT_BYTES as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.head_bytes() + u64::from(self.body_bytes)).div_ceil(8) * 8
    }
}

/// Checks the header's checksum over `head` (header and extents) and that the extents lie in the body.
pub(crate) fn check_frame_head(head: &[u8]) -> Result<FrameHeader, String> {
    let frame = FrameHeader::peek(head);
    let (found, wanted) = (frame_sum(head), u32_at(head, 12));
    if found != wanted {
        return Err(format!("frame checksum {found:08x}, its header says {wanted:08x}"));
    }
    for number in 0..frame.extents as usize {
        let (extent, _) = extent_at(head, number);
        if u64::from(extent.offset) + u64::from(extent.len) > u64::from(frame.body_bytes) {
            return Err(format!("payload {number} ends outside its entry"));
        }
    }
    Ok(frame)
}

/// Extent `number` and its checksum.
pub(crate) fn extent_at(head: &[u8], number: usize) -> (Extent, u32) {
    let at = FRAME_HEADER + number * EXTENT_BYTES;
    (Extent { offset: u32_at(head, at), len: u32_at(head, at + 4) }, u32_at(head, at + 8))
}

/// Writes the checksum over header and extents.
pub(crate) fn seal_frame_head(head: &mut [u8]) {
    let sum = frame_sum(head);
    put(head, 12, &sum.to_le_bytes());
}

fn frame_sum(head: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&head[..12]);
    crc32c::crc32c_append(sum, &head[16..])
}

/// A decoded entry frame and the bytes it took.
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) body: Bytes,
    pub(crate) extents: Vec<Extent>,
}

/// Takes the frame at `at` out of a batch's body. `Err` is in words: the caller knows the file and the offset.
pub(crate) fn decode_frame(batch: &Bytes, at: usize) -> Result<Frame, FrameFault> {
    let rest = batch.len().checked_sub(at).filter(|rest| *rest >= FRAME_HEADER);
    let Some(rest) = rest else { return Err(FrameFault::Bad("the batch ends inside a frame".to_owned())) };
    let peek = FrameHeader::peek(&batch[at..]);
    if peek.bytes() > rest as u64 {
        return Err(FrameFault::Bad(format!("a frame of {} bytes where {rest} are left", peek.bytes())));
    }
    let head_end = at + peek.head_bytes() as usize;
    let header = check_frame_head(&batch[at..head_end]).map_err(FrameFault::Bad)?;
    if header.kind != KIND_ENTRY {
        return Err(FrameFault::Kind(header.kind));
    }
    let extents =
        (0..header.extents as usize).map(|number| extent_at(&batch[at..head_end], number).0).collect();
    Ok(Frame { header, body: batch.slice(head_end..head_end + header.body_bytes as usize), extents })
}

/// Why a frame could not be taken.
pub(crate) enum FrameFault {
    Bad(String),
    Kind(u8),
}

/// Which files hold the past. Written anew, atomically, by each cleaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) generation: u64,
    /// Segments from this sequence on must all be there, without a gap.
    pub(crate) base: u64,
    /// The chain value before segment `base`.
    pub(crate) base_chain: u64,
    /// The files below `base` that still count, in index order.
    pub(crate) history: Vec<History>,
}

/// A file of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// A whole segment: where its batches end, and its last index. Its successor, which would say so, may be gone.
    Segment { sequence: u64, end: u64, last: Index },
    /// What a cleaning kept.
    Kept { first: Index, last: Index, generation: u64 },
}

impl History {
    pub(crate) fn name(&self) -> Name {
        match *self {
            History::Segment { sequence, .. } => Name::Segment(sequence),
            History::Kept { first, last, generation } => Name::Kept { first, last, generation },
        }
    }
}

impl Manifest {
    pub(crate) fn new() -> Manifest {
        Manifest { generation: 1, base: 1, base_chain: GENESIS, history: Vec::new() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48 + self.history.len() * 32);
        out.extend_from_slice(MANIFEST_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let count = u32::try_from(self.history.len()).expect("fewer than 2^32 files");
        out.extend_from_slice(&count.to_le_bytes());
        for value in [self.generation, self.base, self.base_chain] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for file in &self.history {
            let row = match *file {
                History::Segment { sequence, end, last } => [1, sequence, end, last.0],
                History::Kept { first, last, generation } => [2, first.0, last.0, generation],
            };
            for value in row {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, LogError> {
        let bad = |offset: usize, found: String, wanted: String| {
            Err(LogError::damage(MANIFEST, offset as u64, found, wanted))
        };
        if bytes.len() < 44 {
            return bad(0, format!("{} bytes", bytes.len()), "at least 44".to_owned());
        }
        let end = bytes.len() - 4;
        let (sum, wanted) = (crc32c::crc32c(&bytes[..end]), u32_at(bytes, end));
        if sum != wanted {
            return bad(end, format!("checksum {sum:08x}"), format!("{wanted:08x}"));
        }
        check_magic(MANIFEST, bytes, MANIFEST_MAGIC)?;
        let count = u32_at(bytes, 12) as usize;
        if count.checked_mul(32) != Some(end - 40) {
            return bad(12, format!("{count} rows in {} bytes", bytes.len()), "44 + 32 per row".to_owned());
        }
        let mut history = Vec::with_capacity(count);
        for row in 0..count {
            let at = 40 + row * 32;
            let [a, b, c] = [u64_at(bytes, at + 8), u64_at(bytes, at + 16), u64_at(bytes, at + 24)];
            history.push(match u64_at(bytes, at) {
                1 => History::Segment { sequence: a, end: b, last: Index(c) },
                2 => History::Kept { first: Index(a), last: Index(b), generation: c },
                kind => return bad(at, format!("a file of kind {kind}"), "kind 1 or 2".to_owned()),
            });
        }
        let [generation, base, base_chain] = [u64_at(bytes, 16), u64_at(bytes, 24), u64_at(bytes, 32)];
        if base == 0 || base > 1 << 62 || generation > 1 << 62 {
            return bad(
                16,
                format!("generation {generation}, base {base}"),
                "both below 2^62, base above 0".to_owned(),
            );
        }
        Ok(Manifest { generation, base, base_chain, history })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        for name in [
            Name::Segment(7),
            Name::Kept { first: Index(3), last: Index(90), generation: 4 },
            Name::Snapshot(Index(12)),
            Name::Manifest,
        ] {
            assert_eq!(Name::parse(&name.file()), name);
        }
        for name in [
            "seg-7.qseg",
            "seg-+000000000000007.qseg",
            "seg-0000000000000007-1.qseg",
            "lock",
            "x",
            "kept-1-2-3.qseg",
        ] {
            assert_eq!(Name::parse(name), Name::Other, "{name}");
        }
        assert_eq!(Name::parse("prep-1.tmp"), Name::Temporary);
    }

    #[test]
    fn a_manifest_comes_back_as_written_and_no_flip_passes() {
        let history = vec![
            History::Segment { sequence: 2, end: 700, last: Index(4) },
            History::Kept { first: Index(5), last: Index(9), generation: 3 },
        ];
        let manifest = Manifest { generation: 3, base: 9, base_chain: 77, history };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(Manifest::decode(&flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_batch_header_parses_only_under_its_epoch_and_salt() {
        let header = BatchHeader {
            flags: 0,
            epoch: 5,
            first: Index(9),
            count: 1,
            body_bytes: 64,
            chain_before: 3,
            body_hash: 4,
            synced: Position { sequence: 1, offset: 512 },
        };
        let mut bytes = [0; BATCH_HEADER];
        header.encode(42, &mut bytes);
        assert_eq!(BatchHeader::decode(&bytes, 5, 42), Ok(header));
        assert!(matches!(BatchHeader::decode(&bytes, 6, 42), Err(HeaderFault::Nothing { .. })));
        assert!(matches!(BatchHeader::decode(&bytes, 5, 43), Err(HeaderFault::Hash { .. })));
    }
}
