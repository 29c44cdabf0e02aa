//! What the tests share: a host that records what it is told, and a peer that is nothing but a socket.
//!
//! The raw peer writes its bytes from docs/formats/peers.md, not from the crate's own code: it checks the format too.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // Each test binary uses its own part of it.

use bytes::Bytes;
use quorate_peers::{BoxFuture, FETCH_ANSWER_BYTES_MAX, Hello, Host, Links, LinksConfig};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub const CLUSTER: u128 = 0xC1;
/// For everything that happens at once when it works.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Up { node: u64, link: u64, incarnation: u64 },
    Down { node: u64, link: u64, why: String },
    Frame { node: u64, incarnation: u64, frame: Bytes },
    Note(String),
}

pub struct TestHost {
    pub hello: Mutex<Hello>,
    pub refuse: Mutex<Option<String>>,
    events: UnboundedSender<Event>,
}

pub fn hello(node: u64, incarnation: u64) -> Hello {
    Hello { cluster: CLUSTER, node, instance: node * 10, incarnation, features: Bytes::from_static(b"v1") }
}

impl TestHost {
    fn tell(&self, event: Event) {
        let _ = self.events.send(event); // The test may be over.
    }
}

impl Host for TestHost {
    fn hello(&self) -> Hello {
        self.hello.lock().unwrap().clone()
    }

    fn accept(&self, peer: &Hello, _dialled: Option<u64>) -> Result<(), String> {
        let ours = self.hello().cluster;
        if peer.cluster != ours {
            return Err(format!("it is of cluster {:x}, this node of {ours:x}", peer.cluster));
        }
        self.refuse.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn up(&self, node: u64, hello: Hello, link: u64) {
        self.tell(Event::Up { node, link, incarnation: hello.incarnation });
    }

    fn down(&self, node: u64, link: u64, why: &str) {
        self.tell(Event::Down { node, link, why: why.into() });
    }

    fn frames(&self, node: u64, hello: &Hello, frames: &mut Vec<Bytes>) {
        assert!(!frames.is_empty());
        for frame in frames.drain(..) {
            self.tell(Event::Frame { node, incarnation: hello.incarnation, frame });
        }
    }

    /// `size N`: N bytes. `never`: no answer. Anything else: an error that repeats it.
    fn fetch(&self, _node: u64, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move {
            let text = String::from_utf8_lossy(&request).into_owned();
            if text == "never" {
                std::future::pending::<()>().await;
            }
            match text.strip_prefix("size ").and_then(|size| size.parse().ok()) {
                Some(size) => Ok((0..size).map(|n: usize| (n % 251) as u8).collect::<Vec<u8>>().into()),
                None => Err(format!("what is {text:?}?")),
            }
        })
    }

    fn note(&self, text: String) {
        self.tell(Event::Note(text));
    }
}

pub fn is_pattern(bytes: &[u8]) -> bool {
    assert!(bytes.len() <= FETCH_ANSWER_BYTES_MAX);
    bytes.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8)
}

pub struct Node {
    pub links: Links,
    pub host: Arc<TestHost>,
    pub events: UnboundedReceiver<Event>,
}

pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

impl Node {
    pub fn start(node: u64) -> Node {
        Node::start_on(&Handle::current(), listener(), hello(node, 100 + node), LinksConfig::default())
    }

    pub fn with(node: u64, config: LinksConfig) -> Node {
        Node::start_on(&Handle::current(), listener(), hello(node, 100 + node), config)
    }

    pub fn start_on(rt: &Handle, listener: TcpListener, hello: Hello, config: LinksConfig) -> Node {
        let (sender, events) = unbounded_channel();
        let host = Arc::new(TestHost { hello: Mutex::new(hello), refuse: Mutex::default(), events: sender });
        let links = Links::start(rt, listener, host.clone(), config).unwrap();
        Node { links, host, events }
    }

    pub fn address(&self) -> String {
        self.links.local_addr().to_string()
    }

