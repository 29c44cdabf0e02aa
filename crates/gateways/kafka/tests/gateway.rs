//! What clients of every version are told, by hand: produce, fetch, offsets, topics, errors, order.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use quorate_types::{
    Append, Command, CommandBody, CommandRule, Commit, Format, Key, NameRule, Op, PartitionChoice, Principal,
    Record, StreamSettings, UserChange, Verbs, record,
};
use std::time::{Duration, Instant};
use support::{Server, base, batch, fetch, mended, produce, split, topic};

/// Kafka's numbers for errors.
mod code {
    pub(crate) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(crate) const CORRUPT: i16 = 2;
    pub(crate) const UNKNOWN_TOPIC: i16 = 3;
    pub(crate) const TOO_LARGE: i16 = 10;
    pub(crate) const INVALID_TOPIC: i16 = 17;
    pub(crate) const INVALID_ACKS: i16 = 21;
    pub(crate) const DENIED: i16 = 29;
    pub(crate) const GROUP_DENIED: i16 = 30;
    pub(crate) const UNSUPPORTED_VERSION: i16 = 35;
    pub(crate) const TOPIC_EXISTS: i16 = 36;
    pub(crate) const INVALID_PARTITIONS: i16 = 37;
    pub(crate) const INVALID_CONFIG: i16 = 40;
    pub(crate) const INVALID_REQUEST: i16 = 42;
    pub(crate) const INVALID_TXN_STATE: i16 = 48;
    pub(crate) const SASL_FAILED: i16 = 58;
    pub(crate) const UNKNOWN_PRODUCER: i16 = 59;
    pub(crate) const SESSION_NOT_FOUND: i16 = 70;
    pub(crate) const FENCED_EPOCH: i16 = 74;
    pub(crate) const UNKNOWN_EPOCH: i16 = 75;
    pub(crate) const UNSUPPORTED_CODEC: i16 = 76;
    pub(crate) const INVALID_RECORD: i16 = 87;
    pub(crate) const UNKNOWN_ID: i16 = 100;
}

/// The whole numbers of a batch whose head was changed, with its checksum mended.
fn changed(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    mended(batch)
}

#[tokio::test]
async fn versions_are_told_in_each_version_and_a_newer_one_in_the_oldest() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for version in 0..=4 {
        let name = || StrBytes::from_static_str("tests");
        let body = match version {
            0..=2 => ApiVersionsRequest::default(),
            _ => ApiVersionsRequest::default()
                .with_client_software_name(name())
                .with_client_software_version(name()),
        };
        let answer: ApiVersionsResponse = client.ask(ApiKey::ApiVersions, version, &body).await;
        let told = |key: ApiKey| {
            let found = answer.api_keys.iter().find(|told| told.api_key == key as i16);
            found.map(|told| (told.min_version, told.max_version))
        };
        assert_eq!(answer.error_code, 0);
        assert_eq!(told(ApiKey::Produce), Some((0, 9)), "from 0, or librdkafka falls back to old formats");
        assert_eq!(told(ApiKey::Fetch), Some((4, 16)));
        assert_eq!(told(ApiKey::JoinGroup), Some((0, 7)));
        assert_eq!(told(ApiKey::ConsumerGroupHeartbeat), Some((0, 1)));
        assert_eq!(told(ApiKey::ShareGroupHeartbeat), None, "what is not there is not told");
    }
    // A client whose name is none (KIP-511).
    for (name, version) in [("", "1"), ("tests", "-1"), ("a b", "1"), ("tests", "1.")] {
        let body = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(name))
            .with_client_software_version(StrBytes::from_static_str(version));
        let answer: ApiVersionsResponse = client.ask(ApiKey::ApiVersions, 3, &body).await;
        assert_eq!(
            (answer.error_code, answer.api_keys.len()),
            (code::INVALID_REQUEST, 0),
            "{name} {version}"
        );
    }
    let mut request = BytesMut::new();
    request.put_slice(&[0, 18, 0, 9, 0, 0, 0, 77, 0xff, 0xff, 0]);
    client.frame(&request).await;
    let answer = client.next().await.unwrap();
    assert_eq!(answer[..4], 77i32.to_be_bytes());
    assert_eq!(answer[4..6], code::UNSUPPORTED_VERSION.to_be_bytes());
    assert!(answer[10..].chunks(6).any(|row| row == [0, 18, 0, 0, 0, 4]), "{answer:?}");
    // What is unknown ends the connection, as a broker does.
    for (key, version) in [(99, 0), (0, 10), (0, -1), (11, 8), (76, 0)] {
        let mut request = BytesMut::new();
        request.put_i16(key);
        request.put_i16(version);
        request.put_slice(&[0, 0, 0, 1, 0xff, 0xff]);
        let mut client = server.client().await;
        client.frame(&request).await;
        assert_eq!(client.next().await, None, "{key} in version {version}");
    }
    server.stop().await;
}

