//! Requests to a server: options to reach it, retries, and what its refusals mean for an exit code.
//!
//! Every change travels under an idempotency key, so that sending it again after a lost answer has one effect.
//!
//! Invariant: only what cannot happen twice is sent again: reads, requests with a key, and requests that never left.
//! Called by: every command that talks to a server.

use crate::failure::{Exit, Failure};
use crate::names::{duration, fresh_key};
use crate::net::{Broken, Connection, Endpoint, Head, left_until};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the server hears of who asks, for `why`.
const NAME: &str = concat!("quorate-cli/", env!("CARGO_PKG_VERSION"));

/// How to reach a server.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct Connect {
    /// Server to talk to.
    #[arg(long, value_name = "URL", env = "QUORATE_SERVER", default_value = "http://127.0.0.1:8400")]
    pub(crate) server: String,
    /// Token to present; better given by the environment, where other users do not see it.
    #[arg(long, value_name = "TOKEN", env = "QUORATE_TOKEN_AUTH", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// PEM file of certificate authorities to trust for https, instead of the system's.
    #[arg(long, value_name = "FILE", env = "QUORATE_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// How long to try before giving up, retries included.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

impl Connect {
    /// A client of that server. Nothing is sent yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let endpoint = Endpoint::parse(&self.server, self.ca.as_deref())
            .map_err(|why| Failure::new(Exit::Usage, why, ""))?;
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        Ok(Client { endpoint, server: self.server.clone(), authorization, timeout: self.timeout, open: None })
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Whether sending it twice is the same as sending it once.
    repeatable: bool,
    /// How much longer than usual the server may take, as it was asked to wait.
    wait: Duration,
}

impl Request {
    /// A read.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            headers: vec![],
            body: vec![],
            repeatable: true,
            wait: Duration::ZERO,
        }
    }

    /// A request of this method, which is not sent twice unless [`Request::once`] makes that safe.
    pub(crate) fn new(method: &'static str, path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: vec![],
            body: body.into(),
            repeatable: false,
            wait: Duration::ZERO,
        }
    }

    /// A request with a JSON body.
    pub(crate) fn json(method: &'static str, path: impl Into<String>, body: &Value) -> Self {
        Self::new(method, path, body.to_string()).header("content-type", "application/json")
    }

    /// The same, with a header.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same, under a fresh idempotency key: it may be sent again, and has one effect.
    pub(crate) fn once(self) -> Result<Self, Failure> {
        let key = fresh_key()?;
        Ok(self.once_as(&key))
    }

    /// The same, under this idempotency key.
    pub(crate) fn once_as(self, key: &str) -> Self {
        self.header("idempotency-key", format!("\"{key}\"")).repeatable()
    }

    /// The same, which by its nature may be sent twice.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// The same, which the server answers only after up to `wait`.
    pub(crate) fn waiting(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

/// An answer of success.
#[derive(Debug)]
pub(crate) struct Answer {
    head: Head,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(Failure::strange)
    }

    /// A header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
}

/// What became of one attempt.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// 2xx.
    Answered(Answer),
    /// The server refused, and says why.
    Refused(Problem),
    /// No connection: nothing was sent.
    NotSent(std::io::Error),
    /// The answer never came: it may have happened.
    Lost(std::io::Error),
}

