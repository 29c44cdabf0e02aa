//! `quorate up`: a whole cluster on this machine, for trying and testing: as many servers as nodes, one process each.
//!
//! Invariant: no server outlives this command, however it ends: each stops in good order when its stdin ends.
//! Invariant: none is restarted: whoever kills one to see what happens sees it.

use crate::client::Connect;
use crate::client::Request;
use crate::commands::cluster::{show, wait, whole};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::signals;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How far the peers' ports lie above the clients'.
const PEER_PORTS: u16 = 100;
/// How long the cluster may take to form.
const FORM_WITHIN: Duration = Duration::from_secs(60);
/// How long the servers may take to stop in good order.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Start a local cluster, for trying and testing.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate up
  quorate up --nodes 5 --data ./cluster
  quorate up --port 0 --json                     (free ports; what came of it is printed on stdout)

Every node is a process of its own on 127.0.0.1: kill one and watch the others go on. ctrl-c stops them all in good order. Without --data
everything is in a temporary folder, which is removed at the end.")]
pub(crate) struct Up {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Folder for their data, kept; begun anew or gone on with.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Port of the first node; the others follow it, and peers talk 100 higher. 0 takes any free ports.
    #[arg(long, value_name = "PORT", default_value_t = 8400)]
    port: u16,
    /// Port of the first node's Redis gateway; the others follow it. 0, or --port 0, takes any free ports.
    #[arg(long, value_name = "PORT", default_value_t = 6379)]
    redis_port: u16,
    /// Port of the first node's etcd gateway; the others follow it. 0, or --port 0, takes any free ports.
    #[arg(long, value_name = "PORT", default_value_t = 2379)]
    etcd_port: u16,
    /// Port of the first node's Kafka gateway; the others follow it. 0, or --port 0, takes any free ports.
    #[arg(long, value_name = "PORT", default_value_t = 9092)]
    kafka_port: u16,
}

/// Where one node listens.
#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    peers: u16,
    redis: u16,
    etcd: u16,
    kafka: u16,
}

/// What happens while the servers run.
enum News {
    /// A signal to this process.
    Signal(u8),
    /// A server has ended.
    Ended(usize, std::io::Result<ExitStatus>),
}