#[tokio::test]
async fn topics_are_made_by_asking_and_told_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let made = client.make("orders").await;
    assert_eq!(made.topics[0].error_code, 0);
    assert_eq!(made.brokers[0].port, i32::from(server.address.port()));
    let asks = |version: i16, name: &str| {
        let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(topic(name)));
        MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(version < 4)
    };
    let mut id = None;
    for version in 0..=13 {
        let answer: MetadataResponse = client.ask(ApiKey::Metadata, version, &asks(version, "orders")).await;
        let found = &answer.topics[0];
        assert_eq!((found.error_code, found.partitions.len()), (0, 1), "{version}");
        assert_eq!(found.partitions[0].leader_id, answer.brokers[0].node_id);
        assert_eq!(answer.brokers[0].host.as_str(), "127.0.0.1");
        id = Some(found.topic_id).filter(|id| !id.is_nil());
    }
    let by_id = metadata_request::MetadataRequestTopic::default().with_topic_id(id.unwrap()).with_name(None);
    let body = MetadataRequest::default().with_topics(Some(vec![by_id]));
    let answer: MetadataResponse = client.ask(ApiKey::Metadata, 12, &body).await;
    assert_eq!(answer.topics[0].name, Some(topic("orders")));
    // Not made: not asked for, no name that Kafka has.
    let answer: MetadataResponse = client.ask(ApiKey::Metadata, 4, &asks(4, "other")).await;
    assert_eq!(answer.topics[0].error_code, code::UNKNOWN_TOPIC);
    assert_eq!(client.make("a/b").await.topics[0].error_code, code::INVALID_TOPIC);
    // All of them: those of other protocols too, where Kafka has such names.
    let create = |name: &str| Op::CreateStream { stream: name.into(), settings: StreamSettings::default() };
    let commit = Commit::of(vec![create("by-http"), create("not/one")]);
    server.data.handle().command(commit.into()).await.unwrap();
    let all: MetadataResponse =
        client.ask(ApiKey::Metadata, 1, &MetadataRequest::default().with_topics(None)).await;
    let names: Vec<_> = all.topics.iter().map(|found| found.name.clone().unwrap().0.to_string()).collect();
    assert_eq!(names, ["by-http", "orders"]);
    server.stop().await;
}

#[tokio::test]
async fn what_is_produced_is_fetched_as_it_came_at_its_offset() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    let sent = batch(&["a", "b"]);
    for version in 3..=9 {
        let body = produce(if version % 2 == 0 { 1 } else { -1 }, &[("t", 0, sent.clone())]);
        let answer: ProduceResponse = client.ask(ApiKey::Produce, version, &body).await;
        let found = &answer.responses[0].partition_responses[0];
        assert_eq!((found.error_code, found.base_offset), (0, i64::from(version - 3) * 2));
    }
    for version in 4..=12 {
        let answer: FetchResponse =
            client.ask(ApiKey::Fetch, version, &fetch(0, 1, i32::MAX, &[("t", 0, 3)])).await;
        let found = &answer.responses[0].partitions[0];
        assert_eq!((found.error_code, found.high_watermark, found.last_stable_offset), (0, 14, 14));
        let batches = split(found.records.clone().unwrap());
        assert_eq!(batches.len(), 6, "the batch that holds the offset is given whole");
        for (number, found) in batches.iter().enumerate() {
            assert_eq!(base(found), 2 + number as i64 * 2);
            assert_eq!(found[16..], sent[16..], "nothing behind the offset and the epoch was touched");
        }
    }
    let read = client.fetch("t", 13, 0).await;
    assert_eq!(read.values(), [(12, "a".to_owned()), (13, "b".to_owned())]);
    assert!(client.fetch("t", 14, 0).await.batches.is_empty(), "nothing is there at the end");
    let beyond = client.fetch("t", 15, 0).await;
    assert_eq!((beyond.code, beyond.first, beyond.next), (code::OFFSET_OUT_OF_RANGE, 0, 14));
    server.stop().await;
}

type Topic = metadata_response::MetadataResponseTopic;

