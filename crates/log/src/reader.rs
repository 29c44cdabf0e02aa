//! Reads entries and payloads out of written segments, on any thread, while the log grows and is cleaned.
//!
//! Invariant: a segment in use by a reader is never recycled: recycling takes the last `Arc` (see `Log::complete_clean`), and a removed
//! file's open handle goes on reading.
//! Invariant: every payload handed out has passed its own checksum.
//! Invariant: of several copies of an index the one written last counts (see `Log::rewind`). Segments' ranges do not overlap and ascend; a
//! segment whose every entry is void has an empty range. Inside a segment the marks never lead to a void copy.
//! Invariant: ranges and places change only under the table's write lock.
//! Called by: node (stream reads, `why`), replication (`range`, `term`), the cleaner, backup.

use crate::clean::KeptSegment;
use crate::format::{
    BATCH_HEADER, BatchHeader, FLAG_REWIND, FRAME_HEADER, FrameFault, FrameHeader, KIND_ENTRY,
    SEGMENT_HEADER, SegmentHeader, check_frame_head, decode_frame, extent_at,
};
use crate::scan::{Scan, Step};
use crate::{DiskFile, Extent, Index, LogError, Term};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Distance between two remembered batch places. 8 KiB: 128 KiB of memory per 64 MiB segment, one small read to find a batch.
const STRIDE: u64 = 8 << 10;
/// A window of a segment while looking for an entry.
const LOOK: usize = 16 << 10;
/// A window while reading one whole entry.
const LOOK_WHOLE: usize = 64 << 10;
/// The biggest window while reading a range.
const RANGE_BYTES: u64 = 2 << 20;

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
    /// The log was rewound to the entry before this one: all earlier copies of this index and of those after it are void.
    pub rewinds: bool,
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
        let (segment, place) = self.locate(index)?;
        match &segment.kind {
            SegmentKind::Log(log) => log.payload(&segment, place, index, sub),
            SegmentKind::Kept(kept) => kept.payload(&segment, index, sub),
        }
    }

    /// The whole entry.
    ///
    /// # Errors
    /// As [`LogReader::payload`]; [`LogError::Compacted`] also when its segment was cleaned and only payloads are left.
    pub fn entry(&self, index: Index) -> Result<Entry, LogError> {
        let (segment, place) = self.locate(index)?;
        let SegmentKind::Log(log) = &segment.kind else {
            return Err(LogError::Compacted { index, first: self.first() });
        };
        let mut scan = log.scan_from(&segment, log.place(&segment, place, index)?);
        scan.step_bytes = LOOK_WHOLE;
        while let Step::Batch(batch) = scan.step()? {
            if batch.header.next() <= index {
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

    /// The term of entry `index`, from its frame's header: no body is read.
    ///
    /// # Errors
    /// As [`LogReader::entry`].
    pub fn term(&self, index: Index) -> Result<Term, LogError> {
        let (segment, place) = self.locate(index)?;
        let SegmentKind::Log(log) = &segment.kind else {
            return Err(LogError::Compacted { index, first: self.first() });
        };
        let (at, end) = log.place(&segment, place, index)?;
        let mut window = Window::new(&segment, end, LOOK);
        let (_, frame) = log.frame(&mut window, at, end, index)?;
        Ok(frame.term)
    }

    /// Entries `from` to the one before `to`, in order, none of them void: at least one when `from < to`, and no more once their bodies
    /// have `max_bytes`. One pass in big reads; bodies are slices of them. Right from any thread, while the log grows and is rewound: what
    /// it gives was the log's content at one moment during the call.
    ///
    /// # Errors
    /// [`LogError::Beyond`] when an entry before `to` is not written (yet, or any more after a rewind); [`LogError::Compacted`] when `from`
    /// is before [`LogReader::first`]; [`LogError::Damage`]; [`LogError::Io`].
    pub fn range(&self, from: Index, to: Index, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let mut range = Range { entries: Vec::new(), next: Index(from.0.max(1)), bytes: 0, max_bytes };
        if range.next >= to {
            return Ok(range.entries);
        }
        let last = Index(to.0 - 1);
        let views = {
            let table = self.table();
            if last > table.written {
                return Err(LogError::Beyond { index: last, last: table.written });
            }
            let first = table.first_whole();
            if range.next < first {
                return Err(LogError::Compacted { index: range.next, first });
            }
            table.views(range.next, last)
        };
        for mut view in views {
            if view.last < range.next {
                continue;
            }
            view.learn()?;
            if !range.read(&view, view.last.min(last))? {
                break;
            }
        }
        Ok(range.entries)
    }

    /// Entries from `from` on, in order, to the last one written now. Every batch is verified on the way. What is promised of a log
    /// that was rewound: see [`Entries`].
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
            (table.views(from, table.written), table.written)
        };
        Ok(Entries::new(segments, from, last))
    }

    /// The first index from which all entries are still whole.
    pub fn first(&self) -> Index {
        self.table().first_whole()
    }

    /// The last index written.
    pub fn last(&self) -> Index {
        self.table().written
    }

    /// The segment that holds `index`, and where in it, as of one moment: a rewind that comes a moment later must not lead to a place
    /// where the entry is no more. `None`: a segment that is not written any more, whose marks are yet to be found.
    fn locate(&self, index: Index) -> Result<(Arc<Segment>, Option<Place>), LogError> {
        let table = self.table();
        if index > table.written {
            return Err(LogError::Beyond { index, last: table.written });
        }
        let at = table.segments.partition_point(|segment| segment.first() <= index);
        let segment = at.checked_sub(1).map(|at| &table.segments[at]);
        match segment.filter(|segment| index <= segment.last()) {
            Some(segment) => Ok((Arc::clone(segment), segment.known_place(index))),
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
                    first = segment.first();
                    after = Some(log.header.sequence);
                }
                _ => break,
            }
        }
        first
    }

    /// The files that hold `from ..= last`, as they are now. Void ones between them are among them: the chain leads through them.
    pub(crate) fn views(&self, from: Index, last: Index) -> Vec<View> {
        if from > last {
            return Vec::new();
        }
        let at = self.segments.partition_point(|segment| segment.first() <= from).saturating_sub(1);
        self.segments[at..]
            .iter()
            .take_while(|segment| segment.first() <= last)
            .map(|segment| View::new(segment, from))
            .collect()
    }

    /// Adds the segment that was begun now. When it begins with a rewind, what it voids leaves the ranges of those before it.
    pub(crate) fn push(&mut self, segment: Arc<Segment>) {
        let first = segment.first();
        for earlier in self.segments.iter().rev() {
            if earlier.last() < first && earlier.first() <= first {
                break;
            }
            earlier.void_from(first);
        }
        self.segments.push(segment);
    }
}

