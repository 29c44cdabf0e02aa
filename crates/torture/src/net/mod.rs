//! The links between nodes, and how they are cut.
//!
//! `proxy`: every node is dialled through a proxy in this process, which works everywhere; the proxy knows who dials. `netns`: every node in a
//! network namespace of its own, where packets vanish as on a pulled cable; it needs root and `ip`. `direct`: nothing in between, no cuts.
//!
//! Invariant: `heal` undoes every cut and delay.
//! Called by: `fleet` (addresses), `faults` (cuts).

pub(crate) mod netns;
pub(crate) mod proxy;

use crate::error::Trouble;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

/// How nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Through a proxy in this process.
    Proxy,
    /// In network namespaces; needs root.
    Netns,
    /// Directly: no cuts.
    Direct,
}

/// The links of a fleet. Nodes are numbered from 0 here.
pub(crate) enum Net {
    Proxy(proxy::Proxies),
    Netns(netns::Namespaces),
    Direct { nodes: usize },
}

/// Where a node listens, and where others dial it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Where clients connect.
    pub(crate) http: SocketAddr,
    /// Where the node listens for its peers.
    pub(crate) peer: SocketAddr,
}

impl Net {
    pub(crate) fn new(kind: Kind, nodes: usize) -> Result<(Self, Vec<Place>), Trouble> {
        if kind == Kind::Netns {
            let (namespaces, places) = netns::Namespaces::new(nodes)?;
            return Ok((Net::Netns(namespaces), places));
        }
        let ports = free_ports(2 * nodes)?;
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let places: Vec<_> = (0..nodes)
            .map(|node| Place { http: local(ports[node]), peer: local(ports[nodes + node]) })
            .collect();
        let net = match kind {
            Kind::Proxy => Net::Proxy(proxy::Proxies::new(places.iter().map(|place| place.peer).collect())?),
            _ => Net::Direct { nodes },
        };
        Ok((net, places))
    }

    /// The `--peers` of every node: where to dial each.
    pub(crate) fn dialled(&self, places: &[Place]) -> String {
        let address = |node: usize| match self {
            Net::Proxy(proxies) => proxies.dialled[node],
            _ => places[node].peer,
        };
        let all: Vec<_> = (0..places.len()).map(|node| format!("{}={}", node + 1, address(node))).collect();
        all.join(",")
    }

    /// Words before the command that starts a node.
    pub(crate) fn wrapper(&self, node: usize) -> Vec<String> {
        match self {
            Net::Netns(namespaces) => namespaces.wrapper(node),
            _ => Vec::new(),
        }
    }

    /// Tells which process a node is now: the proxy knows dialling nodes by it.
    pub(crate) fn started(&self, node: usize, process: u32) {
        if let Net::Proxy(proxies) = self {
            proxies.started(node, process);
        }
    }

    /// Whether links can be cut at all.
    pub(crate) fn cuts(&self) -> bool {
        !matches!(self, Net::Direct { .. })
    }

    /// Whether links can be made slow.
    pub(crate) fn delays(&self) -> bool {
        matches!(self, Net::Proxy(_))
    }

    /// Nothing gets from one node to another any more; nothing is reset either, as with a pulled cable.
    pub(crate) fn cut(&self, from: usize, to: usize) -> Result<(), Trouble> {
        match self {
            Net::Proxy(proxies) => proxies.change(|links| links.blocked[from][to] = true),
            Net::Netns(namespaces) => namespaces.cut(from, to)?,
            Net::Direct { .. } => {}
        }
        Ok(())
    }

    /// Everything between nodes takes this much longer, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        if let Net::Proxy(proxies) = self {
            proxies.change(|links| links.delay = delay);
        }
    }

    /// All links as at the beginning. With `reset`, connections over links that were cut are closed: what waited in them is lost.
    pub(crate) fn heal(&self, reset: bool) -> Result<(), Trouble> {
        match self {
            Net::Proxy(proxies) => proxies.heal(reset),
            Net::Netns(namespaces) => namespaces.heal()?,
            Net::Direct { .. } => {}
        }
        Ok(())
    }

    /// Cuts a node off from all others, both ways.
    pub(crate) fn isolate(&self, node: usize) -> Result<(), Trouble> {
        for other in (0..self.nodes()).filter(|other| *other != node) {
            self.cut(node, other)?;
            self.cut(other, node)?;
        }
        Ok(())
    }

    fn nodes(&self) -> usize {
        match self {
            Net::Proxy(proxies) => proxies.dialled.len(),
            Net::Netns(namespaces) => namespaces.nodes(),
            Net::Direct { nodes } => *nodes,
        }
    }
}

/// Ports that nobody listens on, below those that the system gives to outgoing connections: a node that is started again finds its own
/// still free.
fn free_ports(count: usize) -> Result<Vec<u16>, Trouble> {
    let begin = 20_000 + (std::process::id() % 1000) as u16 * 10;
    let free = (begin..32_000).filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    let ports: Vec<u16> = free.take(count).collect();
    if ports.len() < count {
        return Err(Trouble::Usage(format!("no {count} free ports between {begin} and 32000")));
    }
    Ok(ports)
}
