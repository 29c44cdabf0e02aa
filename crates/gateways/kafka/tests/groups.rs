//! Groups by hand, in every version: coordinators, offsets, members who come, go, die and come back, and what people see of it.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use std::time::{Duration, Instant};
use support::{Client, Server, topic};

/// Kafka's numbers for errors.
mod code {
    pub(crate) const UNKNOWN_TOPIC: i16 = 3;
    pub(crate) const METADATA_TOO_LARGE: i16 = 12;
    pub(crate) const ILLEGAL_GENERATION: i16 = 22;
    pub(crate) const INCONSISTENT: i16 = 23;
    pub(crate) const INVALID_GROUP: i16 = 24;
    pub(crate) const UNKNOWN_MEMBER: i16 = 25;
    pub(crate) const INVALID_SESSION: i16 = 26;
    pub(crate) const REBALANCING: i16 = 27;
    pub(crate) const INVALID_REQUEST: i16 = 42;
    pub(crate) const NOT_EMPTY: i16 = 68;
    pub(crate) const NO_GROUP: i16 = 69;
    pub(crate) const NEEDS_ID: i16 = 79;
    pub(crate) const FENCED: i16 = 82;
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

/// A session that ends while a test waits. Longer than a machine with other builds on it holds up whoever is to beat.
const SESSION_MS: i32 = 1500;

/// A join of a member that may have an id already.
fn join(version: i16, member: &str, protocols: &[(&str, &str)]) -> JoinGroupRequest {
    use join_group_request::JoinGroupRequestProtocol;
    let protocols = protocols.iter().map(|(name, said)| {
        JoinGroupRequestProtocol::default()
            .with_name(text(name))
            .with_metadata(Bytes::from((*said).to_owned()))
    });
    let body = JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_session_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(protocols.collect());
    if version >= 1 { body.with_rebalance_timeout_ms(10_000) } else { body }
}

/// Two members in one generation, however long either takes: the first comes back as long as it is in one without the other.
async fn together(
    version: i16,
    (a, left): (&mut Client, JoinGroupRequest),
    (b, right): (&mut Client, JoinGroupRequest),
) -> (JoinGroupResponse, JoinGroupResponse) {
    let (left, right) = (a.named(version, left).await, b.named(version, right).await);
    let alone: JoinGroupResponse = a.ask(ApiKey::JoinGroup, version, &left).await;
    assert_eq!(alone.error_code, 0);
    let waits = b.send(ApiKey::JoinGroup, version, &right).await;
    let left = left.with_member_id(alone.member_id.clone());
    let began = Instant::now();
    let one = loop {
        let one: JoinGroupResponse = a.ask(ApiKey::JoinGroup, version, &left).await;
        if one.generation_id != alone.generation_id {
            break one;
        }
        assert!(began.elapsed() < support::PATIENCE, "the other never came");
    };
    (one, b.answer(version, waits).await)
}

impl Client {
    /// Joins, coming back with an id where one is given first; waits for the generation.
    async fn joins(&mut self, version: i16, said: &str) -> JoinGroupResponse {
        let first: JoinGroupResponse =
            self.ask(ApiKey::JoinGroup, version, &join(version, "", &[("range", said)])).await;
        if first.error_code != code::NEEDS_ID {
            return first;
        }
        let again = join(version, &first.member_id, &[("range", said)]);
        self.ask(ApiKey::JoinGroup, version, &again).await
    }

    /// The request, with an id where one is given first.
    async fn named(&mut self, version: i16, body: JoinGroupRequest) -> JoinGroupRequest {
        if version < 4 || !body.member_id.is_empty() {
            return body;
        }
        let given: JoinGroupResponse = self.ask(ApiKey::JoinGroup, version, &body).await;
        assert_eq!(given.error_code, code::NEEDS_ID);
        body.with_member_id(given.member_id)
    }

    async fn syncs(
        &mut self,
        version: i16,
        joined: &JoinGroupResponse,
        given: &[(&StrBytes, &str)],
    ) -> SyncGroupResponse {
        let correlation = self.send(ApiKey::SyncGroup, version, &sync(version, joined, given)).await;
        self.answer(version, correlation).await
    }

    async fn beats(&mut self, version: i16, member: &str, generation: i32) -> i16 {
        let body = HeartbeatRequest::default()
            .with_group_id(group("g"))
            .with_generation_id(generation)
            .with_member_id(text(member));
        let answer: HeartbeatResponse = self.ask(ApiKey::Heartbeat, version, &body).await;
        answer.error_code
    }

