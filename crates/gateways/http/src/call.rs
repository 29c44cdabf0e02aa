//! One request on its way through: who asks, what for, and the way to the runtime and back.
//!
//! Invariant: a handler sees a request only after its principal, headers, query and body passed.
//! Called by: `dispatch` makes a [`Call`], handlers use it.

use crate::access::{Entered, Need, On, Permit};
use crate::cluster::Leader;
use crate::config::Config;
use crate::error::{Place, Problem, Retry, TookEffect};
use crate::handlers::keys::query_range;
use crate::json::answer::{Payloads, payloads_of};
use crate::json::read::{Node, Read, parse};
use crate::json::request::IDEMPOTENCY_TTL;
use crate::json::units;
use crate::json::write::Values;
use crate::metrics::Metrics;
use crate::reply::Body;
use crate::routes::{Route, Routes};
use bytes::Bytes;
use hyper::{HeaderMap, Response};
use quorate_machine::Machine;
use quorate_runtime::{Consistency, Handle, RuntimeError};
use quorate_types::{
    Blob, Command, CommandBody, Commit, Committed, Idempotency, IdempotencyKey, Key, Keyspace, LeaseId,
    Millis, OpResult, Outcome, PayloadRef, Principal,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What every request shares.
pub(crate) struct Gateway {
    pub(crate) handle: Handle,
    pub(crate) routes: Routes,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// Where the leader is, for every answer's `Quorate-Leader`.
    pub(crate) leader: Leader,
    /// Becomes true when the server stops: waits and event streams end then.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Gateway {
    /// Resolves when the server stops.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the server's own handle is gone, which is a stop too.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// What a handler gives back.
pub(crate) type Answer = Result<Response<Body>, Problem>;

/// What a request says beside its body.
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) params: Vec<(&'static str, Blob)>,
    pub(crate) query: Vec<(String, Blob)>,
    pub(crate) values: Values,
}

/// One request.
pub(crate) struct Call {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) principal: Principal,
    pub(crate) headers: HeaderMap,
    pub(crate) params: Vec<(&'static str, Blob)>,
    pub(crate) query: Vec<(String, Blob)>,
    pub(crate) body: Bytes,
    pub(crate) values: Values,
    /// The log index that a read of the state saw; 0 until then.
    pub(crate) applied: Arc<AtomicU64>,
    /// What its route needs, with the names that it brought.
    pub(crate) permit: Permit,
    route: &'static Route,
}

impl Call {
    /// A request whose body is yet to come.
    ///
    /// # Errors
    /// What the route needs is not said as it has to be.
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        route: &'static Route,
        entered: Entered,
        asked: Asked,
    ) -> Result<Self, Problem> {
        let Asked { headers, params, query, values } = asked;
        let mut call = Self {
            gateway,
            principal: entered.principal.clone(),
            headers,
            params,
            query,
            body: Bytes::new(),
            values,
            applied: Arc::default(),
            permit: Permit::new(entered.clone(), None, On::Nothing),
            route,
        };
        let (command, on) = call.need()?;
        // A probe asks for nobody's rights.
        let entered = if route.need == Need::Nothing { Entered::server() } else { entered };
        call.permit = Permit::new(entered, command, on);
        Ok(call)
    }

    /// What its route needs, with the names that it brought.
    fn need(&self) -> Result<(Option<&'static str>, On), Problem> {
        Ok(match self.route.need {
            Need::Nothing | Need::Entry => (None, On::Nothing),
            Need::Run(command) => (Some(command), On::Nothing),
            Need::Name(command, verbs, param) => {
                (Some(command), On::Name(verbs, Keyspace::DEFAULT, self.param(param)))
            }
            Need::Key(command, verbs, param) => {
                let key = self.key(param)?;
                (Some(command), On::Name(verbs, key.space, key.name))
            }
            Need::Range(command, verbs) => (Some(command), On::Range(verbs, query_range(self)?)),
            Need::All(command, verbs) => (Some(command), On::All(verbs)),
            Need::Lease(command, verbs) => {
                (Some(command), On::Lease(verbs, LeaseId(self.param_number("id")?)))
            }
        })
    }

    /// A name of the path, percent-decoded.
    pub(crate) fn param(&self, name: &'static str) -> Blob {
        let found = self.params.iter().find(|(found, _)| *found == name);
        found.expect("the route's path names its parameters").1.clone()
    }

    /// A number of the path.
    pub(crate) fn param_number(&self, name: &'static str) -> Result<u64, Problem> {
        let text = self.param(name);
        text.as_text().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Problem::bad_request(format!("{name} in the path is \"{text}\", wanted a whole number"))
        })
    }

    /// A query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&Blob> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// A query parameter as text.
    pub(crate) fn query_text(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.query(name) {
            None => Ok(None),
            Some(value) => value
                .as_text()
                .map(Some)
                .ok_or_else(|| Problem::bad_request(format!("query parameter {name} is not UTF-8"))),
        }
    }

    /// A query parameter read from its text.
    pub(crate) fn query_as<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        self.query_text(name)?
            .map(|text| {
                read(text).map_err(|why| Problem::bad_request(format!("query parameter {name}: {why}")))
            })
            .transpose()
    }

    /// A query parameter that is a whole number.
    pub(crate) fn query_number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.query_as(name, |text| {
            text.parse().map_err(|_| format!("\"{text}\" is no whole number in range"))
        })
    }

    /// A query parameter that is `true`, `false`, or there without a value.
    pub(crate) fn query_flag(&self, name: &str) -> Result<bool, Problem> {
        let read = |text: &str| match text {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(format!("\"{other}\" is neither true nor false")),
        };
        Ok(self.query_as(name, read)?.unwrap_or(false))
    }

    /// How long the client is ready to wait (`?wait=20s`), cut to the server's bound.
    pub(crate) fn query_wait(&self) -> Result<Duration, Problem> {
        let wait = self.query_as("wait", units::duration)?.unwrap_or_default();
        Ok(self.bounded_wait(wait))
    }

    /// A wait, cut to the server's bound.
    pub(crate) fn bounded_wait(&self, wait: Millis) -> Duration {
        Duration::from_millis(wait.0).min(self.gateway.config.wait_max)
    }

    /// The keyspace of the request (`?keyspace=2`).
    pub(crate) fn keyspace(&self) -> Result<Keyspace, Problem> {
        Ok(Keyspace(self.query_number("keyspace")?.unwrap_or(0)))
    }

    /// The key or stream that a path parameter names.
    pub(crate) fn key(&self, param: &'static str) -> Result<Key, Problem> {
        Ok(Key { space: self.keyspace()?, name: self.param(param) })
    }

    /// Reads the body as JSON; an empty one counts as `{}`.
    pub(crate) fn json<T>(&self, read: impl FnOnce(Node<'_, '_>) -> Read<T>) -> Result<T, Problem> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        Ok(parse(body, read)?)
    }

    /// The text of a header; one that is not visible ASCII is refused.
    pub(crate) fn header(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.headers.get(name) {
            None => Ok(None),
            Some(value) => value
                .to_str()
                .map(Some)
                .map_err(|_| Problem::bad_request(format!("header {name} is not visible ASCII"))),
        }
    }

    /// What `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header: a quoted string; bare is taken too) asks for.
    pub(crate) fn idempotency(&self) -> Result<Option<Idempotency>, Problem> {
        let Some(text) = self.header("idempotency-key")? else {
            return match self.header("idempotency-ttl")? {
                None => Ok(None),
                Some(_) => Err(Problem::bad_request("Idempotency-TTL without an Idempotency-Key")),
            };
        };
        let key = unquoted(text).ok_or_else(|| {
            Problem::bad_request(format!("Idempotency-Key is {text}: write it bare or as one quoted string"))
        })?;
        let ttl = match self.header("idempotency-ttl")? {
            None => IDEMPOTENCY_TTL,
            Some(text) => units::duration(text)
                .map_err(|why| Problem::bad_request(format!("Idempotency-TTL: {why}")))?,
        };
        Ok(Some(Idempotency { key: IdempotencyKey(key.into()), ttl, fingerprint: Default::default() }))
    }

    /// A command with who sends it, its client name and its trace.
    pub(crate) fn command(&self, body: CommandBody) -> Result<Command, Problem> {
        let client = match self.header("quorate-client")? {
            Some(client) => client,
            None => self.headers.get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default(),
        };
        let trace = match self.header("traceparent")? {
            Some(trace) if is_traceparent(trace) => trace,
            Some(trace) => {
                return Err(Problem::bad_request(format!(
                    "traceparent is \"{trace}\", wanted 00-<32 hex>-<16 hex>-<2 hex> (W3C Trace Context §3.2)"
                )));
            }
            None => "",
        };
        let client = client.get(..256).unwrap_or(client);
        Ok(Command { principal: self.principal.clone(), client: client.into(), trace: trace.into(), body })
    }

    /// How fresh the state has to be that the request reads (`?consistency=bounded&max_staleness=500ms`).
    fn consistency(&self) -> Result<Consistency, Problem> {
        let staleness = self.query_as("max_staleness", units::duration)?;
        let wrong = |why: &str| Err(Problem::bad_request(format!("query parameter {why}")));
        match (self.query_text("consistency")?, staleness) {
            (None | Some("linearizable"), None) => Ok(Consistency::Linearizable),
            (Some("stale"), None) => Ok(Consistency::Stale),
            (Some("bounded"), Some(staleness)) => {
                Ok(Consistency::Bounded(Duration::from_millis(staleness.0)))
            }
            (Some("bounded"), None) => {
                wrong("max_staleness is missing: consistency=bounded needs it, such as max_staleness=500ms")
            }
            (None | Some("linearizable" | "stale"), Some(_)) => {
                wrong("max_staleness: only consistency=bounded takes it")
            }
            (Some(other), _) => wrong(&format!(
                "consistency: \"{other}\" is not known; known: linearizable (the default), bounded, stale"
            )),
        }
    }

    /// Whether the request asks for less than a linearizable read.
    pub(crate) fn relaxed(&self) -> Result<bool, Problem> {
        Ok(self.consistency()? != Consistency::Linearizable)
    }

    /// Reads the state, as fresh as the request asks for; the answer tells up to which log index that was. A request that only reads has
    /// its rights looked at in the very state that it reads.
    pub(crate) async fn read<R>(&self, read: impl FnOnce(&Machine) -> R) -> Result<R, Problem> {
        let consistency = self.consistency()?;
        let applied = &self.applied;
        let permit = (self.route.method == "GET").then_some(&self.permit);
        let seen = self.gateway.handle.read_with(consistency, |machine| {
            permit.map_or(Ok(()), |permit| permit.check(machine))?;
            applied.store(machine.applied().0, Ordering::Relaxed);
            Ok(read(machine))
        });
        let most = self.gateway.config.command_timeout;
        match tokio::time::timeout(most, seen).await {
            Ok(seen) => seen?,
            Err(_) => {
                let why = format!("no read was confirmed within {} ms", most.as_millis());
                Err(Problem::new(504, "timeout", why).retry(Retry::Same))
            }
        }
    }

    /// Sends a command and waits for what becomes of it. One whose fate stays open for too long is said to be indeterminate: its
    /// leader may be cut off, or the quorum slow, and the client has better means than waiting.
    pub(crate) async fn send(&self, body: CommandBody) -> Result<Outcome, Problem> {
        let asked = match &body {
            CommandBody::Wait { wait } => wait.timeout.unwrap_or_default(),
            _ => Millis::default(),
        };
        let most = self.gateway.config.command_timeout + Duration::from_millis(asked.0);
        match tokio::time::timeout(most, self.gateway.handle.command(self.command(body)?)).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => {
                let mut problem = Problem::from(RuntimeError::Indeterminate);
                problem.detail = format!(
                    "no outcome within {} ms: it may or may not have happened; send it again under the same Idempotency-Key, or resolve that key",
                    most.as_millis()
                );
                Err(problem)
            }
        }
    }

    /// Commits, under the request's idempotency key if it has one.
    pub(crate) async fn commit(&self, mut commit: Commit, place: Place) -> Result<Committed, Problem> {
        let header = self.idempotency()?;
        match (&commit.idempotency, header) {
            (Some(body), Some(header)) if body.key != header.key => {
                return Err(Problem::bad_request(format!(
                    "Idempotency-Key is {}, the body says {}: send one of them",
                    header.key, body.key
                )));
            }
            (None, Some(header)) => commit.idempotency = Some(header),
            (Some(_), _) | (None, None) => {}
        }
        match self.send(CommandBody::Commit { commit }).await? {
            Outcome::Committed { committed } => Ok(committed),
            Outcome::Refused { refusal } => Err(Problem::of_refusal(&refusal, place)),
            other => Err(unexpected(&other)),
        }
    }

    /// Fetches the payloads that results refer to. What cannot be read is said in its place: the commit stands.
    pub(crate) async fn payloads(&self, results: &[OpResult]) -> Payloads {
        self.fetch(payloads_of(results)).await
    }

    /// Fetches payloads.
    pub(crate) async fn fetch(&self, wanted: Vec<PayloadRef>) -> Payloads {
        fetch(&self.gateway.handle, wanted).await
    }
}