    /// Waits for the event that `pick` takes. The others are skipped.
    pub async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the host lives");
                if let Some(found) = pick(&event) {
                    return found;
                }
                seen.push(event);
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("no {what}, but {:?}", &seen[..seen.len().min(20)]))
    }

    pub async fn up(&mut self, of: u64) -> u64 {
        let pick = |event: &Event| match event {
            Event::Up { node, link, .. } if *node == of => Some(*link),
            _ => None,
        };
        self.until("up", pick).await
    }

    pub async fn down(&mut self, of: u64) -> (u64, String) {
        let pick = |event: &Event| match event {
            Event::Down { node, link, why } if *node == of => Some((*link, why.clone())),
            _ => None,
        };
        self.until("down", pick).await
    }

    pub async fn frame(&mut self) -> Bytes {
        let pick = |event: &Event| match event {
            Event::Frame { frame, .. } => Some(frame.clone()),
            _ => None,
        };
        self.until("frame", pick).await
    }

    /// A note that has all these parts.
    pub async fn note(&mut self, parts: &[&str]) -> String {
        let pick = |event: &Event| match event {
            Event::Note(text) if parts.iter().all(|part| text.contains(part)) => Some(text.clone()),
            _ => None,
        };
        self.until(&format!("note with {parts:?}"), pick).await
    }

    /// What has been told and not been looked at.
    pub fn told(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

/// Two nodes with links both ways.
pub async fn pair(a: Node, b: Node) -> (Node, Node) {
    let (mut a, mut b) = (a, b);
    let (node_a, node_b) = (a.host.hello().node, b.host.hello().node);
    a.links.set_peers(vec![(node_b, b.address())]);
    b.links.set_peers(vec![(node_a, a.address())]);
    a.up(node_b).await;
    b.up(node_a).await;
    (a, b)
}

/// Kinds of envelopes, and purposes.
pub const DIAL: u8 = 1;
pub const WELCOME: u8 = 2;
pub const REJECT: u8 = 3;
pub const BEGIN: u8 = 4;
pub const MESSAGES: u8 = 1;
pub const BULK: u8 = 2;

pub fn envelope(version: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = b"QRTPER\r\n".to_vec();
    out.extend(version.to_le_bytes());
    out.extend([kind, 0, 0, 0]);
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
    let checksum = crc32c::crc32c(&out);
    out.extend(checksum.to_le_bytes());
    out
}

pub fn hello_body(hello: &Hello) -> Vec<u8> {
    let mut out = hello.cluster.to_le_bytes().to_vec();
    for field in [hello.node, hello.instance, hello.incarnation] {
        out.extend(field.to_le_bytes());
    }
    out.extend((hello.features.len() as u32).to_le_bytes());
    out.extend(&hello.features);
    out
}

pub fn dial_body(purpose: u8, target: u64, hello: &Hello) -> Vec<u8> {
    let mut out = vec![purpose, 0, 0, 0, 0, 0, 0, 0];
    out.extend(target.to_le_bytes());
    out.extend(hello_body(hello));
    out
}

pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_le_bytes().to_vec();
    out.extend(crc32c::crc32c(payload).to_le_bytes());
    out.extend(payload);
    out
}

/// A socket that speaks the bytes by hand.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Raw {
        Raw(TcpStream::connect(address).await.unwrap())
    }

    /// Dials a node for messages and is welcomed.
    pub async fn messages(address: SocketAddr, target: u64, hello: &Hello) -> Raw {
        let mut raw = Raw::connect(address).await;
        raw.write(&envelope(1, DIAL, &dial_body(MESSAGES, target, hello))).await;
        let (version, kind, _) = raw.envelope().await.unwrap();
        assert_eq!((version, kind), (1, WELCOME));
        raw.write(&envelope(1, BEGIN, &[])).await;
        raw
    }

    /// Accepts a node's dial and welcomes it.
    pub async fn accept(listener: &tokio::net::TcpListener, hello: &Hello) -> Raw {
        let mut raw = Raw(tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0);
        let (_, kind, _) = raw.envelope().await.unwrap();
        assert_eq!(kind, DIAL);
        raw.write(&envelope(1, WELCOME, &hello_body(hello))).await;
        let (_, kind, _) = raw.envelope().await.unwrap();
        assert_eq!(kind, BEGIN);
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Version, kind and body; none at the end.
    pub async fn envelope(&mut self) -> Option<(u32, u8, Vec<u8>)> {
        let mut head = [0; 20];
        self.read(&mut head).await?;
        assert_eq!(&head[..8], b"QRTPER\r\n");
        let mut body = vec![0; u32::from_le_bytes(head[16..20].try_into().unwrap()) as usize];
        self.read(&mut body).await?;
        let mut checksum = [0; 4];
        self.read(&mut checksum).await?;
        let whole = [&head[..], &body].concat();
        assert_eq!(crc32c::crc32c(&whole), u32::from_le_bytes(checksum));
        Some((u32::from_le_bytes(head[8..12].try_into().unwrap()), head[12], body))
    }

    /// The next frame that is no keep-alive; none at the end.
    pub async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut header = [0; 8];
            self.read(&mut header).await?;
            let mut payload = vec![0; u32::from_le_bytes(header[..4].try_into().unwrap()) as usize];
            self.read(&mut payload).await?;
            assert_eq!(crc32c::crc32c(&payload), u32::from_le_bytes(header[4..].try_into().unwrap()));
            if !payload.is_empty() {
                return Some(payload);
            }
        }
    }

    /// Waits until the other end closes; what it still says is skipped.
    pub async fn closed(&mut self) {
        let mut scratch = [0; 4096];
        let gone = async { while matches!(self.0.read(&mut scratch).await, Ok(1..)) {} };
        tokio::time::timeout(PATIENCE, gone).await.expect("the connection stays open");
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        tokio::time::timeout(PATIENCE, self.0.read_exact(buffer))
            .await
            .expect("nothing comes")
            .ok()
            .map(|_| ())
    }
}
