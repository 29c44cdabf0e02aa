//! ConsumerGroupHeartbeat and its kin, request by request: what is told, and which error for what is wrong.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support::{Client, Server, topic};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

const INVALID_REQUEST: i16 = 42;
const UNKNOWN_MEMBER_ID: i16 = 25;
const GROUP_ID_NOT_FOUND: i16 = 69;
const FENCED_INSTANCE_ID: i16 = 82;
const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;
const FENCED_MEMBER_EPOCH: i16 = 110;
const UNRELEASED_INSTANCE_ID: i16 = 111;
const UNSUPPORTED_ASSIGNOR: i16 = 112;
const STALE_MEMBER_EPOCH: i16 = 113;
const ILLEGAL_GENERATION: i16 = 22;
const INVALID_REGULAR_EXPRESSION: i16 = 128;

fn str(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group(name: &str) -> GroupId {
    GroupId(str(name))
}

/// One that joins and wants topic `t`.
fn joins(member: &str) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(str(member))
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(vec![topic("t")]))
        .with_topic_partitions(Some(vec![]))
}

fn beats(member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(str(member))
        .with_member_epoch(epoch)
        .with_subscribed_topic_names(None)
        .with_topic_partitions(None)
}

impl Client {
    async fn beat(&mut self, body: &ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        self.ask(ApiKey::ConsumerGroupHeartbeat, 1, body).await
    }

    async fn refused(&mut self, body: &ConsumerGroupHeartbeatRequest) -> i16 {
        let told = self.beat(body).await;
        assert_ne!(told.error_code, 0, "{body:?}");
        assert_eq!((told.member_epoch, told.assignment), (0, None));
        told.error_code
    }

    async fn commit_in(&mut self, version: i16, member: &str, epoch: i32) -> i16 {
        use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(7);
        let of = OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
        let body = OffsetCommitRequest::default()
            .with_group_id(group("g"))
            .with_member_id(str(member))
            .with_generation_id_or_member_epoch(epoch)
            .with_topics(vec![of]);
        let told: OffsetCommitResponse = self.ask(ApiKey::OffsetCommit, version, &body).await;
        told.topics[0].partitions[0].error_code
    }

    /// The error and the offset.
    async fn fetched_as(&mut self, member: Option<&str>, epoch: i32) -> (i16, i64) {
        use offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
        let of = OffsetFetchRequestTopics::default().with_name(topic("t")).with_partition_indexes(vec![0]);
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(group("g"))
            .with_member_id(member.map(str))
            .with_member_epoch(epoch)
            .with_topics(Some(vec![of]));
        let body = OffsetFetchRequest::default().with_groups(vec![asked]);
        let told: OffsetFetchResponse = self.ask(ApiKey::OffsetFetch, 9, &body).await;
        let found = &told.groups[0];
        let offset = found.topics.first().map_or(-9, |topic| topic.partitions[0].committed_offset);
        (found.error_code, offset)
    }

    async fn shown(&mut self, name: &str) -> consumer_group_describe_response::DescribedGroup {
        let body = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(name)]);
        let mut told: ConsumerGroupDescribeResponse = self.ask(ApiKey::ConsumerGroupDescribe, 1, &body).await;
        told.groups.pop().unwrap()
    }
}

