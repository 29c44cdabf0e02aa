//! The accept loop: connections within bounds, TLS where configured, gRPC and JSON by path, an orderly end.
//!
//! Invariant: when `serve` returns, no connection of it is left.
//! Called by: the server's `main`, and tests on port 0.

use crate::certificate::CommonName;
use crate::config::Config;
use crate::connection;
use crate::gateway::Gateway;
use crate::json;
use crate::metrics::{Calls, Counted};
use crate::probe::{self, Seen};
use crate::protocol::etcdserverpb as pb;
use crate::protocol::grpc::health::v1::health_server::HealthServer;
use crate::protocol::v3electionpb::election_server::ElectionServer;
use crate::protocol::v3lockpb::lock_server::LockServer;
use bytes::Bytes;
use futures_util::Stream;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use pb::auth_server::AuthServer;
use pb::cluster_server::ClusterServer;
use pb::kv_server::KvServer;
use pb::lease_server::LeaseServer;
use pb::maintenance_server::MaintenanceServer;
use pb::watch_server::WatchServer;
use quorate_runtime::{Handle, accept};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::codegen::{Service, StdError, http};

/// Bytes that gRPC may add to a request of the largest size, as etcd allows.
const OVERHEAD_BYTES: usize = 512 << 10;
/// What a client of HTTP/2 begins with (RFC 9113, §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Said to a client that asks in JSON and shows a certificate with a name, once authentication is enabled; etcd's text.
const UNHEARD: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected\n";

/// Why serving could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener does not say where it listens.
    #[error("ask for the address of the etcd gateway: {0}")]
    Address(std::io::Error),
}

/// Every service of the gateway.
#[derive(Clone)]
pub(crate) struct Api(pub(crate) Arc<Gateway>);

/// Answers of a stream, in order.
pub(crate) struct Answers<T>(mpsc::Receiver<Result<T, Status>>);

impl<T> Answers<T> {
    pub(crate) fn of(receive: mpsc::Receiver<Result<T, Status>>) -> Self {
        Self(receive)
    }
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// Serves `handle` on `listener` until `shutdown` resolves; then lets open requests end within the grace.
///
/// # Errors
/// [`ServeError`] before anything is served.
pub async fn serve(
    listener: TcpListener,
    handle: Handle,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Address)?;
    let (stop, stopping) = watch::channel(false);
    let gateway = Arc::new(Gateway::new(handle, config, address, stopping));
    // An address that stands for all of a machine's tells other machines nothing.
    if gateway.config.advertise.is_some() || !address.ip().is_unspecified() {
        gateway.handle.announce(|doors| doors.etcd = gateway.advertised());
    }
    let telling = {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.hub.run(&gateway.handle).await })
    };
    let looking = {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { Seen::watch(&gateway).await })
    };
    let services = Arc::new(Services::of(&gateway));
    let connections = accept(listener, shutdown, |stream, _, open| {
        // Beyond the bound its client sees it closed, and tries another node or later.
        let within = open < gateway.config.connections_max;
        within.then(|| connection(Arc::clone(&gateway), Arc::clone(&services), stream))
    })
    .await;
    stop.send_replace(true);
    connections.end(gateway.config.shutdown_grace).await;
    telling.abort();
    looking.abort();
    Ok(())
}

async fn connection(gateway: Arc<Gateway>, services: Arc<Services>, stream: TcpStream) {
    // Answers are small and somebody waits for each. Should it fail, they are only slower.
    let _ = stream.set_nodelay(true);
    match &gateway.config.tls {
        None => requests(&gateway, services, stream, None).await,
        Some(acceptor) => {
            let shaken =
                tokio::time::timeout(gateway.config.handshake_timeout, acceptor.accept(stream)).await;
            // A client that does not shake hands in time, or not as TLS has it, sees its connection closed.
            let Ok(Ok(stream)) = shaken else { return };
            // Clients are asked for certificates only where those are verified.
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let name = shown.map(|certificate| CommonName::of(certificate));
            requests(&gateway, services, stream, name).await;
        }
    }
}

