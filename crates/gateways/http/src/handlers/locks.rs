//! Locks and elections: take at once or wait in the queue, give back, look at.
//!
//! An election is a lock with a value, so both share their code.

use super::leases::{session, session_fields};
use crate::call::{Answer, Call, Gateway, unexpected};
use crate::error::{Place, Problem, Retry};
use crate::json::answer::{holder, lock_mode};
use crate::json::request;
use crate::json::units::time_text;
use crate::json::write::{Object, Values, list};
use crate::reply::{reply, with_commit};
use crate::sse::{self, Event, Source};
use quorate_machine::LockView;
use quorate_runtime::Interest;
use quorate_types::{
    Blob, CommandBody, Commit, FencingToken, Holder, Key, KeyRange, Keyspace, LeaseId, LockMode, LockName,
    Millis, Op, OpResult, Outcome, WaitRequest,
};
use std::time::Duration;

/// What a request for a lock or for leadership says.
struct Asked {
    lease: LeaseId,
    ttl: Option<Millis>,
    mode: LockMode,
    wait: Millis,
    request: u64,
    value: Blob,
}

/// Takes a lock, waiting in its queue for at most `wait`.
pub(crate) async fn acquire(call: Call) -> Answer {
    let asked = call.json(|node| {
        node.object(|fields| {
            let mode = request::lock_mode(fields)?;
            asked(fields, mode)
        })
    })?;
    let name = LockName(call.param("name"));
    take(&call, name, "lock", asked).await
}

/// Becomes leader, waiting for at most `wait`.
pub(crate) async fn campaign(call: Call) -> Answer {
    let asked = call.json(|node| node.object(|fields| asked(fields, LockMode::Exclusive)))?;
    let name = LockName(call.param("name"));
    take(&call, name, "election", asked).await
}

fn asked(fields: &mut crate::json::read::Fields<'_, '_>, mode: LockMode) -> crate::json::read::Read<Asked> {
    let (lease, ttl) = session_fields(fields)?;
    Ok(Asked {
        lease,
        ttl,
        mode,
        wait: fields.maybe("wait", |node| node.duration())?.unwrap_or_default(),
        request: fields.number_or("request", 0)?,
        value: fields.value("value", "value_base64")?.unwrap_or_default(),
    })
}

async fn take(call: &Call, lock: LockName, kind: &'static str, asked: Asked) -> Answer {
    let lease = session(call, asked.lease, asked.ttl).await?;
    match grant(call, &lock, kind, lease, &asked).await {
        Ok(token) => {
            let body =
                Object::new().bytes(kind, &lock.0, call.values).plain("token", token).plain("lease", lease);
            Ok(reply(200, body.done()))
        }
        Err(problem) => {
            if asked.ttl.is_some() && problem.took_effect == crate::error::TookEffect::No {
                // The session was made for this lock alone. Should this fail too, its time to live ends it.
                let _ = call.send(revoke(lease)).await;
            }
            Err(problem)
        }
    }
}

fn revoke(lease: LeaseId) -> CommandBody {
    CommandBody::Commit { commit: Commit::of(vec![Op::LeaseRevoke { lease }]) }
}

async fn grant(
    call: &Call,
    lock: &LockName,
    kind: &'static str,
    lease: LeaseId,
    asked: &Asked,
) -> Result<FencingToken, Problem> {
    let (request, mode, value) = (asked.request, asked.mode, asked.value.clone());
    let wait = call.bounded_wait(asked.wait);
    let body = if !wait.is_zero() {
        let timeout = Some(Millis(wait.as_millis() as u64));
        CommandBody::Wait { wait: WaitRequest { lock: lock.clone(), lease, mode, request, value, timeout } }
    } else if kind == "election" {
        let election = lock.clone();
        CommandBody::Commit { commit: Commit::of(vec![Op::Campaign { election, lease, request, value }]) }
    } else {
        let lock = lock.clone();
        CommandBody::Commit { commit: Commit::of(vec![Op::Acquire { lock, lease, mode, request, value }]) }
    };
    // Repeating the request with the same lease gives the same token, so this needs no idempotency key of its own.
    let outcome = tokio::select! {
        outcome = call.send(body) => outcome?,
        () = call.gateway.stopped(), if !wait.is_zero() => return Err(stopping()),
    };
    match outcome {
        Outcome::Granted { token } => Ok(token),
        Outcome::Committed { committed } => match committed.results.first() {
            Some(OpResult::Token { token }) => Ok(*token),
            _ => Err(unexpected(&Outcome::Committed { committed })),
        },
        Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, Place::Resource)),
        other => Err(unexpected(&other)),
    }
}

/// The server stops while somebody waits.
pub(crate) fn stopping() -> Problem {
    Problem::new(503, "stopping", "the server is stopping, and the wait ended with it: try again")
        .retry(Retry::Same)
}

/// Gives a lock back.
pub(crate) async fn release(call: Call) -> Answer {
    let token = call.json(|node| node.object(request::token))?;
    let lock = LockName(call.param("name"));
    done(&call, Op::Release { lock, token }).await
}

