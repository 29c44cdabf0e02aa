//! Snapshot: the keys and leases as etcd's own database, for whoever wants to go (back) to etcd.
//!
//! Keys are as they are at one revision, with their own revisions, versions and leases, and what came before is compacted: an etcd that starts
//! from the file answers any Range as this node did then. A lease that ends while the file is made is there with the shortest time to live, so that
//! its keys go with it. Users are not: their passwords cannot be told from SCRAM's verifiers, nor etcd's bcrypt from them.
//!
//! A walk reads slices at one revision, and gives way to others between them; a thread beside puts them in the order of their revisions and makes the
//! file, whose length is known before its first byte is sent.
//!
//! Invariant: no commit waits for more than one slice. Memory is a run of [`sorted`], a few slices and a few pieces, whatever the state's size.
//! Invariant: nothing is sent before the file is whole, and no file without its SHA-256.
//! Called by: the service Maintenance.
//! Source: etcd's `server/storage/schema` for buckets and keys, `api/etcdserverpb/rpc.proto` for the stream.

mod bolt;
mod sorted;

use crate::error;
use crate::gateway::{Gateway, shown};
use crate::kv::TRIES;
use crate::protocol::etcdserverpb as pb;
use crate::serve::Answers;
use crate::txn;
use bolt::Bolt;
use bytes::Bytes;
use prost::Message;
use quorate_machine::{Machine, Selection};
use quorate_runtime::Consistency;
use quorate_types::{Blob, KeyValue, LeaseId, LogIndex, Millis, OpError, Revision, Select};
use ring::digest;
use sorted::Sorter;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

/// Snapshots at once: each takes the state's size on disk, twice for a while.
pub(crate) const SNAPSHOTS_MAX: usize = 2;
/// Keys, or leases, of one slice.
const SLICE: usize = 512;
/// Bytes of a message.
const PIECE_BYTES: usize = 128 << 10;
/// Messages that wait for their client, and slices that wait to be written.
const WAITING_MAX: usize = 2;
/// How many bytes are written between two looks at the room on the disk.
const LOOK_BYTES: u64 = 16 << 20;
/// Seconds to live of a lease that has ended: an etcd raises it to its own minimum.
const TTL_MIN: u64 = 1;
/// Whose schema it is.
const STORAGE_VERSION: &str = "3.5.0";

/// What the walk finds.
enum Found {
    /// It begins, or begins anew: what came before is void.
    Begun,
    Keys(Vec<KeyValue>),
    Leases(Vec<(LeaseId, Millis)>),
    /// That was all.
    All(Head),
}

/// What the file says besides keys and leases.
struct Head {
    at: Revision,
    applied: LogIndex,
    term: u64,
    members: Vec<u64>,
}

/// A lease as etcd keeps it.
#[derive(Clone, PartialEq, Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
}

type Sender = mpsc::Sender<Result<pb::SnapshotResponse, Status>>;

impl Gateway {
    /// Begins to make a snapshot; what goes wrong later is told in its place.
    ///
    /// # Errors
    /// As many are being made as may be.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Result<Answers<pb::SnapshotResponse>, Status> {
        let permit = Arc::clone(&self.snapshots).try_acquire_owned();
        let permit = permit.map_err(|_| error::too_many_requests())?;
        let (answers, receive) = mpsc::channel(WAITING_MAX);
        let (found, to_write) = mpsc::channel(WAITING_MAX);
        let making = Making { gateway: Arc::clone(self), answers: answers.clone(), _permit: permit };
        tokio::task::spawn_blocking(move || making.run(to_write));
        let gateway = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(status) = gateway.walk(&found).await {
                // A client that is gone need not be told.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Answers::of(receive))
    }

