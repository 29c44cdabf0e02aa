//! The one place that turns what went wrong into etcd's status: clients compare the texts letter by letter.
//!
//! Invariant: no `_` arm over our own errors, so that a new one must be given its place here.
//! Called by: every service.

use quorate_runtime::RuntimeError;
use quorate_types::{AccessRefusal, Denied, OpError, Refusal};
use tonic::{Code, Status};

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $code:ident $text:literal;)*) => {
        $($(#[$doc])* pub(crate) fn $name() -> Status {
            Status::new(Code::$code, concat!("etcdserver: ", $text))
        })*
    };
}

texts! {
    empty_key = InvalidArgument "key is not provided";
    key_not_found = InvalidArgument "key not found";
    value_provided = InvalidArgument "value is provided";
    lease_provided = InvalidArgument "lease is provided";
    too_many_operations = InvalidArgument "too many operations in txn request";
    duplicate_key = InvalidArgument "duplicate key given in txn request";
    bad_sort = InvalidArgument "invalid sort option";
    compacted = OutOfRange "mvcc: required revision has been compacted";
    future_revision = OutOfRange "mvcc: required revision is a future revision";
    no_space = ResourceExhausted "mvcc: database space exceeded";
    corrupt = DataLoss "corrupt cluster";
    lease_not_found = NotFound "requested lease not found";
    lease_exists = FailedPrecondition "lease already exists";
    lease_too_long = OutOfRange "too large lease TTL";
    too_large = InvalidArgument "request is too large";
    too_many_requests = ResourceExhausted "too many requests";
    no_leader = Unavailable "no leader";
    stopped = Unavailable "server stopped";
    timed_out = Unavailable "request timed out";
    leader_changed = Unavailable "leader changed";
    bad_transferee = FailedPrecondition "bad leader transferee";
    leader_transfer_timed_out = Unavailable "request timed out, leader transfer took too long";
    permission_denied = PermissionDenied "permission denied";
    user_empty = InvalidArgument "user name is empty";
    auth_failed = InvalidArgument "authentication failed, invalid user ID or password";
    auth_not_enabled = FailedPrecondition "authentication is not enabled";
    invalid_token = Unauthenticated "invalid auth token";
    root_user_missing = FailedPrecondition "root user does not exist";
    root_role_missing = FailedPrecondition "root user does not have root role";
    user_exists = FailedPrecondition "user name already exists";
    user_missing = FailedPrecondition "user name not found";
    role_exists = FailedPrecondition "role name already exists";
    role_missing = FailedPrecondition "role name not found";
    role_empty = InvalidArgument "role name is empty";
    role_not_granted = FailedPrecondition "role is not granted to the user";
    permission_not_granted = FailedPrecondition "permission is not granted to the role";
    permission_not_given = InvalidArgument "permission not given";
    auth_old_revision = InvalidArgument "revision of auth store is old";
    invalid_auth_management = InvalidArgument "invalid auth management";
}

/// Of somebody who sends a password and has none.
pub(crate) fn no_password_user() -> Status {
    Status::unknown("auth: authentication failed, password was given for no password user")
}

/// What this gateway does not do: said with what does.
pub(crate) fn absent(what: &str, instead: &str) -> Status {
    Status::unimplemented(format!("{what} is not part of this gateway: {instead}"))
}

/// Of a command that has no outcome, or a read that has no answer.
pub(crate) fn runtime(error: &RuntimeError) -> Status {
    match error {
        RuntimeError::Invalid(why) => Status::invalid_argument(why.to_string()),
        RuntimeError::Cluster { why } => Status::failed_precondition(why.clone()),
        RuntimeError::Log(why) => Status::data_loss(why.to_string()),
        RuntimeError::Overloaded { .. } => too_many_requests(),
        RuntimeError::Full { .. } => no_space(),
        RuntimeError::NoLeader { .. } => no_leader(),
        RuntimeError::Restarting => leader_changed(),
        RuntimeError::Stopped { .. } => stopped(),
        // It may have happened: clients do not repeat a change on this one by themselves.
        RuntimeError::Indeterminate => timed_out(),
    }
}

