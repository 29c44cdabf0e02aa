//! A network namespace for each node, joined by a bridge: cuts are packets that vanish.
//!
//! The tool itself runs in a namespace of its own too (`enter`), so nothing it does touches the machine's network. A one-way cut gives
//! the far node's address a hardware address that nobody has: packets leave, and arrive nowhere, with no error to anybody, acknowledgements
//! of the other direction included. That needs no firewall and no packet scheduler in the kernel.
//!
//! Invariant: every namespace that was made is removed when the fleet ends, also on SIGTERM and ctrl-c.
//! Called by: `net::Net`, `main` (`enter`).

use super::Place;
use crate::error::Trouble;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

/// Set in the environment of the process that runs inside.
const INSIDE: &str = "QUORATE_TORTURE_NETNS";
const BRIDGE: &str = "qbridge";
const HTTP_PORT: u16 = 8400;
const PEER_PORT: u16 = 8500;

/// The namespaces of all nodes.
pub(crate) struct Namespaces {
    names: Vec<String>,
}

/// Starts this program again in a new network namespace; its exit code. Nothing when it runs in one already.
pub(crate) fn enter() -> Result<Option<u8>, Trouble> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let own = std::env::current_exe().map_err(Trouble::io("find this program"))?;
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .map_err(Trouble::io("run unshare; network namespaces need root, `--net proxy` needs nothing"))?;
    Ok(Some(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

impl Namespaces {
    pub(crate) fn new(nodes: usize) -> Result<(Self, Vec<Place>), Trouble> {
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", &format!("{}/24", address(nodes + 1)), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        let mut made = Self { names: Vec::new() };
        for node in 0..nodes {
            let name = format!("quorate-{}-{}", std::process::id(), node + 1);
            ip(&["netns", "add", &name])?;
            made.names.push(name);
            made.join(node)?;
        }
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| *to != from) {
                made.neighbour(from, to, &hardware(to))?;
            }
        }
        let places = (0..nodes).map(|node| Place {
            http: SocketAddr::new(address(node), HTTP_PORT),
            peer: SocketAddr::new(address(node), PEER_PORT),
        });
        Ok((made, places.collect()))
    }

    fn join(&self, node: usize) -> Result<(), Trouble> {
        let (name, outer) = (self.names[node].as_str(), format!("qnode{node}"));
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", &outer, "master", BRIDGE, "up"])?;
        let inside = |rest: &[&str]| ip(&[&["-n", name], rest].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["link", "set", "eth0", "address", &hardware(node)])?;
        inside(&["address", "add", &format!("{}/24", address(node)), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])
    }

    fn neighbour(&self, from: usize, to: usize, hardware: &str) -> Result<(), Trouble> {
        let (name, address) = (self.names[from].as_str(), address(to).to_string());
        ip(&[
            "-n",
            name,
            "neighbour",
            "replace",
            &address,
            "lladdr",
            hardware,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])
    }

    pub(crate) fn wrapper(&self, node: usize) -> Vec<String> {
        // `ip netns exec` becomes the command it runs, so signals and the process id are the node's.
        ["ip", "netns", "exec", &self.names[node]].map(str::to_owned).to_vec()
    }

    pub(crate) fn cut(&self, from: usize, to: usize) -> Result<(), Trouble> {
        self.neighbour(from, to, "02:00:00:00:ff:ff")
    }

    pub(crate) fn heal(&self) -> Result<(), Trouble> {
        for from in 0..self.names.len() {
            for to in (0..self.names.len()).filter(|to| *to != from) {
                self.neighbour(from, to, &hardware(to))?;
            }
        }
        Ok(())
    }

    pub(crate) fn nodes(&self) -> usize {
        self.names.len()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(trouble) = ip(&["netns", "delete", name]) {
                eprintln!("{trouble}");
            }
        }
    }
}

/// Of the range that RFC 2544 sets aside for tests of networks; it is only used inside the namespaces.
fn address(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, (node + 1) as u8))
}

fn hardware(node: usize) -> String {
    format!("02:00:00:00:00:{:02x}", node + 1)
}

fn ip(arguments: &[&str]) -> Result<(), Trouble> {
    let command = format!("ip {}", arguments.join(" "));
    let done =
        Command::new("ip").args(arguments).output().map_err(Trouble::io("run `ip` (package iproute2)"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(Trouble::Command { command, said: String::from_utf8_lossy(&done.stderr).trim().to_owned() })
}