/// Offset of a batch at or before the one wanted, and where batches end.
type Place = (u64, u64);

/// A file as it was at one moment.
pub(crate) struct View {
    segment: Arc<Segment>,
    last: Index,
    end: u64,
    /// Where to begin for the index asked for; `None`: its marks are not known yet.
    place: Option<Place>,
    /// Rewinds in it; empty also when they are not known yet.
    rewinds: Vec<(Index, u64)>,
}

impl View {
    fn new(segment: &Arc<Segment>, from: Index) -> View {
        let SegmentKind::Log(log) = &segment.kind else {
            let (last, end) = (segment.last(), segment.file_bytes);
            return View { segment: Arc::clone(segment), last, end, place: None, rewinds: Vec::new() };
        };
        let places = log.places();
        let (last, end) = (places.last, places.end);
        let (place, rewinds) = (places.place(from.max(segment.first())), places.rewinds.clone());
        View { segment: Arc::clone(segment), last, end, place, rewinds }
    }

    /// Finds places that were not known when the view was taken: those of a segment that is not written any more do not change.
    pub(crate) fn learn(&mut self) -> Result<(), LogError> {
        if let (SegmentKind::Log(log), None) = (&self.segment.kind, self.place) {
            log.find(&self.segment)?;
            self.rewinds = log.places().rewinds.clone();
        }
        Ok(())
    }

