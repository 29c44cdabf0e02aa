//! The one table of routes: the router, the OpenAPI document and the metrics are all made from it.
//!
//! Invariant: a request reaches its handler only after origin, token, query and body passed, in this order.
//! Called by: `serve` builds the router; every request goes through [`dispatch`].

use crate::access::{self, Need};
use crate::call::{Answer, Call, Gateway, with_header};
use crate::error::{Problem, Retry, TookEffect};
use crate::handlers::{
    cluster, commit, groups, keys, leases, limits, locks, server, services, streams, tasks, users,
};
use crate::json::write::Values;
use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::header::{HeaderName, ORIGIN};
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use quorate_types::{Blob, Principal, Verbs};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What answers a route.
type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The body that a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// None; one that is sent is refused.
    Nothing,
    /// JSON of the shape of this name in `openapi`.
    Json(&'static str),
    /// Any bytes.
    Bytes,
}

/// Who may call a route, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A read of the state: takes `consistency` and `max_staleness`.
    State,
    /// Another read, answered at once.
    Read,
    /// A change, answered at once; takes an idempotency key.
    Write,
    /// May wait as long as the client asks, up to the bound.
    Wait,
    /// A change of the cluster or of users, answered at once; takes no idempotency key, since saying it twice is refused or does no harm.
    Admin,
    /// A health probe: needs no token.
    Probe,
}

/// One route.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// As axum writes it; `{*key}` takes the rest of the path.
    pub(crate) path: &'static str,
    pub(crate) summary: &'static str,
    /// Names of the query parameters beside those of its kind; described in `openapi`.
    pub(crate) query: &'static [&'static str],
    pub(crate) takes: Takes,
    pub(crate) kind: Kind,
    /// What whoever asks has to be allowed.
    pub(crate) need: Need,
    handler: Handler,
}

/// Query parameters of every read of the state.
pub(crate) const CONSISTENCY: [&str; 2] = ["consistency", "max_staleness"];

impl Route {
    /// Names of all its query parameters.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &'static str> {
        let more: &[&str] = if self.kind == Kind::State { &CONSISTENCY } else { &[] };
        self.query.iter().chain(more).copied()
    }
}

macro_rules! routes {
    ($($method:ident $path:literal ($kind:ident $(, $takes:expr)?) [$($query:literal),*] $handler:path, $need:expr, $summary:literal;)*) => {
        /// Every route of the gateway.
        pub(crate) static ROUTES: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            summary: $summary,
            query: &[$($query),*],
            takes: routes!(@takes $($takes)?),
            kind: Kind::$kind,
            need: $need,
            handler: |call| Box::pin($handler(call)),
        }),*];
    };
    (@takes) => { Takes::Nothing };
    (@takes $takes:expr) => { $takes };
}

use Need::{All, Entry, Key, Lease, Name, Nothing, Range, Run};
use Takes::{Bytes as Raw, Json};

const READ: Verbs = Verbs::READ;
const WRITE: Verbs = Verbs::WRITE;