/// A topic as it is told with its id; it is made if it is not there.
async fn with_id(client: &mut support::Client, name: &str) -> Topic {
    let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(topic(name)));
    let body = MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(true);
    let answer: MetadataResponse = client.ask(ApiKey::Metadata, 12, &body).await;
    answer.topics[0].clone()
}

/// What a Fetch by an id tells of its first partition: error, end and batches.
async fn fetch_by_id(client: &mut support::Client, version: i16, of: &Topic) -> (i16, i64, usize) {
    let mut body = fetch(0, 1, i32::MAX, &[("", 0, 0)]);
    body.topics[0].topic_id = of.topic_id;
    let answer: FetchResponse = client.ask(ApiKey::Fetch, version, &body).await;
    assert_eq!((answer.error_code, answer.responses[0].topic_id), (0, of.topic_id), "{version}");
    let found = &answer.responses[0].partitions[0];
    (found.error_code, found.high_watermark, split(found.records.clone().unwrap_or_default()).len())
}

#[tokio::test]
async fn a_fetch_by_id_reads_that_topic_and_no_later_one_of_its_name() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = with_id(&mut client, "t").await;
    client.produce("t", 0, batch(&["a"])).await;
    for version in 13..=16 {
        assert_eq!(fetch_by_id(&mut client, version, &first).await, (0, 1, 1), "{version}");
    }
    let body = DeleteTopicsRequest::default().with_timeout_ms(1000).with_topics(vec![
        delete_topics_request::DeleteTopicState::default().with_name(None).with_topic_id(first.topic_id),
    ]);
    let answer: DeleteTopicsResponse = client.ask(ApiKey::DeleteTopics, 6, &body).await;
    assert_eq!(answer.responses[0].error_code, 0);
    assert_eq!(fetch_by_id(&mut client, 16, &first).await, (code::UNKNOWN_ID, -1, 0));
    let second = with_id(&mut client, "t").await;
    assert_ne!(first.topic_id, second.topic_id);
    assert_eq!(fetch_by_id(&mut client, 16, &second).await, (0, 0, 0));
    // That of before, and none.
    for gone in [first, Topic::default()] {
        assert_eq!(fetch_by_id(&mut client, 13, &gone).await, (code::UNKNOWN_ID, -1, 0));
        let asked =
            metadata_request::MetadataRequestTopic::default().with_name(None).with_topic_id(gone.topic_id);
        let body = MetadataRequest::default().with_topics(Some(vec![asked]));
        let answer: MetadataResponse = client.ask(ApiKey::Metadata, 12, &body).await;
        assert_eq!(answer.topics[0].error_code, code::UNKNOWN_ID);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_fetch_by_id_waits_for_records() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let asked = with_id(&mut client, "t").await;
    let mut body = fetch(20_000, 1, i32::MAX, &[("", 0, 0)]);
    body.topics[0].topic_id = asked.topic_id;
    let asked = client.send(ApiKey::Fetch, 16, &body).await;
    server.client().await.produce("t", 0, batch(&["a"])).await;
    let answer: FetchResponse = client.answer(16, asked).await;
    assert_eq!(answer.responses[0].partitions[0].high_watermark, 1);
    server.stop().await;
}

#[tokio::test]
async fn batches_that_are_wrong_are_refused_each_for_itself() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    let good = batch(&["a", "b"]);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let large = batch(&[&"x".repeat(5 << 20)]);
    let cases = [
        ("t", 0, flipped, code::CORRUPT),
        ("t", 0, good[..40].to_vec(), code::INVALID_RECORD),
        ("t", 0, Vec::new(), code::INVALID_RECORD),
        ("t", 0, [&good[..], &good[..]].concat(), code::INVALID_RECORD),
        ("t", 0, changed(good.clone(), 16, &[1]), code::INVALID_RECORD),
        ("t", 0, changed(good.clone(), 57, &3i32.to_be_bytes()), code::INVALID_RECORD),
        ("t", 0, changed(good.clone(), 61, &[0x7e]), code::INVALID_RECORD),
        ("t", 0, changed(good.clone(), 21, &5i16.to_be_bytes()), code::UNSUPPORTED_CODEC),
        ("t", 0, changed(good.clone(), 21, &16i16.to_be_bytes()), code::INVALID_TXN_STATE),
        ("t", 0, changed(good.clone(), 21, &32i16.to_be_bytes()), code::INVALID_RECORD),
        ("t", 0, changed(good.clone(), 43, &9i64.to_be_bytes()), code::INVALID_RECORD),
        (
            "t",
            0,
            changed(good.clone(), 43, &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]),
            code::UNKNOWN_PRODUCER,
        ),
        ("t", 0, large, code::TOO_LARGE),
        ("t", 1, good.clone(), code::UNKNOWN_TOPIC),
        ("t", -1, good.clone(), code::UNKNOWN_TOPIC),
        ("none", 0, good.clone(), code::UNKNOWN_TOPIC),
        ("a b", 0, good.clone(), code::INVALID_TOPIC),
        ("t", 0, good.clone(), 0),
    ];
    for (name, partition, bytes, wanted) in cases.clone() {
        assert_eq!(client.produce(name, partition, bytes).await.0, wanted, "{name} {partition} {wanted}");
    }
    // Together in one request they do not concern each other.
    let batches: Vec<_> = cases.iter().map(|(name, at, bytes, _)| (*name, *at, bytes.clone())).collect();
    let answer: ProduceResponse = client.ask(ApiKey::Produce, 9, &produce(-1, &batches)).await;
    for (found, (.., wanted)) in answer.responses.iter().zip(&cases) {
        assert_eq!(found.partition_responses[0].error_code, *wanted);
    }
    let answer: ProduceResponse = client.ask(ApiKey::Produce, 8, &produce(2, &[("t", 0, good)])).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, code::INVALID_ACKS);
    assert_eq!(client.fetch("t", 0, 0).await.next, 4, "only the good ones are there");
    server.stop().await;
}

