//! Reads entries and payloads out of written segments, on any thread, while the log grows and is cleaned.
//!
//! Invariant: a segment in use by a reader is never recycled: recycling takes the last `Arc` (see `Log::complete_clean`), and a removed
//! file's open handle goes on reading.
//! Invariant: every payload handed out has passed its own checksum.
//! Called by: node (stream reads, `why`), the cleaner, backup.

use crate::clean::KeptSegment;
use crate::format::{
    BATCH_HEADER, BatchHeader, FRAME_HEADER, FrameFault, FrameHeader, KIND_ENTRY, SEGMENT_HEADER,
    SegmentHeader, check_frame_head, decode_frame, extent_at,
};
use crate::scan::{Scan, Step};
use crate::{DiskFile, Extent, Index, LogError, Term};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Distance between two remembered batch places. 8 KiB: 128 KiB of memory per 64 MiB segment, one small read to find a batch.
const STRIDE: u64 = 8 << 10;
/// A window of a segment while looking for an entry.
const LOOK: usize = 16 << 10;

/// An entry as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub index: Index,
    /// The term it was appended in.
    pub term: Term,
    /// The body. A slice of a bigger read: copy it out to keep it for long.
    pub body: Bytes,
    /// The payloads inside the body.
    pub extents: Vec<Extent>,
}

/// A handle for reading. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct LogReader {
    pub(crate) table: Arc<RwLock<Table>>,
}

impl LogReader {
    /// Payload `sub` of entry `index`: the bytes of that extent.
    ///
    /// # Errors
    /// [`LogError::NoPayload`] when the entry has none such or cleaning dropped it as dead; [`LogError::Beyond`],
    /// [`LogError::Compacted`]; [`LogError::Damage`] when the bytes fail their checksum; [`LogError::Io`].
    pub fn payload(&self, index: Index, sub: u32) -> Result<Bytes, LogError> {
        self.segment_of(index)?.payload(index, sub)
    }

    /// The whole entry.
    ///
    /// # Errors
    /// As [`LogReader::payload`]; [`LogError::Compacted`] also when its segment was cleaned and only payloads are left.
    pub fn entry(&self, index: Index) -> Result<Entry, LogError> {
        let segment = self.segment_of(index)?;
        let SegmentKind::Log(log) = &segment.kind else {
            return Err(LogError::Compacted { index, first: self.first() });
        };
        let place = log.place(&segment, index)?;
        let mut scan = log.scan_from(&segment, place);
        while let Step::Batch(batch) = scan.step()? {
            if batch.header.first.0 + u64::from(batch.header.count) <= index.0 {
                continue;
            }
            let mut frames = Frames::new(segment.name.clone(), batch.offset, batch.header, batch.body);
            while let Some(entry) = frames.next()? {
                if entry.index == index {
                    return Ok(entry);
                }
            }
            break;
        }
        Err(segment.lost(index))
    }

    /// Entries from `from` on, in order, to the last one written now. Every batch is verified on the way.
    ///
    /// # Errors
    /// [`LogError::Compacted`] when whole entries no longer reach back to `from`.
    pub fn entries(&self, from: Index) -> Result<Entries, LogError> {
        let (segments, last) = {
            let table = self.table();
            let first = table.first_whole();
            if from < first {
                return Err(LogError::Compacted { index: from, first });
            }
            (table.whole_from(from), table.written)
        };
        Entries::new(segments, from, last)
    }

    /// The first index from which all entries are still whole.
    pub fn first(&self) -> Index {
        self.table().first_whole()
    }

    /// The last index written.
    pub fn last(&self) -> Index {
        self.table().written
    }

    fn segment_of(&self, index: Index) -> Result<Arc<Segment>, LogError> {
        let table = self.table();
        if index > table.written {
            return Err(LogError::Beyond { index, last: table.written });
        }
        let at = table.segments.partition_point(|segment| segment.first <= index);
        let segment = at.checked_sub(1).map(|at| &table.segments[at]);
        match segment.filter(|segment| index <= segment.last()) {
            Some(segment) => Ok(Arc::clone(segment)),
            None => Err(LogError::Compacted { index, first: table.first_whole() }),
        }
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files of a log, in index order.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) written: Index,
}

impl Table {
    /// The first index of the unbroken run of log segments that ends the log.
    pub(crate) fn first_whole(&self) -> Index {
        let mut first = self.written.next();
        let mut after: Option<u64> = None;
        for segment in self.segments.iter().rev() {
            match &segment.kind {
                SegmentKind::Log(log) if after.is_none_or(|after| log.header.sequence + 1 == after) => {
                    first = segment.first;
                    after = Some(log.header.sequence);
                }
                _ => break,
            }
        }
        first
    }

