//! Offline checking and listing of a data folder. Nothing is changed, not even a torn tail.
//!
//! Invariant: every byte that recovery or a reader would trust has been read and checked when `verify` returns without findings.
//! Called by: `quorate log verify`, `quorate log dump`, backup and restore.

use crate::clean::KeptSegment;
use crate::format::{History, Name, SegmentHeader};
use crate::reader::{Entries, Frames, Sealed, Segment, SegmentKind, Table, Window};
use crate::recover::{Folder, check_header, read_header};
use crate::scan::{Scan, Step};
use crate::snapshot::SnapshotReader;
use crate::{Disk, DiskLock, Entry, FileInfo, Index, LogError, TornTail};
use std::collections::BTreeMap;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file's name.
    pub file: String,
    /// Byte offset in it; 0 when the file itself is the matter.
    pub offset: u64,
    /// What was found, what was wanted, what to do.
    pub what: LogError,
}

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Segments in use, kept files among them.
    pub segments: u64,
    /// Batches.
    pub batches: u64,
    /// Entries, those that a rewind voided among them.
    pub entries: u64,
    /// Batches that rewind: what lies before them from their first index on is void.
    pub rewinds: u64,
    /// Payloads, each checked against its own checksum.
    pub payloads: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes read and checked.
    pub bytes: u64,
    /// First entry still whole.
    pub first: Index,
    /// Last entry.
    pub last: Index,
    /// A torn tail that opening will cut. Not a finding: it was never acknowledged as durable.
    pub torn: Option<TornTail>,
    /// What is wrong. Empty: the folder is good.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    pub(crate) fn find(&mut self, error: LogError) {
        let (file, offset) = match &error {
            LogError::Damage { file, offset, .. } | LogError::UnknownKind { file, offset, .. } => {
                (file.clone(), *offset)
            }
            LogError::Io { file, .. }
            | LogError::Missing { file, .. }
            | LogError::Foreign { file, .. }
            | LogError::Version { file, .. } => (file.clone(), 0),
            _ => (String::new(), 0),
        };
        if !self.findings.iter().any(|seen| (&seen.file, seen.offset) == (&file, offset)) {
            self.findings.push(Finding { file, offset, what: error });
        }
    }

    fn keep(&mut self, result: Result<(), LogError>) {
        if let Err(error) = result {
            self.find(error);
        }
    }

    /// Refuses unless nothing was found.
    pub(crate) fn clean(self) -> Result<VerifyReport, LogError> {
        match self.findings.first() {
            None => Ok(self),
            Some(finding) => {
                Err(LogError::NotVerified { findings: self.findings.len(), first: finding.what.to_string() })
            }
        }
    }
}

/// Checks every file of a folder, going on after a finding. `progress` is told (bytes done, bytes in all).
///
/// # Errors
/// [`LogError::Locked`] while the folder is in use, [`LogError::Io`] when it cannot be listed. Everything else is a finding.
pub fn verify(disk: &dyn Disk, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport, LogError> {
    let _lock = disk.lock()?;
    match Folder::read(disk) {
        Ok(folder) => Ok(check_folder(disk, &folder, progress).0),
        Err(error @ (LogError::Io { .. } | LogError::Locked { .. })) => Err(error),
        Err(error) => {
            let mut report = VerifyReport::default();
            report.find(error);
            Ok(report)
        }
    }
}

/// Checks every file of a folder that the caller has locked. Gives the last segment's name and where its batches end, too.
pub(crate) fn check_folder(
    disk: &dyn Disk,
    folder: &Folder,
    progress: &mut dyn FnMut(u64, u64),
) -> (VerifyReport, Option<(String, u64)>) {
    let mut report = VerifyReport::default();
    let total = folder.files.values().map(|info| info.bytes).sum();
    let mut done = 0;
    let mut segments = SegmentEnds::of(disk, folder);
    for (name, info) in &folder.files {
        let result = match name {
            Name::Segment(sequence) => segments.check(disk, info, *sequence, &mut report),
            Name::Kept { first, last, .. } => check_kept(disk, info, *first, *last, &mut report),
            Name::Snapshot(_) => check_snapshot(disk, info, &mut report),
            _ => Ok(()),
        };
        report.keep(result);
        done += info.bytes;
        progress(done, total);
    }
    report.bytes = done;
    let mut end = None;
    match folder.assess(disk) {
        Ok(found) => {
            report.last = found.last;
            report.first = found.table().first_whole();
            report.torn = found.torn().cloned();
            end = found.end().map(|(name, end)| (name.to_owned(), end));
            for error in found.damage {
                report.find(error);
            }
        }
        Err(error) => report.find(error),
    }
    (report, end)
}

/// Lists entries `from ..= to` of a folder that is not in use, in order, each batch verified. Of an index that a rewind gave to several
/// entries only the last is listed; where the log was rewound, [`Entry::rewinds`] says so.
///
/// # Errors
/// As opening would refuse; the iterator's items carry damage found on the way.
pub fn dump(
    disk: &dyn Disk,
    from: Index,
    to: Index,
) -> Result<impl Iterator<Item = Result<Entry, LogError>> + use<>, LogError> {
    let lock = disk.lock()?;
    let found = Folder::read(disk)?.assess(disk)?;
    let table = found.table();
    let from = from.max(table.first_whole());
    let last = to.min(found.last);
    let mut views = table.views(from, last);
    for view in &mut views {
        view.learn()?;
    }
    Ok(Dump { entries: Entries::new(views, from, last), _lock: lock })
}

struct Dump {
    entries: Entries,
    _lock: Box<dyn DiskLock>,
}

impl Iterator for Dump {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next()
    }
}

