//! The accept loop of every gateway, and its orderly end.
//!
//! Invariant: when [`Connections::end`] returns, no connection is left.
//! Called by: the `serve` of each gateway, which says what a connection is and how many there may be.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long nothing is accepted after that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(20);

/// Connections that are being served.
#[derive(Debug)]
pub struct Connections(JoinSet<()>);

/// Accepts connections until `shutdown` resolves, then closes the listener. `begin` is given each, with the number of those that are open, and
/// gives back what serves it, or nothing when it has refused it.
pub async fn accept<F>(
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    mut begin: impl FnMut(TcpStream, SocketAddr, usize) -> Option<F>,
) -> Connections
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return Connections(connections),
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(served) = begin(stream, peer, connections.len()) {
                    connections.spawn(served);
                }
            }
            // Most often no file descriptors are left: some must be closed first, and spinning helps nobody.
            Err(_) => tokio::time::sleep(FAILED_PAUSE).await,
        }
    }
}

impl Connections {
    /// Lets all of them end within `grace`, then ends the rest.
    pub async fn end(mut self, grace: Duration) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            self.0.shutdown().await;
        }
    }
}
