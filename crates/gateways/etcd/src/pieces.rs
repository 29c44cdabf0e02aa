//! RangeStream: a range of any size in pieces, for who need not have it whole.
//!
//! The messages merge into what Range would have answered: keys in each, header, count and `more` in the last.
//!
//! Invariant: all pieces are of one revision, that of the first look. Once it is compacted the rest is refused.
//! Invariant: it holds what one look found and two pieces, however large the range and however slow its client.
//! Called by: `kv`.
//! Source: Kubernetes' KEP-5966, whose call this is (etcd 3.7).

use crate::error;
use crate::gateway::Gateway;
use crate::kv::SLICE;
use crate::protocol::etcdserverpb as pb;
use crate::serve::Answers;
use crate::txn;
use quorate_machine::{Machine, Selection};
use quorate_runtime::Consistency;
use quorate_types::{Blob, KeyValue, Op, Order, Principal, Revision, Select, Sort};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Bytes after which a piece is sent; one larger key is a piece of its own.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces that wait for their client.
const WAITING_MAX: usize = 1;
/// Keys of the first look. Later ones grow and shrink by what they find.
const FIRST: usize = 16;

/// A range in hand.
struct Reading {
    gateway: Arc<Gateway>,
    who: Principal,
    /// Without a limit: that is counted here.
    select: Select,
    /// How many keys may still be sent.
    left: usize,
    /// The revision that is read, once it is known, and where to go on; nothing at the end.
    at: Option<Revision>,
    next: Option<Blob>,
    /// Keys of the next look.
    slice: usize,
    /// What the last piece tells.
    current: Revision,
    count: u64,
    more: bool,
}

impl Gateway {
    /// Begins to answer; what is wrong with the request or its first look is told before anything is sent.
    ///
    /// # Errors
    /// As Range; [`tonic::Code::Unimplemented`] for an order in which the keys are not read.
    pub(crate) async fn pieces(
        self: &Arc<Self>,
        who: Principal,
        asked: &pb::RangeRequest,
    ) -> Result<Answers<pb::RangeStreamResponse>, Status> {
        let mut select = txn::select(asked)?;
        if select.sort != Sort::Key || select.order == Some(Order::Descending) {
            return Err(Status::unimplemented(
                "etcdserver: range stream does not support a sort order: use Range",
            ));
        }
        let left = if select.limit == 0 { u64::MAX } else { std::mem::take(&mut select.limit) };
        select.order = None;
        let mut reading = Reading {
            gateway: Arc::clone(self),
            who,
            left: usize::try_from(left).unwrap_or(usize::MAX),
            at: None,
            next: Some(select.range.start.name.clone()),
            slice: FIRST,
            current: Revision::ZERO,
            count: 0,
            more: false,
            select,
        };
        let freshness = if asked.serializable { Consistency::Stale } else { Consistency::Linearizable };
        let first = reading.look(freshness).await?;
        let (answers, receive) = mpsc::channel(WAITING_MAX);
        tokio::spawn(reading.run(first, answers));
        Ok(Answers::of(receive))
    }
}

impl Reading {
    async fn run(
        mut self,
        first: Vec<KeyValue>,
        answers: mpsc::Sender<Result<pb::RangeStreamResponse, Status>>,
    ) {
        let mut keys = first;
        loop {
            let mut piece = pb::RangeResponse::default();
            let mut bytes = 0;
            for key in keys.drain(..) {
                if bytes >= PIECE_BYTES && !send(&answers, std::mem::take(&mut piece)).await {
                    return;
                }
                bytes = if piece.kvs.is_empty() { 0 } else { bytes } + size(&key);
                piece.kvs.push(txn::key_value(&key));
            }
            if self.next.is_none() {
                piece.header = Some(self.gateway.header(self.current));
                (piece.count, piece.more) = (self.count as i64, self.more);
                send(&answers, piece).await;
                return;
            }
            if !piece.kvs.is_empty() && !send(&answers, piece).await {
                return;
            }
            tokio::task::yield_now().await;
            keys = match self.look(Consistency::Stale).await {
                Ok(keys) => keys,
                Err(status) => {
                    // A client that is gone need not be told.
                    let _ = answers.send(Err(status)).await;
                    return;
                }
            };
        }
    }

    /// The keys that the next slice shows.
    async fn look(&mut self, freshness: Consistency) -> Result<Vec<KeyValue>, Status> {
        let start = self.next.take().expect("whoever looks has seen that it goes on");
        self.select.count_only |= self.more;
        let look = |machine: &Machine| {
            // Each time: a right that is taken away ends what it allowed.
            let op = Op::Select { select: Box::new(self.select.clone()) };
            machine.may(&self.who, &op).map_err(|denied| error::denied(&denied))?;
            let current = machine.revision();
            let at = self.at.or(self.select.at).unwrap_or(current);
            if at < machine.oldest_shown() && (self.at.is_some() || self.select.at.is_some()) {
                return Err(error::compacted());
            }
            let mut into = Selection::of(self.select.clone());
            let next = machine.gather(&mut into, start, at, self.slice).map_err(|why| error::op(&why))?;
            Ok((current, at, next, into.done()))
        };
        let (current, at, next, found) = self.gateway.look(freshness, look).await??;
        if self.at.is_none() {
            (self.at, self.current) = (Some(at), current);
        }
        self.next = next;
        self.count += found.count;
        let mut keys = found.keys;
        self.more |= keys.len() > self.left;
        keys.truncate(self.left);
        self.left -= keys.len();
        let bytes: usize = keys.iter().map(size).sum();
        self.slice = match self.slice.saturating_mul(2 * PIECE_BYTES) / bytes.max(1) {
            fitting if fitting < self.slice => fitting.max(1),
            _ => (2 * self.slice).min(SLICE),
        };
        Ok(keys)
    }
}

fn size(key: &KeyValue) -> usize {
    key.key.name.len() + key.value.len()
}

/// Whether the client still listens.
async fn send(
    answers: &mpsc::Sender<Result<pb::RangeStreamResponse, Status>>,
    piece: pb::RangeResponse,
) -> bool {
    answers.send(Ok(pb::RangeStreamResponse { range_response: Some(piece) })).await.is_ok()
}
