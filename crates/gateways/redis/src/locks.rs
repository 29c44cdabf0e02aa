//! `Q.LOCK`, `Q.UNLOCK`, `Q.KEEP`: fair locks whose token any commit can require; `Q.WHY`: how a key came to be as it is.
//!
//! A lock taken here hangs on a lease of its own, which lives as long as the lock was asked for, whatever becomes of the connection: so a
//! client of a pool may take it on one connection and give it back on another. `Q.KEEP` begins that time anew. While a client waits, the
//! gateway keeps the lease alive; a client that goes away leaves the queue.
//!
//! Invariant: a wait that ends without the lock leaves no lease behind.
//! Called by: `commands`.

use crate::connection::{Connection, Gone};
use crate::error;
use crate::gateway::{Gateway, Who};
use crate::transaction::number;
use quorate_runtime::{WhyVerdict, WhyWhat};
use quorate_types::{
    Blob, Command, CommandBody, Commit, FencingToken, Key, LeaseId, LockMode, LockName, Millis, Op, OpError,
    OpResult, Outcome, Refusal, Reply, Subject, WaitRequest,
};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// What ended a client's wait for a lock.
enum Ended {
    Answered(Box<Result<Outcome, quorate_runtime::RuntimeError>>),
    KeepAlive,
    Letter,
}

impl Connection {
    /// `Q.LOCK name ttl-ms [WAIT ms]`: the token, or nil when somebody else holds it.
    pub(crate) async fn lock(&mut self, words: &[Blob]) -> Result<Reply, Gone> {
        let ttl = match number(&words[2], "the time to live in milliseconds") {
            Ok(ttl) => Millis(ttl),
            Err(reply) => return Ok(reply),
        };
        let wait = match &words[3..] {
            [] => None,
            [wait, time] if wait.eq_ignore_ascii_case(b"wait") => {
                match number(time, "the time to wait in milliseconds") {
                    Ok(time) => Some(Millis(time)),
                    Err(reply) => return Ok(reply),
                }
            }
            _ => return Ok(Reply::error("ERR syntax error: Q.LOCK name ttl-ms [WAIT ms]")),
        };
        let lock = LockName(words[1].clone());
        let lease = LeaseId(self.gateway.random() | 1);
        match wait {
            None => Ok(self.try_lock(lock, lease, ttl).await),
            Some(time) => self.wait_lock(lock, lease, ttl, time).await,
        }
    }

    async fn try_lock(&mut self, lock: LockName, lease: LeaseId, ttl: Millis) -> Reply {
        let acquire = Op::Acquire {
            lock,
            lease,
            mode: LockMode::Exclusive,
            request: 0,
            value: self.state.who.name.clone(),
        };
        let commit = Commit::of(vec![Op::LeaseGrant { lease, ttl }, acquire]);
        let command = Command {
            principal: self.state.who.principal.clone(),
            client: self.state.who.name.clone(),
            trace: Blob::EMPTY,
            body: CommandBody::Commit { commit },
        };
        let sent = self.gateway.handle.command(command);
        match tokio::time::timeout(self.gateway.config.command_timeout, sent).await {
            Err(_) => Reply::error(error::INDETERMINATE),
            Ok(Err(why)) => error::runtime(&why),
            Ok(Ok(Outcome::Refused {
                refusal: Refusal::Operation { error: OpError::LockHeld { .. }, .. },
            })) => Reply::Nil,
            Ok(Ok(Outcome::Refused { refusal })) => error::refusal(&refusal),
            Ok(Ok(Outcome::Committed { committed })) => match committed.results.last() {
                Some(OpResult::Token { token }) => token_reply(*token),
                _ => Reply::Nil,
            },
            Ok(Ok(_)) => Reply::Nil,
        }
    }

