//! The requests that are served: which, in which versions, and who answers them.
//!
//! Invariant: what is advertised is what is served, but for Produce before version 3: librdkafka takes a broker that does not name them for one that
//! cannot compress (KIP-896); they are refused.
//! Called by: `connection`.

mod cluster;
mod committed;
mod configs;
mod consumer_groups;
mod consumers;
mod coordinator;
mod credentials;
mod describe;
mod fetch;
mod groups;
mod members;
mod metadata;
mod offsets;
mod opened;
mod partitions;
mod produce;
mod producers;
mod riders;
mod sasl;
mod topics;
mod transactions;
mod versions;

use crate::connection::Session;
use crate::frame::{self, Head};
use crate::gateway::Gateway;
use crate::wire::{Malformed, Reader};
use bytes::Bytes;
pub(crate) use consumers::Matching;
pub(crate) use produce::Launched;
pub(crate) use sasl::{Shaking, bare};
use std::sync::Arc;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Produce,
    Fetch,
    ListOffsets,
    Metadata,
    OffsetCommit,
    OffsetFetch,
    FindCoordinator,
    JoinGroup,
    Heartbeat,
    LeaveGroup,
    SyncGroup,
    DescribeGroups,
    ListGroups,
    SaslHandshake,
    Versions,
    CreateTopics,
    DeleteTopics,
    DeleteRecords,
    InitProducerId,
    AddPartitionsToTxn,
    AddOffsetsToTxn,
    EndTxn,
    TxnOffsetCommit,
    OffsetForLeaderEpoch,
    DescribeConfigs,
    AlterConfigs,
    SaslAuthenticate,
    CreatePartitions,
    DeleteGroups,
    IncrementalAlterConfigs,
    OffsetDelete,
    DescribeUserScramCredentials,
    AlterUserScramCredentials,
    DescribeCluster,
    DescribeProducers,
    DescribeTransactions,
    ListTransactions,
    ConsumerGroupHeartbeat,
    ConsumerGroupDescribe,
}

/// One kind of request: its number, the versions that are told, and the first that is flexible.
struct Row {
    api: Api,
    key: i16,
    versions: std::ops::RangeInclusive<i16>,
    flexible: i16,
}

const fn row(api: Api, key: i16, min: i16, max: i16, flexible: i16) -> Row {
    Row { api, key, versions: min..=max, flexible }
}

const APIS: &[Row] = &[
    row(Api::Produce, 0, 0, 9, 9),
    row(Api::Fetch, 1, 4, 16, 12),
    row(Api::ListOffsets, 2, 1, 6, 6),
    row(Api::Metadata, 3, 0, 13, 9),
    row(Api::OffsetCommit, 8, 2, 9, 8),
    row(Api::OffsetFetch, 9, 1, 9, 6),
    row(Api::FindCoordinator, 10, 0, 4, 3),
    row(Api::JoinGroup, 11, 0, 7, 6),
    row(Api::Heartbeat, 12, 0, 4, 4),
    row(Api::LeaveGroup, 13, 0, 5, 4),
    row(Api::SyncGroup, 14, 0, 5, 4),
    row(Api::DescribeGroups, 15, 0, 5, 5),
    row(Api::ListGroups, 16, 0, 5, 3),
    row(Api::SaslHandshake, 17, 0, 1, i16::MAX),
    row(Api::Versions, 18, 0, 4, 3),
    row(Api::CreateTopics, 19, 2, 7, 5),
    row(Api::DeleteTopics, 20, 1, 6, 4),
    row(Api::DeleteRecords, 21, 0, 2, 2),
    row(Api::InitProducerId, 22, 0, 4, 2),
    row(Api::OffsetForLeaderEpoch, 23, 2, 4, 4),
    row(Api::AddPartitionsToTxn, 24, 0, 3, 3),
    row(Api::AddOffsetsToTxn, 25, 0, 3, 3),
    row(Api::EndTxn, 26, 0, 3, 3),
    row(Api::TxnOffsetCommit, 28, 0, 3, 3),
    row(Api::DescribeConfigs, 32, 1, 4, 4),
    row(Api::AlterConfigs, 33, 0, 2, 2),
    row(Api::SaslAuthenticate, 36, 0, 2, 2),
    row(Api::CreatePartitions, 37, 0, 3, 2),
    row(Api::DeleteGroups, 42, 0, 2, 2),
    row(Api::IncrementalAlterConfigs, 44, 0, 1, 1),
    row(Api::OffsetDelete, 47, 0, 0, i16::MAX),
    row(Api::DescribeUserScramCredentials, 50, 0, 0, 0),
    row(Api::AlterUserScramCredentials, 51, 0, 0, 0),
    row(Api::DescribeCluster, 60, 0, 1, 0),
    row(Api::DescribeProducers, 61, 0, 0, 0),
    row(Api::DescribeTransactions, 65, 0, 0, 0),
    row(Api::ListTransactions, 66, 0, 1, 0),
    row(Api::ConsumerGroupHeartbeat, 68, 0, 1, 0),
    row(Api::ConsumerGroupDescribe, 69, 0, 1, 0),
];
/// The first version of Produce with batches of today's format.
const PRODUCE_SINCE: i16 = 3;

impl Api {
    /// Whether the next request is taken while one of these is under way.
    pub(crate) fn is_pipelined(self) -> bool {
        self == Self::Produce
    }

    /// Whether its answer may take as long as others take.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Self::Fetch | Self::JoinGroup | Self::SyncGroup)
    }
}

fn find(key: i16, version: i16) -> Option<&'static Row> {
    APIS.iter().find(|row| row.key == key).filter(|row| row.versions.contains(&version))
}

