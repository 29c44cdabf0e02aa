//! The processes that are measured: started, asked whether they are ready, counted, ended.
//!
//! Invariant: no process outlives its `Fleet`, whatever happens.
//! Called by: `cluster::run`, `load`.

use super::{Failure, http};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Quorate,
    Etcd,
}

impl System {
    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Quorate => "quorate",
            System::Etcd => "etcd",
        }
    }
}

/// Running nodes of one system.
pub(crate) struct Fleet {
    pub(crate) system: System,
    /// Where clients connect, a node each.
    pub(crate) addresses: Vec<SocketAddr>,
    binary: PathBuf,
    folder: PathBuf,
    nodes: Vec<Child>,
}

impl Fleet {
    pub(crate) fn start(system: System, binary: &Path, folder: &Path, count: usize) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)?;
        let (addresses, peers) = (free_addresses(count)?, free_addresses(count)?);
        let mut fleet =
            Self { system, addresses, binary: binary.into(), folder: folder.into(), nodes: Vec::new() };
        for node in 0..count {
            let mut command = match system {
                System::Quorate => fleet.quorate(node, &peers),
                System::Etcd => fleet.etcd(node, &peers),
            };
            let log = std::fs::File::create(folder.join(format!("{node}.log")))?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child = command.spawn().map_err(|error| {
                format!(
                    "{} cannot be started: {error}; build it, or name it with --{}",
                    binary.display(),
                    system.name()
                )
            })?;
            fleet.nodes.push(child);
        }
        Ok(fleet)
    }

    fn quorate(&self, node: usize, peers: &[SocketAddr]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--data").arg(self.folder.join(node.to_string()));
        command.arg("--http").arg(self.addresses[node].to_string()).args(["--redis", "off"]);
        if peers.len() > 1 {
            let all: Vec<_> =
                peers.iter().enumerate().map(|(at, address)| format!("{}={address}", at + 1)).collect();
            command.arg("--node-id").arg((node + 1).to_string());
            command.arg("--peer-listen").arg(peers[node].to_string()).arg("--peers").arg(all.join(","));
        }
        command
    }

    fn etcd(&self, node: usize, peers: &[SocketAddr]) -> Command {
        let all: Vec<_> =
            peers.iter().enumerate().map(|(at, address)| format!("n{at}=http://{address}")).collect();
        let (client, peer) = (format!("http://{}", self.addresses[node]), format!("http://{}", peers[node]));
        let mut command = Command::new(&self.binary);
        command.arg("--name").arg(format!("n{node}"));
        command.arg("--data-dir").arg(self.folder.join(node.to_string()));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
        command.args(["--log-level", "error"]);
        command
    }

    /// Waits until every node takes linearizable requests; makes a cluster of the nodes first where that is a step of its own.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<(), Failure> {
        let until = Instant::now() + patience;
        if self.system == System::Quorate && self.nodes.len() > 1 {
            self.init(until).await?;
        }
        for &address in &self.addresses {
            loop {
                let path = if self.system == System::Etcd { "/health" } else { "/readyz" };
                let seen = match http::once(address, "GET", path, "").await {
                    Ok((200, body)) if self.system == System::Quorate || body.contains("\"true\"") => break,
                    Ok((status, body)) => format!("{status} {body}"),
                    Err(error) => error.to_string(),
                };
                if Instant::now() > until {
                    return Err(format!("{address} is not ready after {patience:?}: {seen}").into());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Makes a cluster, and waits until every node has a vote.
    async fn init(&self, until: Instant) -> Result<(), Failure> {
        let (first, wanted) = (self.addresses[0], self.nodes.len());
        loop {
            let asked = http::once(first, "POST", "/v1/cluster/init", "{}").await;
            let seen = match http::once(first, "GET", "/v1/cluster", "").await {
                Ok((200, body)) if body.matches("\"role\":\"voter\"").count() == wanted => return Ok(()),
                Ok((status, body)) => format!("{status} {body}"),
                Err(error) => error.to_string(),
            };
            if Instant::now() > until {
                return Err(
                    format!("{first} has no cluster of {wanted} voters: {seen}; to init: {asked:?}").into()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// CPU seconds that all nodes have used.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.nodes.iter().map(|child| cpu_seconds(&child.id().to_string())).sum()
    }

    /// The end of what each node printed.
    pub(crate) fn last_words(&self) -> String {
        let tail = |node: usize| {
            let text = std::fs::read_to_string(self.folder.join(format!("{node}.log"))).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!("node {node}: {}", lines[lines.len().saturating_sub(5)..].join("\n  "))
        };
        (0..self.nodes.len()).map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.nodes {
            // Fails only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a binary says it is.
pub(crate) fn version(binary: &Path) -> Result<String, Failure> {
    let said = Command::new(binary).arg("--version").output().map_err(|error| {
        format!(
            "{} cannot be run: {error}; build it with `cargo build --release -p quorate`, or name another",
            binary.display()
        )
    })?;
    Ok(String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or("unknown").to_owned())
}

/// User and system time of a process in seconds (proc(5), stat); `self` is this one. Zero when it is gone.
pub(crate) fn cpu_seconds(process: &str) -> f64 {
    /// Linux shows times to user space in this unit on every architecture it runs on today (USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces: count from behind it. utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// Addresses of this machine that nobody listens on; all are held until the last is found, so that they differ.
pub(crate) fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_this_process_grows_with_work() {
        let before = cpu_seconds("self");
        let begun = Instant::now();
        let mut sum = 0u64;
        while begun.elapsed() < Duration::from_millis(300) {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
        }
        assert!(cpu_seconds("self") > before);
        assert!(cpu_seconds("0") == 0.0, "no such process");
    }
}
