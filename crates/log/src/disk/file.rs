//! A real folder.
//!
//! Invariant: one handle holds the folder's `lock` file (flock), so that two processes never write one log.
//! Called by: the runtime opens one per partition; `Log`, backup and verify use it through `Disk`.

use super::{Disk, DiskFile, DiskLock, FileInfo, Fill, plain};
use crate::LogError;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK: &str = "lock";
const ZEROS: usize = 1 << 20;

/// A folder of the operating system.
#[derive(Clone, Debug)]
pub struct FileDisk {
    path: PathBuf,
}

impl FileDisk {
    /// Opens the folder, making it (and its parents) when it is not there.
    ///
    /// # Errors
    /// [`LogError::Io`] when it cannot be made or is not a folder.
    pub fn open(path: impl Into<PathBuf>) -> Result<FileDisk, LogError> {
        let path = path.into();
        let shown = path.display().to_string();
        std::fs::create_dir_all(&path).map_err(LogError::io("create folder", &shown))?;
        Ok(FileDisk { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_file() {
                // A name that is not UTF-8 is none of ours; shown with replacement characters it stays none of ours.
                let name = entry.file_name().to_string_lossy().into_owned();
                files.push(FileInfo { name, bytes: meta.len() });
            }
        }
        files.sort();
        Ok(files)
    }

    fn create(&self, name: &str, bytes: u64, fill: Fill) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        match fill {
            Fill::Written => write_zeros(&file, bytes)?,
            Fill::Reserved => reserve(&file, bytes)?,
            Fill::Growing => file.set_len(bytes)?,
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let path = self.path.join(plain(name)?);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made?,
        }
        // Also when it was there: whoever made it may have died before this.
        self.sync_dir()?;
        Ok(Arc::new(FileDisk { path }))
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        std::fs::remove_dir_all(self.path.join(plain(name)?))
    }

    fn folders(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LogError> {
        let path = self.path.join(LOCK);
        let shown = path.display().to_string();
        let mut options = OpenOptions::new();
        // Not truncated before the lock is held: the holder's process id is in there.
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(LogError::io("open", &shown))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The holder's name is a courtesy; the refusal does not depend on it.
                let _ = (&mut file).take(32).read_to_string(&mut text);
                return Err(LogError::Locked { holder: text.trim().parse().ok() });
            }
            Err(errno) => return Err(LogError::io("lock", &shown)(errno.into())),
        }
        file.set_len(0).map_err(LogError::io("write", &shown))?;
        writeln!(file, "{}", std::process::id()).map_err(LogError::io("write", &shown))?;
        Ok(Box::new(RealLock(file)))
    }
}

/// Dropping the file lets the flock go.
struct RealLock(#[allow(dead_code)] File);
impl DiskLock for RealLock {}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0u8; ZEROS.min(usize::try_from(bytes).unwrap_or(ZEROS))];
    let mut at = 0;
    while at < bytes {
        let step = (bytes - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..step as usize], at)?;
        // A sync of everything at its end would hold up the commits' syncs meanwhile: a disk takes what is written in turn.
        file.sync_data()?;
        at += step;
    }
    file.sync_all()
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // Some file systems (NFS, overlays) cannot reserve; then zeros are written, slower but as safe.
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, bytes),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    write_zeros(file, bytes)
}
