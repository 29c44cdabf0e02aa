//! Locks and elections that the server keeps, as queues of the very keys that clients' own recipes make: `NAME/<lease hex>`, oldest first.
//!
//! A lock is held by the oldest plain key below `NAME/`, whoever wrote it and however; its fence is that key's create revision. A call writes its
//! key, then waits for the one before it alone. It is answered from one state in which its key is there (so its lease lives) and is the oldest.
//!
//! Invariant: a grant is answered only by a state in which the session is alive and its key is the oldest.
//! Invariant: a call whose client goes away takes the key that it made with it.
//! Called by: `serve`.
//! Source: Burrows, "The Chubby lock service", OSDI 2006, §2.4 (sequencers); Hunt et al., "ZooKeeper", ATC 2010, §2.4 (locks without herd).

use crate::error;
use crate::gateway::{Gateway, shown};
use crate::protocol::mvccpb;
use crate::protocol::v3electionpb as election;
use crate::protocol::v3lockpb as lock;
use crate::queue::Waiting;
use crate::serve::{Answers, Api};
use crate::txn::key_value;
use bytes::Bytes;
use quorate_machine::Machine;
use quorate_runtime::{Consistency, Interest};
use quorate_types::{
    Blob, Branch, CommandBody, Commit, Compare, Guard, Key, KeyField, KeyRange, KeyValue, LeaseId, Millis,
    Mode, Op, OpResult, Order, Principal, Revision, Select, Sort,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status};

/// How long the session of a call that brings none lives beyond its last renewal, as with etcd.
const SESSION_TTL: Millis = Millis(60_000);
/// How long one wait lasts before it is looked again.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

#[tonic::async_trait]
impl lock::lock_server::Lock for Api {
    async fn lock(
        &self,
        request: Request<lock::LockRequest>,
    ) -> Result<Response<lock::LockResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        let (place, _, revision) = self.0.stand(&who, &asked.name, asked.lease, None).await?;
        let key = Bytes::copy_from_slice(&place.name);
        Ok(Response::new(lock::LockResponse { header: Some(self.0.header(revision)), key }))
    }

    async fn unlock(
        &self,
        request: Request<lock::UnlockRequest>,
    ) -> Result<Response<lock::UnlockResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let name = request.into_inner().key;
        if name.is_empty() {
            // With etcd's code: its service hands on what the store says as an error of no kind.
            return Err(Status::unknown(error::empty_key().message()));
        }
        let erase = Op::Erase { range: KeyRange::single(crate::txn::key(&name)), prev: false };
        let committed = self.0.commit(&who, Commit::of(vec![erase])).await?;
        Ok(Response::new(lock::UnlockResponse { header: Some(self.0.header(committed.revision)) }))
    }
}

#[tonic::async_trait]
impl election::election_server::Election for Api {
    async fn campaign(
        &self,
        request: Request<election::CampaignRequest>,
    ) -> Result<Response<election::CampaignResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        let (place, lease, revision) =
            self.0.stand(&who, &asked.name, asked.lease, Some(&asked.value)).await?;
        let leader = election::LeaderKey {
            name: asked.name,
            key: Bytes::copy_from_slice(&place.name),
            rev: shown(place.created),
            lease: lease.0 as i64,
        };
        Ok(Response::new(election::CampaignResponse {
            header: Some(self.0.header(revision)),
            leader: Some(leader),
        }))
    }

    async fn proclaim(
        &self,
        request: Request<election::ProclaimRequest>,
    ) -> Result<Response<election::ProclaimResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let asked = request.into_inner();
        let leader = asked.leader.ok_or_else(no_leader_key)?;
        let value = Blob::copy_from(&asked.value);
        let write = |key: Key| Op::Write {
            key,
            value: Some(value),
            lease: None,
            prev: false,
            keep: !self.0.config.may_be_flushed,
        };
        let (held, revision) = self.0.while_leading(&who, &leader, write).await?;
        if !held {
            return Err(Status::unknown("election: not leader"));
        }
        Ok(Response::new(election::ProclaimResponse { header: Some(self.0.header(revision)) }))
    }

    async fn leader(
        &self,
        request: Request<election::LeaderRequest>,
    ) -> Result<Response<election::LeaderResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let name = request.into_inner().name;
        let (found, revision) = self.0.leader(&who, &name, Consistency::Linearizable).await?;
        let found = found.ok_or_else(|| Status::unknown("election: no leader"))?;
        let kv = Some(key_value(&found));
        Ok(Response::new(election::LeaderResponse { header: Some(self.0.header(revision)), kv }))
    }

    type ObserveStream = Answers<election::LeaderResponse>;

    async fn observe(
        &self,
        request: Request<election::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let who = self.0.enter(&request).await?;
        let name = request.into_inner().name;
        let (send, receive) = mpsc::channel(1);
        let gateway = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::select! {
                () = gateway.observe(&who, &name, &send) => {}
                () = send.closed() => {}
                () = gateway.stopped() => {}
            }
        });
        Ok(Response::new(Answers::of(receive)))
    }

    async fn resign(
        &self,
        request: Request<election::ResignRequest>,
    ) -> Result<Response<election::ResignResponse>, Status> {
        let who = self.0.enter(&request).await?;
        let leader = request.into_inner().leader.ok_or_else(no_leader_key)?;
        let erase = |key: Key| Op::Erase { range: KeyRange::single(key), prev: false };
        // Whoever leads no more has nothing to give back.
        let (_, revision) = self.0.while_leading(&who, &leader, erase).await?;
        Ok(Response::new(election::ResignResponse { header: Some(self.0.header(revision)) }))
    }
}