impl Up {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let (folder, temporary) = self.folder()?;
        let ports = self.ports()?;
        let (tell, news) = channel();
        let signalled = tell.clone();
        signals::listen(move |signal| signalled.send(News::Signal(signal)).is_ok())?;
        let mut nodes = Vec::new();
        for number in 0..ports.len() {
            nodes.push(Node::start(number, &ports, &folder)?);
        }
        for node in &mut nodes {
            node.hear()?;
        }
        form(&nodes[0].url)?;
        self.tell(&nodes, &folder, temporary.is_some(), output)?;
        for node in &mut nodes {
            node.watch(tell.clone());
        }
        let mut running: Vec<usize> = nodes.iter().map(|node| node.number).collect();
        let ended = attend(&nodes, &mut running, &news);
        stop(nodes, running, &news);
        if let Some(temporary) = temporary {
            let path = temporary.path().display().to_string();
            temporary.close().map_err(|error| Failure::io(format!("remove {path}"), &error))?;
            eprintln!("{path} is removed");
        }
        ended
    }

    fn folder(&self) -> Result<(PathBuf, Option<TempDir>), Failure> {
        if let Some(folder) = &self.data {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failure::io(format!("make {}", folder.display()), &error))?;
            return Ok((folder.clone(), None));
        }
        let temporary = tempfile::Builder::new().prefix("quorate-up-").tempdir();
        let temporary = temporary.map_err(|error| Failure::io("make a temporary folder", &error))?;
        eprintln!("data in {}, removed at the end; keep it with --data DIR", temporary.path().display());
        Ok((temporary.path().to_owned(), Some(temporary)))
    }

    fn ports(&self) -> Result<Vec<Ports>, Failure> {
        let free = free_ports(5 * usize::from(self.nodes));
        let free = free.map_err(|error| Failure::io("find free ports", &error))?;
        let beyond = |option: &str, port: u16| {
            let what = format!("--{option} {port}: the ports of all nodes end beyond 65535");
            Failure::new(Exit::Usage, what, "choose a lower one")
        };
        if self.port != 0 && self.port.checked_add(PEER_PORTS + self.nodes - 1).is_none() {
            return Err(beyond("port", self.port));
        }
        let following =
            [("redis-port", self.redis_port), ("etcd-port", self.etcd_port), ("kafka-port", self.kafka_port)];
        for (option, port) in following {
            if port.checked_add(self.nodes - 1).is_none() {
                return Err(beyond(option, port));
            }
        }
        let ports = (0..self.nodes).zip(free.chunks_exact(5)).map(|(node, free)| Ports {
            http: if self.port == 0 { free[0] } else { self.port + node },
            peers: if self.port == 0 { free[1] } else { self.port + PEER_PORTS + node },
            redis: if self.port == 0 || self.redis_port == 0 { free[2] } else { self.redis_port + node },
            etcd: if self.port == 0 || self.etcd_port == 0 { free[3] } else { self.etcd_port + node },
            kafka: if self.port == 0 || self.kafka_port == 0 { free[4] } else { self.kafka_port + node },
        });
        Ok(ports.collect())
    }

    fn tell(&self, nodes: &[Node], folder: &Path, temporary: bool, output: Output) -> Result<(), Failure> {
        let list: Vec<Value> = nodes
            .iter()
            .map(|node| json!({"id": node.number + 1, "url": node.url, "redis": node.redis, "etcd": node.etcd, "kafka": node.kafka, "pid": node.pid, "command": node.command}))
            .collect();
        let answer = json!({"nodes": list, "data": folder.display().to_string(), "temporary": temporary});
        output.show(&answer, || {
            let mut text = format!("a cluster of {} runs:\n", nodes.len());
            for node in nodes {
                let Node { number, url, redis, etcd, kafka, pid, .. } = node;
                text += &format!("  node {}  {url}  Redis {redis}  etcd {etcd}  Kafka {kafka}  process {pid}\n", number + 1);
            }
            let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
            text += &format!(
                "try:\n  quorate put greeting hello --server {}\n  quorate get greeting --server {}\n  quorate cluster status --server {}\n  kill -9 {}          and watch the others go on\nctrl-c stops them all",
                first.url, last.url, first.url, last.pid
            );
            text
        })
    }
}

/// Ports that nobody listens on. All are held until the last is found, so that none is found twice.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// One server. Dropped, it is killed, unless it is watched: then it ends with its stdin.
struct Node {
    number: usize,
    pid: u32,
    url: String,
    redis: String,
    etcd: String,
    kafka: String,
    command: String,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
}

impl Node {
    fn start(number: usize, ports: &[Ports], folder: &Path) -> Result<Self, Failure> {
        let binary = std::env::current_exe().map_err(|error| Failure::io("find this program", &error))?;
        let Ports { http, peers, redis, etcd, kafka } = ports[number];
        let [redis, etcd, kafka] = [redis, etcd, kafka].map(|port| format!("127.0.0.1:{port}"));
        let all: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(other, ports)| format!("{}=127.0.0.1:{}", other + 1, ports.peers))
            .collect();
        let data = folder.join(format!("node-{}", number + 1));
        let args = [
            "serve".to_owned(),
            "--data".to_owned(),
            data.display().to_string(),
            "--http".to_owned(),
            format!("127.0.0.1:{http}"),
            "--redis".to_owned(),
            redis.clone(),
            "--etcd".to_owned(),
            etcd.clone(),
            "--kafka".to_owned(),
            kafka.clone(),
            "--node-id".to_owned(),
            (number + 1).to_string(),
            "--peer-listen".to_owned(),
            format!("127.0.0.1:{peers}"),
            "--peers".to_owned(),
            all.join(","),
        ];
        let mut child = Command::new(&binary)
            .args(&args)
            .args(["--json", "--until-stdin-ends"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A ctrl-c at the terminal is for this process, which then stops them in good order.
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::io(format!("start node {}", number + 1), &error))?;
        if let Some(said) = child.stderr.take() {
            std::thread::spawn(move || pass_on(number, BufReader::new(said)));
        }
        let stdin = child.stdin.take();
        let command = format!("{} {}", binary.display(), args.join(" "));
        let (pid, url) = (child.id(), String::new());
        Ok(Self { number, pid, url, redis, etcd, kafka, command, child: Some(child), stdin })
    }

