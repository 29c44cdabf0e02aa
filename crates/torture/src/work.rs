//! The clients of a run: what they ask for, and what they write down.
//!
//! Every client sends one request at a time to a node of its choice. A request that was refused is written down as refused, one without a clear
//! answer as unclear; commits with an idempotency key are sent again, to any node, until somebody answers.
//! Registers change every few seconds, so that each has a short history and an unclear write burdens only its own.
//!
//! Called by: `run`.

use crate::history::{
    AppendEvent, Clock, Fate, History, LockEvent, OPEN, RegisterEvent, RevisionEvent, Span, State, Touch,
};
use crate::http::{Answer, Client, Outcome, segment};
use crate::random::Random;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Registers in use at a time.
const REGISTERS: u32 = 5;
/// How long they are in use.
const EPOCH_NS: u64 = 8_000_000_000;
/// Locks.
const LOCKS: u32 = 2;
/// One in so many clients takes locks.
const LOCKERS_EVERY: u32 = 3;
/// Time to live of a lock's lease: short, so that leases end during faults.
const LEASE_TTL_MS: u64 = 1500;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a commit with an idempotency key is sent again before its fate is asked for.
const RETRIES_MAX: u32 = 40;

pub(crate) const APPENDS: &str = "torture-appends";
pub(crate) const ONCE: &str = "torture-once";
pub(crate) const FENCED: &str = "torture-fenced";

/// What all clients share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) history: RefCell<History>,
    pub(crate) stop: Cell<bool>,
}

/// One client.
pub(crate) struct Worker {
    number: u32,
    shared: Rc<Shared>,
    clients: Vec<Client>,
    random: Random,
    sequence: u64,
    /// The last version seen of each register, to guess with.
    versions: std::collections::HashMap<u32, u64>,
}

impl Worker {
    pub(crate) fn new(number: u32, nodes: &[SocketAddr], shared: Rc<Shared>, random: Random) -> Self {
        let clients = nodes.iter().map(|address| Client::new(*address)).collect();
        Self { number, shared, clients, random, sequence: 0, versions: Default::default() }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self) {
        while !self.shared.stop.get() {
            // Locks wait and are held: clients of their own take them, so that the others are not slowed down.
            match self.random.below(100) {
                _ if self.number % LOCKERS_EVERY == LOCKERS_EVERY - 1 => self.lock().await,
                0..44 => self.register().await,
                44..72 => self.append().await,
                _ => self.once().await,
            }
            let pause = Duration::from_micros(self.random.below(4000));
            tokio::time::sleep(pause).await;
        }
    }

    async fn register(&mut self) {
        let epoch = (self.shared.clock.now() / EPOCH_NS) as u32;
        let register = epoch * REGISTERS + self.random.below(u64::from(REGISTERS)) as u32;
        let name = format!("register/{register}");
        self.sequence += 1;
        let value = u64::from(self.number + 1) << 40 | self.sequence;
        let known = self.versions.get(&register).copied().unwrap_or(0);
        let path = format!("/v1/keys/{name}");
        let (touch, asked) = match self.random.below(100) {
            0..40 => (Touch::Read(State::default()), self.ask("GET", &path, Vec::new()).await),
            40..50 => {
                let asked = self.ask("PUT", &path, value.to_string().into_bytes()).await;
                (Touch::Write { value, before: None }, asked)
            }
            50..65 => {
                let commit =
                    json!({"then": [{"put": {"key": name, "value": value.to_string(), "prev": true}}]});
                (Touch::Write { value, before: None }, self.commit(&commit).await)
            }
            _ => {
                let commit = json!({
                    "guards": [{"version": {"key": name, "is": known}}],
                    "then": [{"put": {"key": name, "value": value.to_string()}}],
                });
                (Touch::Swap { version: known, value }, self.commit(&commit).await)
            }
        };
        let Some((touch, revision)) = seen(touch, &asked.outcome) else { return };
        let span = if touch.1 { asked.span } else { Span { ended: OPEN, ..asked.span } };
        let touch = touch.0;
        match touch {
            Touch::Read(state) if span.ended != OPEN => self.versions.insert(register, state.version),
            Touch::NotSwapped { found, .. } => self.versions.insert(register, found),
            Touch::Swap { version, .. } if span.ended != OPEN => self.versions.insert(register, version + 1),
            _ => None,
        };
        let (client, node) = (self.number, asked.node as u32 + 1);
        let mut history = self.shared.history.borrow_mut();
        history.registers.push(RegisterEvent { register, client, node, span, touch });
        if let Some(revision) = revision {
            let wrote = !matches!(touch, Touch::Read(_));
            history.revisions.push(RevisionEvent { client, node, span, revision, wrote });
        }
    }

