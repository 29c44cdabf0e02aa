//! The least that a server of batches does: reads each from loopback, checks its CRC, appends what has gathered in one write, syncs it and answers.
//!
//! No protocol but the frames, no state, no index: what is faster than this skips one of the four.
//! Called by: `kafka`, as a process of its own.

use super::Failure;
use super::broker::TOPIC;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a frame at most, and of what is written at once.
const WRITE_BYTES_MAX: usize = 8 << 20;
/// Frames that may wait to be written.
const WAITING_MAX: usize = 256;
/// Where the CRC of a batch lies, and where what it covers begins (Kafka's record batch, version 2).
const CRC_AT: usize = 17;

/// A batch that was read and checked, and whom to tell when it is synced.
struct Checked {
    batch: Vec<u8>,
    answer: TcpStream,
}

/// Serves until it is killed.
pub(crate) fn serve(address: SocketAddr, file: &Path) -> Result<(), Failure> {
    let mut disk = std::fs::File::create(file)?;
    let listener = TcpListener::bind(address)?;
    let (send, receive) = sync_channel(WAITING_MAX);
    std::thread::spawn(move || append(&mut disk, &receive).expect("the disk takes what is appended"));
    for stream in listener.incoming() {
        let (stream, send) = (stream?, send.clone());
        stream.set_nodelay(true)?;
        // Ends with its connection.
        std::thread::spawn(move || read(stream, &send));
    }
    Ok(())
}

fn read(mut stream: TcpStream, send: &SyncSender<Checked>) -> Result<(), Failure> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let bytes = u32::from_be_bytes(size) as usize;
        if bytes > WRITE_BYTES_MAX {
            return Err(format!("a frame of {bytes} bytes").into());
        }
        let mut frame = vec![0; bytes];
        stream.read_exact(&mut frame)?;
        // The batch is the end of the frame; all before it is of one length for one producer.
        let start = frame.len().checked_sub(batch_bytes(&frame)?).ok_or("a frame without a batch")?;
        let batch = frame.split_off(start);
        let said = u32::from_be_bytes(batch[CRC_AT..CRC_AT + 4].try_into()?);
        if crc32c::crc32c(&batch[CRC_AT + 4..]) != said {
            return Err("a batch with another CRC".into());
        }
        send.send(Checked { batch, answer: stream.try_clone()? })?;
    }
}

/// How long the batch at the end of a Produce request is: the number before it says so.
fn batch_bytes(frame: &[u8]) -> Result<usize, Failure> {
    // Header, client, transaction, acks, timeout, topics, name, partitions, index.
    let client = u16::from_be_bytes(frame.get(8..10).ok_or("a short frame")?.try_into()?) as usize;
    let at = 10 + client + 2 + 2 + 4 + 4 + 2 + TOPIC.len() + 4 + 4;
    let bytes = frame.get(at..at + 4).ok_or("a short frame")?;
    Ok(u32::from_be_bytes(bytes.try_into()?) as usize)
}

/// Writes what has gathered, syncs it and answers, again and again.
fn append(disk: &mut std::fs::File, receive: &Receiver<Checked>) -> Result<(), Failure> {
    let mut together = Vec::with_capacity(WRITE_BYTES_MAX * 2);
    // Correlation, topics, name, partitions, index, error, offset, time, start.
    let mut answer =
        [&[0; 4 + 4][..], &(TOPIC.len() as u16).to_be_bytes(), TOPIC.as_bytes(), &[0; 4 + 4 + 2 + 24 + 4]]
            .concat();
    let size = answer.len() as u32;
    answer.splice(..0, size.to_be_bytes());
    while let Ok(first) = receive.recv() {
        together.clear();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(checked) = next {
            together.extend_from_slice(&checked.batch);
            waiting.push(checked.answer);
            next = if together.len() < WRITE_BYTES_MAX { receive.try_recv().ok() } else { None };
        }
        disk.write_all(&together)?;
        disk.sync_data()?;
        for mut stream in waiting {
            // Who has gone is told nothing.
            let _ = stream.write_all(&answer);
        }
    }
    Ok(())
}
