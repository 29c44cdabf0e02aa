//! Clusters of real processes on this machine: started, killed, restarted, and asked over plain HTTP.

use super::{PATIENCE, Run, quorate, run, terminate, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A port that nobody listens on, below those that the system gives to outgoing connections, so that it is still free after a restart.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % 50 * 200;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::SeqCst)) % 12_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends a request on a connection of its own; nothing when the connection fails or breaks.
pub(crate) fn http(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let mut stream = TcpStream::connect(url.split_once("://").unwrap().1).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{more}\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A node of a cluster: a folder, two ports, and a process while it runs.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) http: u16,
    pub(crate) peers: u16,
    pub(crate) data: PathBuf,
    /// Arguments beyond those of every node.
    pub(crate) extra: Vec<String>,
    process: Option<Child>,
    said: Arc<Mutex<String>>,
}

impl Node {
    pub(crate) fn new(id: u64, data: PathBuf) -> Self {
        let (http, peers) = (free_port(), free_port());
        Self { id, http, peers, data, extra: vec![], process: None, said: Arc::default() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.peers)
    }

    /// Starts it, and waits until it takes requests.
    #[track_caller]
    pub(crate) fn start(&mut self, peers: &str) {
        self.said.lock().unwrap().clear();
        let (http, listen, id) = (format!("127.0.0.1:{}", self.http), self.address(), self.id.to_string());
        let mut command =
            quorate(&["serve", "--json", "--http", &http, "--node-id", &id, "--peer-listen", &listen]);
        if !peers.is_empty() {
            command.args(["--peers", peers]);
        }
        let mut child = command.arg("--data").arg(&self.data).args(&self.extra).spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::clone(&self.said);
        std::thread::spawn(move || {
            let mut line = String::new();
            while err.read_line(&mut line).is_ok_and(|read| read > 0) {
                said.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.process = Some(child);
        assert!(line.contains("url"), "node {id} did not start: {}", self.said());
    }

    /// What it has said on stderr since it was started.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it in good order; its exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        let mut child = self.process.take().unwrap();
        terminate(&child);
        child.wait().unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        http(&self.url(), method, path, &[], body)
    }

    /// Sends a request until it is answered by something else than 503 or 504.
    #[track_caller]
    pub(crate) fn served(&self, method: &str, path: &str, body: &str) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.http(method, path, body);
            match answer {
                Some(answer) if ![503, 504].contains(&answer.status) => return answer,
                answer => assert!(
                    Instant::now() < deadline,
                    "node {} does not serve {method} {path}: {answer:?}\n{}",
                    self.id,
                    self.said()
                ),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn status(&self) -> Option<Value> {
        self.http("GET", "/v1/cluster", "").filter(|answer| answer.status == 200).map(|answer| answer.json())
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let mut command = quorate(args);
        if let ["cluster", "init" | "add" | "remove" | "replace" | "transfer", ..] = args {
            // Within the tests' patience, so that a failure is told by the command itself.
            command.args(["--wait", "40s"]);
        }
        Run::of(command.env("QUORATE_SERVER", self.url()).output().unwrap())
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Run {
        let done = self.run(args);
        assert_eq!(done.code, 0, "{args:?}: {done:?}\n{}", self.said());
        done
    }

    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str], wanted: &str) {
        let done = self.run(args);
        assert!(done.code != 0 && done.err.contains(wanted), "{args:?}, wanted \"{wanted}\": {done:?}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster, running. Dropped, its nodes are killed.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    folder: TempDir,
}

impl Fleet {
    /// A cluster of so many nodes, whole.
    #[track_caller]
    pub(crate) fn start(nodes: u64) -> Self {
        Self::with(nodes, |_| vec![])
    }

    /// The same; `extra` gives each node's own arguments.
    #[track_caller]
    pub(crate) fn with(nodes: u64, extra: impl Fn(u64) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Fleet { nodes: vec![], folder };
        for id in 1..=nodes {
            let mut node = Node::new(id, fleet.folder.path().join(format!("node-{id}")));
            node.extra = extra(id);
            fleet.nodes.push(node);
        }
        let peers = fleet.peers();
        fleet.nodes.iter_mut().for_each(|node| node.start(&peers));
        let begun = fleet.nodes[0].run(&["cluster", "init"]);
        assert_eq!(begun.code, 0, "{begun:?}\n{}", fleet.said());
        fleet
    }

    /// A node that is no member yet, with an empty folder; not started.
    pub(crate) fn stranger(&self, id: u64) -> Node {
        Node::new(id, self.folder.path().join(format!("stranger-{id}-{}", free_port())))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn peers(&self) -> String {
        let all: Vec<String> =
            self.nodes.iter().map(|node| format!("{}={}", node.id, node.address())).collect();
        all.join(",")
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    /// Starts a node that was killed or stopped, as it was started before.
    #[track_caller]
    pub(crate) fn restart(&mut self, id: u64) {
        let peers = self.peers();
        self.node(id).start(&peers);
    }

    /// Who leads, once every running node agrees.
    #[track_caller]
    pub(crate) fn leader(&self) -> u64 {
        until("all nodes know one leader", || {
            let running = self.nodes.iter().filter(|node| node.runs());
            let leaders: Option<Vec<u64>> = running.map(|node| node.status()?["leader"].as_u64()).collect();
            let leaders = leaders?;
            leaders.iter().all(|leader| *leader == leaders[0]).then(|| leaders[0])
        })
    }

    /// A running node that does not lead.
    #[track_caller]
    pub(crate) fn follower(&self) -> u64 {
        let leader = self.leader();
        self.nodes.iter().find(|node| node.runs() && node.id != leader).unwrap().id
    }

    /// What all nodes have said.
    pub(crate) fn said(&self) -> String {
        self.nodes.iter().map(|node| format!("--- node {}\n{}", node.id, node.said())).collect()
    }
}

/// Runs the binary to its end, in at most the patience; what it does is bounded by itself.
#[track_caller]
pub(crate) fn fails(args: &[&str], wanted: &str) {
    let done = run(args);
    assert!(done.code != 0 && done.err.contains(wanted), "{args:?}, wanted \"{wanted}\": {done:?}");
}

/// How long something may take that has to be quick, on a machine under load.
pub(crate) const QUICK: Duration = Duration::from_millis(1500);
