//! Leases: grant, keep alive, look at, revoke.

use crate::call::{Answer, Call, unexpected};
use crate::error::{Place, Problem};
use crate::json::request;
use crate::json::write::{Object, Values, list};
use crate::reply::{reply, with_commit};
use quorate_machine::LeaseView;
use quorate_types::{CommandBody, Commit, Key, LeaseId, Millis, Op, OpError, OpResult, Outcome};

/// Grants a lease.
pub(crate) async fn grant(call: Call) -> Answer {
    let (id, ttl) = call.json(|node| {
        node.object(|fields| {
            Ok((fields.number_or("id", 0).map(LeaseId)?, fields.need("ttl", |node| node.duration())?))
        })
    })?;
    let committed = call.commit(Commit::of(vec![Op::LeaseGrant { lease: id, ttl }]), Place::Resource).await?;
    match committed.results.first() {
        Some(OpResult::Lease { lease, ttl, left }) => {
            let body =
                Object::new().plain("lease", *lease).plain("ttl_ms", *ttl).plain("left_ms", *left).done();
            Ok(with_commit(reply(200, body), &committed))
        }
        _ => Err(unexpected(&Outcome::Committed { committed })),
    }
}

/// Grants a lease for another handler of the same request; its id and time to live.
pub(crate) async fn granted(call: &Call, ttl: Millis) -> Result<LeaseId, Problem> {
    let commit = Commit::of(vec![Op::LeaseGrant { lease: LeaseId(0), ttl }]);
    let committed = call.commit(commit, Place::Resource).await?;
    match committed.results.first() {
        Some(OpResult::Lease { lease, .. }) => Ok(*lease),
        _ => Err(unexpected(&Outcome::Committed { committed })),
    }
}

/// Which session a request names: a lease that is there, or a new one of this time to live.
pub(crate) async fn session(call: &Call, lease: LeaseId, ttl: Option<Millis>) -> Result<LeaseId, Problem> {
    match (lease.0, ttl) {
        (0, Some(ttl)) => granted(call, ttl).await,
        (0, None) => {
            Err(Problem::bad_request("the session is missing: send lease, or ttl to be granted one"))
        }
        (_, None) => Ok(lease),
        (_, Some(_)) => Err(Problem::bad_request("send lease or ttl, not both")),
    }
}

/// Reads `lease` and `ttl`, for [`session`].
pub(crate) fn session_fields(
    fields: &mut crate::json::read::Fields<'_, '_>,
) -> crate::json::read::Read<(LeaseId, Option<Millis>)> {
    Ok((request::lease(fields)?, fields.maybe("ttl", |node| node.duration())?))
}

/// Renews a lease.
pub(crate) async fn keep_alive(call: Call) -> Answer {
    let lease = LeaseId(call.param_number("id")?);
    call.json(|node| node.object(|_| Ok(())))?;
    match call.send(CommandBody::KeepAlive { leases: vec![lease] }).await? {
        Outcome::Alive { leases } => match leases.first() {
            Some((lease, Some(ttl))) => {
                Ok(reply(200, Object::new().plain("lease", *lease).plain("ttl_ms", *ttl).done()))
            }
            _ => Err(Problem::of_read(&OpError::LeaseMissing { lease })),
        },
        Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, Place::Resource)),
        other => Err(unexpected(&other)),
    }
}

/// Looks at a lease.
pub(crate) async fn get(call: Call) -> Answer {
    let lease = LeaseId(call.param_number("id")?);
    match call.read(move |machine| machine.lease(lease)).await? {
        Some(view) => Ok(reply(200, lease_json(&view, call.values))),
        None => Err(Problem::of_read(&OpError::LeaseMissing { lease })),
    }
}

fn lease_json(view: &LeaseView, values: Values) -> String {
    let key = |key: &Key| {
        let object = Object::new().bytes("key", &key.name, values);
        object.when(key.space.0 != 0, |o| o.plain("keyspace", key.space.0)).done()
    };
    // Keys of the machine's own keyspaces are shown as what they stand for: locks and instances.
    let keys = view.keys.iter().filter(|key| !key.space.is_internal()).map(key);
    let locks = view
        .locks
        .iter()
        .map(|(lock, token)| Object::new().bytes("lock", &lock.0, values).plain("token", *token).done());
    Object::new()
        .plain("lease", view.lease)
        .plain("ttl_ms", view.ttl)
        .plain("left_ms", view.left)
        .list("keys", keys)
        .list("locks", locks)
        .done()
}

/// Ends a lease and everything that hangs on it.
pub(crate) async fn revoke(call: Call) -> Answer {
    let lease = LeaseId(call.param_number("id")?);
    let committed = call.commit(Commit::of(vec![Op::LeaseRevoke { lease }]), Place::Resource).await?;
    Ok(with_commit(reply(200, Object::new().plain("revision", committed.revision).done()), &committed))
}

/// Lists leases, in order of their ids.
pub(crate) async fn index(call: Call) -> Answer {
    let most = call.gateway.config.range_keys_max;
    let limit = call.query_number("limit")?.unwrap_or(most).clamp(1, most) as usize;
    let after: u64 = call.query_number("after")?.unwrap_or(0);
    let found = call
        .read(move |machine| {
            let ids = machine.leases().filter(|lease| lease.0 > after);
            ids.take(limit).map(|lease| lease.to_string()).collect::<Vec<_>>()
        })
        .await?;
    Ok(reply(200, Object::new().json("leases", list(found)).done()))
}
