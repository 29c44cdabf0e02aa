//! Opening: which files count, where the log ends, what a crash tore, and what must be refused.
//!
//! The rule: bytes that some evidence shows were synced (a later batch's synced position, a next segment, a snapshot) are never cut; when
//! they are bad, opening refuses and names file and offset. Everything else after the last good batch is a torn tail: it is cut and said.
//!
//! A segment that a rewind began ends the range of every segment before it at the index before its first (see `Log::rewind`).
//!
//! Invariant: nothing is written before every refusal that can be known here was ruled out.
//! Invariant: no batch that opening did not find is found by a later opening: behind the end, nothing can become whole again.
//! Invariant: what is recovered is durable when `open` returns: bytes not known to be synced are written again and synced, because after
//! a failed sync the page cache may show what the disk never got.
//! Called by: the engine at start; tests; verify and dump share `Folder`.

use crate::clean::KeptSegment;
use crate::format::{
    BATCH_HEADER, BatchHeader, FLAG_MARK, History, MANIFEST, Manifest, Name, SEGMENT_HEADER, SegmentHeader,
    salt, segment_name, u64_at,
};
use crate::import::IMPORT;
use crate::log::{Ready, Tail, make_segment, ready_header_of};
use crate::reader::{Entries, LogSegment, Places, Segment, SegmentKind, Table};
use crate::scan::{Scan, Step, search_rest};
use crate::snapshot::SnapshotReader;
use crate::{Disk, DiskFile, FileInfo, Fill, Index, Log, LogConfig, LogError, Position};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, RwLock};

/// What opening found.
pub struct Recovery {
    /// The newest good snapshot: load it first.
    pub snapshot: Option<SnapshotReader>,
    /// Entries after the snapshot (or from the first): apply them in order. An error means: do not serve, say it. Drain it before the
    /// first append: segments before the last are verified only here, in the same pass.
    pub entries: Entries,
    /// What a crash left unfinished and opening cut. Say it: it was never acknowledged as durable.
    pub torn: Option<TornTail>,
    /// Snapshots that failed verification and were passed over, with the reason. Say it.
    pub damaged_snapshots: Vec<LogError>,
    /// First index still whole in the log; may be before or after the snapshot's.
    pub first: Index,
    /// Last index in the log.
    pub last: Index,
    /// Other repairs made (a prepared segment's header written anew). Say them.
    pub notes: Vec<String>,
}

/// Bytes cut from the end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file name.
    pub file: String,
    /// Where the cut begins.
    pub offset: u64,
    /// Bytes cut.
    pub bytes: u64,
    /// What was found where the next batch should be.
    pub found: String,
}

impl std::fmt::Display for TornTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TornTail { file, offset, bytes, found } = self;
        write!(
            f,
            "{file}: cut {bytes} bytes at offset {offset} ({found}): a write a crash left unfinished, never acknowledged as durable"
        )
    }
}

impl Log {
    /// Opens the log in a folder, or begins one in an empty folder.
    ///
    /// # Errors
    /// [`LogError::Locked`] when somebody else has it; [`LogError::Damage`], [`LogError::Missing`], [`LogError::Gap`],
    /// [`LogError::Foreign`], [`LogError::Version`] when serving would lose or invent something; [`LogError::Io`];
    /// [`LogError::Config`].
    pub fn open(disk: Arc<dyn Disk>, config: LogConfig) -> Result<(Log, Recovery), LogError> {
        config.check()?;
        let lock = disk.lock()?;
        let folder = Folder::read(&*disk)?;
        let found = folder.assess(&*disk)?;
        // The process before may have died, or failed, between a rename and the sync of its folder: the name is seen and not safe.
        disk.sync_dir().map_err(LogError::io("sync", "the data folder"))?;
        folder.remove_leftovers(&*disk)?;
        let manifest = match folder.manifest.clone() {
            Some(manifest) => manifest,
            None => begin(&*disk)?,
        };
        let end = found.settle()?;
        let ready = folder.ready_again(&*disk, &config, &found)?;

        let next_sequence =
            ready.back().map_or(end.tail.at.sequence.max(manifest.base - 1), |ready| ready.sequence) + 1;
        let next_epoch = found.epoch_max + ready.len() as u64 + 1;
        let table = found.table();
        let first = table.first_whole();
        let table = Arc::new(RwLock::new(table));
        let snapshot = found.snapshot;
        let from = snapshot.as_ref().map_or(first, |snapshot| snapshot.index().next());
        let entries = entries_after(&table, from, found.last);
        let current = table.read().ok().and_then(|table| table.segments.last().cloned());
        let log = Log {
            disk,
            config,
            current,
            plan: end.tail.at,
            plan_bytes: end.file_bytes,
            plan_first: end.first,
            taken_next: end.next,
            rewinds: VecDeque::new(),
            rewound_at: None,
            synced_at: end.tail.synced_at,
            tail: Arc::new(Mutex::new(end.tail)),
            table,
            pending: VecDeque::new(),
            spare: Vec::new(),
            last: found.last,
            written: found.last,
            synced: found.last,
            sync_owed: false,
            marked: end.marked,
            jobs_taken: 0,
            jobs_done: 0,
            ready,
            next_sequence,
            next_epoch,
            preparing: false,
            hurried: 0,
            making: 0,
            recycle: Vec::new(),
            garbage: Vec::new(),
            manifest,
            cleaning: false,
            snapshots: found.snapshots,
            snapshot_bytes: snapshot.as_ref().map_or(0, SnapshotReader::file_bytes),
            snapshots_damaged: found.snapshots_damaged,
            poison: None,
            lock,
        };
        let recovery = Recovery {
            snapshot,
            entries,
            torn: end.torn,
            damaged_snapshots: found.damage,
            first,
            last: log.last,
            notes: found.notes,
        };
        Ok((log, recovery))
    }
}

