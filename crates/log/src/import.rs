//! The receiving end of an [`crate::Export`]: files arrive in pieces, in any order, with breaks; the folder opens as a log only at the end.
//!
//! A file arrives under its name and `.part`, and takes its own name once it is whole and synced. `import.qslot` says which set of files
//! this is and how much of the one under way is durable; while it is there, opening the folder as a log is refused. It goes last, when
//! everything was verified.
//!
//! Invariant: what `have` answers was synced, or written by this very handle.
//! Invariant: a folder without `import.qslot` that an import had begun holds a log that was verified whole, or nothing of it.
//! Called by: the runtime, on a node that a peer brings up to date.

use crate::format::{Name, SEGMENT_HEADER, SegmentHeader, u32_at, u64_at};
use crate::recover::Folder;
use crate::verify::check_folder;
use crate::{Disk, DiskFile, DiskLock, ExportFile, FileInfo, Fill, Index, LogError, SlotFile};
use std::collections::BTreeSet;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// The file that tells a copy under way from a log.
pub(crate) const IMPORT: &str = "import.qslot";
/// So many bytes of a file are written before they are synced and noted: what a crash makes the peer send again.
const NOTE_BYTES: u64 = 8 << 20;
/// A set that is never begun: nothing noted under it counts.
const NO_SET: u64 = 0;

/// A copy under way. `Send`. Dropped before [`Import::finish`], it goes on where it was with the next [`Import::begin`] of the same set.
pub struct Import {
    disk: Arc<dyn Disk>,
    files: Vec<ExportFile>,
    set: u64,
    progress: Vec<Progress>,
    slot: SlotFile,
    /// Held for its drop.
    _lock: Box<dyn DiskLock>,
}

#[derive(Default)]
struct Progress {
    have: u64,
    /// Of those, known to be synced.
    synced: u64,
    whole: bool,
    part: Option<Arc<dyn DiskFile>>,
}

impl Import {
    /// Begins a copy of `files` in an empty folder, or goes on with one that was begun with the same files: same names, same sizes, same
    /// order. What there is of another set is removed.
    ///
    /// # Errors
    /// [`LogError::Import`] when `files` are not those of a log; [`LogError::TargetNotEmpty`] when the folder holds something that no import
    /// brought, a finished one among them; [`LogError::Locked`]; [`LogError::Damage`] of the file that notes how far it came;
    /// [`LogError::Io`].
    pub fn begin(disk: Arc<dyn Disk>, files: &[ExportFile]) -> Result<Import, LogError> {
        check_set(files)?;
        let lock = disk.lock()?;
        let (slot, noted) = SlotFile::open(Arc::clone(&disk), IMPORT)?;
        let set = set_of(files);
        let progress = files.iter().map(|_| Progress::default()).collect();
        let mut import = Import { disk, files: files.to_vec(), set, progress, slot, _lock: lock };
        match noted.as_deref() {
            None => import.check_empty()?,
            Some(note) if note.len() == 20 && u64_at(note, 0) == set => {
                import.go_on(u32_at(note, 8) as usize, u64_at(note, 12))?;
                return Ok(import);
            }
            Some(_) => remove(&*import.disk)?,
        }
        import.note(set, 0, 0)?;
        Ok(import)
    }

    /// Whether the files of a folder say that a copy is being gathered there.
    pub fn is_under_way(files: &[FileInfo]) -> bool {
        files.iter().any(|file| file.name == IMPORT)
    }

    /// Bytes of file number `file` that are there: the peer goes on from here. 0 for a number that is not in the set.
    pub fn have(&self, file: usize) -> u64 {
        self.progress.get(file).map_or(0, |progress| progress.have)
    }

    /// Adds the next bytes of file number `file`; `offset` is what [`Import::have`] says. Files may come in any order, and in turns.
    ///
    /// # Errors
    /// [`LogError::Import`] when there is no such file, or the bytes do not follow those there, or go beyond its end. [`LogError::Damage`],
    /// [`LogError::Foreign`] when a segment is whole and its header is not good: `have` is 0 again. [`LogError::Io`]: begin again.
    pub fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
        self.check_piece(file, offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let part = self.part(file, bytes)?;
        let name = part_name(&self.files[file].name);
        part.write_at(offset, bytes).map_err(LogError::io("write", &name))?;
        let progress = &mut self.progress[file];
        progress.have += bytes.len() as u64;
        if progress.have == self.files[file].bytes {
            return self.complete(file, &*part);
        }
        if progress.have - progress.synced >= NOTE_BYTES {
            part.sync_data().map_err(LogError::io("sync", &name))?;
            self.disk.sync_dir().map_err(LogError::io("sync folder of", &name))?;
            progress.synced = progress.have;
            let have = progress.have;
            self.note(self.set, file, have)?;
        }
        Ok(())
    }

