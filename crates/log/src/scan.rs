//! Walks the batches of one segment in file order, in big sequential reads, handing out bodies without copying them.
//!
//! Invariant: a batch handed out has passed its header hash, its body hash, the chain and the count of indexes; a first index below the
//! expected one only passes with the flag that says so.
//! Invariant: never reads past `limit`; never allocates more than the file holds.
//! Called by: recovery (the tail), `reader::Entries`, verify, dump.

use crate::format::{
    BATCH_HEADER, BATCH_MAGIC, BatchHeader, FLAG_MARK, FLAG_REWIND, HeaderFault, SEGMENT_HEADER, body_hash,
    u32_at, u64_at,
};
use crate::{DiskFile, Index, LogError, Position};
use bytes::Bytes;
use std::sync::Arc;

/// One read, unless the caller wants less; also what a batch's `Bytes` keep alive while anybody holds them.
const WINDOW: usize = 2 << 20;

/// A batch that passed every check.
pub(crate) struct Batch {
    pub(crate) offset: u64,
    pub(crate) header: BatchHeader,
    pub(crate) body: Bytes,
}

/// What lies at the place the scan has reached.
pub(crate) enum Step {
    Batch(Batch),
    /// No valid batch that continues the chain. `header`: 72 bytes that do carry this segment's epoch are there.
    Bad {
        header: bool,
        offset: u64,
        found: String,
        wanted: String,
    },
    /// The limit, exactly.
    End,
}

/// A place in a segment and what must come next there.
pub(crate) struct Scan {
    pub(crate) name: String,
    file: Arc<dyn DiskFile>,
    epoch: u64,
    salt: u64,
    pub(crate) at: u64,
    limit: u64,
    /// Chain value the next batch must name; unknown when the scan starts in the middle.
    pub(crate) chain: Option<u64>,
    /// First index the next batch must have; unknown likewise.
    pub(crate) next: Option<Index>,
    /// The segment's first index: no batch in it goes below.
    least: Index,
    /// Its header says that its first batch rewinds.
    rewinds: bool,
    /// Bytes of one read.
    pub(crate) step_bytes: usize,
    window: Bytes,
    window_at: u64,
}

impl Scan {
    /// From the first batch of a segment. `limit`: the offset where its batches end, or the file's length.
    pub(crate) fn whole(
        name: &str,
        file: Arc<dyn DiskFile>,
        header: &crate::format::SegmentHeader,
        limit: u64,
    ) -> Scan {
        let mut scan =
            Scan::from_middle(name, file, header.epoch, header.salt(), SEGMENT_HEADER as u64, limit);
        scan.chain = Some(header.chain_before);
        scan.next = Some(header.first);
        scan.least = header.first;
        scan.rewinds = header.rewinds;
        scan
    }

    /// From a batch in the middle: its chain and index are believed, those after it are checked.
    pub(crate) fn from_middle(
        name: &str,
        file: Arc<dyn DiskFile>,
        epoch: u64,
        salt: u64,
        at: u64,
        limit: u64,
    ) -> Scan {
        Scan {
            name: name.to_owned(),
            file,
            epoch,
            salt,
            at,
            limit,
            chain: None,
            next: None,
            least: Index::ZERO,
            rewinds: false,
            step_bytes: WINDOW,
            window: Bytes::new(),
            window_at: 0,
        }
    }

    pub(crate) fn step(&mut self) -> Result<Step, LogError> {
        if self.at >= self.limit {
            return Ok(Step::End);
        }
        let rest = self.limit - self.at;
        if rest < BATCH_HEADER as u64 {
            return self.bad(false, format!("the last {rest} bytes"), "a batch of at least 72");
        }
        let head = self.bytes(self.at, BATCH_HEADER)?;
        if head.len() < BATCH_HEADER {
            return self.bad(false, format!("the file's end after {} bytes", head.len()), "a batch header");
        }
        let header = match BatchHeader::decode(&head, self.epoch, self.salt) {
            Ok(header) => header,
            Err(HeaderFault::Nothing { magic: 0, epoch: 0 }) => {
                return self.bad(false, "zeros".to_owned(), "a batch header");
            }
            Err(HeaderFault::Nothing { magic, epoch }) => {
                let found = format!("magic {magic:08x}, epoch {epoch}");
                return self.bad(false, found, &format!("magic {BATCH_MAGIC:08x}, epoch {}", self.epoch));
            }
            Err(HeaderFault::Hash { found, wanted }) => {
                return self.bad(true, format!("header hash {found:016x}"), &format!("{wanted:016x}"));
            }
        };
        if let Some((found, wanted)) = self.misfit(&header, rest) {
            return self.bad(true, found, &wanted);
        }
        let body = self.bytes(self.at + BATCH_HEADER as u64, header.body_bytes as usize)?;
        let hash = body_hash(&body, self.salt);
        if body.len() != header.body_bytes as usize || hash != header.body_hash {
            let found = format!("body hash {hash:016x} over {} bytes", body.len());
            return self.bad(true, found, &format!("{:016x} over {}", header.body_hash, header.body_bytes));
        }
        let offset = self.at;
        self.at += header.bytes();
        self.chain = Some(header.chain());
        self.next = Some(header.next());
        Ok(Step::Batch(Batch { offset, header, body }))
    }