    /// The last index in the batch at `offset` that no later batch in the file is known to void.
    fn bound(&self, offset: u64) -> Index {
        let after = self.rewinds.iter().find(|(_, at)| *at > offset);
        after.map_or(self.last, |(first, _)| self.last.min(Index(first.0.saturating_sub(1))))
    }
}

/// A range being read.
struct Range {
    entries: Vec<Entry>,
    next: Index,
    bytes: u64,
    max_bytes: u64,
}

impl Range {
    /// Adds what the file holds up to `last`; false when there is enough.
    fn read(&mut self, view: &View, last: Index) -> Result<bool, LogError> {
        let SegmentKind::Log(log) = &view.segment.kind else {
            return Err(LogError::Compacted { index: self.next, first: view.last.next() });
        };
        let (at, _) = log.place(&view.segment, view.place, self.next)?;
        let mut scan = log.scan_from(&view.segment, (at, view.end));
        let room = self.max_bytes.saturating_sub(self.bytes).clamp(LOOK_WHOLE as u64, RANGE_BYTES);
        scan.step_bytes = usize::try_from(room).unwrap_or(LOOK_WHOLE);
        while self.next <= last {
            match scan.step()? {
                Step::Batch(batch) if batch.header.next() <= self.next => {}
                Step::Batch(batch) => {
                    let bound = view.bound(batch.offset).min(last);
                    let name = view.segment.name.clone();
                    let frames = Frames::new(name, batch.offset, batch.header, batch.body);
                    if !self.take(frames, bound)? {
                        return Ok(false);
                    }
                }
                Step::Bad { offset, found, wanted, .. } => {
                    return Err(LogError::damage(&view.segment.name, offset, found, wanted));
                }
                Step::End => return Err(view.segment.lost(self.next)),
            }
        }
        Ok(true)
    }

    fn take(&mut self, mut frames: Frames, bound: Index) -> Result<bool, LogError> {
        while let Some(entry) = frames.next()? {
            if entry.index > bound {
                break;
            }
            if entry.index != self.next {
                continue;
            }
            let bytes = self.bytes + entry.body.len() as u64;
            if !self.entries.is_empty() && bytes > self.max_bytes {
                return Ok(false);
            }
            self.bytes = bytes;
            self.next = self.next.next();
            self.entries.push(entry);
        }
        Ok(true)
    }
}

/// One file: a log segment, or what a cleaning kept of some.
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) file_bytes: u64,
    /// First index it counts for. Changes, under the table's lock, only when all of it becomes void.
    first: AtomicU64,
    pub(crate) kind: SegmentKind,
}

pub(crate) enum SegmentKind {
    Log(LogSegment),
    Kept(KeptSegment),
}

impl Segment {
    pub(crate) fn new(
        name: String,
        file: Arc<dyn DiskFile>,
        file_bytes: u64,
        first: Index,
        kind: SegmentKind,
    ) -> Segment {
        Segment { name, file, file_bytes, first: AtomicU64::new(first.0), kind }
    }

    pub(crate) fn first(&self) -> Index {
        Index(self.first.load(Ordering::Relaxed))
    }

    /// Holds nothing that still counts: a rewind voided all of it.
    pub(crate) fn is_void(&self) -> bool {
        self.last() < self.first()
    }

    /// Everything from `first` on is void.
    fn void_from(&self, first: Index) {
        let SegmentKind::Log(log) = &self.kind else {
            unreachable!("a rewind never goes below a snapshot, and only what is below is cleaned");
        };
        let mut places = log.places();
        places.last = places.last.min(Index(first.0 - 1));
        self.first.fetch_min(first.0, Ordering::Relaxed);
    }

    fn known_place(&self, index: Index) -> Option<Place> {
        match &self.kind {
            SegmentKind::Log(log) => log.places().place(index),
            SegmentKind::Kept(_) => None,
        }
    }

