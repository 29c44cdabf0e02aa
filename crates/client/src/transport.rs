//! Sends a request until its answer is known: the leader, other servers, backoff, all within one patience.
//!
//! Every node of a cluster serves everything, and its answers name the leader (`Quorate-Leader`): the next request goes there and saves a
//! hop. A leader that cannot be reached under the name it is told by is left alone for a while; any other node does as well. Reads that
//! ask for less than linearizability stay where they are: any node serves them by itself.
//!
//! Invariant: a request is sent again only if repeating it is harmless: reads, and writes under an idempotency key.
//! Invariant: an error says `Unreachable` only when nothing of the request left this process, or it was refused as not done.
//! Invariant: a token goes only to servers of the scheme that was configured: a leader's address never takes it off TLS.
//! Called by: `client`, `session`, `watch`.

use crate::error::{ClientError, Problem};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bearer token.
    pub token: Option<String>,
    /// What this program calls itself, for `why`.
    pub name: String,
    /// Certificates in PEM of those who sign the servers' certificates; the system's when absent.
    pub roots: Option<PathBuf>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long one try may go unanswered, an asked-for wait not counted.
    pub try_timeout: Duration,
    /// How long new tries of a request are begun, an asked-for wait not counted.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token: None,
            name: "quorate-client".into(),
            roots: None,
            connect_timeout: Duration::from_secs(2),
            try_timeout: Duration::from_secs(5),
            patience: Duration::from_secs(15),
        }
    }
}

/// First pause between tries; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a leader that could not be reached is left alone.
const SHUN: Duration = Duration::from_secs(10);
/// Redirects that are followed before one is counted as a failure.
const REDIRECTS_MAX: u32 = 5;

/// A request, to be sent as often as it takes.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// How long the server was asked to wait.
    pub(crate) wait: Duration,
    /// The idempotency key; empty for what needs none.
    pub(crate) key: String,
    /// Any node serves it by itself: it does not go to the leader.
    pub(crate) anywhere: bool,
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            wait: Duration::ZERO,
            key: String::new(),
            anywhere: false,
        }
    }
    pub(crate) fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = body.to_string().into();
        self.headers.push(("content-type", "application/json".into()));
        self
    }
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
    pub(crate) fn anywhere(mut self, anywhere: bool) -> Self {
        self.anywhere = anywhere;
        self
    }
    pub(crate) fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
    /// Gives it an idempotency key, so that it may be sent again.
    pub(crate) fn keyed(mut self, key: String) -> Self {
        let quoted = key.replace('\\', "\\\\").replace('"', "\\\"");
        self.headers.push(("idempotency-key", format!("\"{quoted}\"")));
        self.key = key;
        self
    }
}

/// An answer below 400, whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) url: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Result<serde_json::Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected(error.to_string()))
    }
    pub(crate) fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }
    pub(crate) fn unexpected(&self, why: impl Into<String>) -> ClientError {
        ClientError::Unexpected { url: self.url.clone(), why: why.into() }
    }
}

/// Connections to the servers.
pub(crate) struct Transport {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    servers: Vec<String>,
    options: Options,
    known: Mutex<Known>,
}

/// What is known of the servers.
struct Known {
    /// Where the next request goes first: the leader, or the last that answered.
    first: String,
    /// Where the next request goes that any node serves: the last that answered.
    near: String,
    /// Leaders that could not be reached, and until when they are left alone.
    shunned: HashMap<String, Instant>,
}

/// What became of one try.
enum Tried {
    Answered(Box<Response<Incoming>>),
    /// Not sent: another try is harmless whatever it is.
    NotSent(String),
    /// Sent, and its answer lost.
    Lost(String),
}