fn no_leader_key() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

/// A key in a queue.
struct Place {
    name: Blob,
    created: Revision,
}

/// How a queue was entered.
struct Entered {
    /// The revision that made the place.
    created: Revision,
    /// Whether that was now.
    made: bool,
    /// The revision of the commit that made it, when there was no other place: then that state has granted already.
    alone: Option<Revision>,
}

/// Where a place stands.
enum Standing {
    /// It is the oldest.
    First(Revision),
    /// This one is before it, as it was made at this revision: who gives a lock back and asks again has another one of the same name.
    Behind(Key, Revision),
    /// It is not there any more.
    Gone,
}

impl Gateway {
    /// Enters the queue below a name, and waits until the place is the oldest: the place, its lease, and the revision of the state that says so.
    async fn stand(
        self: &Arc<Self>,
        who: &Principal,
        name: &Bytes,
        lease: i64,
        value: Option<&Bytes>,
    ) -> Result<(Place, LeaseId, Revision), Status> {
        let lease = match lease {
            0 => self.session(who).await?,
            lease => LeaseId(lease as u64),
        };
        let mut own = below(name).name.to_vec();
        own.extend_from_slice(format!("{:x}", lease.0).as_bytes());
        let key = Key { name: own.into(), ..below(name) };
        let range = KeyRange::prefix(below(name));
        let Entered { created, made, alone } = self.enter_queue(who, &key, &range, lease, value).await?;
        let place = Place { name: key.name.clone(), created };
        if let Some(revision) = alone {
            return Ok((place, lease, revision));
        }
        let queue = self.queues.enter(&range.start);
        let mut leave = Leave { gateway: self, who, key: &key, created, armed: made };
        // Whoever's place is there in what is applied here asks nobody: that state came after the call began, and in it the oldest holds the
        // lock, however far others are. A place that is not there is another matter: a node that has opened its folder anew may lack what it had.
        let mut consistency = Consistency::Stale;
        loop {
            let standing = self.look(consistency, |machine| standing(machine, &queue, &key, created)).await?;
            match standing {
                Standing::Gone if matches!(consistency, Consistency::Stale) => {
                    consistency = Consistency::Linearizable;
                }
                Standing::First(revision) => {
                    leave.armed = false;
                    return Ok((place, lease, revision));
                }
                Standing::Gone => {
                    leave.armed = false;
                    return Err(Status::unknown("mutex: session is expired"));
                }
                Standing::Behind(before, made) => {
                    self.until_gone((&before, made), (&key, created)).await?;
                    consistency = Consistency::Stale;
                }
            }
        }
    }

    /// Waits until either key is not there any more, or is another of that name.
    async fn until_gone(&self, before: (&Key, Revision), own: (&Key, Revision)) -> Result<(), Status> {
        let gone = |(key, created): (&Key, Revision)| {
            let key = key.clone();
            let interest = Interest::Keys(KeyRange::single(key.clone()));
            self.handle.wait_here(interest, LOOK_EVERY, move |machine| {
                machine.get(&key).is_none_or(|found| found.create_revision != created).then_some(())
            })
        };
        let waited = tokio::select! {
            waited = gone(before) => waited,
            waited = gone(own) => waited,
            () = self.stopped() => return Err(error::stopped()),
        };
        waited.map(drop).map_err(|why| error::runtime(&why))
    }