    /// Verifies every checksum, and only then lets the folder be opened as a log. Gives the log's last index.
    ///
    /// # Errors
    /// [`LogError::Import`] when files are incomplete; go on with [`Import::begin`]. [`LogError::NotVerified`] when something is damaged: all
    /// of it was removed, the next `begin` starts afresh. [`LogError::Io`]: whether it was finished is unknown; opening the folder tells.
    pub fn finish(mut self) -> Result<Index, LogError> {
        let incomplete = |(file, progress): &(&ExportFile, &Progress)| !progress.whole && file.bytes > 0;
        if let Some((file, progress)) = self.files.iter().zip(&self.progress).find(incomplete) {
            let what = format!("{} has {} bytes, wanted {}", file.name, progress.have, file.bytes);
            return Err(LogError::Import { what });
        }
        self.disk.sync_dir().map_err(LogError::io("sync", "the target folder"))?;
        let last = match self.verify() {
            Ok(last) => last,
            Err(error @ LogError::Io { .. }) => return Err(error),
            Err(error) => {
                self.note(NO_SET, 0, 0)?;
                remove(&*self.disk)?;
                return Err(error);
            }
        };
        self.disk.remove(IMPORT).map_err(LogError::io("remove", IMPORT))?;
        self.disk.sync_dir().map_err(LogError::io("sync", "the target folder"))?;
        Ok(last)
    }

    fn verify(&self) -> Result<Index, LogError> {
        let folder = Folder::read_copy(&*self.disk)?;
        let (mut report, end) = check_folder(&*self.disk, &folder, &mut |_, _| {});
        // Everything sent was synced where it came from, so what looks like a torn tail was torn on the way.
        if let Some((name, end)) = end {
            let sent = self.files.iter().find(|file| file.name == name).map_or(0, |file| file.bytes);
            if sent != end {
                let found = format!("batches that end at {end}");
                report.find(LogError::damage(&name, end, found, format!("{sent} bytes, as were sent")));
            }
        }
        if let Some(finding) =
            report.findings.iter().find(|finding| matches!(finding.what, LogError::Io { .. }))
        {
            return Err(finding.what.clone());
        }
        Ok(report.clean()?.last)
    }

    fn check_empty(&self) -> Result<(), LogError> {
        let files = self.disk.list().map_err(LogError::io("list", "the target folder"))?;
        let ours = |name: &str| name == "lock" || name.strip_suffix(".tmp") == Some(IMPORT);
        match files.into_iter().find(|file| !ours(&file.name)) {
            Some(file) => Err(LogError::TargetNotEmpty { found: file.name }),
            None => Ok(()),
        }
    }

    /// Finds what an earlier attempt brought: whole files, and of the one noted as many bytes as were synced.
    fn go_on(&mut self, noted: usize, synced: u64) -> Result<(), LogError> {
        let there = self.disk.list().map_err(LogError::io("list", "the target folder"))?;
        let bytes_of = |name: &str| there.iter().find(|file| file.name == name).map_or(0, |file| file.bytes);
        for (number, file) in self.files.iter().enumerate() {
            let progress = &mut self.progress[number];
            let part = part_name(&file.name);
            if bytes_of(&file.name) >= file.bytes {
                (progress.have, progress.whole) = (file.bytes, true);
            } else if number == noted && synced < file.bytes && bytes_of(&part) >= synced.max(1) {
                (progress.have, progress.synced) = (synced, synced);
                progress.part = Some(self.disk.open(&part).map_err(LogError::io("open", &part))?);
            }
        }
        Ok(())
    }

    fn note(&mut self, set: u64, file: usize, bytes: u64) -> Result<(), LogError> {
        let mut note = Vec::with_capacity(20);
        note.extend_from_slice(&set.to_le_bytes());
        note.extend_from_slice(&u32::try_from(file).unwrap_or(u32::MAX).to_le_bytes());
        note.extend_from_slice(&bytes.to_le_bytes());
        self.slot.write(&note)
    }

    fn check_piece(&self, file: usize, offset: u64, len: u64) -> Result<(), LogError> {
        let refuse = |what: String| Err(LogError::Import { what });
        let (Some(wanted), Some(progress)) = (self.files.get(file), self.progress.get(file)) else {
            return refuse(format!("file {file} of a set of {}", self.files.len()));
        };
        if offset != progress.have {
            return refuse(format!("{}: bytes at {offset}, wanted at {}", wanted.name, progress.have));
        }
        if offset.checked_add(len).is_none_or(|end| end > wanted.bytes) {
            return refuse(format!(
                "{}: {len} bytes at {offset}, the file has {}",
                wanted.name, wanted.bytes
            ));
        }
        Ok(())
    }