    pub(crate) fn last(&self) -> Index {
        match &self.kind {
            SegmentKind::Log(log) => log.places().last,
            SegmentKind::Kept(kept) => kept.last,
        }
    }

    pub(crate) fn payload(&self, index: Index, sub: u32) -> Result<Bytes, LogError> {
        match &self.kind {
            SegmentKind::Log(log) => log.payload(self, None, index, sub),
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
    /// Held while places are looked for, so that it is done once; `places` never waits for the disk.
    finding: Mutex<()>,
}

/// Where batches begin, every 8 KiB or so.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// (first index of the batch, its offset); `None` until somebody needs it.
    pub(crate) marks: Option<Vec<(Index, u64)>>,
    /// (first index, offset) of the batches that rewind and that no later one rewinds further; known when `marks` are. Both ascend.
    pub(crate) rewinds: Vec<(Index, u64)>,
    /// Where written batches end.
    pub(crate) end: u64,
    /// Last index that counts; before the segment's first when all are void.
    pub(crate) last: Index,
}

impl Places {
    /// Of a segment without a batch that begins after `last`.
    pub(crate) fn empty(last: Index) -> Places {
        Places { marks: Some(Vec::new()), rewinds: Vec::new(), end: SEGMENT_HEADER as u64, last }
    }

    /// Of a segment whose marks nobody knows yet.
    pub(crate) fn unknown(end: u64, last: Index) -> Places {
        Places { marks: None, rewinds: Vec::new(), end, last }
    }

    /// Where to begin looking for `index`, when the marks are known.
    fn place(&self, index: Index) -> Option<Place> {
        let marks = self.marks.as_deref()?;
        let at = marks.partition_point(|(first, _)| *first <= index);
        let offset = at.checked_sub(1).map_or(SEGMENT_HEADER as u64, |at| marks[at].1);
        Some((offset, self.end))
    }

    /// A batch of entries. One that rewinds drops the marks of what it voids and leaves one of its own: so a search that starts at the
    /// last mark at or below an index always meets the copy that counts first.
    pub(crate) fn note(&mut self, first: Index, offset: u64, rewinds: bool) {
        let marks = self.marks.get_or_insert_default();
        if rewinds {
            marks.retain(|(mark, _)| *mark < first);
            marks.push((first, offset));
            self.rewinds.retain(|(rewound, _)| *rewound < first);
            self.rewinds.push((first, offset));
            return;
        }
        if marks.last().is_none_or(|(_, at)| offset >= at + STRIDE) {
            marks.push((first, offset));
        }
    }
}

impl LogSegment {
    pub(crate) fn new(header: SegmentHeader, places: Places) -> LogSegment {
        let salt = header.salt();
        LogSegment { header, salt, places: Mutex::new(places), finding: Mutex::new(()) }
    }

    pub(crate) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place that was known when the segment was found, or what looking for it gives.
    fn place(&self, segment: &Segment, known: Option<Place>, index: Index) -> Result<Place, LogError> {
        if let Some(place) = known {
            return Ok(place);
        }
        self.find(segment)?;
        Ok(self.places().place(index).expect("the marks were found a moment ago, and are never forgotten"))
    }

    /// Finds the marks once, by hopping from header to header. Readers of the same segment wait, the log never does: its current segment
    /// always has its marks.
    fn find(&self, segment: &Segment) -> Result<(), LogError> {
        let _finding = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        let end = {
            let places = self.places();
            if places.marks.is_some() {
                return Ok(());
            }
            places.end
        };
        let mut found = Places { end, ..Places::empty(Index::ZERO) };
        let mut window = Window::new(segment, end, 256 << 10);
        let mut at = SEGMENT_HEADER as u64;
        while at < end {
            let header = self.header_at(&mut window, at)?;
            if header.count > 0 {
                found.note(header.first, at, header.rewinds());
            }
            at += header.bytes();
        }
        self.learn(found);
        Ok(())
    }