/// A request's head, and what it asks for; nothing when that is not served.
pub(crate) fn read(frame: Bytes) -> Result<(Head, Option<Api>, Reader), Malformed> {
    let (head, body) =
        frame::head(frame, |key, version| find(key, version).map(|row| version >= row.flexible))?;
    let api = find(head.key, head.version).map(|row| row.api);
    Ok((head, api, body))
}

/// Begins a request of those that are pipelined.
pub(crate) async fn launch(
    gateway: &Arc<Gateway>,
    session: &Session,
    head: &Head,
    body: Reader,
) -> Result<Launched, Malformed> {
    produce::launch(gateway, session, head, body).await
}

/// Answers a request.
///
/// # Errors
/// It is malformed, or none that is served: the connection ends.
pub(crate) async fn answer(
    gateway: &Arc<Gateway>,
    session: &mut Session,
    head: Head,
    api: Option<Api>,
    mut body: Reader,
) -> Result<Vec<u8>, Malformed> {
    let Some(api) = api else {
        // Whoever asks for what there is in a version of the future is told in the oldest one.
        return if head.key == 18 { Ok(versions::too_new(&head)) } else { Err(Malformed("not served")) };
    };
    let open = matches!(api, Api::Versions | Api::SaslHandshake | Api::SaslAuthenticate);
    if !open && !session.entered && !gateway.is_open() {
        return Err(Malformed("who asks has to say so first, by SASL"));
    }
    if let Some(client) = &head.client {
        session.name(client);
    }
    let mut out = frame::begin(head.correlation, body.flexible, api != Api::Versions);
    let (version, body, who) = (head.version, &mut body, session.who.clone());
    match api {
        Api::Produce => return Err(Malformed("Produce is launched")),
        Api::Fetch => fetch::answer(gateway, &who, version, body, &mut out).await?,
        Api::ListOffsets => offsets::list(gateway, &who, version, body, &mut out).await?,
        Api::Metadata => metadata::answer(gateway, &who, version, body, &mut out).await?,
        Api::SaslHandshake => sasl::handshake(session, version, body, &mut out)?,
        Api::OffsetCommit => committed::commit(gateway, &who, version, body, &mut out).await?,
        Api::OffsetFetch => committed::fetch(gateway, &who, version, body, &mut out).await?,
        Api::FindCoordinator => coordinator::find(gateway, version, body, &mut out)?,
        Api::JoinGroup => {
            members::join(gateway, &who, &session.host, version, body, &mut out).await?;
        }
        Api::ConsumerGroupHeartbeat => {
            consumers::heartbeat(gateway, &who, &session.host, version, body, &mut out).await?;
        }
        Api::ConsumerGroupDescribe => {
            consumer_groups::describe(gateway, &who, version, body, &mut out).await?;
        }
        Api::Heartbeat => members::heartbeat(gateway, &who, version, body, &mut out).await?,
        Api::LeaveGroup => members::leave(gateway, &who, version, body, &mut out).await?,
        Api::SyncGroup => members::sync(gateway, &who, version, body, &mut out).await?,
        Api::DescribeGroups => groups::describe(gateway, &who, version, body, &mut out).await?,
        Api::ListGroups => groups::list(gateway, &who, version, body, &mut out).await?,
        Api::DeleteRecords => partitions::delete_records(gateway, &who, body, &mut out).await?,
        Api::CreatePartitions => partitions::create(gateway, &who, body, &mut out).await?,
        Api::DescribeConfigs => configs::describe(gateway, &who, version, body, &mut out).await?,
        Api::AlterConfigs => configs::alter(gateway, &who, false, body, &mut out).await?,
        Api::IncrementalAlterConfigs => configs::alter(gateway, &who, true, body, &mut out).await?,
        Api::DeleteGroups => groups::delete(gateway, &who, body, &mut out).await?,
        Api::OffsetDelete => committed::delete(gateway, &who, body, &mut out).await?,
        Api::Versions => versions::answer(version, body, &mut out)?,
        Api::CreateTopics => topics::create(gateway, &who, version, body, &mut out).await?,
        Api::DeleteTopics => topics::delete(gateway, &who, version, body, &mut out).await?,
        Api::InitProducerId => producers::init(gateway, &who, version, body, &mut out).await?,
        Api::AddPartitionsToTxn => {
            transactions::add_partitions(gateway, &who, version, body, &mut out).await?;
        }
        Api::AddOffsetsToTxn => transactions::add_offsets(gateway, &who, version, body, &mut out).await?,
        Api::TxnOffsetCommit => {
            committed::in_transaction(gateway, &who, version, body, &mut out).await?;
        }
        Api::EndTxn => transactions::end(gateway, &who, version, body, &mut out).await?,
        Api::OffsetForLeaderEpoch => offsets::for_epoch(gateway, &who, version, body, &mut out).await?,
        Api::SaslAuthenticate => sasl::authenticate(gateway, session, version, body, &mut out).await?,
        Api::DescribeUserScramCredentials => credentials::describe(gateway, &who, body, &mut out).await?,
        Api::AlterUserScramCredentials => credentials::alter(gateway, &who, body, &mut out).await?,
        Api::DescribeCluster => cluster::describe(gateway, version, body, &mut out)?,
        Api::DescribeProducers => describe::producers(gateway, &who, body, &mut out).await?,
        Api::DescribeTransactions => describe::transactions(gateway, &who, body, &mut out).await?,
        Api::ListTransactions => describe::list(gateway, &who, version, body, &mut out).await?,
    }
    Ok(frame::end(out))
}