/// Changes what the leader proclaims.
pub(crate) async fn proclaim(call: Call) -> Answer {
    let (token, value) = call.json(|node| {
        node.object(|fields| Ok((request::token(fields)?, fields.need_value("value", "value_base64")?)))
    })?;
    let election = LockName(call.param("name"));
    done(&call, Op::Proclaim { election, token, value }).await
}

/// Gives leadership back.
pub(crate) async fn resign(call: Call) -> Answer {
    let token = call.json(|node| node.object(request::token))?;
    let election = LockName(call.param("name"));
    done(&call, Op::Resign { election, token }).await
}

async fn done(call: &Call, op: Op) -> Answer {
    let committed = call.commit(Commit::of(vec![op]), Place::Resource).await?;
    Ok(with_commit(reply(200, Object::new().plain("revision", committed.revision).done()), &committed))
}

/// Looks at a lock: who holds it, who waits.
pub(crate) async fn get(call: Call) -> Answer {
    let name = LockName(call.param("name"));
    let lock = name.clone();
    let view = call.read(move |machine| machine.lock(&lock)).await?.unwrap_or_default();
    Ok(reply(200, lock_json(&name, &view, call.values)))
}

fn lock_json(name: &LockName, view: &LockView, values: Values) -> String {
    let waiting = view.waiting.iter().map(|waiter| {
        Object::new()
            .plain("lease", waiter.lease)
            .plain("request", waiter.request)
            .json("mode", lock_mode(waiter.mode))
            .text("since", &time_text(waiter.since))
            .done()
    });
    Object::new()
        .bytes("lock", &name.0, values)
        .list("holders", view.holders.iter().map(|one| holder(one, values)))
        .list("waiting", waiting)
        .done()
}

/// Lists the locks and elections that are held or waited for.
pub(crate) async fn index(call: Call) -> Answer {
    let values = call.values;
    let most = call.gateway.config.range_keys_max as usize;
    let found = call
        .read(move |machine| {
            let one = |lock: &LockName| Object::new().bytes("lock", &lock.0, values).done();
            machine.locks().take(most).map(one).collect::<Vec<_>>()
        })
        .await?;
    Ok(reply(200, Object::new().json("locks", list(found)).done()))
}

/// Who leads.
pub(crate) async fn leader(call: Call) -> Answer {
    let election = LockName(call.param("name"));
    let name = election.clone();
    match call.read(move |machine| leader_of(machine, &name)).await? {
        Some(leader) => Ok(reply(200, leader_json(&election, Some(&leader), call.values))),
        None => {
            Err(Problem::not_found("no_leader", format!("election {election} has no leader"))
                .retry(Retry::Same))
        }
    }
}

fn leader_of(machine: &quorate_machine::Machine, election: &LockName) -> Option<Holder> {
    machine.lock(election).and_then(|view| view.holders.into_iter().next())
}

fn leader_json(election: &LockName, leader: Option<&Holder>, values: Values) -> String {
    let object = Object::new().bytes("election", &election.0, values);
    match leader {
        Some(leader) => object.json("leader", holder(leader, values)).done(),
        None => object.json("leader", "null").done(),
    }
}

/// Follows an election: an event for each change of leader or of what it proclaims.
pub(crate) async fn observe(call: Call) -> Answer {
    let source = Observe {
        election: LockName(call.param("name")),
        known: None,
        silence: call.gateway.config.sse_keepalive,
        values: call.values,
        over: false,
    };
    sse::respond(&call, source)
}

struct Observe {
    election: LockName,
    /// What was told last; nothing before the first event.
    known: Option<Option<Holder>>,
    silence: Duration,
    values: Values,
    over: bool,
}

impl Source for Observe {
    async fn next(&mut self, gateway: &Gateway) -> Option<Vec<Event>> {
        if self.over {
            return None;
        }
        let (election, known) = (self.election.clone(), self.known.clone());
        let changed = move |machine: &quorate_machine::Machine| {
            let leader = leader_of(machine, &election);
            (known.as_ref() != Some(&leader)).then_some(leader)
        };
        match sse::wait(gateway, lock_interest(&self.election), self.silence, changed).await {
            Ok(Some(leader)) => {
                let event = Event::named("leader", leader_json(&self.election, leader.as_ref(), self.values));
                let event = match &leader {
                    Some(leader) => event.id(leader.token.to_string()),
                    None => event,
                };
                self.known = Some(leader);
                Some(vec![event])
            }
            Ok(None) => Some(vec![Event::comment()]),
            Err(error) => {
                self.over = true;
                Some(vec![Event::named("error", Problem::from(error).body())])
            }
        }
    }
}

/// The keys that show a lock's holders and waiters (`NAME/<lease hex>`).
fn lock_interest(lock: &LockName) -> Interest {
    let mut prefix = lock.0.to_vec();
    prefix.push(b'/');
    Interest::Keys(KeyRange::prefix(Key { space: Keyspace::LOCKS, name: prefix.into() }))
}
