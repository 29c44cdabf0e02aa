//! The servers that are measured, each with all its nodes on this machine.
//!
//! Called by: `kafka`.

use super::{Failure, broker, jetstream};
use crate::processes::{self, Processes, free_addresses};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long nodes may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Quorate,
    Written,
    Synced,
    Rig,
}

impl Which {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Quorate => "quorate, synced",
            Self::Written => "JetStream, written",
            Self::Synced => "JetStream, synced",
            Self::Rig => "bare rig, synced",
        }
    }

    /// Whether it is spoken to as a Kafka broker.
    pub(super) fn is_broker(self) -> bool {
        matches!(self, Self::Quorate | Self::Rig)
    }
}

pub(super) struct Server {
    pub(super) which: Which,
    /// Where producers and consumers go: the leader.
    pub(super) address: SocketAddr,
    pub(super) processes: Processes,
}

/// The programs.
pub(super) struct Programs<'a> {
    pub(super) quorate: &'a Path,
    pub(super) nats: &'a Path,
}

impl Server {
    /// Starts so many nodes and makes the stream, with a replica on each.
    pub(super) fn start(
        which: Which,
        programs: &Programs<'_>,
        nodes: usize,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let failed = |error: Box<dyn std::error::Error>| Failure::from(error.to_string());
        let mut processes = Processes::new(folder).map_err(failed)?;
        let (doors, peers, others) = (free_addresses(nodes)?, free_addresses(nodes)?, free_addresses(nodes)?);
        for node in 0..nodes {
            let (command, option) = match which {
                Which::Quorate => {
                    let mut command =
                        processes::quorate(programs.quorate, folder, node, others[node], &peers);
                    command.args(["--redis", "off", "--etcd", "off", "--kafka", &doors[node].to_string()]);
                    (command, "quorate")
                }
                Which::Rig => {
                    let mut command = Command::new(std::env::current_exe()?);
                    command.arg("rig").arg(doors[node].to_string()).arg(folder.join("rig"));
                    (command, "quorate")
                }
                Which::Written | Which::Synced => {
                    let config = folder.join(format!("nats-{node}.conf"));
                    std::fs::write(&config, nats_config(which, folder, node, doors[node], &peers)?)?;
                    let mut command = Command::new(programs.nats);
                    command.arg("--config").arg(config);
                    (command, "nats")
                }
            };
            processes.spawn(command, option).map_err(failed)?;
        }
        if which == Which::Quorate && nodes > 1 {
            processes::form_cluster(programs.quorate, others[0], nodes)
                .map_err(|error| format!("{error}: {}", processes.last_words()))?;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match leader(which, &doors) {
                Ok(address) => return Ok(Self { which, address, processes }),
                Err(error) if Instant::now() > end => {
                    return Err(format!("{error}; {}", processes.last_words()).into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// Makes the stream, and tells where its leader is.
fn leader(which: Which, doors: &[SocketAddr]) -> Result<SocketAddr, Failure> {
    match which {
        Which::Quorate => broker::Connection::open(doors[0])?.make_topic(),
        Which::Rig => broker::Connection::open(doors[0]).map(|_| doors[0]),
        Which::Written | Which::Synced => {
            let Some(name) = jetstream::Connection::open(doors[0])?.make_stream(doors.len())? else {
                return Ok(doors[0]);
            };
            let node: usize = name.strip_prefix("node-").ok_or("a server of another name")?.parse()?;
            Ok(*doors.get(node).ok_or("a server of another number")?)
        }
    }
}

fn nats_config(
    which: Which,
    folder: &Path,
    node: usize,
    door: SocketAddr,
    peers: &[SocketAddr],
) -> Result<String, Failure> {
    let sync = if which == Which::Synced { "sync_interval: always" } else { "" };
    let store = folder.join(format!("jetstream-{node}"));
    // It ends the connection of a consumer that is so far behind, as one is that asks for all records of a run.
    let mut text = format!(
        "listen: \"{door}\"\nserver_name: node-{node}\nmax_pending: 4GB\nwrite_deadline: \"60s\"\njetstream {{ store_dir: \"{}\", max_file_store: 64GB\n {sync} }}\n",
        store.display()
    );
    if peers.len() > 1 {
        let routes: Vec<_> = peers.iter().map(|peer| format!("\"nats://{peer}\"")).collect();
        writeln!(
            text,
            "cluster {{ name: bench, listen: \"{}\", routes: [{}] }}",
            peers[node],
            routes.join(", ")
        )?;
    }
    Ok(text)
}