    pub(crate) fn whole_from(&self, from: Index) -> Vec<Arc<Segment>> {
        let at = self.segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        self.segments[at..].to_vec()
    }
}

/// One file: a log segment, or what a cleaning kept of some.
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) file_bytes: u64,
    pub(crate) first: Index,
    pub(crate) kind: SegmentKind,
}

pub(crate) enum SegmentKind {
    Log(LogSegment),
    Kept(KeptSegment),
}

impl Segment {
    pub(crate) fn last(&self) -> Index {
        match &self.kind {
            SegmentKind::Log(log) => log.places().last,
            SegmentKind::Kept(kept) => kept.last,
        }
    }

    pub(crate) fn payload(&self, index: Index, sub: u32) -> Result<Bytes, LogError> {
        match &self.kind {
            SegmentKind::Log(log) => log.payload(self, index, sub),
            SegmentKind::Kept(kept) => kept.payload(self, index, sub),
        }
    }

    fn lost(&self, index: Index) -> LogError {
        LogError::damage(
            &self.name,
            0,
            format!("no entry {index}"),
            "every entry its neighbours' headers promise",
        )
    }
}

/// A segment of batches.
pub(crate) struct LogSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) salt: u64,
    places: Mutex<Places>,
}

/// Where batches begin, every 8 KiB or so.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// (first index of the batch, its offset); `None` until somebody needs it.
    pub(crate) marks: Option<Vec<(Index, u64)>>,
    /// Where written batches end.
    pub(crate) end: u64,
    pub(crate) last: Index,
}

impl Places {
    pub(crate) fn note(&mut self, first: Index, offset: u64) {
        let marks = self.marks.get_or_insert_default();
        if marks.last().is_none_or(|(_, at)| offset >= at + STRIDE) {
            marks.push((first, offset));
        }
    }
}

impl LogSegment {
    pub(crate) fn new(header: SegmentHeader, places: Places) -> LogSegment {
        let salt = header.salt();
        LogSegment { header, salt, places: Mutex::new(places) }
    }

    pub(crate) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offset of a batch at or before the one that holds `index`, and where batches end.
    fn place(&self, segment: &Segment, index: Index) -> Result<(u64, u64), LogError> {
        let mut places = self.places();
        if places.marks.is_none() {
            // Found once, by hopping from header to header; readers of the same segment wait, the log never does: its
            // current segment always has its marks.
            let marks = self.find_places(segment, places.end)?;
            places.marks = Some(marks);
        }
        let marks = places.marks.as_deref().unwrap_or_default();
        let at = marks.partition_point(|(first, _)| *first <= index);
        let offset = at.checked_sub(1).map_or(SEGMENT_HEADER as u64, |at| marks[at].1);
        Ok((offset, places.end))
    }

    fn find_places(&self, segment: &Segment, end: u64) -> Result<Vec<(Index, u64)>, LogError> {
        let mut found = Places { marks: Some(Vec::new()), end, last: Index::ZERO };
        let mut window = Window::new(segment, end, 256 << 10);
        let mut at = SEGMENT_HEADER as u64;
        while at < end {
            let header = self.header_at(&mut window, at)?;
            if header.count > 0 {
                found.note(header.first, at);
            }
            at += header.bytes();
        }
        Ok(found.marks.unwrap_or_default())
    }

    fn header_at(&self, window: &mut Window<'_>, at: u64) -> Result<BatchHeader, LogError> {
        let name = window.segment.name.as_str();
        let bytes = window.bytes(at, BATCH_HEADER)?;
        BatchHeader::decode(bytes, self.header.epoch, self.salt)
            .map_err(|fault| LogError::damage(name, at, format!("{fault:?}"), "a batch header"))
    }

    fn scan_from(&self, segment: &Segment, (at, end): (u64, u64)) -> Scan {
        Scan::from_middle(&segment.name, Arc::clone(&segment.file), self.header.epoch, self.salt, at, end)
    }

    fn payload(&self, segment: &Segment, index: Index, sub: u32) -> Result<Bytes, LogError> {
        let (mut at, end) = self.place(segment, index)?;
        let mut window = Window::new(segment, end, LOOK);
        loop {
            if at >= end {
                return Err(segment.lost(index));
            }
            let header = self.header_at(&mut window, at)?;
            if header.first.0 + u64::from(header.count) > index.0 {
                return self.payload_in(
                    &mut window,
                    at + BATCH_HEADER as u64,
                    at + header.bytes(),
                    index,
                    sub,
                );
            }
            at += header.bytes();
        }
    }

