//! The nodes as processes: started, killed, stopped, continued, asked.
//!
//! Invariant: no process outlives its fleet.
//! Invariant: a node that ended without being told to is noticed (`died`).
//! Called by: every command.

use crate::error::Trouble;
use crate::http::{Client, Outcome};
use crate::net::{Kind, Net, Place};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::cell::RefCell;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to take requests after its start, its recovery included.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What every command says about the nodes.
#[derive(Clone, clap::Args)]
pub(crate) struct FleetOptions {
    /// Where data, logs and evidence go: a folder on a real disk. Removed at the end when nothing was found.
    #[arg(long, value_name = "DIR", default_value = "torture")]
    pub(crate) folder: PathBuf,
    /// The quorate binary; by default the one beside this binary.
    #[arg(long, value_name = "PATH")]
    pub(crate) quorate: Option<PathBuf>,
    /// Nodes; 1 is one node without a cluster.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) nodes: u64,
    /// How nodes reach each other.
    #[arg(long, value_name = "HOW", default_value = "proxy")]
    pub(crate) net: Kind,
    /// An option for every `quorate serve`, such as --serve=--durability=interval; may be given again.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub(crate) serve: Vec<String>,
}

/// The nodes of a run, numbered from 0 here and from 1 to themselves.
pub(crate) struct Fleet {
    pub(crate) net: Net,
    pub(crate) places: Vec<Place>,
    binary: PathBuf,
    folder: PathBuf,
    serve: Vec<String>,
    nodes: RefCell<Vec<Option<Child>>>,
}

impl Fleet {
    /// Starts all nodes, and makes a cluster of them. Runs inside a `LocalSet`.
    pub(crate) async fn start(options: &FleetOptions) -> Result<Self, Trouble> {
        let binary = match &options.quorate {
            Some(path) => path.clone(),
            None => {
                std::env::current_exe().map_err(Trouble::io("find this program"))?.with_file_name("quorate")
            }
        };
        if !binary.exists() {
            return Err(Trouble::Usage(format!(
                "{} is not there: build it with `cargo build --release -p quorate`, or name one with --quorate",
                binary.display()
            )));
        }
        let folder = options.folder.join(format!("run-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(Trouble::io(format!("make {}", folder.display())))?;
        let count = options.nodes as usize;
        let (net, places) = Net::new(options.net, count)?;
        let nodes = RefCell::new((0..count).map(|_| None).collect());
        let fleet = Self { net, places, binary, folder, serve: options.serve.clone(), nodes };
        for node in 0..count {
            fleet.restart(node)?;
        }
        if count > 1 {
            fleet.init().await?;
        }
        fleet.ready(&fleet.all(), READY_TIMEOUT).await?;
        Ok(fleet)
    }

    /// All nodes.
    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.places.len()).collect()
    }

    /// Where clients of a node connect.
    pub(crate) fn http(&self, node: usize) -> SocketAddr {
        self.places[node].http
    }