#[tokio::test]
async fn answers_keep_the_order_of_the_requests_and_appends_theirs() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    let mut sent = Vec::new();
    for number in 0..60 {
        let body = produce(if number % 3 == 0 { 0 } else { -1 }, &[("t", 0, batch(&[&number.to_string()]))]);
        let correlation = client.send(ApiKey::Produce, 8, &body).await;
        if number % 3 != 0 {
            sent.push((correlation, number));
        }
    }
    let last = client.send(ApiKey::Fetch, 11, &fetch(0, 1, i32::MAX, &[("t", 0, 0)])).await;
    for (correlation, number) in sent {
        let answer: ProduceResponse = client.answer(8, correlation).await;
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, number);
    }
    let answer: FetchResponse = client.answer(11, last).await;
    let found = split(answer.responses[0].partitions[0].records.clone().unwrap());
    assert_eq!(found.len(), 60, "a fetch sees what its connection has produced before");
    server.stop().await;
}

#[tokio::test]
async fn a_fetch_waits_for_enough_bytes_and_no_longer_than_asked() {
    let server = Server::start().await;
    let (mut reader, mut writer) = (server.client().await, server.client().await);
    reader.make("t").await;
    reader.make("u").await;
    let begun = Instant::now();
    assert!(reader.fetch("t", 0, 150).await.batches.is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(150), "it waits until the time is over");
    // Two partitions, of which the second gets something.
    let body = fetch(20_000, 1, i32::MAX, &[("t", 0, 0), ("u", 0, 0)]);
    let asked = reader.send(ApiKey::Fetch, 11, &body).await;
    assert_eq!(writer.produce("u", 0, batch(&["x"])).await, (0, 0));
    let answer: FetchResponse = reader.answer(11, asked).await;
    assert!(answer.responses[0].partitions[0].records.clone().unwrap().is_empty());
    assert_eq!(split(answer.responses[1].partitions[0].records.clone().unwrap()).len(), 1);
    // One batch is not enough, three are.
    let size = batch(&["x"]).len() as i32;
    let asked = reader.send(ApiKey::Fetch, 11, &fetch(20_000, size * 3, i32::MAX, &[("t", 0, 0)])).await;
    for _ in 0..3 {
        writer.produce("t", 0, batch(&["x"])).await;
    }
    let answer: FetchResponse = reader.answer(11, asked).await;
    assert_eq!(split(answer.responses[0].partitions[0].records.clone().unwrap()).len(), 3);
    // One is given whatever the bound, a second is not.
    let small = reader.fetch_with("t", 0, 0, 1, 1).await;
    assert_eq!(small.batches.len(), 1);
    let two = reader.fetch_with("t", 0, 0, 1, size * 2).await;
    assert_eq!(two.batches.len(), 2);
    // Nor is one of another partition.
    let body = fetch(0, 1, size, &[("t", 0, 0), ("u", 0, 0)]);
    let answer: FetchResponse = reader.ask(ApiKey::Fetch, 11, &body).await;
    let found = answer.responses.iter().map(|found| found.partitions[0].records.clone().unwrap());
    assert_eq!(found.map(|records| split(records).len()).collect::<Vec<_>>(), [1, 0]);
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_lets_nobody_wait() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    client.send(ApiKey::Fetch, 11, &fetch(60_000, 1, i32::MAX, &[("t", 0, 0)])).await;
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn records_of_other_protocols_are_batches_here() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let header = |name: &[u8]| record::Header { name: name.into(), value: "1".into() };
    let records = [
        Record {
            key: Some("k".into()),
            value: Some("v".into()),
            headers: vec![header(b"h"), header(b"\xff")],
        },
        Record::default(),
    ];
    let append = |stream: &str, records: &[Record]| Op::Append {
        append: Append {
            stream: stream.into(),
            partition: PartitionChoice::Any,
            format: Format::Records,
            records: records.len() as u32,
            payload: record::encode(records),
            create: true,
        },
    };
    let commit = Commit::of(vec![append("s", &records), append("s", &records[..1])]);
    server.data.handle().command(commit.into()).await.unwrap();
    let found = client.fetch("s", 1, 0).await;
    assert_eq!((found.batches.len(), base(&found.batches[0]), base(&found.batches[1])), (2, 0, 2));
    let again = client.fetch("s", 1, 0).await;
    assert_eq!(found.batches, again.batches, "the same bytes each time");
    let read = quorate_batch::decode(&found.batches[0], 1000).unwrap();
    assert_eq!(read[0].record.key, records[0].key);
    assert_eq!(read[0].record.value, records[0].value);
    assert_eq!(read[0].record.headers[1].name, "\u{fffd}".into(), "what is no text is shown as such");
    assert_eq!((read[1].record.key.clone(), read[1].record.value.clone()), (None, None));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    assert!((now - read[0].time_ms).abs() < 60_000);
    // And back: what came as a batch is records for the others.
    client.make("t").await;
    client.produce("t", 0, batch(&["one", "two"])).await;
    let handle = server.data.handle();
    let at = handle
        .read(|machine| {
            machine.records(&"t".into(), 0, quorate_types::Offset(0), 9, 9999).unwrap().batches[0].at
        })
        .await
        .unwrap();
    let read = handle.records(vec![at]).await.unwrap()[0].clone().unwrap();
    let read = record::decode(&read, 2).unwrap();
    assert_eq!(read[1].value, Some(Bytes::from_static(b"two")));
    assert_eq!((read[0].key.clone(), read[0].headers[0].name.clone()), (Some("k".into()), "h".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_compacted_topic_goes_by_keys_and_leaves_gaps() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let config = create_topics_request::CreatableTopicConfig::default()
        .with_name(StrBytes::from_static_str("cleanup.policy"))
        .with_value(Some(StrBytes::from_static_str("compact")));
    assert_eq!(create(&mut client, 7, "c", 1, vec![config]).await, 0);
    for value in ["1", "2"] {
        assert_eq!(client.produce("c", 0, batch(&[value])).await.0, 0);
    }
    assert_eq!(
        client.fetch("c", 0, 0).await.values(),
        [(1, "2".to_owned())],
        "of a key only the newest is there"
    );
    let keyless = [Record { value: Some("x".into()), ..Record::default() }];
    let mut bytes = Vec::new();
    let wall = quorate_types::WallTime(1);
    quorate_batch::build((0..).zip(&keyless), quorate_types::Offset(0), 0, wall, -1, &mut bytes);
    assert_eq!(client.produce("c", 0, bytes).await.0, code::INVALID_RECORD);
    server.stop().await;
}

#[tokio::test]
async fn what_was_taken_out_at_the_end_is_passed_by() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let add = |id: &str| Op::Call {
        space: quorate_types::Keyspace::DEFAULT,
        words: ["XADD", "s", id, "f", "v"].map(Into::into).to_vec(),
        record: None,
    };
    let remove = Op::Call {
        space: quorate_types::Keyspace::DEFAULT,
        words: ["XDEL", "s", "2-0", "3-0"].map(Into::into).to_vec(),
        record: None,
    };
    let commit = Commit::of(vec![add("1-0"), add("2-0"), add("3-0"), remove]);
    server.data.handle().command(commit.into()).await.unwrap();
    let found = client.fetch("s", 1, 60_000).await;
    let header = quorate_batch::Header::read(&found.batches[0]).unwrap();
    assert_eq!((base(&found.batches[0]), header.count, header.last_offset_delta), (1, 0, 1));
    assert_eq!(found.next, 3);
    server.stop().await;
}

async fn create(
    client: &mut support::Client,
    version: i16,
    name: &str,
    partitions: i32,
    configs: Vec<create_topics_request::CreatableTopicConfig>,
) -> i16 {
    let new = create_topics_request::CreatableTopic::default()
        .with_name(topic(name))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(configs);
    let body = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(1000);
    let answer: CreateTopicsResponse = client.ask(ApiKey::CreateTopics, version, &body).await;
    answer.topics[0].error_code
}

#[tokio::test]
async fn topics_are_created_and_deleted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for version in 2..=7 {
        let name = format!("t{version}");
        assert_eq!(create(&mut client, version, &name, 3, vec![]).await, 0);
        assert_eq!(create(&mut client, version, &name, 3, vec![]).await, code::TOPIC_EXISTS);
        assert_eq!(client.make(&name).await.topics[0].partitions.len(), 3);
    }
    assert_eq!(create(&mut client, 7, "a", 0, vec![]).await, code::INVALID_PARTITIONS);
    assert_eq!(create(&mut client, 7, "..", 1, vec![]).await, code::INVALID_TOPIC);
    let config = |name: &'static str, value: &'static str| {
        create_topics_request::CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_static_str(value)))
    };
    assert_eq!(create(&mut client, 7, "a", 1, vec![config("segment.ms", "1")]).await, code::INVALID_CONFIG);
    assert_eq!(create(&mut client, 7, "a", 1, vec![config("retention.ms", "x")]).await, code::INVALID_CONFIG);
    let configs = vec![config("retention.ms", "60000"), config("retention.bytes", "-1")];
    assert_eq!(create(&mut client, 7, "a", 1, configs).await, 0);
    let view = server.data.handle().read(|machine| machine.stream(&Key::from("a"))).await.unwrap().unwrap();
    assert_eq!(view.settings.retention.age, Some(quorate_types::Millis(60_000)));
    assert!(view.settings.protected, "other protocols' key commands leave it alone");
    for version in 1..=5 {
        let body = DeleteTopicsRequest::default()
            .with_topic_names(vec![topic(&format!("t{}", version + 1)), topic("none")]);
        let answer: DeleteTopicsResponse = client.ask(ApiKey::DeleteTopics, version, &body).await;
        let codes: Vec<i16> = answer.responses.iter().map(|found| found.error_code).collect();
        assert_eq!(codes, [0, code::UNKNOWN_TOPIC]);
    }
    let id = client
        .ask::<_, MetadataResponse>(ApiKey::Metadata, 12, &MetadataRequest::default().with_topics(None))
        .await;
    let id = id.topics.iter().find(|found| found.name == Some(topic("t7"))).unwrap().topic_id;
    let state = delete_topics_request::DeleteTopicState::default().with_topic_id(id);
    let body = DeleteTopicsRequest::default().with_topics(vec![state]);
    let answer: DeleteTopicsResponse = client.ask(ApiKey::DeleteTopics, 6, &body).await;
    assert_eq!((answer.responses[0].error_code, answer.responses[0].name.clone()), (0, Some(topic("t7"))));
    assert_eq!(client.fetch("t7", 0, 0).await.code, code::UNKNOWN_TOPIC);
    let told: DescribeClusterResponse =
        client.ask(ApiKey::DescribeCluster, 1, &DescribeClusterRequest::default()).await;
    assert_eq!((told.error_code, told.brokers.len(), told.controller_id.0), (0, 1, 1));
    server.stop().await;
}