    fn payload_in(
        &self,
        window: &mut Window<'_>,
        mut at: u64,
        end: u64,
        index: Index,
        sub: u32,
    ) -> Result<Bytes, LogError> {
        let segment = window.segment;
        while at < end {
            let peek = FrameHeader::peek(window.bytes(at, FRAME_HEADER)?);
            if peek.bytes() > end - at {
                return Err(LogError::damage(
                    &segment.name,
                    at,
                    "a frame longer than its batch",
                    "whole frames",
                ));
            }
            if peek.index != index || peek.kind != KIND_ENTRY {
                at += peek.bytes();
                continue;
            }
            let head = window.bytes(at, peek.head_bytes() as usize)?;
            check_frame_head(head)
                .map_err(|found| LogError::damage(&segment.name, at, found, "a whole frame"))?;
            if sub >= peek.extents {
                return Err(LogError::NoPayload { index, sub });
            }
            let (extent, sum) = extent_at(head, sub as usize);
            let start = at + peek.head_bytes() + u64::from(extent.offset);
            return window.take(start, extent.len as usize, sum);
        }
        Err(segment.lost(index))
    }
}

/// A part of a segment in memory, moved forward as needed.
pub(crate) struct Window<'a> {
    pub(crate) segment: &'a Segment,
    end: u64,
    least: usize,
    buffer: Vec<u8>,
    at: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(segment: &'a Segment, end: u64, least: usize) -> Window<'a> {
        Window { segment, end, least, buffer: Vec::new(), at: 0 }
    }

    pub(crate) fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], LogError> {
        if !self.holds(at, len) {
            let room = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let want = len.max(self.least).min(room);
            self.buffer.resize(want, 0);
            let read = self.segment.file.read_at(at, &mut self.buffer);
            let read = read.map_err(LogError::io("read", &self.segment.name))?;
            self.buffer.truncate(read);
            self.at = at;
            if read < len {
                let found = format!("{read} bytes before the end");
                return Err(LogError::damage(&self.segment.name, at, found, format!("{len}")));
            }
        }
        let from = (at - self.at) as usize;
        Ok(&self.buffer[from..from + len])
    }

    fn holds(&self, at: u64, len: usize) -> bool {
        at >= self.at && at + len as u64 <= self.at + self.buffer.len() as u64
    }

    /// Copies `len` bytes out and checks them.
    pub(crate) fn take(&mut self, at: u64, len: usize, sum: u32) -> Result<Bytes, LogError> {
        let bytes = if self.holds(at, len) {
            Bytes::copy_from_slice(self.bytes(at, len)?)
        } else {
            let room = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let mut out = vec![0; len.min(room)];
            let read =
                self.segment.file.read_at(at, &mut out).map_err(LogError::io("read", &self.segment.name))?;
            out.truncate(read);
            Bytes::from(out)
        };
        let found = crc32c::crc32c(&bytes);
        if bytes.len() != len || found != sum {
            let found = format!("payload checksum {found:08x} over {} bytes", bytes.len());
            return Err(LogError::damage(&self.segment.name, at, found, format!("{sum:08x} over {len}")));
        }
        Ok(bytes)
    }
}

/// Entries in order. After an error it ends: an error while recovering means that the node must not serve.
pub struct Entries {
    segments: std::vec::IntoIter<Arc<Segment>>,
    current: Option<(Arc<Segment>, Scan)>,
    frames: Option<Frames>,
    /// Chain value and end offset of the segment finished last.
    sealed: Option<(u64, u64)>,
    /// Learns where batches begin, so that the first payload read need not look again.
    learned: Option<Places>,
    next: Index,
    last: Index,
    failed: bool,
}

impl Entries {
    pub(crate) fn new(segments: Vec<Arc<Segment>>, from: Index, last: Index) -> Result<Entries, LogError> {
        Ok(Entries {
            segments: segments.into_iter(),
            current: None,
            frames: None,
            sealed: None,
            learned: None,
            next: Index(from.0.max(1)),
            last,
            failed: false,
        })
    }

    fn advance(&mut self) -> Result<Option<Entry>, LogError> {
        while self.next <= self.last {
            if let Some(frames) = &mut self.frames {
                match frames.next()? {
                    Some(entry) if entry.index < self.next => continue,
                    Some(entry) => {
                        self.next = entry.index.next();
                        return Ok(Some(entry));
                    }
                    None => self.frames = None,
                }
            }
            self.next_batch()?;
        }
        Ok(None)
    }

