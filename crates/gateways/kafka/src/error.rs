//! The one place that turns what went wrong into Kafka's error codes.
//!
//! Invariant: no `_` arm over our own errors where a client acts by them, so that a new one must be given its place here.
//! Called by: `api`. Source: Kafka's protocol guide, "Error Codes".

use quorate_batch::Bad;
use quorate_runtime::RuntimeError;
use quorate_types::{OpError, Refusal};

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
    InvalidTopicException = 17
    NotEnoughReplicas = 19
    InvalidRequiredAcks = 21
    TopicAuthorizationFailed = 29
    UnsupportedSaslMechanism = 33
    UnsupportedVersion = 35
    TopicAlreadyExists = 36
    InvalidPartitions = 37
    InvalidReplicationFactor = 38
    InvalidReplicaAssignment = 39
    InvalidConfig = 40
    InvalidRequest = 42
    InvalidTxnState = 48
    KafkaStorageError = 56
    SaslAuthenticationFailed = 58
    UnknownProducerId = 59
    FetchSessionIdNotFound = 70
    FencedLeaderEpoch = 74
    UnknownLeaderEpoch = 75
    UnsupportedCompressionType = 76
    InvalidRecord = 87
    UnknownTopicId = 100
}

impl Code {
    pub(crate) fn number(self) -> i16 {
        self as i16
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
        // None of these comes of what this gateway sends.
        _ => Code::UnknownServerError,
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