routes! {
    POST "/v1/commit" (Write, Json("Commit")) ["values"] commit::commit, Entry,
        "Run a commit: guards, then operations, all or nothing";
    GET "/v1/keys/{*key}" (State) ["at", "keyspace"] keys::get, Key("get", READ, "key"), "Read a key; its ETag is its mod revision";
    PUT "/v1/keys/{*key}" (Write, Raw) ["lease", "keyspace"] keys::put, Key("set", WRITE, "key"), "Write a key; If-Match and If-None-Match guard it";
    DELETE "/v1/keys/{*key}" (Write) ["keyspace"] keys::delete, Key("del", WRITE, "key"), "Delete a key; If-Match guards it";
    GET "/v1/range" (State) ["key", "key_base64", "prefix", "prefix_base64", "from", "from_base64", "to", "to_base64",
        "limit", "at", "keys_only", "count_only", "sort", "order", "keyspace", "values"] keys::range, Range("q.range", READ),
        "Read a range of keys, now or at a revision";
    GET "/v1/watch" (Wait) ["key", "key_base64", "prefix", "prefix_base64", "from", "from_base64", "to", "to_base64",
        "since", "keyspace", "values"] keys::watch, Range("q.follow", READ),
        "Follow the changes of keys from a revision on, as server-sent events";
    GET "/v1/leases" (State) ["limit", "after"] leases::index, All("q.info", READ), "List leases";
    POST "/v1/leases" (Write, Json("Grant")) [] leases::grant, Run("q.lock"), "Grant a lease";
    GET "/v1/leases/{id}" (State) ["values"] leases::get, Lease("q.info", READ), "Look at a lease: what is left of it, what hangs on it";
    DELETE "/v1/leases/{id}" (Write) [] leases::revoke, Lease("q.unlock", WRITE), "End a lease and everything that hangs on it";
    POST "/v1/leases/{id}/keepalive" (Write, Json("Empty")) [] leases::keep_alive, Run("q.keep"), "Renew a lease for its full time to live";
    GET "/v1/locks" (State) ["values"] locks::index, All("q.info", READ), "List the locks and elections that are held or waited for";
    GET "/v1/locks/{name}" (State) ["values"] locks::get, Name("q.info", READ, "name"), "Look at a lock: who holds it, who waits";
    POST "/v1/locks/{name}/acquire" (Wait, Json("Acquire")) ["values"] locks::acquire, Name("q.lock", WRITE, "name"),
        "Take a lock, waiting in its fair queue for at most wait";
    POST "/v1/locks/{name}/release" (Write, Json("Release")) [] locks::release, Name("q.unlock", WRITE, "name"), "Give a lock back";
    GET "/v1/elections/{name}" (State) ["values"] locks::leader, Name("q.info", READ, "name"), "Who leads";
    GET "/v1/elections/{name}/observe" (Wait) ["values"] locks::observe, Name("q.follow", READ, "name"), "Follow an election, as server-sent events";
    POST "/v1/elections/{name}/campaign" (Wait, Json("Campaign")) ["values"] locks::campaign, Name("q.lock", WRITE, "name"),
        "Become leader, waiting for at most wait";
    POST "/v1/elections/{name}/proclaim" (Write, Json("Proclaim")) [] locks::proclaim, Name("q.lock", WRITE, "name"), "Change what the leader proclaims";
    POST "/v1/elections/{name}/resign" (Write, Json("Release")) [] locks::resign, Name("q.unlock", WRITE, "name"), "Give leadership back";
    GET "/v1/streams" (State) ["prefix", "values"] streams::index, All("q.info", READ), "List streams";
    GET "/v1/streams/{stream}" (State) ["keyspace", "values"] streams::get, Key("xinfo|stream", READ, "stream"), "Look at a stream: settings, offsets, groups";
    PUT "/v1/streams/{stream}" (Write, Json("Stream")) ["keyspace"] streams::put, Key("q.stream", WRITE, "stream"), "Declare a stream, or change its settings";
    DELETE "/v1/streams/{stream}" (Write) ["keyspace"] streams::delete, Key("q.stream", WRITE, "stream"), "Remove a stream with its records and groups";
    GET "/v1/streams/{stream}/records" (Wait) ["partition", "offset", "max", "wait", "keyspace", "values",
        "consistency", "max_staleness"] streams::read, Key("xrange", READ, "stream"),
        "Read records from an offset: at once, by long poll, or as server-sent events (Accept: text/event-stream)";
    POST "/v1/streams/{stream}/records" (Write, Json("Append")) ["keyspace"] streams::append, Key("xadd", WRITE, "stream"), "Append one record or many";
    POST "/v1/streams/{stream}/trim" (Write, Json("Trim")) ["keyspace"] streams::trim, Key("xtrim", WRITE, "stream"), "Forget the records before an offset";
    GET "/v1/streams/{stream}/groups/{group}" (State) ["keyspace", "values"] groups::get, Key("xinfo|groups", READ, "stream"), "Look at a group: how far it is";
    PUT "/v1/streams/{stream}/groups/{group}" (Write, Json("Group")) ["keyspace"] groups::put, Key("xgroup|create", WRITE, "stream"), "Declare a group of readers";
    DELETE "/v1/streams/{stream}/groups/{group}" (Write) ["keyspace"] groups::delete, Key("xgroup|destroy", WRITE, "stream"), "Remove a group";
    POST "/v1/streams/{stream}/groups/{group}/cursor" (Write, Json("Cursor")) ["keyspace"] groups::cursor, Key("xack", WRITE, "stream"),
        "Move the cursor of a partitioned group";
    POST "/v1/streams/{stream}/groups/{group}/take" (Wait, Json("Take")) ["keyspace", "values"] groups::take, Key("xreadgroup", READ, "stream"),
        "Take records for a consumer of a shared group, waiting for at most wait";
    POST "/v1/streams/{stream}/groups/{group}/ack" (Write, Json("Ack")) ["keyspace"] groups::ack, Key("xack", WRITE, "stream"), "Finish deliveries";
    POST "/v1/streams/{stream}/groups/{group}/nack" (Write, Json("Nack")) ["keyspace"] groups::nack, Key("xclaim", WRITE, "stream"), "Give deliveries back";
    POST "/v1/streams/{stream}/groups/{group}/extend" (Write, Json("Extend")) ["keyspace"] groups::extend, Key("xclaim", WRITE, "stream"),
        "Hide deliveries from others for longer";
    GET "/v1/limits/{name}" (State) ["rate", "burst", "window", "count", "per", "cost"] limits::peek, Name("q.info", READ, "name"),
        "Look at a limit, taking nothing";
    POST "/v1/limits/{name}/take" (Write, Json("Limit")) [] limits::take, Name("q.limit", WRITE, "name"), "Take from a limit: 200, or 429 with when to come back";
    GET "/v1/timers" (State) ["limit", "values"] tasks::index, All("q.info", READ), "List timers";
    GET "/v1/timers/{name}" (State) ["values"] tasks::get, Name("q.info", READ, "name"), "Look at a timer";
    PUT "/v1/timers/{name}" (Write, Json("Timer")) [] tasks::put, Name("q.after", WRITE, "name"), "Schedule a commit, once";
    DELETE "/v1/timers/{name}" (Write) [] tasks::delete, Name("q.after", WRITE, "name"), "Take a timer back";
    GET "/v1/services" (State) ["values"] services::index, All("q.info", READ), "List the services that have instances";
    GET "/v1/services/{service}" (State) ["values"] services::instances, Name("q.info", READ, "service"), "List the instances of a service";
    GET "/v1/services/{service}/watch" (Wait) ["values"] services::watch, Name("q.follow", READ, "service"), "Follow a service, as server-sent events";
    PUT "/v1/services/{service}/{instance}" (Write, Json("Register")) [] services::register, Name("q.register", WRITE, "service"),
        "Enter an instance of a service, or change it";
    DELETE "/v1/services/{service}/{instance}" (Write) [] services::deregister, Name("q.register", WRITE, "service"), "Remove an instance";
    POST "/v1/idempotency/{key}/resolve" (Write, Json("Resolve")) ["values"] commit::resolve, Run("q.idempotent"),
        "Ask what became of an idempotency key; if nothing did, nothing will";
    GET "/v1/users" (State) ["values"] users::index, Run("acl|list"), "List users, and whether the door is open";
    GET "/v1/users/{name}" (State) ["values"] users::get, Run("acl|getuser"), "Look at a user; its secrets are told by number only";
    PUT "/v1/users/{name}" (Admin, Json("User")) ["values"] users::put, Run("acl|setuser"),
        "Make or change a user, for every protocol; what the body does not name stays";
    DELETE "/v1/users/{name}" (Admin) [] users::delete, Run("acl|deluser"), "Remove a user; its connections end";
    GET "/v1/why/{kind}/{name}" (Read) ["limit", "values"] server::why, All("q.why", READ), "Explain how something came to be as it is";
    GET "/v1/status" (Read) [] server::status, Run("info"), "State of the server, and every bound in force";
    GET "/v1/cluster" (Read) [] cluster::status, Run("info"), "How the cluster is, as this node sees it";
    POST "/v1/cluster/init" (Admin, Json("Empty")) [] cluster::init, Run("q.cluster"),
        "Begin a cluster with this node, then add the others that it was started with";
    POST "/v1/cluster/members" (Admin, Json("Member")) [] cluster::add, Run("q.cluster"),
        "Add a node, which becomes a voter by itself once it has caught up";
    DELETE "/v1/cluster/members/{id}" (Admin) [] cluster::remove, Run("q.cluster"), "Remove a member";
    POST "/v1/cluster/swap" (Admin, Json("Swap")) [] cluster::swap, Run("q.cluster"),
        "Make a learner a voter and remove another member, in one change";
    POST "/v1/cluster/transfer" (Admin, Json("Transfer")) [] cluster::transfer, Run("q.cluster"), "Hand leadership to another voter";
    POST "/v1/backup" (Wait, Json("Backup")) [] server::backup, Run("q.backup"), "Write a backup to a folder of the server, while it runs";
    POST "/v1/compact" (Write, Json("Compact")) [] server::compact, Run("q.compact"), "Forget the history of keys before a revision";
    GET "/healthz" (Probe) [] server::healthz, Nothing, "Whether the process lives";
    GET "/readyz" (Probe) [] server::readyz, Nothing, "Whether it serves reads and writes";
    GET "/metrics" (Read) [] server::metrics, Run("info"), "Counters in Prometheus text format";
    GET "/openapi.json" (Read) [] server::openapi, Run("command"), "This interface as an OpenAPI 3.1 document";
}

