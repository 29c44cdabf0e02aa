//! The one place that turns what went wrong into an error reply. Clients tell errors by the first word.
//!
//! Where Redis has a word for it, that is used, because clients act on it: `LOADING`, `CLUSTERDOWN`, `TRYAGAIN` and `OOM` say that nothing
//! happened, most of them that the same may pass later. Ours are `INDETERMINATE` (it may have happened), `FENCED`, `LIMITED` and
//! `CONFLICT` (a guard failed, nothing happened).
//!
//! Invariant: no `_` arm over our own errors, so that a new one must be given its place here.
//! Called by: `gateway`, `transaction`, `locks`.

use quorate_calls::permissions::noperm;
use quorate_runtime::RuntimeError;
use quorate_types::{GuardFailed, OpError, Refusal, Reply};

/// It may or may not have happened.
pub(crate) const INDETERMINATE: &str = "INDETERMINATE the node stopped, lost its leader or was too slow before it could tell: it may or may not have happened; read, or repeat it with Q.IDEMPOTENT";

/// Of a command that has no outcome, or a read that has no answer.
pub(crate) fn runtime(error: &RuntimeError) -> Reply {
    let code = match error {
        RuntimeError::Invalid(_) | RuntimeError::Cluster { .. } | RuntimeError::Log(_) => "ERR",
        RuntimeError::Overloaded { .. } => "TRYAGAIN",
        RuntimeError::Full { what } => {
            if *what == "memory" {
                return Reply::error(
                    "OOM command not allowed when used memory > 'maxmemory': memory is nearly full, deletes and reads go on; it did not happen",
                );
            }
            "MISCONF"
        }
        RuntimeError::NoLeader { .. } => "CLUSTERDOWN",
        RuntimeError::Restarting => "LOADING",
        RuntimeError::Stopped { .. } => "CLUSTERDOWN",
        RuntimeError::Indeterminate => return Reply::error(INDETERMINATE),
    };
    Reply::error(format!("{code} {error}"))
}

/// Of a commit that was refused: nothing of it happened.
pub(crate) fn refusal(refusal: &Refusal) -> Reply {
    match refusal {
        Refusal::Guards { failed } => {
            let told = failed.iter().find(|(_, why)| !watched(why)).or(failed.first());
            told.map_or(Reply::NilArray, |(_, why)| guard(why))
        }
        Refusal::Operation { error, .. } | Refusal::Command { error } => op(error),
        Refusal::Denied { denied } => Reply::error(noperm(denied)),
        Refusal::OtherRequest { .. }
        | Refusal::Cancelled { .. }
        | Refusal::Claimed { .. }
        | Refusal::IdempotencyFull { .. }
        | Refusal::LockOut {}
        | Refusal::Access { .. } => Reply::error(format!("ERR {refusal}")),
    }
}

/// Whether this is what WATCH has asked for: then EXEC answers nil.
fn watched(why: &GuardFailed) -> bool {
    matches!(why, GuardFailed::Range { .. } | GuardFailed::RangeUnknown { .. })
}

fn guard(why: &GuardFailed) -> Reply {
    let code = match why {
        GuardFailed::Range { .. } | GuardFailed::RangeUnknown { .. } => return Reply::NilArray,
        GuardFailed::Fence { .. } | GuardFailed::Leadership { .. } | GuardFailed::LeaseGone { .. } => {
            "FENCED"
        }
        GuardFailed::Limit { .. } | GuardFailed::Slots { .. } => "LIMITED",
        GuardFailed::Key { .. }
        | GuardFailed::Value { .. }
        | GuardFailed::StreamAt { .. }
        | GuardFailed::NotAfter { .. }
        | GuardFailed::Some { .. } => "CONFLICT",
    };
    Reply::error(format!("{code} {why}"))
}

/// Of one operation.
pub(crate) fn op(error: &OpError) -> Reply {
    match error {
        OpError::Call { text } => Reply::Error { text: text.clone() },
        OpError::Inner { error, .. } => op(error),
        OpError::Denied { denied } => Reply::error(noperm(denied)),
        OpError::WrongType { .. } => Reply::error(format!("WRONGTYPE {error}")),
        other => Reply::error(format!("ERR {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{FencingToken, LimitReport, Revision};

    #[test]
    fn a_watched_key_that_changed_is_nil_and_every_other_guard_says_why() {
        let range = GuardFailed::Range { key: "k".into(), changed: Revision(2), since: Revision(1) };
        let fence = GuardFailed::Fence { lock: "l".into(), held: FencingToken(3), offered: FencingToken(2) };
        let of = |failed: Vec<GuardFailed>| {
            refusal(&Refusal::Guards { failed: failed.into_iter().map(|why| (0, why)).collect() })
        };
        assert_eq!(of(vec![range.clone()]), Reply::NilArray);
        let Reply::Error { text } = of(vec![range, fence]) else { panic!("the fence is told") };
        assert!(text.starts_with(b"FENCED lock l is held with token 3, offered 2"), "{text}");
        let Reply::Error { text } = of(vec![GuardFailed::Limit { report: LimitReport::default(), cost: 1 }])
        else {
            panic!("the limit is told")
        };
        assert!(text.starts_with(b"LIMITED "), "{text}");
    }

    #[test]
    fn a_call_that_failed_says_it_in_its_own_words() {
        assert_eq!(op(&OpError::Call { text: "WRONGTYPE x".into() }), Reply::error("WRONGTYPE x"));
    }
}
