//! Cleaning: live payloads move out of mostly dead segments into `kept` files; dead segments are recycled or removed.
//!
//! A cleaning is atomic: the kept file is complete and synced, then the manifest that names it (and no longer the originals)
//! replaces the old one, then the originals go. A crash in between leaves files that no manifest names; opening removes them.
//!
//! Invariant: only files wholly at or below every kept snapshot and the caller's audit floor are ever cleaned.
//! Invariant: a payload is copied with the checksum it was logged with, and verified on the way.
//! Called by: the engine's housekeeping (plan, clean, complete), a slow thread (run).
//! Source: Rosenblum & Ousterhout, "The Design and Implementation of a Log-Structured File System", TOCS 1992, §3.

use crate::format::{
    History, Manifest, Name, SEGMENT_HEADER, VERSION, align8, check_magic, put, u32_at, u64_at,
};
use crate::reader::{LogSegment, Segment, SegmentKind, Window};
use crate::recover::write_manifest;
use crate::{Disk, DiskFile, Fill, Index, Log, LogError};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"QRTKPT\r\n";
const ROW: usize = 24;
const ROWS_PER_BLOCK: usize = 170;
const TRAILER: usize = 16;
const BLOCK: usize = ROWS_PER_BLOCK * ROW + TRAILER;
const WRITE_BYTES: usize = 1 << 20;
/// A kept file smaller than this part of a segment joins its neighbours when they are cleaned.
const SMALL_PART: u64 = 4;
/// So many small kept files in a row are merged even though none is dead enough.
const SMALL_RUN: usize = 4;

const _: () = assert!(BLOCK == 4096);

/// Neighbouring files to be cleaned into one.
#[derive(Clone)]
pub struct SegmentToClean {
    sources: Vec<Arc<Segment>>,
    live_bytes: u64,
}

impl SegmentToClean {
    /// First index in the files. When a rewind voided all of them: the index before, as for `last`; what lives at that index is elsewhere.
    pub fn first(&self) -> Index {
        if self.is_void() {
            return self.last();
        }
        self.sources.first().expect("a plan has at least one file").first()
    }

    /// Nothing in the files counts any more: they go, whatever lives.
    fn is_void(&self) -> bool {
        self.sources.iter().all(|segment| segment.is_void())
    }

    /// Last index in the files.
    pub fn last(&self) -> Index {
        self.sources.last().expect("a plan has at least one file").last()
    }

    /// Bytes of the files now.
    pub fn file_bytes(&self) -> u64 {
        self.sources.iter().map(|segment| segment.file_bytes).sum()
    }

    /// Payload bytes in them that were live at planning.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}

impl Log {
    /// What is worth cleaning: neighbouring files of which more than half is dead, and runs of small kept files. Everything planned lies
    /// at or below `floor` (the audit retention) and below the oldest kept snapshot. `live_bytes` answers the live payload bytes
    /// between two indexes, both included. Empty while a cleaning is under way.
    pub fn clean_plan(&self, floor: Index, live_bytes: &dyn Fn(Index, Index) -> u64) -> Vec<SegmentToClean> {
        let floor = self.snapshots.first().map_or(Index::ZERO, |oldest| floor.min(*oldest));
        // A rewind that a power loss may still undo would bring back entries that a cleaning took for void.
        let undone = self.rewound_at.is_some_and(|at| at >= self.synced_at);
        if self.cleaning || self.poison.is_some() || undone {
            return Vec::new();
        }
        let segments = match self.table.read() {
            Ok(table) => table.segments.clone(),
            Err(poisoned) => poisoned.into_inner().segments.clone(),
        };
        let mut plan =
            Plan { room: self.config.segment_bytes, items: Vec::new(), run: Vec::new(), live: 0, dead: 0 };
        for segment in segments.into_iter().take_while(|segment| segment.last() <= floor) {
            // Only behind a segment that was synced itself: until then a power loss may undo its beginning, and the log would have
            // neither an end there nor one here.
            if matches!(&segment.kind, SegmentKind::Log(log) if log.header.sequence >= self.synced_at.sequence)
            {
                break;
            }
            let live = if segment.is_void() { 0 } else { live_bytes(segment.first(), segment.last()) };
            plan.offer(segment, live);
        }
        plan.close();
        plan.items
    }

