//! A real server on port 0 over a real runtime on a temporary folder, and a client by hand whose messages are those of `kafka-protocol`.
#![allow(clippy::unwrap_used, dead_code)] // Test code: a failure here is the test's failure.

#[path = "../../../testing.rs"]
mod testing;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use quorate_kafka::{Config, serve};
use quorate_types::{Offset, Record, WallTime};
use std::net::SocketAddr;
use std::ops::Deref;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use testing::PATIENCE;
use testing::Served;

/// A running server. Dropping it without [`Server::stop`] leaves the end to the process.
pub(crate) struct Server(Served);

impl Deref for Server {
    type Target = Served;
    fn deref(&self) -> &Served {
        &self.0
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self(
            Served::start(|listener, handle, stopped| async move {
                let shutdown = async move {
                    let _ = stopped.await;
                };
                serve(listener, handle, config, shutdown).await.unwrap();
            })
            .await,
        )
    }

    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }
}

/// A connection.
pub(crate) struct Client {
    stream: TcpStream,
    correlation: i32,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), correlation: 0 }
    }

    /// Sends a request; which it was.
    pub(crate) async fn send<Q: Encodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        version: i16,
        body: &Q,
    ) -> i32 {
        self.correlation += 1;
        let mut out = BytesMut::new();
        let head = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("tests")));
        head.encode(&mut out, Q::header_version(version)).unwrap();
        body.encode(&mut out, version).unwrap();
        self.frame(&out).await;
        self.correlation
    }

    /// Sends any bytes as a frame.
    pub(crate) async fn frame(&mut self, body: &[u8]) {
        self.raw(&(body.len() as i32).to_be_bytes()).await;
        self.raw(body).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        // A server that has ended the connection takes nothing more; what it answered tells.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next answer's frame; nothing when the server has ended the connection.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let read = async {
            let length = self.stream.read_i32().await.ok()?;
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Bytes::from(body))
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the server answers")
    }

    /// The answer to a request that was sent.
    pub(crate) async fn answer<R: Decodable + HeaderVersion>(&mut self, version: i16, correlation: i32) -> R {
        let mut frame = self.next().await.expect("the server answers");
        let head = ResponseHeader::decode(&mut frame, R::header_version(version)).unwrap();
        assert_eq!(head.correlation_id, correlation, "answers come in order");
        let body = R::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty(), "{} bytes follow the answer", frame.len());
        body
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask<Q, R>(&mut self, key: ApiKey, version: i16, body: &Q) -> R
    where
        Q: Encodable + HeaderVersion,
        R: Decodable + HeaderVersion,
    {
        let correlation = self.send(key, version, body).await;
        self.answer(version, correlation).await
    }

    /// Has a topic made by asking for it.
    pub(crate) async fn make(&mut self, name: &str) -> MetadataResponse {
        let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(topic(name)));
        let body =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
        self.ask(ApiKey::Metadata, 9, &body).await
    }

    /// Produces one batch: the error and the first offset.
    pub(crate) async fn produce(&mut self, name: &str, partition: i32, batch: Vec<u8>) -> (i16, i64) {
        let body = produce(-1, &[(name, partition, batch)]);
        let answer: ProduceResponse = self.ask(ApiKey::Produce, 8, &body).await;
        let found = &answer.responses[0].partition_responses[0];
        (found.error_code, found.base_offset)
    }

    /// Fetches one partition, waiting for a byte.
    pub(crate) async fn fetch(&mut self, name: &str, from: i64, wait_ms: i32) -> Fetched {
        self.fetch_with(name, from, wait_ms, 1, i32::MAX).await
    }

    pub(crate) async fn fetch_with(
        &mut self,
        name: &str,
        from: i64,
        wait_ms: i32,
        bytes_min: i32,
        bytes_max: i32,
    ) -> Fetched {
        let body = fetch(wait_ms, bytes_min, bytes_max, &[(name, 0, from)]);
        let answer: FetchResponse = self.ask(ApiKey::Fetch, 11, &body).await;
        let found = &answer.responses[0].partitions[0];
        Fetched {
            code: found.error_code,
            next: found.high_watermark,
            first: found.log_start_offset,
            batches: split(found.records.clone().unwrap_or_default()),
        }
    }
}

