//! Bulk requests: many at a time over one connection of their own, answered in any order.
//!
//! A request is a frame `id, bytes`; its answer is a frame `id, status, bytes`. The connection is made at the first request and kept.
//!
//! Invariant: every request ends: with its answer, its timeout, or the end of the connection.
//! Invariant: what is served and not yet written is bounded: by the requests in flight and by the outbox.
//! Called by: `Links::fetch`, and `accept` for the serving end.

use crate::dial;
use crate::error::PeersError;
use crate::handshake::Purpose;
use crate::notes::printable;
use crate::outbox::{FRAME_COST, Outbox};
use crate::pump::{self, End};
use crate::shared::{Peer, Shared, lock};
use crate::stream::Stream;
use crate::{FETCH_ANSWER_BYTES_MAX, FETCH_REQUEST_BYTES_MAX, FETCHES_IN_FLIGHT_MAX, Hello};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

const ID_BYTES: usize = 8;
const REQUEST_FRAME_MAX: usize = ID_BYTES + FETCH_REQUEST_BYTES_MAX;
const ANSWER_FRAME_MAX: usize = ID_BYTES + 1 + FETCH_ANSWER_BYTES_MAX;
/// An error's text is cut to this.
const REASON_BYTES_MAX: usize = 4096;
const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// The bulk connection to a peer, once there is one. The lock is held while it is dialled, so that it is dialled once.
pub(crate) type BulkSlot = tokio::sync::Mutex<Option<Arc<Client>>>;

/// The asking end.
pub(crate) struct Client {
    outbox: Outbox,
    ids: AtomicU64,
    /// None once the connection has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
}

type Answer = Result<Bytes, String>;

/// See `Links::fetch`.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    node: u64,
    request: Bytes,
    limit: Duration,
) -> Result<Bytes, PeersError> {
    if request.len() > FETCH_REQUEST_BYTES_MAX {
        return Err(PeersError::RequestTooLarge { found: request.len(), max: FETCH_REQUEST_BYTES_MAX });
    }
    let peer = shared.peer(node).ok_or(PeersError::NotAPeer { node })?;
    let ask = async {
        let _turn = peer.fetches.acquire().await; // Never closed: an error would only mean one more in flight.
        let client = connected(shared, &peer).await?;
        client.ask(node, &request).await
    };
    tokio::select! {
        _ = peer.until_closed() => Err(PeersError::FetchBroken { node }),
        asked = timeout(limit, ask) => asked.unwrap_or(Err(PeersError::FetchTimeout { node, timeout: limit })),
    }
}

/// The connection that stands, or a new one.
async fn connected(shared: &Arc<Shared>, peer: &Arc<Peer>) -> Result<Arc<Client>, PeersError> {
    let mut slot = peer.bulk.lock().await;
    if let Some(client) = slot.as_ref().filter(|client| lock(&client.waiting).is_some()) {
        return Ok(client.clone());
    }
    let (stream, _) = dial::dial(shared, peer, Purpose::Bulk).await?;
    let client = Arc::new(Client::new());
    shared.rt.spawn(carry(shared.clone(), peer.clone(), client.clone(), stream));
    *slot = Some(client.clone());
    Ok(client)
}

/// Moves the frames of the asking end until the connection ends.
async fn carry(shared: Arc<Shared>, peer: Arc<Peer>, client: Arc<Client>, stream: Stream) {
    let moved = pump::run(
        stream,
        &client.outbox,
        ANSWER_FRAME_MAX,
        &shared.config,
        |frames| frames.drain(..).try_for_each(|frame| client.answered(&frame)),
        |_| {},
    );
    let end = tokio::select! {
        end = moved => end,
        why = peer.until_closed() => End::Closed(why.into()),
    };
    if let End::Fault(why) = end {
        shared.note(&peer.title(), &format!("the bulk connection to it was dropped: {why}"));
    }
    // Whoever waits sees its sender go, and later ones that there is no connection.
    *lock(&client.waiting) = None;
}

impl Client {
    fn new() -> Client {
        let outbox =
            Outbox::new(REQUEST_FRAME_MAX, FETCHES_IN_FLIGHT_MAX * (REQUEST_FRAME_MAX + FRAME_COST) * 2);
        outbox.open();
        Client { outbox, ids: AtomicU64::new(1), waiting: Mutex::new(Some(HashMap::new())) }
    }