    /// Where evidence goes.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a node that does not run, on the data it has.
    pub(crate) fn restart(&self, node: usize) -> Result<(), Trouble> {
        let mut words = self.net.wrapper(node);
        words.push(self.binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("serve")
            .arg("--data")
            .arg(self.folder.join(format!("node-{}", node + 1)));
        command
            .arg("--http")
            .arg(self.places[node].http.to_string())
            .args(["--redis", "off", "--etcd", "off", "--kafka", "off"]);
        if self.places.len() > 1 {
            command.arg("--node-id").arg((node + 1).to_string());
            command.arg("--peer-listen").arg(self.places[node].peer.to_string());
            command.arg("--peers").arg(self.net.dialled(&self.places));
        }
        if matches!(self.net, Net::Netns(_)) {
            command.arg("--insecure");
        }
        command.args(&self.serve);
        let path = self.log_path(node);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(Trouble::io(format!("open {}", path.display())))?;
        let copy = log.try_clone().map_err(Trouble::io("share the log"))?;
        command.stdin(Stdio::null()).stdout(copy).stderr(log);
        let child = command.spawn().map_err(Trouble::io(format!("start {}", words[0])))?;
        self.net.started(node, child.id());
        self.nodes.borrow_mut()[node] = Some(child);
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&self, node: usize) {
        if let Some(mut child) = self.nodes.borrow_mut()[node].take() {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it is there, and does nothing.
    pub(crate) fn stop(&self, node: usize) {
        self.signal(node, Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    fn signal(&self, node: usize, signal: Signal) {
        let nodes = self.nodes.borrow();
        let process = nodes[node].as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        if let Some(process) = process {
            // Fails only when it has ended already, which `died` reports.
            let _ = kill_process(process, signal);
        }
    }

    /// Nodes that ended by themselves, with how and their last words. Each is told once.
    pub(crate) fn died(&self) -> Vec<String> {
        let mut nodes = self.nodes.borrow_mut();
        let mut told = Vec::new();
        for (node, child) in nodes.iter_mut().enumerate() {
            if let Some(status) = child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                *child = None;
                told.push(format!("node {} ended by itself, {status}: {}", node + 1, self.last_words(node)));
            }
        }
        told
    }

    /// The end of what a node printed.
    pub(crate) fn last_words(&self, node: usize) -> String {
        let text = std::fs::read_to_string(self.log_path(node)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(6)..].join(" | ")
    }

    /// Makes a cluster of all nodes, and waits until each has a vote: what is done to them must not find a smaller cluster.
    async fn init(&self) -> Result<(), Trouble> {
        let until = Instant::now() + READY_TIMEOUT;
        let mut client = Client::new(self.http(0));
        loop {
            let asked = client.ask("POST", "/v1/cluster/init", b"{}", Duration::from_secs(5)).await;
            let cluster = self.look(0, "/v1/cluster").await.unwrap_or_default();
            let members = cluster["members"].as_array().map_or(&[][..], Vec::as_slice);
            let voters = members.iter().filter(|member| member["role"] == "voter").count();
            if voters == self.places.len() {
                return Ok(());
            }
            if Instant::now() > until {
                let words = self.last_words(0);
                let seen = format!("{voters} voters: {cluster}; to init: {asked}; node 1 said: {words}");
                return Err(Trouble::Late {
                    what: "a whole cluster".into(),
                    seconds: READY_TIMEOUT.as_secs(),
                    seen,
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until these nodes take linearizable requests.
    pub(crate) async fn ready(&self, nodes: &[usize], patience: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + patience;
        for &node in nodes {
            let mut client = Client::new(self.http(node));
            loop {
                let seen = client.ask("GET", "/readyz", b"", Duration::from_secs(2)).await;
                if matches!(seen, Outcome::Done(_)) {
                    break;
                }
                if Instant::now() > until {
                    let seen = format!("{seen}; it said: {}", self.last_words(node));
                    let what = format!("node {} taking requests", node + 1);
                    return Err(Trouble::Late { what, seconds: patience.as_secs(), seen });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// What a node answers to a GET now, if it does at once.
    pub(crate) async fn look(&self, node: usize, path: &str) -> Option<Value> {
        match Client::new(self.http(node)).ask("GET", path, b"", Duration::from_secs(1)).await {
            Outcome::Done(answer) => Some(answer.json()),
            _ => None,
        }
    }

    /// Term and leader, as the node with the highest term among those asked knows them. A single node leads itself.
    pub(crate) async fn leader(&self, among: &[usize]) -> Option<(u64, usize)> {
        if self.places.len() == 1 {
            return Some((0, 0));
        }
        let mut newest = None;
        for &node in among {
            let Some(cluster) = self.look(node, "/v1/cluster").await else { continue };
            let leader =
                cluster["leader"].as_u64().filter(|leader| (1..=self.places.len() as u64).contains(leader));
            if let (Some(term), Some(leader)) = (cluster["term"].as_u64(), leader) {
                newest = newest.max(Some((term, leader as usize - 1)));
            }
        }
        newest
    }

    /// Waits for a leader that these nodes know.
    pub(crate) async fn wait_for_leader(
        &self,
        among: &[usize],
        patience: Duration,
    ) -> Result<(u64, usize), Trouble> {
        let until = Instant::now() + patience;
        loop {
            if let Some(found) = self.leader(among).await {
                return Ok(found);
            }
            if Instant::now() > until {
                let seen = "no node names one at /v1/cluster".into();
                return Err(Trouble::Late { what: "a leader".into(), seconds: patience.as_secs(), seen });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The entry that a node has applied.
    pub(crate) async fn applied(&self, node: usize) -> Option<u64> {
        self.look(node, "/v1/status").await?["applied"].as_u64()
    }

    /// Removes the folder, unless something was found that it is evidence of.
    pub(crate) fn clean_up(self, keep: bool) -> Result<(), Trouble> {
        let folder = self.folder.clone();
        drop(self);
        if keep {
            eprintln!("data, logs and evidence are kept in {}", folder.display());
            return Ok(());
        }
        std::fs::remove_dir_all(&folder).map_err(Trouble::io(format!("remove {}", folder.display())))
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{}.log", node + 1))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for node in 0..self.places.len() {
            self.kill(node);
        }
    }
}