/// A refusal (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    /// The server's name for it.
    pub(crate) code: String,
    detail: String,
    took_effect_unknown: bool,
    retry: String,
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    fn read(status: u16, body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let detail = match json["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => format!("status {status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
        };
        Self {
            status,
            code: text("error"),
            detail,
            took_effect_unknown: json["took_effect"] == "unknown",
            retry: text("retry"),
            retry_after: json["retry_after_ms"].as_u64().map(Duration::from_millis),
        }
    }

    /// Whether somebody else holds the lock that was asked for.
    pub(crate) fn says_held(&self) -> bool {
        self.code == "lock_held"
    }

    /// Whether the same request may pass a little later because the server, not the data, was in the way.
    fn passes_later(&self) -> bool {
        self.status == 503 && (self.retry == "same" || self.retry == "after")
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.status {
            _ if problem.took_effect_unknown => Exit::Unknown,
            404 => Exit::Missing,
            409 | 410 | 412 | 416 | 422 | 429 | 507 => Exit::Refused,
            503 => Exit::Unreachable,
            _ => Exit::Failed,
        };
        let next = match (problem.status, problem.retry.as_str(), problem.retry_after) {
            (401, _, _) => "give a token with --token or QUORATE_TOKEN_AUTH".into(),
            (_, "after", Some(after)) => format!("the same request may pass in {} ms", after.as_millis()),
            (_, "same", _) => "the same request may pass later".into(),
            (_, "ask", _) => "look at the data, or send it again under the same idempotency key".into(),
            _ => String::new(),
        };
        Failure::new(exit, problem.detail, next)
    }
}

/// A server, and the connection to it that is kept open.
pub(crate) struct Client {
    endpoint: Endpoint,
    server: String,
    authorization: Option<String>,
    timeout: Duration,
    open: Option<Connection>,
}

impl Client {
    /// Sends a request until it is answered, refused, or the time is over.
    pub(crate) fn call(&mut self, request: &Request) -> Result<Answer, Failure> {
        self.ask(request).map_err(|refused| refused.map_or_else(|failure| failure, Failure::from))
    }

    /// As [`Client::call`]; a refusal by the server comes as the problem that it told.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Answer, Result<Problem, Failure>> {
        let deadline = Instant::now() + self.timeout + request.wait;
        let (mut maybe_done, mut pause) = (false, Duration::from_millis(50));
        loop {
            let attempt = self.attempt(request, left_until(deadline));
            let time_is_over = Instant::now() + pause >= deadline;
            let failure = match attempt {
                Attempt::Answered(answer) => return Ok(answer),
                Attempt::Refused(problem) if problem.passes_later() && request.repeatable => {
                    pause = pause.max(problem.retry_after.unwrap_or_default());
                    Failure::from(problem)
                }
                Attempt::Refused(problem) => return Err(Ok(problem)),
                Attempt::NotSent(error) => {
                    let failure = self.unreachable(&error);
                    if !maybe_done {
                        return Err(Err(failure));
                    }
                    // It was sent once: only an answer can tell what became of it.
                    if request.method == "GET" { failure } else { self.lost(&error) }
                }
                Attempt::Lost(error) => {
                    maybe_done = true;
                    if request.method == "GET" { self.unreachable(&error) } else { self.lost(&error) }
                }
            };
            if !request.repeatable || time_is_over {
                return Err(Err(failure));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Sends a request once.
    pub(crate) fn attempt(&mut self, request: &Request, patience: Duration) -> Attempt {
        let mut connection = match self.connection(patience) {
            Ok(connection) => connection,
            Err(error) => return Attempt::NotSent(error),
        };
        let headers = self.headers(request);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let sent = connection.send(request.method, &request.path, &headers, &request.body);
        let mut head = match sent {
            Ok(head) => head,
            Err(Broken { sent: false, error }) => return Attempt::NotSent(error),
            Err(Broken { sent: true, error }) => return Attempt::Lost(error),
        };
        let body = match connection.body(&mut head) {
            Ok(body) => body,
            Err(error) => return Attempt::Lost(error),
        };
        if head.reusable {
            self.open = Some(connection);
        }
        match head.status {
            200..300 => Attempt::Answered(Answer { head, body }),
            status => Attempt::Refused(Problem::read(status, &body)),
        }
    }

    /// Sends a request, and closes the connection without waiting for the answer: what a client that dies does.
    pub(crate) fn send_and_leave(&mut self, request: &Request) -> std::io::Result<()> {
        let mut connection = self.connection(self.timeout)?;
        let headers = self.headers(request);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        connection.write(request.method, &request.path, &headers, &request.body)
    }

    /// Opens an event stream (WHATWG HTML §9.2). `silence` is how long the server may say nothing.
    pub(crate) fn events(&mut self, request: &Request, silence: Duration) -> Result<Events, Failure> {
        let mut connection = self.connection(self.timeout).map_err(|error| self.unreachable(&error))?;
        let headers = self.headers(request);
        let mut headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push(("accept", "text/event-stream"));
        let mut head = connection
            .send("GET", &request.path, &headers, b"")
            .map_err(|broken| self.unreachable(&broken.error))?;
        if head.status != 200 {
            let body = connection.body(&mut head).map_err(|error| self.unreachable(&error))?;
            return Err(Problem::read(head.status, &body).into());
        }
        connection.set_patience(silence).map_err(|error| self.unreachable(&error))?;
        Ok(Events { connection, head, read: Vec::new() })
    }

    fn headers(&self, request: &Request) -> Vec<(&'static str, String)> {
        let mut headers = vec![("quorate-client", NAME.to_owned())];
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization", authorization.clone()));
        }
        headers.extend(request.headers.iter().cloned());
        headers
    }

    fn connection(&mut self, patience: Duration) -> std::io::Result<Connection> {
        if let Some(connection) = self.open.take() {
            connection.set_patience(patience)?;
            return Ok(connection);
        }
        self.endpoint.connect(patience)
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!("no answer from {}: {error}", self.server),
            "start a server with `quorate serve`, or name another with --server or QUORATE_SERVER",
        )
    }

