//! A proxy before every node: it forwards what peers say to each other, or holds it back.
//!
//! One listener stands for each node, and all peers dial it. Who dials is found by the socket's owner in /proc, so a link is known by both
//! its ends whatever the nodes tell each other about addresses. A cut link holds bytes back instead of closing the connection: to both
//! ends it looks like packets that get lost and are sent again.
//!
//! Invariant: bytes of one connection keep their order; bytes of a blocked direction wait, and none is dropped but by a reset.
//! Invariant: a connection whose dialler is unknown is closed at once, never forwarded past the cuts.
//! Called by: `net::Net`.

use crate::error::Trouble;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks in flight in one direction; more and the sender feels it, as with a full TCP window.
const CHUNKS_MAX: usize = 256;

/// What holds for every link, by from and to.
#[derive(Clone, Default)]
pub(crate) struct Links {
    pub(crate) blocked: Vec<Vec<bool>>,
    pub(crate) delay: Duration,
    /// Counts resets of each link.
    resets: Vec<Vec<u64>>,
}

/// The proxies of all nodes.
pub(crate) struct Proxies {
    /// Where each node is dialled.
    pub(crate) dialled: Vec<SocketAddr>,
    links: Rc<watch::Sender<Links>>,
    processes: Rc<RefCell<HashMap<u32, usize>>>,
}

impl Proxies {
    /// Listens for peers of the nodes that listen at `targets`. Runs inside a `LocalSet`.
    pub(crate) fn new(targets: Vec<SocketAddr>) -> Result<Self, Trouble> {
        let count = targets.len();
        let links = Links {
            blocked: vec![vec![false; count]; count],
            delay: Duration::ZERO,
            resets: vec![vec![0; count]; count],
        };
        let links = Rc::new(watch::Sender::new(links));
        let processes = Rc::new(RefCell::new(HashMap::new()));
        let mut dialled = Vec::new();
        for (node, target) in targets.into_iter().enumerate() {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .and_then(TcpListener::from_std)
                .map_err(Trouble::io("listen for peers"))?;
            dialled.push(listener.local_addr().map_err(Trouble::io("ask for the address of the proxy"))?);
            spawn_local(accept(listener, node, target, Rc::clone(&links), Rc::clone(&processes)));
        }
        Ok(Self { dialled, links, processes })
    }

    pub(crate) fn started(&self, node: usize, process: u32) {
        let mut processes = self.processes.borrow_mut();
        processes.retain(|_, other| *other != node);
        processes.insert(process, node);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Links)) {
        self.links.send_modify(change);
    }

    pub(crate) fn heal(&self, reset: bool) {
        self.change(|links| {
            for (blocked, resets) in links.blocked.iter_mut().zip(&mut links.resets) {
                for (blocked, resets) in blocked.iter_mut().zip(resets) {
                    *resets += u64::from(*blocked && reset);
                    *blocked = false;
                }
            }
            links.delay = Duration::ZERO;
        });
    }
}

async fn accept(
    listener: TcpListener,
    node: usize,
    target: SocketAddr,
    links: Rc<watch::Sender<Links>>,
    processes: Rc<RefCell<HashMap<u32, usize>>>,
) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors, say: the peers will dial again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let dialler =
            processes.borrow().iter().find(|(process, _)| owns(**process, from)).map(|(_, node)| *node);
        if let Some(dialler) = dialler {
            spawn_local(connect(stream, dialler, node, target, links.subscribe()));
        }
    }
}

async fn connect(
    stream: TcpStream,
    dialler: usize,
    node: usize,
    target: SocketAddr,
    mut links: watch::Receiver<Links>,
) {
    // A handshake needs both directions. The sender side lives as long as the run, so waiting ends with it at the latest.
    let open = |links: &Links| !links.blocked[dialler][node] && !links.blocked[node][dialler];
    if links.wait_for(open).await.is_err() {
        return;
    }
    let Ok(onward) = TcpStream::connect(target).await else { return };
    let _ = (stream.set_nodelay(true), onward.set_nodelay(true));
    let resets = |links: &Links| links.resets[dialler][node] + links.resets[node][dialler];
    let before = resets(&links.borrow());
    let (from_dialler, to_dialler) = stream.into_split();
    let (from_node, to_node) = onward.into_split();
    let reset = async {
        let mut links = links.clone();
        let _ = links.wait_for(|links| resets(links) > before).await;
    };
    // When one direction ends, so does the other: peers close both ways at once.
    tokio::select! {
        () = reset => {}
        () = pump(from_dialler, to_node, dialler, node, links.clone()) => {}
        () = pump(from_node, to_dialler, node, dialler, links.clone()) => {}
    }
}

