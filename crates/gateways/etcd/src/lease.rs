//! Leases: their times to live in seconds, as etcd has them.
//!
//! Called by: `serve`.

use crate::error;
use crate::gateway::Gateway;
use crate::protocol::etcdserverpb as pb;
use crate::serve::{Answers, Api};
use bytes::Bytes;
use quorate_runtime::Consistency;
use quorate_types::{CommandBody, Commit, Keyspace, LeaseId, Millis, Op, OpResult, Outcome, Principal};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

/// The longest time to live that etcd grants, in seconds.
const TTL_MAX: i64 = 9_000_000_000;

#[tonic::async_trait]
impl pb::lease_server::Lease for Api {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        let ttl_max = i64::try_from(self.0.handle.limits().ttl_ms_max / 1000).unwrap_or(TTL_MAX).min(TTL_MAX);
        if asked.ttl > ttl_max {
            return Err(error::lease_too_long());
        }
        let ttl = Millis(asked.ttl.max(1) as u64 * 1000);
        let grant = Op::LeaseGrant { lease: LeaseId(asked.id as u64), ttl };
        let committed = self.0.commit(&who, Commit::of(vec![grant])).await?;
        let Some(OpResult::Lease { lease, ttl, .. }) = committed.results.first() else {
            return Err(Status::internal("a grant was answered without a lease"));
        };
        Ok(Response::new(pb::LeaseGrantResponse {
            header: Some(self.0.header(committed.revision)),
            id: lease.0 as i64,
            ttl: seconds_up(*ttl),
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let lease = LeaseId(request.into_inner().id as u64);
        let committed = self.0.commit(&who, Commit::of(vec![Op::LeaseRevoke { lease }])).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: Some(self.0.header(committed.revision)) }))
    }

    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let who = self.0.enter(&request).await?;
        let mut asked = request.into_inner();
        let (send, receive) = mpsc::channel(16);
        let gateway = Arc::clone(&self.0);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = asked.message() => next,
                    () = gateway.stopped() => Err(error::stopped()),
                };
                let answer = match next {
                    Ok(None) => return,
                    Ok(Some(asked)) => gateway.keep_alive(&who, asked.id).await,
                    Err(status) => Err(status),
                };
                let over = answer.is_err();
                if send.send(answer).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Response::new(Answers::of(receive)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        let lease = LeaseId(asked.id as u64);
        let read = self.0.handle.read_at(Consistency::Linearizable, |machine, times| {
            machine.may(&who, &Op::LeaseInfo { lease })?;
            let found = machine.lease(lease);
            if asked.keys && found.is_some() {
                machine.lease_allowed(&machine.rights(&who), quorate_types::Verbs::READ, lease)?;
            }
            Ok((
                found.map(|found| {
                    (found.left.0.saturating_sub(times.time.millis_since(machine.log_time()).0), found)
                }),
                machine.revision(),
            ))
        });
        let read = tokio::time::timeout(self.0.config.command_timeout, read)
            .await
            .map_err(|_| error::timed_out())?
            .map_err(|why| error::runtime(&why))?;
        let (found, revision) = read.map_err(|denied: quorate_types::Denied| error::denied(&denied))?;
        let header = Some(self.0.header(revision));
        let Some((left, found)) = found else {
            return Ok(Response::new(pb::LeaseTimeToLiveResponse {
                header,
                id: asked.id,
                ttl: -1,
                ..Default::default()
            }));
        };
        let keys = found.keys.iter().filter(|key| asked.keys && key.space == Keyspace::DEFAULT);
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header,
            id: asked.id,
            ttl: (left / 1000) as i64,
            granted_ttl: seconds_up(found.ttl),
            keys: keys.map(|key| Bytes::copy_from_slice(&key.name)).collect(),
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let (allowed, ids, revision) = self
            .0
            .look(Consistency::Linearizable, |machine| {
                let allowed = machine.may(&who, &Op::LeaseInfo { lease: LeaseId::ZERO });
                (allowed, machine.leases().collect::<Vec<_>>(), machine.revision())
            })
            .await?;
        allowed.map_err(|denied| error::denied(&denied))?;
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id: id.0 as i64 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: Some(self.0.header(revision)), leases }))
    }
}

impl Gateway {
    async fn keep_alive(&self, who: &Principal, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let lease = LeaseId(id as u64);
        let outcome = self.command(who, CommandBody::KeepAlive { leases: vec![lease] }).await?;
        let ttl = match outcome {
            Outcome::Alive { leases } => leases.first().and_then(|(_, ttl)| *ttl).map_or(0, seconds_up),
            other => return Err(Status::internal(format!("a keep-alive was answered with {other:?}"))),
        };
        let revision = self.look(Consistency::Stale, quorate_machine::Machine::revision).await?;
        Ok(pb::LeaseKeepAliveResponse { header: Some(self.header(revision)), id, ttl })
    }
}

/// Whole seconds, at least as long.
fn seconds_up(time: Millis) -> i64 {
    i64::try_from(time.0.div_ceil(1000)).unwrap_or(i64::MAX)
}
