//! From etcd's requests to operations of a commit, and from their results to etcd's answers.
//!
//! Invariant: what etcd refuses by looking at the request alone is refused here, before anything is logged, in etcd's order and words.
//! Called by: `kv`, `lock`.

use crate::error;
use crate::gateway::shown;
use crate::protocol::etcdserverpb as pb;
use crate::protocol::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::protocol::etcdserverpb::request_op::Request as Asked;
use crate::protocol::etcdserverpb::response_op::Response as Answered;
use crate::protocol::mvccpb;
use bytes::Bytes;
use quorate_types::{
    Blob, Branch, Commit, Compare, Guard, Key, KeyField, KeyRange, KeyValue, Keyspace, LeaseId, Mode, Op,
    OpResult, Order, Revision, Select, Sort,
};
use std::collections::HashSet;
use tonic::Status;

/// The key of a name.
pub(crate) fn key(name: &Bytes) -> Key {
    Key { space: Keyspace::DEFAULT, name: Blob::copy_from(name) }
}

/// The keys from a name to an end: one without an end, all from the name on with the end `\0`.
pub(crate) fn range(name: &Bytes, end: &Bytes) -> KeyRange {
    match end.as_ref() {
        [] => KeyRange::single(key(name)),
        [0] => KeyRange { start: key(name), end: None },
        end => KeyRange { start: key(name), end: Some(Blob::copy_from(end)) },
    }
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// What a read asks for.
///
/// # Errors
/// No key; a sort option that is none.
pub(crate) fn select(asked: &pb::RangeRequest) -> Result<Select, Status> {
    use pb::range_request::{SortOrder, SortTarget};
    if asked.key.is_empty() {
        return Err(error::empty_key());
    }
    let order = match SortOrder::try_from(asked.sort_order).map_err(|_| error::bad_sort())? {
        SortOrder::None => None,
        SortOrder::Ascend => Some(Order::Ascending),
        SortOrder::Descend => Some(Order::Descending),
    };
    let sort = match SortTarget::try_from(asked.sort_target).map_err(|_| error::bad_sort())? {
        SortTarget::Key => Sort::Key,
        SortTarget::Version => Sort::Version,
        SortTarget::Create => Sort::Create,
        SortTarget::Mod => Sort::Mod,
        SortTarget::Value => Sort::Value,
    };
    Ok(Select {
        limit: u64::try_from(asked.limit).unwrap_or(0),
        keys_only: asked.keys_only,
        count_only: asked.count_only,
        sort,
        order,
        at: (asked.revision > 0).then(|| revision(asked.revision)),
        modified: (revision(asked.min_mod_revision), revision(asked.max_mod_revision)),
        created: (revision(asked.min_create_revision), revision(asked.max_create_revision)),
        ..Select::of(range(&asked.key, &asked.range_end))
    })
}

/// What a put writes.
///
/// # Errors
/// No key; a value or lease beside the wish to keep the one that is there.
pub(crate) fn write(asked: &pb::PutRequest, keep: bool) -> Result<Op, Status> {
    if asked.key.is_empty() {
        return Err(error::empty_key());
    }
    if asked.ignore_value && !asked.value.is_empty() {
        return Err(error::value_provided());
    }
    if asked.ignore_lease && asked.lease != 0 {
        return Err(error::lease_provided());
    }
    Ok(Op::Write {
        key: key(&asked.key),
        value: (!asked.ignore_value).then(|| Blob::copy_from(&asked.value)),
        lease: (!asked.ignore_lease).then_some(LeaseId(asked.lease as u64)),
        prev: asked.prev_kv,
        keep,
    })
}

/// What a delete erases.
///
/// # Errors
/// No key.
pub(crate) fn erase(asked: &pb::DeleteRangeRequest) -> Result<Op, Status> {
    if asked.key.is_empty() {
        return Err(error::empty_key());
    }
    Ok(Op::Erase { range: range(&asked.key, &asked.range_end), prev: asked.prev_kv })
}

/// A transaction that breaks no rule which can be seen without looking at the state.
pub(crate) struct Checked<'a>(&'a pb::TxnRequest);

impl<'a> Checked<'a> {
    /// Looks at sizes, keys, and keys that are written twice.
    ///
    /// # Errors
    /// The first rule that is broken, in the order in which etcd looks.
    pub(crate) fn of(asked: &'a pb::TxnRequest, operations_max: u64) -> Result<Self, Status> {
        check(asked, operations_max as i64)?;
        written(&asked.success)?;
        written(&asked.failure)?;
        Ok(Self(asked))
    }

