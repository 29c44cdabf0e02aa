//! A cluster of real processes that serve Redis clients: started, killed, restarted, asked who leads and how much memory they take.
//!
//! `QUORATE=target/release/quorate` names a binary; without, the one of this build is made and taken. `FOLDER=/dev/shm` says where data goes.
//!
//! Invariant: no process outlives its fleet, nor the test: a server stops when its input ends.
//! Called by: `failover`, `big`.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::differential::resp::{Reply, Wire};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest that anything may take: only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node: its addresses, and its process while it runs.
pub(crate) struct Node {
    pub(crate) redis: SocketAddr,
    http: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

/// The nodes, numbered from 0 here and from 1 to themselves.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    binary: PathBuf,
    extra: Vec<String>,
    folder: TempDir,
}

impl Fleet {
    /// Starts so many nodes, and makes one cluster of them where there are several. `extra` are options of every `quorate serve`.
    #[track_caller]
    pub(crate) fn start(count: usize, extra: &[&str]) -> Self {
        let nodes = (0..count).map(|_| Node {
            redis: free_address(),
            http: free_address(),
            peer: free_address(),
            child: None,
        });
        // On the disk that the build is on: /tmp may be memory.
        let parent = std::env::var("FOLDER").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
        let folder = tempfile::tempdir_in(parent).unwrap();
        let extra = extra.iter().map(|option| (*option).to_owned()).collect();
        let mut fleet = Self { nodes: nodes.collect(), binary: binary(), extra, folder };
        (0..count).for_each(|node| fleet.start_one(node));
        if count > 1 {
            // Its HTTP gateway answers a moment after the process began: until then the command does not find it.
            let url = format!("http://{}", fleet.nodes[0].http);
            fleet.wait("the cluster begins", |fleet| {
                let mut command = Command::new(&fleet.binary);
                command.args(["cluster", "init", "--wait", "40s"]).env("QUORATE_SERVER", &url);
                command.output().unwrap().status.success()
            });
        }
        fleet.whole();
        fleet
    }

    /// Starts a node that does not run, on the data it has.
    pub(crate) fn start_one(&mut self, node: usize) {
        let peers: Vec<String> =
            self.nodes.iter().enumerate().map(|(at, node)| format!("{}={}", at + 1, node.peer)).collect();
        let mut command = Command::new(&self.binary);
        command
            .args(["serve", "--until-stdin-ends", "--data"])
            .arg(self.folder.path().join(format!("node-{}", node + 1)));
        let Node { redis, http, peer, .. } = &self.nodes[node];
        command.args([
            "--http",
            &http.to_string(),
            "--redis",
            &redis.to_string(),
            "--etcd",
            "off",
            "--kafka",
            "off",
        ]);
        if self.nodes.len() > 1 {
            command.args(["--node-id", &(node + 1).to_string(), "--peer-listen", &peer.to_string()]);
            command.args(["--peers", &peers.join(",")]);
        }
        let log = File::options().create(true).append(true).open(self.log(node)).unwrap();
        command.args(&self.extra).stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        self.nodes[node].child = Some(command.spawn().unwrap());
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until every running node takes writes.
    #[track_caller]
    pub(crate) fn whole(&mut self) {
        self.wait("every node takes writes", |fleet| {
            fleet
                .running()
                .all(|node| matches!(ask(node.redis, &["SET", "quorate:fleet", "x"]), Ok(Reply::Status(_))))
        });
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.child.is_some())
    }

    /// Who leads, once all that run agree on it, and the term.
    #[track_caller]
    pub(crate) fn leader(&mut self) -> (usize, u64) {
        let mut found = None;
        self.wait("one leader", |fleet| {
            let mut seen: Vec<_> = fleet.running().map(|node| standing(node.redis)).collect();
            seen.dedup();
            found = (seen.len() == 1).then(|| seen[0]).flatten();
            found.is_some()
        });
        found.expect("waited for")
    }

    /// Resident memory of a node's process in bytes; 0 when it does not run.
    pub(crate) fn memory(&self, node: usize) -> u64 {
        let Some(child) = &self.nodes[node].child else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// How long each thread of a node has computed, by its id.
    pub(crate) fn computed(&self, node: usize) -> BTreeMap<String, Duration> {
        let Some(child) = &self.nodes[node].child else { return BTreeMap::new() };
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let one = |thread: std::fs::DirEntry| {
            // The first number is nanoseconds on a processor (Linux, Documentation/scheduler/sched-stats).
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let ns = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
            (thread.file_name().to_string_lossy().into_owned(), Duration::from_nanos(ns))
        };
        threads.flatten().map(one).collect()
    }

    /// Nodes that ended by themselves, with their last words.
    pub(crate) fn died(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for node in 0..self.nodes.len() {
            let status = self.nodes[node].child.as_mut().and_then(|child| child.try_wait().unwrap());
            if let Some(status) = status {
                self.nodes[node].child = None;
                told.push(format!("node {} ended by itself, {status}: {}", node + 1, self.last_words(node)));
            }
        }
        told
    }

    /// Looks again and again until something holds, while no node ends by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert_eq!(self.died(), Vec::<String>::new());
            assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}: {}", self.last_words(0));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what a node printed.
    pub(crate) fn last_words(&self, node: usize) -> String {
        let text = std::fs::read_to_string(self.log(node)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(6)..].join(" | ")
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{}.log", node + 1))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.kill(node));
    }
}

/// Sends one command on a connection of its own.
pub(crate) fn ask(at: SocketAddr, words: &[&str]) -> Result<Reply, String> {
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    Wire::connect(at)?.ask(&words)
}

/// The leader and the term that a node knows; a node that is alone leads.
fn standing(at: SocketAddr) -> Option<(usize, u64)> {
    let reply = ask(at, &["INFO", "replication"]).ok()?;
    let text = String::from_utf8_lossy(reply.text()?).into_owned();
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.parse::<u64>().ok())
    };
    if text.contains("quorate_role:alone") {
        return Some((0, 0));
    }
    Some((usize::try_from(field("quorate_leader")?).ok()?.checked_sub(1)?, field("quorate_term")?))
}

/// An address that nobody listens on, below those that the system gives to outgoing connections, so that it is still free after a restart.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % 60 * 200;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::SeqCst)) % 12_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The server that is tested. Other tests of this package need none, so it is made here, in the folder of this build.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE") {
        return PathBuf::from(path);
    }
    let tests = std::env::current_exe().unwrap();
    let profile = tests.ancestors().nth(2).unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--package", "quorate", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    profile.join("quorate")
}
