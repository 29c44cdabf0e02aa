//! Sessions: a lease kept alive in the background, and the locks that hang on it.
//!
//! A session cannot know that the server still counts it alive; it can only know until when the server must. That is
//! the time at which the last answered keep-alive was *sent*, plus the time to live, by the monotonic clock.
//!
//! Invariant: while [`Session::state`] says [`SessionState::Held`], the server has not ended the lease, unless somebody
//! revoked it. What must be certain is fenced: put [`Lock::fence`] into the commit.
//! Source: Gray & Cheriton, "Leases", SOSP 1989; Burrows, "Chubby", OSDI 2006, §2.8 (jeopardy).

use crate::client::Client;
use crate::error::ClientError;
use crate::transport::{Ask, encoded, new_key};
use hyper::Method;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Part of the time to live that is given away for clocks that run at different speeds: one in this many.
const DRIFT: u32 = 100;

/// What a session knows of its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The server must still count it alive.
    Held,
    /// The server did not answer for too long: it may have ended. Stop what needs the lock; it may come back.
    Uncertain,
    /// The server says that it ended: everything it held is lost.
    Lost,
}

/// A lease, kept alive in the background. Dropped without [`Session::close`], it ends with its time to live.
pub struct Session {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    client: Client,
    lease: u64,
    ttl: Duration,
    known: Mutex<Known>,
    changed: Notify,
    requests: AtomicU64,
}

struct Known {
    until: Instant,
    lost: bool,
}

impl Session {
    pub(crate) async fn open(client: Client, ttl: Duration) -> Result<Self, ClientError> {
        let body = json!({"ttl": ttl.as_millis() as u64});
        let ask = Ask::new(Method::POST, "/v1/leases").json(&body).keyed(new_key());
        // A retried grant may have been applied by its first try, so the time runs from before that.
        let sent = Instant::now();
        let reply = client.transport.call(&ask).await?;
        let lease =
            reply.json()?["lease"].as_u64().ok_or_else(|| reply.unexpected("a grant without a lease"))?;
        let shared = Arc::new(Shared {
            client,
            lease,
            ttl,
            known: Mutex::new(Known { until: certain_until(sent, ttl), lost: false }),
            changed: Notify::new(),
            requests: AtomicU64::new(1),
        });
        let keeper = tokio::spawn(keep(shared.clone()));
        Ok(Self { shared, keeper })
    }

    /// The lease's id, to hang keys and registrations on.
    #[must_use]
    pub fn lease(&self) -> u64 {
        self.shared.lease
    }

