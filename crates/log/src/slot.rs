//! A small durable file: a term and a vote, a membership. Two slots, written in turn, so that a torn write leaves the other one good.
//!
//! Invariant: what `write` returned for is what `open` gives after any crash, until a later `write`; during one, it is the old or the new.
//! Invariant: the file gets its name only once its first slot is written and synced, so a file without a good slot was damaged.
//! Called by: replication (hard state), `Import` (how far it came). The bytes are in docs/formats/log.md.

use crate::format::{VERSION, check_magic, put, u32_at, u64_at};
use crate::{Disk, DiskFile, Fill, LogError};
use bytes::Bytes;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"QRTSLT\r\n";
/// A slot is a multiple of every sector size in use: a torn write of one never touches the other.
const SLOT: usize = 4096;
const HEADER: usize = 32;

/// See the module's documentation. One writer; `Send`.
pub struct SlotFile {
    disk: Arc<dyn Disk>,
    name: String,
    file: Option<Arc<dyn DiskFile>>,
    /// The newest slot, and its sequence.
    newest: usize,
    sequence: u64,
    failed: Option<String>,
}

impl SlotFile {
    /// Bytes of content a slot has room for.
    pub const CONTENT_BYTES_MAX: usize = SLOT - HEADER;

    /// Opens the file and gives its content: `None` when nothing was ever written. The file is only made by the first write.
    ///
    /// What is given is durable: it is written again and synced, since after a failed sync the page cache may show what the disk never got.
    ///
    /// # Errors
    /// [`LogError::Damage`] when neither slot is good; [`LogError::Foreign`], [`LogError::Version`], [`LogError::Io`].
    pub fn open(disk: Arc<dyn Disk>, name: &str) -> Result<(SlotFile, Option<Bytes>), LogError> {
        let mut slots =
            SlotFile { disk, name: name.to_owned(), file: None, newest: 1, sequence: 0, failed: None };
        let file = match slots.disk.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((slots, None)),
            Err(error) => return Err(LogError::io("open", name)(error)),
        };
        let mut bytes = vec![0; 2 * SLOT];
        let read = file.read_at(0, &mut bytes).map_err(LogError::io("read", name))?;
        let found = [slot(name, &bytes[..read], 0), slot(name, &bytes[..read], 1)];
        let newest = match &found {
            [Ok((first, _)), Ok((second, _))] => usize::from(second > first),
            [Ok(_), Err(_)] => 0,
            [Err(_), Ok(_)] => 1,
            [Err(error), Err(_)] => return Err(error.clone()),
        };
        let [first, second] = found;
        let (sequence, content) = if newest == 0 { first? } else { second? };
        let at = newest * SLOT;
        file.write_at(at as u64, &bytes[at..at + SLOT]).map_err(LogError::io("write again", name))?;
        file.sync_data().map_err(LogError::io("sync", name))?;
        slots.disk.sync_dir().map_err(LogError::io("sync folder of", name))?;
        (slots.newest, slots.sequence, slots.file) = (newest, sequence, Some(file));
        Ok((slots, Some(content)))
    }

    /// Replaces the content, durably: one write and one sync, of the older slot.
    ///
    /// # Errors
    /// [`LogError::SlotTooLarge`] (it did not happen); [`LogError::Io`]: whether it happened is unknown, and every later write is
    /// [`LogError::Poisoned`] until the file is opened again.
    pub fn write(&mut self, content: &[u8]) -> Result<(), LogError> {
        if let Some(cause) = &self.failed {
            return Err(LogError::Poisoned { cause: cause.clone() });
        }
        if content.len() > SlotFile::CONTENT_BYTES_MAX {
            let (file, found) = (self.name.clone(), content.len());
            return Err(LogError::SlotTooLarge { file, found, wanted: SlotFile::CONTENT_BYTES_MAX });
        }
        let target = 1 - self.newest;
        let bytes = encode(self.sequence + 1, content);
        let result = match self.file.clone() {
            Some(file) => self.replace(&*file, target, &bytes),
            None => self.make(&bytes),
        };
        match result {
            Ok(()) => (self.newest, self.sequence) = (target, self.sequence + 1),
            Err(ref error) => self.failed = Some(error.to_string()),
        }
        result
    }

    fn replace(&self, file: &dyn DiskFile, target: usize, bytes: &[u8]) -> Result<(), LogError> {
        file.write_at((target * SLOT) as u64, bytes).map_err(LogError::io("write", &self.name))?;
        file.sync_data().map_err(LogError::io("sync", &self.name))
    }

    fn make(&mut self, first: &[u8]) -> Result<(), LogError> {
        let temporary = format!("{}.tmp", self.name);
        let file = self.disk.create(&temporary, 2 * SLOT as u64, Fill::Reserved);
        let file = file.map_err(LogError::io("create", &temporary))?;
        file.write_at(0, first).map_err(LogError::io("write", &temporary))?;
        file.write_at(SLOT as u64, &[0; SLOT]).map_err(LogError::io("write", &temporary))?;
        file.sync_data().map_err(LogError::io("sync", &temporary))?;
        self.disk.rename(&temporary, &self.name).map_err(LogError::io("rename to", &self.name))?;
        self.disk.sync_dir().map_err(LogError::io("sync folder of", &self.name))?;
        self.file = Some(file);
        Ok(())
    }
}

fn encode(sequence: u64, content: &[u8]) -> Vec<u8> {
    let mut out = vec![0; SLOT];
    let len = u32::try_from(content.len()).expect("checked against the slot's size");
    put(&mut out, 0, MAGIC);
    put(&mut out, 8, &VERSION.to_le_bytes());
    put(&mut out, 12, &len.to_le_bytes());
    put(&mut out, 16, &sequence.to_le_bytes());
    put(&mut out, HEADER, content);
    let sum = sum(&out);
    put(&mut out, 24, &sum.to_le_bytes());
    out
}

/// Over the whole slot without the checksum's own field.
fn sum(slot: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot[..24]), &slot[28..])
}

fn slot(name: &str, bytes: &[u8], number: usize) -> Result<(u64, Bytes), LogError> {
    let at = number * SLOT;
    let Some(bytes) = bytes.get(at..at + SLOT) else {
        let found = format!("the file's end after {} bytes", bytes.len());
        return Err(LogError::damage(name, at as u64, found, "two slots of 4096, one of them good"));
    };
    let (found, wanted) = (sum(bytes), u32_at(bytes, 24));
    if found != wanted {
        let found = format!("checksum {found:08x}");
        return Err(LogError::damage(name, at as u64, found, format!("{wanted:08x}, or a good other slot")));
    }
    check_magic(name, bytes, MAGIC)?;
    let (len, sequence) = (u32_at(bytes, 12) as usize, u64_at(bytes, 16));
    if len > SlotFile::CONTENT_BYTES_MAX || sequence == 0 || sequence == u64::MAX {
        let found = format!("{len} bytes of content, sequence {sequence}");
        return Err(LogError::damage(name, at as u64, found, "at most 4064, and a sequence from 1"));
    }
    Ok((sequence, Bytes::copy_from_slice(&bytes[HEADER..HEADER + len])))
}