    fn misfit(&self, header: &BatchHeader, rest: u64) -> Option<(String, String)> {
        if header.bytes() > rest {
            return Some((format!("a batch of {} bytes", header.bytes()), format!("at most {rest}")));
        }
        if !header.body_bytes.is_multiple_of(8) || header.flags & !(FLAG_MARK | FLAG_REWIND) != 0 {
            let found = format!("flags {:#x}, {} bytes of body", header.flags, header.body_bytes);
            return Some((found, "the flags of format version 1 and a multiple of 8".to_owned()));
        }
        if let Some(chain) = self.chain.filter(|chain| *chain != header.chain_before) {
            return Some((format!("chain {:016x}", header.chain_before), format!("{chain:016x}")));
        }
        if let Some(misfit) = self.next.and_then(|next| self.misplaced(header, next)) {
            return Some(misfit);
        }
        if header.rewinds() && (header.count == 0 || header.flags & FLAG_MARK != 0) {
            return Some(("an empty batch that rewinds".to_owned(), "entries in it".to_owned()));
        }
        // A frame takes 32 bytes at least, so a count beyond that is a lie that a reader would loop on.
        if u64::from(header.count) * 32 > u64::from(header.body_bytes)
            || header.first.0.checked_add(1 << 32).is_none()
        {
            let found =
                format!("{} entries from {} in {} bytes", header.count, header.first, header.body_bytes);
            return Some((found, "entries of at least 32 bytes".to_owned()));
        }
        None
    }

    fn misplaced(&self, header: &BatchHeader, next: Index) -> Option<(String, String)> {
        let begins = self.at == SEGMENT_HEADER as u64;
        let fits = match header.rewinds() {
            rewinds if begins => header.first == next && rewinds == self.rewinds,
            true => header.first >= self.least && header.first < next,
            false => header.first == next,
        };
        let how = |rewinds| if rewinds { ", rewinding" } else { "" };
        let found = || format!("first index {}{}", header.first, how(header.rewinds()));
        (!fits).then(|| (found(), format!("{next}{}", how(begins && self.rewinds))))
    }

    fn bad(&self, header: bool, found: String, wanted: &str) -> Result<Step, LogError> {
        Ok(Step::Bad { header, offset: self.at, found, wanted: wanted.to_owned() })
    }

    /// `len` bytes at `at` (fewer at the limit), as a slice of the window, which is read anew when they are not in it.
    fn bytes(&mut self, at: u64, len: usize) -> Result<Bytes, LogError> {
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + len as u64 > window_end {
            let room = self.limit.saturating_sub(at);
            let want = usize::try_from((len.max(self.step_bytes) as u64).min(room)).unwrap_or(usize::MAX);
            // The old window's memory is used again when no reader holds a part of it.
            let mut buffer = match std::mem::take(&mut self.window).try_into_mut() {
                Ok(buffer) if buffer.capacity() >= want => Vec::from(buffer),
                _ => Vec::new(),
            };
            buffer.resize(want, 0);
            let read = self.file.read_at(at, &mut buffer).map_err(LogError::io("read", &self.name))?;
            buffer.truncate(read);
            self.window = Bytes::from(buffer);
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        let to = (from + len).min(self.window.len());
        Ok(self.window.slice(from..to))
    }
}

/// What lies after the last good batch of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rest {
    /// End of the last structure that carries this segment's epoch, whole or not; 0 when there is none.
    pub(crate) own_end: u64,
    /// One after the last byte that is not zero; 0 when all are.
    pub(crate) nonzero_end: u64,
    /// The greatest synced position that a valid batch header among them states.
    pub(crate) synced: Position,
}

/// Looks through everything from `from` to `limit` for remains of this segment's batches.
pub(crate) fn search_rest(
    name: &str,
    file: &dyn DiskFile,
    (epoch, salt): (u64, u64),
    from: u64,
    limit: u64,
) -> Result<Rest, LogError> {
    let mut rest = Rest::default();
    let mut buffer = vec![0u8; WINDOW.min(usize::try_from(limit.saturating_sub(from)).unwrap_or(WINDOW))];
    let mut at = from;
    while at < limit {
        let want = buffer.len().min(usize::try_from(limit - at).unwrap_or(usize::MAX));
        let read = file.read_at(at, &mut buffer[..want]).map_err(LogError::io("read", name))?;
        let bytes = &buffer[..read];
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            rest.nonzero_end = at + last as u64 + 1;
            search_headers(bytes, at, limit, (epoch, salt), &mut rest);
        }
        if read < want || at + read as u64 >= limit {
            break;
        }
        // Headers that straddle two reads are seen whole in the second.
        at += (read - BATCH_HEADER) as u64 / 8 * 8;
    }
    Ok(rest)
}

fn search_headers(bytes: &[u8], at: u64, limit: u64, (epoch, salt): (u64, u64), rest: &mut Rest) {
    for place in (0..bytes.len().saturating_sub(15)).step_by(8) {
        if u32_at(bytes, place) != BATCH_MAGIC || u64_at(bytes, place + 8) != epoch {
            continue;
        }
        let start = at + place as u64;
        rest.own_end = rest.own_end.max(start + 16);
        let Some(head) = bytes.get(place..place + BATCH_HEADER) else { continue };
        if let Ok(header) = BatchHeader::decode(head, epoch, salt) {
            rest.own_end = rest.own_end.max((start + header.bytes()).min(limit));
            rest.synced = rest.synced.max(header.synced);
        }
    }
}