#[tokio::test]
async fn offsets_are_told_by_end_and_by_time() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    // Made long before they are appended, at 7, 1000 and 2000.
    for time in [7i64, 1000, 2000] {
        let times = [time.to_be_bytes(), time.to_be_bytes()].concat();
        // CreateTime, not that of the append.
        let sent = changed(changed(batch(&["a", "b"]), 27, &times), 21, &[0, 0]);
        assert_eq!(client.produce("t", 0, sent).await.0, 0);
    }
    let asks = |time: i64| {
        use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
        let at = ListOffsetsPartition::default().with_timestamp(time).with_current_leader_epoch(-1);
        let topic = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![at]);
        ListOffsetsRequest::default().with_topics(vec![topic])
    };
    let far = 1 << 60;
    let wanted = [
        (-1, (-1, 6)),
        (-2, (-1, 0)),
        (0, (7, 0)),
        (7, (7, 0)),
        (8, (1000, 2)),
        (1001, (2000, 4)),
        (far, (-1, -1)),
    ];
    for version in 1..=6 {
        for (time, (made, offset)) in wanted {
            let answer: ListOffsetsResponse = client.ask(ApiKey::ListOffsets, version, &asks(time)).await;
            let found = &answer.topics[0].partitions[0];
            assert_eq!((found.error_code, found.timestamp, found.offset), (0, made, offset), "{time}");
        }
    }
    // The newest time, and places of tiered storage, are of later versions.
    for time in [-3, -4, -5, -6, i64::MIN] {
        let answer: ListOffsetsResponse = client.ask(ApiKey::ListOffsets, 6, &asks(time)).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, code::UNSUPPORTED_VERSION, "{time}");
    }
    let epoch = {
        let answer: ListOffsetsResponse = client.ask(ApiKey::ListOffsets, 4, &asks(-1)).await;
        answer.topics[0].partitions[0].leader_epoch
    };
    for version in 2..=4 {
        use offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
        for (now, wanted) in [(-1, 0), (epoch, 0), (epoch + 1, code::UNKNOWN_EPOCH)] {
            let at =
                OffsetForLeaderPartition::default().with_current_leader_epoch(now).with_leader_epoch(epoch);
            let topic = OffsetForLeaderTopic::default().with_topic(topic("t")).with_partitions(vec![at]);
            let body = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            let answer: OffsetForLeaderEpochResponse =
                client.ask(ApiKey::OffsetForLeaderEpoch, version, &body).await;
            let found = &answer.topics[0].partitions[0];
            assert_eq!(found.error_code, wanted);
            assert_eq!(found.end_offset, if wanted == 0 { 6 } else { -1 });
        }
    }
    // Fetch holds epochs against its own too, and knows no sessions.
    let mut body = fetch(0, 1, i32::MAX, &[("t", 0, 0)]);
    for (now, wanted) in [(epoch + 1, code::UNKNOWN_EPOCH), (epoch - 1, code::FENCED_EPOCH)] {
        body.topics[0].partitions[0].current_leader_epoch = now;
        let answer: FetchResponse = client.ask(ApiKey::Fetch, 9, &body).await;
        let found = answer.responses[0].partitions[0].error_code;
        assert!(found == wanted || now == -1, "{found}");
    }
    body.session_id = 5;
    let answer: FetchResponse = client.ask(ApiKey::Fetch, 9, &body).await;
    assert_eq!((answer.error_code, answer.session_id), (code::SESSION_NOT_FOUND, 0));
    server.stop().await;
}

