//! The same services as JSON over HTTP, below `/v3/`, as etcd's own gateway (grpc-gateway) gives them: a body is read into the message of a call, the
//! call is made to the very service that gRPC clients reach, and its answer is written as JSON.
//!
//! Invariant: nothing about a call is known here but its path; what its messages are is read from the descriptors of the protocol.
//! Called by: `serve`, for requests that are no gRPC.
//! Source: grpc-gateway 1.16, the protobuf JSON mapping <https://protobuf.dev/programming-guides/json/>.

mod decode;
mod encode;
mod values;

use crate::metrics::Counted;
use crate::serve::Services;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use std::collections::HashMap;
use std::sync::LazyLock;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap, HeaderValue, Method, StatusCode, header};
use tonic::{Code, Status};
use values::Values;

/// Where each call is. The one list to extend when the protocol gets a new one.
const PATHS: [(&str, &str); 50] = [
    ("/v3/kv/range", "etcdserverpb.KV/Range"),
    ("/v3/kv/put", "etcdserverpb.KV/Put"),
    ("/v3/kv/deleterange", "etcdserverpb.KV/DeleteRange"),
    ("/v3/kv/txn", "etcdserverpb.KV/Txn"),
    ("/v3/kv/compaction", "etcdserverpb.KV/Compact"),
    ("/v3/watch", "etcdserverpb.Watch/Watch"),
    ("/v3/lease/grant", "etcdserverpb.Lease/LeaseGrant"),
    ("/v3/lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/kv/lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/lease/keepalive", "etcdserverpb.Lease/LeaseKeepAlive"),
    ("/v3/lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("/v3/kv/lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("/v3/lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("/v3/kv/lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("/v3/lock/lock", "v3lockpb.Lock/Lock"),
    ("/v3/lock/unlock", "v3lockpb.Lock/Unlock"),
    ("/v3/election/campaign", "v3electionpb.Election/Campaign"),
    ("/v3/election/proclaim", "v3electionpb.Election/Proclaim"),
    ("/v3/election/leader", "v3electionpb.Election/Leader"),
    ("/v3/election/observe", "v3electionpb.Election/Observe"),
    ("/v3/election/resign", "v3electionpb.Election/Resign"),
    ("/v3/cluster/member/add", "etcdserverpb.Cluster/MemberAdd"),
    ("/v3/cluster/member/remove", "etcdserverpb.Cluster/MemberRemove"),
    ("/v3/cluster/member/update", "etcdserverpb.Cluster/MemberUpdate"),
    ("/v3/cluster/member/list", "etcdserverpb.Cluster/MemberList"),
    ("/v3/cluster/member/promote", "etcdserverpb.Cluster/MemberPromote"),
    ("/v3/maintenance/alarm", "etcdserverpb.Maintenance/Alarm"),
    ("/v3/maintenance/status", "etcdserverpb.Maintenance/Status"),
    ("/v3/maintenance/defragment", "etcdserverpb.Maintenance/Defragment"),
    ("/v3/maintenance/hash", "etcdserverpb.Maintenance/Hash"),
    ("/v3/maintenance/snapshot", "etcdserverpb.Maintenance/Snapshot"),
    ("/v3/maintenance/transfer-leadership", "etcdserverpb.Maintenance/MoveLeader"),
    ("/v3/maintenance/downgrade", "etcdserverpb.Maintenance/Downgrade"),
    ("/v3/auth/enable", "etcdserverpb.Auth/AuthEnable"),
    ("/v3/auth/disable", "etcdserverpb.Auth/AuthDisable"),
    ("/v3/auth/status", "etcdserverpb.Auth/AuthStatus"),
    ("/v3/auth/authenticate", "etcdserverpb.Auth/Authenticate"),
    ("/v3/auth/user/add", "etcdserverpb.Auth/UserAdd"),
    ("/v3/auth/user/get", "etcdserverpb.Auth/UserGet"),
    ("/v3/auth/user/list", "etcdserverpb.Auth/UserList"),
    ("/v3/auth/user/delete", "etcdserverpb.Auth/UserDelete"),
    ("/v3/auth/user/changepw", "etcdserverpb.Auth/UserChangePassword"),
    ("/v3/auth/user/grant", "etcdserverpb.Auth/UserGrantRole"),
    ("/v3/auth/user/revoke", "etcdserverpb.Auth/UserRevokeRole"),
    ("/v3/auth/role/add", "etcdserverpb.Auth/RoleAdd"),
    ("/v3/auth/role/get", "etcdserverpb.Auth/RoleGet"),
    ("/v3/auth/role/list", "etcdserverpb.Auth/RoleList"),
    ("/v3/auth/role/delete", "etcdserverpb.Auth/RoleDelete"),
    ("/v3/auth/role/grant", "etcdserverpb.Auth/RoleGrantPermission"),
    ("/v3/auth/role/revoke", "etcdserverpb.Auth/RoleRevokePermission"),
];

/// Every message and service of the protocol.
pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/protocol.bin"));
    DescriptorPool::decode(&bytes[..]).expect("the build made it of the protocol's files")
});