    /// What is known of the lease now.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.shared.state()
    }

    /// Until when the server must count it alive; the past, once that is uncertain.
    #[must_use]
    pub fn held_until(&self) -> Instant {
        self.shared.known().until
    }

    /// Waits until the session is no longer certainly held; tells what it is then.
    pub async fn not_held(&self) -> SessionState {
        self.shared.not_held().await
    }

    /// Takes a lock, waiting in its queue for at most `wait`.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `lock_held` when it was not granted in time, `lease_missing` when the session is lost.
    pub async fn lock(&self, name: impl AsRef<[u8]>, wait: Duration) -> Result<Lock, ClientError> {
        self.take("locks", "acquire", name.as_ref(), wait, json!({})).await
    }

    /// Becomes leader of an election, proclaiming `value`, waiting for at most `wait`.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub async fn campaign(
        &self,
        election: impl AsRef<[u8]>,
        value: &str,
        wait: Duration,
    ) -> Result<Lock, ClientError> {
        self.take("elections", "campaign", election.as_ref(), wait, json!({"value": value})).await
    }

    async fn take(
        &self,
        kind: &'static str,
        verb: &str,
        name: &[u8],
        wait: Duration,
        mut body: Value,
    ) -> Result<Lock, ClientError> {
        let path = format!("/v1/{kind}/{}", encoded(name, false));
        body["lease"] = self.shared.lease.into();
        // A try that is repeated is the same request: it keeps its place, or gets the token it was granted.
        body["request"] = self.shared.requests.fetch_add(1, Ordering::Relaxed).into();
        body["wait"] = (wait.as_millis() as u64).into();
        let ask = Ask::new(Method::POST, format!("{path}/{verb}")).json(&body).wait(wait);
        let reply = self.shared.client.transport.call(&ask).await?;
        let token =
            reply.json()?["token"].as_u64().ok_or_else(|| reply.unexpected("a grant without a token"))?;
        let give_back = format!("{path}/{}", if kind == "locks" { "release" } else { "resign" });
        Ok(Lock { shared: self.shared.clone(), name: name.to_vec(), token, give_back, open: true })
    }

    /// Ends the lease and everything that hangs on it.
    ///
    /// # Errors
    /// [`ClientError`]; the lease ends with its time to live then. One that has ended already is no error.
    pub async fn close(self) -> Result<(), ClientError> {
        self.keeper.abort();
        let path = format!("/v1/leases/{}", self.shared.lease);
        let ask = Ask::new(Method::DELETE, path).keyed(new_key());
        match self.shared.client.transport.call(&ask).await {
            Err(error) if error.code() != Some("lease_missing") => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> SessionState {
        let known = self.known();
        if known.lost {
            SessionState::Lost
        } else if Instant::now() < known.until {
            SessionState::Held
        } else {
            SessionState::Uncertain
        }
    }

    async fn not_held(&self) -> SessionState {
        loop {
            let changed = self.changed.notified();
            match self.state() {
                SessionState::Held => {}
                state => return state,
            }
            let until = self.known().until;
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

fn certain_until(sent: Instant, ttl: Duration) -> Instant {
    sent + ttl - ttl / DRIFT
}

/// Renews the lease three times in its time to live, and sooner again after a failure.
async fn keep(shared: Arc<Shared>) {
    let path = format!("/v1/leases/{}/keepalive", shared.lease);
    let ask = Ask::new(Method::POST, path).json(&json!({}));
    let mut pause = shared.ttl / 3;
    loop {
        tokio::time::sleep(pause).await;
        let sent = Instant::now();
        // Given up early: on a connection that hangs, a fresh try is worth more, and a renewal too many does no harm.
        let tried = tokio::time::timeout(shared.ttl / 3, shared.client.transport.call(&ask)).await;
        pause = match tried {
            Ok(Ok(_)) => {
                let mut known = shared.known();
                // Counted from before the first try: whichever of them was answered was sent later.
                known.until = known.until.max(certain_until(sent, shared.ttl));
                shared.ttl / 3
            }
            Ok(Err(error)) if error.code() == Some("lease_missing") => {
                shared.known().lost = true;
                shared.changed.notify_waiters();
                return;
            }
            Ok(Err(_)) | Err(_) => shared.ttl / 10,
        };
    }
}

/// A lock or leadership that was granted. Dropped, it is given back as soon as may be.
pub struct Lock {
    shared: Arc<Shared>,
    name: Vec<u8>,
    token: u64,
    give_back: String,
    open: bool,
}

impl Lock {
    /// The fencing token: larger than that of every earlier grant of this lock.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether its session is certainly held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.shared.state() == SessionState::Held
    }

    /// The guard that lets a commit pass only while this grant stands.
    #[must_use]
    pub fn fence(&self) -> Value {
        let mut content = crate::commit::named("lock", &self.name);
        content.insert("token".into(), self.token.into());
        json!({ "fence": content })
    }

    /// Waits until its session is no longer certainly held.
    pub async fn not_held(&self) -> SessionState {
        self.shared.not_held().await
    }

    /// Gives it back.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with `not_holder` when it was lost before.
    pub async fn release(mut self) -> Result<(), ClientError> {
        self.open = false;
        self.shared.client.transport.call(&self.ask()).await.map(|_| ())
    }

    fn ask(&self) -> Ask {
        Ask::new(Method::POST, self.give_back.clone()).json(&json!({"token": self.token})).keyed(new_key())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (shared, ask) = (self.shared.clone(), self.ask());
            // Should it fail, the session's end gives the lock back.
            runtime.spawn(async move { shared.client.transport.call(&ask).await });
        }
    }
}
