//! The accept loop: connections within bounds, TLS where configured, an orderly end.
//!
//! Invariant: at most `maxclients` connections are open; one more is told so and closed, never queued.
//! Invariant: when `serve` returns, no connection of it is left.
//! Called by: the server's `main`, and tests on port 0.

use crate::config::Config;
use crate::connection::Connection;
use crate::gateway::Gateway;
use crate::stream::Stream;
use quorate_runtime::{Handle, accept};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::{TcpListener, TcpStream};

/// Told to a connection beyond the bound, in Redis' words.
const BUSY: &[u8] = b"-ERR max number of clients reached\r\n";

/// Why serving could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener does not say where it listens.
    #[error("ask for the address of the Redis gateway: {0}")]
    Address(std::io::Error),
}

/// Serves `handle` on `listener` until `shutdown` resolves; then lets open commands end within the grace.
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
    let gateway = Arc::new(Gateway::new(handle, config, address));
    // An address that stands for all of a machine's tells other machines nothing.
    if gateway.config.advertise.is_some() || !address.ip().is_unspecified() {
        let (host, port) = gateway.advertised();
        gateway.handle.announce(|doors| doors.redis = format!("{host}:{port}"));
    }
    let delivering = {
        let (gateway, published) = (Arc::clone(&gateway), gateway.handle.subscribe());
        tokio::spawn(async move { gateway.deliver(published).await })
    };
    let minding = {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.mind_users().await })
    };
    let following = {
        let (gateway, changes) = (Arc::clone(&gateway), gateway.handle.changes());
        tokio::spawn(async move { gateway.invalidate(changes).await })
    };
    let connections = accept(listener, shutdown, |stream, peer, open| {
        if open >= gateway.connections_max.load(Ordering::Relaxed) {
            gateway.stats.refused.fetch_add(1, Ordering::Relaxed);
            // A best effort: a TLS client, or one that does not listen, sees the connection closed.
            let _ = stream.try_write(BUSY);
            return None;
        }
        Some(connection(Arc::clone(&gateway), stream, peer))
    })
    .await;
    gateway.connected().iter().for_each(|client| client.kill());
    connections.end(gateway.config.shutdown_grace).await;
    delivering.abort();
    minding.abort();
    following.abort();
    Ok(())
}

async fn connection(gateway: Arc<Gateway>, stream: TcpStream, peer: SocketAddr) {
    gateway.stats.accepted.fetch_add(1, Ordering::Relaxed);
    // Replies are small and somebody waits for each. Should it fail, they are only slower.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().unwrap_or(gateway.address);
    let stream = match &gateway.config.tls {
        None => Stream::Plain(stream),
        Some(acceptor) => {
            let shaken =
                tokio::time::timeout(gateway.config.handshake_timeout, acceptor.accept(stream)).await;
            // A client that does not shake hands in time, or not as TLS has it, sees its connection closed.
            let Ok(Ok(stream)) = shaken else { return };
            Stream::Tls(Box::new(stream))
        }
    };
    let client = gateway.enter(peer, local);
    Connection::new(gateway, client, stream).run().await;
}