    /// Writes a place, or finds it.
    async fn enter_queue(
        &self,
        who: &Principal,
        key: &Key,
        queue: &KeyRange,
        lease: LeaseId,
        value: Option<&Bytes>,
    ) -> Result<Entered, Status> {
        let absent =
            |compare| Guard::Key { key: key.clone(), field: KeyField::CreateRevision, compare, wanted: 0 };
        let keep = !self.config.may_be_flushed;
        let bytes = Blob::copy_from(value.map_or(&[][..], |value| value));
        let write =
            |lease| Op::Write { key: key.clone(), value: Some(bytes.clone()), lease, prev: false, keep };
        let select = |select| Op::Select { select: Box::new(select) };
        let own = || select(Select::of(KeyRange::single(key.clone())));
        // Two tell whether there is another: who is the oldest of many is not for the log to find out.
        let two = Select { limit: 2, keys_only: true, ..Select::of(queue.clone()) };
        let commit = Commit {
            guards: vec![absent(Compare::Equal)],
            then: vec![write(Some(lease)), own(), select(two)],
            otherwise: Some(vec![own()]),
            mode: Mode::Foreseen,
            ..Commit::default()
        };
        let committed = self.commit(who, commit).await.map_err(|status| match status.code() {
            // As etcd's: what these services are told by the store they hand on without its code.
            Code::NotFound | Code::ResourceExhausted | Code::DataLoss => Status::unknown(status.message()),
            _ => status,
        })?;
        let made = committed.branch == Branch::Then;
        let mut shown = committed.results.iter().filter_map(|result| match result {
            OpResult::Keys { keys, .. } => Some(keys),
            _ => None,
        });
        let Some(keys) = shown.next() else {
            return Err(Status::internal("a place in a queue was not shown"));
        };
        let alone = shown.next().is_some_and(|all| all.len() == 1).then_some(committed.revision);
        let found = keys
            .first()
            .ok_or_else(|| Status::failed_precondition("the name is taken by a key of another type"))?;
        if !made && value.is_some() && found.value != bytes {
            // Who campaigns again with another value proclaims it.
            let created = found.create_revision.0;
            let still = Guard::Key {
                key: key.clone(),
                field: KeyField::CreateRevision,
                compare: Compare::Equal,
                wanted: created,
            };
            let proclaim =
                Commit { guards: vec![still], mode: Mode::Foreseen, ..Commit::of(vec![write(None)]) };
            self.commit(who, proclaim).await?;
        }
        Ok(Entered { created: found.create_revision, made, alone })
    }

