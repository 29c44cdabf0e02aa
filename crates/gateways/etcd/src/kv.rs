//! KV: reads, writes, transactions, compaction.
//!
//! Invariant: a long read gives way to others between slices, and all its slices see one revision.
//! Called by: `serve`.

use crate::error;
use crate::gateway::Gateway;
use crate::protocol::etcdserverpb as pb;
use crate::serve::{Answers, Api};
use crate::txn::{self, Checked};
use quorate_machine::{RangeAnswer, Selection};
use quorate_runtime::Consistency;
use quorate_types::{Commit, Op, OpError, OpResult, Principal, Revision, Select};
use tonic::{Request, Response, Status};

/// Keys that one slice of a read looks at: about a millisecond.
pub(crate) const SLICE: usize = 2048;
/// How often a read begins anew when history was compacted beneath it.
pub(crate) const TRIES: usize = 5;

#[tonic::async_trait]
impl pb::kv_server::Kv for Api {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        let select = txn::select(&asked)?;
        let consistency = if asked.serializable { Consistency::Stale } else { Consistency::Linearizable };
        let (found, revision) = self.0.select(&who, select, consistency).await?;
        let header = Some(self.0.header(revision));
        Ok(Response::new(txn::range_response(&found.keys, found.count, found.more, header)))
    }

    type RangeStreamStream = Answers<pb::RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let who = self.0.enter(&request).await?;
        self.0.pieces(who, request.get_ref()).await.map(Response::new)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        self.0.fits(&asked)?;
        let write = txn::write(&asked, !self.0.config.may_be_flushed)?;
        let (revision, result) = self.0.one(&who, write).await?;
        let prev_kv = match result {
            OpResult::Key { found } => found.as_ref().map(txn::key_value),
            _ => None,
        };
        Ok(Response::new(pb::PutResponse { header: Some(self.0.header(revision)), prev_kv }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        self.0.fits(&asked)?;
        let (revision, result) = self.0.one(&who, txn::erase(&asked)?).await?;
        let OpResult::Deleted { count, prev } = result else {
            return Err(Status::internal(format!("a delete was answered with {result:?}")));
        };
        Ok(Response::new(txn::delete_response(count, &prev, Some(self.0.header(revision)))))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        self.0.transact(&who, &asked).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let wanted = request.into_inner().revision;
        let before = Revision(u64::try_from(wanted).unwrap_or(0));
        let (oldest, current) = self
            .0
            .look(Consistency::Linearizable, |machine| (machine.oldest_shown(), machine.revision()))
            .await?;
        if before <= oldest {
            return Err(error::compacted());
        }
        if before > current {
            return Err(error::future_revision());
        }
        self.0.command(&who, quorate_types::CommandBody::Compact { before }).await?;
        let header = Some(self.0.header(current));
        Ok(Response::new(pb::CompactionResponse { header }))
    }
}

impl Gateway {
    /// Whether a request is no larger than it may be.
    ///
    /// # Errors
    /// It is larger.
    pub(crate) fn fits(&self, request: &impl prost::Message) -> Result<(), Status> {
        if request.encoded_len() as u64 > self.config.request_bytes_max {
            Err(error::too_large())
        } else {
            Ok(())
        }
    }

    /// Commits one operation: the revision after it, and what it came to.
    ///
    /// # Errors
    /// As [`Gateway::commit`].
    async fn one(&self, who: &Principal, op: Op) -> Result<(Revision, OpResult), Status> {
        let mut committed = self.commit(who, Commit::of(vec![op])).await?;
        let result = committed.results.pop();
        let result = result.ok_or_else(|| Status::internal("a commit of one operation has no result"))?;
        Ok((committed.revision, result))
    }

    /// Runs a transaction; one that only reads without an entry.
    ///
    /// # Errors
    /// etcd's status for it.
    pub(crate) async fn transact(
        &self,
        who: &Principal,
        asked: &pb::TxnRequest,
    ) -> Result<pb::TxnResponse, Status> {
        let checked = Checked::of(asked, self.config.operations_max)?;
        let commit = checked.commit(!self.config.may_be_flushed)?;
        let (branch, results, revision) = if checked.only_reads() {
            let consistency = if checked.is_stale() { Consistency::Stale } else { Consistency::Linearizable };
            let read = self
                .look(consistency, |machine| (machine.read_foreseen(who, &commit), machine.revision()))
                .await?;
            let (branch, results) = read.0.map_err(|refusal| error::refusal(&refusal))?;
            (branch, results, read.1)
        } else {
            self.fits(asked)?;
            let committed = self.commit(who, commit.clone()).await?;
            (committed.branch, committed.results, committed.revision)
        };
        let answer = txn::answer(&commit, branch, results, revision);
        Ok(pb::TxnResponse { header: Some(self.header(revision)), ..answer })
    }

    /// Reads plain values, in slices at one revision; and the revision of the state that was current.
    ///
    /// # Errors
    /// The revision is compacted or in the future; the right to read is missing.
    pub(crate) async fn select(
        &self,
        who: &Principal,
        select: Select,
        consistency: Consistency,
    ) -> Result<(RangeAnswer, Revision), Status> {
        let mut freshness = consistency;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut into = Selection::of(select.clone());
            let first = self
                .look(freshness, |machine| {
                    let op = Op::Select { select: Box::new(select.clone()) };
                    machine.may(who, &op).map_err(|denied| error::denied(&denied))?;
                    let current = machine.revision();
                    let at = select.at.unwrap_or(current);
                    if at < machine.oldest_shown() && select.at.is_some() {
                        return Err(error::compacted());
                    }
                    let start = select.range.start.name.clone();
                    let next = machine.gather(&mut into, start, at, SLICE).map_err(|why| error::op(&why))?;
                    Ok((current, at, next))
                })
                .await?;
            let (current, at, mut next) = first?;
            let mut lost = false;
            while let Some(start) = next.take() {
                tokio::task::yield_now().await;
                match self
                    .look(Consistency::Stale, |machine| machine.gather(&mut into, start, at, SLICE))
                    .await?
                {
                    Ok(more) => next = more,
                    Err(OpError::Compacted { .. }) if select.at.is_none() && tries < TRIES => {
                        lost = true;
                        break;
                    }
                    Err(why) => return Err(error::op(&why)),
                }
            }
            if !lost {
                return Ok((into.done(), current));
            }
            // What was read first is no longer what is asked for: the newest state, as fresh as before.
            freshness = consistency;
        }
    }
}
