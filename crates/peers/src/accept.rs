//! Accepting: every connection is greeted in a task of its own, then read until it ends.
//!
//! Invariant: a node has at most one accepted connection per purpose; the newer one replaces the older before it is welcomed.
//! Invariant: connections that have not said who they are, are few and short-lived.
//! Called by: `Links::start`.

use crate::config::LinksConfig;
use crate::handshake::{self, Envelope, HandshakeError, Purpose};
use crate::outbox::Outbox;
use crate::pump::{self, End};
use crate::shared::{Place, Shared};
use crate::stream::{self, Accepted, Stream};
use crate::{Hello, bulk};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// Connections within their handshake at a time; more wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 256;
/// After a failed accept, as when file descriptors have run out: trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const REPLACED: &str = "replaced by a newer connection";

/// Accepts until the links are stopped.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::select! {
        _ = shared.until_stopped() => {}
        _ = accept_all(&shared, &listener, &handshakes) => {}
    }
}

async fn accept_all(shared: &Arc<Shared>, listener: &TcpListener, handshakes: &Arc<Semaphore>) {
    // The semaphore is never closed, so this goes on until the task is dropped.
    while let Ok(permit) = handshakes.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let shared = shared.clone();
                shared.rt.clone().spawn(async move {
                    tokio::select! {
                        _ = shared.until_stopped() => {}
                        _ = connection(&shared, tcp, from.ip(), permit) => {}
                    }
                });
            }
            Err(error) => {
                shared.note("the listener for peers", &format!("a connection was not accepted: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A peer that was welcomed.
struct Welcomed {
    stream: Stream,
    hello: Hello,
    purpose: Purpose,
    place: Place,
    replaced: oneshot::Receiver<()>,
}

async fn connection(shared: &Arc<Shared>, tcp: TcpStream, from: IpAddr, permit: OwnedSemaphorePermit) {
    let limit = shared.config.handshake_timeout;
    let Ok(welcomed) = timeout(limit, welcome(shared, tcp, from)).await else {
        return shared.note(&from.to_string(), &format!("it did not say who it is within {limit:?}"));
    };
    let Some(Welcomed { stream, hello, purpose, place, replaced }) = welcomed else { return };
    drop(permit);
    let title = format!("node {} from {from}", hello.node);
    let moved = async {
        match purpose {
            Purpose::Bulk => bulk::serve(shared, stream, &hello).await,
            _ => receive(shared, stream, &hello, &place).await,
        }
    };
    let end = tokio::select! {
        end = moved => end,
        _ = replaced => End::Closed(REPLACED.into()),
    };
    if let End::Fault(why) = end {
        shared.note(&title, &format!("its connection was dropped: {why}"));
    }
}

/// The handshake as far as it goes. What is refused was told so, and noted.
async fn welcome(shared: &Arc<Shared>, tcp: TcpStream, from: IpAddr) -> Option<Welcomed> {
    let from = from.to_string();
    stream::tune(&tcp, shared.config.idle_timeout);
    let mut stream = match stream::accept(tcp, &shared.config).await {
        Ok(Accepted::Stream(stream)) => stream,
        Ok(Accepted::Silent) => return None,
        Ok(Accepted::Mismatch(stream, what)) => {
            shared.note(&from, &format!("a connection was refused: {what}"));
            handshake::reject(stream, mirrored(&shared.config)).await;
            return None;
        }
        Err(why) => {
            shared.note(&from, &format!("a connection was refused: {why}"));
            return None;
        }
    };
    let (purpose, target, hello) = match handshake::read(&mut stream).await {
        Ok(Envelope::Dial { purpose, target, hello }) => (purpose, target, hello),
        Ok(_) => {
            shared.note(&from, "a connection was refused: it did not begin with who it is");
            return None;
        }
        Err(error) => {
            shared.note(&from, &format!("a connection was refused: {error}"));
            if let HandshakeError::Version { found } = error {
                let reason = format!(
                    "this node speaks version {} of the peer protocol and not version {found}: upgrade the older of the two",
                    handshake::VERSION
                );
                handshake::reject(stream, reason).await;
            }
            return None;
        }
    };
    let ours = shared.host.hello();
    if handshake::check_features(&ours).is_err() {
        handshake::reject(stream, "the node cannot say who it is".into()).await;
        return None;
    }
    if purpose == Purpose::Probe {
        handshake::write(&mut stream, &Envelope::Welcome(ours)).await.ok()?;
        handshake::part(stream).await;
        return None;
    }
    if let Err(reason) = judge(shared, &ours, &hello, target) {
        shared.note(&format!("node {} from {from}", hello.node), &format!("it was refused: {reason}"));
        handshake::reject(stream, reason).await;
        return None;
    }
    // Before the Welcome: once the dialler has it and says `up`, nothing of its older link may be delivered any more.
    let (place, replaced) = shared.take_place(hello.node, purpose);
    handshake::write(&mut stream, &Envelope::Welcome(ours)).await.ok()?;
    match handshake::read(&mut stream).await {
        Ok(Envelope::Begin) => {}
        Ok(Envelope::Reject(reason)) => {
            shared.note(&format!("node {} from {from}", hello.node), &format!("it refused us: {reason}"));
            return None;
        }
        // It went away, or is no node: its own dial says more than we can.
        Ok(_) | Err(_) => return None,
    }
    shared.heard(hello.node, hello.incarnation);
    Some(Welcomed { stream, hello, purpose, place, replaced })
}

/// What to tell somebody who speaks TLS and we do not, or the reverse.
fn mirrored(config: &LinksConfig) -> String {
    let which = if config.tls.is_some() { "wants TLS" } else { "does not speak TLS" };
    format!("this node {which}: configure TLS between nodes on all of them, or on none")
}

fn judge(shared: &Shared, ours: &Hello, theirs: &Hello, target: u64) -> Result<(), String> {
    if target != ours.node {
        return Err(format!(
            "node {target} was dialled, where node {} answers: correct its address",
            ours.node
        ));
    }
    if theirs.node == ours.node {
        return Err(format!(
            "both ends say that they are node {}: give each node an id of its own",
            ours.node
        ));
    }
    shared.host.accept(theirs, None)
}

/// Reads messages until the connection ends. Its own writes are keep-alives: the dialler learns from them that we live.
async fn receive(shared: &Arc<Shared>, stream: Stream, hello: &Hello, place: &Place) -> End {
    let nothing = Outbox::new(0, 0);
    let deliver = |frames: &mut Vec<_>| {
        if place.deliver(|| shared.host.frames(hello.node, hello, frames)) {
            return Ok(());
        }
        Err(End::Closed(REPLACED.into()))
    };
    pump::run(stream, &nothing, shared.config.frame_bytes_max, &shared.config, deliver, |_| {}).await
}