fn entries_after(table: &RwLock<Table>, from: Index, last: Index) -> Entries {
    let table = table.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    Entries::new(table.views(from, last), from, last)
}

/// Writes the first manifest: from here on, a folder without one has lost it.
fn begin(disk: &dyn Disk) -> Result<Manifest, LogError> {
    let manifest = Manifest::new();
    write_manifest(disk, &manifest)?;
    Ok(manifest)
}

/// Replaces the manifest atomically and durably.
pub(crate) fn write_manifest(disk: &dyn Disk, manifest: &Manifest) -> Result<(), LogError> {
    let temporary = "manifest.tmp";
    let file = disk.create(temporary, 0, Fill::Growing).map_err(LogError::io("create", temporary))?;
    file.write_at(0, &manifest.encode()).map_err(LogError::io("write", temporary))?;
    file.sync_data().map_err(LogError::io("sync", temporary))?;
    disk.rename(temporary, MANIFEST).map_err(LogError::io("rename to", MANIFEST))?;
    disk.sync_dir().map_err(LogError::io("sync folder of", MANIFEST))
}

/// A folder's files by what their names say. Read only.
pub(crate) struct Folder {
    pub(crate) manifest: Option<Manifest>,
    pub(crate) files: BTreeMap<Name, FileInfo>,
    leftovers: Vec<String>,
}

