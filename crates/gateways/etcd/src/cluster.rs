//! Cluster, Maintenance and the health of gRPC: what a node tells of itself and the others.
//!
//! Called by: `serve`.

use crate::alarms;
use crate::error::{self, absent};
use crate::gateway::{Gateway, shown};
use crate::protocol::etcdserverpb as pb;
use crate::protocol::grpc::health::v1 as health;
use crate::serve::{Answers, Api};
use health::health_check_response::ServingStatus;
use quorate_runtime::Consistency;
use quorate_types::{NodeId, Principal, Revision};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

/// The version of etcd whose protocol this is: clients choose by it what they ask for.
pub(crate) const VERSION: &str = "3.5.17";
/// How often it is looked whether leadership has gone over.
const TRANSFER_LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(5);
/// How members are changed.
const MEMBERS: &str = "change members with `quorate cluster`";

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Api {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.0.enter(&request).await?;
        let consistency =
            if request.get_ref().linearizable { Consistency::Linearizable } else { Consistency::Stale };
        let revision = self.0.look(consistency, quorate_machine::Machine::revision).await?;
        let members = self.0.members();
        Ok(Response::new(pb::MemberListResponse { header: Some(self.0.header(revision)), members }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(absent("MemberAdd", MEMBERS))
    }
    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(absent("MemberRemove", MEMBERS))
    }
    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(absent("MemberUpdate", MEMBERS))
    }
    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(absent("MemberPromote", MEMBERS))
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Api {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.0.alarm(&request).await.map(Response::new)
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.0.enter(&request).await?;
        let status = self.0.handle.status();
        let cluster = self.0.handle.cluster_status();
        let header = self.0.header(status.revision);
        let leader = match &cluster {
            None => header.member_id,
            Some(cluster) => cluster.standing.leader.map_or(0, |node| node.0),
        };
        let mut errors = Vec::new();
        if leader == 0 {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(self.0.alarms().into_iter().map(alarms::text));
        let own = cluster.as_ref().and_then(|cluster| {
            cluster.members.iter().find(|one| one.member.node == cluster.node).map(is_learner)
        });
        let in_use = status.sizes.element_bytes + status.sizes.history_bytes;
        Ok(Response::new(pb::StatusResponse {
            version: VERSION.to_owned(),
            db_size: status.log_bytes as i64,
            leader,
            raft_index: cluster.as_ref().map_or(status.applied.0, |cluster| cluster.last.0),
            raft_term: header.raft_term,
            raft_applied_index: status.applied.0,
            errors,
            db_size_in_use: in_use.min(status.log_bytes) as i64,
            is_learner: own.unwrap_or(false),
            header: Some(header),
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        // There is nothing to do: the log's segments are recycled as it goes on.
        self.0.operator(&request).await?;
        let header = Some(self.0.header(self.0.handle.status().revision));
        Ok(Response::new(pb::DefragmentResponse { header }))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.0.operator(&request).await?;
        self.0.lead(request.get_ref().target_id).await?;
        let header = Some(self.0.header(self.0.handle.status().revision));
        Ok(Response::new(pb::MoveLeaderResponse { header }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.0.operator(&request).await?;
        let found = self.0.checksum(None).await?;
        let header = Some(self.0.header(found.current));
        Ok(Response::new(pb::HashResponse { header, hash: found.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.0.operator(&request).await?;
        let asked = u64::try_from(request.get_ref().revision).ok().filter(|asked| *asked > 0);
        let found = self.0.checksum(asked.map(Revision)).await?;
        let header = Some(self.0.header(found.current));
        // Where nothing was compacted yet, etcd says -1.
        let compact_revision = if found.oldest == Revision::ZERO { -1 } else { shown(found.oldest) };
        let hash_revision = shown(found.at);
        Ok(Response::new(pb::HashKvResponse { header, hash: found.hash, compact_revision, hash_revision }))
    }

    type SnapshotStream = Answers<pb::SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.operator(&request).await?;
        self.0.snapshot().map(Response::new)
    }
    async fn downgrade(
        &self,
        _: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(absent("Downgrade", "versions of the rules are raised by the cluster itself"))
    }
}

#[tonic::async_trait]
impl health::health_server::Health for Api {
    async fn check(
        &self,
        request: Request<health::HealthCheckRequest>,
    ) -> Result<Response<health::HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" | "etcdserverpb.KV" | "etcdserverpb.Watch" | "etcdserverpb.Lease" => {}
            _ => return Err(Status::not_found("unknown service")),
        }
        Ok(Response::new(self.0.health().await))
    }

    type WatchStream = Answers<health::HealthCheckResponse>;

    async fn watch(
        &self,
        _: Request<health::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (send, receive) = mpsc::channel(1);
        let gateway = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let health = gateway.health().await;
                if told != Some(health.status) {
                    told = Some(health.status);
                    if send.send(Ok(health)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                    () = send.closed() => return,
                    () = gateway.stopped() => return,
                }
            }
        });
        Ok(Response::new(Answers::of(receive)))
    }
}

impl Gateway {
    /// Lets only those in who may do everything.
    pub(crate) async fn operator<T>(self: &Arc<Self>, request: &Request<T>) -> Result<Principal, Status> {
        let who = self.enter(request).await?;
        let rights = self.handle.rights(&who).map_err(|why| error::runtime(&why))?;
        if rights.is_everything() { Ok(who) } else { Err(error::permission_denied()) }
    }

    /// Hands leadership to a member, and waits until it is known here to have it; who leads already keeps it.
    ///
    /// # Errors
    /// It is no voter; it did not get it in time.
    async fn lead(&self, target: u64) -> Result<(), Status> {
        let may = self.members().into_iter().any(|one| one.id == target && !one.is_learner);
        if !may {
            return Err(error::bad_transferee());
        }
        let leads = || {
            self.handle.cluster_status().is_none_or(|status| status.standing.leader == Some(NodeId(target)))
        };
        if leads() {
            return Ok(());
        }
        self.handle.cluster_transfer(Some(NodeId(target))).await.map_err(|why| error::runtime(&why))?;
        let until = tokio::time::Instant::now() + self.config.command_timeout;
        while !leads() {
            if tokio::time::Instant::now() >= until {
                return Err(error::leader_transfer_timed_out());
            }
            tokio::time::sleep(TRANSFER_LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn health(&self) -> health::HealthCheckResponse {
        let status = match self.handle.ready().await {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        health::HealthCheckResponse { status: status.into() }
    }

    /// The members. Where the others' gateways are, their pings have told; an address that only their own machine can reach is left out
    /// for clients that come from elsewhere.
    pub(crate) fn members(&self) -> Vec<pb::Member> {
        let Some(cluster) = self.handle.cluster_status() else {
            return vec![pb::Member {
                id: 1,
                name: "quorate".to_owned(),
                client_ur_ls: vec![self.advertised()],
                ..pb::Member::default()
            }];
        };
        let own = self.advertised();
        let reaches = |url: &String| !url.is_empty() && (is_local(&own) || !is_local(url));
        let clients = |one: &quorate_node::MemberStatus| {
            let told = || Some(one.doors.etcd.clone()).filter(reaches);
            if one.member.node == cluster.node { Some(own.clone()) } else { told() }
        };
        let member = |one: &quorate_node::MemberStatus| pb::Member {
            id: one.member.node.0,
            name: format!("quorate-{}", one.member.node.0),
            peer_ur_ls: vec![format!("http://{}", one.member.address)],
            client_ur_ls: clients(one).into_iter().collect(),
            is_learner: is_learner(one),
        };
        cluster.members.iter().map(member).collect()
    }
}

/// Whether an address is one of the loopback.
fn is_local(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    host.starts_with("localhost:")
        || host.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

fn is_learner(one: &quorate_node::MemberStatus) -> bool {
    one.member.role == quorate_runtime::Role::Learner {}
}