#[tokio::test]
async fn frames_that_cannot_be_end_their_connection_and_no_other() {
    let server = Server::start().await;
    let mut other = server.client().await;
    other.make("t").await;
    let cases: [&[u8]; 6] = [
        &i32::MAX.to_be_bytes(),
        &(-1i32).to_be_bytes(),
        &[0, 0, 0, 0],
        &[0, 0, 0, 2, 0, 3],
        // Metadata with a list of two thousand million topics.
        &[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff],
        // Produce of before batches.
        &[0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff],
    ];
    for case in cases {
        let mut client = server.client().await;
        client.raw(case).await;
        assert_eq!(client.next().await, None, "{case:?}");
    }
    assert_eq!(other.produce("t", 0, batch(&["a"])).await, (0, 0));
    server.stop().await;
}

/// Says who it is; the error.
async fn enter(client: &mut support::Client, message: &'static [u8]) -> i16 {
    let plain = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("PLAIN"));
    let answer: SaslHandshakeResponse = client.ask(ApiKey::SaslHandshake, 1, &plain).await;
    assert_eq!(answer.error_code, 0);
    let body = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(message));
    let answer: SaslAuthenticateResponse = client.ask(ApiKey::SaslAuthenticate, 2, &body).await;
    answer.error_code
}

