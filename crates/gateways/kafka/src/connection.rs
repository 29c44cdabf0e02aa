//! The life of a connection, and of the requests on it.
//!
//! Requests are taken in order and answered in order. A Produce is under way as soon as it is taken, and the next request is taken meanwhile, so that
//! a producer with several in flight shares syncs with itself; every other request waits for those before it, as a broker has it. Appends
//! of one connection take their places in the log in the order in which they came.
//!
//! Invariant: answers leave in the order of the requests; a request without an answer (Produce with acks 0) leaves no gap.
//! Invariant: what waits for a client is bounded: [`PENDING_MAX`] requests under way, one answer in hand, no reading meanwhile.
//! Called by: `serve` runs a [`Connection`] per client.

use crate::api::{self, Launched, Shaking};
use crate::frame::Input;
use crate::gateway::{Gateway, Who};
use crate::stream::Stream;
use crate::wire::Malformed;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use quorate_types::Blob;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

/// Produce requests under way at once; clients have five, or a million that they do not wait for.
const PENDING_MAX: usize = 16;
/// Bytes of requests under way after which none is taken.
const PENDING_BYTES_MAX: usize = 32 << 20;

/// Bytes of further requests that are taken while one waits.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// An answer under way: its bytes, none where none is wanted; and how large its request was.
type Pending = Pin<Box<dyn Future<Output = (Option<Vec<u8>>, usize)> + Send>>;

/// The connection has ended.
struct Gone;

impl From<std::io::Error> for Gone {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl From<Malformed> for Gone {
    fn from(_: Malformed) -> Self {
        Self
    }
}

/// One client's connection.
pub(crate) struct Connection {
    gateway: Arc<Gateway>,
    stream: Stream,
    input: Input,
    pending: FuturesOrdered<Pending>,
    pending_bytes: usize,
    session: Session,
}

/// Resolves when the client ends the connection. What it sends meanwhile is taken, up to a bound; beyond that it is looked at no further.
async fn hangs_up(stream: &mut Stream, input: &mut Input) -> Gone {
    while input.pending() < WAITING_BYTES_MAX {
        match poll_fn(|cx| stream.poll_input(input, cx)).await {
            Ok(0) | Err(_) => return Gone,
            Ok(_) => {}
        }
    }
    std::future::pending().await
}

/// What a connection has been told.
pub(crate) struct Session {
    pub(crate) who: Who,
    /// Where the client comes from, for people to read.
    pub(crate) host: String,
    /// The client has said who it is, and was let in.
    pub(crate) entered: bool,
    /// The mechanism by which it is about to say it.
    pub(crate) shaking: Shaking,
    /// What it says of itself next comes bare, not as a request.
    pub(crate) bare: bool,
    /// The connection ends once its answers are sent.
    pub(crate) closing: bool,
}

impl Connection {
    pub(crate) fn new(gateway: Arc<Gateway>, stream: Stream, host: String) -> Self {
        let who = Who { principal: "anonymous".into(), name: Blob::EMPTY };
        let shaking = Shaking::default();
        let session = Session { who, host, entered: false, shaking, bare: false, closing: false };
        Self {
            gateway,
            stream,
            input: Input::default(),
            pending: FuturesOrdered::new(),
            pending_bytes: 0,
            session,
        }
    }

    /// Serves the client until either side ends it.
    pub(crate) async fn run(mut self) {
        while self.turn().await.is_ok() {}
    }

    /// Takes one request, or sends one answer, whichever comes first.
    async fn turn(&mut self) -> Result<(), Gone> {
        let frame = match self.taken()? {
            Some(frame) => Some(frame),
            None => self.wait().await?,
        };
        match frame {
            Some(frame) => self.request(frame).await?,
            None => return Ok(()),
        }
        if self.session.closing { Err(Gone) } else { Ok(()) }
    }

    /// A request that has arrived, if one more may be under way.
    fn taken(&mut self) -> Result<Option<Bytes>, Gone> {
        if self.is_full() {
            return Ok(None);
        }
        Ok(self.input.next(self.gateway.config.request_bytes_max)?)
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_MAX || self.pending_bytes >= PENDING_BYTES_MAX
    }

    /// Waits until a request has arrived, sending answers as they come.
    async fn wait(&mut self) -> Result<Option<Bytes>, Gone> {
        let full = self.is_full();
        let Self { stream, input, pending, .. } = self;
        let arrived = poll_fn(|cx| {
            let arrived = stream.poll_input(input, cx);
            if arrived.is_pending() {
                input.rest();
            }
            arrived
        });
        tokio::select! {
            arrived = arrived, if !full => {
                if arrived? == 0 {
                    return Err(Gone);
                }
                Ok(self.taken()?)
            }
            Some((answer, bytes)) = pending.next(), if !pending.is_empty() => {
                self.answered(answer, bytes).await?;
                Ok(None)
            }
            () = self.gateway.stopped() => {
                self.settle().await?;
                Err(Gone)
            }
        }
    }

    async fn answered(&mut self, answer: Option<Vec<u8>>, bytes: usize) -> Result<(), Gone> {
        self.pending_bytes -= bytes;
        if let Some(answer) = answer {
            self.stream.send(&answer).await?;
        }
        Ok(())
    }

    /// Sends every answer that is under way.
    async fn settle(&mut self) -> Result<(), Gone> {
        while let Some((answer, bytes)) = self.pending.next().await {
            self.answered(answer, bytes).await?;
        }
        Ok(())
    }

    async fn request(&mut self, frame: Bytes) -> Result<(), Gone> {
        let bytes = frame.len();
        if self.session.bare {
            // The answer to its handshake was waited for.
            let answer = api::bare(&self.gateway, &mut self.session, &frame).await?;
            self.stream.send(&answer).await?;
            return Ok(());
        }
        let (head, api, body) = api::read(frame)?;
        if api.is_some_and(|api| api.is_pipelined()) && self.may_ask() {
            let launched = api::launch(&self.gateway, &self.session, &head, body).await?;
            self.pending_bytes += bytes;
            self.pending.push_back(Box::pin(async move {
                let answer = match launched {
                    Launched::Answer(answer) => Some(answer),
                    Launched::Under(answer) => answer.await,
                };
                (answer, bytes)
            }));
            return Ok(());
        }
        self.settle().await?;
        let waits = api.is_some_and(api::Api::waits);
        let Self { gateway, stream, input, session, .. } = self;
        let answer = tokio::select! {
            biased;
            answer = api::answer(gateway, session, head, api, body) => answer?,
            // Nobody waits any more: a member of a group is not to be kept alive by a wait for it.
            gone = hangs_up(stream, input), if waits => return Err(gone),
        };
        self.stream.send(&answer).await?;
        Ok(())
    }

    /// Whether the client may ask for anything: it has said who it is, or need not.
    fn may_ask(&self) -> bool {
        self.session.entered || self.gateway.is_open()
    }
}
