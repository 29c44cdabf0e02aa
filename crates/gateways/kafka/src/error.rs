//! The one place that turns what went wrong into Kafka's error codes.
//!
//! Invariant: no `_` arm over our own errors where a client acts by them, so that a new one must be given its place here.
//! Called by: `api`. Source: Kafka's protocol guide, "Error Codes".

use quorate_batch::Bad;
use quorate_runtime::RuntimeError;
use quorate_types::{GroupFault, GuardFailed, OpError, ProduceError, Refusal};

macro_rules! codes {
    ($($name:ident = $code:literal)*) => {
        /// Kafka's number for what went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i16)]
        pub(crate) enum Code {
            $($name = $code,)*
        }
    };
}

codes! {
    UnknownServerError = -1
    None = 0
    OffsetOutOfRange = 1
    CorruptMessage = 2
    UnknownTopicOrPartition = 3
    NotLeaderOrFollower = 6
    RequestTimedOut = 7
    MessageTooLarge = 10
    OffsetMetadataTooLarge = 12
    CoordinatorLoadInProgress = 14
    CoordinatorNotAvailable = 15
    NotCoordinator = 16
    InvalidTopicException = 17
    NotEnoughReplicas = 19
    InvalidRequiredAcks = 21
    IllegalGeneration = 22
    InconsistentGroupProtocol = 23
    InvalidGroupId = 24
    UnknownMemberId = 25
    InvalidSessionTimeout = 26
    RebalanceInProgress = 27
    InvalidCommitOffsetSize = 28
    TopicAuthorizationFailed = 29
    GroupAuthorizationFailed = 30
    ClusterAuthorizationFailed = 31
    UnsupportedSaslMechanism = 33
    UnsupportedVersion = 35
    TopicAlreadyExists = 36
    InvalidPartitions = 37
    InvalidReplicationFactor = 38
    InvalidReplicaAssignment = 39
    InvalidConfig = 40
    InvalidRequest = 42
    PolicyViolation = 44
    OutOfOrderSequenceNumber = 45
    InvalidProducerEpoch = 47
    InvalidTxnState = 48
    InvalidProducerIdMapping = 49
    InvalidTransactionTimeout = 50
    TransactionalIdAuthorizationFailed = 53
    OperationNotAttempted = 55
    KafkaStorageError = 56
    SaslAuthenticationFailed = 58
    UnknownProducerId = 59
    NonEmptyGroup = 68
    GroupIdNotFound = 69
    FetchSessionIdNotFound = 70
    FencedLeaderEpoch = 74
    UnknownLeaderEpoch = 75
    UnsupportedCompressionType = 76
    MemberIdRequired = 79
    GroupMaxSizeReached = 81
    FencedInstanceId = 82
    GroupSubscribedToTopic = 86
    InvalidRecord = 87
    UnstableOffsetCommit = 88
    ThrottlingQuotaExceeded = 89
    ProducerFenced = 90
    ResourceNotFound = 91
    DuplicateResource = 92
    UnacceptableCredential = 93
    UnknownTopicId = 100
    TransactionalIdNotFound = 105
    FencedMemberEpoch = 110
    UnreleasedInstanceId = 111
    UnsupportedAssignor = 112
    StaleMemberEpoch = 113
    TransactionAbortable = 120
    InvalidRegularExpression = 128
}

impl Code {
    pub(crate) fn number(self) -> i16 {
        self as i16
    }

    /// What an outcome is told by.
    pub(crate) fn of<T>(outcome: &Result<T, Self>) -> Self {
        outcome.as_ref().err().copied().unwrap_or(Self::None)
    }
}

/// Of a command that has no outcome, or a read that has no answer.
pub(crate) fn runtime(error: &RuntimeError) -> Code {
    match error {
        RuntimeError::Invalid(_) => Code::MessageTooLarge,
        RuntimeError::Log(_) => Code::KafkaStorageError,
        // It did not happen, and may work later: clients try again, here or where the metadata sends them.
        RuntimeError::Overloaded { .. } | RuntimeError::Full { .. } => Code::NotEnoughReplicas,
        RuntimeError::NoLeader { .. } => Code::NotEnoughReplicas,
        RuntimeError::Restarting | RuntimeError::Stopped { .. } => Code::NotLeaderOrFollower,
        // It may have happened.
        RuntimeError::Indeterminate => Code::RequestTimedOut,
        RuntimeError::Cluster { .. } => Code::UnknownServerError,
    }
}

/// Of a command that was refused: nothing of it happened.
pub(crate) fn refusal(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Operation { error, .. } | Refusal::Command { error } => op(error),
        Refusal::Denied { .. } => Code::TopicAuthorizationFailed,
        Refusal::Guards { .. }
        | Refusal::OtherRequest { .. }
        | Refusal::Cancelled { .. }
        | Refusal::Claimed { .. }
        | Refusal::IdempotencyFull { .. }
        | Refusal::Access { .. }
        | Refusal::LockOut {} => Code::UnknownServerError,
    }
}

