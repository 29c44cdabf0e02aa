//! A gateway served on port 0 over a real runtime on a temporary folder: what the tests of every gateway stand on.
//!
//! Called by: `tests/support` of each gateway, which adds a client of its protocol.

use quorate_runtime::{Config, Handle, Quorate};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longest that anything in these tests may take: only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. Dropping it without [`Served::stop`] leaves the end to the process.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    pub(crate) data: Quorate,
    _folder: TempDir,
}

impl Served {
    /// Has `serve` serve until the receiver that it is given resolves.
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(TcpListener, Handle, oneshot::Receiver<()>) -> F,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = Quorate::open(folder.path(), Config::default(), |_, _| {}).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, data.handle(), stopped));
        Self { address, stop, task, data, _folder: folder }
    }

    /// Stops serving, and waits until it has ended.
    pub(crate) async fn stop(self) {
        let Self { stop, task, data, .. } = self;
        drop(stop);
        tokio::time::timeout(PATIENCE, task).await.expect("the server ends in good order").unwrap();
        tokio::task::spawn_blocking(move || data.close()).await.unwrap();
    }
}