    async fn append(&mut self) {
        self.sequence += 1;
        let record = format!("{}-{}", self.number, self.sequence);
        let asked = self.commit(&json!({"then": [{"append": {"stream": APPENDS, "value": record}}]})).await;
        let event = self.appended(record, &asked, 0);
        self.shared.history.borrow_mut().appends.push(event);
    }

    /// A commit with an idempotency key, sent until its fate is known.
    async fn once(&mut self) {
        self.sequence += 1;
        let key = format!("once-{}-{}", self.number, self.sequence);
        let commit = json!({
            "idempotency": {"key": key, "ttl": "6h"},
            "then": [{"increment": {"key": counter(self.number)}}, {"append": {"stream": ONCE, "value": key}}],
        });
        let begun = self.shared.clock.now();
        let mut unclear = false;
        for _ in 0..RETRIES_MAX {
            let mut asked = self.commit(&commit).await;
            asked.span.begun = begun;
            if let Outcome::Done(answer) = &asked.outcome
                && unclear
                && answer.json()["replayed"] == true
            {
                self.shared.history.borrow_mut().counts.replayed += 1;
            }
            match asked.outcome {
                // Refused without having been remembered: an earlier try may still be under way.
                Outcome::Refused(_) | Outcome::NotSent(_) if unclear => {}
                Outcome::Unclear(_) => unclear = true,
                _ => {
                    let event = self.appended(key, &asked, 1);
                    self.shared.history.borrow_mut().once.push(event);
                    return;
                }
            }
            self.shared.history.borrow_mut().counts.retried += 1;
            let pause = self.random.between(10, 100);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let fate = self.resolve(&key).await;
        let span = Span { begun, ended: self.shared.clock.now() };
        let event = AppendEvent { record: key, client: self.number, span, fate };
        self.shared.history.borrow_mut().once.push(event);
    }

    /// Asks what became of a commit; it is cancelled if nothing has.
    async fn resolve(&mut self, key: &str) -> Fate<u64> {
        let path = format!("/v1/idempotency/{}/resolve", segment(key));
        for _ in 0..RETRIES_MAX {
            let asked = self.ask("POST", &path, Vec::new()).await;
            if let Outcome::Done(answer) = &asked.outcome {
                let answer = answer.json();
                return match answer["resolution"].as_str() {
                    Some("committed") => {
                        let offset = answer["answer"]["results"][1]["offset"].as_u64();
                        offset.map_or(Fate::Unclear, Fate::Acknowledged)
                    }
                    Some("cancelled") => Fate::Refused,
                    _ => Fate::Unclear,
                };
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Fate::Unclear
    }

    async fn lock(&mut self) {
        let lock = self.random.below(u64::from(LOCKS)) as u32;
        let name = format!("torture-lock-{lock}");
        let sent = self.shared.clock.now();
        let wait = self.random.below(1000);
        let body = json!({"ttl": format!("{LEASE_TTL_MS}ms"), "wait": format!("{wait}ms")});
        let path = format!("/v1/locks/{name}");
        let asked = self.ask("POST", &format!("{path}/acquire"), body.to_string().into_bytes()).await;
        let Outcome::Done(answer) = &asked.outcome else { return };
        let Some(token) = answer.json()["token"].as_u64() else { return };
        let mut event = LockEvent {
            lock,
            client: self.number,
            span: asked.span,
            token,
            promised: sent + LEASE_TTL_MS * 1_000_000,
            released: OPEN,
        };
        for _ in 0..self.random.below(4) {
            self.fenced(lock, token).await;
            let pause = self.random.below(30);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        // Some holders vanish, and leave the lock to their lease; one more write then tries the fence after the lease's end.
        if self.random.percent(15) {
            let pause = self.random.below(2 * LEASE_TTL_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.fenced(lock, token).await;
        } else {
            event.released = self.shared.clock.now();
            let body = json!({"token": token}).to_string().into_bytes();
            self.ask("POST", &format!("{path}/release"), body).await;
        }
        let mut history = self.shared.history.borrow_mut();
        history.locks.push(event);
        // The token is the revision of the grant.
        let (client, node) = (self.number, asked.node as u32 + 1);
        history.revisions.push(RevisionEvent {
            client,
            node,
            span: event.span,
            revision: token,
            wrote: true,
        });
    }

    async fn fenced(&mut self, lock: u32, token: u64) {
        self.sequence += 1;
        let record = format!("{lock}:{token}:{}-{}", self.number, self.sequence);
        let commit = json!({
            "guards": [{"fence": {"lock": format!("torture-lock-{lock}"), "token": token}}],
            "then": [{"append": {"stream": FENCED, "value": record}}],
        });
        let asked = self.commit(&commit).await;
        let event = self.appended(record, &asked, 0);
        self.shared.history.borrow_mut().fenced.push(event);
    }

    /// What an append, the `at`th operation of its commit, came to; its revision is written down too.
    fn appended(&self, record: String, asked: &Asked, at: usize) -> AppendEvent {
        let mut span = asked.span;
        let fate = match &asked.outcome {
            Outcome::Done(answer) => {
                let body = answer.json();
                if let Some(revision) = body["revision"].as_u64() {
                    let (client, node) = (self.number, asked.node as u32 + 1);
                    let event = RevisionEvent { client, node, span, revision, wrote: true };
                    self.shared.history.borrow_mut().revisions.push(event);
                }
                body["results"][at]["offset"].as_u64().map_or(Fate::Unclear, Fate::Acknowledged)
            }
            Outcome::Refused(_) | Outcome::NotSent(_) => Fate::Refused,
            Outcome::Unclear(_) => Fate::Unclear,
        };
        if fate == Fate::Unclear {
            span.ended = OPEN;
        }
        AppendEvent { record, client: self.number, span, fate }
    }

    async fn commit(&mut self, commit: &Value) -> Asked {
        self.ask("POST", "/v1/commit", commit.to_string().into_bytes()).await
    }

    async fn ask(&mut self, method: &str, path: &str, body: Vec<u8>) -> Asked {
        let node = self.random.below(self.clients.len() as u64) as usize;
        let begun = self.shared.clock.now();
        let outcome = self.clients[node].ask(method, path, &body, PATIENCE).await;
        let span = Span { begun, ended: self.shared.clock.now() };
        self.shared.history.borrow_mut().note(&outcome);
        if matches!(outcome, Outcome::NotSent(_)) {
            // Nobody there: no need to ask at full speed.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Asked { outcome, span, node }
    }
}

/// Key that counts what a client did once each.
pub(crate) fn counter(client: u32) -> String {
    format!("torture-count/{client}")
}

struct Asked {
    outcome: Outcome,
    span: Span,
    node: usize,
}

/// What an answer says about a register: what happened, whether that is certain, and the revision. Nothing when nothing happened.
fn seen(touch: Touch, outcome: &Outcome) -> Option<((Touch, bool), Option<u64>)> {
    let answer = match outcome {
        Outcome::Done(answer) => answer,
        Outcome::Refused(answer) => return refused(touch, answer).map(|touch| ((touch.0, true), touch.1)),
        Outcome::NotSent(_) => return None,
        Outcome::Unclear(_) => return Some(((touch, false), None)),
    };
    let body = answer.json();
    Some(match touch {
        Touch::Read(_) => {
            let value = std::str::from_utf8(&answer.body).ok().and_then(|text| text.parse().ok());
            // A value that is no number of ours becomes one that nobody wrote, which the check finds.
            let state =
                State { version: answer.number("quorate-version")?, value: value.unwrap_or(u64::MAX) };
            ((Touch::Read(state), true), answer.number("quorate-revision"))
        }
        Touch::Write { value, .. } => {
            let before = body["results"][0].get("found").map(|found| State {
                version: found["version"].as_u64().unwrap_or(0),
                value: found["value"].as_str().map_or(0, |text| text.parse().unwrap_or(u64::MAX)),
            });
            ((Touch::Write { value, before }, true), body["revision"].as_u64())
        }
        other => ((other, true), body["revision"].as_u64()),
    })
}

fn refused(touch: Touch, answer: &Answer) -> Option<(Touch, Option<u64>)> {
    let problem = answer.json();
    match (touch, problem["error"].as_str()) {
        (Touch::Read(_), Some("key_missing")) => {
            Some((Touch::Read(State::default()), answer.number("quorate-revision")))
        }
        (Touch::Swap { version, .. }, Some("guard_failed")) => {
            let found = problem["guards"][0]["found"].as_u64()?;
            Some((Touch::NotSwapped { version, found }, None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Touch = Touch::Read(State { version: 0, value: 0 });
    const WRITE: Touch = Touch::Write { value: 9, before: None };
    const SWAP: Touch = Touch::Swap { version: 2, value: 9 };

    #[test]
    fn a_read_is_what_the_headers_and_the_body_say() {
        let headers = [("quorate-version", "3"), ("quorate-revision", "17")];
        let state = State { version: 3, value: 42 };
        let found = seen(READ, &Outcome::of(200, &headers, "42"));
        assert_eq!(found, Some(((Touch::Read(state), true), Some(17))));
        let missing = r#"{"error":"key_missing","took_effect":"no"}"#;
        let found = seen(READ, &Outcome::of(404, &[("quorate-revision", "5")], missing));
        assert_eq!(found, Some(((READ, true), Some(5))));
        // Whatever else is there was written by nobody.
        let foreign = seen(READ, &Outcome::of(200, &headers, "nonsense")).unwrap();
        assert_eq!(foreign.0.0, Touch::Read(State { version: 3, value: u64::MAX }));
    }

    #[test]
    fn a_write_tells_what_it_overwrote_where_the_answer_does() {
        let plain = seen(WRITE, &Outcome::of(200, &[], r#"{"revision":4}"#));
        assert_eq!(plain, Some(((WRITE, true), Some(4))));
        let told = |found: &str| {
            let body = format!(r#"{{"revision":4,"results":[{{"found":{found}}}]}}"#);
            seen(WRITE, &Outcome::of(200, &[], &body)).unwrap().0.0
        };
        let before = Some(State { version: 7, value: 5 });
        assert_eq!(told(r#"{"value":"5","version":7}"#), Touch::Write { value: 9, before });
        assert_eq!(told("null"), Touch::Write { value: 9, before: Some(State::default()) });
    }

    #[test]
    fn a_failed_guard_is_a_read_of_the_version_and_other_refusals_are_nothing() {
        let failed = r#"{"error":"guard_failed","took_effect":"no","guards":[{"found":5}]}"#;
        let found = seen(SWAP, &Outcome::of(409, &[], failed));
        assert_eq!(found, Some(((Touch::NotSwapped { version: 2, found: 5 }, true), None)));
        assert_eq!(seen(SWAP, &Outcome::of(503, &[], r#"{"error":"overloaded","took_effect":"no"}"#)), None);
        assert_eq!(seen(SWAP, &Outcome::NotSent(String::new())), None);
    }

    #[test]
    fn what_nobody_answered_clearly_stays_open() {
        let unclear = Outcome::of(504, &[], r#"{"error":"timeout","took_effect":"unknown"}"#);
        assert_eq!(seen(SWAP, &unclear), Some(((SWAP, false), None)));
    }
}
