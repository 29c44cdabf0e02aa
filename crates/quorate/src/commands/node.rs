//! What makes a server a node of a cluster: its number, where its peers dial it, whom it forms a cluster with.
//!
//! Invariant: everything is checked before the first file is opened; what is half given is refused, and the text says what is missing.
//! Called by: `serve`.

use crate::failure::{Exit, Failure};
use quorate_runtime::{ClusterConfig, Durability, PeerTls};
use quorate_types::NodeId;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;

/// Options of a node of a cluster.
#[derive(clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct NodeOptions {
    /// Number of this node, 1 or more, its own in the cluster; makes the server a node of a cluster.
    #[arg(long, value_name = "N", requires = "peer_listen", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: Option<u64>,
    /// Address on which the other nodes are heard.
    #[arg(long, value_name = "ADDR", requires = "node_id")]
    peer_listen: Option<SocketAddr>,
    /// Where each node is dialled by the others, this one included; `cluster init` here adds them. Default for this one: --peer-listen.
    #[arg(long, value_name = "N=HOST:PORT", requires = "node_id", value_delimiter = ',', value_parser = peer)]
    peers: Vec<(u64, String)>,
    /// Where clients reach this node, if not at --http: told to them by the other nodes.
    #[arg(long, value_name = "URL", requires = "node_id")]
    advertise_http: Option<String>,
    /// This node's certificate chain in PEM, for mutual TLS between the nodes.
    #[arg(long, value_name = "FILE", requires_all = ["node_id", "peer_key", "peer_ca"])]
    peer_cert: Option<PathBuf>,
    /// This node's private key in PEM.
    #[arg(long, value_name = "FILE", requires_all = ["node_id", "peer_cert", "peer_ca"])]
    peer_key: Option<PathBuf>,
    /// Certificate authority in PEM that signs the nodes of this cluster, and nobody else.
    #[arg(long, value_name = "FILE", requires_all = ["node_id", "peer_cert", "peer_key"])]
    peer_ca: Option<PathBuf>,
}

/// Options that were checked.
pub(crate) struct Node {
    node: NodeId,
    listen: SocketAddr,
    address: String,
    peers: Vec<(NodeId, String)>,
    url: Option<String>,
    tls: Option<PeerTls>,
}

impl NodeOptions {
    /// The node that the options describe; nothing when the server runs alone.
    pub(crate) fn checked(&self, insecure: bool, durability: Durability) -> Result<Option<Node>, Failure> {
        let wrong = |why: String, next: &str| Failure::new(Exit::Usage, why, next);
        let (Some(node), Some(listen)) = (self.node_id, self.peer_listen) else { return Ok(None) };
        if durability == Durability::None {
            let why = "--durability none would let a node forget what it promised to the others".to_owned();
            return Err(wrong(why, "run a node of a cluster with always or interval"));
        }
        if let Some((twice, _)) = self.peers.iter().enumerate().find_map(|(place, (one, address))| {
            self.peers[..place].iter().any(|(other, _)| other == one).then_some((one, address))
        }) {
            return Err(wrong(format!("--peers names node {twice} twice"), "give each node one address"));
        }
        let tls = match (&self.peer_cert, &self.peer_key, &self.peer_ca) {
            (Some(cert), Some(key), Some(ca)) => {
                Some(PeerTls::load(cert, key, ca).map_err(|error| wrong(error.to_string(), ""))?)
            }
            _ => None,
        };
        if tls.is_none() && !insecure && !listen.ip().to_canonical().is_loopback() {
            let why = format!(
                "--peer-listen {listen} is reachable from other machines, and without TLS anybody there could be taken for a node"
            );
            return Err(wrong(
                why,
                "give --peer-cert, --peer-key and --peer-ca, listen on 127.0.0.1, or say --insecure",
            ));
        }
        let own = self.peers.iter().find(|(peer, _)| *peer == node).map(|(_, address)| address.clone());
        if own.is_none() && listen.ip().is_unspecified() {
            let why = format!("the other nodes cannot dial {listen}");
            return Err(wrong(why, &format!("say where they dial this node: --peers {node}=HOST:PORT,…")));
        }
        if own.is_none() && listen.port() == 0 && !self.peers.is_empty() {
            let why =
                "with --peer-listen on port 0 nobody knows in advance where this node is dialled".to_owned();
            return Err(wrong(why, "give it a port"));
        }
        Ok(Some(Node {
            node: NodeId(node),
            listen,
            address: own.unwrap_or_default(),
            peers: self.peers.iter().map(|(node, address)| (NodeId(*node), address.clone())).collect(),
            url: self.advertise_http.as_deref().map(base_url).transpose().map_err(|why| wrong(why, ""))?,
            tls,
        }))
    }
}

impl Node {
    /// Listens for peers. `http` is where the gateway listens.
    pub(crate) fn listen(self, scheme: &str, http: SocketAddr) -> Result<ClusterConfig, Failure> {
        let listener = TcpListener::bind(self.listen).map_err(|error| {
            let mut failure = Failure::io(format!("listen for peers on {}", self.listen), &error);
            failure.next = "stop who listens there, or choose another address with --peer-listen".into();
            failure
        })?;
        let bound = listener.local_addr().map_err(|error| Failure::io("ask for the address", &error))?;
        let address = if self.address.is_empty() { bound.to_string() } else { self.address };
        let url = self.url.unwrap_or_else(|| reachable(scheme, http, &address));
        Ok(ClusterConfig { node: self.node, listener, address, peers: self.peers, url, tls: self.tls })
    }
}

