//! Snapshots: the machine's state in checksummed chunks, complete or absent. The bytes are in docs/formats/snapshot.md.
//!
//! Invariant: a file named `snap-…` was complete and synced before it got that name.
//! Invariant: a reader hands out nothing that has not passed its checksum, and its end is only reached past a good footer.
//! Called by: the engine through `Log::snapshot_writer`, recovery, backup, verify.

use crate::format::{Name, check_magic, u32_at, u64_at};
use crate::{Disk, DiskFile, Fill, Index, LogError, Position};
use bytes::Bytes;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"QRTSNP\r\n";
const HEADER: usize = 48;
const CHUNK_HEADER: usize = 16;
const FOOTER: usize = 40;
const CHUNK_TAG: u32 = u32::from_le_bytes(*b"QCHK");
const FOOTER_TAG: u32 = u32::from_le_bytes(*b"QEND");
const WRITE_BYTES: usize = 1 << 20;

/// Bytes a chunk may have: bounds what a reader allocates.
pub(crate) const CHUNK_BYTES_MAX: usize = 64 << 20;

/// Writes one snapshot. `Send`: its I/O belongs off the partition's thread. Dropped before `finish`, it leaves only a
/// temporary file that the next opening removes.
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    index: Index,
    file: Option<Arc<dyn DiskFile>>,
    temporary: String,
    buffer: Vec<u8>,
    at: u64,
    chunks: u64,
    bytes: u64,
    hash: Xxh3,
}

impl SnapshotWriter {
    pub(crate) fn new(disk: Arc<dyn Disk>, index: Index, synced: Position, meta: &[u8]) -> SnapshotWriter {
        let mut buffer = Vec::with_capacity(WRITE_BYTES + (64 << 10));
        let meta_bytes = u32::try_from(meta.len()).expect("metadata is a few hundred bytes");
        buffer.extend_from_slice(MAGIC);
        buffer.extend_from_slice(&crate::format::VERSION.to_le_bytes());
        buffer.extend_from_slice(&meta_bytes.to_le_bytes());
        buffer.extend_from_slice(&index.0.to_le_bytes());
        buffer.extend_from_slice(&synced.sequence.to_le_bytes());
        buffer.extend_from_slice(&synced.offset.to_le_bytes());
        buffer.extend_from_slice(&crc32c::crc32c(meta).to_le_bytes());
        buffer.extend_from_slice(&crc32c::crc32c(&buffer).to_le_bytes());
        buffer.extend_from_slice(meta);
        let temporary = format!("snap-{:020}.tmp", index.0);
        SnapshotWriter {
            disk,
            index,
            file: None,
            temporary,
            buffer,
            at: 0,
            chunks: 0,
            bytes: 0,
            hash: Xxh3::new(),
        }
    }

    /// Adds a chunk of up to 64 MiB; the reader gets the same chunks in the same order.
    ///
    /// # Errors
    /// [`LogError::Io`]; [`LogError::EntryTooLarge`] for an oversize chunk. Drop the writer then: no snapshot was made.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), LogError> {
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(LogError::EntryTooLarge {
                found: chunk.len() as u64,
                wanted: CHUNK_BYTES_MAX as u64,
            });
        }
        let len = u32::try_from(chunk.len()).expect("checked against 64 MiB");
        let head = chunk_head(self.chunks, len);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), chunk);
        self.buffer.extend_from_slice(&head[..12]);
        self.buffer.extend_from_slice(&sum.to_le_bytes());
        self.buffer.extend_from_slice(chunk);
        self.chunks += 1;
        self.bytes += u64::from(len);
        self.hash.update(chunk);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes the footer, syncs, and gives the file its name. Give the outcome to `Log::snapshot_done`.
    ///
    /// # Errors
    /// [`LogError::Io`]: there is no snapshot then.
    pub fn finish(mut self) -> Result<SnapshotDone, LogError> {
        let mut footer = [0u8; FOOTER];
        footer[..4].copy_from_slice(&FOOTER_TAG.to_le_bytes());
        footer[8..16].copy_from_slice(&self.chunks.to_le_bytes());
        footer[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        footer[24..32].copy_from_slice(&self.hash.digest().to_le_bytes());
        let sum = crc32c::crc32c(&footer[..FOOTER - 4]);
        footer[FOOTER - 4..].copy_from_slice(&sum.to_le_bytes());
        self.buffer.extend_from_slice(&footer);
        self.flush()?;
        let name = Name::Snapshot(self.index).file();
        self.file = None;
        self.disk.rename(&self.temporary, &name).map_err(LogError::io("rename to", &name))?;
        self.disk.sync_dir().map_err(LogError::io("sync folder of", &name))?;
        Ok(SnapshotDone { index: self.index, bytes: self.at })
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let made = self.disk.create(&self.temporary, 0, Fill::Growing);
                self.file.insert(made.map_err(LogError::io("create", &self.temporary))?)
            }
        };
        file.write_at(self.at, &self.buffer).map_err(LogError::io("write", &self.temporary))?;
        // By the MiB, as it is written: a sync of all of it would hold up those of commits.
        file.sync_data().map_err(LogError::io("sync", &self.temporary))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A finished snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDone {
    /// The last entry whose effects are in it.
    pub index: Index,
    /// Bytes of its file.
    pub bytes: u64,
}

