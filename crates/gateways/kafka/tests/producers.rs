//! Producers that number their batches, by hand: numbers, batches that come again, gaps, earlier lives.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use kafka_protocol::messages::*;
use quorate_types::{Commit, Op, StreamSettings};
use support::{Client, Server, batch, mended, numbered, produce};

/// Kafka's numbers for errors.
mod code {
    pub(crate) const OUT_OF_ORDER: i16 = 45;
    pub(crate) const INVALID_EPOCH: i16 = 47;
    pub(crate) const UNKNOWN_PRODUCER: i16 = 59;
    pub(crate) const INVALID_RECORD: i16 = 87;
}

async fn begin(client: &mut Client, version: i16) -> (i64, i16) {
    let body =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let answer: InitProducerIdResponse = client.ask(ApiKey::InitProducerId, version, &body).await;
    assert_eq!(answer.error_code, 0, "{version}");
    (answer.producer_id.0, answer.producer_epoch)
}

#[tokio::test]
async fn producers_are_given_numbers_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut given = std::collections::BTreeSet::new();
    for version in 0..=4 {
        let (id, epoch) = begin(&mut client, version).await;
        assert!(id >= 0 && epoch == 0 && given.insert(id), "{id} {epoch} in version {version}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_batch_that_comes_again_is_told_its_first_offset_and_stored_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    let settings = StreamSettings { compact: true, ..StreamSettings::default() };
    let compacted = Commit::of(vec![Op::CreateStream { stream: "c".into(), settings }]);
    server.data.handle().command(compacted.into()).await.unwrap();
    for topic in ["t", "c"] {
        let (id, _) = begin(&mut client, 4).await;
        let first = numbered(&["a", "b"], id, 0, 0);
        assert_eq!(client.produce(topic, 0, first.clone()).await, (0, 0));
        assert_eq!(client.produce(topic, 0, batch(&["other"])).await, (0, 2), "of nobody in particular");
        assert_eq!(client.produce(topic, 0, numbered(&["c"], id, 0, 2)).await, (0, 3));
        // From another connection, as after one that broke.
        let mut again = server.client().await;
        assert_eq!(again.produce(topic, 0, first).await, (0, 0));
        assert_eq!(again.produce(topic, 0, numbered(&["d"], id, 0, 3)).await, (0, 4));
        assert_eq!(client.fetch(topic, 0, 0).await.next, 5);
    }
    let values: Vec<_> = client.fetch("t", 0, 0).await.values().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["a", "b", "other", "c", "d"]);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_follow_is_refused_with_kafka_s_error() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    let (id, _) = begin(&mut client, 4).await;
    assert_eq!(
        client.produce("t", 0, numbered(&["a"], id + (1 << 20), 0, 0)).await.0,
        code::UNKNOWN_PRODUCER
    );
    assert_eq!(
        client.produce("t", 0, numbered(&["a"], id, 0, 1)).await.0,
        code::OUT_OF_ORDER,
        "the first is missing"
    );
    assert_eq!(client.produce("t", 0, numbered(&["a"], id, 0, 0)).await, (0, 0));
    assert_eq!(client.produce("t", 0, numbered(&["c"], id, 0, 2)).await.0, code::OUT_OF_ORDER);
    assert_eq!(client.produce("t", 0, numbered(&["a"], id, 0, -1)).await.0, code::INVALID_RECORD);
    assert_eq!(client.produce("t", 0, numbered(&["a"], id, -1, 0)).await.0, code::INVALID_RECORD);
    assert_eq!(client.produce("t", 0, numbered(&["b"], id, 1, 0)).await, (0, 1), "another life");
    assert_eq!(client.produce("t", 0, numbered(&["x"], id, 0, 1)).await.0, code::INVALID_EPOCH);
    // Several under way: what follows one that is refused is refused, and the rest is taken when they come in order.
    let damaged = mended(numbered(&["c"], id, 1, 1)).into_iter().rev().collect::<Vec<_>>();
    let sent = [damaged, numbered(&["d"], id, 1, 2), numbered(&["c"], id, 1, 1), numbered(&["d"], id, 1, 2)];
    let mut waiting = Vec::new();
    for batch in &sent {
        waiting.push(client.send(ApiKey::Produce, 8, &produce(-1, &[("t", 0, batch.clone())])).await);
    }
    let mut codes = Vec::new();
    for correlation in waiting {
        let answer: ProduceResponse = client.answer(8, correlation).await;
        codes.push(answer.responses[0].partition_responses[0].error_code);
    }
    assert_eq!(codes, [code::INVALID_RECORD, code::OUT_OF_ORDER, 0, 0]);
    let values: Vec<_> = client.fetch("t", 0, 0).await.values().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["a", "b", "c", "d"]);
    server.stop().await;
}