/// Where the batches of each segment end, as its successor or the manifest says.
struct SegmentEnds {
    ends: BTreeMap<u64, u64>,
    /// The last segment in use: where it ends is for recovery's rule to judge.
    tail: u64,
    /// The segment checked last, and how it ended.
    before: Option<(u64, Sealed)>,
}

impl SegmentEnds {
    fn of(disk: &dyn Disk, folder: &Folder) -> SegmentEnds {
        let mut ends = SegmentEnds { ends: BTreeMap::new(), tail: 0, before: None };
        for (name, info) in &folder.files {
            let Name::Segment(sequence) = name else { continue };
            if let Ok(SegmentHeader { active: true, end_before, .. }) = read_header(disk, info) {
                ends.ends.insert(sequence.saturating_sub(1), end_before);
                ends.tail = *sequence;
            }
        }
        for row in folder.manifest.iter().flat_map(|manifest| &manifest.history) {
            if let History::Segment { sequence, end, .. } = row {
                ends.ends.insert(*sequence, *end);
            }
        }
        ends
    }

    fn check(
        &mut self,
        disk: &dyn Disk,
        info: &FileInfo,
        sequence: u64,
        report: &mut VerifyReport,
    ) -> Result<(), LogError> {
        if sequence > self.tail {
            return Ok(()); // Prepared or damaged: `assess` tells them apart.
        }
        let header = read_header(disk, info)?;
        check_header(info, &header, sequence)?;
        report.segments += 1;
        let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
        let end = self.ends.get(&sequence).filter(|_| sequence < self.tail).copied();
        let limit = end.unwrap_or(info.bytes).min(info.bytes);
        if let Some((_, sealed)) = self.before.take().filter(|(before, _)| before + 1 == sequence) {
            sealed.check(&info.name, &header)?;
        }
        let mut scan = Scan::whole(&info.name, file, &header, limit);
        loop {
            match scan.step()? {
                Step::Batch(batch) => {
                    report.batches += 1;
                    report.rewinds += u64::from(batch.header.rewinds());
                    let mut frames = Frames::new(info.name.clone(), batch.offset, batch.header, batch.body);
                    while let Some(entry) = frames.next_checked()? {
                        report.entries += 1;
                        report.payloads += entry.extents.len() as u64;
                    }
                }
                Step::End => {
                    self.before = Sealed::of(&scan).map(|sealed| (sequence, sealed));
                    return Ok(());
                }
                Step::Bad { .. } if sequence == self.tail => return Ok(()),
                Step::Bad { offset, found, wanted, .. } => {
                    return Err(LogError::damage(&info.name, offset, found, wanted));
                }
            }
        }
    }
}

fn check_kept(
    disk: &dyn Disk,
    info: &FileInfo,
    first: Index,
    last: Index,
    report: &mut VerifyReport,
) -> Result<(), LogError> {
    let file = disk.open(&info.name).map_err(LogError::io("open", &info.name))?;
    let kept = KeptSegment::open(&info.name, &*file, first, last)?;
    report.segments += 1;
    let kind = SegmentKind::Kept(kept);
    let segment = Segment::new(info.name.clone(), file, info.bytes, first, kind);
    let SegmentKind::Kept(kept) = &segment.kind else { return Ok(()) };
    let mut window = Window::new(&segment, info.bytes, 1 << 20);
    kept.rows(&segment, &mut |_, _, offset, len, sum| {
        report.payloads += 1;
        let bytes = window.bytes(offset, len as usize)?;
        let found = crc32c::crc32c(bytes);
        if found == sum {
            return Ok(());
        }
        let found = format!("payload checksum {found:08x}");
        Err(LogError::damage(&info.name, offset, found, format!("{sum:08x}")))
    })
}

fn check_snapshot(disk: &dyn Disk, info: &FileInfo, report: &mut VerifyReport) -> Result<(), LogError> {
    SnapshotReader::open(disk, &info.name)?.check(&mut |_| {})?;
    report.snapshots += 1;
    Ok(())
}

impl crate::recover::Found {
    /// The files in a table, as a log would hold them.
    pub(crate) fn table(&self) -> Table {
        Table { segments: self.segments.clone(), written: self.last }
    }
}
