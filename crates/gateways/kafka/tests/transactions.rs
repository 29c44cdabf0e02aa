//! Transactions, by hand: what is seen when, retries, who is fenced off, and what each version is told.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use quorate_types::{Command, CommandBody, CommandRule, NameRule, Principal, UserChange, Verbs};
use support::{Client, Server, mended, numbered, produce, topic};

/// Kafka's numbers for errors.
mod code {
    pub(crate) const UNKNOWN_TOPIC: i16 = 3;
    pub(crate) const TOPIC_DENIED: i16 = 29;
    pub(crate) const INVALID_REQUEST: i16 = 42;
    pub(crate) const INVALID_EPOCH: i16 = 47;
    pub(crate) const INVALID_TXN_STATE: i16 = 48;
    pub(crate) const INVALID_MAPPING: i16 = 49;
    pub(crate) const INVALID_TIMEOUT: i16 = 50;
    pub(crate) const TRANSACTION_DENIED: i16 = 53;
    pub(crate) const NOT_ATTEMPTED: i16 = 55;
    pub(crate) const FENCED: i16 = 90;
}

fn name(name: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(name.to_owned()))
}

/// A producer as a client keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Me {
    id: i64,
    epoch: i16,
}

async fn init_with(
    client: &mut Client,
    version: i16,
    who: &str,
    timeout: i32,
    known: Option<Me>,
) -> Result<Me, i16> {
    let mut body = InitProducerIdRequest::default()
        .with_transactional_id(Some(name(who)))
        .with_transaction_timeout_ms(timeout);
    if let Some(Me { id, epoch }) = known {
        body = body.with_producer_id(ProducerId(id)).with_producer_epoch(epoch);
    }
    let answer: InitProducerIdResponse = client.ask(ApiKey::InitProducerId, version, &body).await;
    let me = Me { id: answer.producer_id.0, epoch: answer.producer_epoch };
    if answer.error_code == 0 { Ok(me) } else { Err(answer.error_code) }
}

async fn init(client: &mut Client, who: &str) -> Me {
    init_with(client, 4, who, 60_000, None).await.unwrap()
}

/// The error of each partition.
async fn add(client: &mut Client, version: i16, who: &str, me: Me, parts: &[(&str, i32)]) -> Vec<i16> {
    use add_partitions_to_txn_request::AddPartitionsToTxnTopic;
    let topics = parts.iter().map(|(name, partition)| {
        AddPartitionsToTxnTopic::default().with_name(topic(name)).with_partitions(vec![*partition])
    });
    let body = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(name(who))
        .with_v3_and_below_producer_id(ProducerId(me.id))
        .with_v3_and_below_producer_epoch(me.epoch)
        .with_v3_and_below_topics(topics.collect());
    let answer: AddPartitionsToTxnResponse = client.ask(ApiKey::AddPartitionsToTxn, version, &body).await;
    let topics = answer.results_by_topic_v3_and_below.iter();
    topics.map(|topic| topic.results_by_partition[0].partition_error_code).collect()
}

async fn add_offsets(client: &mut Client, version: i16, who: &str, me: Me) -> i16 {
    let body = AddOffsetsToTxnRequest::default()
        .with_transactional_id(name(who))
        .with_producer_id(ProducerId(me.id))
        .with_producer_epoch(me.epoch)
        .with_group_id(GroupId(StrBytes::from_static_str("g")));
    let answer: AddOffsetsToTxnResponse = client.ask(ApiKey::AddOffsetsToTxn, version, &body).await;
    answer.error_code
}

async fn end(client: &mut Client, version: i16, who: &str, me: Me, commits: bool) -> i16 {
    let body = EndTxnRequest::default()
        .with_transactional_id(name(who))
        .with_producer_id(ProducerId(me.id))
        .with_producer_epoch(me.epoch)
        .with_committed(commits);
    let answer: EndTxnResponse = client.ask(ApiKey::EndTxn, version, &body).await;
    answer.error_code
}

/// A batch of a transaction.
fn held(values: &[&str], me: Me, first: i32) -> Vec<u8> {
    let mut batch = numbered(values, me.id, me.epoch, first);
    batch[22] |= 16;
    mended(batch)
}

