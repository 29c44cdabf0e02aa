//! Checksums of the keys as they were at a revision, by which operators compare nodes.
//!
//! Of plain values alone, as all of this gateway sees them, and not of etcd's own bytes: nodes of one cluster compare with each other.
//!
//! Invariant: nodes that have applied a revision answer the same for it, and no commit waits for a checksum.
//! Called by: the service Maintenance.

use crate::error;
use crate::gateway::Gateway;
use crate::kv::{SLICE, TRIES};
use crate::txn;
use bytes::Bytes;
use quorate_machine::{Machine, Selection};
use quorate_runtime::Consistency;
use quorate_types::{Blob, KeyValue, Revision, Select};
use tonic::Status;

/// A checksum, and of what.
pub(crate) struct Checksum {
    pub(crate) hash: u32,
    pub(crate) at: Revision,
    /// The newest revision here.
    pub(crate) current: Revision,
    /// The oldest that can be asked for.
    pub(crate) oldest: Revision,
}

/// Where a checksum has come to.
struct Begun {
    at: Revision,
    hash: u32,
    /// Where it goes on; nothing at the end.
    next: Option<Blob>,
}

impl Gateway {
    /// The checksum of what this node has at a revision, the newest when there is none.
    ///
    /// # Errors
    /// The revision is compacted, or in the future here.
    pub(crate) async fn checksum(&self, asked: Option<Revision>) -> Result<Checksum, Status> {
        for _ in 0..TRIES {
            match self.checksum_once(asked).await {
                Err(_) if asked.is_none() => tokio::task::yield_now().await,
                done => return done,
            }
        }
        self.checksum_once(asked).await
    }

    async fn checksum_once(&self, asked: Option<Revision>) -> Result<Checksum, Status> {
        let all = txn::range(&Bytes::from_static(&[0]), &Bytes::from_static(&[0]));
        let mut begun: Option<Begun> = None;
        loop {
            let slice = |machine: &Machine| {
                let (current, oldest) = (machine.revision(), machine.oldest_shown());
                let so_far = begun.take().unwrap_or_else(|| Begun {
                    at: asked.unwrap_or(current),
                    hash: 0,
                    next: Some(all.start.name.clone()),
                });
                if so_far.at > current {
                    return Err(error::future_revision());
                }
                if so_far.at < oldest {
                    return Err(error::compacted());
                }
                let Some(start) = so_far.next else { return Ok((so_far, current, oldest)) };
                let mut into = Selection::of(Select::of(all.clone()));
                let next = machine.gather(&mut into, start, so_far.at, SLICE);
                let next = next.map_err(|why| error::op(&why))?;
                let hash = into.done().keys.iter().fold(so_far.hash, with);
                Ok((Begun { at: so_far.at, hash, next }, current, oldest))
            };
            let (so_far, current, oldest) = self.look(Consistency::Stale, slice).await??;
            if so_far.next.is_none() {
                return Ok(Checksum { hash: so_far.hash, at: so_far.at, current, oldest });
            }
            begun = Some(so_far);
            tokio::task::yield_now().await;
        }
    }
}

/// CRC-32C of what came before and one key more; lengths first, so that no two states run together.
fn with(hash: u32, key: &KeyValue) -> u32 {
    let numbers = [
        key.key.name.len() as u64,
        key.value.len() as u64,
        key.create_revision.0,
        key.mod_revision.0,
        key.version.0,
        key.lease.0,
    ];
    let hash = numbers.iter().fold(hash, |hash, number| crc32c::crc32c_append(hash, &number.to_le_bytes()));
    crc32c::crc32c_append(crc32c::crc32c_append(hash, &key.key.name), &key.value)
}