/// What a Fetch found of a partition.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) code: i16,
    pub(crate) next: i64,
    pub(crate) first: i64,
    pub(crate) batches: Vec<Bytes>,
}

impl Fetched {
    /// Offsets and values of its records, in order.
    pub(crate) fn values(&self) -> Vec<(i64, String)> {
        let of = |batch: &Bytes| {
            let base = base(batch);
            let records = quorate_batch::decode(batch, 1 << 20).unwrap();
            (base..).zip(
                records
                    .into_iter()
                    .map(|timed| String::from_utf8(timed.record.value.unwrap_or_default().to_vec()).unwrap()),
            )
        };
        self.batches.iter().flat_map(|batch| of(batch).collect::<Vec<_>>()).collect()
    }
}

/// The batches that follow each other in some bytes, each checked.
pub(crate) fn split(mut bytes: Bytes) -> Vec<Bytes> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let length = i32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize + 12;
        let batch = bytes.split_to(length);
        let header = quorate_batch::Header::read(&batch).unwrap();
        if header.count > 0 && header.count == header.last_offset_delta + 1 {
            quorate_batch::check(&batch).unwrap();
        }
        batches.push(batch);
    }
    batches
}

/// The offset of a batch's first record.
pub(crate) fn base(batch: &[u8]) -> i64 {
    i64::from_be_bytes(batch[..8].try_into().unwrap())
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A batch as a producer sends it.
pub(crate) fn batch(values: &[&str]) -> Vec<u8> {
    let record = |value: &&str| Record {
        key: Some("k".into()),
        value: Some(Bytes::from((*value).to_owned())),
        headers: vec![quorate_types::record::Header { name: "h".into(), value: "x".into() }],
    };
    let records: Vec<Record> = values.iter().map(record).collect();
    let mut out = Vec::new();
    quorate_batch::build((0..).zip(&records), Offset(0), records.len() as u32 - 1, WallTime(7), -1, &mut out);
    out
}

/// The same of a producer that numbers its records.
pub(crate) fn numbered(values: &[&str], producer: i64, epoch: i16, first: i32) -> Vec<u8> {
    let mut bytes = batch(values);
    bytes[43..51].copy_from_slice(&producer.to_be_bytes());
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&first.to_be_bytes());
    mended(bytes)
}

/// A batch whose bytes were changed, with its checksum mended.
pub(crate) fn mended(mut batch: Vec<u8>) -> Vec<u8> {
    // CRC-32C, bit by bit (RFC 3720, appendix B.4).
    let step = |crc: u32, byte: &u8| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (0u32.wrapping_sub(crc & 1))))
    };
    let crc = !batch[21..].iter().fold(!0, step);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

pub(crate) fn produce(acks: i16, batches: &[(&str, i32, Vec<u8>)]) -> ProduceRequest {
    use produce_request::{PartitionProduceData, TopicProduceData};
    let topics = batches.iter().map(|(name, partition, batch)| {
        let data = PartitionProduceData::default()
            .with_index(*partition)
            .with_records(Some(Bytes::from(batch.clone())));
        TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![data])
    });
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1000).with_topic_data(topics.collect())
}

pub(crate) fn fetch(wait_ms: i32, bytes_min: i32, bytes_max: i32, from: &[(&str, i32, i64)]) -> FetchRequest {
    use fetch_request::{FetchPartition, FetchTopic};
    let topics = from.iter().map(|(name, partition, from)| {
        let asked = FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*from)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(bytes_max);
        FetchTopic::default().with_topic(topic(name)).with_partitions(vec![asked])
    });
    FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(bytes_min)
        .with_max_bytes(bytes_max)
        .with_session_epoch(-1)
        .with_topics(topics.collect())
}