/// Fetches payloads as records; one that cannot be read is kept as its error.
pub(crate) async fn fetch(handle: &Handle, wanted: Vec<PayloadRef>) -> Payloads {
    if wanted.is_empty() {
        return Payloads::new();
    }
    match handle.records(wanted.clone()).await {
        Ok(found) => {
            let found = found.into_iter().map(|found| found.map_err(|why| why.to_string()));
            wanted.into_iter().zip(found).collect()
        }
        Err(why) => wanted.into_iter().map(|at| (at, Err(why.to_string()))).collect(),
    }
}

/// An outcome of a kind that the command cannot have: a defect of ours, said as such.
pub(crate) fn unexpected(outcome: &Outcome) -> Problem {
    let mut problem =
        Problem::new(500, "internal", format!("the server answered in an unexpected way: {outcome:?}"));
    problem.took_effect = TookEffect::Unknown;
    problem.retry(Retry::Ask)
}

/// The content of a Structured Field string, or the text itself when it is bare; nothing when it is neither.
fn unquoted(text: &str) -> Option<String> {
    let text = text.trim();
    let Some(inner) = text.strip_prefix('"') else {
        return (!text.is_empty() && !text.contains('"')).then(|| text.into());
    };
    let inner = inner.strip_suffix('"')?;
    let (mut out, mut escaped) = (String::new(), false);
    for c in inner.chars() {
        match (escaped, c) {
            (false, '\\') => escaped = true,
            (false, '"') => return None,
            (true, c) if c != '"' && c != '\\' => return None,
            (_, c) => {
                out.push(c);
                escaped = false;
            }
        }
    }
    (!escaped && !out.is_empty()).then_some(out)
}

/// Whether a text is a `traceparent` of version 00, or of a later one with the same beginning (W3C Trace Context §3.2).
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    let [version, trace, parent, flags, rest @ ..] = parts.as_slice() else { return false };
    hex(version, 2)
        && *version != "ff"
        && (rest.is_empty() || *version != "00")
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2)
        && text.len() <= 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_quoted_or_bare() {
        for (text, wanted) in [
            ("\"8e03\"", Some("8e03")),
            ("8e03", Some("8e03")),
            (" a b ", Some("a b")),
            (r#""a\"b\\c""#, Some(r#"a"b\c"#)),
            ("", None),
            ("\"\"", None),
            ("\"a", None),
            ("a\"", None),
            (r#""a\b""#, None),
            (r#""a"b""#, None),
            (r#""a\""#, None),
        ] {
            assert_eq!(unquoted(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn a_traceparent_follows_the_recommendation() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        assert!(is_traceparent(&good.replacen("00", "cc", 1)));
        assert!(is_traceparent(&(good.replacen("00", "cc", 1) + "-what-comes-later")));
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &(good.to_string() + "-x"),
            &good[..54],
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
