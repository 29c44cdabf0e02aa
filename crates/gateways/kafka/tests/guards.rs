//! Guards and changes of keys that ride with batches, by hand: what each batch of a request is told, record by record, and what a right allows.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use bytes::Bytes;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use quorate_types::record::Header;
use quorate_types::{
    Command, CommandBody, CommandRule, Key, NameRule, Offset, Principal, Record, UserChange, Verbs, WallTime,
};
use support::{Client, Server, produce, topic};

const TOPIC_DENIED: i16 = 29;
const POLICY: i16 = 44;
const TOO_LARGE: i16 = 10;
const BAD_RECORD: i16 = 87;

/// A batch of records with headers: a list for each record.
fn batch(records: &[&[(&str, &str)]]) -> Vec<u8> {
    let record = |headers: &&[(&str, &str)]| Record {
        key: None,
        value: Some(Bytes::from_static(b"v")),
        headers: headers
            .iter()
            .map(|(name, value)| Header { name: (*name).into(), value: (*value).into() })
            .collect(),
    };
    let records: Vec<Record> = records.iter().map(record).collect();
    let mut out = Vec::new();
    quorate_batch::build((0..).zip(&records), Offset(0), records.len() as u32 - 1, WallTime(7), -1, &mut out);
    out
}

async fn make(client: &mut Client, name: &str, configs: &[(&str, &str)]) {
    use create_topics_request::{CreatableTopic, CreatableTopicConfig};
    let configs = configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string((*name).to_owned()))
            .with_value(Some(StrBytes::from_string((*value).to_owned())))
    });
    let wanted = CreatableTopic::default()
        .with_name(topic(name))
        .with_num_partitions(2)
        .with_replication_factor(-1)
        .with_configs(configs.collect());
    let body = CreateTopicsRequest::default().with_topics(vec![wanted]);
    let answer: CreateTopicsResponse = client.ask(ApiKey::CreateTopics, 5, &body).await;
    assert_eq!(answer.topics[0].error_code, 0);
}

async fn send(
    client: &mut Client,
    version: i16,
    batches: &[(&str, i32, Vec<u8>)],
) -> Vec<PartitionProduceResponse> {
    let answer: ProduceResponse = client.ask(ApiKey::Produce, version, &produce(-1, batches)).await;
    answer.responses.into_iter().flat_map(|topic| topic.partition_responses).collect()
}

fn value(server: &Server, key: &str) -> Option<String> {
    server.data.read(|machine| machine.get(&Key::from(key)).map(|found| found.value.to_string())).unwrap()
}

#[tokio::test]
async fn each_batch_of_a_request_is_decided_for_itself_and_told_why() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, "t", &[("quorate.guards", "true")]).await;
    for version in 3..=9 {
        let name = format!("k{version}");
        let set: &[(&str, &str)] = &[(&format!("q-set:{name}"), "1")];
        let refused: &[(&str, &str)] = &[("q-version:none", "1"), ("q-set:none", "1")];
        let bad: &[(&str, &str)] = &[("q-set:none", "1"), ("q-add:none", "x")];
        let found = send(
            &mut client,
            version,
            &[
                ("t", 0, batch(&[set, &[("q-add:sum", "2")]])),
                ("t", 1, batch(&[set, refused])),
                ("t", 1, batch(&[set, bad, set, bad])),
                ("t", 0, batch(&[&[("q-add:sum", "1")]])),
            ],
        )
        .await;
        let codes: Vec<i16> = found.iter().map(|one| one.error_code).collect();
        assert_eq!(codes, [0, POLICY, BAD_RECORD, 0]);
        let run = i64::from(version) - 3;
        assert_eq!((found[0].base_offset, found[3].base_offset), (run * 3, run * 3 + 2));
        assert_eq!(value(&server, &name).as_deref(), Some("1"));
        assert_eq!(value(&server, "sum"), Some((3 * (run + 1)).to_string()));
        if version >= 8 {
            let told = |one: &PartitionProduceResponse| one.error_message.clone().unwrap().to_string();
            assert!(told(&found[1]).contains("key none has"), "{}", told(&found[1]));
            assert!(told(&found[2]).contains("q-add:none"), "{}", told(&found[2]));
            let places: Vec<i32> = found[2].record_errors.iter().map(|one| one.batch_index).collect();
            assert_eq!(places, [1, 3]);
            assert!(found[1].record_errors.is_empty());
        }
    }
    assert_eq!(value(&server, "none"), None);
    assert_eq!(client.fetch("t", 0, 0).await.next, 3 * 7);
    server.stop().await;
}