    /// Waits until it takes requests: it prints its address then.
    fn hear(&mut self) -> Result<(), Failure> {
        let mut line = String::new();
        if let Some(out) = self.child.as_mut().and_then(|child| child.stdout.take()) {
            BufReader::new(out)
                .read_line(&mut line)
                .map_err(|error| Failure::io("hear from a node", &error))?;
        }
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        match said["url"].as_str() {
            Some(url) => self.url = url.to_owned(),
            None => {
                let what = format!("node {} did not start; it said why above", self.number + 1);
                return Err(Failure::new(Exit::Failed, what, ""));
            }
        }
        Ok(())
    }

    /// Has its end told as news.
    fn watch(&mut self, tell: Sender<News>) {
        let number = self.number;
        if let Some(mut child) = self.child.take() {
            // Nobody listens any more once this command has ended.
            std::thread::spawn(move || drop(tell.send(News::Ended(number, child.wait()))));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Already ended and reaped: nothing happens.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn pass_on(number: usize, mut said: impl BufRead) {
    let mut line = String::new();
    while said.read_line(&mut line).is_ok_and(|read| read > 0) {
        eprint!("[node {}] {line}", number + 1);
        line.clear();
    }
}

/// Begins the cluster, unless its data says that it was begun already, and waits until it is whole.
fn form(url: &str) -> Result<(), Failure> {
    let connect = Connect { server: url.to_owned(), token: None, ca: None, timeout: Duration::from_secs(30) };
    let mut client = connect.client()?;
    let before = wait::status(&mut client)?;
    let begun = before["cluster"].as_str().is_some_and(|cluster| cluster.bytes().any(|digit| digit != b'0'));
    if !begun {
        client.call(&Request::json("POST", "/v1/cluster/init", &json!({})))?;
    }
    let status = wait::until(&mut client, FORM_WITHIN, whole)?;
    eprint!("{}", show::text(&status));
    Ok(())
}

/// Waits for a signal, telling of every server that ends; `running` are the others.
fn attend(nodes: &[Node], running: &mut Vec<usize>, news: &Receiver<News>) -> Result<(), Failure> {
    while !running.is_empty() {
        match news.recv() {
            Ok(News::Signal(signal)) => {
                eprintln!("{}: stopping", if signal == 2 { "ctrl-c" } else { "SIGTERM" });
                return Ok(());
            }
            Ok(News::Ended(number, status)) => {
                running.retain(|other| *other != number);
                let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                eprintln!(
                    "node {} has ended ({how}); {} of {} run. Start it again with:\n  {}",
                    number + 1,
                    running.len(),
                    nodes.len(),
                    nodes[number].command
                );
            }
            Err(_) => break,
        }
    }
    Err(Failure::new(Exit::Failed, "every node has ended", ""))
}

/// Stops what still runs, in good order, and by force what takes too long. A second signal is force at once.
fn stop(mut nodes: Vec<Node>, mut running: Vec<usize>, news: &Receiver<News>) {
    for node in &mut nodes {
        node.stdin = None;
    }
    let mut deadline = Instant::now() + STOP_WITHIN;
    while !running.is_empty() {
        match news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(News::Ended(number, _)) => running.retain(|other| *other != number),
            Ok(News::Signal(_)) => deadline = Instant::now(),
            Err(RecvTimeoutError::Timeout) => {
                for number in &running {
                    eprintln!("node {} does not stop: it is killed", number + 1);
                    if let Some(pid) = i32::try_from(nodes[*number].pid).ok().and_then(Pid::from_raw) {
                        // It may have ended in this moment.
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                deadline = Instant::now() + STOP_WITHIN;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
