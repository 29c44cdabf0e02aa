//! Backup while running, and restore: files are pinned in one moment, copied, and verified where they were copied to.
//!
//! Invariant: a backup holds everything synced at the moment it was begun; the manifest is written last, so that half a backup never opens.
//! Invariant: neither a backup nor a restore writes into a folder that holds anything.
//! Called by: the runtime (backup), the command line (restore).

use crate::export::{Export, Pinned};
use crate::format::{MANIFEST, Name};
use crate::recover::write_manifest;
use crate::verify::{VerifyReport, verify};
use crate::{Disk, Fill, Index, Log, LogError};

const STEP: usize = 1 << 20;

/// What a backup or a restore copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// Files copied.
    pub files: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// The verification of the copy, which had no findings.
    pub verified: VerifyReport,
}

impl Log {
    /// Pins everything synced now, as [`Log::export`] does. Run the job on a slow thread; appending, cleaning and snapshots go on meanwhile.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Io`] when the newest snapshot cannot be opened.
    pub fn backup(&self) -> Result<BackupJob, LogError> {
        Ok(BackupJob { export: self.export()? })
    }
}

/// A backup, begun: an [`Export`] to be copied to a folder. `Send`. While it exists, the files it pins are not recycled.
pub struct BackupJob {
    export: Export,
}

impl BackupJob {
    /// The last index the backup will hold; see [`Export::last`].
    pub fn last(&self) -> Index {
        self.export.last()
    }

    /// Bytes to copy.
    pub fn bytes(&self) -> u64 {
        self.export.bytes()
    }

    /// Copies into an empty folder and verifies the copy. `progress` is told (bytes copied, bytes in all).
    ///
    /// # Errors
    /// [`LogError::TargetNotEmpty`] (nothing was written), [`LogError::Io`], [`LogError::NotVerified`].
    pub fn run(
        self,
        target: &dyn Disk,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<BackupReport, LogError> {
        check_empty(target)?;
        let total = self.bytes();
        let mut done = 0;
        for pinned in &self.export.pinned {
            copy(pinned, target, &mut |step| {
                done += step;
                progress(done, total);
            })?;
        }
        write_manifest(target, &self.export.manifest)?;
        progress(total, total);
        let verified = verify(target, &mut |_, _| {})?.clean()?;
        Ok(BackupReport { files: self.export.files().len() as u64, bytes: total, verified })
    }
}

/// Copies a backup into an empty folder: verified before, verified after. `progress` is told (bytes copied, bytes in all).
///
/// # Errors
/// [`LogError::TargetNotEmpty`] and [`LogError::NotVerified`] before anything is written; [`LogError::Missing`] when the source is no
/// backup; [`LogError::Io`]; [`LogError::Locked`] when the source is in use.
pub fn restore(
    source: &dyn Disk,
    target: &dyn Disk,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BackupReport, LogError> {
    check_empty(target)?;
    verify(source, &mut |_, _| {})?.clean()?;
    let folder = crate::recover::Folder::read(source)?;
    let Some(manifest) = folder.manifest else {
        let why = "the source folder holds no log".to_owned();
        return Err(LogError::Missing { file: MANIFEST.to_owned(), why });
    };
    let total = folder.files.values().map(|info| info.bytes).sum();
    let (mut files, mut done) = (1, 0);
    for (name, info) in &folder.files {
        if *name == Name::Manifest {
            continue;
        }
        let file = source.open(&info.name).map_err(LogError::io("open", &info.name))?;
        let (bytes, name) = (info.bytes, info.name.clone());
        copy(&Pinned { name, file, bytes, file_bytes: bytes, _segment: None }, target, &mut |step| {
            done += step;
            progress(done, total);
        })?;
        files += 1;
    }
    write_manifest(target, &manifest)?;
    let verified = verify(target, &mut |_, _| {})?.clean()?;
    Ok(BackupReport { files, bytes: done, verified })
}

fn check_empty(target: &dyn Disk) -> Result<(), LogError> {
    let files = target.list().map_err(LogError::io("list", "the target folder"))?;
    match files.into_iter().find(|file| file.name != "lock") {
        Some(file) => Err(LogError::TargetNotEmpty { found: file.name }),
        None => Ok(()),
    }
}

fn copy(source: &Pinned, target: &dyn Disk, progress: &mut dyn FnMut(u64)) -> Result<(), LogError> {
    let name = &source.name;
    let file = target
        .create(name, source.file_bytes, Fill::Reserved)
        .map_err(LogError::io("create in the target", name))?;
    let mut buffer = vec![0u8; STEP.min(usize::try_from(source.bytes).unwrap_or(STEP))];
    let mut at = 0;
    while at < source.bytes {
        let step = (source.bytes - at).min(buffer.len() as u64) as usize;
        let read = source.file.read_at(at, &mut buffer[..step]).map_err(LogError::io("read", name))?;
        if read < step {
            let found = format!("the file's end at {}", at + read as u64);
            return Err(LogError::damage(name, at, found, format!("{} bytes", source.bytes)));
        }
        file.write_at(at, &buffer[..step]).map_err(LogError::io("write in the target", name))?;
        at += step as u64;
        progress(step as u64);
    }
    file.sync_data().map_err(LogError::io("sync in the target", name))?;
    target.sync_dir().map_err(LogError::io("sync the target folder of", name))
}