/// The router made of [`ROUTES`].
pub(crate) fn router(gateway: &Arc<Gateway>) -> Router {
    let mut router = Router::new();
    for (number, route) in ROUTES.iter().enumerate() {
        let filter = match route.method {
            "GET" => MethodFilter::GET,
            "PUT" => MethodFilter::PUT,
            "POST" => MethodFilter::POST,
            _ => MethodFilter::DELETE,
        };
        let gateway = gateway.clone();
        let method: MethodRouter =
            on(filter, move |request: Request| async move { answer(gateway, number, request).await });
        router = router.route(route.path, method);
    }
    let preflight = gateway.clone();
    router
        .method_not_allowed_fallback(
            move |request: Request| async move { other_method(&preflight, &request) },
        )
        .fallback(|request: Request| async move { no_route(&request).response() })
}

fn no_route(request: &Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::not_found(
        "no_route",
        format!(
            "there is no {method} {path}: see /openapi.json (a / inside a name is written %2F, except in keys)"
        ),
    )
}

/// The CORS preflight of an allowed origin, or a 405 that names what is there.
fn other_method(gateway: &Gateway, request: &Request) -> Response<Body> {
    if request.method() == Method::OPTIONS
        && let Some(origin) = request.headers().get(ORIGIN)
        && origin_allowed(gateway, origin)
    {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert("access-control-allow-methods", HeaderValue::from_static("GET, PUT, POST, DELETE"));
        headers.insert(
            "access-control-allow-headers",
            HeaderValue::from_static(
                "authorization, content-type, idempotency-key, idempotency-ttl, if-match, if-none-match, last-event-id, quorate-client, traceparent",
            ),
        );
        headers.insert("access-control-max-age", HeaderValue::from_static("600"));
        allow_origin(gateway, origin.clone(), &mut response);
        return response;
    }
    let detail =
        format!("{} is not a method of {}: see /openapi.json", request.method(), request.uri().path());
    Problem::new(405, "method_not_allowed", detail).response()
}