/// Forwards one direction of one connection.
async fn pump(
    mut read: tokio::net::tcp::OwnedReadHalf,
    mut write: tokio::net::tcp::OwnedWriteHalf,
    from: usize,
    to: usize,
    mut links: watch::Receiver<Links>,
) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let delays = links.clone();
    let reading = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            match read.read_buf(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let due = Instant::now() + delays.borrow().delay;
            if sender.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = queue.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if links.wait_for(|links| !links.blocked[from][to]).await.is_err() {
                return;
            }
            if write.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    // Reading ends first when the sender closes; what is queued is then still delivered.
    tokio::join!(reading, writing);
}

/// Whether a process has the socket whose local address this is (proc(5): /proc/net/tcp, /proc/PID/fd).
fn owns(process: u32, address: SocketAddr) -> bool {
    let Some(inode) = inode(&std::fs::read_to_string("/proc/net/tcp").unwrap_or_default(), address.port())
    else {
        return false;
    };
    let wanted = format!("socket:[{inode}]");
    let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.flatten().any(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
    })
}

/// The inode of the established socket on a local port of the loopback interface.
fn inode(table: &str, port: u16) -> Option<u64> {
    const ESTABLISHED: &str = "01";
    let local = format!("0100007F:{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let found = fields.get(1)? == &local && fields.get(3)? == &ESTABLISHED;
        found.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    const SHORT: Duration = Duration::from_millis(150);

    /// Node 0 is this process; node 1 is a listener of the test.
    async fn pair() -> (Proxies, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let proxies = Proxies::new(vec![target, target]).unwrap();
        proxies.started(0, std::process::id());
        let dialled = TcpStream::connect(proxies.dialled[1]).await.unwrap();
        let (accepted, _) = timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
        (proxies, dialled, accepted)
    }

    async fn arrives(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> bool {
        from.write_all(text).await.unwrap();
        received(to, text).await
    }

    async fn received(to: &mut TcpStream, text: &[u8]) -> bool {
        let mut buffer = vec![0; text.len()];
        timeout(SHORT, to.read_exact(&mut buffer)).await.is_ok_and(|read| read.is_ok()) && buffer == text
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_link_cut_one_way_holds_that_way_back_and_delivers_in_order_once_healed() {
        run(async {
            let (proxies, mut zero, mut one) = pair().await;
            assert!(arrives(&mut zero, &mut one, b"hello").await);
            proxies.change(|links| links.blocked[0][1] = true);
            assert!(!arrives(&mut zero, &mut one, b"held ").await);
            assert!(arrives(&mut one, &mut zero, b"other way").await);
            zero.write_all(b"back").await.unwrap();
            proxies.heal(false);
            assert!(received(&mut one, b"held back").await);
        });
    }

    #[test]
    fn a_reset_closes_only_what_went_over_a_cut_link() {
        run(async {
            let (proxies, mut zero, mut one) = pair().await;
            proxies.heal(true);
            assert!(arrives(&mut zero, &mut one, b"still there").await);
            proxies.change(|links| links.blocked[1][0] = true);
            proxies.heal(true);
            let mut byte = [0];
            let closed = timeout(Duration::from_secs(5), one.read(&mut byte)).await.unwrap();
            assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        });
    }

    #[test]
    fn a_delay_delays_and_keeps_the_order() {
        run(async {
            let (proxies, mut zero, mut one) = pair().await;
            proxies.change(|links| links.delay = SHORT);
            let begun = Instant::now();
            zero.write_all(b"a").await.unwrap();
            zero.write_all(b"b").await.unwrap();
            let mut buffer = [0; 2];
            one.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"ab");
            assert!(begun.elapsed() >= SHORT);
        });
    }

    #[test]
    fn whoever_is_no_known_node_gets_nowhere() {
        run(async {
            let (proxies, _zero, _one) = pair().await;
            proxies.started(0, 1);
            let mut stranger = TcpStream::connect(proxies.dialled[1]).await.unwrap();
            let mut byte = [0];
            let closed = timeout(Duration::from_secs(5), stranger.read(&mut byte)).await.unwrap();
            assert!(matches!(closed, Ok(0) | Err(_)));
        });
    }

    #[test]
    fn the_socket_table_is_read_by_local_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n\
                     1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1\n";
        assert_eq!(inode(table, 0x1f90), Some(222));
        assert_eq!(inode(table, 1), None);
    }
}