    async fn commits(&mut self, version: i16, by: (i32, &str), offset: i64, said: &str) -> i16 {
        let body = commit(version, by, &[("t", 0, offset)], said);
        let answer: OffsetCommitResponse = self.ask(ApiKey::OffsetCommit, version, &body).await;
        answer.topics[0].partitions[0].error_code
    }

    /// Offset, epoch and metadata of partition 0 of topic `t`, by name and in the list of all.
    async fn committed(&mut self, version: i16) -> (i64, i32, String) {
        use offset_fetch_request::{
            OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        };
        let mut found = Vec::new();
        for all in [false, true] {
            if all && version < 2 {
                continue;
            }
            let body = if version >= 8 {
                let one =
                    OffsetFetchRequestTopics::default().with_name(topic("t")).with_partition_indexes(vec![0]);
                let asked = OffsetFetchRequestGroup::default()
                    .with_group_id(group("g"))
                    .with_topics((!all).then(|| vec![one]));
                OffsetFetchRequest::default().with_groups(vec![asked])
            } else {
                let one =
                    OffsetFetchRequestTopic::default().with_name(topic("t")).with_partition_indexes(vec![0]);
                OffsetFetchRequest::default().with_group_id(group("g")).with_topics((!all).then(|| vec![one]))
            };
            let answer: OffsetFetchResponse = self.ask(ApiKey::OffsetFetch, version, &body).await;
            assert_eq!(answer.error_code, 0);
            let said = |said: &Option<StrBytes>| said.as_ref().unwrap().to_string();
            found.push(if version >= 8 {
                assert_eq!(answer.groups[0].error_code, 0);
                let one = &answer.groups[0].topics[0].partitions[0];
                (one.committed_offset, one.committed_leader_epoch, said(&one.metadata))
            } else {
                let one = &answer.topics[0].partitions[0];
                (one.committed_offset, one.committed_leader_epoch, said(&one.metadata))
            });
        }
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
        found.pop().unwrap()
    }

    async fn described(&mut self, version: i16) -> describe_groups_response::DescribedGroup {
        let body = DescribeGroupsRequest::default().with_groups(vec![group("g")]);
        let mut answer: DescribeGroupsResponse = self.ask(ApiKey::DescribeGroups, version, &body).await;
        answer.groups.remove(0)
    }