    /// Finds all keys at one revision, then all leases; ends early when nobody wants them any more.
    async fn walk(&self, found: &mpsc::Sender<Found>) -> Result<(), Status> {
        for attempt in 1.. {
            let _ = found.send(Found::Begun).await;
            match self.walk_keys(found).await? {
                Ok(head) => {
                    self.walk_leases(found).await?;
                    let _ = found.send(Found::All(head)).await;
                    return Ok(());
                }
                // History ran out beneath it.
                Err(OpError::Compacted { .. }) if attempt < TRIES => {}
                Err(why) => return Err(error::op(&why)),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn walk_keys(&self, found: &mpsc::Sender<Found>) -> Result<Result<Head, OpError>, Status> {
        let all = txn::range(&Bytes::from_static(&[0]), &Bytes::from_static(&[0]));
        let (mut at, mut next) = (None, Some(all.start.name.clone()));
        while let Some(start) = next {
            let slice = |machine: &Machine| {
                let at: Revision = at.unwrap_or(machine.revision());
                let mut into = Selection::of(Select::of(all.clone()));
                let next: Result<Option<Blob>, _> = machine.gather(&mut into, start, at, SLICE);
                next.map(|next| (at, next, into.done().keys))
            };
            // Of what this node has: a node without a leader can still be saved.
            let (read_at, goes_on, keys) = match self.look(Consistency::Stale, slice).await? {
                Ok(read) => read,
                Err(why) => return Ok(Err(why)),
            };
            (at, next) = (Some(read_at), goes_on);
            self.wanted(found, Found::Keys(keys)).await?;
        }
        let status = self.handle.status();
        let members = self.members().iter().map(|member| member.id).collect();
        let at = at.unwrap_or(status.revision);
        Ok(Ok(Head { at, applied: status.applied, term: self.handle.term(), members }))
    }

    /// Leases come after the keys: one that a key names and that is not found has ended in between.
    async fn walk_leases(&self, found: &mpsc::Sender<Found>) -> Result<(), Status> {
        let mut after = LeaseId::ZERO;
        loop {
            let leases = self.look(Consistency::Stale, |machine| machine.leases_after(after, SLICE)).await?;
            let Some((last, _)) = leases.last() else { return Ok(()) };
            after = *last;
            self.wanted(found, Found::Leases(leases)).await?;
        }
    }

    /// Hands on what was found, and gives way to others.
    async fn wanted(&self, found: &mpsc::Sender<Found>, what: Found) -> Result<(), Status> {
        if self.handle.status().disk_low {
            return Err(error::no_space());
        }
        found.send(what).await.map_err(|_| error::stopped())?;
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// Makes the file and sends it, on a thread that may wait.
struct Making {
    gateway: Arc<Gateway>,
    answers: Sender,
    _permit: OwnedSemaphorePermit,
}

impl Making {
    fn run(self, found: mpsc::Receiver<Found>) {
        let maker = Maker {
            folder: &self.gateway.config.scratch,
            is_wanted: &|| !self.answers.is_closed(),
            is_low: &|| self.gateway.handle.status().disk_low,
        };
        let status = match maker.make(found) {
            Ok(None) => return,
            Ok(Some((file, bytes, at))) => match self.send(&file, bytes, at) {
                Ok(()) => return,
                Err(why) => failed(&why),
            },
            Err(why) => failed(&why),
        };
        // A client that is gone need not be told.
        let _ = self.answers.blocking_send(Err(status));
    }

    /// Sends the file, then its hash; ends early when nobody listens.
    fn send(&self, file: &File, bytes: u64, at: Revision) -> io::Result<()> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut sent = 0;
        while sent < bytes {
            let piece = usize::try_from(bytes - sent).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let mut blob = vec![0; piece];
            file.read_exact_at(&mut blob, sent)?;
            hash.update(&blob);
            // The first one tells of which moment it is.
            let header = (sent == 0).then(|| self.gateway.header(at));
            sent += piece as u64;
            if !self.piece(header, bytes - sent, blob) {
                return Ok(());
            }
        }
        self.piece(None, 0, hash.finish().as_ref().to_vec());
        Ok(())
    }

    /// Whether its client still listens.
    fn piece(&self, header: Option<pb::ResponseHeader>, remaining_bytes: u64, blob: Vec<u8>) -> bool {
        let version = STORAGE_VERSION.to_owned();
        let piece = pb::SnapshotResponse { header, remaining_bytes, blob: blob.into(), version };
        self.answers.blocking_send(Ok(piece)).is_ok()
    }
}

/// The file in the making.
struct Maker<'a> {
    folder: &'a Path,
    is_wanted: &'a dyn Fn() -> bool,
    /// Whether the disk is nearly full.
    is_low: &'a dyn Fn() -> bool,
}

impl Maker<'_> {
    /// The file, its length and its revision; nothing when the walk has ended early, which tells its client by itself.
    fn make(&self, mut found: mpsc::Receiver<Found>) -> io::Result<Option<(File, u64, Revision)>> {
        let mut sorter = Sorter::begin(self.folder)?;
        let head = loop {
            match found.blocking_recv() {
                None => return Ok(None),
                Some(_) if !(self.is_wanted)() => return Ok(None),
                Some(Found::Begun) => sorter = Sorter::begin(self.folder)?,
                Some(Found::Keys(keys)) => {
                    for key in keys {
                        let value = txn::key_value(&key).encode_to_vec();
                        sorter.push(&[&[KEYS], &key.mod_revision.0.to_be_bytes(), &key.key.name], &value)?;
                        if key.lease != LeaseId::ZERO {
                            sorter.push(&[&[LEASES], &key.lease.0.to_be_bytes(), &[NAMED]], &[])?;
                        }
                    }
                }
                Some(Found::Leases(leases)) => {
                    for (lease, ttl) in leases {
                        let value = ttl.0.div_ceil(1000).to_be_bytes();
                        sorter.push(&[&[LEASES], &lease.0.to_be_bytes(), &[FOUND]], &value)?;
                    }
                }
                Some(Found::All(head)) => break head,
            }
        };
        let (file, bytes) = self.file(sorter, &head)?;
        Ok(Some((file, bytes, head.at)))
    }

    fn file(&self, sorter: Sorter, head: &Head) -> io::Result<(File, u64)> {
        let out = BufWriter::new(sorted::nameless(self.folder)?);
        let mut bolt = Bolt::begin(out)?;
        // Those that are empty here are made by a starting etcd too, and missed by its tools.
        for empty in ["alarm", "auth", "authRoles", "authUsers", "cluster"] {
            bolt.bucket(empty)?;
        }
        self.records(&mut bolt, sorter)?;
        for empty in ["members", "members_removed"] {
            bolt.bucket(empty)?;
        }
        bolt.bucket("meta")?;
        let compacted = revision(head.at.0, 0);
        bolt.put(b"confState", confirmed(&head.members).as_bytes())?;
        bolt.put(b"consistent_index", &head.applied.0.to_be_bytes())?;
        bolt.put(b"finishedCompactRev", &compacted)?;
        bolt.put(b"scheduledCompactRev", &compacted)?;
        bolt.put(b"term", &head.term.to_be_bytes())?;
        let (out, bytes) = bolt.finish()?;
        Ok((out.into_inner().map_err(io::IntoInnerError::into_error)?, bytes))
    }

    /// The buckets of keys and leases.
    fn records(&self, bolt: &mut Bolt<BufWriter<File>>, sorter: Sorter) -> io::Result<()> {
        let mut records = sorter.merged()?;
        bolt.bucket("key")?;
        let (mut last, mut sub) = (None, 0u64);
        let (mut leases, mut told) = (false, None);
        let mut looked = 0;
        while let Some((key, value)) = records.next()? {
            if bolt.bytes() > looked + LOOK_BYTES {
                looked = bolt.bytes();
                if (self.is_low)() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            let (id, rest) = key[1..].split_at(8);
            let id: [u8; 8] = id.try_into().expect("eight bytes were split off");
            if key[0] == KEYS {
                // Keys of one revision are told apart by their place in it.
                sub = if last == Some(id) { sub + 1 } else { 0 };
                last = Some(id);
                bolt.put(&revision(u64::from_be_bytes(id), sub), &value)?;
                continue;
            }
            if !std::mem::replace(&mut leases, true) {
                bolt.bucket("lease")?;
            }
            // What was found of a lease comes ahead of what only names it.
            if told.replace(id) == Some(id) {
                continue;
            }
            let ttl =
                if rest == [FOUND] { value.try_into().map_or(TTL_MIN, u64::from_be_bytes) } else { TTL_MIN };
            let lease = Lease { id: i64::from_be_bytes(id), ttl: i64::try_from(ttl).unwrap_or(i64::MAX) };
            bolt.put(&id, &lease.encode_to_vec())?;
        }
        if leases { Ok(()) } else { bolt.bucket("lease") }
    }
}

/// What records are sorted by: first their bucket, then a revision or a lease; of leases last how they are known.
const KEYS: u8 = 0;
const LEASES: u8 = 1;
const FOUND: u8 = 0;
const NAMED: u8 = 1;

/// A revision as a key: the number, and a place in it.
fn revision(main: u64, sub: u64) -> [u8; 17] {
    let mut key = [b'_'; 17];
    key[..8].copy_from_slice(&(shown(Revision(main))).to_be_bytes());
    key[9..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// The members as etcd notes them.
fn confirmed(members: &[u64]) -> String {
    serde_json::json!({ "voters": members, "auto_leave": false }).to_string()
}

fn failed(why: &io::Error) -> Status {
    match why.kind() {
        io::ErrorKind::StorageFull => error::no_space(),
        _ => Status::internal(format!("the snapshot could not be written: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Key, Keyspace};

    fn key(name: &str, modified: u64, lease: u64) -> KeyValue {
        KeyValue {
            key: Key { space: Keyspace::DEFAULT, name: Blob::copy_from(name.as_bytes()) },
            value: Blob::copy_from(b"v"),
            create_revision: Revision(modified),
            mod_revision: Revision(modified),
            version: quorate_types::Version(1),
            lease: LeaseId(lease),
        }
    }

    /// What a walk comes to that finds this.
    fn file_of(found: Vec<Found>) -> io::Result<Option<Vec<u8>>> {
        let folder = tempfile::tempdir()?;
        let (send, receive) = mpsc::channel(found.len().max(1));
        found.into_iter().for_each(|found| assert!(send.try_send(found).is_ok()));
        drop(send);
        let maker = Maker { folder: folder.path(), is_wanted: &|| true, is_low: &|| false };
        let Some((file, bytes, _)) = maker.make(receive)? else { return Ok(None) };
        let mut all = vec![0; usize::try_from(bytes).expect("it is small")];
        file.read_exact_at(&mut all, 0)?;
        Ok(Some(all))
    }

    fn head() -> Head {
        Head { at: Revision(9), applied: LogIndex(20), term: 3, members: vec![1] }
    }

    /// How often a lease is there with so many seconds to live.
    fn leases(file: &[u8], id: u64, ttl: i64) -> usize {
        let row = [&id.to_be_bytes()[..], &Lease { id: id as i64, ttl }.encode_to_vec()].concat();
        file.windows(row.len()).filter(|window| *window == row).count()
    }

    #[test]
    fn a_lease_that_ended_meanwhile_is_there_so_that_its_keys_end_too() {
        let keys = Found::Keys(vec![key("a", 4, 77), key("b", 5, 77), key("c", 5, 1000)]);
        let found = Found::Leases(vec![(LeaseId(77), Millis(60_500))]);
        let file = file_of(vec![Found::Begun, keys, found, Found::All(head())]).expect("it is made");
        let file = file.expect("it is whole");
        assert_eq!((leases(&file, 77, 61), leases(&file, 77, 1)), (1, 0));
        assert_eq!(leases(&file, 1000, 1), 1);
    }

    #[test]
    fn a_walk_that_begins_anew_leaves_nothing_of_the_first() {
        let (first, second) = (Found::Keys(vec![key("first", 4, 0)]), Found::Keys(vec![key("second", 5, 0)]));
        let file = file_of(vec![Found::Begun, first, Found::Begun, second, Found::All(head())]);
        let file = file.expect("it is made").expect("it is whole");
        let has = |name: &[u8]| file.windows(name.len()).any(|window| window == name);
        assert!(has(b"second") && !has(b"first"));
    }

    #[test]
    fn a_walk_that_breaks_off_makes_no_file() {
        assert!(file_of(vec![Found::Begun, Found::Keys(vec![key("a", 4, 0)])]).expect("no error").is_none());
    }
}