    async fn wait_lock(
        &mut self,
        lock: LockName,
        lease: LeaseId,
        ttl: Millis,
        time: Millis,
    ) -> Result<Reply, Gone> {
        let gateway = Arc::clone(&self.gateway);
        let who = self.state.who.clone();
        if let Err(reply) = gateway.commit(&who, Commit::of(vec![Op::LeaseGrant { lease, ttl }])).await {
            return Ok(reply);
        }
        let mut left = Lease { gateway: &gateway, who: &who, lease, keep: false };
        let timeout = (time.0 > 0).then_some(time);
        let wait = WaitRequest {
            lock,
            lease,
            mode: LockMode::Exclusive,
            request: 0,
            value: who.name.clone(),
            timeout,
        };
        let command = Command {
            principal: who.principal.clone(),
            client: who.name.clone(),
            trace: Blob::EMPTY,
            body: CommandBody::Wait { wait },
        };
        let mut waiting = std::pin::pin!(gateway.handle.command(command));
        let third = Duration::from_millis((ttl.0 / 3).max(20));
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + third, third);
        self.send().await?;
        self.client.note(|seen| seen.blocked = true);
        let outcome = loop {
            let ended = poll_fn(|cx| {
                if let Poll::Ready(outcome) = waiting.as_mut().poll(cx) {
                    return Poll::Ready(Ok(Ended::Answered(Box::new(outcome))));
                }
                if beat.poll_tick(cx).is_ready() {
                    return Poll::Ready(Ok(Ended::KeepAlive));
                }
                self.poll_ahead(cx).map(|letter| letter.map(|()| Ended::Letter))
            })
            .await;
            match ended? {
                Ended::Answered(outcome) => break *outcome,
                // Should it fail, the wait itself tells.
                Ended::KeepAlive => drop(keep_alive(&gateway, &who, lease).await),
                Ended::Letter => {
                    let letters = self.client.take_letters();
                    if letters.killed {
                        return Err(Gone);
                    }
                    self.take_pushes(letters.pushes);
                    if letters.unblock.is_some() {
                        self.client.note(|seen| seen.blocked = false);
                        return Ok(Reply::Nil);
                    }
                    self.send().await?;
                }
            }
        };
        self.client.note(|seen| seen.blocked = false);
        match outcome {
            Ok(Outcome::Granted { token }) => {
                left.keep = true;
                // Its time begins now that it is held.
                match keep_alive(&gateway, &who, lease).await {
                    Ok(true) => Ok(token_reply(token)),
                    Ok(false) => Ok(Reply::Nil),
                    Err(reply) => Ok(reply),
                }
            }
            Ok(Outcome::Refused { refusal: Refusal::Command { error: OpError::LockHeld { .. } } }) => {
                Ok(Reply::Nil)
            }
            Ok(Outcome::Refused { refusal }) => Ok(error::refusal(&refusal)),
            Ok(_) => Ok(Reply::Nil),
            Err(why) => Ok(error::runtime(&why)),
        }
    }

    /// `Q.UNLOCK name token`: 1, or 0 when it is not held with this token any more.
    pub(crate) async fn unlock(&mut self, words: &[Blob]) -> Reply {
        self.of_holder(words, |lease| Op::LeaseRevoke { lease }).await
    }

    /// `Q.KEEP name token`: 1 when its time has begun anew, or 0.
    pub(crate) async fn keep(&mut self, words: &[Blob]) -> Reply {
        self.of_holder(words, |lease| Op::LeaseKeepAlive { lease }).await
    }

    /// Does something with the lease of a holder, if it is one still.
    async fn of_holder(&mut self, words: &[Blob], op: impl FnOnce(LeaseId) -> Op) -> Reply {
        let token = match number(&words[2], "the token") {
            Ok(token) => FencingToken(token),
            Err(reply) => return reply,
        };
        let lock = LockName(words[1].clone());
        let holder = self.gateway.handle.read(|machine| {
            let holders = machine.lock(&lock).map(|lock| lock.holders).unwrap_or_default();
            holders.into_iter().find(|holder| holder.token == token).map(|holder| holder.lease)
        });
        let lease = match holder.await {
            Err(why) => return error::runtime(&why),
            Ok(None) => return Reply::integer(0),
            Ok(Some(lease)) => lease,
        };
        match self.gateway.commit(&self.state.who, Commit::of(vec![op(lease)])).await {
            Ok(_) => Reply::integer(1),
            Err(Reply::Error { text }) if text.starts_with(b"ERR lease") => Reply::integer(0),
            Err(reply) => reply,
        }
    }

    /// `Q.WHY key [n]`: the newest steps of its history, oldest first.
    pub(crate) async fn why(&mut self, words: &[Blob]) -> Reply {
        let max = match words.get(2).map_or(Ok(10), |word| number(word, "the number of steps")) {
            Ok(max) => usize::try_from(max).unwrap_or(usize::MAX).clamp(1, 1000),
            Err(reply) => return reply,
        };
        let key = Key { space: self.state.session.space, name: words[1].clone() };
        let records = match self.gateway.handle.why(Subject::Key { key }, max).await {
            Ok(records) => records,
            Err(why) => return error::runtime(&why),
        };
        let steps = records.into_iter().map(|record| {
            let (what, command) = match record.what {
                WhyWhat::Command(body) => match *body {
                    CommandBody::Commit { commit } => ("commit".to_owned(), calls_of(&commit)),
                    other => (format!("{other:?}"), Vec::new()),
                },
                WhyWhat::Fired(task) => (format!("task {task}"), Vec::new()),
                WhyWhat::Automatic(change) => {
                    ((if change.deleted { "expired or deleted" } else { "changed" }).to_owned(), Vec::new())
                }
            };
            let verdict = match record.verdict {
                WhyVerdict::Done(revision) => format!("done at revision {revision}"),
                WhyVerdict::Replayed => "answered again under its idempotency key".to_owned(),
                WhyVerdict::Refused(Some(refusal)) => format!("refused: {refusal}"),
                WhyVerdict::Refused(None) => "refused".to_owned(),
                WhyVerdict::Unknown => "not known yet".to_owned(),
            };
            Reply::map(vec![
                Reply::bulk("index"),
                Reply::integer(record.index.0 as i64),
                Reply::bulk("wall_ms"),
                Reply::integer(record.wall.0 as i64),
                Reply::bulk("principal"),
                Reply::bulk(record.principal.0),
                Reply::bulk("client"),
                Reply::bulk(record.client),
                Reply::bulk("what"),
                Reply::bulk(what),
                Reply::bulk("calls"),
                Reply::array(command),
                Reply::bulk("verdict"),
                Reply::bulk(verdict),
            ])
        });
        Reply::array(steps.collect())
    }
}