/// Counts, bounds in time and answers one request.
async fn answer(gateway: Arc<Gateway>, number: usize, request: Request) -> Response<Body> {
    let (route, begun) = (&ROUTES[number], Instant::now());
    let _in_flight = InFlight::enter(gateway.clone());
    let origin = request.headers().get(ORIGIN).cloned();
    let wait = if route.kind == Kind::Wait { gateway.config.wait_max } else { Duration::ZERO };
    let handled =
        tokio::time::timeout(gateway.config.request_timeout + wait, dispatch(&gateway, route, request));
    let mut response = match handled.await {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.response(),
        Err(_) => timed_out(route, gateway.config.request_timeout).response(),
    };
    if let Some(leader) = gateway.leader.header(&gateway.handle) {
        response.headers_mut().insert("quorate-leader", leader);
    }
    if let Some(origin) = origin.filter(|origin| origin_allowed(&gateway, origin)) {
        allow_origin(&gateway, origin, &mut response);
    }
    gateway.metrics.answered(number, response.status().as_u16(), begun.elapsed());
    response
}

fn timed_out(route: &Route, after: Duration) -> Problem {
    let detail = format!("no answer within {} ms", after.as_millis());
    if matches!(route.kind, Kind::State | Kind::Read | Kind::Probe) {
        return Problem::new(504, "timeout", detail).retry(Retry::Same);
    }
    let mut problem = Problem::new(
        504,
        "timeout",
        format!("{detail}; it may have taken effect: send it again under the same Idempotency-Key, or look"),
    );
    problem.took_effect = TookEffect::Unknown;
    problem.retry(Retry::Ask)
}