/// Reads a snapshot chunk by chunk, verifying everything. After an error it ends.
pub struct SnapshotReader {
    name: String,
    file: Arc<dyn DiskFile>,
    file_bytes: u64,
    index: Index,
    synced: Position,
    meta: Bytes,
    window: Window,
    at: u64,
    chunks: u64,
    bytes: u64,
    hash: Xxh3,
    ended: bool,
}

impl SnapshotReader {
    /// Opens a snapshot file and checks its header.
    ///
    /// # Errors
    /// [`LogError::Foreign`], [`LogError::Version`], [`LogError::Damage`], [`LogError::Io`].
    pub fn open(disk: &dyn Disk, name: &str) -> Result<SnapshotReader, LogError> {
        let file = disk.open(name).map_err(LogError::io("open", name))?;
        let file_bytes = file.len().map_err(LogError::io("ask for the length of", name))?;
        let mut window = Window::default();
        let head = window.bytes(&*file, name, 0, HEADER)?;
        check_magic(name, &head, MAGIC)?;
        if head.len() < HEADER {
            return Err(LogError::damage(name, 0, format!("{} bytes", head.len()), "a header of 48"));
        }
        let (found, wanted) = (crc32c::crc32c(&head[..44]), u32_at(&head, 44));
        if found != wanted {
            let found = format!("header checksum {found:08x}");
            return Err(LogError::damage(name, 44, found, format!("{wanted:08x}")));
        }
        let meta_bytes = u64::from(u32_at(&head, 12));
        if HEADER as u64 + meta_bytes > file_bytes {
            let found = format!("{meta_bytes} bytes of metadata");
            return Err(LogError::damage(name, 12, found, format!("at most {file_bytes}")));
        }
        let meta = window.bytes(&*file, name, HEADER as u64, meta_bytes as usize)?;
        let sum = crc32c::crc32c(&meta);
        if sum != u32_at(&head, 40) {
            let found = format!("metadata checksum {sum:08x}");
            return Err(LogError::damage(name, HEADER as u64, found, format!("{:08x}", u32_at(&head, 40))));
        }
        let synced = Position { sequence: u64_at(&head, 24), offset: u64_at(&head, 32) };
        Ok(SnapshotReader {
            name: name.to_owned(),
            file,
            file_bytes,
            index: Index(u64_at(&head, 16)),
            synced,
            // Copied, so that the metadata does not hold the first window.
            meta: Bytes::copy_from_slice(&meta),
            window,
            at: HEADER as u64 + meta_bytes,
            chunks: 0,
            bytes: 0,
            hash: Xxh3::new(),
            ended: false,
        })
    }

    /// The last entry whose effects are in it.
    pub fn index(&self) -> Index {
        self.index
    }

    /// What the caller gave to `Log::snapshot_writer`.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// How far the log had been synced when it was begun.
    pub(crate) fn synced(&self) -> Position {
        self.synced
    }

    /// Reads it all through, telling `progress` the bytes done.
    pub(crate) fn check(mut self, progress: &mut dyn FnMut(u64)) -> Result<u64, LogError> {
        for chunk in &mut self {
            progress(chunk?.len() as u64);
        }
        Ok(self.chunks)
    }

