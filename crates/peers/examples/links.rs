//! Measures links over loopback: `cargo run --release -p quorate-peers --example links [tls CERT KEY CA]`.
//!
//! Two nodes in one process, each on a thread of its own as in production; one sends as fast as the other takes. Reports messages and
//! megabytes per second for small frames (200 B) and large ones (1 MiB), the time for one frame there and back, and bulk requests of 8 MiB.

use bytes::Bytes;
use quorate_peers::{BoxFuture, Hello, Host, Links, LinksConfig, PeerTls};
use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

const SMALL: usize = 200;
const LARGE: usize = 1 << 20;
/// Sent, not yet received: enough to keep the link busy, far below what its queue takes.
const WINDOW_BYTES: u64 = 32 << 20;

struct Counting {
    node: u64,
    up: Sender<()>,
    frames: AtomicU64,
    reads: AtomicU64,
    /// Frames of 8 bytes are sent back by it.
    links: OnceLock<Arc<Links>>,
}

impl Host for Counting {
    fn hello(&self) -> Hello {
        Hello {
            cluster: 1,
            node: self.node,
            instance: self.node,
            incarnation: self.node,
            features: Bytes::new(),
        }
    }
    fn accept(&self, _: &Hello, _: Option<u64>) -> Result<(), String> {
        Ok(())
    }
    fn up(&self, _: u64, _: Hello, _: u64) {
        let _ = self.up.send(()); // Nobody waits after the start.
    }
    fn down(&self, node: u64, _: u64, why: &str) {
        eprintln!("the link to {node} ended: {why}");
    }
    fn frames(&self, node: u64, _: &Hello, frames: &mut Vec<Bytes>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let (Some(links), [frame]) = (self.links.get(), frames.as_slice())
            && frame.len() == 8
            && self.node == 2
        {
            links.send(node, frame.clone());
        }
        self.frames.fetch_add(frames.len() as u64, Ordering::Release);
    }
    fn fetch(&self, _: u64, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Ok(Bytes::from(vec![7; 8 << 20])) })
    }
    fn note(&self, text: String) {
        eprintln!("{text}");
    }
}

struct Node {
    links: Arc<Links>,
    host: Arc<Counting>,
    up: Receiver<()>,
}

fn node(id: u64, tls: Option<PeerTls>) -> Result<Node, Box<dyn Error>> {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
    let (sender, up) = channel();
    let host = Arc::new(Counting {
        node: id,
        up: sender,
        frames: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        links: OnceLock::new(),
    });
    let config = LinksConfig { tls, ..LinksConfig::default() };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let links = Arc::new(Links::start(runtime.handle(), listener, host.clone(), config)?);
    host.links.get_or_init(|| links.clone());
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(Node { links, host, up })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tls = match arguments.as_slice() {
        [word, cert, key, ca] if word == "tls" => {
            Some(PeerTls::load(Path::new(cert), Path::new(key), Path::new(ca))?)
        }
        _ => None,
    };
    println!("{}", if tls.is_some() { "mutual TLS 1.3" } else { "plain TCP" });
    let (a, b) = (node(1, tls.clone())?, node(2, tls)?);
    a.links.set_peers(vec![(2, b.links.local_addr().to_string())]);
    b.links.set_peers(vec![(1, a.links.local_addr().to_string())]);
    a.up.recv_timeout(Duration::from_secs(10))?;
    b.up.recv_timeout(Duration::from_secs(10))?;
    stream(&a, &b, SMALL, 10_000_000);
    stream(&a, &b, LARGE, 8_000);
    there_and_back(&a, 20_000);
    bulk(&a)
}

/// Sends `count` frames as fast as they are received.
fn stream(a: &Node, b: &Node, bytes: usize, count: u64) {
    let (frame, window) = (Bytes::from(vec![1; bytes]), WINDOW_BYTES / bytes as u64);
    let (before, reads) = (b.host.frames.load(Ordering::Acquire), b.host.reads.load(Ordering::Relaxed));
    let start = Instant::now();
    let (mut sent, mut seen) = (0, 0);
    while seen < count {
        if sent < count && sent - seen < window && a.links.send(2, frame.clone()) {
            sent += 1;
            if sent % 64 != 0 {
                continue;
            }
        }
        seen = b.host.frames.load(Ordering::Acquire) - before;
        if sent == count || sent - seen >= window {
            std::thread::sleep(Duration::from_micros(200)); // Three threads share few cores.
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{bytes:>8} B frames: {:>10.0} messages/s {:>7.0} MB/s {:>7.0} frames per read",
        count as f64 / seconds,
        count as f64 * bytes as f64 / seconds / 1e6,
        count as f64 / (b.host.reads.load(Ordering::Relaxed) - reads) as f64,
    );
}

/// One small frame at a time, and its echo.
fn there_and_back(a: &Node, count: u64) {
    let mut times = Vec::new();
    for n in 0..count {
        let before = a.host.frames.load(Ordering::Acquire);
        let start = Instant::now();
        a.links.send(2, Bytes::copy_from_slice(&n.to_le_bytes()));
        while a.host.frames.load(Ordering::Acquire) == before {
            std::thread::yield_now();
        }
        times.push(start.elapsed());
    }
    times.sort();
    let at = |per_mille: usize| times[times.len() * per_mille / 1000];
    println!("there and back: p50 {:?}, p99 {:?}", at(500), at(990));
}

/// Bulk requests of 8 MiB, one and four at a time.
fn bulk(a: &Node) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    for at_once in [1, 4] {
        let start = Instant::now();
        let rounds = 32 / at_once;
        runtime.block_on(async {
            for _ in 0..rounds {
                let mut asked = tokio::task::JoinSet::new();
                for _ in 0..at_once {
                    let links = a.links.clone();
                    asked.spawn(async move { links.fetch(2, Bytes::new(), Duration::from_secs(10)).await });
                }
                while let Some(done) = asked.join_next().await {
                    done??;
                }
            }
            Ok::<(), Box<dyn Error>>(())
        })?;
        let bytes = (rounds * at_once * (8 << 20)) as f64;
        println!("bulk, {at_once} at a time: {:>7.0} MB/s", bytes / start.elapsed().as_secs_f64() / 1e6);
    }
    Ok(())
}