    async fn deletes(&mut self, version: i16) -> i16 {
        let body = DeleteGroupsRequest::default().with_groups_names(vec![group("g")]);
        let answer: DeleteGroupsResponse = self.ask(ApiKey::DeleteGroups, version, &body).await;
        answer.results[0].error_code
    }
}

fn sync(version: i16, joined: &JoinGroupResponse, given: &[(&StrBytes, &str)]) -> SyncGroupRequest {
    use sync_group_request::SyncGroupRequestAssignment;
    let given = given.iter().map(|(member, given)| {
        SyncGroupRequestAssignment::default()
            .with_member_id((*member).clone())
            .with_assignment(Bytes::from((*given).to_owned()))
    });
    let body = SyncGroupRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(given.collect());
    if version < 5 {
        return body;
    }
    body.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")))
}

fn commit(version: i16, by: (i32, &str), offsets: &[(&str, i32, i64)], said: &str) -> OffsetCommitRequest {
    use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let topics = offsets.iter().map(|(name, partition, offset)| {
        let one = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_leader_epoch(if version >= 6 { 5 } else { -1 })
            .with_committed_metadata(Some(text(said)));
        OffsetCommitRequestTopic::default().with_name(topic(name)).with_partitions(vec![one])
    });
    OffsetCommitRequest::default()
        .with_group_id(group("g"))
        .with_generation_id_or_member_epoch(by.0)
        .with_member_id(text(by.1))
        .with_topics(topics.collect())
}

fn leave(version: i16, member: &str) -> LeaveGroupRequest {
    use leave_group_request::MemberIdentity;
    let body = LeaveGroupRequest::default().with_group_id(group("g"));
    if version < 3 {
        return body.with_member_id(text(member));
    }
    body.with_members(vec![MemberIdentity::default().with_member_id(text(member))])
}

#[tokio::test]
async fn whom_to_ask_is_told_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for version in 0..=4 {
        for kind in 0..=2 {
            if version == 0 && kind > 0 {
                continue;
            }
            let body = FindCoordinatorRequest::default().with_key_type(kind);
            let body = if version >= 4 {
                body.with_coordinator_keys(vec![text("g"), text("h")])
            } else {
                body.with_key(text("g"))
            };
            let answer: FindCoordinatorResponse = client.ask(ApiKey::FindCoordinator, version, &body).await;
            let wanted = if kind == 2 { code::INVALID_REQUEST } else { 0 };
            let told = if version >= 4 {
                assert_eq!(answer.coordinators.len(), 2);
                let one = &answer.coordinators[1];
                assert_eq!(one.key.as_str(), "h");
                (one.error_code, one.port)
            } else {
                (answer.error_code, answer.port)
            };
            let port = if kind == 2 { -1 } else { i32::from(server.address.port()) };
            assert_eq!(told, (wanted, port), "{version}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn offsets_come_back_as_they_were_kept_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    for version in 1..=8 {
        assert_eq!(client.committed_by_name(version).await, (-1, -1, String::new()));
    }
    for version in 2..=8 {
        let offset = i64::from(version) * 10;
        assert_eq!(client.commits(version, (-1, ""), offset, "said").await, 0, "{version}");
        for reads in 1..=8 {
            let epoch = if version >= 6 && reads >= 5 { 5 } else { -1 };
            assert_eq!(
                client.committed(reads).await,
                (offset, epoch, "said".to_owned()),
                "{version} {reads}"
            );
        }
    }
    // Each partition for itself.
    let offsets = [("t", 0, 1), ("t", 9, 1), ("none", 0, 1), ("t", -1, 1), ("t", 0, -5)];
    let body = commit(8, (-1, ""), &offsets, "");
    let answer: OffsetCommitResponse = client.ask(ApiKey::OffsetCommit, 8, &body).await;
    let codes: Vec<i16> = answer.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
    let unknown = code::UNKNOWN_TOPIC;
    assert_eq!(codes, [0, unknown, unknown, unknown, code::INVALID_REQUEST]);
    assert_eq!(client.commits(8, (-1, ""), 1, &"x".repeat(4097)).await, code::METADATA_TOO_LARGE);
    assert_eq!(client.commits(8, (3, "x"), 1, "").await, code::ILLEGAL_GENERATION, "nobody was ever in");
    // A group that only keeps offsets is one that is empty.
    let all: ListGroupsResponse = client.ask(ApiKey::ListGroups, 4, &ListGroupsRequest::default()).await;
    assert_eq!(all.groups.len(), 1);
    assert_eq!((all.groups[0].group_id.as_str(), all.groups[0].group_state.as_str()), ("g", "Empty"));
    server.stop().await;
}

impl Client {
    async fn committed_by_name(&mut self, version: i16) -> (i64, i32, String) {
        use offset_fetch_request::{
            OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        };
        let body = if version >= 8 {
            let one =
                OffsetFetchRequestTopics::default().with_name(topic("t")).with_partition_indexes(vec![0]);
            let asked =
                OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(Some(vec![one]));
            OffsetFetchRequest::default().with_groups(vec![asked])
        } else {
            let one =
                OffsetFetchRequestTopic::default().with_name(topic("t")).with_partition_indexes(vec![0]);
            OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![one]))
        };
        let answer: OffsetFetchResponse = self.ask(ApiKey::OffsetFetch, version, &body).await;
        if version >= 8 {
            let one = &answer.groups[0].topics[0].partitions[0];
            return (
                one.committed_offset,
                one.committed_leader_epoch,
                one.metadata.clone().unwrap().to_string(),
            );
        }
        let one = &answer.topics[0].partitions[0];
        (one.committed_offset, one.committed_leader_epoch, one.metadata.clone().unwrap().to_string())
    }
}