struct Tokens;

impl quorate_kafka::Door for Tokens {
    fn principal(&self, secret: &str) -> Option<Principal> {
        (secret == "token-of-the-operator").then(|| "operator".into())
    }
}

#[tokio::test]
async fn a_closed_door_wants_a_name_and_a_secret_and_rights_hold() {
    let config = quorate_kafka::Config { door: Some(std::sync::Arc::new(Tokens)), ..Default::default() };
    let server = Server::with(config).await;
    let handle = server.data.handle();
    let scram = handle.verifier("secret".into(), vec![]).await.unwrap().unwrap();
    let changes = vec![
        UserChange::Enable { on: true },
        UserChange::AddScram { scram },
        UserChange::Command { rule: CommandRule { allow: true, what: "@stream".into() } },
        UserChange::Name {
            rule: NameRule { allow: true, verbs: Verbs::READ, space: None, pattern: "orders*".into() },
        },
        UserChange::Name {
            rule: NameRule { allow: true, verbs: Verbs::WRITE, space: None, pattern: "orders-in".into() },
        },
    ];
    let body = CommandBody::ChangeUser { name: "ann".into(), changes, may_lock_out: true };
    handle.command(Command::new("server".into(), body)).await.unwrap();

    let mut client = server.client().await;
    client.send(ApiKey::Metadata, 1, &MetadataRequest::default().with_topics(None)).await;
    assert_eq!(client.next().await, None, "who has not said who it is is not answered");
    let mut client = server.client().await;
    client.send(ApiKey::Produce, 8, &produce(-1, &[("orders", 0, batch(&["x"]))])).await;
    assert_eq!(client.next().await, None);
    let mut client = server.client().await;
    let _: ApiVersionsResponse = client.ask(ApiKey::ApiVersions, 0, &ApiVersionsRequest::default()).await;
    let other = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("GSSAPI"));
    let answer: SaslHandshakeResponse = client.ask(ApiKey::SaslHandshake, 1, &other).await;
    assert_eq!((answer.error_code, answer.mechanisms.len()), (33, 3));
    assert_eq!(enter(&mut client, b"\0ann\0wrong").await, code::SASL_FAILED);
    assert_eq!(client.next().await, None, "a wrong password ends the connection");

    let mut operator = server.client().await;
    assert_eq!(enter(&mut operator, b"\0operator\0token-of-the-operator").await, 0);
    for name in ["orders", "orders-in", "other"] {
        assert_eq!(operator.make(name).await.topics[0].error_code, 0);
        assert_eq!(operator.produce(name, 0, batch(&["x"])).await, (0, 0));
    }
    let mut ann = server.client().await;
    assert_eq!(enter(&mut ann, b"\0ann\0secret").await, 0);
    let all: MetadataResponse =
        ann.ask(ApiKey::Metadata, 1, &MetadataRequest::default().with_topics(None)).await;
    assert_eq!(all.topics.len(), 2, "only what may be read is told");
    assert_eq!(ann.produce("orders-in", 0, batch(&["x"])).await, (0, 1));
    assert_eq!(ann.produce("orders", 0, batch(&["x"])).await.0, code::DENIED);
    assert_eq!(ann.fetch("orders", 0, 0).await.batches.len(), 1);
    assert_eq!(ann.fetch("other", 0, 0).await.code, code::DENIED);
    assert_eq!(ann.make("orders-new").await.topics[0].error_code, code::DENIED);
    assert_eq!(ann.make("other").await.topics[0].error_code, code::DENIED);
    assert_eq!(create(&mut ann, 7, "orders-new", 1, vec![]).await, code::DENIED);
    // Nor is it told to who only asks whether it could be made, and whether it is there.
    for name in ["orders-new", "other"] {
        let one = create_topics_request::CreatableTopic::default()
            .with_name(topic(name))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let body = CreateTopicsRequest::default().with_topics(vec![one]).with_validate_only(true);
        let answer: CreateTopicsResponse = ann.ask(ApiKey::CreateTopics, 7, &body).await;
        assert_eq!(answer.topics[0].error_code, code::DENIED, "{name}");
    }
    // A group has a name, as a topic has.
    for (group, wanted) in [("orders-in", 0), ("orders", code::GROUP_DENIED), ("other", code::GROUP_DENIED)] {
        use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
        let one = OffsetCommitRequestPartition::default().with_committed_offset(1);
        let of = |name: &str| {
            OffsetCommitRequestTopic::default().with_name(topic(name)).with_partitions(vec![one.clone()])
        };
        let body = OffsetCommitRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![of("orders"), of("other")]);
        let answer: OffsetCommitResponse = ann.ask(ApiKey::OffsetCommit, 7, &body).await;
        let codes: Vec<i16> = answer.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
        let topics = if wanted == 0 { code::DENIED } else { wanted };
        assert_eq!(codes, [wanted, topics], "{group}");
    }
    // A topic that may not be read has no name for whoever knows its id.
    let told: MetadataResponse =
        operator.ask(ApiKey::Metadata, 12, &MetadataRequest::default().with_topics(None)).await;
    let id = told.topics.iter().find(|found| found.name == Some(topic("other"))).unwrap().topic_id;
    let state = delete_topics_request::DeleteTopicState::default().with_topic_id(id).with_name(None);
    let body = DeleteTopicsRequest::default().with_topics(vec![state]);
    let answer: DeleteTopicsResponse = ann.ask(ApiKey::DeleteTopics, 6, &body).await;
    assert_eq!((answer.responses[0].error_code, answer.responses[0].name.clone()), (code::UNKNOWN_ID, None));
    server.stop().await;
}
