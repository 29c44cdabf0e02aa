//! A consistent set of a running log's files, pinned in one moment: what a backup copies and what a peer is given.
//!
//! Invariant: an export holds everything synced at the moment it was begun, and its bytes do not change while it exists.
//! Called by: backup, the runtime (a peer asks for a copy). The other end is `Import`.

use crate::format::{MANIFEST, Manifest, Name};
use crate::reader::{Segment, SegmentKind};
use crate::{DiskFile, Index, Log, LogError};
use bytes::Bytes;
use std::sync::{Arc, PoisonError};

/// One read at most: what a caller asks for may come from a peer.
const READ_BYTES_MAX: usize = 16 << 20;

/// A file of an [`Export`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExportFile {
    /// Its name in the folder.
    pub name: String,
    /// Bytes to copy. Of a segment these are its batches; the room after them is made by [`crate::Import`].
    pub bytes: u64,
}

/// Files of a log as of one moment. `Send` and `Sync`. While it exists, the files it pins are not recycled.
pub struct Export {
    files: Vec<ExportFile>,
    /// Of each file but the last, which is the manifest.
    pub(crate) pinned: Vec<Pinned>,
    pub(crate) manifest: Manifest,
    encoded: Bytes,
    last: Index,
}

pub(crate) struct Pinned {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Bytes to copy.
    pub(crate) bytes: u64,
    /// Bytes of the whole file; those after `bytes` are zeros in the copy.
    pub(crate) file_bytes: u64,
    /// Held so that the cleaner does not recycle the file.
    pub(crate) _segment: Option<Arc<Segment>>,
}

impl Log {
    /// Pins everything synced now: the manifest, kept files, segments up to what is synced, the newest snapshot. Read it on any thread;
    /// appending, cleaning and snapshots go on meanwhile. A rewind of which nothing is synced yet is not in it.
    ///
    /// # Errors
    /// [`LogError::Poisoned`]; [`LogError::Io`] when the newest snapshot cannot be opened.
    pub fn export(&self) -> Result<Export, LogError> {
        self.alive()?;
        // A mark after the last batch goes along: in the copy too it tells damage from a torn tail.
        let whole = self.marked && self.jobs_taken == self.jobs_done && self.pending.is_empty();
        let end = if whole { self.plan } else { self.synced_at };
        let mut pinned = Vec::new();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        for segment in &table.segments {
            let bytes = match &segment.kind {
                SegmentKind::Kept(_) => segment.file_bytes,
                SegmentKind::Log(log) if log.header.sequence > end.sequence => continue,
                SegmentKind::Log(log) if log.header.sequence == end.sequence => end.offset,
                SegmentKind::Log(log) => log.places().end,
            };
            pinned.push(Pinned {
                name: segment.name.clone(),
                file: Arc::clone(&segment.file),
                bytes,
                file_bytes: segment.file_bytes,
                _segment: Some(Arc::clone(segment)),
            });
        }
        if let Some(newest) = self.snapshots.last() {
            let name = Name::Snapshot(*newest).file();
            let file = self.disk.open(&name).map_err(LogError::io("open", &name))?;
            let bytes = file.len().map_err(LogError::io("ask for the length of", &name))?;
            pinned.push(Pinned { name, file, bytes, file_bytes: bytes, _segment: None });
        }
        Ok(Export::new(pinned, self.manifest.clone(), self.synced))
    }
}

impl Export {
    fn new(pinned: Vec<Pinned>, manifest: Manifest, last: Index) -> Export {
        let encoded = Bytes::from(manifest.encode());
        let mut files: Vec<_> =
            pinned.iter().map(|file| ExportFile { name: file.name.clone(), bytes: file.bytes }).collect();
        files.push(ExportFile { name: MANIFEST.to_owned(), bytes: encoded.len() as u64 });
        Export { files, pinned, manifest, encoded, last }
    }

    /// The files. Their order is that in which to copy them.
    pub fn files(&self) -> &[ExportFile] {
        &self.files
    }

    /// The last index that was synced. The copy holds it, and after it at most entries that a rewind not yet synced made void.
    pub fn last(&self) -> Index {
        self.last
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes of file number `file` from `offset` on: at most `max` and 16 MiB, and none only at the file's end.
    ///
    /// # Errors
    /// [`LogError::Missing`] when there is no such file; [`LogError::Damage`] when it is shorter than it was; [`LogError::Io`].
    pub fn read(&self, file: usize, offset: u64, max: usize) -> Result<Bytes, LogError> {
        let Some(ExportFile { name, bytes }) = self.files.get(file) else {
            let why = format!("the copy has {} files", self.files.len());
            return Err(LogError::Missing { file: format!("file {file}"), why });
        };
        let left = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(max).min(READ_BYTES_MAX);
        let Some(pinned) = self.pinned.get(file) else {
            let from = self.encoded.len() - left.min(self.encoded.len());
            return Ok(self.encoded.slice(from..from + len));
        };
        let mut buffer = vec![0; len];
        let read = pinned.file.read_at(offset, &mut buffer).map_err(LogError::io("read", name))?;
        if read < len {
            let found = format!("the file's end at {}", offset + read as u64);
            return Err(LogError::damage(name, offset, found, format!("{bytes} bytes")));
        }
        Ok(Bytes::from(buffer))
    }
}