    /// Begins a cleaning: `live` names every live payload in the item's index range. One cleaning at a time; run the job on a
    /// slow thread and give its outcome to [`Log::complete_clean`].
    ///
    /// # Errors
    /// [`LogError::Poisoned`]; [`LogError::Config`] while another cleaning is under way or when the plan is stale.
    ///
    /// # Panics
    /// When a payload lies outside the item's range: it would be lost silently otherwise.
    pub fn clean(&mut self, item: SegmentToClean, mut live: Vec<(Index, u32)>) -> Result<CleanJob, LogError> {
        self.alive()?;
        if self.cleaning {
            return Err(LogError::Config("a cleaning is under way: complete it first".to_owned()));
        }
        let (first, last) = (item.first(), item.last());
        live.sort_unstable();
        live.dedup();
        if item.is_void() {
            live.clear();
        }
        for (index, _) in live.first().into_iter().chain(live.last()) {
            assert!((first..=last).contains(index), "entry {index} is not in files {first} to {last}");
        }
        let generation = self.manifest.generation + 1;
        let kept = (!live.is_empty()).then_some(History::Kept { first, last, generation });
        let manifest = self.manifest_without(&item, kept, generation)?;
        self.cleaning = true;
        Ok(CleanJob { disk: Arc::clone(&self.disk), item, live, kept, manifest })
    }

    /// Takes a cleaning's outcome: readers see the kept file from now on, the originals' files wait to be recycled or removed by
    /// [`Log::prepare_job`].
    ///
    /// # Errors
    /// Why it failed. Nothing changed then, and it may be tried again.
    pub fn complete_clean(&mut self, done: CleanDone) -> Result<(), LogError> {
        assert!(self.cleaning, "a cleaning was completed that was not under way");
        self.cleaning = false;
        let kept = done.result?;
        self.manifest = done.manifest;
        {
            let mut table = self.table_mut();
            let gone =
                |segment: &Arc<Segment>| done.sources.iter().any(|source| Arc::ptr_eq(source, segment));
            let at = table.segments.iter().position(gone).expect("sources stay in the table while cleaning");
            table.segments.retain(|segment| !gone(segment));
            if let Some(kept) = kept {
                table.segments.insert(at, kept);
            }
        }
        for source in done.sources {
            self.discard(source);
        }
        Ok(())
    }

    fn discard(&mut self, segment: Arc<Segment>) {
        let room = self.recycle.len() < self.config.segments_ready;
        let fits = segment.file_bytes == self.config.segment_bytes;
        // The last holder: it left the table, so no reader can come to it any more, and none is reading it.
        match Arc::into_inner(segment) {
            Some(Segment { name, kind: SegmentKind::Log(_), .. }) if room && fits => self.recycle.push(name),
            Some(segment) => self.garbage.push(segment.name),
            None => {}
        }
    }

    /// The manifest once the item's files are replaced by `kept`.
    fn manifest_without(
        &self,
        item: &SegmentToClean,
        kept: Option<History>,
        generation: u64,
    ) -> Result<Manifest, LogError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let gone = |segment: &Arc<Segment>| item.sources.iter().any(|source| Arc::ptr_eq(source, segment));
        if table.segments.iter().filter(|segment| gone(segment)).count() != item.sources.len() {
            return Err(LogError::Config("the cleaning plan is stale: plan again".to_owned()));
        }
        let cleaned = item.sources.iter().filter_map(|segment| Some(log_of(segment)?.header.sequence)).max();
        let base = self.manifest.base.max(cleaned.map_or(0, |sequence| sequence + 1));
        let mut manifest =
            Manifest { generation, base, base_chain: self.manifest.base_chain, history: Vec::new() };
        let mut kept = kept;
        for segment in &table.segments {
            if gone(segment) {
                manifest.history.extend(kept.take());
                continue;
            }
            match &segment.kind {
                SegmentKind::Kept(file) => manifest.history.push(History::Kept {
                    first: segment.first(),
                    last: file.last,
                    generation: file.generation,
                }),
                SegmentKind::Log(log) if log.header.sequence < base => {
                    let (sequence, places) = (log.header.sequence, log.places());
                    manifest.history.push(History::Segment { sequence, end: places.end, last: places.last });
                }
                SegmentKind::Log(log) if log.header.sequence == base => {
                    manifest.base_chain = log.header.chain_before;
                }
                SegmentKind::Log(_) => {}
            }
        }
        Ok(manifest)
    }
}

fn log_of(segment: &Segment) -> Option<&LogSegment> {
    match &segment.kind {
        SegmentKind::Log(log) => Some(log),
        SegmentKind::Kept(_) => None,
    }
}