struct InFlight(Arc<Gateway>);

impl InFlight {
    fn enter(gateway: Arc<Gateway>) -> Self {
        gateway.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(gateway)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Checks a request and hands it to its handler.
async fn dispatch(gateway: &Arc<Gateway>, route: &'static Route, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    if let Some(origin) = parts.headers.get(ORIGIN).filter(|origin| !origin_allowed(gateway, origin)) {
        // Any web page can make a browser send requests to a server on localhost; only known pages may.
        return Err(Problem::new(
            403,
            "origin_refused",
            format!("pages of {origin:?} may not call: allow the origin in the server's configuration"),
        ));
    }
    let principal = match route.kind {
        Kind::Probe => Principal::from("anonymous"),
        Kind::State | Kind::Read | Kind::Write | Kind::Wait | Kind::Admin => {
            access::principal(gateway, &parts.headers).await?
        }
    };
    let query = query(&parts.uri, &|| route.parameters())?;
    let values = match query.iter().find(|(name, _)| name == "values").map(|(_, value)| value.as_slice()) {
        None | Some(b"auto") => Values::Auto,
        Some(b"base64") => Values::Base64,
        Some(_) => return Err(Problem::bad_request("query parameter values: wanted auto or base64")),
    };
    let params = params(route.path, parts.uri.path())?;
    let body = whole_body(body, gateway.config.body_bytes_max).await?;
    if route.takes == Takes::Nothing && !body.is_empty() {
        let detail = format!("{} {} takes no body, found {} bytes", route.method, route.path, body.len());
        return Err(Problem::bad_request(detail));
    }
    let applied = Arc::new(AtomicU64::new(0));
    let (gateway, headers) = (gateway.clone(), parts.headers);
    let call = Call {
        gateway,
        principal,
        headers,
        params,
        query,
        body,
        values,
        applied: applied.clone(),
        need: route.need,
    };
    let permit = call.permit(route.need)?;
    permit.check_now(&call.gateway)?;
    let gateway = call.gateway.clone();
    let mut answer = (route.handler)(call).await;
    if answer.is_ok() && route.method == "GET" {
        // A linearizable read may have seen a later state than the one that was asked first, and so does this.
        answer = permit.check_now(&gateway).and(answer);
    }
    match applied.load(Ordering::Relaxed) {
        0 => answer,
        applied => match answer {
            Ok(response) => Ok(with_header(response, "quorate-applied", applied)),
            Err(problem) => Err(problem.header("quorate-applied", applied.to_string())),
        },
    }
}

fn origin_allowed(gateway: &Gateway, origin: &HeaderValue) -> bool {
    gateway.config.origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
}

fn allow_origin(gateway: &Gateway, origin: HeaderValue, response: &mut Response<Body>) {
    debug_assert!(origin_allowed(gateway, &origin), "checked by the caller");
    let headers = response.headers_mut();
    headers.insert("access-control-allow-origin", origin);
    headers.insert("vary", HeaderValue::from_static("Origin"));
    headers.insert(
        HeaderName::from_static("access-control-expose-headers"),
        HeaderValue::from_static(
            "etag, idempotent-replayed, quorate-applied, quorate-create-revision, quorate-leader, quorate-lease, quorate-mod-revision, quorate-revision, quorate-version, ratelimit, ratelimit-policy, retry-after, stream-next-offset, stream-up-to-date",
        ),
    );
}

/// The query parameters, decoded; one that the route does not know is refused.
fn query<K: Iterator<Item = &'static str>>(
    uri: &Uri,
    known: &dyn Fn() -> K,
) -> Result<Vec<(String, Blob)>, Problem> {
    let mut found: Vec<(String, Blob)> = Vec::new();
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = String::from_utf8_lossy(&percent_decoded(name, true)?).into_owned();
        if !known().any(|known| known == name) {
            let known: Vec<&str> = known().collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(Problem::bad_request(format!(
                "query parameter \"{name}\" is not known here; known: {known}"
            )));
        }
        if found.iter().any(|(other, _)| *other == name) {
            return Err(Problem::bad_request(format!("query parameter {name} is there twice")));
        }
        found.push((name, percent_decoded(value, true)?.into()));
    }
    Ok(found)
}