/// Produces in a transaction: the error and the first offset.
async fn send(client: &mut Client, who: &str, topic: &str, batch: Vec<u8>) -> (i16, i64) {
    let body = produce(-1, &[(topic, 0, batch)]).with_transactional_id(Some(name(who)));
    let answer: ProduceResponse = client.ask(ApiKey::Produce, 8, &body).await;
    let found = &answer.responses[0].partition_responses[0];
    (found.error_code, found.base_offset)
}

async fn values(client: &mut Client, topic: &str) -> Vec<String> {
    client.fetch(topic, 0, 0).await.values().into_iter().map(|(_, value)| value).collect()
}

#[tokio::test]
async fn a_transaction_is_seen_whole_once_it_has_ended_well_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    client.make("b").await;
    let mut wanted = Vec::new();
    for version in 0..=3 {
        let who = format!("tx-{version}");
        let me = init_with(&mut client, version, &who, 60_000, None).await.unwrap();
        assert_eq!(add(&mut client, version, &who, me, &[("a", 0), ("b", 0)]).await, [0, 0]);
        assert_eq!(send(&mut client, &who, "a", held(&["1", "2"], me, 0)).await, (0, -1), "no offset yet");
        assert_eq!(send(&mut client, &who, "b", held(&["3"], me, 0)).await, (0, -1));
        assert_eq!(send(&mut client, &who, "a", held(&["1", "2"], me, 0)).await, (0, -1), "again");
        let end_of = client.fetch("a", 0, 0).await.next;
        assert_eq!(end_of, i64::from(version) * 2, "nothing of it is seen");
        assert_eq!(end(&mut client, version, &who, me, true).await, 0);
        assert_eq!(end(&mut client, version, &who, me, true).await, 0, "again");
        wanted.extend(["1", "2"]);
        assert_eq!(values(&mut client, "a").await, wanted);
        assert_eq!(client.fetch("b", 0, 0).await.next, i64::from(version) + 1);
    }
    // Both levels of isolation see the same, and nothing is aborted.
    for isolation in [0, 1] {
        let body = support::fetch(0, 1, i32::MAX, &[("a", 0, 0)]).with_isolation_level(isolation);
        let answer: FetchResponse = client.ask(ApiKey::Fetch, 11, &body).await;
        let found = &answer.responses[0].partitions[0];
        assert_eq!((found.high_watermark, found.last_stable_offset), (8, 8));
        assert!(found.aborted_transactions.as_ref().is_none_or(Vec::is_empty));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_aborted_is_never_seen_and_the_next_transaction_goes_on() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    let me = init(&mut client, "tx").await;
    assert_eq!(add(&mut client, 3, "tx", me, &[("a", 0)]).await, [0]);
    assert_eq!(send(&mut client, "tx", "a", held(&["lost"], me, 0)).await.0, 0);
    assert_eq!(end(&mut client, 3, "tx", me, false).await, 0);
    assert_eq!(end(&mut client, 3, "tx", me, false).await, 0, "again");
    assert_eq!(end(&mut client, 3, "tx", me, true).await, code::INVALID_TXN_STATE);
    assert_eq!(send(&mut client, "tx", "a", held(&["late"], me, 1)).await.0, code::INVALID_TXN_STATE);
    assert_eq!(add(&mut client, 3, "tx", me, &[("a", 0)]).await, [0]);
    assert_eq!(send(&mut client, "tx", "a", held(&["kept"], me, 1)).await.0, 0);
    assert_eq!(end(&mut client, 3, "tx", me, true).await, 0);
    assert_eq!(values(&mut client, "a").await, ["kept"]);
    server.stop().await;
}

