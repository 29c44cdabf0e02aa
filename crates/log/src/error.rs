//! Everything the log can refuse, in one enum: what was found, what was wanted, what to do next.
//!
//! Invariant: bytes from a disk never panic; they end here.
//! Invariant: `Damage` is only said of bytes that some evidence shows were synced; a torn tail is not an error.
//! Called by: every module of this crate.

use crate::Index;

/// Why the log refused, or could not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The operating system refused an operation. Whether it took effect is unknown when `op` is a write or a sync.
    #[error("{op} {file}: {detail}")]
    Io {
        /// What was attempted: "open", "write", "sync"…
        op: &'static str,
        /// The file or folder.
        file: String,
        /// The system's own words.
        detail: String,
        /// The system's classification, for callers that must tell a full disk from the rest.
        kind: std::io::ErrorKind,
    },
    /// An earlier write or sync failed, so what is on disk is unknown until the log is opened again.
    #[error(
        "the log stopped after: {cause}. Nothing after it was acknowledged; fix the disk and restart, recovery decides what is there"
    )]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// Bytes that were synced are not what was written.
    #[error(
        "{file} is damaged at offset {offset}: found {found}, wanted {wanted}. These bytes had been synced, so nothing was cut: \
         restore the file from a backup or a replica, and check the disk"
    )]
    Damage {
        /// The file's name in its folder.
        file: String,
        /// Byte offset of the first bad structure.
        offset: u64,
        /// What is there.
        found: String,
        /// What should be there.
        wanted: String,
    },
    /// A file that must exist does not.
    #[error("{file} is missing: {why}. Restore it from a backup or a replica")]
    Missing {
        /// The file's name in its folder.
        file: String,
        /// How its absence is known.
        why: String,
    },
    /// The file is not one of ours.
    #[error(
        "{file} does not begin with {wanted}, found {found}: it is not a Quorate file of this kind; check the data folder"
    )]
    Foreign {
        /// The file's name in its folder.
        file: String,
        /// The bytes found, in hexadecimal.
        found: String,
        /// The magic wanted.
        wanted: &'static str,
    },
    /// The file was written by a newer release.
    #[error(
        "{file} has format version {found}, this release reads up to {wanted}: start the release that wrote it, or a newer one"
    )]
    Version {
        /// The file's name in its folder.
        file: String,
        /// Version found.
        found: u32,
        /// Newest version this release reads.
        wanted: u32,
    },
    /// An entry frame of a kind this release does not know.
    #[error(
        "{file} holds an entry of kind {kind} at offset {offset}, which this release does not know: start the release that wrote it"
    )]
    UnknownKind {
        /// The file's name in its folder.
        file: String,
        /// Byte offset of the frame.
        offset: u64,
        /// The kind found.
        kind: u8,
    },
    /// Entries between the snapshot and the log, or between two files, are not there.
    #[error(
        "entries {first} to {last} are in no file and no usable snapshot covers them: {why}. Restore from a backup or a replica"
    )]
    Gap {
        /// First missing entry.
        first: Index,
        /// Last missing entry.
        last: Index,
        /// How it is known.
        why: String,
    },
    /// Another process, or another handle of this one, has the folder open.
    #[error("the data folder is in use by {}: stop it first, or choose another folder", match holder { Some(pid) => format!("process {pid}"), None => "another process".to_owned() })]
    Locked {
        /// The holder's process id, when the lock file names it.
        holder: Option<u32>,
    },
    /// The configuration contradicts itself.
    #[error("log configuration: {0}")]
    Config(String),
    /// The entry cannot be stored. It did not happen.
    #[error("an entry of {found} bytes was offered, the limit is {wanted}: split it. It did not happen")]
    EntryTooLarge {
        /// Bytes offered, body and payload table together.
        found: u64,
        /// `entry_bytes_max`.
        wanted: u64,
    },
    /// The content does not fit a small durable file. It did not happen.
    #[error("{file} has room for {wanted} bytes, {found} were offered. It did not happen")]
    SlotTooLarge {
        /// The file's name in its folder.
        file: String,
        /// Bytes offered.
        found: usize,
        /// Room for content.
        wanted: usize,
    },
    /// The entry is older than everything kept.
    #[error("entry {index} is no longer kept as an entry: the log begins at {first}")]
    Compacted {
        /// The entry asked for.
        index: Index,
        /// The first entry still readable.
        first: Index,
    },
    /// The entry is not written yet.
    #[error("entry {index} is not written yet: the log ends at {last}")]
    Beyond {
        /// The entry asked for.
        index: Index,
        /// The last entry written.
        last: Index,
    },
    /// The entry has no such payload, or it was dead when its segment was cleaned.
    #[error("entry {index} has no payload {sub} any more, or never had one")]
    NoPayload {
        /// The entry asked for.
        index: Index,
        /// The position in its list of extents.
        sub: u32,
    },
    /// A snapshot was asked for at an index that could still be lost.
    #[error("a snapshot at {index} needs the log synced that far, it is synced to {synced}: sync first")]
    SnapshotAhead {
        /// The index asked for.
        index: Index,
        /// The index the log is synced to.
        synced: Index,
    },
    /// The disk has too little room for this.
    #[error(
        "{what} needs {needed} bytes, {free} are free: free some room; reads, deletes and compaction go on"
    )]
    Full {
        /// What was attempted.
        what: &'static str,
        /// Bytes needed, reserve included.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A backup or a restore was pointed at a folder that holds something.
    #[error("the target folder holds {found}: choose an empty one, nothing was written")]
    TargetNotEmpty {
        /// One of the files found.
        found: String,
    },
    /// The folder is the target of a copy that was not finished.
    #[error(
        "{file} is there: this folder is a copy of a log that was not finished. Go on with the copy, or empty the folder: nothing in it \
         was ever served"
    )]
    Unfinished {
        /// The file that says so.
        file: String,
    },
    /// A copy from a peer was offered something that does not fit. Nothing of it was written.
    #[error("the copy does not fit: {what}. Ask the peer for its files again")]
    Import {
        /// What was found and what was wanted.
        what: String,
    },
    /// A backup, a restore or a copy read something damaged.
    #[error("{findings} findings, the first: {first}")]
    NotVerified {
        /// How many findings there are.
        findings: usize,
        /// The first, in words.
        first: String,
    },
}

impl LogError {
    /// Wraps what the operating system says of an operation on a file or folder: `disk.list().map_err(LogError::io("list", "the folder"))`.
    pub fn io<'a>(op: &'static str, file: &'a str) -> impl FnOnce(std::io::Error) -> LogError + 'a {
        move |error| LogError::Io { op, file: file.to_owned(), detail: error.to_string(), kind: error.kind() }
    }

    pub(crate) fn damage(
        file: &str,
        offset: u64,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) -> LogError {
        LogError::Damage { file: file.to_owned(), offset, found: found.into(), wanted: wanted.into() }
    }
}