#[tokio::test]
async fn a_member_is_told_where_it_stands() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let made = client.make("t").await;
    assert_eq!(made.topics[0].error_code, 0);
    let told = client.beat(&joins("a")).await;
    assert_eq!((told.error_code, told.member_epoch, told.heartbeat_interval_ms), (0, 1, 5000));
    assert_eq!(told.member_id, Some(str("a")));
    let given = told.assignment.unwrap().topic_partitions;
    assert_eq!((given.len(), &given[0].partitions), (1, &vec![0]));
    // The id is that of Metadata.
    let asked =
        metadata_request::MetadataRequestTopic::default().with_topic_id(given[0].topic_id).with_name(None);
    let body = MetadataRequest::default().with_topics(Some(vec![asked]));
    let found: MetadataResponse = client.ask(ApiKey::Metadata, 12, &body).await;
    assert_eq!(found.topics[0].name, Some(topic("t")));
    // A heartbeat with nothing new is told nothing new; one that says all is told all.
    let told = client.beat(&beats("a", 1)).await;
    assert_eq!((told.error_code, told.member_epoch, told.assignment), (0, 1, None));
    let owned = TopicPartitions::default().with_topic_id(given[0].topic_id).with_partitions(vec![0]);
    let told = client.beat(&joins("a").with_member_epoch(1).with_topic_partitions(Some(vec![owned]))).await;
    assert_eq!(told.assignment.unwrap().topic_partitions, given);

    let shown = client.shown("g").await;
    assert_eq!((shown.error_code, shown.group_state, shown.group_epoch), (0, str("Stable"), 1));
    assert_eq!((shown.assignor_name, shown.members.len()), (str("uniform"), 1));
    let member = &shown.members[0];
    assert_eq!((&member.member_id, member.member_epoch, member.member_type), (&str("a"), 1, 1));
    assert_eq!(member.assignment.topic_partitions[0].topic_name, topic("t"));
    assert_eq!(member.target_assignment, member.assignment);
    let listed: ListGroupsResponse = client.ask(ApiKey::ListGroups, 5, &ListGroupsRequest::default()).await;
    let listed: Vec<_> =
        listed.groups.iter().map(|one| (&*one.group_id.0, &*one.group_type, &*one.group_state)).collect();
    assert_eq!(listed, [("g", "consumer", "Stable")]);

    // Who leaves is told the epoch with which it did, and is out.
    let told = client.beat(&beats("a", -1)).await;
    assert_eq!((told.error_code, told.member_epoch), (0, -1));
    assert_eq!(client.refused(&beats("a", 1)).await, UNKNOWN_MEMBER_ID);
    // In the first version the server makes the id.
    let told: ConsumerGroupHeartbeatResponse =
        client.ask(ApiKey::ConsumerGroupHeartbeat, 0, &joins("")).await;
    assert_eq!((told.error_code, told.member_id.unwrap().len()), (0, 32));
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_has_its_error() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    for body in [
        joins(""),
        joins("a").with_rebalance_timeout_ms(-1),
        joins("a").with_subscribed_topic_names(None),
        joins("a").with_instance_id(Some(str(""))),
        beats("a", -3),
        beats("a", -2),
    ] {
        assert_eq!(client.refused(&body).await, INVALID_REQUEST, "{body:?}");
    }
    assert_eq!(
        client.refused(&joins("a").with_server_assignor(Some(str("best")))).await,
        UNSUPPORTED_ASSIGNOR
    );
    let by = |regex: &str| {
        joins("a").with_subscribed_topic_names(None).with_subscribed_topic_regex(Some(str(regex)))
    };
    assert_eq!(client.refused(&by("(")).await, INVALID_REGULAR_EXPRESSION);
    assert_eq!(client.refused(&beats("a", 1)).await, UNKNOWN_MEMBER_ID);
    assert_eq!(client.shown("g").await.error_code, GROUP_ID_NOT_FOUND);

    assert_eq!(
        client.beat(&by("x|.t")).await.assignment.unwrap().topic_partitions.len(),
        0,
        "it matches as a whole"
    );
    assert_eq!(client.beat(&by("[s-u]")).await.assignment.unwrap().topic_partitions.len(), 1);
    let epoch = client.shown("g").await.group_epoch;
    for wrong in [epoch - 1, epoch + 1] {
        assert_eq!(client.refused(&beats("a", wrong)).await, FENCED_MEMBER_EPOCH);
        assert_eq!(client.commit_in(9, "a", wrong).await, STALE_MEMBER_EPOCH);
        assert_eq!(client.commit_in(8, "a", wrong).await, ILLEGAL_GENERATION);
        assert_eq!(client.fetched_as(Some("a"), wrong).await, (STALE_MEMBER_EPOCH, -9));
    }
    assert_eq!(client.commit_in(9, "x", epoch).await, UNKNOWN_MEMBER_ID);
    assert_eq!(client.commit_in(9, "", -1).await, UNKNOWN_MEMBER_ID);
    assert_eq!(client.commit_in(9, "a", epoch).await, 0);
    assert_eq!(client.fetched_as(Some("x"), epoch).await, (UNKNOWN_MEMBER_ID, -9));
    assert_eq!(client.fetched_as(Some("a"), epoch).await, (0, 7));
    assert_eq!(client.fetched_as(None, -1).await, (0, 7), "who is no member looks after the group");

    // Marks in what nobody wants may go, the others stay.
    use offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
    let of = |name: &str| {
        let partitions = vec![OffsetDeleteRequestPartition::default()];
        OffsetDeleteRequestTopic::default().with_name(topic(name)).with_partitions(partitions)
    };
    let asked = vec![of("t"), of("missing"), of("v")];
    client.make("v").await;
    let body = OffsetDeleteRequest::default().with_group_id(group("g")).with_topics(asked);
    let told: OffsetDeleteResponse = client.ask(ApiKey::OffsetDelete, 0, &body).await;
    let codes: Vec<i16> = told.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!((told.error_code, codes), (0, vec![GROUP_SUBSCRIBED_TO_TOPIC, 3, 0]));
    assert_eq!(client.fetched_as(None, -1).await, (0, 7));

    let named = |member: &str| joins(member).with_instance_id(Some(str("one")));
    assert_eq!(client.beat(&named("b")).await.error_code, 0);
    assert_eq!(client.refused(&named("c")).await, UNRELEASED_INSTANCE_ID);
    let stranger = beats("a", epoch).with_instance_id(Some(str("one")));
    assert_eq!(client.refused(&stranger).await, FENCED_INSTANCE_ID);
    server.stop().await;
}

#[tokio::test]
async fn a_classic_group_with_members_is_none_of_the_other_kind() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    client.make("t").await;
    let protocol = join_group_request::JoinGroupRequestProtocol::default().with_name(str("range"));
    let join = JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(str("consumer"))
        .with_protocols(vec![protocol]);
    let told: JoinGroupResponse = client.ask(ApiKey::JoinGroup, 3, &join).await;
    assert_eq!(told.error_code, 0);
    assert_eq!(other.refused(&joins("a")).await, GROUP_ID_NOT_FOUND);
    assert_eq!(other.shown("g").await.error_code, GROUP_ID_NOT_FOUND);
    let leave = LeaveGroupRequest::default().with_group_id(group("g")).with_member_id(told.member_id);
    let left: LeaveGroupResponse = client.ask(ApiKey::LeaveGroup, 1, &leave).await;
    assert_eq!(left.error_code, 0);
    let told = other.beat(&joins("a")).await;
    assert_eq!(told.error_code, 0);
    // And the other way round.
    let refused: JoinGroupResponse = client.ask(ApiKey::JoinGroup, 3, &join).await;
    assert_eq!(refused.error_code, 23, "inconsistent group protocol");
    assert_eq!(other.beat(&beats("a", -1)).await.error_code, 0);
    let told: JoinGroupResponse = client.ask(ApiKey::JoinGroup, 3, &join).await;
    assert_eq!(told.error_code, 0);
    server.stop().await;
}