/// The names in a path, percent-decoded to bytes. The path matched the route, so segments stand side by side.
fn params(route: &'static str, path: &str) -> Result<Vec<(&'static str, Blob)>, Problem> {
    let mut found = Vec::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    for segment in route.split('/').skip(1) {
        if let Some(name) = segment.strip_prefix("{*").and_then(|name| name.strip_suffix('}')) {
            found.push((name, percent_decoded(rest, false)?.into()));
            break;
        }
        let (one, after) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            found.push((name, percent_decoded(one, false)?.into()));
        }
        rest = after;
    }
    Ok(found)
}

/// Undoes percent-encoding (RFC 3986 §2.1); in queries `+` is a space, as HTML forms have it.
fn percent_decoded(text: &str, plus: bool) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if plus => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
                let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return Err(Problem::bad_request(format!(
                        "\"{text}\" has a % without two hexadecimal digits"
                    )));
                };
                out.push((high * 16 + low) as u8);
            }
            byte => out.push(byte),
        }
    }
    Ok(out)
}

async fn whole_body(body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large = |found: String| {
        Problem::new(413, "too_large", format!("the body has {found}, at most {max} bytes are taken"))
            .with("wanted", format!("[0,{max}]"))
    };
    // Refused before it is sent, where the client says how much it will be.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(format!("{} bytes", body.size_hint().lower())));
    }
    match to_bytes(body, max).await {
        Ok(bytes) => Ok(bytes),
        Err(error) => {
            let source = std::error::Error::source(&error);
            if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
                Err(too_large(format!("more than {max} bytes")))
            } else {
                Err(Problem::bad_request(format!("the body broke off: {error}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_path_are_bytes() {
        let found = |route, path| params(route, path).map_err(|problem| problem.detail);
        assert_eq!(
            found("/v1/keys/{*key}", "/v1/keys/a/b%2Fc%ff"),
            Ok(vec![("key", (&b"a/b/c\xff"[..]).into())])
        );
        assert_eq!(
            found("/v1/streams/{stream}/groups/{group}/take", "/v1/streams/a%2Fb/groups/g+h/take"),
            Ok(vec![("stream", "a/b".into()), ("group", "g+h".into())])
        );
        assert!(found("/v1/keys/{*key}", "/v1/keys/%f").unwrap_err().contains("two hexadecimal digits"));
        assert!(found("/v1/keys/{*key}", "/v1/keys/%zz").is_err());
    }

    #[test]
    fn a_query_parameter_is_known_and_there_once() {
        let read = |text: &str| {
            query(&text.parse().unwrap(), &|| ["a", "b"].into_iter()).map_err(|problem| problem.detail)
        };
        assert_eq!(read("/?a=x+y%2B&b"), Ok(vec![("a".into(), "x y+".into()), ("b".into(), "".into())]));
        assert_eq!(read("/"), Ok(vec![]));
        assert!(read("/?c=1").unwrap_err().contains("\"c\" is not known here; known: a, b"));
        assert!(read("/?a=1&a=2").unwrap_err().contains("twice"));
        assert!(read("/?a=%").is_err());
    }

    #[test]
    fn every_route_stands_once() {
        for (number, route) in ROUTES.iter().enumerate() {
            assert!(["GET", "PUT", "POST", "DELETE"].contains(&route.method), "{}", route.path);
            let same = |other: &Route| other.path == route.path && other.method == route.method;
            assert_eq!(ROUTES.iter().position(same), Some(number), "{} {}", route.method, route.path);
        }
    }
}