#[tokio::test]
async fn a_zombie_is_told_that_it_is_one_in_the_words_of_its_version() {
    let server = Server::start().await;
    let (mut old, mut new) = (server.client().await, server.client().await);
    old.make("a").await;
    let zombie = init(&mut old, "tx").await;
    assert_eq!(add(&mut old, 3, "tx", zombie, &[("a", 0)]).await, [0]);
    assert_eq!(send(&mut old, "tx", "a", held(&["zombie"], zombie, 0)).await.0, 0);
    let me = init(&mut new, "tx").await;
    assert_eq!((me.id, me.epoch), (zombie.id, zombie.epoch + 1));
    for version in 0..=3 {
        let wanted = if version < 2 { code::INVALID_EPOCH } else { code::FENCED };
        assert_eq!(add(&mut old, version, "tx", zombie, &[("a", 0)]).await, [wanted], "{version}");
        assert_eq!(add_offsets(&mut old, version, "tx", zombie).await, wanted);
        assert_eq!(end(&mut old, version, "tx", zombie, true).await, wanted);
    }
    assert_eq!(send(&mut old, "tx", "a", held(&["zombie"], zombie, 1)).await.0, code::INVALID_EPOCH);
    assert_eq!(init_with(&mut old, 3, "tx", 60_000, Some(zombie)).await, Err(code::INVALID_EPOCH));
    assert_eq!(init_with(&mut old, 4, "tx", 60_000, Some(zombie)).await, Err(code::FENCED));
    assert_eq!(add_offsets(&mut new, 3, "tx", me).await, 0);
    assert_eq!(add(&mut new, 3, "tx", me, &[("a", 0)]).await, [0]);
    assert_eq!(send(&mut new, "tx", "a", held(&["alive"], me, 0)).await.0, 0);
    assert_eq!(end(&mut new, 3, "tx", me, true).await, 0);
    assert_eq!(values(&mut new, "a").await, ["alive"]);
    let bumped = init_with(&mut new, 4, "tx", 60_000, Some(me)).await.unwrap();
    assert_eq!(init_with(&mut new, 4, "tx", 60_000, Some(me)).await, Ok(bumped), "its answer was lost");
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_kafka_s_error() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    for (timeout, wanted) in
        [(0, code::INVALID_TIMEOUT), (-1, code::INVALID_TIMEOUT), (900_001, code::INVALID_TIMEOUT)]
    {
        assert_eq!(init_with(&mut client, 4, "tx", timeout, None).await, Err(wanted), "{timeout}");
    }
    assert_eq!(init_with(&mut client, 4, "", 1000, None).await, Err(code::INVALID_REQUEST));
    assert!(init_with(&mut client, 4, "tx", 900_000, None).await.is_ok());
    let me = init(&mut client, "tx").await;
    let codes = add(&mut client, 3, "tx", me, &[("a", 0), ("none", 0), ("a", 1)]).await;
    assert_eq!(codes, [code::NOT_ATTEMPTED, code::UNKNOWN_TOPIC, code::UNKNOWN_TOPIC]);
    assert_eq!(end(&mut client, 3, "tx", me, true).await, code::INVALID_TXN_STATE, "none was begun by that");
    let other = init(&mut client, "other").await;
    assert_eq!(add(&mut client, 3, "tx", other, &[("a", 0)]).await, [code::INVALID_MAPPING]);
    assert_eq!(add(&mut client, 3, "nobody", me, &[("a", 0)]).await, [code::INVALID_MAPPING]);
    assert_eq!(end(&mut client, 3, "nobody", me, true).await, code::INVALID_MAPPING);
    assert_eq!(
        send(&mut client, "tx", "a", held(&["x"], me, 0)).await.0,
        code::INVALID_TXN_STATE,
        "not named"
    );
    assert_eq!(client.produce("a", 0, held(&["x"], me, 0)).await.0, code::INVALID_TXN_STATE, "under no name");
    server.stop().await;
}

#[tokio::test]
async fn a_transactional_id_is_a_name_that_is_written() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    client.make("b").await;
    let allow = |what: &str| UserChange::Command { rule: CommandRule { allow: true, what: what.into() } };
    let may = |pattern: &str| {
        let verbs = Verbs::READ.and(Verbs::WRITE);
        UserChange::Name { rule: NameRule { allow: true, verbs, space: None, pattern: pattern.into() } }
    };
    let changes = vec![
        UserChange::Reset {},
        UserChange::Enable { on: true },
        UserChange::NoPassword { on: true },
        allow("@all"),
        may("a"),
        may("mine-*"),
    ];
    let change = CommandBody::ChangeUser { name: "default".into(), changes, may_lock_out: true };
    server.data.handle().command(Command::new(Principal::from("server"), change)).await.unwrap();
    let mut client = server.client().await;
    assert_eq!(init_with(&mut client, 4, "theirs", 1000, None).await, Err(code::TRANSACTION_DENIED));
    let me = init(&mut client, "mine-1").await;
    let codes = add(&mut client, 3, "mine-1", me, &[("a", 0), ("b", 0)]).await;
    assert_eq!(codes, [code::NOT_ATTEMPTED, code::TOPIC_DENIED]);
    assert_eq!(add(&mut client, 3, "mine-1", me, &[("a", 0)]).await, [0]);
    assert_eq!(end(&mut client, 3, "theirs", me, true).await, code::TRANSACTION_DENIED);
    assert_eq!(send(&mut client, "mine-1", "a", held(&["x"], me, 0)).await, (0, -1));
    assert_eq!(end(&mut client, 3, "mine-1", me, true).await, 0);
    server.stop().await;
}