#[tokio::test]
async fn members_join_sync_beat_and_leave_in_every_version() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.client().await, server.client().await);
    a.make("t").await;
    for version in 0..=7i16 {
        let (syncs, beats, leaves) = (version.min(5), version.min(4), version.min(5));
        let of = |said| join(version, "", &[("range", said)]);
        let (one, two) = together(version, (&mut a, of("one")), (&mut b, of("two"))).await;
        assert_eq!((one.error_code, two.error_code), (0, 0), "{version}");
        assert_eq!((one.generation_id, &one.leader), (two.generation_id, &two.leader));
        assert_eq!(one.protocol_name.as_ref().unwrap().as_str(), "range");
        assert_eq!(one.protocol_type.is_some(), version >= 7);
        let a_leads = one.leader == one.member_id;
        let (leader, other) = if a_leads { (&one, &two) } else { (&two, &one) };
        assert_eq!((leader.members.len(), other.members.len()), (2, 0));
        let said = |member: &StrBytes| {
            let found = leader.members.iter().find(|told| told.member_id == *member).unwrap();
            String::from_utf8(found.metadata.to_vec()).unwrap()
        };
        assert_eq!((said(&one.member_id), said(&two.member_id)), ("one".into(), "two".into()));
        // The follower asks first, and waits for the leader.
        let given = [(&one.member_id, "for one"), (&two.member_id, "for two")];
        let (lead, follow) = if a_leads { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let waits = follow.send(ApiKey::SyncGroup, syncs, &sync(syncs, other, &[])).await;
        let led = lead.syncs(syncs, leader, &given).await;
        let followed: SyncGroupResponse = follow.answer(syncs, waits).await;
        let (first, second) = if a_leads { (led, followed) } else { (followed, led) };
        assert_eq!((first.error_code, second.error_code), (0, 0));
        assert_eq!((&first.assignment[..], &second.assignment[..]), (&b"for one"[..], &b"for two"[..]));
        let generation = one.generation_id;
        assert_eq!(a.beats(beats, &one.member_id, generation).await, 0);
        assert_eq!(a.beats(beats, &one.member_id, generation - 1).await, code::ILLEGAL_GENERATION);
        assert_eq!(a.beats(beats, "nobody", generation).await, code::UNKNOWN_MEMBER);
        assert_eq!(a.commits(8, (generation, &one.member_id), 7, "").await, 0);
        assert_eq!(a.commits(8, (-1, ""), 8, "").await, code::UNKNOWN_MEMBER);
        // One goes: the other is told to come back.
        let gone: LeaveGroupResponse =
            b.ask(ApiKey::LeaveGroup, leaves, &leave(leaves, &two.member_id)).await;
        assert_eq!(gone.error_code, 0);
        assert_eq!(a.beats(beats, &one.member_id, generation).await, code::REBALANCING);
        let again = join(version, &one.member_id, &[("range", "one")]);
        let again: JoinGroupResponse = a.ask(ApiKey::JoinGroup, version, &again).await;
        assert_eq!(
            (again.error_code, again.generation_id, &again.leader),
            (0, generation + 1, &one.member_id)
        );
        assert_eq!(a.commits(8, (generation, &one.member_id), 9, "").await, code::ILLEGAL_GENERATION);
        assert_eq!(a.commits(8, (generation + 1, &one.member_id), 9, "").await, code::REBALANCING);
        let gone: LeaveGroupResponse =
            a.ask(ApiKey::LeaveGroup, leaves, &leave(leaves, &one.member_id)).await;
        assert_eq!(gone.error_code, 0);
        let twice: LeaveGroupResponse =
            a.ask(ApiKey::LeaveGroup, leaves, &leave(leaves, &one.member_id)).await;
        let twice = if leaves >= 3 { twice.members[0].error_code } else { twice.error_code };
        assert_eq!(twice, code::UNKNOWN_MEMBER);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_member_whose_connection_ends_while_it_waits_is_not_kept_alive() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.client().await, server.client().await);
    let one = a.joins(5, "x").await;
    assert_eq!(a.syncs(3, &one, &[(&one.member_id, "all")]).await.error_code, 0);
    // Another joins, and waits for the first, which takes its time.
    let of = |member: &str| {
        let body = join(5, member, &[("range", "x")]).with_session_timeout_ms(600);
        body.with_rebalance_timeout_ms(600_000)
    };
    let named: JoinGroupResponse = b.ask(ApiKey::JoinGroup, 5, &of("")).await;
    b.send(ApiKey::JoinGroup, 5, &of(&named.member_id)).await;
    let two = async { while a.described(5).await.members.len() < 2 {} };
    tokio::time::timeout(support::PATIENCE, two).await.expect("it is a member");
    // Its connection ends: so does its session, though the group waits on.
    drop(b);
    let began = Instant::now();
    loop {
        let found = a.described(5).await;
        if found.members.len() == 1 {
            assert_eq!(found.members[0].member_id, one.member_id);
            break;
        }
        assert!(began.elapsed() < support::PATIENCE, "somebody keeps it alive");
        assert_eq!(a.beats(3, &one.member_id, one.generation_id).await, code::REBALANCING);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn who_waits_for_others_longer_than_its_session_is_kept_alive() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.client().await, server.client().await);
    let of = |member: &str| {
        join(3, member, &[("range", "x")])
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(60_000)
    };
    let (one, two) = together(3, (&mut a, of("")), (&mut b, of(""))).await;
    assert_eq!((one.error_code, two.error_code, one.generation_id), (0, 0, two.generation_id));
    let (lead, leader, follow, other) =
        if one.leader == one.member_id { (&mut a, &one, &mut b, &two) } else { (&mut b, &two, &mut a, &one) };
    assert_eq!(lead.syncs(3, leader, &[]).await.error_code, 0);
    assert_eq!(follow.syncs(3, other, &[]).await.error_code, 0);
    // The leader wants a new generation; the other takes its time, two sessions long.
    let waits = lead.send(ApiKey::JoinGroup, 3, &of(&leader.member_id)).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2 * SESSION_MS as u64) {
        let code = follow.beats(3, &other.member_id, other.generation_id).await;
        assert!([0, code::REBALANCING].contains(&code), "{code}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again: JoinGroupResponse = follow.ask(ApiKey::JoinGroup, 3, &of(&other.member_id)).await;
    let led: JoinGroupResponse = lead.answer(3, waits).await;
    assert_eq!((again.error_code, led.error_code), (0, 0));
    assert_eq!((led.generation_id, led.members.len()), (leader.generation_id + 1, 2), "nobody was put out");
    server.stop().await;
}

#[tokio::test]
async fn a_session_that_ends_puts_its_member_out_and_heartbeats_keep_it() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.client().await, server.client().await);
    let of = |member: &str| join(5, member, &[("range", "x")]).with_session_timeout_ms(SESSION_MS);
    let (one, two) = together(5, (&mut a, of("")), (&mut b, of(""))).await;
    assert_eq!((one.error_code, two.error_code, one.generation_id), (0, 0, two.generation_id));
    let (lead, leader) = if one.leader == one.member_id { (&mut a, &one) } else { (&mut b, &two) };
    assert_eq!(lead.syncs(3, leader, &[]).await.error_code, 0);
    // The first beats until it hears that the silent one is out.
    let began = Instant::now();
    let code = loop {
        match a.beats(3, &one.member_id, one.generation_id).await {
            0 => assert!(began.elapsed() < support::PATIENCE),
            code => break code,
        }
    };
    assert_eq!(code, code::REBALANCING);
    assert!(began.elapsed() >= Duration::from_millis(SESSION_MS as u64 / 2), "not before its session ended");
    assert_eq!(b.beats(3, &two.member_id, two.generation_id).await, code::UNKNOWN_MEMBER);
    server.stop().await;
}