    async fn ask(&self, node: u64, request: &[u8]) -> Result<Bytes, PeersError> {
        let broken = || PeersError::FetchBroken { node };
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        lock(&self.waiting).as_mut().ok_or_else(broken)?.insert(id, done);
        let _forgotten = Forget { client: self, id };
        let mut frame = BytesMut::with_capacity(ID_BYTES + request.len());
        frame.put_u64_le(id);
        frame.put_slice(request);
        if !self.outbox.send(frame.freeze()) {
            return Err(broken());
        }
        let answer = answer.await.map_err(|_| broken())?;
        answer.map_err(|reason| PeersError::FetchRefused { node, reason })
    }

    fn answered(&self, frame: &Bytes) -> Result<(), End> {
        let malformed = || End::Fault("it sent a bulk answer that is none".into());
        let (id, rest) = frame.split_first_chunk::<ID_BYTES>().ok_or_else(malformed)?;
        let body = frame.slice(frame.len() - rest.len().saturating_sub(1)..);
        let answer = match rest.first() {
            Some(&DONE) => Ok(body),
            Some(&REFUSED) => Err(printable(&String::from_utf8_lossy(&body))),
            _ => return Err(malformed()),
        };
        let waiting =
            lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&u64::from_le_bytes(*id)));
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer); // Nobody waits any more: it timed out.
        }
        Ok(())
    }
}

/// Forgets a request that ended in any way.
struct Forget<'a> {
    client: &'a Client,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.client.waiting).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// The serving end: runs until the connection ends, which also drops what is being served.
pub(crate) async fn serve(shared: &Arc<Shared>, stream: Stream, hello: &Hello) -> End {
    // Twice what may be in flight: answers of requests that timed out at the other end may still wait here.
    let outbox =
        Arc::new(Outbox::new(ANSWER_FRAME_MAX, 2 * FETCHES_IN_FLIGHT_MAX * (ANSWER_FRAME_MAX + FRAME_COST)));
    outbox.open();
    let mut serving = JoinSet::new();
    let deliver = |frames: &mut Vec<Bytes>| {
        frames.drain(..).try_for_each(|frame| begin(shared, hello.node, &outbox, &mut serving, &frame))
    };
    pump::run(stream, &outbox, REQUEST_FRAME_MAX, &shared.config, deliver, |_| {}).await
}

/// Starts to serve one request.
fn begin(
    shared: &Shared,
    node: u64,
    outbox: &Arc<Outbox>,
    serving: &mut JoinSet<()>,
    frame: &Bytes,
) -> Result<(), End> {
    let Some((id, _)) = frame.split_first_chunk::<ID_BYTES>() else {
        return Err(End::Fault("it sent a bulk request that is none".into()));
    };
    let id = u64::from_le_bytes(*id);
    while serving.try_join_next().is_some() {}
    if serving.len() >= FETCHES_IN_FLIGHT_MAX {
        let busy = format!("{FETCHES_IN_FLIGHT_MAX} requests are served already: ask again");
        return if outbox.send(encode(id, Err(busy))) {
            Ok(())
        } else {
            Err(End::Fault("it asks and does not read the answers".into()))
        };
    }
    let (answer, outbox) = (shared.host.fetch(node, frame.slice(ID_BYTES..)), outbox.clone());
    let serve = async move {
        let full = "more answers wait for you than fit: read them, then ask again";
        if !outbox.send(encode(id, answer.await)) {
            outbox.send(encode(id, Err(full.into()))); // If not even that fits, the asker's timeout tells it.
        }
    };
    serving.spawn_on(serve, &shared.rt);
    Ok(())
}

fn encode(id: u64, answer: Answer) -> Bytes {
    let answer = answer.and_then(|bytes| match bytes.len() {
        found if found > FETCH_ANSWER_BYTES_MAX => Err(format!(
            "the answer has {found} bytes, at most {FETCH_ANSWER_BYTES_MAX} are sent: ask for less"
        )),
        _ => Ok(bytes),
    });
    let (status, bytes) = match answer {
        Ok(bytes) => (DONE, bytes),
        Err(mut reason) => {
            let end =
                (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
            reason.truncate(end.unwrap_or(0));
            (REFUSED, Bytes::from(reason))
        }
    };
    let mut frame = BytesMut::with_capacity(ID_BYTES + 1 + bytes.len());
    frame.put_u64_le(id);
    frame.put_u8(status);
    frame.put_slice(&bytes);
    frame.freeze()
}