struct Route {
    /// Its path as gRPC has it.
    grpc: String,
    method: MethodDescriptor,
}

static ROUTES: LazyLock<HashMap<&'static str, Route>> = LazyLock::new(|| {
    let route = |(path, name): (&'static str, &'static str)| {
        let (service, method) = name.split_once('/').expect("the table says SERVICE/METHOD");
        let service = POOL.get_service_by_name(service).expect("the table names services of the protocol");
        let method = service.methods().find(|found| found.name() == method);
        let method = method.expect("the table names calls of the protocol");
        (path, Route { grpc: format!("/{name}"), method })
    };
    PATHS.into_iter().map(route).collect()
});

/// Answers one request below `/v3/`.
pub(crate) async fn answer<B>(
    services: &Services,
    request: http::Request<B>,
    bytes_max: usize,
) -> http::Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let Some(route) = ROUTES.get(request.uri().path()) else {
        return unheard(request, bytes_max, StatusCode::NOT_FOUND, "Not Found\n").await;
    };
    if request.method() != Method::POST {
        return unheard(request, bytes_max, StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n").await;
    }
    match call(services, route, request, bytes_max).await {
        Ok(answer) => answer,
        Err(status) => refused(&status),
    }
}

/// A short text whatever the body says, which is waited for: clients of HTTP/2 take an answer that overtakes what they send for a broken one.
pub(crate) async fn unheard<B>(
    request: http::Request<B>,
    bytes_max: usize,
    status: StatusCode,
    text: &str,
) -> http::Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let (mut body, mut bytes) = (request.into_body(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > bytes_max {
            break;
        }
    }
    plain(status, text)
}