/// Sends offsets of a group in a transaction; the error of the partition.
async fn send_offset(client: &mut Client, version: i16, who: &str, me: Me, offset: i64) -> i16 {
    send_offset_as(client, version, who, me, offset, -1).await
}

async fn send_offset_as(
    client: &mut Client,
    version: i16,
    who: &str,
    me: Me,
    offset: i64,
    generation: i32,
) -> i16 {
    use txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
    let mut partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(StrBytes::from_static_str("m")));
    if version >= 2 {
        partition = partition.with_committed_leader_epoch(-1);
    }
    let asked = TxnOffsetCommitRequestTopic::default().with_name(topic("a")).with_partitions(vec![partition]);
    let mut body = TxnOffsetCommitRequest::default()
        .with_transactional_id(name(who))
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_producer_id(ProducerId(me.id))
        .with_producer_epoch(me.epoch)
        .with_topics(vec![asked]);
    if version >= 3 {
        body = body.with_generation_id(generation);
    }
    let answer: TxnOffsetCommitResponse = client.ask(ApiKey::TxnOffsetCommit, version, &body).await;
    answer.topics[0].partitions[0].error_code
}

/// How far the group is; -1 for not at all.
async fn committed(client: &mut Client) -> i64 {
    use offset_fetch_request::OffsetFetchRequestTopic;
    let asked = OffsetFetchRequestTopic::default().with_name(topic("a")).with_partition_indexes(vec![0]);
    let body = OffsetFetchRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_topics(Some(vec![asked]));
    let answer: OffsetFetchResponse = client.ask(ApiKey::OffsetFetch, 5, &body).await;
    answer.topics[0].partitions[0].committed_offset
}

/// What one who takes the partition over is told: the mark and the error.
async fn taken_over(client: &mut Client, version: i16, named: bool) -> Vec<(i64, i16)> {
    use offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
    let group = GroupId(StrBytes::from_static_str("g"));
    let body = OffsetFetchRequest::default().with_require_stable(true);
    if version < 8 {
        let asked = OffsetFetchRequestTopic::default().with_name(topic("a")).with_partition_indexes(vec![0]);
        let body = body.with_group_id(group).with_topics(named.then(|| vec![asked]));
        let answer: OffsetFetchResponse = client.ask(ApiKey::OffsetFetch, version, &body).await;
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        return partitions.map(|found| (found.committed_offset, found.error_code)).collect();
    }
    let asked = OffsetFetchRequestTopics::default().with_name(topic("a")).with_partition_indexes(vec![0]);
    let asked =
        OffsetFetchRequestGroup::default().with_group_id(group).with_topics(named.then(|| vec![asked]));
    let answer: OffsetFetchResponse =
        client.ask(ApiKey::OffsetFetch, version, &body.with_groups(vec![asked])).await;
    let partitions = answer.groups[0].topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|found| (found.committed_offset, found.error_code)).collect()
}

#[tokio::test]
async fn who_takes_a_partition_over_waits_for_the_transaction_that_moves_its_mark() {
    const UNSTABLE: i16 = 88;
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    let me = init(&mut client, "tx").await;
    for (commits, mark) in [(true, 5), (false, 9), (true, 12)] {
        let before = committed(&mut client).await;
        assert_eq!(add_offsets(&mut client, 3, "tx", me).await, 0);
        assert_eq!(taken_over(&mut client, 7, true).await, [(before, 0)], "nothing is sent yet");
        assert_eq!(send_offset(&mut client, 3, "tx", me, mark).await, 0);
        for version in [7, 8] {
            assert_eq!(taken_over(&mut client, version, true).await, [(-1, UNSTABLE)]);
            let told = if before < 0 { vec![] } else { vec![(-1, UNSTABLE)] };
            assert_eq!(taken_over(&mut client, version, false).await, told, "of all there are");
        }
        assert_eq!(committed(&mut client).await, before, "who does not ask for it is told what is");
        assert_eq!(end(&mut client, 3, "tx", me, commits).await, 0);
        let after = if commits { mark } else { before };
        assert_eq!(taken_over(&mut client, 7, true).await, [(after, 0)]);
        assert_eq!(taken_over(&mut client, 8, false).await, [(after, 0)]);
    }
    server.stop().await;
}