/// Gathers neighbouring files into items of at most a segment's worth of live bytes.
struct Plan {
    room: u64,
    items: Vec<SegmentToClean>,
    run: Vec<Arc<Segment>>,
    live: u64,
    /// Files in the run that are worth cleaning for themselves.
    dead: usize,
}

impl Plan {
    fn offer(&mut self, segment: Arc<Segment>, live: u64) {
        let small =
            segment.file_bytes < self.room / SMALL_PART && matches!(segment.kind, SegmentKind::Kept(_));
        let dead = mostly_dead(&segment, live);
        if !small && !dead {
            return self.close();
        }
        if self.live + live > self.room / 2 {
            self.close();
        }
        self.live += live;
        self.dead += usize::from(dead);
        self.run.push(segment);
    }

    fn close(&mut self) {
        let sources = std::mem::take(&mut self.run);
        if self.dead > 0 || sources.len() >= SMALL_RUN {
            self.items.push(SegmentToClean { sources, live_bytes: self.live });
        }
        (self.live, self.dead) = (0, 0);
    }
}

fn mostly_dead(segment: &Segment, live: u64) -> bool {
    match &segment.kind {
        _ if live == 0 => true,
        SegmentKind::Log(_) => segment.file_bytes > live * 2,
        // A kept file of tiny payloads is never twice as small; rewriting it must free something.
        SegmentKind::Kept(kept) => segment.file_bytes > live * 2 && live * 10 < kept.payload_bytes * 7,
    }
}

/// Writes one kept file and the manifest that names it. `Send`.
#[must_use = "until it is completed no other cleaning can begin"]
pub struct CleanJob {
    disk: Arc<dyn Disk>,
    item: SegmentToClean,
    live: Vec<(Index, u32)>,
    kept: Option<History>,
    manifest: Manifest,
}

impl CleanJob {
    /// Does the I/O: reads every live payload, writes the kept file, syncs. Give the outcome to [`Log::complete_clean`].
    pub fn run(self) -> CleanDone {
        let result = self.run_in();
        CleanDone { sources: self.item.sources, manifest: self.manifest, result }
    }

    /// A planted bug: takes a live payload for dead. Nothing calls this but the simulator, which has to notice.
    #[cfg(feature = "planted")]
    pub fn planted_forget_payload(&mut self) {
        self.live.pop();
    }

    fn run_in(&self) -> Result<Option<Arc<Segment>>, LogError> {
        let kept = match self.kept {
            Some(History::Kept { first, last, generation }) => {
                Some(self.write_kept(first, last, generation)?)
            }
            _ => None,
        };
        write_manifest(&*self.disk, &self.manifest)?;
        Ok(kept)
    }

    fn write_kept(&self, first: Index, last: Index, generation: u64) -> Result<Arc<Segment>, LogError> {
        let name = Name::Kept { first, last, generation }.file();
        let temporary = format!("kept-{generation}.tmp");
        let file =
            self.disk.create(&temporary, 0, Fill::Growing).map_err(LogError::io("create", &temporary))?;
        let mut writer = KeptWriter::new(&*file, &temporary);
        let mut at = 0;
        for (index, sub) in &self.live {
            while self.item.sources[at].last() < *index {
                at += 1;
            }
            writer.push(*index, *sub, &self.item.sources[at].payload(*index, *sub)?)?;
        }
        let kept = writer.finish(first, last, generation)?;
        file.sync_data().map_err(LogError::io("sync", &temporary))?;
        self.disk.rename(&temporary, &name).map_err(LogError::io("rename to", &name))?;
        self.disk.sync_dir().map_err(LogError::io("sync folder of", &name))?;
        let file_bytes = kept.file_bytes();
        Ok(Arc::new(Segment::new(name, file, file_bytes, first, SegmentKind::Kept(kept))))
    }
}

/// What a cleaning did; for [`Log::complete_clean`].
#[must_use = "until it is completed no other cleaning can begin"]
pub struct CleanDone {
    sources: Vec<Arc<Segment>>,
    manifest: Manifest,
    result: Result<Option<Arc<Segment>>, LogError>,
}

struct KeptWriter<'a> {
    file: &'a dyn DiskFile,
    name: &'a str,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    at: u64,
    table: Vec<u8>,
    rows_in_block: usize,
    rows: u64,
    payload_bytes: u64,
}