/// Answers the requests of a connection, whose client's certificate gives it a name or not.
async fn requests<S>(gateway: &Arc<Gateway>, services: Arc<Services>, stream: S, name: Option<CommonName>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake_timeout = gateway.config.handshake_timeout;
    let begun = tokio::time::timeout(handshake_timeout, Begun::of(stream)).await;
    let Ok(Some((stream, is_http2))) = begun else { return };
    let asked = Arc::clone(gateway);
    if is_http2 {
        let answer = move |request| {
            let (gateway, services, name) = (Arc::clone(&asked), Arc::clone(&services), name.clone());
            async move { route(&gateway, &services, request, name).await }
        };
        return connection::serve(stream, handshake_timeout, answer, gateway.stopped()).await;
    }
    let service = hyper::service::service_fn(move |request| {
        let (gateway, services, name) = (Arc::clone(&asked), Arc::clone(&services), name.clone());
        async move { Ok::<_, Infallible>(route(&gateway, &services, request, name).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // What goes wrong here concerns this connection alone, and its client sees it closed.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = gateway.stopped() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A stream whose first bytes were looked at.
struct Begun<S> {
    seen: Vec<u8>,
    /// How many of them were read again.
    read: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Reads until it is known whether HTTP/2 is spoken; nothing when the client goes away before.
    async fn of(mut stream: S) -> Option<(Self, bool)> {
        let mut seen = Vec::with_capacity(PREFACE.len());
        while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
            let wanted = (PREFACE.len() - seen.len()) as u64;
            if (&mut stream).take(wanted).read_buf(&mut seen).await.ok()? == 0 {
                return None;
            }
        }
        let is_http2 = seen == PREFACE;
        Some((Self { seen, read: 0, stream }, is_http2))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let left = &self.seen[self.read..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// gRPC by what it says it is, JSON and probes by their paths. A certificate speaks for gRPC alone. A client that shows one with JSON believes
/// otherwise, and is told: with etcd, whose gateway to JSON comes by a certificate of its own, the name would go unheard.
async fn route<B>(
    gateway: &Arc<Gateway>,
    services: &Services,
    mut request: http::Request<B>,
    name: Option<CommonName>,
) -> http::Response<Counted>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        if let Some(name) = name {
            request.extensions_mut().insert(name);
        }
        let Ok(answer) = services.answer(request).await;
        return answer;
    }
    // Boxed: what is seldom asked for would otherwise make every call larger.
    let answer = if request.uri().path().starts_with("/v3/") {
        // A value is a third longer in base64.
        let bytes_max = services.bytes_max.saturating_mul(4) / 3;
        if name.is_some_and(|CommonName(name)| !name.is_empty()) && !gateway.is_open() {
            Box::pin(json::unheard(request, bytes_max, http::StatusCode::BAD_REQUEST, UNHEARD)).await
        } else {
            Box::pin(json::answer(services, request, bytes_max)).await
        }
    } else {
        Box::pin(probe::answer(gateway, &services.calls, &request.into_parts().0)).await
    };
    answer.map(Counted::from)
}

/// The services, each to be cloned for a request.
pub(crate) struct Services {
    calls: Calls,
    /// Of one message.
    bytes_max: usize,
    kv: KvServer<Api>,
    watch: WatchServer<Api>,
    lease: LeaseServer<Api>,
    cluster: ClusterServer<Api>,
    maintenance: MaintenanceServer<Api>,
    auth: AuthServer<Api>,
    lock: LockServer<Api>,
    election: ElectionServer<Api>,
    health: HealthServer<Api>,
}

impl Services {
    fn of(gateway: &Arc<Gateway>) -> Self {
        let api = || Api(Arc::clone(gateway));
        let bytes_max = usize::try_from(gateway.config.request_bytes_max).unwrap_or(usize::MAX);
        let bytes_max = bytes_max.saturating_add(OVERHEAD_BYTES);
        Self {
            calls: Calls::new(),
            bytes_max,
            kv: KvServer::new(api()).max_decoding_message_size(bytes_max),
            watch: WatchServer::new(api()).max_decoding_message_size(bytes_max),
            lease: LeaseServer::new(api()),
            cluster: ClusterServer::new(api()),
            maintenance: MaintenanceServer::new(api()),
            auth: AuthServer::new(api()),
            lock: LockServer::new(api()),
            election: ElectionServer::new(api()),
            health: HealthServer::new(api()),
        }
    }

    /// Makes one call, however its message came.
    pub(crate) async fn answer<B>(
        &self,
        request: http::Request<B>,
    ) -> Result<http::Response<Counted>, Infallible>
    where
        B: hyper::body::Body + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        let counting = self.calls.begin(request.uri().path());
        let answer = match request.uri().path().split('/').nth(1).unwrap_or_default() {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Auth" => self.auth.clone().call(request).await,
            "v3lockpb.Lock" => self.lock.clone().call(request).await,
            "v3electionpb.Election" => self.election.clone().call(request).await,
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            other => Ok(Status::unimplemented(format!("unknown service {other}")).into_http()),
        };
        answer.map(|answer| counting.told(answer))
    }
}
