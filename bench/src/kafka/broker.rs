//! A Kafka client that does nothing but send and count: batches are made once and sent again and again.
//!
//! Called by: `kafka`.

use super::latency::{self, Stamp};
use super::{Failure, Load};
use bytes::Bytes;
use quorate_types::{Offset, Record, WallTime};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

pub(super) const TOPIC: &str = "bench";
const CLIENT: &str = "quorate-bench";
/// Bytes that one Fetch asks for.
const FETCH_BYTES: i32 = 8 << 20;
/// How long one that waits for records waits, in milliseconds.
const FETCH_WAIT: i32 = 200;

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

    /// Makes the topic, if it is not there, and tells where its leader is.
    pub(super) fn make_topic(&mut self) -> Result<SocketAddr, Failure> {
        let mut body = Vec::new();
        put_i32(&mut body, 1);
        put_text(&mut body, TOPIC);
        body.push(1); // Makes topics that are asked for.
        self.stream.write_all(&request(3, 4, &body))?;
        self.read()?;
        let mut from = Answer { bytes: &self.answer, at: 8 };
        let mut nodes = Vec::new();
        for _ in 0..from.i32()? {
            let (id, host, port) = (from.i32()?, from.text()?, from.i32()?);
            from.text()?;
            nodes.push((id, format!("{host}:{port}")));
        }
        from.text()?; // The cluster's id.
        from.take::<4>()?; // The controller.
        from.take::<4>()?; // One topic.
        if i16::from_be_bytes(from.take()?) != 0 {
            return Err("the topic is not there yet".into());
        }
        from.text()?;
        from.take::<1>()?;
        from.take::<4>()?; // One partition.
        let (error, _, leader) = (i16::from_be_bytes(from.take()?), from.i32()?, from.i32()?);
        let leader = nodes.into_iter().find(|(id, _)| error == 0 && *id == leader);
        Ok(leader.ok_or("the topic has no leader yet")?.1.parse()?)
    }

    /// Produces one record that says when it was to be sent.
    pub(super) fn produce_stamped(&mut self, stamp: Stamp, bytes: usize) -> Result<(), Failure> {
        self.stream.write_all(&produce_request(&batch(1, stamp.value(bytes).into_bytes())))?;
        self.read()?;
        self.produced()
    }

    /// Reads so many records that say when they were sent, and tells what each took, in microseconds.
    pub(super) fn latencies(&mut self, clock: Instant, count: usize) -> Result<Vec<u64>, Failure> {
        let (mut next, mut took) = (0, Vec::new());
        let mut last = Instant::now();
        while took.len() < count && last.elapsed() < latency::PATIENCE {
            self.stream.write_all(&fetch_request(next, FETCH_WAIT))?;
            self.read()?;
            let now = clock.elapsed();
            let batches = self.fetched()?;
            if !batches.is_empty() {
                last = Instant::now();
            }
            latency::took(batches, now, &mut took);
            for_each_batch(batches, |after, _| next = after)?;
        }
        Ok(took)
    }

    /// Sends the batch again and again, `load.in_flight` requests at a time; how many records were acknowledged by the end, and how long each took, in microseconds.
    pub(super) fn produce(&mut self, load: &Load, until: Instant) -> Result<(u64, Vec<u64>), Failure> {
        let request = produce_request(&batch(load.records, vec![b'x'; load.bytes]));
        let mut sent = std::collections::VecDeque::new();
        let (mut records, mut took) = (0, Vec::new());
        while Instant::now() < until || !sent.is_empty() {
            while Instant::now() < until && sent.len() < load.in_flight {
                self.stream.write_all(&request)?;
                sent.push_back(Instant::now());
            }
            let Some(at) = sent.pop_front() else { break };
            self.read()?;
            self.produced()?;
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
            self.stream.write_all(&fetch_request(next, 0))?;
            self.read()?;
            let batches = self.fetched()?;
            if batches.is_empty() {
                return Ok(records);
            }
            for_each_batch(batches, |after, count| (next, records) = (after, records + count))?;
        }
    }

    /// Whether the answer to a Produce is none of an error.
    fn produced(&self) -> Result<(), Failure> {
        // Correlation, topics, name, partitions, index.
        match i16::from_be_bytes(self.at(4 + 4 + 2 + TOPIC.len() + 4 + 4)?) {
            0 => Ok(()),
            error => Err(format!("Produce is answered error {error}").into()),
        }
    }

    /// The batches in the answer to a Fetch.
    fn fetched(&self) -> Result<&[u8], Failure> {
        // Correlation, throttling, topics, name, partitions, index.
        let at = 4 + 4 + 4 + 2 + TOPIC.len() + 4 + 4;
        let error = i16::from_be_bytes(self.at(at)?);
        if error != 0 {
            return Err(format!("Fetch is answered error {error}").into());
        }
        let aborted = i32::from_be_bytes(self.at(at + 2 + 16)?).max(0) as usize;
        let from = at + 2 + 16 + 4 + aborted * 16 + 4;
        Ok(self.answer.get(from..).unwrap_or_default())
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

/// Reads an answer from front to back.
struct Answer<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Answer<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let bytes = self.bytes.get(self.at..self.at + N).ok_or("an answer ends too soon")?;
        self.at += N;
        Ok(bytes.try_into()?)
    }

    fn i32(&mut self) -> Result<i32, Failure> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    /// A text; none is an empty one.
    fn text(&mut self) -> Result<String, Failure> {
        let bytes = i16::from_be_bytes(self.take()?).max(0) as usize;
        let text = self.bytes.get(self.at..self.at + bytes).ok_or("an answer ends too soon")?;
        self.at += bytes;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

/// Tells of each batch the offset after it, and how many records it has.
fn for_each_batch(mut batches: &[u8], mut each: impl FnMut(i64, u64)) -> Result<(), Failure> {
    while let Some(head) = batches.get(..61) {
        let len = 12 + i32::from_be_bytes(head[8..12].try_into()?) as usize;
        let base = i64::from_be_bytes(head[..8].try_into()?);
        let after = base + i64::from(i32::from_be_bytes(head[23..27].try_into()?)) + 1;
        each(after, i32::from_be_bytes(head[57..61].try_into()?) as u64);
        batches = batches.get(len..).unwrap_or_default();
    }
    Ok(())
}

/// A batch of so many records with this value.
fn batch(records: u32, value: Vec<u8>) -> Vec<u8> {
    let record = Record { key: None, value: Some(Bytes::from(value)), headers: Vec::new() };
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

fn fetch_request(from: i64, wait: i32) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [-1, wait, 1, FETCH_BYTES] {
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