    /// The file that gathers the pieces. A segment's gets all its room at once, so that the log later never finds the disk full in it.
    fn part(&mut self, file: usize, first: &[u8]) -> Result<Arc<dyn DiskFile>, LogError> {
        if let Some(part) = &self.progress[file].part {
            return Ok(Arc::clone(part));
        }
        let ExportFile { name, bytes } = &self.files[file];
        let part = part_name(name);
        let (room, fill) = match segment_bytes(name, *bytes, first) {
            Some(Ok(room)) => (room, Fill::Reserved),
            _ => (0, Fill::Growing),
        };
        let made = self.disk.create(&part, room, fill).map_err(LogError::io("create", &part))?;
        self.progress[file].part = Some(Arc::clone(&made));
        Ok(made)
    }

    /// All bytes are there: the file is made durable and takes its name.
    fn complete(&mut self, file: usize, part: &dyn DiskFile) -> Result<(), LogError> {
        let ExportFile { name, bytes } = self.files[file].clone();
        let temporary = part_name(&name);
        let mut head = [0u8; SEGMENT_HEADER];
        let read = part.read_at(0, &mut head).map_err(LogError::io("read", &temporary))?;
        match segment_bytes(&name, bytes, &head[..read]) {
            Some(Ok(room)) => part.set_len(room).map_err(LogError::io("set the length of", &temporary))?,
            Some(Err(error)) => {
                self.progress[file] = Progress::default();
                return Err(error);
            }
            None => {}
        }
        part.sync_data().map_err(LogError::io("sync", &temporary))?;
        self.disk.rename(&temporary, &name).map_err(LogError::io("rename to", &name))?;
        self.progress[file] = Progress { have: bytes, synced: bytes, whole: true, part: None };
        Ok(())
    }
}

/// Removes the files of a log, whole or half copied, that nobody opens any more; everything else in the folder stays.
///
/// # Errors
/// [`LogError::Io`]: some may be left; removing again is harmless.
pub fn remove(disk: &dyn Disk) -> Result<(), LogError> {
    let there = disk.list().map_err(LogError::io("list", "the folder"))?;
    let ours = |name: &String| kind(name.strip_suffix(".part").unwrap_or(name));
    let names: Vec<String> = there.into_iter().map(|file| file.name).filter(ours).collect();
    for name in &names {
        disk.remove(name).map_err(LogError::io("remove", name))?;
    }
    if names.is_empty() { Ok(()) } else { disk.sync_dir().map_err(LogError::io("sync", "the folder")) }
}

fn part_name(name: &str) -> String {
    format!("{name}.part")
}

fn kind(name: &str) -> bool {
    !matches!(Name::parse(name), Name::Other | Name::Temporary)
}

/// Of a segment: the length of its file, as its header says. `None` for other files.
fn segment_bytes(name: &str, bytes: u64, head: &[u8]) -> Option<Result<u64, LogError>> {
    if !matches!(Name::parse(name), Name::Segment(_)) {
        return None;
    }
    let header = match SegmentHeader::decode(name, head) {
        Ok(header) => header,
        Err(error) => return Some(Err(error)),
    };
    if (bytes..=1 << 32).contains(&header.segment_bytes) {
        return Some(Ok(header.segment_bytes));
    }
    let found = format!("a segment of {} bytes", header.segment_bytes);
    Some(Err(LogError::damage(name, 32, found, format!("{bytes} to 4 GiB"))))
}

/// Names lead nowhere but into the folder, and make a log.
fn check_set(files: &[ExportFile]) -> Result<(), LogError> {
    let refuse = |what: String| Err(LogError::Import { what });
    let mut seen = BTreeSet::new();
    for file in files {
        if !kind(&file.name) || file.bytes == 0 || !seen.insert(&file.name) {
            return refuse(format!(
                "{:?} of {} bytes, wanted files of a log, each once and none empty",
                file.name, file.bytes
            ));
        }
    }
    if !files.iter().any(|file| Name::parse(&file.name) == Name::Manifest) {
        return refuse("no manifest among the files".to_owned());
    }
    Ok(())
}

fn set_of(files: &[ExportFile]) -> u64 {
    let mut hash = Xxh3::new();
    for file in files {
        hash.update(&(file.name.len() as u64).to_le_bytes());
        hash.update(file.name.as_bytes());
        hash.update(&file.bytes.to_le_bytes());
    }
    hash.digest().max(NO_SET + 1)
}