    /// Whether nothing in it changes anything, whichever lists run.
    pub(crate) fn only_reads(&self) -> bool {
        only_reads(self.0)
    }

    /// Whether each of its reads is content with what this node has applied.
    pub(crate) fn is_stale(&self) -> bool {
        let of = |op: &pb::RequestOp| matches!(&op.request, Some(Asked::RequestRange(range)) if range.serializable);
        self.0.success.iter().chain(&self.0.failure).all(of)
    }

    /// The commit that it is.
    ///
    /// # Errors
    /// As for each of its operations.
    pub(crate) fn commit(&self, keep: bool) -> Result<Commit, Status> {
        commit(self.0, keep)
    }
}

fn check(asked: &pb::TxnRequest, max: i64) -> Result<(), Status> {
    let count = asked.compare.len().max(asked.success.len()).max(asked.failure.len()) as i64;
    if count > max {
        return Err(error::too_many_operations());
    }
    if asked.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(error::empty_key());
    }
    for op in asked.success.iter().chain(&asked.failure) {
        match &op.request {
            Some(Asked::RequestRange(range)) => drop(select(range)?),
            Some(Asked::RequestPut(put)) => drop(write(put, false)?),
            Some(Asked::RequestDeleteRange(delete)) => drop(erase(delete)?),
            Some(Asked::RequestTxn(inner)) => check(inner, max - count)?,
            None => return Err(error::key_not_found()),
        }
    }
    Ok(())
}

/// Stretches of keys: from a name to an end, which may be open.
type Erased = Vec<(Bytes, Option<Bytes>)>;

fn covers(erased: &Erased, name: &Bytes) -> bool {
    erased.iter().any(|(start, end)| start <= name && end.as_ref().is_none_or(|end| name < end))
}

/// The names that a list writes, and what it erases.
///
/// # Errors
/// A name is written twice, or written and erased, by operations that may both run.
fn written(ops: &[pb::RequestOp]) -> Result<(HashSet<Bytes>, Erased), Status> {
    let mut erased: Erased = Vec::new();
    for op in ops {
        if let Some(Asked::RequestDeleteRange(delete)) = &op.request {
            let end = match delete.range_end.as_ref() {
                [] => {
                    let mut after = delete.key.to_vec();
                    after.push(0);
                    Some(after.into())
                }
                _ => Some(delete.range_end.clone()),
            };
            erased.push((delete.key.clone(), end));
        }
    }
    let mut written_here: HashSet<Bytes> = HashSet::new();
    for op in ops {
        let Some(Asked::RequestTxn(inner)) = &op.request else { continue };
        let (then, then_erased) = written(&inner.success)?;
        let (otherwise, otherwise_erased) = written(&inner.failure)?;
        // The two lists of one transaction never both run.
        for name in then.union(&otherwise) {
            if written_here.contains(name) || covers(&erased, name) {
                return Err(error::duplicate_key());
            }
        }
        written_here.extend(then);
        written_here.extend(otherwise);
        erased.extend(then_erased);
        erased.extend(otherwise_erased);
    }
    for op in ops {
        if let Some(Asked::RequestPut(put)) = &op.request
            && (covers(&erased, &put.key) || !written_here.insert(put.key.clone()))
        {
            return Err(error::duplicate_key());
        }
    }
    Ok((written_here, erased))
}

fn only_reads(asked: &pb::TxnRequest) -> bool {
    asked.success.iter().chain(&asked.failure).all(|op| match &op.request {
        Some(Asked::RequestRange(_)) => true,
        Some(Asked::RequestTxn(inner)) => only_reads(inner),
        _ => false,
    })
}

fn commit(asked: &pb::TxnRequest, keep: bool) -> Result<Commit, Status> {
    let list = |ops: &[pb::RequestOp]| -> Result<Vec<Op>, Status> {
        ops.iter()
            .map(|op| match &op.request {
                Some(Asked::RequestRange(range)) => Ok(Op::Select { select: Box::new(select(range)?) }),
                Some(Asked::RequestPut(put)) => write(put, keep),
                Some(Asked::RequestDeleteRange(delete)) => erase(delete),
                Some(Asked::RequestTxn(inner)) => Ok(Op::Nested { commit: Box::new(commit(inner, keep)?) }),
                None => Err(error::key_not_found()),
            })
            .collect()
    };
    Ok(Commit {
        guards: asked.compare.iter().filter_map(guard).collect(),
        then: list(&asked.success)?,
        otherwise: Some(list(&asked.failure)?),
        mode: Mode::Foreseen,
        ..Commit::default()
    })
}