    /// A session for a call that brings none: renewed as long as this gateway serves and something hangs on it.
    async fn session(self: &Arc<Self>, who: &Principal) -> Result<LeaseId, Status> {
        let grant = Op::LeaseGrant { lease: LeaseId::ZERO, ttl: SESSION_TTL };
        let committed = self.commit(who, Commit::of(vec![grant])).await?;
        let Some(OpResult::Lease { lease, .. }) = committed.results.first() else {
            return Err(Status::internal("a grant was answered without a lease"));
        };
        let (lease, gateway, who) = (*lease, Arc::clone(self), who.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(SESSION_TTL.0 / 3)) => {}
                    () = gateway.stopped() => return,
                }
                let used = gateway.look(Consistency::Stale, |machine| {
                    machine.lease(lease).map(|found| !found.keys.is_empty())
                });
                match used.await {
                    Ok(Some(true)) | Err(_) => {
                        // One that fails is tried again before the session ends.
                        let _ = gateway.command(&who, CommandBody::KeepAlive { leases: vec![lease] }).await;
                    }
                    Ok(Some(false)) => {
                        // Should it fail, the session ends by itself.
                        let _ = gateway.commit(&who, Commit::of(vec![Op::LeaseRevoke { lease }])).await;
                        return;
                    }
                    Ok(None) => return,
                }
            }
        });
        Ok(lease)
    }

    /// Does something as long as a leader's key is the one it was given; whether it was, and the revision after it.
    async fn while_leading(
        &self,
        who: &Principal,
        leader: &election::LeaderKey,
        op: impl FnOnce(Key) -> Op,
    ) -> Result<(bool, Revision), Status> {
        if leader.key.is_empty() {
            return Err(error::empty_key());
        }
        let key = crate::txn::key(&leader.key);
        let wanted = u64::try_from(leader.rev).unwrap_or(0);
        let guard =
            Guard::Key { key: key.clone(), field: KeyField::CreateRevision, compare: Compare::Equal, wanted };
        // 0 is what an absent key has: nobody leads by it.
        let there =
            Guard::Key { key: key.clone(), field: KeyField::Version, compare: Compare::NotEqual, wanted: 0 };
        let commit = Commit {
            guards: vec![guard, there],
            otherwise: Some(Vec::new()),
            mode: Mode::Foreseen,
            ..Commit::of(vec![op(key)])
        };
        let committed = self.commit(who, commit).await?;
        Ok((committed.branch == Branch::Then, committed.revision))
    }

    /// The oldest key below a name.
    async fn leader(
        &self,
        who: &Principal,
        name: &Bytes,
        consistency: Consistency,
    ) -> Result<(Option<KeyValue>, Revision), Status> {
        let select = Select { limit: 1, ..by_age(KeyRange::prefix(below(name)), Order::Ascending) };
        // Whoever waits or observes here has read the queue: the first of it costs no look at the others.
        if let Some(queue) = self.queues.known(&below(name)) {
            let op = Op::Select { select: Box::new(select) };
            let look = |machine: &Machine| {
                machine.may(who, &op).map_err(|denied| error::denied(&denied))?;
                Ok((queue.first(machine), machine.revision()))
            };
            return self.look(consistency, look).await?;
        }
        let (found, revision) = self.select(who, select, consistency).await?;
        Ok((found.keys.into_iter().next(), revision))
    }

    /// Tells of each leader, and of each value that one proclaims.
    async fn observe(
        &self,
        who: &Principal,
        name: &Bytes,
        send: &mpsc::Sender<Result<election::LeaderResponse, Status>>,
    ) {
        let mut told: Option<mvccpb::KeyValue> = None;
        // Known as long as somebody observes.
        let _queue = self.queues.enter(&below(name));
        let mut consistency = Consistency::Linearizable;
        loop {
            let (found, revision) = match self.leader(who, name, consistency).await {
                Ok(found) => found,
                Err(status) => {
                    let _ = send.send(Err(status)).await;
                    return;
                }
            };
            consistency = Consistency::Stale;
            let kv = found.as_ref().map(key_value);
            if kv.is_some() && kv != told {
                told.clone_from(&kv);
                let header = Some(self.header(revision));
                if send.send(Ok(election::LeaderResponse { header, kv })).await.is_err() {
                    return;
                }
            }
            let interest = Interest::Keys(KeyRange::prefix(below(name)));
            let changed = |machine: &Machine| {
                let range = KeyRange::prefix(below(name));
                let changed = machine.plain_changes(range.start.space, Some(&range), revision.next(), 64, 1);
                changed.map_or(true, |changes| !changes.changes.is_empty()).then_some(())
            };
            if self.handle.wait(interest, LOOK_EVERY, changed).await.is_err() {
                let _ = send.send(Err(error::stopped())).await;
                return;
            }
        }
    }
}

/// What is below a name.
fn below(name: &Bytes) -> Key {
    let mut below = name.to_vec();
    below.push(b'/');
    crate::txn::key(&below.into())
}

fn by_age(range: KeyRange, order: Order) -> Select {
    Select { sort: Sort::Create, order: Some(order), ..Select::of(range) }
}

fn standing(machine: &Machine, queue: &Waiting<'_>, own: &Key, created: Revision) -> Standing {
    if machine.get(own).is_none_or(|found| found.create_revision != created) {
        return Standing::Gone;
    }
    match queue.before(machine, created) {
        None => Standing::First(machine.revision()),
        Some((key, made)) => Standing::Behind(key, made),
    }
}

/// Takes a place out of its queue when the call that made it is dropped before it was granted.
struct Leave<'a> {
    gateway: &'a Arc<Gateway>,
    who: &'a Principal,
    key: &'a Key,
    created: Revision,
    armed: bool,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let still = Guard::Key {
            key: self.key.clone(),
            field: KeyField::CreateRevision,
            compare: Compare::Equal,
            wanted: self.created.0,
        };
        let erase = Op::Erase { range: KeyRange::single(self.key.clone()), prev: false };
        let commit = Commit { guards: vec![still], ..Commit::of(vec![erase]) };
        let (gateway, who) = (Arc::clone(self.gateway), self.who.clone());
        // Should it fail, the place ends with its lease.
        tokio::spawn(async move { gateway.commit(&who, commit).await });
    }
}
