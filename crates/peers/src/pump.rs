//! Moves the frames of one connection, both ways, until it ends. The same for messages and bulk, dialled and accepted.
//!
//! Each end writes an empty frame when it has been idle for `keepalive_interval`, and drops the connection after `idle_timeout`
//! without a byte. So a peer that is cut off or stopped is noticed by both ends, whatever the kernel thinks of the connection.
//!
//! Invariant: frames go out in the order of `push` and come in in the order sent; nothing is read past a bad frame.
//! Called by: `dial`, `accept`, `bulk`.

use crate::config::LinksConfig;
use crate::frame::{self, Decoder};
use crate::outbox::Outbox;
use crate::stream::{self, Stream};
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
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
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        end = read(reader, frame_bytes_max, config.idle_timeout, deliver) => end,
        end = write(writer, outbox, config.keepalive_interval, note) => end,
    }
}

async fn read(
    mut reader: ReadHalf<Stream>,
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
    mut writer: WriteHalf<Stream>,
    outbox: &Outbox,
    keepalive_interval: Duration,
    note: impl Fn(String),
) -> End {
    let mut batch = Vec::new();
    let mut out = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        let written = match timeout(keepalive_interval, outbox.take(&mut batch)).await {
            Ok(()) => write_batch(&mut writer, outbox, &mut batch, &mut out).await,
            Err(_) => writer.write_all(&frame::KEEPALIVE).await,
        };
        if let Err(error) = written {
            return End::Closed(stream::explain(&error));
        }
        if let Err(error) = writer.flush().await {
            return End::Closed(stream::explain(&error));
        }
        if let Some(losses) = outbox.losses() {
            note(losses);
        }
    }
}

/// Writes a batch in few writes: small frames are gathered, large ones go from where they are.
async fn write_batch(
    writer: &mut WriteHalf<Stream>,
    outbox: &Outbox,
    batch: &mut Vec<Bytes>,
    out: &mut BytesMut,
) -> std::io::Result<()> {
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
            outbox.written(frames, payload_bytes);
            (frames, payload_bytes) = (0, 0);
        }
    }
    writer.write_all(out).await?;
    out.clear();
    outbox.written(frames, payload_bytes);
    Ok(())
}