/// A comparison; nothing for one that always holds.
fn guard(asked: &pb::Compare) -> Option<Guard> {
    let compare = match asked.result() {
        CompareResult::Equal => Compare::Equal,
        CompareResult::Greater => Compare::Greater,
        CompareResult::Less => Compare::Less,
        CompareResult::NotEqual => Compare::NotEqual,
    };
    let one = key(&asked.key);
    let of = range(&asked.key, &asked.range_end);
    let single = asked.range_end.is_empty();
    let (field, wanted) = match (asked.target(), &asked.target_union) {
        (CompareTarget::Value, value) => {
            let wanted = match value {
                Some(TargetUnion::Value(value)) => Blob::copy_from(value),
                _ => Blob::EMPTY,
            };
            // Asked of a range even where it is one key, so that only plain values count.
            return Some(Guard::Values { range: of, compare, wanted });
        }
        (CompareTarget::Version, Some(TargetUnion::Version(wanted))) => (KeyField::Version, *wanted),
        (CompareTarget::Version, _) => (KeyField::Version, 0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(wanted))) => {
            (KeyField::CreateRevision, *wanted)
        }
        (CompareTarget::Create, _) => (KeyField::CreateRevision, 0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(wanted))) => (KeyField::ModRevision, *wanted),
        (CompareTarget::Mod, _) => (KeyField::ModRevision, 0),
        // Lease ids fill all bits, and are compared as the numbers without sign that they are here.
        (CompareTarget::Lease, Some(TargetUnion::Lease(wanted))) => (KeyField::Lease, *wanted),
        (CompareTarget::Lease, _) => (KeyField::Lease, 0),
    };
    let Ok(wanted) = u64::try_from(wanted) else {
        // Nothing is below zero: this is known without looking.
        return match compare {
            Compare::Greater | Compare::NotEqual => None,
            Compare::Equal | Compare::Less => {
                Some(Guard::Key { key: one, field: KeyField::Version, compare: Compare::Less, wanted: 0 })
            }
        };
    };
    Some(if single {
        Guard::Key { key: one, field, compare, wanted }
    } else {
        Guard::Keys { range: of, field, compare, wanted }
    })
}

/// A key as clients see it.
pub(crate) fn key_value(found: &KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::copy_from_slice(&found.key.name),
        create_revision: shown(found.create_revision),
        mod_revision: shown(found.mod_revision),
        version: i64::try_from(found.version.0).unwrap_or(i64::MAX),
        value: Bytes::copy_from_slice(&found.value),
        lease: found.lease.0 as i64,
    }
}

/// Whether a result tells of a change.
fn changed(op: Option<&Op>, result: &OpResult) -> bool {
    match result {
        OpResult::Deleted { count, .. } => *count > 0,
        OpResult::Done {} | OpResult::Key { .. } => matches!(op, Some(Op::Write { .. })),
        OpResult::Nested { results, .. } => {
            let inner = |result: &OpResult| match result {
                OpResult::Done {} | OpResult::Key { .. } => true,
                other => changed(None, other),
            };
            results.iter().any(inner)
        }
        _ => false,
    }
}

/// Numbers the operations of a transaction by the revision that each of them shows.
struct Shown {
    before: Revision,
    moved: bool,
}

impl Shown {
    fn header(&self) -> Option<pb::ResponseHeader> {
        let revision = if self.moved { self.before.next() } else { self.before };
        Some(pb::ResponseHeader { revision: shown(revision), ..pb::ResponseHeader::default() })
    }
}

/// The answer to a transaction; `revision` is the one after it. The header is the caller's to fill.
pub(crate) fn answer(
    commit: &Commit,
    branch: Branch,
    results: Vec<OpResult>,
    revision: Revision,
) -> pb::TxnResponse {
    let ops = list(commit, branch);
    let moved = results.iter().zip(ops).any(|(result, op)| changed(Some(op), result));
    let before = if moved { Revision(revision.0.saturating_sub(1)) } else { revision };
    let mut shown = Shown { before, moved: false };
    responses(commit, branch, results, &mut shown)
}

fn list(commit: &Commit, branch: Branch) -> &[Op] {
    match branch {
        Branch::Then => &commit.then,
        Branch::Else => commit.otherwise.as_deref().unwrap_or_default(),
    }
}

