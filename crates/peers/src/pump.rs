//! Moves the frames of one connection, both ways, until it ends. The same for messages and bulk, dialled and accepted.
//!
//! Each end writes an empty frame when it has been idle for `keepalive_interval`, and drops the connection after `idle_timeout`
//! without a byte. So a peer that is cut off or stopped is noticed by both ends, whatever the kernel thinks of the connection.
//!
//! Invariant: frames go out in the order of `push` and come in in the order sent; nothing is read past a bad frame.
//! Called by: `dial`, `accept`, `bulk`.

use crate::config::LinksConfig;
use crate::frame::{self, Decoder};
use crate::outbox::{self, Outbox};
use crate::stream::{self, Duplex, Stream};
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;

/// One write gathers about this much.
const WRITE_BYTES: usize = 256 << 10;
/// A payload from here on is written from where it is, not copied into the gathered write.
const COPY_BYTES_MAX: usize = 32 << 10;

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was closed or broke, as connections do when a process ends or a network fails.
    Closed(String),
    /// The peer did something wrong: an operator should know.
    Fault(String),
}

impl End {
    pub(crate) fn text(&self) -> &str {
        match self {
            End::Closed(why) | End::Fault(why) => why,
        }
    }
}

/// Runs until the connection ends. `deliver` gets the frames that a read completed, never none; an error ends the connection. `note`
/// hears what the outbox dropped.
pub(crate) async fn run(
    stream: Stream,
    outbox: &Outbox,
    frame_bytes_max: usize,
    config: &LinksConfig,
    deliver: impl FnMut(&mut Vec<Bytes>) -> Result<(), End>,
    note: impl Fn(String),
) -> End {
    match stream {
        Stream::Plain(tcp) => {
            let (reader, writer) = tcp.into_split();
            let writer = Arc::new(writer);
            outbox.attach(&writer);
            tokio::select! {
                end = read(reader, frame_bytes_max, config.idle_timeout, deliver) => end,
                end = write(Writer::Socket(writer), outbox, config.keepalive_interval, note) => end,
            }
        }
        Stream::Wrapped(wrapped) => {
            let (reader, writer) = tokio::io::split(wrapped);
            tokio::select! {
                end = read(reader, frame_bytes_max, config.idle_timeout, deliver) => end,
                end = write(Writer::Wrapped(writer), outbox, config.keepalive_interval, note) => end,
            }
        }
    }
}

/// The sending half of a connection.
enum Writer {
    /// Shared with whoever queues frames.
    Socket(Arc<OwnedWriteHalf>),
    Wrapped(WriteHalf<Box<dyn Duplex>>),
}

impl Writer {
    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let socket = match self {
            Writer::Wrapped(wrapped) => return wrapped.write_all(bytes).await,
            Writer::Socket(socket) => socket,
        };
        while !bytes.is_empty() {
            socket.writable().await?;
            match socket.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Writer::Socket(_) => Ok(()),
            Writer::Wrapped(wrapped) => wrapped.flush().await,
        }
    }
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    frame_bytes_max: usize,
    idle_timeout: Duration,
    mut deliver: impl FnMut(&mut Vec<Bytes>) -> Result<(), End>,
) -> End {
    let mut decoder = Decoder::new(frame_bytes_max);
    let mut frames = Vec::new();
    loop {
        match timeout(idle_timeout, reader.read_buf(decoder.room())).await {
            Err(_) => return End::Fault(format!("nothing was heard for {idle_timeout:?}")),
            Ok(Ok(0)) => return End::Closed("the peer closed the connection".into()),
            Ok(Err(error)) => return End::Closed(stream::explain(&error)),
            Ok(Ok(bytes)) => decoder.came(bytes),
        }
        let fault = loop {
            match decoder.next() {
                Ok(Some(frame)) if frame.is_empty() => {}
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break None,
                Err(error) => break Some(End::Fault(error.to_string())),
            }
        };
        // What stands before a bad frame was sent as it is: it is good.
        if !frames.is_empty()
            && let Err(end) = deliver(&mut frames)
        {
            return end;
        }
        frames.clear();
        if let Some(fault) = fault {
            return fault;
        }
    }
}

async fn write(
    mut writer: Writer,
    outbox: &Outbox,
    keepalive_interval: Duration,
    note: impl Fn(String),
) -> End {
    let mut batch = Vec::new();
    let mut out = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        let written = match timeout(keepalive_interval, outbox.take(&mut batch)).await {
            Ok(rest) => write_batch(&mut writer, outbox, rest, &mut batch, &mut out).await,
            Err(_) if outbox.claim() => writer.write_all(&frame::KEEPALIVE).await,
            // Somebody writes at this moment, which is sign of life enough.
            Err(_) => continue,
        };
        if let Err(error) = written {
            return End::Closed(stream::explain(&error));
        }
        if let Err(error) = writer.flush().await {
            return End::Closed(stream::explain(&error));
        }
        outbox.done();
        if let Some(losses) = outbox.losses() {
            note(losses);
        }
    }
}

/// Writes a batch in few writes: small frames are gathered, large ones go from where they are.
async fn write_batch(
    writer: &mut Writer,
    outbox: &Outbox,
    (rest, rest_bytes): (BytesMut, usize),
    batch: &mut Vec<Bytes>,
    out: &mut BytesMut,
) -> io::Result<()> {
    writer.write_all(&rest).await?;
    outbox.written(rest_bytes);
    let (mut frames, mut payload_bytes) = (0, 0);
    for payload in batch.drain(..) {
        frame::put_header(out, &payload);
        frames += 1;
        payload_bytes += payload.len();
        let large = payload.len() > COPY_BYTES_MAX;
        if !large {
            out.extend_from_slice(&payload);
        }
        if large || out.len() >= WRITE_BYTES {
            writer.write_all(out).await?;
            out.clear();
            if large {
                writer.write_all(&payload).await?;
            }
            outbox.written(outbox::cost(frames, payload_bytes));
            (frames, payload_bytes) = (0, 0);
        }
    }
    writer.write_all(out).await?;
    out.clear();
    outbox.written(outbox::cost(frames, payload_bytes));
    Ok(())
}
