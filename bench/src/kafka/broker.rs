//! A Kafka client that does nothing but send and count: batches are made once and sent again and again.
//!
//! Called by: `kafka`.

use super::{Failure, Load};
use bytes::Bytes;
use quorate_types::{Offset, Record, WallTime};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

const TOPIC: &str = "bench";
const CLIENT: &str = "quorate-bench";
/// Bytes that one Fetch asks for.
const FETCH_BYTES: i32 = 8 << 20;

pub(super) struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: Vec::new() })
    }

    /// Makes the topic, if it is not there.
    pub(super) fn make_topic(&mut self) -> Result<(), Failure> {
        let mut body = Vec::new();
        put_i32(&mut body, 1);
        put_text(&mut body, TOPIC);
        body.push(1); // Makes topics that are asked for.
        self.stream.write_all(&request(3, 4, &body))?;
        self.read()
    }

    /// Sends the batch again and again, `load.in_flight` requests at a time; how many records were acknowledged by the end, and how long each took, in microseconds.
    pub(super) fn produce(&mut self, load: &Load, until: Instant) -> Result<(u64, Vec<u64>), Failure> {
        let request = produce_request(&batch(load.records, load.bytes));
        let mut sent = std::collections::VecDeque::new();
        let (mut records, mut took) = (0, Vec::new());
        while Instant::now() < until || !sent.is_empty() {
            while Instant::now() < until && sent.len() < load.in_flight {
                self.stream.write_all(&request)?;
                sent.push_back(Instant::now());
            }
            let Some(at) = sent.pop_front() else { break };
            self.read()?;
            // Correlation, topics, name, partitions, index.
            let error = i16::from_be_bytes(self.at(4 + 4 + 2 + TOPIC.len() + 4 + 4)?);
            if error != 0 {
                return Err(format!("Produce is answered error {error}").into());
            }
            took.push(at.elapsed().as_micros() as u64);
            if Instant::now() < until {
                records += u64::from(load.records);
            }
        }
        Ok((records, took))
    }

    /// Reads everything; how many records that are.
    pub(super) fn consume(&mut self) -> Result<u64, Failure> {
        let (mut next, mut records) = (0i64, 0);
        loop {
            self.stream.write_all(&fetch_request(next))?;
            self.read()?;
            // Correlation, throttling, topics, name, partitions, index.
            let at = 4 + 4 + 4 + 2 + TOPIC.len() + 4 + 4;
            let error = i16::from_be_bytes(self.at(at)?);
            if error != 0 {
                return Err(format!("Fetch is answered error {error}").into());
            }
            let aborted = i32::from_be_bytes(self.at(at + 2 + 16)?).max(0) as usize;
            let from = at + 2 + 16 + 4 + aborted * 16 + 4;
            let mut batches = self.answer.get(from..).unwrap_or_default();
            if batches.is_empty() {
                return Ok(records);
            }
            while let Some(head) = batches.get(..61) {
                let len = 12 + i32::from_be_bytes(head[8..12].try_into()?) as usize;
                let base = i64::from_be_bytes(head[..8].try_into()?);
                next = base + i64::from(i32::from_be_bytes(head[23..27].try_into()?)) + 1;
                records += i32::from_be_bytes(head[57..61].try_into()?) as u64;
                batches = batches.get(len..).unwrap_or_default();
            }
        }
    }

    fn read(&mut self) -> Result<(), Failure> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        self.answer.resize(u32::from_be_bytes(size) as usize, 0);
        self.stream.read_exact(&mut self.answer)?;
        Ok(())
    }

    fn at<const N: usize>(&self, at: usize) -> Result<[u8; N], Failure> {
        let bytes = self.answer.get(at..at + N).ok_or("an answer ends too soon")?;
        Ok(bytes.try_into()?)
    }
}

/// A batch of so many records with values of so many bytes.
fn batch(records: u32, bytes: usize) -> Vec<u8> {
    let record = Record { key: None, value: Some(Bytes::from(vec![b'x'; bytes])), headers: Vec::new() };
    let mut out = Vec::new();
    let all = (0..records).map(|place| (place, &record));
    quorate_batch::build(all, Offset(0), records - 1, WallTime(1_700_000_000_000), -1, &mut out);
    out
}

fn produce_request(batch: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&(-1i16).to_be_bytes()); // No transaction.
    body.extend_from_slice(&(-1i16).to_be_bytes()); // acks=all
    put_i32(&mut body, 30_000);
    put_i32(&mut body, 1);
    put_text(&mut body, TOPIC);
    put_i32(&mut body, 1);
    put_i32(&mut body, 0);
    put_i32(&mut body, batch.len() as i32);
    body.extend_from_slice(batch);
    request(0, 7, &body)
}

fn fetch_request(from: i64) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [-1, 0, 1, FETCH_BYTES] {
        put_i32(&mut body, number); // Replica, longest wait, fewest and most bytes.
    }
    body.push(0);
    put_i32(&mut body, 1);
    put_text(&mut body, TOPIC);
    put_i32(&mut body, 1);
    put_i32(&mut body, 0);
    body.extend_from_slice(&from.to_be_bytes());
    put_i32(&mut body, FETCH_BYTES);
    request(1, 4, &body)
}

fn request(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&api.to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    put_i32(&mut out, 1);
    put_text(&mut out, CLIENT);
    out.extend_from_slice(body);
    let size = out.len() as u32 - 4;
    out[..4].copy_from_slice(&size.to_be_bytes());
    out
}

fn put_i32(out: &mut Vec<u8>, number: i32) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