    fn next_batch(&mut self) -> Result<(), LogError> {
        let Some((segment, scan)) = &mut self.current else { return self.next_segment() };
        match scan.step()? {
            Step::Batch(batch) => {
                if let Some(places) = self.learned.as_mut().filter(|_| batch.header.count > 0) {
                    places.note(batch.header.first, batch.offset);
                }
                let past = batch.header.first.0 + u64::from(batch.header.count) <= self.next.0;
                if !past {
                    let name = segment.name.clone();
                    self.frames = Some(Frames::new(name, batch.offset, batch.header, batch.body));
                }
                Ok(())
            }
            Step::Bad { offset, found, wanted, .. } => {
                Err(LogError::damage(&segment.name, offset, found, wanted))
            }
            Step::End => self.end_segment(),
        }
    }

    fn end_segment(&mut self) -> Result<(), LogError> {
        let Some((segment, scan)) = self.current.take() else { return Ok(()) };
        if let (SegmentKind::Log(log), Some(learned)) = (&segment.kind, self.learned.take()) {
            let mut places = log.places();
            if places.marks.is_none() {
                places.marks = Some(learned.marks.unwrap_or_default());
            }
        }
        self.sealed = scan.chain.map(|chain| (chain, scan.at));
        Ok(())
    }

    fn next_segment(&mut self) -> Result<(), LogError> {
        let Some(segment) = self.segments.next() else {
            let why = "the last file ends before".to_owned();
            return Err(LogError::Gap { first: self.next, last: self.last, why });
        };
        let SegmentKind::Log(log) = &segment.kind else {
            return Err(LogError::Compacted { index: self.next, first: segment.last().next() });
        };
        let end = log.places().end;
        let scan = Scan::whole(&segment.name, Arc::clone(&segment.file), &log.header, end);
        if let Some((chain, sealed_end)) = self.sealed.take()
            && (chain, sealed_end) != (log.header.chain_before, log.header.end_before)
        {
            let found =
                format!("chain {:016x} after offset {}", log.header.chain_before, log.header.end_before);
            let wanted =
                format!("chain {chain:016x} after offset {sealed_end}, where the segment before it ends");
            return Err(LogError::damage(&segment.name, 48, found, wanted));
        }
        self.learned = Some(Places { marks: Some(Vec::new()), end, last: Index::ZERO });
        self.current = Some((segment, scan));
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.advance().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

/// The entries of one verified batch.
pub(crate) struct Frames {
    name: String,
    body_at: u64,
    body: Bytes,
    at: usize,
    next: Index,
    left: u32,
}

impl Frames {
    pub(crate) fn new(name: String, offset: u64, header: BatchHeader, body: Bytes) -> Frames {
        let body_at = offset + BATCH_HEADER as u64;
        Frames { name, body_at, body, at: 0, next: header.first, left: header.count }
    }

    /// The next entry, its payloads checked against their own checksums too.
    pub(crate) fn next_checked(&mut self) -> Result<Option<Entry>, LogError> {
        let at = self.at;
        let Some(entry) = self.next()? else { return Ok(None) };
        for number in 0..entry.extents.len() {
            let (extent, sum) = extent_at(&self.body[at..], number);
            let (from, to) = (extent.offset as usize, extent.offset as usize + extent.len as usize);
            let found = crc32c::crc32c(&entry.body[from..to]);
            if found != sum {
                let found = format!("checksum {found:08x} of payload {number} of entry {}", entry.index);
                return Err(LogError::damage(
                    &self.name,
                    self.body_at + at as u64,
                    found,
                    format!("{sum:08x}"),
                ));
            }
        }
        Ok(Some(entry))
    }

    pub(crate) fn next(&mut self) -> Result<Option<Entry>, LogError> {
        let offset = self.body_at + self.at as u64;
        if self.left == 0 {
            if self.at != self.body.len() {
                let found = format!("{} bytes after the last entry", self.body.len() - self.at);
                return Err(LogError::damage(&self.name, offset, found, "none"));
            }
            return Ok(None);
        }
        let frame = decode_frame(&self.body, self.at).map_err(|fault| match fault {
            FrameFault::Bad(found) => LogError::damage(&self.name, offset, found, "a whole entry frame"),
            FrameFault::Kind(kind) => LogError::UnknownKind { file: self.name.clone(), offset, kind },
        })?;
        let header = frame.header;
        if header.index != self.next {
            let found = format!("entry {}", header.index);
            return Err(LogError::damage(&self.name, offset, found, format!("entry {}", self.next)));
        }
        self.at += header.bytes() as usize;
        self.next = self.next.next();
        self.left -= 1;
        Ok(Some(Entry { index: header.index, term: header.term, body: frame.body, extents: frame.extents }))
    }
}