    /// Keeps marks that were found, unless somebody was quicker.
    fn learn(&self, found: Places) {
        let mut places = self.places();
        if places.marks.is_none() {
            (places.marks, places.rewinds) = (found.marks, found.rewinds);
        }
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

    fn payload(
        &self,
        segment: &Segment,
        place: Option<Place>,
        index: Index,
        sub: u32,
    ) -> Result<Bytes, LogError> {
        let (at, end) = self.place(segment, place, index)?;
        let mut window = Window::new(segment, end, LOOK);
        let (at, frame) = self.frame(&mut window, at, end, index)?;
        if sub >= frame.extents {
            return Err(LogError::NoPayload { index, sub });
        }
        let head = window.bytes(at, frame.head_bytes() as usize)?;
        let (extent, sum) = extent_at(head, sub as usize);
        window.take(at + frame.head_bytes() + u64::from(extent.offset), extent.len as usize, sum)
    }

    /// The first frame of `index` from the batch at `at` on, its header checked, and its offset.
    fn frame(
        &self,
        window: &mut Window<'_>,
        mut at: u64,
        end: u64,
        index: Index,
    ) -> Result<(u64, FrameHeader), LogError> {
        while at < end {
            let header = self.header_at(window, at)?;
            let after = at + header.bytes();
            if header.next() > index {
                return frame_in(window, at + BATCH_HEADER as u64, after.min(end), index);
            }
            at = after;
        }
        Err(window.segment.lost(index))
    }
}

fn frame_in(
    window: &mut Window<'_>,
    mut at: u64,
    end: u64,
    index: Index,
) -> Result<(u64, FrameHeader), LogError> {
    let segment = window.segment;
    while at < end {
        let peek = FrameHeader::peek(window.bytes(at, FRAME_HEADER)?);
        if peek.bytes() > end - at {
            return Err(LogError::damage(&segment.name, at, "a frame longer than its batch", "whole frames"));
        }
        if peek.index == index && peek.kind == KIND_ENTRY {
            let head = window.bytes(at, peek.head_bytes() as usize)?;
            let frame = check_frame_head(head)
                .map_err(|found| LogError::damage(&segment.name, at, found, "a whole frame"))?;
            return Ok((at, frame));
        }
        at += peek.bytes();
    }
    Err(segment.lost(index))
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
///
/// In a log that was never rewound every index comes once. In one that was, an entry that lies void in the same file as the batch that
/// voids it may come too, when that file is read for the first time since the log was opened; then the index steps back, at an entry with
/// [`Entry::rewinds`] set, and *the later one counts*. Void entries of other files, of the last file, and of files read before never come.
pub struct Entries {
    views: std::vec::IntoIter<View>,
    current: Option<(View, Scan)>,
    frames: Option<(Frames, Index)>,
    /// The segment finished last.
    sealed: Option<Sealed>,
    /// Learns where batches begin, so that the first payload read need not look again.
    learned: Option<Places>,
    from: Index,
    /// The index after the last one given.
    next: Index,
    last: Index,
    failed: bool,
}

/// How a segment ended, read to its end.
pub(crate) struct Sealed {
    chain: u64,
    end: u64,
    next: Index,
}

impl Sealed {
    /// `None` when the scan began in the middle and met nothing.
    pub(crate) fn of(scan: &Scan) -> Option<Sealed> {
        Some(Sealed { chain: scan.chain?, end: scan.at, next: scan.next? })
    }

    /// Does the segment after it begin where this one ended?
    pub(crate) fn check(&self, name: &str, header: &SegmentHeader) -> Result<(), LogError> {
        if (self.chain, self.end) != (header.chain_before, header.end_before) {
            let found = format!("chain {:016x} after offset {}", header.chain_before, header.end_before);
            let wanted = format!(
                "chain {:016x} after offset {}, where the segment before it ends",
                self.chain, self.end
            );
            return Err(LogError::damage(name, 48, found, wanted));
        }
        let fits = if header.rewinds { header.first < self.next } else { header.first == self.next };
        if fits {
            return Ok(());
        }
        let how = if header.rewinds { ", rewinding" } else { "" };
        let found = format!("first index {}{how}", header.first);
        Err(LogError::damage(name, 40, found, format!("{}, or less with the flag that says so", self.next)))
    }
}

impl Entries {
    pub(crate) fn new(views: Vec<View>, from: Index, last: Index) -> Entries {
        let from = Index(from.0.max(1));
        Entries {
            views: views.into_iter(),
            current: None,
            frames: None,
            sealed: None,
            learned: None,
            from,
            next: from,
            last,
            failed: false,
        }
    }

    fn advance(&mut self) -> Result<Option<Entry>, LogError> {
        loop {
            if let Some((frames, bound)) = &mut self.frames {
                match frames.next()? {
                    Some(entry) if entry.index < self.from || entry.index > *bound => continue,
                    Some(entry) if entry.index > self.next => {
                        let why = format!("entry {} follows", entry.index);
                        return Err(LogError::Gap { first: self.next, last: Index(entry.index.0 - 1), why });
                    }
                    Some(mut entry) => {
                        // The batch that rewound may have ended before `from`.
                        entry.rewinds |= entry.index < self.next;
                        self.next = entry.index.next();
                        return Ok(Some(entry));
                    }
                    None => self.frames = None,
                }
            }
            if !self.next_batch()? {
                return self.end();
            }
        }
    }

    fn end(&self) -> Result<Option<Entry>, LogError> {
        if self.next <= self.last {
            let why = "the last file ends before".to_owned();
            return Err(LogError::Gap { first: self.next, last: self.last, why });
        }
        Ok(None)
    }

    /// Moves on by a batch or a file; false at the end.
    fn next_batch(&mut self) -> Result<bool, LogError> {
        let Some((view, scan)) = &mut self.current else { return self.next_segment() };
        match scan.step()? {
            Step::Batch(batch) => {
                let (header, offset) = (batch.header, batch.offset);
                if let Some(places) = self.learned.as_mut().filter(|_| header.count > 0) {
                    places.note(header.first, offset, header.rewinds());
                }
                let bound = view.bound(offset).min(self.last);
                // A batch without an entry for us is passed without looking at its frames.
                if header.next() > self.from && header.first <= bound {
                    let name = view.segment.name.clone();
                    self.frames = Some((Frames::new(name, offset, header, batch.body), bound));
                }
                Ok(true)
            }
            Step::Bad { offset, found, wanted, .. } => {
                Err(LogError::damage(&view.segment.name, offset, found, wanted))
            }
            Step::End => {
                self.end_segment();
                Ok(true)
            }
        }
    }

    fn end_segment(&mut self) {
        let Some((view, scan)) = self.current.take() else { return };
        if let (SegmentKind::Log(log), Some(learned)) = (&view.segment.kind, self.learned.take()) {
            log.learn(learned);
        }
        self.sealed = Sealed::of(&scan);
    }

    fn next_segment(&mut self) -> Result<bool, LogError> {
        let Some(view) = self.views.next() else { return Ok(false) };
        let SegmentKind::Log(log) = &view.segment.kind else {
            return Err(LogError::Compacted { index: self.next, first: view.last.next() });
        };
        let scan = Scan::whole(&view.segment.name, Arc::clone(&view.segment.file), &log.header, view.end);
        if let Some(sealed) = self.sealed.take() {
            sealed.check(&view.segment.name, &log.header)?;
        }
        self.learned = Some(Places { end: view.end, ..Places::empty(Index::ZERO) });
        self.current = Some((view, scan));
        Ok(true)
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
    /// The batch rewinds, and its first entry is still to come.
    rewinds: bool,
}

impl Frames {
    pub(crate) fn new(name: String, offset: u64, header: BatchHeader, body: Bytes) -> Frames {
        let body_at = offset + BATCH_HEADER as u64;
        let rewinds = header.flags & FLAG_REWIND != 0;
        Frames { name, body_at, body, at: 0, next: header.first, left: header.count, rewinds }
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
        let rewinds = std::mem::take(&mut self.rewinds);
        let (body, extents) = (frame.body, frame.extents);
        Ok(Some(Entry { index: header.index, term: header.term, body, extents, rewinds }))
    }
}