/// Where clients reach the gateway: at the address it listens on, or, when that is every address, at the host that peers dial.
fn reachable(scheme: &str, http: SocketAddr, dialled: &str) -> String {
    match http.ip() {
        ip if !ip.is_unspecified() => format!("{scheme}://{http}"),
        _ => {
            let host = dialled.rsplit_once(':').map_or(dialled, |(host, _)| host);
            format!("{scheme}://{host}:{}", http.port())
        }
    }
}

/// Reads `2=10.0.0.2:8500`.
fn peer(text: &str) -> Result<(u64, String), String> {
    let wrong = |why: &str| format!("\"{text}\": {why}; write NUMBER=HOST:PORT, such as 2=10.0.0.2:8500");
    let (node, address) = text.split_once('=').ok_or_else(|| wrong("there is no ="))?;
    let node: u64 = node.trim().parse().map_err(|_| wrong("the number is no whole number"))?;
    if node == 0 {
        return Err(wrong("a node's number is 1 or more"));
    }
    Ok((node, dialled(address.trim()).map_err(|why| wrong(&why))?))
}

/// Checks `host:port`.
pub(crate) fn dialled(address: &str) -> Result<String, String> {
    let (host, port) = address.rsplit_once(':').ok_or("there is no port")?;
    let port: u16 = port.parse().map_err(|_| "the port is no number up to 65535".to_owned())?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let any = bare.unwrap_or(host).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    match (host, port) {
        ("", _) => Err("there is no host".into()),
        (_, 0) => Err("port 0 cannot be dialled".into()),
        _ if any => Err(format!("{host} cannot be dialled")),
        _ if host.contains(':') && bare.is_none() => Err("an IPv6 address stands in brackets".into()),
        _ => Ok(address.to_owned()),
    }
}

fn base_url(text: &str) -> Result<String, String> {
    let plain = text.trim_end_matches('/');
    let rest = plain.strip_prefix("http://").or_else(|| plain.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#', ' ']) => Ok(plain.to_owned()),
        _ => Err(format!("--advertise-http {text}: write http://host:port or https://host:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        node: NodeOptions,
    }

    /// What the options come to, as text.
    fn check(args: &str, insecure: bool) -> Result<String, String> {
        let args = std::iter::once("x").chain(args.split_whitespace());
        let only = Only::try_parse_from(args).map_err(|error| error.to_string())?;
        let node = only.node.checked(insecure, Durability::Always).map_err(|failure| failure.to_string())?;
        Ok(node
            .map_or("alone".into(), |node| format!("{} {:?} {}", node.node, node.peers.len(), node.address)))
    }

    #[test]
    fn a_node_says_its_number_and_where_it_is_dialled() {
        assert_eq!(check("", false), Ok("alone".into()));
        assert_eq!(check("--node-id 1 --peer-listen 127.0.0.1:8500", false), Ok("1 0 ".into()));
        let three = "--node-id 2 --peer-listen 127.0.0.1:8502 --peers 1=a:1,2=b.example:2,3=[::1]:3";
        assert_eq!(check(three, false), Ok("2 3 b.example:2".into()));
        assert_eq!(check("--node-id 2 --peer-listen 0.0.0.0:8502 --peers 2=b:2", true), Ok("2 1 b:2".into()));
    }

    #[test]
    fn what_is_half_given_is_refused_with_what_is_missing() {
        for (args, wanted) in [
            ("--node-id 1", "--peer-listen"),
            ("--peer-listen 127.0.0.1:1", "--node-id"),
            ("--peers 1=a:1", "--node-id"),
            ("--advertise-http http://a:1", "--node-id"),
            ("--node-id 0 --peer-listen 127.0.0.1:1", "0 is not in 1.."),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peer-cert c", "--peer-key"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peer-ca c", "--peer-cert"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peers 1=a:1,1=b:2", "names node 1 twice"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peers a:1", "there is no ="),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peers 0=a:1", "1 or more"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peers 2=a", "there is no port"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peers 2=0.0.0.0:7", "cannot be dialled"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peers 2=::1:7", "brackets"),
            ("--node-id 1 --peer-listen 10.0.0.1:1", "--peer-cert"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --advertise-http a:1", "http://host:port"),
            ("--node-id 1 --peer-listen 127.0.0.1:1 --peer-cert /no --peer-key /no --peer-ca /no", "/no"),
        ] {
            let why = check(args, false).expect_err(args);
            assert!(why.contains(wanted), "{args}: {why}");
        }
        let anywhere = check("--node-id 1 --peer-listen 0.0.0.0:1", true).expect_err("nobody can dial that");
        assert!(anywhere.contains("--peers 1=HOST:PORT"), "{anywhere}");
    }

    #[test]
    fn clients_are_told_an_address_they_can_reach() {
        let http = |text: &str| text.parse().expect("an address");
        assert_eq!(reachable("http", http("10.0.0.1:8400"), "a:1"), "http://10.0.0.1:8400");
        assert_eq!(reachable("https", http("0.0.0.0:8400"), "a.example:1"), "https://a.example:8400");
        assert_eq!(reachable("http", http("[::]:8400"), "[::1]:1"), "http://[::1]:8400");
    }
}