    fn lost(&self, error: &std::io::Error) -> Failure {
        Failure::new(
            Exit::Unknown,
            format!(
                "{} did not answer after the request was sent: {error}; it may or may not have happened",
                self.server
            ),
            "look whether it happened before you send it again",
        )
    }
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: String,
}

/// An open event stream.
pub(crate) struct Events {
    connection: Connection,
    head: Head,
    read: Vec<u8>,
}

impl Events {
    /// The next event; nothing when the server ended the stream.
    pub(crate) fn next(&mut self) -> std::io::Result<Option<Event>> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.read.drain(..end + 2).collect();
                if let Some(event) = event_of(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(event));
                }
                continue;
            }
            match self.connection.piece(&mut self.head)? {
                Some(piece) => self.read.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}

/// The event of a block; nothing for a comment.
fn event_of(block: &str) -> Option<Event> {
    let mut event = Event::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.into()),
            "event" => event.name = value.into(),
            "data" => event.data.push_str(value),
            _ => {}
        }
    }
    (!event.name.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_lines_is_an_event_and_a_comment_is_none() {
        let event = event_of("id: 7\nevent: change\ndata: {\"a\":1}\n\n");
        let wanted = Event { id: Some("7".into()), name: "change".into(), data: "{\"a\":1}".into() };
        assert_eq!(event, Some(wanted));
        assert_eq!(event_of(":\n\n"), None);
    }

    #[test]
    fn a_refusal_becomes_an_exit_code_and_a_next_step() {
        let check = |status: u16, body: &str, exit: Exit, next: &str| {
            let failure = Failure::from(Problem::read(status, body.as_bytes()));
            assert_eq!((failure.exit, failure.next.as_str()), (exit, next), "{status}");
        };
        check(404, r#"{"detail":"x"}"#, Exit::Missing, "");
        check(409, r#"{"detail":"x","retry":"same"}"#, Exit::Refused, "the same request may pass later");
        check(
            429,
            r#"{"retry":"after","retry_after_ms":90}"#,
            Exit::Refused,
            "the same request may pass in 90 ms",
        );
        check(503, r#"{"retry":"same"}"#, Exit::Unreachable, "the same request may pass later");
        check(
            504,
            r#"{"took_effect":"unknown","retry":"ask"}"#,
            Exit::Unknown,
            "look at the data, or send it again under the same idempotency key",
        );
        check(400, r#"{"detail":"bad"}"#, Exit::Failed, "");
        let plain = Failure::from(Problem::read(502, b"Bad Gateway"));
        assert_eq!(plain.what, "status 502: Bad Gateway");
    }
}
