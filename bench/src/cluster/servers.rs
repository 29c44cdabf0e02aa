//! The nodes that are measured: started, and asked whether they are ready.
//!
//! Called by: `cluster::run`, `load`.

use super::{Failure, http};
use crate::processes::{self, Processes, free_addresses};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// What the nodes are spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1, a connection for each client.
    Http,
    /// etcd's gRPC, connections shared.
    Etcd,
}

/// Running nodes of one system.
pub(crate) struct Fleet {
    pub(crate) system: System,
    pub(crate) over: Protocol,
    /// Where HTTP is answered, a node each.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where etcd's protocol is answered, a node each.
    pub(crate) grpc: Vec<SocketAddr>,
    binary: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) nodes: Processes,
}

impl Fleet {
    /// `over` says how Quorate is spoken to; etcd has its own protocol alone.
    pub(crate) fn start(
        system: System,
        over: Protocol,
        binary: &Path,
        folder: &Path,
        count: usize,
    ) -> Result<Self, Failure> {
        let mut found = free_addresses(3 * count)?;
        let (peers, grpc) = (found.split_off(2 * count), found.split_off(count));
        let over = if system == System::Etcd { Protocol::Etcd } else { over };
        let mut fleet = Self {
            system,
            over,
            grpc: if system == System::Etcd { found.clone() } else { grpc },
            addresses: found,
            binary: binary.into(),
            folder: folder.into(),
            nodes: Processes::new(folder)?,
        };
        for node in 0..count {
            let command = match system {
                System::Quorate => {
                    let mut command = processes::quorate(binary, folder, node, fleet.addresses[node], &peers);
                    command.args(["--redis", "off", "--kafka", "off", "--etcd"]);
                    command.arg(match over {
                        Protocol::Http => "off".to_owned(),
                        Protocol::Etcd => fleet.grpc[node].to_string(),
                    });
                    command
                }
                System::Etcd => fleet.etcd(node, &peers),
            };
            fleet.nodes.spawn(command, system.name())?;
        }
        Ok(fleet)
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
        if self.system == System::Quorate && self.nodes.count() > 1 {
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
        let (first, wanted) = (self.addresses[0], self.nodes.count());
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
}
