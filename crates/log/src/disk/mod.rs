//! The folder a log lives in, as a trait: a real one (`FileDisk`) or a simulated one with faults (`SimDisk`).
//!
//! Invariant: a name is visible after a crash only once `sync_dir` returned; bytes are there only once `sync_data` returned.
//! Invariant: an open handle goes on reading its bytes after the name was renamed or removed.
//! Called by: every module of this crate; the simulator passes a `SimDisk`.
//! Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014 (what a crash may do to files and folders).

mod file;
mod sim;

use crate::LogError;
use std::io;
use std::sync::Arc;

pub use file::FileDisk;
pub use sim::{Op, SimDisk, SimFaults};

/// A file's name and length in bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileInfo {
    /// Name inside the folder, no path.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// How a new file gets its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros are really written: later writes change no file metadata, so `fdatasync` is at its cheapest. Slow.
    Written,
    /// Blocks are only reserved (`fallocate`), so that no later write finds the disk full. Fast.
    Reserved,
    /// Nothing is reserved: the file begins empty and grows.
    Growing,
}

/// Held while a process uses a folder; dropping it lets the next one in.
pub trait DiskLock: Send + Sync {}

/// A folder of files, and of sub-folders that are disks of their own.
pub trait Disk: Send + Sync + 'static {
    /// Every file, sorted by name; no sub-folders.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self) -> io::Result<Vec<FileInfo>>;

    /// Makes (or empties) a file of `bytes` zero bytes. The name is durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says; a full disk among them.
    fn create(&self, name: &str, bytes: u64, fill: Fill) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// As the operating system says; `NotFound` among them.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames, replacing the target if it is there.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name; open handles go on.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every create, rename and remove so far durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes an unprivileged process may still write.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// The sub-folder `name` as a disk of its own; made when it is missing. Its name is durable when this returns, and with it every
    /// other name in this folder. A disk without sub-folders, which is what this trait's own method is for, refuses.
    ///
    /// # Errors
    /// `InvalidInput` when `name` is not one plain name; `Unsupported`; else as the operating system says.
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let _ = plain(name)?;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes a sub-folder with everything in it; durable only after [`Disk::sync_dir`]. A crash may leave a part of it.
    ///
    /// # Errors
    /// `NotFound` and as [`Disk::folder`].
    fn remove_folder(&self, name: &str) -> io::Result<()> {
        let _ = plain(name)?;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Names of the sub-folders, sorted. A disk without any has none.
    ///
    /// # Errors
    /// As the operating system says.
    fn folders(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Takes the folder for this handle alone.
    ///
    /// # Errors
    /// [`LogError::Locked`] when somebody has it.
    fn lock(&self) -> Result<Box<dyn DiskLock>, LogError>;
}

/// Refuses what would lead elsewhere: a name comes from a caller, and some day from a peer.
fn plain(name: &str) -> io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        let what = format!("{name:?} is no name of a folder: wanted one without separators");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(name)
}

/// An open file.
#[allow(clippy::len_without_is_empty)] // A file's emptiness is never asked.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads until `into` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`. Not durable before [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// As the operating system says. After an error some of the bytes may be there.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes every write so far durable (`fdatasync`).
    ///
    /// # Errors
    /// As the operating system says. After an error nothing is known about any write since the last sync, and trying
    /// again proves nothing (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts or extends the file with zeros.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;
}
