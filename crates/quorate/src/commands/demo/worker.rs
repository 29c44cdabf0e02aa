//! What a worker does with a delivery: read, decide, commit; and ask again until it knows.
//!
//! Invariant: a purchase is done only when the server said so. Whatever happened to an answer, the same id is asked with again.

use super::purchases::{Delivery, Purchase};
use crate::client::{Attempt, Client, Connect, Request};
use crate::failure::{Exit, Failure};
use crate::names::segment;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A worker gives up on a purchase after this long: the server should have been back by then.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What the workers counted, for the report only.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Purchases that took effect.
    pub(super) committed: AtomicU64,
    /// Commits sent.
    pub(super) sent: AtomicU64,
    /// The same commit again, answered from memory.
    pub(super) replayed: AtomicU64,
    /// The same purchase with another commit, refused because it is in.
    pub(super) recognised: AtomicU64,
    /// The customer had changed meanwhile.
    pub(super) conflicts: AtomicU64,
    /// The rate limit said to come back later.
    pub(super) limited: AtomicU64,
    /// Answers that never came.
    pub(super) lost: AtomicU64,
}

/// The queue that the workers share.
pub(super) struct Work<'a> {
    purchases: &'a [Purchase],
    deliveries: &'a [Delivery],
    next: AtomicUsize,
    done: AtomicUsize,
    /// Where the server is now; it moves when it is started again.
    url: &'a RwLock<String>,
    counts: &'a Counts,
    stopping: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        purchases: &'a [Purchase],
        deliveries: &'a [Delivery],
        url: &'a RwLock<String>,
        counts: &'a Counts,
    ) -> Self {
        Self {
            purchases,
            deliveries,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            url,
            counts,
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Takes deliveries until there are none.
    pub(super) fn run(&self) {
        let mut link = Link { work: self, url: String::new(), client: None };
        while !self.stopping.load(Ordering::Relaxed) {
            let Some(delivery) = self.deliveries.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            if let Err(failure) = link.deliver(*delivery, &self.purchases[delivery.purchase as usize]) {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                return;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed) == self.deliveries.len()
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// One connection of a worker.
struct Link<'a> {
    work: &'a Work<'a>,
    url: String,
    client: Option<Client>,
}

/// What one attempt at a purchase came to.
enum Step {
    Done,
    /// The customer has changed: read again, decide again.
    DecideAgain,
    /// The same commit again, after a pause.
    SendAgain(Duration),
}

impl Link<'_> {
    fn deliver(&mut self, delivery: Delivery, purchase: &Purchase) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut loses_answer = delivery.loses_answer;
        loop {
            let request = self.decide(purchase, deadline)?;
            loop {
                match self.send(purchase, &request, std::mem::take(&mut loses_answer))? {
                    Step::Done => return Ok(()),
                    Step::DecideAgain => break,
                    Step::SendAgain(pause) => self.pause(pause, deadline)?,
                }
            }
        }
    }

    /// Reads the customer, and makes the commit that adds the purchase.
    fn decide(&mut self, purchase: &Purchase, deadline: Instant) -> Result<Request, Failure> {
        let key = purchase.customer_key();
        let read = Request::get(format!("/v1/keys/{}", segment(&key)));
        let (version, cents, count) = loop {
            match self.client()?.attempt(&read, ANSWER) {
                Attempt::Answered(answer) => {
                    let found = answer.json()?;
                    let number = |value: Option<u64>| {
                        value.ok_or_else(|| Failure::strange(format!("the customer {key} is {found}")))
                    };
                    let version = answer.header("quorate-version").and_then(|text| text.parse().ok());
                    break (
                        number(version)?,
                        number(found["cents"].as_u64())?,
                        number(found["purchases"].as_u64())?,
                    );
                }
                Attempt::Refused(problem) if problem.code == "key_missing" => break (0, 0, 0),
                Attempt::Refused(problem) if problem.status == 503 => {
                    self.pause(Duration::from_millis(20), deadline)?
                }
                Attempt::Refused(problem) => return Err(problem.into()),
                Attempt::NotSent(_) | Attempt::Lost(_) => self.away(deadline)?,
            }
        };
        let id = format!("purchase-{}", purchase.line);
        let (total, count) = (cents + purchase.cents, count + 1);
        let body = json!({
            "idempotency": {"key": id, "ttl": "24h"},
            "guards": [
                {"version": {"key": key, "is": version}},
                {"limit": {"name": "shop", "rate": "20000/s"}},
            ],
            "then": [
                {"put": {"key": key, "value": {"cents": total, "purchases": count}}},
                {"append": {"stream": "purchases", "key": key, "value": {
                    "purchase": purchase.line, "customer": purchase.customer, "date": purchase.date, "cents": purchase.cents,
                }}},
            ],
        });
        Ok(Request::json("POST", "/v1/commit", &body))
    }

    /// Sends the commit once.
    fn send(&mut self, purchase: &Purchase, request: &Request, lose_answer: bool) -> Result<Step, Failure> {
        let counts = self.work.counts;
        counts.sent.fetch_add(1, Ordering::Relaxed);
        if lose_answer {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            // Whether it arrived is not known, as with a time-out.
            let _ = self.client()?.send_and_leave(request);
            return Ok(Step::SendAgain(Duration::ZERO));
        }
        match self.client()?.attempt(request, ANSWER) {
            Attempt::Answered(answer) if answer.header("idempotent-replayed") == Some("true") => {
                counts.replayed.fetch_add(1, Ordering::Relaxed);
                Ok(Step::Done)
            }
            Attempt::Answered(_) => {
                counts.committed.fetch_add(1, Ordering::Relaxed);
                Ok(Step::Done)
            }
            Attempt::Refused(problem) => match problem.code.as_str() {
                "guard_failed" => {
                    counts.conflicts.fetch_add(1, Ordering::Relaxed);
                    Ok(Step::DecideAgain)
                }
                "idempotency_other_request" => self.recognised(purchase),
                "limited" => {
                    counts.limited.fetch_add(1, Ordering::Relaxed);
                    Ok(Step::SendAgain(problem.retry_after.unwrap_or(Duration::from_millis(10))))
                }
                _ if problem.status >= 500 => Ok(Step::SendAgain(Duration::from_millis(20))),
                _ => Err(problem.into()),
            },
            Attempt::NotSent(_) => {
                self.client = None;
                Ok(Step::SendAgain(Duration::from_millis(20)))
            }
            Attempt::Lost(_) => {
                counts.lost.fetch_add(1, Ordering::Relaxed);
                self.client = None;
                Ok(Step::SendAgain(Duration::from_millis(20)))
            }
        }
    }

    /// The id is known with another commit: somebody delivered this purchase before. Ask, rather than believe.
    fn recognised(&mut self, purchase: &Purchase) -> Result<Step, Failure> {
        let path = format!("/v1/idempotency/purchase-{}/resolve", purchase.line);
        match self.client()?.attempt(&Request::json("POST", path, &json!({})), ANSWER) {
            Attempt::Answered(answer) => {
                let answer: Value = answer.json()?;
                if answer["resolution"] == "committed" {
                    self.work.counts.recognised.fetch_add(1, Ordering::Relaxed);
                    return Ok(Step::Done);
                }
                Err(Failure::strange(format!("purchase {} is {answer}", purchase.line)))
            }
            Attempt::Refused(problem) if problem.status < 500 => Err(problem.into()),
            Attempt::Refused(_) | Attempt::NotSent(_) | Attempt::Lost(_) => {
                self.client = None;
                Ok(Step::SendAgain(Duration::from_millis(20)))
            }
        }
    }

    /// The connection to the server where it is now.
    fn client(&mut self) -> Result<&mut Client, Failure> {
        let now = self.work.url.read().unwrap_or_else(PoisonError::into_inner);
        if *now != self.url {
            self.url.clone_from(&now);
            self.client = None;
        }
        drop(now);
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let server = self.url.clone();
                Connect { server, token: None, ca: None, timeout: ANSWER }.client()?
            }
        };
        Ok(self.client.insert(client))
    }

    /// The server is away: it may come back elsewhere.
    fn away(&mut self, deadline: Instant) -> Result<(), Failure> {
        self.client = None;
        self.pause(Duration::from_millis(20), deadline)
    }

    fn pause(&self, pause: Duration, deadline: Instant) -> Result<(), Failure> {
        if Instant::now() > deadline || self.work.stopping.load(Ordering::Relaxed) {
            let what =
                format!("the server at {} did not take a purchase for {} s", self.url, PATIENCE.as_secs());
            return Err(Failure::new(Exit::Unreachable, what, ""));
        }
        std::thread::sleep(pause);
        Ok(())
    }
}
