//! Dialling: one task per peer that keeps a sending link to it, and single dials for bulk connections and probes.
//!
//! Invariant: `up` and `down` alternate, and every link has its own number.
//! Invariant: between two dials of one peer lie at least `redial_min`, whatever it does.
//! Called by: `shared` (keep), `bulk` (dial), `Links` (probe).

use crate::Hello;
use crate::error::PeersError;
use crate::handshake::{self, Envelope, Purpose};
use crate::pump::{self, End};
use crate::shared::{Peer, Shared, lock};
use crate::stream::{self, Stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Keeps a link to `peer` until it is closed. `before` is the task that did so earlier.
pub(crate) async fn keep(shared: Arc<Shared>, peer: Arc<Peer>, before: Option<JoinHandle<()>>) {
    if let Some(before) = before {
        let _ = before.await; // However it ended, it has.
    }
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let dialled = tokio::select! {
            _ = peer.until_closed() => return,
            dialled = dial(&shared, &peer, Purpose::Messages) => dialled,
        };
        match dialled {
            Ok((stream, hello)) => {
                let stood = Instant::now();
                if !carry(&shared, &peer, stream, hello).await {
                    return;
                }
                // A link that breaks at once counts as a failed dial.
                failures = if stood.elapsed() >= shared.config.redial_max { 0 } else { failures + 1 };
            }
            Err(error) => {
                // The error names the address.
                shared.note(&format!("node {}", peer.node), &error.to_string());
                failures += 1;
            }
        }
        let pause = backoff(&shared, failures);
        tokio::select! {
            _ = peer.until_closed() => return,
            _ = sleep(pause) => {}
            _ = peer.heard.notified() => sleep_until(began + shared.config.redial_min).await,
        }
    }
}

/// Announces the link and moves its frames until it ends. False: the peer was closed.
async fn carry(shared: &Arc<Shared>, peer: &Peer, stream: Stream, hello: Hello) -> bool {
    let (node, link, incarnation) = (peer.node, shared.next_link(), hello.incarnation);
    // Open before `up`, so that the host may send from inside it.
    peer.outbox.open();
    shared.host.up(node, hello, link);
    let moved = pump::run(
        stream,
        &peer.outbox,
        shared.config.frame_bytes_max,
        &shared.config,
        |_| Err(End::Fault("it sent a message on the link that is ours to send on".into())),
        |losses| shared.note(&peer.title(), &losses),
    );
    let (end, goes_on) = tokio::select! {
        end = moved => (end, true),
        _ = restarted(peer, incarnation) => (End::Closed("it has restarted".into()), true),
        why = peer.until_closed() => (End::Closed(why.into()), false),
    };
    let losses = peer.outbox.close();
    if let Some(losses) = peer.outbox.say(losses) {
        shared.note(&peer.title(), &losses);
    }
    if let End::Fault(why) = &end {
        shared.note(&peer.title(), &format!("the link to it was dropped: {why}"));
    }
    shared.host.down(node, link, end.text());
    goes_on
}

/// Returns when the peer dials us as another process than the one our link leads to.
async fn restarted(peer: &Peer, incarnation: u64) {
    loop {
        peer.heard.notified().await;
        if lock(&peer.heard_incarnation).is_some_and(|heard| heard != incarnation) {
            return;
        }
    }
}

/// 50 ms, doubling to 1 s with the defaults; up to a quarter less, so that nodes do not dial in step.
fn backoff(shared: &Shared, failures: u32) -> Duration {
    let (min, max) = (shared.config.redial_min, shared.config.redial_max);
    let full = min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max);
    full - full.mul_f64((shared.dial_number() % 256) as f64 / 1024.0)
}

/// One connection to a peer, ready for frames.
pub(crate) async fn dial(
    shared: &Shared,
    peer: &Peer,
    purpose: Purpose,
) -> Result<(Stream, Hello), PeersError> {
    let meet = async {
        let (stream, hello) = greet(shared, &peer.address, purpose, peer.node).await?;
        judge(shared, peer, stream, hello).await
    };
    within(shared, &peer.address, meet).await
}

/// See `Links::probe`.
pub(crate) async fn probe(shared: &Shared, address: &str) -> Result<Hello, PeersError> {
    let meet = async { greet(shared, address, Purpose::Probe, 0).await.map(|(_, hello)| hello) };
    tokio::select! {
        _ = shared.until_stopped() => Err(PeersError::Stopped),
        met = within(shared, address, meet) => met,
    }
}

async fn within<T>(
    shared: &Shared,
    address: &str,
    meet: impl Future<Output = Result<T, PeersError>>,
) -> Result<T, PeersError> {
    let limit = shared.config.connect_timeout + shared.config.handshake_timeout;
    timeout(limit, meet).await.unwrap_or_else(|_| {
        Err(PeersError::Handshake { address: address.into(), why: format!("no answer within {limit:?}") })
    })
}

/// Says who we are and learns who they are.
async fn greet(
    shared: &Shared,
    address: &str,
    purpose: Purpose,
    target: u64,
) -> Result<(Stream, Hello), PeersError> {
    let hello = shared.host.hello();
    handshake::check_features(&hello)?;
    let mut stream = stream::connect(address, &shared.config).await?;
    let failed = |why: String| PeersError::Handshake { address: address.into(), why };
    let dial = Envelope::Dial { purpose, target, hello };
    // Whoever refuses us may do so before it has read all: its reason counts for more than our broken write.
    let written = handshake::write(&mut stream, &dial).await;
    match (handshake::read(&mut stream).await, written) {
        (Ok(Envelope::Welcome(hello)), _) => Ok((stream, hello)),
        (Ok(Envelope::Reject(reason)), _) => Err(PeersError::Refused { address: address.into(), reason }),
        (Ok(_), _) => Err(failed("it answered out of order".into())),
        (Err(error), _) => Err(failed(error.to_string())),
    }
}

/// Whether they are the one we meant, and welcome. They are told, either way.
async fn judge(
    shared: &Shared,
    peer: &Peer,
    mut stream: Stream,
    hello: Hello,
) -> Result<(Stream, Hello), PeersError> {
    let address = peer.address.clone();
    let refusal = if hello.node != peer.node {
        PeersError::WrongNode { address, meant: peer.node, found: hello.node }
    } else if let Err(reason) = shared.host.accept(&hello, Some(peer.node)) {
        PeersError::NotAccepted { node: hello.node, address, reason }
    } else {
        return match handshake::write(&mut stream, &Envelope::Begin).await {
            Ok(()) => Ok((stream, hello)),
            Err(error) => Err(PeersError::Handshake { address, why: error.to_string() }),
        };
    };
    let told = match &refusal {
        PeersError::NotAccepted { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    handshake::reject(stream, told).await;
    Err(refusal)
}