#[tokio::test]
async fn a_static_member_comes_back_to_what_it_had() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let of = |member: &str| join(7, member, &[("range", "x")]).with_group_instance_id(Some(text("one")));
    let first: JoinGroupResponse = client.ask(ApiKey::JoinGroup, 7, &of("")).await;
    assert_eq!(first.error_code, 0, "its name stands for an id");
    assert_eq!(first.members[0].group_instance_id, Some(text("one")));
    let told = client.syncs(5, &first, &[(&first.member_id, "all")]).await;
    assert_eq!(told.protocol_name, Some(text("range")));
    let mut again = server.client().await;
    let second: JoinGroupResponse = again.ask(ApiKey::JoinGroup, 7, &of("")).await;
    assert_eq!((second.error_code, second.generation_id), (0, first.generation_id), "no new generation");
    assert_ne!(second.member_id, first.member_id);
    assert_eq!((&second.leader, second.members.len()), (&first.member_id, 0), "it has nothing to give");
    let told = again.syncs(5, &second, &[]).await;
    assert_eq!((told.error_code, &told.assignment[..]), (0, &b"all"[..]));
    // The one before is fenced, whatever it asks.
    let beat = HeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(first.generation_id)
        .with_member_id(first.member_id.clone())
        .with_group_instance_id(Some(text("one")));
    let beat: HeartbeatResponse = client.ask(ApiKey::Heartbeat, 4, &beat).await;
    assert_eq!(beat.error_code, code::FENCED);
    let stale: JoinGroupResponse = client.ask(ApiKey::JoinGroup, 7, &of(&first.member_id)).await;
    assert_eq!(stale.error_code, code::FENCED);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_kafkas_error() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut code_of = async |version: i16, body: JoinGroupRequest| -> i16 {
        let answer: JoinGroupResponse = client.ask(ApiKey::JoinGroup, version, &body).await;
        answer.error_code
    };
    let fit = |member: &str| join(3, member, &[("range", "x")]);
    assert_eq!(code_of(3, fit("")).await, 0);
    assert_eq!(code_of(3, fit("nobody")).await, code::UNKNOWN_MEMBER);
    assert_eq!(code_of(3, fit("").with_group_id(group(""))).await, code::INVALID_GROUP);
    assert_eq!(code_of(3, join(3, "", &[])).await, code::INCONSISTENT);
    assert_eq!(code_of(3, join(3, "", &[("other", "x")])).await, code::INCONSISTENT);
    assert_eq!(code_of(3, fit("").with_protocol_type(text("connect"))).await, code::INCONSISTENT);
    for session in [-1, 0, 199, 1_800_001] {
        assert_eq!(code_of(3, fit("").with_session_timeout_ms(session)).await, code::INVALID_SESSION);
    }
    server.stop().await;
}

