//! Real Redis servers, as `scripts/redis.sh` puts them into `target/redis`.
//!
//! Invariant: a server ends with the value that stands for it.
//! Called by: `main`.

use super::resp::Wire;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A redis-server of this test's own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts one, without any file; `redis-server` is Debian's, `redis-new` a newer one.
    pub(crate) fn start(name: &str) -> Self {
        let binary = folder().join(name);
        let address = free_address();
        let child = Command::new(&binary)
            .args([
                "--port",
                &address.port().to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--databases", "32", "--loglevel", "warning", "--daemonize", "no"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let mut server = Self { address, child };
        let until = Instant::now() + Duration::from_secs(15);
        while Wire::connect(address).and_then(|mut wire| wire.ask(&[b"PING".to_vec()])).is_err() {
            assert!(Instant::now() < until, "{name} does not answer at {address}");
            assert!(server.child.try_wait().unwrap().is_none(), "{name} has ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder with the servers, filled at first use: a machine that cannot have them fails the test.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let folder = root.join("target/redis");
        let done =
            Command::new(root.join("scripts/redis.sh")).arg(&folder).output().expect("scripts/redis.sh runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        folder
    })
}

/// An address that nobody uses just now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}