    fn advance(&mut self) -> Result<Option<Bytes>, LogError> {
        let head = self.window.bytes(&*self.file, &self.name, self.at, CHUNK_HEADER)?;
        if head.len() < CHUNK_HEADER {
            return self.bad(format!("the file's end after {} bytes", head.len()), "a chunk or the footer");
        }
        match u32_at(&head, 0) {
            CHUNK_TAG => self.chunk(&head).map(Some),
            FOOTER_TAG => self.footer().map(|()| None),
            tag => self.bad(format!("tag {tag:08x}"), "a chunk or the footer"),
        }
    }

    fn chunk(&mut self, head: &Bytes) -> Result<Bytes, LogError> {
        let len = u32_at(head, 4);
        if len as usize > CHUNK_BYTES_MAX || u64::from(len) > self.file_bytes.saturating_sub(self.at) {
            return self.bad(format!("a chunk of {len} bytes"), "one that fits the file and 64 MiB");
        }
        if head[..12] != chunk_head(self.chunks, len)[..12] {
            return self.bad(format!("chunk number {}", u32_at(head, 8)), &format!("{}", self.chunks as u32));
        }
        let body_at = self.at + CHUNK_HEADER as u64;
        let body = self.window.bytes(&*self.file, &self.name, body_at, len as usize)?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &body);
        if body.len() != len as usize || sum != u32_at(head, 12) {
            let found = format!("chunk checksum {sum:08x} over {} bytes", body.len());
            return self.bad(found, &format!("{:08x} over {len}", u32_at(head, 12)));
        }
        self.at = body_at + u64::from(len);
        self.chunks += 1;
        self.bytes += u64::from(len);
        self.hash.update(&body);
        Ok(body)
    }

    fn footer(&mut self) -> Result<(), LogError> {
        let bytes = self.window.bytes(&*self.file, &self.name, self.at, FOOTER)?;
        if bytes.len() < FOOTER || crc32c::crc32c(&bytes[..FOOTER - 4]) != u32_at(&bytes, FOOTER - 4) {
            return self.bad("a footer with a wrong checksum".to_owned(), "a whole one");
        }
        let found = (u64_at(&bytes, 8), u64_at(&bytes, 16), u64_at(&bytes, 24));
        let wanted = (self.chunks, self.bytes, self.hash.digest());
        if found != wanted {
            return self.bad(format!("chunks, bytes, hash {wanted:x?}"), &format!("{found:x?}"));
        }
        let end = self.at + FOOTER as u64;
        if end != self.file_bytes {
            self.at = end;
            return self.bad(format!("{} bytes after the footer", self.file_bytes - end), "none");
        }
        Ok(())
    }

    fn bad<T>(&self, found: String, wanted: &str) -> Result<T, LogError> {
        Err(LogError::damage(&self.name, self.at, found, wanted))
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<Bytes, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.advance().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

fn chunk_head(number: u64, len: u32) -> [u8; CHUNK_HEADER] {
    let mut head = [0u8; CHUNK_HEADER];
    head[..4].copy_from_slice(&CHUNK_TAG.to_le_bytes());
    head[4..8].copy_from_slice(&len.to_le_bytes());
    // The low half is enough to catch a chunk lost or doubled; the footer counts them in full.
    head[8..12].copy_from_slice(&(number as u32).to_le_bytes());
    head
}

/// A part of the file in memory, moved forward in reads of 1 MiB and more.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Bytes,
}

impl Window {
    fn bytes(&mut self, file: &dyn DiskFile, name: &str, at: u64, len: usize) -> Result<Bytes, LogError> {
        let end = self.at + self.bytes.len() as u64;
        if at < self.at || at + len as u64 > end {
            let mut buffer = vec![0; len.max(WRITE_BYTES)];
            let read = file.read_at(at, &mut buffer).map_err(LogError::io("read", name))?;
            buffer.truncate(read);
            self.at = at;
            self.bytes = Bytes::from(buffer);
        }
        let from = (at - self.at) as usize;
        Ok(self.bytes.slice(from..(from + len).min(self.bytes.len())))
    }
}