/// The calls of a commit, each as its words.
fn calls_of(commit: &Commit) -> Vec<Reply> {
    let mut calls = Vec::new();
    commit.for_each_op(&mut |op| {
        if let Op::Call { words, .. } = op {
            calls.push(Reply::array(words.iter().cloned().map(Reply::bulk).collect()));
        }
    });
    calls
}

fn token_reply(token: FencingToken) -> Reply {
    Reply::integer(i64::try_from(token.0).unwrap_or(i64::MAX))
}

/// Renews a lease; whether it was there still.
async fn keep_alive(gateway: &Gateway, who: &Who, lease: LeaseId) -> Result<bool, Reply> {
    match gateway.command(who, CommandBody::KeepAlive { leases: vec![lease] }).await? {
        Outcome::Alive { leases } => Ok(leases.iter().any(|(_, left)| left.is_some())),
        _ => Ok(false),
    }
}

/// The lease of a wait: revoked when the wait ends without the lock.
struct Lease<'a> {
    gateway: &'a Arc<Gateway>,
    who: &'a Who,
    lease: LeaseId,
    keep: bool,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let (gateway, who, lease) = (Arc::clone(self.gateway), self.who.clone(), self.lease);
        // Should it not come through, the lease ends by itself.
        tokio::spawn(async move {
            gateway.commit(&who, Commit::of(vec![Op::LeaseRevoke { lease }])).await.is_ok()
        });
    }
}
