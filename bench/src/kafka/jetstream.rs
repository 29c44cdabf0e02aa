//! A client of NATS JetStream that does nothing but publish and count (the text protocol; acknowledgements come as messages).
//!
//! Called by: `kafka`.

use super::latency::{self, Stamp};
use super::{Failure, Load};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const ACKS: &str = "_INBOX.acks";
const DELIVERED: &str = "_INBOX.delivered";

pub(super) struct Connection {
    stream: TcpStream,
    from: BufReader<TcpStream>,
    payload: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let from = BufReader::with_capacity(1 << 20, stream.try_clone()?);
        let mut connection = Self { stream, from, payload: Vec::new() };
        let hello = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
        let inbox = connection.inbox()?;
        connection.send(&format!("{hello}SUB {inbox} 1\r\nPING\r\n"))?;
        let mut line = String::new();
        while line.trim_end() != "PONG" {
            line.clear();
            if connection.from.read_line(&mut line)? == 0 {
                return Err("the server has closed the connection".into());
            }
        }
        Ok(connection)
    }

    /// Each connection has one of its own.
    fn inbox(&self) -> Result<String, Failure> {
        Ok(format!("{ACKS}.{}", self.stream.local_addr()?.port()))
    }

    /// Makes the stream, if it is not there, and tells the name of the server that leads it; nothing where there is one server.
    pub(super) fn make_stream(&mut self, replicas: usize) -> Result<Option<String>, Failure> {
        let config =
            format!(r#"{{"name":"bench","subjects":["bench"],"storage":"file","num_replicas":{replicas}}}"#);
        let said = self.ask("STREAM.CREATE.bench", &config)?;
        if let Some(error) = said.get("error") {
            return Err(format!("JetStream makes no stream: {error}").into());
        }
        if replicas == 1 {
            return Ok(None);
        }
        let said = self.ask("STREAM.INFO.bench", "")?;
        let cluster = said.get("cluster").ok_or("the stream is in no cluster")?;
        let peers =
            cluster.get("replicas").and_then(|peers| peers.as_array()).map(Vec::as_slice).unwrap_or_default();
        let current = peers.iter().filter(|peer| peer["current"] == true).count();
        let leader =
            cluster.get("leader").and_then(|leader| leader.as_str()).filter(|_| current + 1 == replicas);
        Ok(Some(leader.ok_or("the stream is not yet replicated")?.to_owned()))
    }

    fn ask(&mut self, what: &str, text: &str) -> Result<serde_json::Value, Failure> {
        let inbox = self.inbox()?;
        // A cluster that has no leader yet says nothing at all.
        self.stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        self.send(&format!("PUB $JS.API.{what} {inbox} {}\r\n{text}\r\n", text.len()))?;
        self.message()?;
        self.stream.set_read_timeout(None)?;
        Ok(serde_json::from_slice(&self.payload)?)
    }

    /// Publishes one message that says when it was to be sent.
    pub(super) fn produce_stamped(&mut self, stamp: Stamp, bytes: usize) -> Result<(), Failure> {
        let inbox = self.inbox()?;
        self.send(&format!("PUB bench {inbox} {bytes}\r\n{}\r\n", stamp.value(bytes)))?;
        self.message()?;
        self.acknowledged()
    }

    /// Reads so many messages that say when they were sent, and tells what each took, in microseconds.
    pub(super) fn latencies(&mut self, clock: Instant, count: usize) -> Result<Vec<u64>, Failure> {
        self.deliver()?;
        self.stream.set_read_timeout(Some(latency::PATIENCE))?;
        let mut took = Vec::new();
        while took.len() < count {
            if self.message()? == 2 {
                latency::took(&self.payload, clock.elapsed(), &mut took);
            }
        }
        Ok(took)
    }

    fn acknowledged(&self) -> Result<(), Failure> {
        if self.payload.windows(7).any(|part| part == b"\"error\"") {
            return Err(String::from_utf8_lossy(&self.payload).into());
        }
        Ok(())
    }

    /// Publishes, `load.records` times `load.in_flight` messages at a time; how many were acknowledged by the end, and how long each took, in microseconds.
    pub(super) fn produce(&mut self, load: &Load, until: Instant) -> Result<(u64, Vec<u64>), Failure> {
        let one = format!("PUB bench {} {}\r\n{}\r\n", self.inbox()?, load.bytes, "x".repeat(load.bytes));
        // As many in one write as the other side has in one request.
        let several = one.repeat(load.records as usize);
        let most = load.in_flight * load.records as usize;
        let mut sent = VecDeque::new();
        let (mut records, mut took) = (0, Vec::new());
        while Instant::now() < until || !sent.is_empty() {
            while Instant::now() < until && sent.len() + load.records as usize <= most {
                self.send(&several)?;
                sent.extend(std::iter::repeat_n(Instant::now(), load.records as usize));
            }
            let Some(at) = sent.pop_front() else { break };
            self.message()?;
            self.acknowledged()?;
            took.push(at.elapsed().as_micros() as u64);
            if Instant::now() < until {
                records += 1;
            }
        }
        Ok((records, took))
    }

    /// Has everything delivered, without acknowledgements; how many messages that are.
    pub(super) fn consume(&mut self, there: u64) -> Result<u64, Failure> {
        self.deliver()?;
        let mut count = 0;
        while count < there {
            count += u64::from(self.message()? == 2);
        }
        Ok(count)
    }

    /// Asks for all that is there and all that comes.
    fn deliver(&mut self) -> Result<(), Failure> {
        let config = format!(
            r#"{{"stream_name":"bench","config":{{"deliver_subject":"{DELIVERED}","deliver_policy":"all","ack_policy":"none"}}}}"#
        );
        let inbox = self.inbox()?;
        self.send(&format!(
            "SUB {DELIVERED} 2\r\nPUB $JS.API.CONSUMER.CREATE.bench {inbox} {}\r\n{config}\r\n",
            config.len()
        ))
    }

    /// Reads one message; the number of the subscription that it came for.
    fn message(&mut self) -> Result<u32, Failure> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.from.read_line(&mut line)? == 0 {
                return Err("the server has closed the connection".into());
            }
            if line.starts_with("PING") {
                self.send("PONG\r\n")?;
            } else if line.starts_with("-ERR") {
                return Err(line.trim_end().into());
            } else if let Some(rest) = line.strip_prefix("MSG ") {
                let mut words = rest.split_whitespace();
                let number = words.nth(1).ok_or("a message for nobody")?.parse()?;
                let bytes: usize = words.last().ok_or("a message without a size")?.parse()?;
                self.payload.resize(bytes + 2, 0);
                self.from.read_exact(&mut self.payload)?;
                return Ok(number);
            }
        }
    }

    fn send(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.stream.write_all(text.as_bytes())?)
    }
}
