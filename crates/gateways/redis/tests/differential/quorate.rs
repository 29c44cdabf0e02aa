//! A Quorate of some tests' own: a real log in a folder under `target`, behind the gateway, on a free port.
//!
//! Whose clients share one, see each other's keys in what SCAN passes: databases are parts of one table.
//!
//! Invariant: it serves until the process ends; its folder is emptied by the next run.
//! Called by: `main`, `clients`.

use quorate_runtime::{Durability, Quorate};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::channel;

/// Starts one for the tests of this name; where it answers.
pub(crate) fn start(name: &'static str) -> SocketAddr {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("a bound listener has an address");
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("quorate-{name}"));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).expect("a folder under target");
            // What is compared does not hang on when it is durable; waiting for the disk at every command would.
            let config = quorate_runtime::Config { durability: Durability::Interval, ..Default::default() };
            let data = Quorate::open(&folder, config, |_, _| {}).expect("an empty folder opens");
            tell.send(address).expect("somebody asked");
            let served = quorate_redis::serve(
                listener,
                data.handle(),
                quorate_redis::Config::default(),
                std::future::pending(),
            );
            served.await.expect("the gateway serves");
        });
    });
    told.recv().expect("the server starts")
}