#[tokio::test]
async fn groups_are_shown_listed_and_deleted() {
    use offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    for version in 0..=5 {
        assert_eq!(client.described(version).await.group_state.as_str(), "Dead");
    }
    assert_eq!(client.deletes(2).await, code::NO_GROUP);
    let joined = client.joins(5, "said").await;
    assert_eq!(client.described(5).await.group_state.as_str(), "CompletingRebalance");
    client.syncs(3, &joined, &[(&joined.member_id, "given")]).await;
    for version in 0..=5 {
        let found = client.described(version).await;
        assert_eq!((found.error_code, found.group_state.as_str()), (0, "Stable"));
        assert_eq!((found.protocol_type.as_str(), found.protocol_data.as_str()), ("consumer", "range"));
        let member = &found.members[0];
        assert_eq!((&member.member_id, member.client_id.as_str()), (&joined.member_id, "tests"));
        assert_eq!(member.client_host.as_str(), "/127.0.0.1");
        assert_eq!(
            (&member.member_metadata[..], &member.member_assignment[..]),
            (&b"said"[..], &b"given"[..])
        );
    }
    for version in 0..=4 {
        let all: ListGroupsResponse =
            client.ask(ApiKey::ListGroups, version, &ListGroupsRequest::default()).await;
        assert_eq!((all.error_code, all.groups.len()), (0, 1));
        assert_eq!(all.groups[0].protocol_type.as_str(), "consumer");
    }
    for (state, count) in [("Stable", 1), ("Empty", 0)] {
        let body = ListGroupsRequest::default().with_states_filter(vec![text(state)]);
        let some: ListGroupsResponse = client.ask(ApiKey::ListGroups, 4, &body).await;
        assert_eq!(some.groups.len(), count, "{state}");
    }
    assert_eq!(client.commits(8, (joined.generation_id, &joined.member_id), 5, "").await, 0);
    let forget = || {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let of = |name: &str| {
            OffsetDeleteRequestTopic::default()
                .with_name(topic(name))
                .with_partitions(vec![partition.clone()])
        };
        OffsetDeleteRequest::default().with_group_id(group("g")).with_topics(vec![of("t"), of("none")])
    };
    let told: OffsetDeleteResponse = client.ask(ApiKey::OffsetDelete, 0, &forget()).await;
    assert_eq!((told.error_code, told.topics.len()), (code::NOT_EMPTY, 0));
    for version in 0..=2 {
        assert_eq!(client.deletes(version).await, code::NOT_EMPTY);
    }
    let _: LeaveGroupResponse = client.ask(ApiKey::LeaveGroup, 3, &leave(3, &joined.member_id)).await;
    assert_eq!(client.committed(7).await.0, 5);
    let told: OffsetDeleteResponse = client.ask(ApiKey::OffsetDelete, 0, &forget()).await;
    let codes: Vec<i16> = told.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!((told.error_code, codes), (0, vec![0, code::UNKNOWN_TOPIC]));
    assert_eq!(client.committed_by_name(7).await.0, -1);
    assert_eq!(client.deletes(2).await, 0);
    assert_eq!(client.described(5).await.group_state.as_str(), "Dead");
    server.stop().await;
}