/// A short text, as Go's `http.Error` gives it.
pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> http::Response<Body> {
    let mut answer = http::Response::new(whole_body(Bytes::from(text.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

async fn call<B>(
    services: &Services,
    route: &Route,
    request: http::Request<B>,
    bytes_max: usize,
) -> Result<http::Response<Body>, Status>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (head, body) = request.into_parts();
    let input = route.method.input();
    // A client that sends many messages is told of a bad one by the code that its library would give.
    let bad = if route.method.is_client_streaming() { Code::Unknown } else { Code::InvalidArgument };
    let mut asked = Asked { body: Some(body), values: Values::new(bytes_max), input, bad };
    let first = asked.next().await?;
    let body = if route.method.is_client_streaming() {
        let frames = stream::unfold((first, asked), |(first, mut asked)| async move {
            let next = match first {
                Some(first) => Some(Ok(first)),
                None => asked.next().await.transpose(),
            };
            let frame = match next? {
                Ok(message) => Ok(Frame::data(framed(&message))),
                // The client is gone, and what it asked for with it. (Canceled would be read as an orderly end.)
                Err(status) if status.code() == Code::Aborted => Err(status),
                // As etcd's: whatever cannot be read ends what the client says.
                Err(_) => return None,
            };
            Some((frame, (None, asked)))
        });
        Body::new(StreamBody::new(frames))
    } else {
        let message = first.unwrap_or_else(|| DynamicMessage::new(asked.input));
        whole_body(framed(&message))
    };
    let mut grpc = http::Request::new(body);
    *grpc.method_mut() = Method::POST;
    *grpc.uri_mut() = route.grpc.parse().expect("the names of the protocol make a path");
    *grpc.headers_mut() = metadata(&head.headers);
    let Ok(answer) = services.answer(grpc).await;
    let mut told = Told::of(answer, route.method.output());
    if !route.method.is_server_streaming() {
        let message = told.next().await.transpose()?;
        let message = message.ok_or_else(|| Status::internal("a call was answered with nothing"))?;
        // What follows is how the call ended.
        if let Some(Err(status)) = told.next().await {
            return Err(status);
        }
        return Ok(json(StatusCode::OK, encode::text(&message).into()));
    }
    let Some(first) = told.next().await else { return Ok(json(StatusCode::OK, Bytes::new())) };
    let status = first.as_ref().map_or_else(|status| http_status(status.code()), |_| StatusCode::OK);
    let pieces = stream::unfold((Some(first), told), |(first, mut told)| async move {
        let next = match first {
            Some(first) => Some(first),
            None => told.next().await,
        };
        let piece = match next? {
            Ok(message) => format!("{{\"result\":{}}}\n", encode::text(&message)),
            Err(status) => stream_error(&status),
        };
        Some((Ok::<_, Status>(Frame::data(Bytes::from(piece))), (None, told)))
    });
    let mut answer = json(status, Bytes::new());
    *answer.body_mut() = Body::new(StreamBody::new(pieces));
    Ok(answer)
}

fn whole_body(bytes: Bytes) -> Body {
    Body::new(http_body_util::Full::new(bytes))
}

/// What a client says, one message after the other.
struct Asked<B> {
    /// Until it has ended.
    body: Option<B>,
    values: Values,
    input: MessageDescriptor,
    bad: Code,
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> Asked<B> {
    async fn next(&mut self) -> Result<Option<DynamicMessage>, Status> {
        loop {
            if let Some(value) = self.values.next() {
                return self.read(&value).map(Some);
            }
            let frame = match &mut self.body {
                Some(body) => body.frame().await,
                None => None,
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && self.values.take(&bytes).is_err()
                    {
                        return Err(Status::resource_exhausted("the body is larger than a request may be"));
                    }
                }
                Some(Err(_)) => return Err(Status::aborted("the body was cut off")),
                None => {
                    self.body = None;
                    return self.values.last().map(|value| self.read(&value)).transpose();
                }
            }
        }
    }

    fn read(&self, value: &[u8]) -> Result<DynamicMessage, Status> {
        decode::message(&self.input, value).map_err(|why| Status::new(self.bad, why))
    }
}

/// What a service answers, one message after the other.
struct Told {
    body: Option<Counted>,
    waiting: BytesMut,
    output: MessageDescriptor,
    /// How the call ended, where that is known.
    ended: Option<Status>,
}

impl Told {
    fn of(answer: http::Response<Counted>, output: MessageDescriptor) -> Self {
        let ended = Status::from_header_map(answer.headers());
        Self { body: Some(answer.into_body()), waiting: BytesMut::new(), output, ended }
    }

    async fn next(&mut self) -> Option<Result<DynamicMessage, Status>> {
        loop {
            if let Some(message) = self.whole() {
                return Some(message);
            }
            let frame = match &mut self.body {
                Some(body) => body.frame().await,
                None => None,
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.waiting.extend_from_slice(&bytes),
                Some(Ok(Err(trailers))) => {
                    if let Ok(trailers) = trailers.into_trailers() {
                        self.ended = Status::from_header_map(&trailers);
                    }
                }
                Some(Err(status)) => self.ended = Some(status),
                None => {
                    self.body = None;
                    return self.ended.take().filter(|status| status.code() != Code::Ok).map(Err);
                }
            }
        }
    }

    /// A message of which all bytes are there.
    fn whole(&mut self) -> Option<Result<DynamicMessage, Status>> {
        let bytes = self.waiting.get(1..HEAD)?.try_into().expect("a length has four bytes");
        let bytes = u32::from_be_bytes(bytes) as usize;
        if self.waiting.len() - HEAD < bytes {
            return None;
        }
        self.waiting.advance(HEAD);
        let message = DynamicMessage::decode(self.output.clone(), self.waiting.split_to(bytes).freeze());
        Some(message.map_err(|why| Status::internal(format!("an answer is no message: {why}"))))
    }
}

/// Bytes before each message of gRPC: whether it is compressed, and its length.
const HEAD: usize = 5;

fn framed(message: &DynamicMessage) -> Bytes {
    let bytes = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + bytes);
    frame.put_u8(0);
    // A body is bounded far below 4 GiB.
    frame.put_u32(bytes as u32);
    message.encode(&mut frame).expect("a buffer grows as needed");
    frame.freeze()
}

/// What a service hears of a request beside its message: who asks, and what was meant to go through (`Grpc-Metadata-…`).
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut through = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix("grpc-metadata-") {
            Some(rest) => match rest.parse() {
                Ok(name) => name,
                Err(_) => continue,
            },
            None if name == header::AUTHORIZATION => name.clone(),
            None => continue,
        };
        through.append(name, value.clone());
    }
    through.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    through.insert(header::TE, HeaderValue::from_static("trailers"));
    through
}

fn json(status: StatusCode, text: Bytes) -> http::Response<Body> {
    let mut answer = plain(status, String::new());
    *answer.body_mut() = whole_body(text);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn refused(status: &Status) -> http::Response<Body> {
    let (text, code) = (encode::string(status.message()), status.code() as i32);
    let text = format!("{{\"error\":{text},\"code\":{code},\"message\":{text}}}");
    json(http_status(status.code()), text.into())
}

fn stream_error(status: &Status) -> String {
    let http = http_status(status.code());
    let (text, code, number) = (encode::string(status.message()), status.code() as i32, http.as_u16());
    let name = encode::string(http.canonical_reason().unwrap_or_default());
    format!(
        "{{\"error\":{{\"grpc_code\":{code},\"http_code\":{number},\"message\":{text},\"http_status\":{name}}}}}\n"
    )
}

/// The status that grpc-gateway gives for a code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_protocol_has_a_path() {
        // HashKV has no path of its own in etcd 3.5, nor RangeStream in 3.7; health is of gRPC alone.
        let elsewhere = ["/etcdserverpb.Maintenance/HashKV", "/etcdserverpb.KV/RangeStream"];
        for service in POOL.services().filter(|service| service.package_name() != "grpc.health.v1") {
            for method in service.methods() {
                let grpc = format!("/{}/{}", service.full_name(), method.name());
                let found = ROUTES.values().any(|route| route.grpc == grpc);
                assert!(found || elsewhere.contains(&grpc.as_str()), "{grpc} has no path");
            }
        }
    }
}
