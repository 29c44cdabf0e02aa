//! The accept loop: connections within bounds, TLS where configured, an orderly end.
//!
//! Invariant: at most `connections_max` connections are open; one more is told 503 and closed, never queued.
//! Invariant: when `serve` returns, no connection of it is left.
//! Called by: the server's `main`, and tests on port 0.

use crate::call::Gateway;
use crate::cluster::Leader;
use crate::config::Config;
use crate::dispatch;
use crate::metrics::Metrics;
use crate::routes::{ROUTES, Routes};
use crate::tls;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use quorate_runtime::{Handle, accept};
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Largest head of a request: method, path, query and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Told to a connection beyond the bound.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 201\r\n\r\n{\"type\":\"urn:quorate:problem:too_many_connections\",\"title\":\"Too many connections\",\"status\":503,\"detail\":\"Too many connections are open\",\"error\":\"too_many_connections\",\"took_effect\":\"no\",\"retry\":\"same\"}";

/// Why serving could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
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
    let acceptor = config.tls.as_ref().map(|files| tls::acceptor(files, &[b"http/1.1"], None)).transpose()?;
    let (stop, stopping) = watch::channel(false);
    let metrics = Metrics::new(ROUTES.iter().map(|route| (route.method, route.path)).collect());
    let gateway = Arc::new(Gateway {
        handle,
        routes: Routes::new(),
        config,
        metrics,
        leader: Leader::default(),
        stopping,
    });
    let connections = accept(listener, shutdown, |stream, _, open| {
        if open >= gateway.config.connections_max {
            refuse(&gateway, &stream);
            return None;
        }
        Some(connection(gateway.clone(), acceptor.clone(), stream))
    })
    .await;
    stop.send_replace(true);
    connections.end(gateway.config.shutdown_grace).await;
    Ok(())
}

fn refuse(gateway: &Gateway, stream: &TcpStream) {
    gateway.metrics.refused.fetch_add(1, Ordering::Relaxed);
    // A best effort: a TLS client, or one that does not listen, sees the connection closed.
    let _ = stream.try_write(BUSY);
}

async fn connection(gateway: Arc<Gateway>, acceptor: Option<TlsAcceptor>, stream: TcpStream) {
    gateway.metrics.accepted.fetch_add(1, Ordering::Relaxed);
    gateway.metrics.connections.fetch_add(1, Ordering::Relaxed);
    // Answers are small and somebody waits for each. Should it fail, they are only slower.
    let _ = stream.set_nodelay(true);
    // What goes wrong here concerns this connection alone, and its client sees it closed.
    let _: io::Result<()> = match acceptor {
        None => requests(&gateway, stream).await,
        Some(acceptor) => {
            match tokio::time::timeout(gateway.config.header_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => requests(&gateway, stream).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    };
    gateway.metrics.connections.fetch_sub(1, Ordering::Relaxed);
}

async fn requests<S>(gateway: &Arc<Gateway>, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let answered = dispatch::answer(gateway.clone(), request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(gateway.config.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = gateway.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_connection_is_a_whole_answer() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: usize = head.split_once("content-length: ").unwrap().1.parse().unwrap();
        assert_eq!(body.len(), length);
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], 503);
    }
}