/// Of a command that was refused: nothing of it happened.
pub(crate) fn refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Operation { error, .. } | Refusal::Command { error } => op(error),
        Refusal::Denied { denied: why } => denied(why),
        Refusal::IdempotencyFull { .. } => no_space(),
        Refusal::Access { why } => access(why),
        Refusal::Guards { .. }
        | Refusal::OtherRequest { .. }
        | Refusal::Cancelled { .. }
        | Refusal::Claimed { .. }
        | Refusal::LockOut {} => Status::failed_precondition(refusal.to_string()),
    }
}

/// Of a change of users or roles.
fn access(why: &AccessRefusal) -> Status {
    match why {
        AccessRefusal::UserEmpty {} => user_empty(),
        AccessRefusal::UserExists {} => user_exists(),
        AccessRefusal::UserMissing {} => user_missing(),
        AccessRefusal::RoleEmpty {} => role_empty(),
        AccessRefusal::RoleExists {} => role_exists(),
        AccessRefusal::RoleMissing {} => role_missing(),
        AccessRefusal::RoleNotGranted {} => role_not_granted(),
        AccessRefusal::RuleMissing {} => permission_not_granted(),
        AccessRefusal::RootMissing {} => root_user_missing(),
        AccessRefusal::RootWithoutRole {} => root_role_missing(),
        AccessRefusal::Protected {} => invalid_auth_management(),
        AccessRefusal::OldRevision {} => auth_old_revision(),
        AccessRefusal::DoorIsOpen {} => auth_not_enabled(),
        AccessRefusal::TooMany { .. } => Status::resource_exhausted(why.to_string()),
    }
}

/// Of what somebody may not do.
pub(crate) fn denied(denied: &Denied) -> Status {
    match denied {
        Denied::Gone { .. } => invalid_token(),
        _ => permission_denied(),
    }
}

/// Of one operation.
pub(crate) fn op(error: &OpError) -> Status {
    match error {
        OpError::LeaseMissing { .. } => lease_not_found(),
        OpError::LeaseExists { .. } => lease_exists(),
        OpError::Compacted { .. } => compacted(),
        OpError::Future { .. } => future_revision(),
        OpError::KeyMissing { .. } => key_not_found(),
        OpError::Denied { denied: why } => denied(why),
        OpError::Inner { error, .. } => op(error),
        OpError::Call { text } if text.starts_with(b"OOM") => no_space(),
        OpError::Call { text } if text.starts_with(quorate_machine::CORRUPT.as_bytes()) => corrupt(),
        OpError::IdempotencyFull { .. } => no_space(),
        OpError::WrongType { .. }
        | OpError::NotInteger { .. }
        | OpError::OutOfBounds { .. }
        | OpError::Internal { .. }
        | OpError::LockHeld { .. }
        | OpError::LockHeldByYou { .. }
        | OpError::NotHolder { .. }
        | OpError::NotWaiting { .. }
        | OpError::StreamMissing { .. }
        | OpError::StreamExists { .. }
        | OpError::PartitionMissing { .. }
        | OpError::PartitionsRemoved { .. }
        | OpError::OffsetOutOfRange { .. }
        | OpError::KeylessRecord { .. }
        | OpError::Produce { .. }
        | OpError::BadPayload { .. }
        | OpError::GroupMissing { .. }
        | OpError::GroupExists { .. }
        | OpError::GroupMode { .. }
        | OpError::CursorMoved { .. }
        | OpError::TaskMissing { .. }
        | OpError::InstanceMissing { .. }
        | OpError::ClaimHeld { .. }
        | OpError::ClaimOther { .. }
        | OpError::ClaimLost { .. }
        | OpError::SlotMissing { .. }
        | OpError::Guards { .. }
        | OpError::Range { .. }
        | OpError::OutermostOnly { .. }
        | OpError::Group { .. }
        | OpError::Call { .. } => Status::failed_precondition(error.to_string()),
    }
}
