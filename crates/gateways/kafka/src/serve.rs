//! The accept loop: connections within bounds, TLS where configured, an orderly end.
//!
//! Invariant: when `serve` returns, no connection of it is left.
//! Called by: the server's `main`, and tests on port 0.

use crate::config::Config;
use crate::connection::Connection;
use crate::gateway::Gateway;
use crate::stream::Stream;
use quorate_runtime::{Handle, accept};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Why serving could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener does not say where it listens.
    #[error("ask for the address of the Kafka gateway: {0}")]
    Address(std::io::Error),
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
        let (host, port) = gateway.advertised();
        gateway.handle.announce(|doors| doors.kafka = format!("{host}:{port}"));
    }
    let connections = accept(listener, shutdown, |stream, _, open| {
        // Beyond the bound its client sees it closed, and tries another node or later.
        (open < gateway.config.connections_max).then(|| connection(Arc::clone(&gateway), stream))
    })
    .await;
    stop.send_replace(true);
    connections.end(gateway.config.shutdown_grace).await;
    Ok(())
}

async fn connection(gateway: Arc<Gateway>, stream: TcpStream) {
    let host = stream.peer_addr().map_or(String::new(), |peer| format!("/{}", peer.ip()));
    // Somebody waits for each answer. Should it fail, they are only slower.
    let _ = stream.set_nodelay(true);
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
    Connection::new(gateway, stream, host).run().await;
}