#[tokio::test]
async fn on_a_compacted_topic_records_and_their_rider_are_one_commit_too() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, "c", &[("quorate.guards", "true"), ("cleanup.policy", "compact")]).await;
    let one = |headers: Vec<Header>| {
        let record = Record { key: Some("k".into()), value: Some(Bytes::from_static(b"v")), headers };
        let mut out = Vec::new();
        quorate_batch::build([(0, &record)], Offset(0), 0, WallTime(7), -1, &mut out);
        out
    };
    let header = |name: &str, value: &str| vec![Header { name: name.into(), value: value.into() }];
    assert_eq!(client.produce("c", 0, one(header("q-add:n", "1"))).await, (0, 0));
    assert_eq!(client.produce("c", 0, one(header("q-version:n", "9"))).await, (POLICY, -1));
    assert_eq!(client.fetch("c", 0, 0).await.next, 1);
    assert_eq!(value(&server, "n").as_deref(), Some("1"));
    server.stop().await;
}

#[tokio::test]
async fn a_rider_does_no_more_than_its_sender_may() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, "t", &[("quorate.guards", "true")]).await;
    let may = |pattern: &str| {
        let verbs = Verbs::READ.and(Verbs::WRITE);
        UserChange::Name { rule: NameRule { allow: true, verbs, space: None, pattern: pattern.into() } }
    };
    let changes = vec![
        UserChange::Reset {},
        UserChange::Enable { on: true },
        UserChange::NoPassword { on: true },
        UserChange::Command { rule: CommandRule { allow: true, what: "@all".into() } },
        may("t"),
        may("mine/*"),
    ];
    let change = CommandBody::ChangeUser { name: "default".into(), changes, may_lock_out: true };
    server.data.handle().command(Command::new(Principal::from("server"), change)).await.unwrap();
    let mut client = server.client().await;
    assert_eq!(client.produce("t", 0, batch(&[&[("q-set:mine/a", "1")]])).await, (0, 0));
    let denied = send(&mut client, 8, &[("t", 0, batch(&[&[("q-set:others", "1")]]))]).await;
    assert_eq!(denied[0].error_code, TOPIC_DENIED, "{:?}", denied[0].error_message);
    let denied = send(&mut client, 8, &[("t", 0, batch(&[&[("q-version:others", "0")]]))]).await;
    assert_eq!(denied[0].error_code, TOPIC_DENIED);
    assert_eq!(client.fetch("t", 0, 0).await.next, 1);
    assert_eq!(value(&server, "others"), None);
    server.stop().await;
}

#[tokio::test]
async fn a_rider_is_bounded_and_others_of_its_request_are_not_refused_for_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, "t", &[("quorate.guards", "true")]).await;
    let names: Vec<String> = (0..10_001).map(|n| format!("q-add:n{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let found = send(
        &mut client,
        8,
        &[("t", 0, batch(&[&[]])), ("t", 0, batch(&[&many])), ("t", 0, batch(&[&many[..9_000]]))],
    )
    .await;
    let codes: Vec<i16> = found.iter().map(|one| one.error_code).collect();
    assert_eq!(codes, [0, TOO_LARGE, 0]);
    assert_eq!((value(&server, "n8999").as_deref(), value(&server, "n9000")), (Some("1"), None));
    server.stop().await;
}