/// Of an operation that failed.
pub(crate) fn op(error: &OpError) -> Code {
    match error {
        OpError::StreamMissing { .. } | OpError::PartitionMissing { .. } => Code::UnknownTopicOrPartition,
        OpError::StreamExists { .. } => Code::TopicAlreadyExists,
        OpError::OffsetOutOfRange { .. } => Code::OffsetOutOfRange,
        OpError::KeylessRecord { .. } | OpError::BadPayload { .. } => Code::InvalidRecord,
        OpError::WrongType { .. } | OpError::Internal { .. } => Code::InvalidTopicException,
        OpError::PartitionsRemoved { .. } | OpError::Range { .. } => Code::InvalidPartitions,
        OpError::Denied { .. } => Code::TopicAuthorizationFailed,
        OpError::Group { why, .. } => fault(*why),
        OpError::Produce { why } => producer(why),
        OpError::Guards { failed } => guards(failed),
        // Of what rides along with a batch.
        OpError::Inner { error, .. } if matches!(**error, OpError::Denied { .. }) => {
            Code::TopicAuthorizationFailed
        }
        OpError::ClaimOther { .. } | OpError::Inner { .. } => Code::PolicyViolation,
        OpError::IdempotencyFull { .. } => Code::NotEnoughReplicas,
        // None of these comes of what this gateway sends.
        _ => Code::UnknownServerError,
    }
}

/// Of guards that do not hold. A limit that is used up holds later: clients try again by themselves.
fn guards(failed: &[(u32, GuardFailed)]) -> Code {
    let limited = |(_, why): &(u32, GuardFailed)| matches!(why, GuardFailed::Limit { .. });
    if failed.iter().all(limited) { Code::ThrottlingQuotaExceeded } else { Code::PolicyViolation }
}

/// Of a transaction that cannot end well as things are: it is open still, and its producer drops it.
pub(crate) fn ending(code: Code) -> Code {
    match code {
        Code::PolicyViolation | Code::ThrottlingQuotaExceeded => Code::TransactionAbortable,
        other => other,
    }
}

/// Of a group that does not do what is asked.
pub(crate) fn fault(fault: GroupFault) -> Code {
    match fault {
        GroupFault::UnknownMember => Code::UnknownMemberId,
        GroupFault::OtherGeneration => Code::IllegalGeneration,
        GroupFault::Rebalancing => Code::RebalanceInProgress,
        GroupFault::Fenced => Code::FencedInstanceId,
        GroupFault::Inconsistent => Code::InconsistentGroupProtocol,
        GroupFault::Full => Code::GroupMaxSizeReached,
        GroupFault::Missing => Code::GroupIdNotFound,
        GroupFault::NotEmpty => Code::NonEmptyGroup,
        GroupFault::OtherEpoch => Code::FencedMemberEpoch,
        GroupFault::StaleEpoch => Code::StaleMemberEpoch,
        GroupFault::Unreleased => Code::UnreleasedInstanceId,
        GroupFault::Subscribed => Code::GroupSubscribedToTopic,
    }
}

/// The same where clients ask as members of a group: they look for its coordinator again, and ask again. What may have happened may be asked for
/// again: a join or a sync with the member's id, and an offset, come to the same.
pub(crate) fn of_group(code: Code) -> Code {
    match code {
        Code::NotEnoughReplicas | Code::RequestTimedOut => Code::CoordinatorNotAvailable,
        Code::NotLeaderOrFollower => Code::NotCoordinator,
        Code::TopicAuthorizationFailed => Code::GroupAuthorizationFailed,
        other => other,
    }
}

/// Of a producer that is refused.
fn producer(why: &ProduceError) -> Code {
    match why {
        ProduceError::Unknown { .. } => Code::UnknownProducerId,
        ProduceError::Epoch { .. } => Code::InvalidProducerEpoch,
        ProduceError::Order { .. } => Code::OutOfOrderSequenceNumber,
        ProduceError::OtherNumber { .. } => Code::InvalidProducerIdMapping,
        ProduceError::NotOpen { .. } => Code::InvalidTxnState,
        ProduceError::TooMuch { .. } | ProduceError::SecondKey { .. } => Code::PolicyViolation,
        // It did not happen, and may work later.
        ProduceError::Full { .. } => Code::NotEnoughReplicas,
    }
}

/// Of a request that is the coordinator's of a producer: there clients know another word for "try again", and trying again does no harm.
pub(crate) fn coordinator(code: Code) -> Code {
    match code {
        Code::NotEnoughReplicas | Code::NotLeaderOrFollower | Code::RequestTimedOut => {
            Code::CoordinatorLoadInProgress
        }
        other => other,
    }
}

/// Of a batch that a producer sent.
pub(crate) fn batch(bad: &Bad) -> Code {
    match bad {
        Bad::Checksum { .. } => Code::CorruptMessage,
        Bad::Codec(_) => Code::UnsupportedCompressionType,
        Bad::Large { .. } => Code::MessageTooLarge,
        Bad::Length { .. } | Bad::Magic(_) | Bad::Count { .. } | Bad::Packing(_) | Bad::Record { .. } => {
            Code::InvalidRecord
        }
    }
}