impl Folder {
    /// # Errors
    /// [`LogError::Unfinished`] for a copy from a peer that was not finished; as [`Folder::read_copy`].
    pub(crate) fn read(disk: &dyn Disk) -> Result<Folder, LogError> {
        match disk.open(IMPORT) {
            Ok(_) => Err(LogError::Unfinished { file: IMPORT.to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Folder::read_copy(disk),
            Err(error) => Err(LogError::io("open", IMPORT)(error)),
        }
    }

    /// The folder, finished or not.
    pub(crate) fn read_copy(disk: &dyn Disk) -> Result<Folder, LogError> {
        let list = disk.list().map_err(LogError::io("list", "the data folder"))?;
        let mut files = BTreeMap::new();
        let mut leftovers = Vec::new();
        for info in list {
            match Name::parse(&info.name) {
                Name::Other => {}
                Name::Temporary => leftovers.push(info.name),
                name => {
                    files.insert(name, info);
                }
            }
        }
        let manifest = match files.get(&Name::Manifest) {
            Some(info) => Some(read_manifest(disk, info)?),
            None => None,
        };
        match &manifest {
            None if !files.is_empty() => {
                let why = "segments or snapshots are there, and they are never made before it".to_owned();
                return Err(LogError::Missing { file: MANIFEST.to_owned(), why });
            }
            None => {}
            Some(manifest) => {
                let history: BTreeSet<Name> = manifest.history.iter().map(History::name).collect();
                files.retain(|name, info| {
                    let dead = match name {
                        Name::Segment(sequence) => *sequence < manifest.base && !history.contains(name),
                        Name::Kept { .. } => !history.contains(name),
                        _ => false,
                    };
                    if dead {
                        leftovers.push(info.name.clone());
                    }
                    !dead
                });
            }
        }
        Ok(Folder { manifest, files, leftovers })
    }

    /// Reads what decides, and refuses what must be refused. Writes nothing.
    pub(crate) fn assess(&self, disk: &dyn Disk) -> Result<Found, LogError> {
        let manifest = self.manifest.clone().unwrap_or_else(Manifest::new);
        let mut found = Found::default();
        self.history(disk, &manifest, &mut found.segments)?;
        let headers = self.headers(disk, &manifest)?;
        for header in headers.values().filter_map(|header| header.as_ref().ok()) {
            found.epoch_max = found.epoch_max.max(header.epoch.min(1 << 62));
        }
        let tail = headers
            .iter()
            .rev()
            .find(|(_, header)| header.as_ref().is_ok_and(|header| header.active))
            .map(|(sequence, _)| *sequence);
        match tail {
            Some(tail) => self.live(disk, &manifest, &headers, tail, &mut found)?,
            None if manifest.base > 1 => {
                let why = "the manifest says that earlier segments were cleaned while this one was in use"
                    .to_owned();
                return Err(LogError::Missing { file: segment_name(manifest.base), why });
            }
            None => {}
        }
        self.unused(disk, &manifest, &headers, tail, &mut found)?;
        self.snapshots(disk, &mut found)?;
        found.judge_order()?;
        found.judge_tail()?;
        found.judge_snapshots()?;
        Ok(found)
    }

    fn history(
        &self,
        disk: &dyn Disk,
        manifest: &Manifest,
        segments: &mut Vec<Arc<Segment>>,
    ) -> Result<(), LogError> {
        for row in &manifest.history {
            let info = self.files.get(&row.name()).ok_or_else(|| LogError::Missing {
                file: row.name().file(),
                why: "the manifest lists it as part of the log's past".to_owned(),
            })?;
            let segment = match *row {
                History::Segment { sequence, end, last } => {
                    let header = read_header(disk, info)?;
                    check_header(info, &header, sequence)?;
                    open_log_segment(disk, info, header, end, last)?
                }
                History::Kept { first, last, .. } => {
                    let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
                    let kept = KeptSegment::open(&info.name, &*file, first, last)?;
                    let kind = SegmentKind::Kept(kept);
                    Segment::new(info.name.clone(), file, info.bytes, first, kind)
                }
            };
            segments.push(Arc::new(segment));
        }
        Ok(())
    }

    /// Headers of the segments from the base on; a damaged one is judged later, any other refusal is final.
    #[allow(clippy::type_complexity)] // A name for it would say less than the type.
    fn headers(
        &self,
        disk: &dyn Disk,
        manifest: &Manifest,
    ) -> Result<BTreeMap<u64, Result<SegmentHeader, LogError>>, LogError> {
        let mut headers = BTreeMap::new();
        let mut wanted = manifest.base;
        for (name, info) in &self.files {
            let Name::Segment(sequence) = name else { continue };
            if *sequence < manifest.base {
                continue;
            }
            if *sequence != wanted {
                let why = format!("{} is there, and segments are made in sequence", info.name);
                return Err(LogError::Missing { file: segment_name(wanted), why });
            }
            wanted += 1;
            let header = match read_header(disk, info) {
                Err(error @ LogError::Damage { .. }) => Err(error),
                other => Ok(other?),
            };
            headers.insert(*sequence, header);
        }
        Ok(headers)
    }

    /// Segments from the base to the tail; scans the tail.
    fn live(
        &self,
        disk: &dyn Disk,
        manifest: &Manifest,
        headers: &BTreeMap<u64, Result<SegmentHeader, LogError>>,
        tail: u64,
        found: &mut Found,
    ) -> Result<(), LogError> {
        let voids = void_from(headers, manifest.base, tail);
        for sequence in manifest.base..=tail {
            let info = &self.files[&Name::Segment(sequence)];
            let header = headers[&sequence].clone()?;
            check_header(info, &header, sequence)?;
            if sequence == manifest.base && header.chain_before != manifest.base_chain {
                let chain = format!("chain {:016x}", header.chain_before);
                return Err(LogError::damage(&info.name, 48, chain, format!("{:016x}", manifest.base_chain)));
            }
            let after = headers.get(&(sequence + 1)).and_then(|header| header.as_ref().ok());
            match after.filter(|_| sequence < tail) {
                Some(after) => {
                    if (after.first < header.first && !after.rewinds) || after.end_before > info.bytes {
                        let name = segment_name(sequence + 1);
                        let said = format!("first index {}, {} bytes before", after.first, after.end_before);
                        return Err(LogError::damage(&name, 40, said, format!("what fits {}", info.name)));
                    }
                    let void = voids.get(&sequence).copied().unwrap_or(after.first);
                    let last = Index(void.0.saturating_sub(1));
                    let segment = open_log_segment(disk, info, header, after.end_before, last)?;
                    found.segments.push(Arc::new(segment));
                }
                None => found.scan_tail(disk, info, header)?,
            }
        }
        Ok(())
    }

    /// Segments after the tail must be unused; one whose header is damaged must not hold the first batch that would follow.
    fn unused(
        &self,
        disk: &dyn Disk,
        manifest: &Manifest,
        headers: &BTreeMap<u64, Result<SegmentHeader, LogError>>,
        tail: Option<u64>,
        found: &mut Found,
    ) -> Result<(), LogError> {
        let chain = found.tail.as_ref().map_or(manifest.base_chain, |tail| tail.chain);
        let next = tail.map_or(manifest.base, |tail| tail + 1);
        for (sequence, header) in headers.range(next..) {
            let Err(error) = header else { continue };
            let info = &self.files[&Name::Segment(*sequence)];
            let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
            let mut head = [0u8; BATCH_HEADER];
            let read = file.read_at(SEGMENT_HEADER as u64, &mut head);
            let read = read.map_err(LogError::io("read", &info.name))?;
            let epoch = u64_at(&head, 8);
            let follows = BatchHeader::decode(&head, epoch, salt(epoch, chain)).is_ok();
            if *sequence == next && read == BATCH_HEADER && follows {
                return Err(error.clone());
            }
            found.epoch_max = found.epoch_max.max(epoch.min(1 << 62));
            found
                .notes
                .push(format!("{}: a prepared segment's header was damaged and written anew", info.name));
        }
        Ok(())
    }

    fn snapshots(&self, disk: &dyn Disk, found: &mut Found) -> Result<(), LogError> {
        for (name, info) in self.files.iter().rev() {
            let Name::Snapshot(index) = name else { continue };
            let reader = match SnapshotReader::open(disk, &info.name) {
                Err(error @ LogError::Damage { .. }) => {
                    found.damage.push(error);
                    found.snapshots_damaged.push(info.name.clone());
                    continue;
                }
                other => other?,
            };
            if reader.index() != *index {
                let said = format!("index {}", reader.index());
                found.damage.push(LogError::damage(
                    &info.name,
                    16,
                    said,
                    format!("{index}, as its name says"),
                ));
                found.snapshots_damaged.push(info.name.clone());
                continue;
            }
            found.evidence.push((info.name.clone(), *index, reader.synced()));
            if found.snapshot.is_none() {
                match reader.check(&mut |_| {}) {
                    Ok(_) => found.snapshot = Some(SnapshotReader::open(disk, &info.name)?),
                    Err(error @ LogError::Damage { .. }) => {
                        found.damage.push(error);
                        found.snapshots_damaged.push(info.name.clone());
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            found.snapshots.insert(0, *index);
        }
        Ok(())
    }

    fn remove_leftovers(&self, disk: &dyn Disk) -> Result<(), LogError> {
        for name in &self.leftovers {
            disk.remove(name).map_err(LogError::io("remove", name))?;
        }
        Ok(())
    }

    /// Gives every prepared segment a new epoch: a batch written to one whose header write was lost must not parse later.
    fn ready_again(
        &self,
        disk: &dyn Disk,
        config: &LogConfig,
        found: &Found,
    ) -> Result<VecDeque<Ready>, LogError> {
        let base = self.manifest.as_ref().map_or(1, |manifest| manifest.base);
        let next = found.tail.as_ref().map_or(base, |tail| tail.header.sequence + 1);
        let mut ready = VecDeque::new();
        for (name, info) in self.files.range(Name::Segment(next)..) {
            let Name::Segment(sequence) = *name else { break };
            let epoch = found.epoch_max + 1 + ready.len() as u64;
            let header = ready_header_of(sequence, epoch, config.segment_bytes, true);
            let file = if info.bytes == config.segment_bytes {
                let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
                file.write_at(0, &header.encode()).map_err(LogError::io("write", &info.name))?;
                file.sync_data().map_err(LogError::io("sync", &info.name))?;
                file
            } else {
                // Of another size than is configured now.
                make_segment(disk, &header, Fill::Reserved)?
            };
            ready.push_back(Ready {
                sequence,
                epoch,
                recycled: true,
                file: Some(file),
                file_bytes: header.segment_bytes,
            });
        }
        Ok(ready)
    }
}

fn read_manifest(disk: &dyn Disk, info: &FileInfo) -> Result<Manifest, LogError> {
    let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
    let mut bytes = vec![0; usize::try_from(info.bytes).unwrap_or(usize::MAX).min(64 << 20)];
    let read = file.read_at(0, &mut bytes).map_err(LogError::io("read", &info.name))?;
    Manifest::decode(&bytes[..read])
}

pub(crate) fn read_header(disk: &dyn Disk, info: &FileInfo) -> Result<SegmentHeader, LogError> {
    let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
    let mut head = [0u8; SEGMENT_HEADER];
    let read = file.read_at(0, &mut head).map_err(LogError::io("read", &info.name))?;
    SegmentHeader::decode(&info.name, &head[..read])
}

pub(crate) fn check_header(info: &FileInfo, header: &SegmentHeader, sequence: u64) -> Result<(), LogError> {
    let refuse =
        |offset, found: String, wanted: String| Err(LogError::damage(&info.name, offset, found, wanted));
    if header.sequence != sequence {
        return refuse(16, format!("sequence {}", header.sequence), format!("{sequence}, as its name says"));
    }
    if !header.active {
        return refuse(12, "a prepared segment".to_owned(), "one in use: a later one is".to_owned());
    }
    if header.first.0 == 0 || header.first.0 >= 1 << 63 {
        return refuse(40, format!("first index {}", header.first), "1 or more".to_owned());
    }
    if info.bytes != header.segment_bytes {
        return refuse(
            info.bytes,
            format!("a file of {} bytes", info.bytes),
            format!("{}", header.segment_bytes),
        );
    }
    Ok(())
}

pub(crate) fn open_log_segment(
    disk: &dyn Disk,
    info: &FileInfo,
    header: SegmentHeader,
    end: u64,
    last: Index,
) -> Result<Segment, LogError> {
    let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
    // When a rewind voided it whole, its range is empty and its place in the order is that of the segment that did.
    let first = header.first.min(Index(last.0.saturating_add(1)));
    let places = Places::unknown(end.min(info.bytes), last);
    let kind = SegmentKind::Log(LogSegment::new(header, places));
    Ok(Segment::new(info.name.clone(), file, info.bytes, first, kind))
}

/// For each segment the least first index of those after it: from there on it is void.
fn void_from(
    headers: &BTreeMap<u64, Result<SegmentHeader, LogError>>,
    base: u64,
    tail: u64,
) -> BTreeMap<u64, Index> {
    let mut voids = BTreeMap::new();
    let mut least = Index(u64::MAX);
    for (sequence, header) in headers.range(base..=tail).rev() {
        voids.insert(*sequence, least);
        if let Ok(header) = header {
            least = least.min(header.first);
        }
    }
    voids
}

/// What reading the folder gave.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) segments: Vec<Arc<Segment>>,
    tail: Option<FoundTail>,
    pub(crate) last: Index,
    epoch_max: u64,
    snapshot: Option<SnapshotReader>,
    snapshots: Vec<Index>,
    snapshots_damaged: Vec<String>,
    pub(crate) damage: Vec<LogError>,
    /// Of every snapshot with a good header: name, index, and how far the log had been synced when it was begun.
    evidence: Vec<(String, Index, Position)>,
    notes: Vec<String>,
}

/// The last segment in use.
struct FoundTail {
    info: FileInfo,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    end: u64,
    chain: u64,
    last: Index,
    /// The index the next batch must have, unless it rewinds. Beyond the one after `last` when the batch that comes must rewind: its
    /// segment was begun for that, and a crash took the batch.
    next: Index,
    /// The greatest synced position its good batches state.
    synced: Position,
    /// The last batch is a mark that covers everything before it.
    marked: bool,
    /// What was found instead of a batch at `end`, and whether it carried the segment's epoch.
    stop: Option<(String, String, bool)>,
    torn: Option<(TornTail, u64)>,
}

impl Found {
    /// Where the batches of the last segment in use end: its file and the offset.
    pub(crate) fn end(&self) -> Option<(&str, u64)> {
        self.tail.as_ref().map(|tail| (tail.info.name.as_str(), tail.end))
    }

    pub(crate) fn torn(&self) -> Option<&TornTail> {
        Some(&self.tail.as_ref()?.torn.as_ref()?.0)
    }

    fn scan_tail(&mut self, disk: &dyn Disk, info: &FileInfo, header: SegmentHeader) -> Result<(), LogError> {
        let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
        let mut scan = Scan::whole(&info.name, Arc::clone(&file), &header, info.bytes);
        let mut places = Places::empty(Index(header.first.0 - 1));
        let mut owed = header.rewinds;
        let mut synced = Position::default();
        let mut marked = false;
        let stop = loop {
            match scan.step()? {
                Step::Batch(batch) => {
                    if batch.header.count > 0 {
                        places.note(batch.header.first, batch.offset, batch.header.rewinds());
                        owed = false;
                    }
                    synced = synced.max(batch.header.synced);
                    let place = Position { sequence: header.sequence, offset: batch.offset };
                    marked = batch.header.flags & FLAG_MARK != 0 && batch.header.synced == place;
                }
                Step::Bad { header, found, wanted, .. } => break Some((found, wanted, header)),
                Step::End => break None,
            }
        };
        places.end = scan.at;
        places.last = Index(scan.next.map_or(header.first.0, |next| next.0) - 1);
        self.last = places.last;
        self.tail = Some(FoundTail {
            info: info.clone(),
            file: Arc::clone(&file),
            header: header.clone(),
            end: scan.at,
            chain: scan.chain.unwrap_or(header.chain_before),
            last: places.last,
            next: if owed { places.last.next().next() } else { places.last.next() },
            synced,
            marked,
            stop,
            torn: None,
        });
        let first = header.first;
        let kind = SegmentKind::Log(LogSegment::new(header, places));
        let segment = Segment::new(info.name.clone(), file, info.bytes, first, kind);
        self.segments.push(Arc::new(segment));
        Ok(())
    }

    /// Do the files' ranges ascend without overlap?
    fn judge_order(&self) -> Result<(), LogError> {
        for pair in self.segments.windows(2) {
            let (last, first) = (pair[0].last(), pair[1].first());
            if first <= last {
                let wanted = format!("more than {last}, where {} ends", pair[0].name);
                return Err(LogError::damage(&pair[1].name, 40, format!("first index {first}"), wanted));
            }
        }
        Ok(())
    }

    /// Is what follows the last good batch a torn tail, or damage to bytes that were synced?
    fn judge_tail(&mut self) -> Result<(), LogError> {
        let Some(tail) = &mut self.tail else {
            return match self.evidence.first() {
                Some((name, ..)) => {
                    let why = format!("{name} was made from it");
                    Err(LogError::Missing { file: segment_name(1), why })
                }
                None => Ok(()),
            };
        };
        let name = &tail.info.name;
        let place = Position { sequence: tail.header.sequence, offset: tail.end };
        let (found, wanted, own) = match &tail.stop {
            Some((found, wanted, own)) => (found.clone(), wanted.clone(), *own),
            None => ("the end of the segment".to_owned(), "a batch".to_owned(), false),
        };
        let rest = search_rest(
            name,
            &*tail.file,
            (tail.header.epoch, tail.header.salt()),
            tail.end,
            tail.info.bytes,
        )?;
        if rest.synced > place {
            let wanted = format!(
                "{wanted} (a later batch says that everything before offset {} was synced)",
                rest.synced.offset
            );
            return Err(LogError::damage(name, tail.end, found, wanted));
        }
        for (snapshot, index, synced) in &self.evidence {
            if *synced > place || *index > tail.last {
                let wanted =
                    format!("{wanted} ({snapshot} was made when entry {index} and more had been synced)");
                return Err(LogError::damage(name, tail.end, found, wanted));
            }
        }
        // In a recycled file foreign bytes are expected; only its own epoch shows that something was begun here.
        let dirty_end = if tail.header.recycled { rest.own_end } else { rest.nonzero_end };
        if dirty_end > tail.end || own {
            let bytes = dirty_end.saturating_sub(tail.end);
            let torn = TornTail { file: name.clone(), offset: tail.end, bytes, found };
            let zero_to = if tail.header.recycled { tail.info.bytes } else { dirty_end };
            tail.torn = Some((torn, zero_to));
            tail.marked = false;
        }
        Ok(())
    }

    /// Does the log reach back to the snapshot, and if there is none, to the beginning?
    fn judge_snapshots(&self) -> Result<(), LogError> {
        let first = self.table().first_whole();
        let reach = self.snapshot.as_ref().map_or(Index::ZERO, SnapshotReader::index);
        if first <= reach.next() {
            return Ok(());
        }
        match self.damage.first() {
            Some(error) => Err(error.clone()),
            None => {
                let why = match &self.snapshot {
                    Some(snapshot) => format!("{} ends at {reach}", snapshot.name()),
                    None => "there is no snapshot".to_owned(),
                };
                Err(LogError::Gap { first: reach.next(), last: Index(first.0 - 1), why })
            }
        }
    }

    /// Cuts the torn tail and makes what is left durable.
    fn settle(&self) -> Result<End, LogError> {
        let Some(found) = &self.tail else {
            let at = Position::default();
            let tail = Tail {
                next_job: 1,
                file: None,
                name: String::new(),
                epoch: 0,
                salt: 0,
                chain: crate::format::GENESIS,
                at,
                synced_at: at,
                dirty: false,
                failed: None,
            };
            let (first, next) = (Index::ZERO, Index(1));
            return Ok(End { tail, file_bytes: 0, first, next, marked: true, torn: None });
        };
        let name = &found.info.name;
        if let Some((torn, to)) = &found.torn {
            write_zeros(&*found.file, torn.offset, *to).map_err(LogError::io("write", name))?;
        }
        blank_header(&*found.file, found.end, found.info.bytes).map_err(LogError::io("write", name))?;
        // A mark is written again too, though it says nothing new: the next segment's header will count on its bytes.
        let synced_here = found.synced.sequence == found.header.sequence;
        let from = if synced_here { found.synced.offset.min(found.end) } else { 0 };
        rewrite(&*found.file, from, found.end).map_err(LogError::io("write again", name))?;
        found.file.sync_data().map_err(LogError::io("sync", name))?;
        let at = Position { sequence: found.header.sequence, offset: found.end };
        let tail = Tail {
            next_job: 1,
            file: Some(Arc::clone(&found.file)),
            name: name.clone(),
            epoch: found.header.epoch,
            salt: found.header.salt(),
            chain: found.chain,
            at,
            synced_at: at,
            dirty: false,
            failed: None,
        };
        let torn = found.torn.as_ref().map(|(torn, _)| torn.clone());
        let (first, next) = (found.header.first, found.next);
        Ok(End { tail, file_bytes: found.info.bytes, first, next, marked: found.marked, torn })
    }
}

/// The end of the log, settled.
struct End {
    tail: Tail,
    file_bytes: u64,
    /// Its segment's first index.
    first: Index,
    /// The index that a batch must have which does not rewind.
    next: Index,
    marked: bool,
    torn: Option<TornTail>,
}

const STEP: usize = 1 << 20;

fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    let zeros = vec![0u8; STEP];
    let mut at = from;
    while at < to {
        let step = (to - at).min(STEP as u64);
        file.write_at(at, &zeros[..step as usize])?;
        at += step;
    }
    Ok(())
}

/// Zeros the place of the next batch's header. The first sector of a batch may be lost and the others kept: nothing then tells that it was
/// there, and because every header of a segment begins alike, the first sector of the batch that comes next could make the old one whole.
fn blank_header(file: &dyn DiskFile, at: u64, end: u64) -> std::io::Result<()> {
    let mut head = [0u8; BATCH_HEADER];
    let read = file.read_at(at, &mut head[..end.saturating_sub(at).min(BATCH_HEADER as u64) as usize])?;
    match head.iter().any(|byte| *byte != 0) {
        true => file.write_at(at, &[0; BATCH_HEADER][..read]),
        false => Ok(()),
    }
}

fn rewrite(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    let mut buffer = vec![0u8; STEP];
    let mut at = from;
    while at < to {
        let step = (to - at).min(STEP as u64) as usize;
        let read = file.read_at(at, &mut buffer[..step])?;
        if read == 0 {
            break;
        }
        file.write_at(at, &buffer[..read])?;
        at += read as u64;
    }
    Ok(())
}
