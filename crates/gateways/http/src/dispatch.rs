//! The way of a request: to its route, through the checks, to its handler, and back as an answer.
//!
//! Invariant: a request reaches its handler only after origin, token, query, rights and body passed, in this order.
//! Called by: `serve`, for every request.

use crate::access::{self, Entered};
use crate::call::{Answer, Asked, Call, Gateway};
use crate::error::{Problem, Retry, TookEffect};
use crate::json::write::Values;
use crate::reply::{Body, name, with_header};
use crate::routes::{Kind, Missing, ROUTES, Route, Takes};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use quorate_types::Blob;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Answers one request.
pub(crate) async fn answer(gateway: Arc<Gateway>, request: Request<Incoming>) -> Response<Body> {
    match gateway.routes.find(request.method(), request.uri().path()) {
        Ok(number) => counted(&gateway, number, request).await,
        Err(Missing::Path) => no_route(&request).response(),
        Err(Missing::Method(allowed)) => other_method(&gateway, &request, allowed),
    }
}

fn no_route(request: &Request<Incoming>) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::not_found(
        "no_route",
        format!(
            "there is no {method} {path}: see /openapi.json (a / inside a name is written %2F, except in keys)"
        ),
    )
}

/// The CORS preflight of an allowed origin, or a 405 that names what is there.
fn other_method(gateway: &Gateway, request: &Request<Incoming>, allowed: String) -> Response<Body> {
    if request.method() == Method::OPTIONS
        && let Some(origin) = request.headers().get(ORIGIN)
        && origin_allowed(gateway, origin)
    {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, PUT, POST, DELETE"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "authorization, content-type, idempotency-key, idempotency-ttl, if-match, if-none-match, last-event-id, quorate-client, traceparent",
            ),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        allow_origin(gateway, origin.clone(), &mut response);
        return response;
    }
    let detail =
        format!("{} is not a method of {}: see /openapi.json", request.method(), request.uri().path());
    Problem::new(405, "method_not_allowed", detail).header("allow", allowed).response()
}

/// Counts, bounds in time and answers a request of a route.
async fn counted(gateway: &Arc<Gateway>, number: usize, request: Request<Incoming>) -> Response<Body> {
    let (route, begun) = (&ROUTES[number], Instant::now());
    let _in_flight = InFlight::enter(gateway);
    let origin = request.headers().get(ORIGIN).cloned();
    let wait = if route.kind == Kind::Wait { gateway.config.wait_max } else { Duration::ZERO };
    let handled = tokio::time::timeout(
        gateway.config.request_timeout + wait,
        dispatch(gateway, route, origin.as_ref(), request),
    );
    let mut response = match handled.await {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.response(),
        Err(_) => timed_out(route, gateway.config.request_timeout).response(),
    };
    if let Some(leader) = gateway.leader.header(&gateway.handle) {
        response.headers_mut().insert(name::LEADER, leader);
    }
    if let Some(origin) = origin.filter(|origin| origin_allowed(gateway, origin)) {
        allow_origin(gateway, origin, &mut response);
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

struct InFlight<'a>(&'a Gateway);

impl<'a> InFlight<'a> {
    fn enter(gateway: &'a Gateway) -> Self {
        gateway.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(gateway)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Checks a request and hands it to its handler.
async fn dispatch(
    gateway: &Arc<Gateway>,
    route: &'static Route,
    origin: Option<&HeaderValue>,
    request: Request<Incoming>,
) -> Answer {
    let (parts, body) = request.into_parts();
    if let Some(origin) = origin.filter(|origin| !origin_allowed(gateway, origin)) {
        // Any web page can make a browser send requests to a server on localhost; only known pages may.
        return Err(Problem::new(
            403,
            "origin_refused",
            format!("pages of {origin:?} may not call: allow the origin in the server's configuration"),
        ));
    }
    let entered = match route.kind {
        Kind::Probe => Entered::anybody(),
        Kind::State | Kind::Read | Kind::Write | Kind::Wait | Kind::Admin => {
            access::enter(gateway, &parts.headers).await?
        }
    };
    let query = query(&parts.uri, &|| route.parameters())?;
    let values = match query.iter().find(|(name, _)| name == "values").map(|(_, value)| value.as_slice()) {
        None | Some(b"auto") => Values::Auto,
        Some(b"base64") => Values::Base64,
        Some(_) => return Err(Problem::bad_request("query parameter values: wanted auto or base64")),
    };
    let params = params(route.path, parts.uri.path())?;
    let asked = Asked { headers: parts.headers, params, query, values };
    let mut call = Call::new(gateway.clone(), route, entered, asked)?;
    call.permit.check_now(&call.gateway)?;
    call.body = whole_body(body, call.gateway.config.body_bytes_max).await?;
    if route.takes == Takes::Nothing && !call.body.is_empty() {
        let detail =
            format!("{} {} takes no body, found {} bytes", route.method, route.path, call.body.len());
        return Err(Problem::bad_request(detail));
    }
    let (permit, applied) = (call.permit.clone(), call.applied.clone());
    let mut answer = (route.handler)(call).await;
    let applied = applied.load(Ordering::Relaxed);
    // A wait may have ended in a later state than the one that was asked first. A read of the state was asked in that state.
    let asked_there = route.kind == Kind::State && applied > 0;
    if answer.is_ok() && route.method == "GET" && !asked_there {
        answer = permit.check_now(gateway).and(answer);
    }
    match applied {
        0 => answer,
        applied => match answer {
            Ok(response) => Ok(with_header(response, name::APPLIED, applied)),
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
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
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
        found.push((name, percent_decoded(value, true)?));
    }
    Ok(found)
}

/// The names in a path, percent-decoded to bytes. The path matched the route, so segments stand side by side.
fn params(route: &'static str, path: &str) -> Result<Vec<(&'static str, Blob)>, Problem> {
    let mut found = Vec::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    for segment in route.split('/').skip(1) {
        if let Some(name) = segment.strip_prefix("{*").and_then(|name| name.strip_suffix('}')) {
            found.push((name, percent_decoded(rest, false)?));
            break;
        }
        let (one, after) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            found.push((name, percent_decoded(one, false)?));
        }
        rest = after;
    }
    Ok(found)
}

/// Undoes percent-encoding (RFC 3986 §2.1); in queries `+` is a space, as HTML forms have it.
fn percent_decoded(text: &str, plus: bool) -> Result<Blob, Problem> {
    if !text.bytes().any(|byte| byte == b'%' || (plus && byte == b'+')) {
        return Ok(Blob::copy_from(text.as_bytes()));
    }
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
    Ok(out.into())
}

async fn whole_body(body: Incoming, max: usize) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_large = |found: String| {
        Problem::new(413, "too_large", format!("the body has {found}, at most {max} bytes are taken"))
            .with("wanted", format!("[0,{max}]"))
    };
    // Refused before it is sent, where the client says how much it will be.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(format!("{} bytes", body.size_hint().lower())));
    }
    match Limited::new(body, max).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(format!("more than {max} bytes"))),
        Err(error) => Err(Problem::bad_request(format!("the body broke off: {error}"))),
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
}