#[tokio::test]
async fn offsets_of_a_group_are_kept_with_the_records_of_their_transaction_or_not_at_all() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    for version in 0..=3 {
        let who = format!("tx-{version}");
        let me = init(&mut client, &who).await;
        let before = committed(&mut client).await;
        let offset = i64::from(version) * 10 + 5;
        assert_eq!(send_offset(&mut client, version, &who, me, offset).await, code::INVALID_TXN_STATE);
        assert_eq!(add(&mut client, version, &who, me, &[("a", 0)]).await, [0]);
        assert_eq!(
            send_offset(&mut client, version, &who, me, offset).await,
            code::INVALID_TXN_STATE,
            "not named"
        );
        assert_eq!(add_offsets(&mut client, version, &who, me).await, 0);
        assert_eq!(send_offset(&mut client, version, &who, me, 7777).await, 0);
        assert_eq!(end(&mut client, version, &who, me, false).await, 0);
        assert_eq!(committed(&mut client).await, before, "that one was dropped");
        assert_eq!(add_offsets(&mut client, version, &who, me).await, 0);
        assert_eq!(add(&mut client, version, &who, me, &[("a", 0)]).await, [0]);
        assert_eq!(send(&mut client, &who, "a", held(&["x"], me, 0)).await, (0, -1));
        assert_eq!(send_offset(&mut client, version, &who, me, offset - 1).await, 0);
        assert_eq!(send_offset(&mut client, version, &who, me, offset).await, 0, "the last one counts");
        assert_eq!(
            (committed(&mut client).await, client.fetch("a", 0, 0).await.next),
            (before, i64::from(version))
        );
        assert_eq!(end(&mut client, version, &who, me, true).await, 0);
        assert_eq!(
            (committed(&mut client).await, client.fetch("a", 0, 0).await.next),
            (offset, i64::from(version) + 1)
        );
    }
    // Who is no member of the generation that it says cannot speak for the group.
    let me = init(&mut client, "tx-3").await;
    assert_eq!(add_offsets(&mut client, 3, "tx-3", me).await, 0);
    assert_ne!(send_offset_as(&mut client, 3, "tx-3", me, 1, 4).await, 0);
    let zombie = Me { epoch: me.epoch - 1, ..me };
    assert_eq!(send_offset(&mut client, 3, "tx-3", zombie, 1).await, code::INVALID_EPOCH);
    server.stop().await;
}