fn responses(commit: &Commit, branch: Branch, results: Vec<OpResult>, shown: &mut Shown) -> pb::TxnResponse {
    let ops = list(commit, branch);
    let responses = results.into_iter().zip(ops).map(|(result, op)| {
        if !matches!(result, OpResult::Nested { .. }) {
            shown.moved |= changed(Some(op), &result);
        }
        let response = match (result, op) {
            (OpResult::Keys { keys, count, more }, _) => {
                Answered::ResponseRange(range_response(&keys, count, more, shown.header()))
            }
            (OpResult::Deleted { count, prev }, _) => {
                Answered::ResponseDeleteRange(delete_response(count, &prev, shown.header()))
            }
            (OpResult::Nested { branch, results }, Op::Nested { commit }) => {
                let inner = responses(commit, branch, results, shown);
                Answered::ResponseTxn(pb::TxnResponse {
                    header: Some(pb::ResponseHeader::default()),
                    ..inner
                })
            }
            (OpResult::Key { found }, _) => Answered::ResponsePut(pb::PutResponse {
                header: shown.header(),
                prev_kv: found.as_ref().map(key_value),
            }),
            _ => Answered::ResponsePut(pb::PutResponse { header: shown.header(), prev_kv: None }),
        };
        pb::ResponseOp { response: Some(response) }
    });
    let responses = responses.collect();
    pb::TxnResponse { header: None, succeeded: branch == Branch::Then, responses }
}

/// The answer to a read.
pub(crate) fn range_response(
    keys: &[KeyValue],
    count: u64,
    more: bool,
    header: Option<pb::ResponseHeader>,
) -> pb::RangeResponse {
    pb::RangeResponse { header, kvs: keys.iter().map(key_value).collect(), more, count: count as i64 }
}

/// The answer to a delete.
pub(crate) fn delete_response(
    count: u64,
    prev: &[KeyValue],
    header: Option<pb::ResponseHeader>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse { header, deleted: count as i64, prev_kvs: prev.iter().map(key_value).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &'static str) -> pb::RequestOp {
        let put = pb::PutRequest { key: name.into(), ..Default::default() };
        pb::RequestOp { request: Some(Asked::RequestPut(put)) }
    }
    fn delete(name: &'static str, end: &'static str) -> pb::RequestOp {
        let delete = pb::DeleteRangeRequest { key: name.into(), range_end: end.into(), prev_kv: false };
        pb::RequestOp { request: Some(Asked::RequestDeleteRange(delete)) }
    }
    fn inner(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Asked::RequestTxn(txn)) }
    }
    fn check(success: Vec<pb::RequestOp>, message: Option<&str>) {
        let asked = pb::TxnRequest { success, ..Default::default() };
        let found = Checked::of(&asked, 4).map(drop).map_err(|status| status.message().to_owned());
        assert_eq!(found.err().as_deref(), message, "{asked:?}");
    }

    #[test]
    fn a_key_is_written_once_by_whatever_may_run_together() {
        let twice = Some("etcdserver: duplicate key given in txn request");
        check(vec![put("a"), put("b")], None);
        check(vec![put("a"), put("a")], twice);
        check(vec![delete("a", ""), put("a")], twice);
        check(vec![delete("a", "c"), put("b")], twice);
        check(vec![delete("a", "c"), put("c")], None);
        check(vec![put("a"), inner(vec![put("a")], vec![])], twice);
        check(vec![inner(vec![put("a")], vec![put("a")])], None);
        check(vec![inner(vec![delete("a", "")], vec![put("a")])], None);
        check(vec![inner(vec![put("a")], vec![]), inner(vec![], vec![put("a")])], twice);
        check(vec![inner(vec![delete("a", "")], vec![]), put("a")], twice);
    }

    #[test]
    fn operations_are_counted_along_the_longest_lists() {
        check(vec![put("a"), put("b"), put("c"), put("d")], None);
        check(
            vec![put("a"), put("b"), put("c"), put("d"), put("e")],
            Some("etcdserver: too many operations in txn request"),
        );
        check(vec![put("a"), inner(vec![put("b"), put("c")], vec![])], None);
        check(
            vec![put("a"), put("b"), put("c"), inner(vec![put("d")], vec![])],
            Some("etcdserver: too many operations in txn request"),
        );
        check(vec![pb::RequestOp { request: None }], Some("etcdserver: key not found"));
    }
}