impl<'a> KeptWriter<'a> {
    fn new(file: &'a dyn DiskFile, name: &'a str) -> KeptWriter<'a> {
        let buffer = Vec::with_capacity(WRITE_BYTES + (64 << 10));
        let (table, at) = (Vec::new(), SEGMENT_HEADER as u64);
        KeptWriter { file, name, buffer, at, table, rows_in_block: 0, rows: 0, payload_bytes: 0 }
    }

    fn push(&mut self, index: Index, sub: u32, payload: &[u8]) -> Result<(), LogError> {
        let offset = self.at + self.buffer.len() as u64;
        let len = u32::try_from(payload.len()).expect("a payload is part of an entry below 4 GiB");
        self.table.extend_from_slice(&index.0.to_le_bytes());
        self.table.extend_from_slice(&sub.to_le_bytes());
        self.table.extend_from_slice(&len.to_le_bytes());
        let offset =
            u32::try_from(offset).map_err(|_| LogError::Config("a kept file passed 4 GiB".to_owned()))?;
        self.table.extend_from_slice(&offset.to_le_bytes());
        self.table.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        self.rows += 1;
        self.rows_in_block += 1;
        self.payload_bytes += u64::from(len);
        self.buffer.extend_from_slice(payload);
        if self.rows_in_block == ROWS_PER_BLOCK {
            self.end_block();
        }
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn finish(mut self, first: Index, last: Index, generation: u64) -> Result<KeptSegment, LogError> {
        if self.rows_in_block > 0 {
            self.end_block();
        }
        let end = self.at as usize + self.buffer.len();
        self.buffer.resize(self.buffer.len() + align8(end) - end, 0);
        self.flush()?;
        let kept = KeptSegment {
            last,
            generation,
            rows: self.rows,
            table_at: self.at,
            table_bytes: self.table.len() as u64,
            payload_bytes: self.payload_bytes,
            keys: Mutex::new(None),
        };
        self.buffer = std::mem::take(&mut self.table);
        self.flush()?;
        self.file.write_at(0, &kept.encode(first)).map_err(LogError::io("write", self.name))?;
        Ok(kept)
    }

    fn end_block(&mut self) {
        let from = self.table.len() - self.rows_in_block * ROW;
        let rows = u32::try_from(self.rows_in_block).expect("at most 170");
        self.table.extend_from_slice(&rows.to_le_bytes());
        self.table.extend_from_slice(&[0; 8]);
        let sum = crc32c::crc32c(&self.table[from..]);
        self.table.extend_from_slice(&sum.to_le_bytes());
        self.rows_in_block = 0;
    }

    fn flush(&mut self) -> Result<(), LogError> {
        // Padding between payloads and table is part of what was written, so the next offset stays a multiple of 8 there.
        self.file.write_at(self.at, &self.buffer).map_err(LogError::io("write", self.name))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A file of live payloads, found by (index, sub-index).
pub(crate) struct KeptSegment {
    pub(crate) last: Index,
    pub(crate) generation: u64,
    pub(crate) rows: u64,
    table_at: u64,
    table_bytes: u64,
    pub(crate) payload_bytes: u64,
    /// The first row of every table block; read when somebody needs it.
    keys: Mutex<Option<Vec<(Index, u32)>>>,
}

impl KeptSegment {
    pub(crate) fn open(
        name: &str,
        file: &dyn DiskFile,
        first: Index,
        last: Index,
    ) -> Result<KeptSegment, LogError> {
        let mut head = [0u8; SEGMENT_HEADER];
        let read = file.read_at(0, &mut head).map_err(LogError::io("read", name))?;
        let refuse =
            |offset, found: String, wanted: String| Err(LogError::damage(name, offset, found, wanted));
        let (sum, wanted) = (crc32c::crc32c(&head[..SEGMENT_HEADER - 4]), u32_at(&head, SEGMENT_HEADER - 4));
        if read == SEGMENT_HEADER && &head[..8] == MAGIC && sum != wanted {
            return refuse(508, format!("header checksum {sum:08x}"), format!("{wanted:08x}"));
        }
        check_magic(name, &head[..read], MAGIC)?;
        let kept = KeptSegment {
            last: Index(u64_at(&head, 24)),
            generation: u64_at(&head, 32),
            rows: u64_at(&head, 40),
            table_at: u64_at(&head, 48),
            table_bytes: u64_at(&head, 56),
            payload_bytes: u64_at(&head, 64),
            keys: Mutex::new(None),
        };
        let found_first = Index(u64_at(&head, 16));
        if (found_first, kept.last) != (first, last) {
            return refuse(
                16,
                format!("entries {found_first} to {}", kept.last),
                format!("{first} to {last}"),
            );
        }
        let file_bytes = file.len().map_err(LogError::io("ask for the length of", name))?;
        let blocks = kept.rows.div_ceil(ROWS_PER_BLOCK as u64);
        let table_bytes = kept.rows.saturating_mul(ROW as u64).saturating_add(blocks * TRAILER as u64);
        let end = kept.table_at.checked_add(kept.table_bytes);
        if end != Some(file_bytes) || table_bytes != kept.table_bytes {
            let found = format!("{} rows, table at {}, {file_bytes} bytes in all", kept.rows, kept.table_at);
            return refuse(40, found, format!("a table of {table_bytes} bytes at the end"));
        }
        Ok(kept)
    }

    fn encode(&self, first: Index) -> [u8; SEGMENT_HEADER] {
        let mut out = [0u8; SEGMENT_HEADER];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, &VERSION.to_le_bytes());
        let fields = [
            first.0,
            self.last.0,
            self.generation,
            self.rows,
            self.table_at,
            self.table_bytes,
            self.payload_bytes,
        ];
        for (number, value) in fields.iter().enumerate() {
            put(&mut out, 16 + number * 8, &value.to_le_bytes());
        }
        let sum = crc32c::crc32c(&out[..SEGMENT_HEADER - 4]);
        put(&mut out, SEGMENT_HEADER - 4, &sum.to_le_bytes());
        out
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.table_at + self.table_bytes
    }

    pub(crate) fn payload(&self, segment: &Segment, index: Index, sub: u32) -> Result<Bytes, LogError> {
        let Some(block) = self.block_of(segment, index, sub)? else {
            return Err(LogError::NoPayload { index, sub });
        };
        let mut window = Window::new(segment, self.file_bytes(), 0);
        let bytes = self.block(segment, &mut window, block)?;
        let rows = (bytes.len() - TRAILER) / ROW;
        let row = (0..rows)
            .map(|row| &bytes[row * ROW..(row + 1) * ROW])
            .find(|row| (u64_at(row, 0), u32_at(row, 8)) == (index.0, sub));
        let Some(row) = row else { return Err(LogError::NoPayload { index, sub }) };
        let (len, offset, sum) = (u32_at(row, 12), u32_at(row, 16), u32_at(row, 20));
        window.take(u64::from(offset), len as usize, sum)
    }

    /// Calls `each` with (index, sub-index, offset, length, checksum) of every payload, in order.
    pub(crate) fn rows(
        &self,
        segment: &Segment,
        each: &mut dyn FnMut(Index, u32, u64, u32, u32) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut window = Window::new(segment, self.file_bytes(), WRITE_BYTES);
        for block in 0..self.blocks() {
            let bytes = self.block(segment, &mut window, block)?;
            for row in 0..(bytes.len() - TRAILER) / ROW {
                let row = &bytes[row * ROW..(row + 1) * ROW];
                let (index, sub) = (Index(u64_at(row, 0)), u32_at(row, 8));
                each(index, sub, u64::from(u32_at(row, 16)), u32_at(row, 12), u32_at(row, 20))?;
            }
        }
        Ok(())
    }

    fn blocks(&self) -> u64 {
        self.rows.div_ceil(ROWS_PER_BLOCK as u64)
    }

    fn block_of(&self, segment: &Segment, index: Index, sub: u32) -> Result<Option<u64>, LogError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.is_none() {
            let mut window = Window::new(segment, self.file_bytes(), WRITE_BYTES);
            let mut found = Vec::new();
            for block in 0..self.blocks() {
                let bytes = self.block(segment, &mut window, block)?;
                found.push((Index(u64_at(&bytes, 0)), u32_at(&bytes, 8)));
            }
            *keys = Some(found);
        }
        let keys = keys.as_deref().unwrap_or_default();
        Ok(keys.partition_point(|key| *key <= (index, sub)).checked_sub(1).map(|at| at as u64))
    }

    fn block(&self, segment: &Segment, window: &mut Window<'_>, block: u64) -> Result<Vec<u8>, LogError> {
        let at = self.table_at + block * BLOCK as u64;
        let len = (self.file_bytes() - at).min(BLOCK as u64) as usize;
        let bytes = window.bytes(at, len)?;
        let (sum, wanted) = (crc32c::crc32c(&bytes[..len - 4]), u32_at(bytes, len - 4));
        let rows = u32_at(bytes, len - TRAILER) as usize;
        if sum != wanted || rows * ROW + TRAILER != len {
            let found = format!("table block of {rows} rows, checksum {sum:08x}");
            return Err(LogError::damage(&segment.name, at, found, format!("{wanted:08x} over {len} bytes")));
        }
        Ok(bytes.to_vec())
    }
}