#[tokio::test]
async fn transactions_and_producers_are_shown_to_whoever_looks_after_them() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    client.make("b").await;
    let (open, done) = (init(&mut client, "open").await, init(&mut client, "done").await);
    init(&mut client, "empty").await;
    for (who, me) in [("open", open), ("done", done)] {
        assert_eq!(add(&mut client, 3, who, me, &[("b", 0), ("a", 0)]).await, [0, 0]);
        assert_eq!(send(&mut client, who, "a", held(&["x", "y"], me, 0)).await, (0, -1));
    }
    assert_eq!(end(&mut client, 3, "done", done, false).await, 0);

    let names = ["open", "done", "empty", "none"].map(name).to_vec();
    let body = DescribeTransactionsRequest::default().with_transactional_ids(names);
    let told: DescribeTransactionsResponse = client.ask(ApiKey::DescribeTransactions, 0, &body).await;
    let of = |at: usize| {
        let one = &told.transaction_states[at];
        (one.error_code, one.transaction_state.to_string(), one.producer_id.0, one.producer_epoch)
    };
    assert_eq!(of(0), (0, "Ongoing".to_owned(), open.id, open.epoch));
    assert_eq!(of(1), (0, "CompleteAbort".to_owned(), done.id, done.epoch));
    assert_eq!((of(2).1.as_str(), of(3).0), ("Empty", 105));
    let one = &told.transaction_states[0];
    assert_eq!(one.transaction_timeout_ms, 60_000);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    assert!(
        (now - 60_000..=now).contains(&one.transaction_start_time_ms),
        "{}",
        one.transaction_start_time_ms
    );
    let mut places: Vec<_> =
        one.topics.iter().map(|found| (found.topic.to_string(), found.partitions.clone())).collect();
    places.sort();
    assert_eq!(places, [("a".to_owned(), vec![0]), ("b".to_owned(), vec![0])]);
    assert!(told.transaction_states[1].topics.is_empty());

    let list = async |client: &mut Client, version, states: &[&str], ids: &[i64], longer| {
        let mut body = ListTransactionsRequest::default()
            .with_state_filters(
                states.iter().map(|state| StrBytes::from_string((*state).to_owned())).collect(),
            )
            .with_producer_id_filters(ids.iter().copied().map(ProducerId).collect());
        if version > 0 {
            body = body.with_duration_filter(longer);
        }
        let told: ListTransactionsResponse = client.ask(ApiKey::ListTransactions, version, &body).await;
        let names = told.transaction_states.iter().map(|one| one.transactional_id.to_string());
        (told.error_code, told.unknown_state_filters.len(), names.collect::<Vec<_>>())
    };
    for version in 0..=1 {
        let all = list(&mut client, version, &[], &[], -1).await;
        assert_eq!(all, (0, 0, ["done", "empty", "open"].map(str::to_owned).to_vec()));
        let some = list(&mut client, version, &["Ongoing", "Empty", "Nonsense"], &[], -1).await;
        assert_eq!(some, (0, 1, ["empty", "open"].map(str::to_owned).to_vec()));
        assert_eq!(list(&mut client, version, &[], &[done.id, 7], -1).await.2, ["done"]);
    }
    assert!(list(&mut client, 1, &[], &[], 3_600_000).await.2.is_empty());

    let topics = [("a", vec![0, 1]), ("b", vec![0]), ("none", vec![0])].map(|(name, partitions)| {
        describe_producers_request::TopicRequest::default()
            .with_name(topic(name))
            .with_partition_indexes(partitions)
    });
    let body = DescribeProducersRequest::default().with_topics(topics.to_vec());
    let told: DescribeProducersResponse = client.ask(ApiKey::DescribeProducers, 0, &body).await;
    let codes: Vec<Vec<i16>> = told
        .topics
        .iter()
        .map(|topic| topic.partitions.iter().map(|partition| partition.error_code).collect())
        .collect();
    assert_eq!(codes, [vec![0, code::UNKNOWN_TOPIC], vec![0], vec![code::UNKNOWN_TOPIC]]);
    let mut active: Vec<_> = told.topics[0].partitions[0]
        .active_producers
        .iter()
        .map(|one| (one.producer_id.0, one.producer_epoch, one.last_sequence))
        .collect();
    active.sort_unstable();
    let mut wanted = vec![(open.id, 0, 1), (done.id, 0, 1)];
    wanted.sort_unstable();
    assert_eq!(active, wanted);
    assert!(told.topics[1].partitions[0].active_producers.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn offsets_of_a_transaction_that_is_dropped_leave_no_group_behind() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("a").await;
    let groups = async |client: &mut Client| {
        let told: ListGroupsResponse = client.ask(ApiKey::ListGroups, 2, &ListGroupsRequest::default()).await;
        told.groups.len()
    };
    let mut me = init(&mut client, "tx").await;
    // Dropped by its producer, and by the next one that takes the name over.
    for taken_over in [false, true] {
        assert_eq!(add_offsets(&mut client, 3, "tx", me).await, 0);
        assert_eq!(send_offset(&mut client, 3, "tx", me, 5).await, 0);
        if taken_over {
            me = init(&mut client, "tx").await;
        } else {
            assert_eq!(end(&mut client, 3, "tx", me, false).await, 0);
        }
        assert_eq!(groups(&mut client).await, 0);
    }
    // One that another transaction is about to make, or that has marks, stays.
    let other = init(&mut client, "other").await;
    for (who, of) in [("tx", me), ("other", other)] {
        assert_eq!(add_offsets(&mut client, 3, who, of).await, 0);
        assert_eq!(send_offset(&mut client, 3, who, of, 6).await, 0);
    }
    assert_eq!(end(&mut client, 3, "tx", me, false).await, 0);
    assert_eq!(groups(&mut client).await, 1, "there is room for it when the other ends");
    assert_eq!(end(&mut client, 3, "other", other, true).await, 0);
    assert_eq!(committed(&mut client).await, 6);
    assert_eq!(add_offsets(&mut client, 3, "tx", me).await, 0);
    assert_eq!(send_offset(&mut client, 3, "tx", me, 9).await, 0);
    assert_eq!(end(&mut client, 3, "tx", me, false).await, 0);
    assert_eq!((committed(&mut client).await, groups(&mut client).await), (6, 1));
    server.stop().await;
}