impl Transport {
    pub(crate) fn new(servers: Vec<String>, options: Options) -> Result<Arc<Self>, ClientError> {
        let mut checked = Vec::new();
        for server in servers {
            checked.push(base(&server)?);
        }
        let Some(first) = checked.first().cloned() else {
            return Err(ClientError::Url { url: String::new(), why: "no server was named".into() });
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&checked, &options)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30)) // Below the server's, so that it is rarely met half closed.
            .build(connector);
        let known = Known { near: first.clone(), first, shunned: HashMap::new() };
        Ok(Arc::new(Self { http, servers: checked, options, known: Mutex::new(known) }))
    }

    /// Sends until there is an answer, and reads it whole.
    pub(crate) async fn call(&self, ask: &Ask) -> Result<Reply, ClientError> {
        self.send(ask, true).await.map(|(reply, _)| reply)
    }

    /// Sends until there is an answer, and gives its body to be read as it comes.
    pub(crate) async fn open(&self, ask: &Ask) -> Result<Incoming, ClientError> {
        let (reply, body) = self.send(ask, false).await?;
        body.ok_or_else(|| reply.unexpected("no body"))
    }

    async fn send(&self, ask: &Ask, whole: bool) -> Result<(Reply, Option<Incoming>), ClientError> {
        let until = Instant::now() + self.options.patience + ask.wait;
        let (mut maybe_sent, mut pause, mut redirects, mut turn) = (false, PAUSE_MIN, 0, 0usize);
        loop {
            let server = self.server(ask, turn);
            let (why, mut next) = match self.attempt(ask, &server).await {
                Tried::NotSent(why) => {
                    self.shun(&server);
                    (why, None)
                }
                Tried::Lost(why) => {
                    self.shun(&server);
                    maybe_sent = true;
                    (why, None)
                }
                Tried::Answered(response) => match self.answered(*response, &server, whole).await {
                    Answered::Done(reply, body) => {
                        self.learn(ask, server, &reply.headers);
                        return Ok((reply, body));
                    }
                    Answered::Leader(leader) if redirects < REDIRECTS_MAX => {
                        redirects += 1;
                        self.known().first = leader;
                        turn = 0;
                        continue;
                    }
                    Answered::Leader(leader) => {
                        (format!("{server} redirects to {leader}, again and again"), None)
                    }
                    Answered::Refused(problem) if repeatable(&problem) => {
                        maybe_sent |= problem.may_have_happened;
                        (problem.to_string(), problem.retry_after)
                    }
                    Answered::Refused(problem) => {
                        // It is in order, even if the request is not.
                        self.keep(ask, server);
                        return Err(ClientError::Problem(problem));
                    }
                    Answered::Lost(why) => {
                        maybe_sent = true;
                        (why, None)
                    }
                    Answered::Unexpected(error) => return Err(error),
                },
            };
            let wait = next.take().unwrap_or_else(|| jittered(pause));
            if Instant::now() + wait >= until {
                return Err(if maybe_sent {
                    ClientError::Indeterminate { key: ask.key.clone(), why }
                } else {
                    ClientError::Unreachable { why }
                });
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
            turn += 1;
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers who answered, and the leader that the answer names.
    fn learn(&self, ask: &Ask, server: String, headers: &HeaderMap<HeaderValue>) {
        let leader = headers.get("quorate-leader").and_then(|url| base(url.to_str().ok()?).ok());
        let same_scheme = |leader: &String| leader.split(':').next() == server.split(':').next();
        let now = Instant::now();
        let mut known = self.known();
        known.shunned.retain(|shunned, until| *until > now && *shunned != server);
        let leader = leader.filter(same_scheme).filter(|leader| !known.shunned.contains_key(leader));
        drop(known);
        match leader {
            Some(leader) if !ask.anywhere => self.known().first = leader,
            _ => self.keep(ask, server),
        }
    }

    /// Sends the next request of this kind to the same server.
    fn keep(&self, ask: &Ask, server: String) {
        let mut known = self.known();
        if ask.anywhere { known.near = server } else { known.first = server }
    }

    /// Leaves a server alone for a while, should it be named as the leader again.
    fn shun(&self, server: &str) {
        self.known().shunned.insert(server.to_owned(), Instant::now() + SHUN);
    }

    /// The server for a try: first the one that is known to be best, then the others in turn.
    fn server(&self, ask: &Ask, turn: usize) -> String {
        let first = {
            let known = self.known();
            if ask.anywhere { known.near.clone() } else { known.first.clone() }
        };
        let others: Vec<&String> = self.servers.iter().filter(|server| **server != first).collect();
        match turn % (others.len() + 1) {
            0 => first,
            other => others[other - 1].clone(),
        }
    }

    async fn attempt(&self, ask: &Ask, server: &str) -> Tried {
        let mut request = Request::builder().method(ask.method.clone()).uri(format!("{server}{}", ask.path));
        request = request.header("quorate-client", printable(&self.options.name));
        if let Some(token) = &self.options.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let request = match request.body(Full::new(ask.body.clone())) {
            Ok(request) => request,
            Err(error) => return Tried::NotSent(error.to_string()),
        };
        // A try that has begun gets its whole time: cut short, it would only make known things unknown.
        let deadline = Instant::now() + self.options.try_timeout + ask.wait;
        match tokio::time::timeout_at(deadline, self.http.request(request)).await {
            Ok(Ok(response)) => Tried::Answered(Box::new(response)),
            Ok(Err(error)) if error.is_connect() => Tried::NotSent(told(server, &error)),
            Ok(Err(error)) => Tried::Lost(told(server, &error)),
            Err(_) => Tried::Lost(format!("{server} did not answer in time")),
        }
    }

    async fn answered(&self, response: Response<Incoming>, server: &str, whole: bool) -> Answered {
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        if status == 307 || status == 308 {
            return match leader(&parts.headers) {
                Some(leader) => Answered::Leader(leader),
                None => Answered::Unexpected(ClientError::Unexpected {
                    url: server.into(),
                    why: format!("status {status} without Quorate-Leader or Location"),
                }),
            };
        }
        let mut reply = Reply { url: server.into(), status, headers: parts.headers, body: Bytes::new() };
        if status < 400 && !whole {
            return Answered::Done(reply, Some(body));
        }
        let deadline = Instant::now() + self.options.try_timeout;
        match tokio::time::timeout_at(deadline, body.collect()).await {
            Ok(Ok(collected)) => reply.body = collected.to_bytes(),
            Ok(Err(error)) => return Answered::Lost(told(server, &error)),
            Err(_) => return Answered::Lost(format!("{server} did not finish its answer in time")),
        }
        if status < 400 {
            return Answered::Done(reply, None);
        }
        match Problem::read(status, &reply.body) {
            Some(problem) => Answered::Refused(Box::new(problem)),
            // A proxy in between speaks for itself; what became of the request is not known.
            None if status >= 500 => Answered::Lost(format!("{server} answered with status {status}")),
            None => {
                let text = String::from_utf8_lossy(&reply.body);
                Answered::Unexpected(reply.unexpected(format!("status {status}: {text}")))
            }
        }
    }
}

enum Answered {
    Done(Reply, Option<Incoming>),
    Leader(String),
    Refused(Box<Problem>),
    Lost(String),
    Unexpected(ClientError),
}

/// Whether a refusal is worth another try of the same request: the server is busy, stopping or could not tell.
fn repeatable(problem: &Problem) -> bool {
    problem.status == 503 || problem.status == 504
}

/// The leader that a redirect names: `Quorate-Leader: http://host:port`, or the server part of `Location`.
fn leader(headers: &HeaderMap<HeaderValue>) -> Option<String> {
    let named = headers.get("quorate-leader").or_else(|| headers.get("location"))?;
    base(named.to_str().ok()?).ok()
}

/// Scheme and authority of a URL.
fn base(url: &str) -> Result<String, ClientError> {
    let wrong = |why: &str| ClientError::Url { url: url.into(), why: why.into() };
    let parsed: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| wrong(&error.to_string()))?;
    match (parsed.scheme_str(), parsed.authority()) {
        (Some(scheme @ ("http" | "https")), Some(authority)) => Ok(format!("{scheme}://{authority}")),
        _ => Err(wrong("write it as http://host:port or https://host:port")),
    }
}

fn tls(servers: &[String], options: &Options) -> Result<rustls::ClientConfig, ClientError> {
    let wrong = |why: String| ClientError::Tls { why };
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &options.roots {
        let found = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
        for certificate in found {
            roots.add(certificate).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    if options.roots.is_none() && servers.iter().any(|server| server.starts_with("https:")) {
        use hyper_rustls::ConfigBuilderExt;
        let builder = builder.with_native_roots().map_err(|error| wrong(error.to_string()))?;
        return Ok(builder.with_no_client_auth());
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// An error with all its causes: hyper's own text leaves them out.
fn told(server: &str, error: &dyn std::error::Error) -> String {
    let (mut text, mut cause) = (format!("{server}: {error}"), error.source());
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect()
}

/// Half the pause, and up to as much again by chance, so that clients that failed together do not return together.
fn jittered(pause: Duration) -> Duration {
    let chance = u32::from_le_bytes(random::<4>());
    pause / 2 + (pause / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

/// A new idempotency key: 128 random bits.
pub(crate) fn new_key() -> String {
    random::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes once it has started");
    bytes
}

/// A name in a path, percent-encoded; `/` too, unless `slashes` may stay.
pub(crate) fn encoded(bytes: &[u8], slashes: bool) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte as char),
            b'/' if slashes => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_scheme_and_an_authority() {
        assert_eq!(base("http://127.0.0.1:8400"), Ok("http://127.0.0.1:8400".into()));
        assert_eq!(base("https://[::1]:8400/v1/keys/k?x"), Ok("https://[::1]:8400".into()));
        for bad in ["", "127.0.0.1:8400", "ftp://a", "http://", "a b"] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_percent_encoded() {
        assert_eq!(encoded(b"a/b c\xff", false), "a%2Fb%20c%FF");
        assert_eq!(encoded(b"a/b", true), "a/b");
    }

    #[test]
    fn keys_are_not_repeated() {
        assert_ne!(new_key(), new_key());
        assert_eq!(new_key().len(), 32);
    }

    #[test]
    fn a_pause_lies_between_its_half_and_itself() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(100));
            assert!((50..=100).contains(&pause.as_millis()), "{pause:?}");
        }
    }
}
