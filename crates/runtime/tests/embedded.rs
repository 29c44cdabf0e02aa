//! The embedded database, as a program uses it.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use quorate_runtime::{CommitError, Config, Interest, Quorate, RuntimeError};
use quorate_types::*;
use std::time::Duration;

fn open(folder: &std::path::Path) -> Quorate {
    let mut config = Config::default();
    config.log.segment_bytes = 4 << 20;
    config.log.batch_bytes_max = 2 << 20;
    config.log.entry_bytes_max = 1 << 20;
    config.log.reserve_bytes = 0;
    Quorate::open(folder, config, |_, _| {}).unwrap()
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: LeaseId(0), prev: false }
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let first = db.commit(Commit::of(vec![put("a", "1")])).unwrap();
    assert_eq!(first.revision, Revision(1));
    db.commit(Commit::of(vec![put("b", "2")])).unwrap();
    db.close();
    let db = open(folder.path());
    let value = db.read(|machine| machine.get(&"b".into())).unwrap().unwrap();
    assert_eq!((value.value, value.mod_revision), ("2".into(), Revision(2)));
}

#[test]
fn many_threads_share_commits_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let op = Op::Increment { key: "n".into(), by: 1, min: i64::MIN, max: i64::MAX };
                    db.commit(Commit::of(vec![op])).unwrap();
                }
            });
        }
    });
    assert_eq!(db.read(|machine| machine.get(&"n".into())).unwrap().unwrap().value, "800".into());
    assert!(db.handle().status().entries < 800, "commits share entries");
}

#[test]
fn a_refusal_says_which_guard_found_what() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let guard = Guard::Key { key: "a".into(), field: KeyField::Version, compare: Compare::Equal, wanted: 3 };
    let refused = db.commit(Commit { guards: vec![guard], ..Commit::default() }).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "guard 0: key a has version 0, wanted exactly 3: read it again and decide again"
    );
    assert!(matches!(refused, CommitError::Refused(_)));
}

#[test]
fn a_lease_ends_by_itself_and_takes_its_keys_along() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let grant = Op::LeaseGrant { lease: LeaseId(7), ttl: Millis(200) };
    let key = Op::Put { key: "k".into(), value: "v".into(), lease: LeaseId(7), prev: false };
    db.commit(Commit::of(vec![grant, key])).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let handle = db.handle();
    let gone = runtime.block_on(async {
        let interest = Interest::Keys(KeyRange::single("k".into()));
        handle
            .wait(interest, Duration::from_secs(20), |machine| {
                machine.get(&"k".into()).is_none().then_some(())
            })
            .await
    });
    assert_eq!(gone, Ok(Some(())));
}

#[test]
fn a_wait_is_granted_when_the_holder_releases_and_leaves_the_queue_when_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let grants = [1, 2, 3].map(|id| Op::LeaseGrant { lease: LeaseId(id), ttl: Millis(60_000) });
    db.commit(Commit::of(grants.to_vec())).unwrap();
    let wait = |lease| {
        let wait = WaitRequest {
            lock: "l".into(),
            lease: LeaseId(lease),
            mode: LockMode::Exclusive,
            request: 1,
            value: Blob::EMPTY,
            timeout: None,
        };
        Command::new("anonymous".into(), CommandBody::Wait { wait })
    };
    let Ok(Outcome::Granted { token }) = db.execute(wait(1)) else { panic!("a free lock is granted") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let handle = db.handle();
    runtime.block_on(async {
        let dropped = tokio::time::timeout(Duration::from_millis(50), handle.command(wait(2))).await;
        assert!(dropped.is_err());
        let waiting = |n: usize| {
            move |machine: &quorate_machine::Machine| {
                (machine.lock(&"l".into()).map_or(0, |lock| lock.waiting.len()) == n).then_some(())
            }
        };
        let left = handle.wait(Interest::Revision, Duration::from_secs(20), waiting(0)).await;
        assert_eq!(left, Ok(Some(())), "a dropped wait leaves the queue");
        let release = Commit::of(vec![Op::Release { lock: "l".into(), token }]);
        let second = handle.clone();
        let granted = tokio::spawn(async move { second.command(wait(3)).await });
        handle.wait(Interest::Revision, Duration::from_secs(20), waiting(1)).await.unwrap().unwrap();
        handle.command(release.into()).await.unwrap();
        let Ok(Outcome::Granted { token: next }) = granted.await.unwrap() else {
            panic!("the waiter is granted")
        };
        assert!(next > token);
    });
}

#[test]
fn an_oversize_command_is_refused_before_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let huge = "x".repeat(5 << 20);
    let refused = db.commit(Commit::of(vec![put("k", &huge)])).unwrap_err();
    assert!(matches!(refused, CommitError::Runtime(RuntimeError::Invalid(_))), "{refused}");
    assert_eq!(db.handle().status().sizes.keys, 0);
}

#[test]
fn why_tells_who_changed_a_key_and_whose_guard_failed() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let command =
        |principal: &str, commit: Commit| Command::new(principal.into(), CommandBody::Commit { commit });
    db.execute(command("ann", Commit::of(vec![put("k", "1")]))).unwrap();
    let guard = Guard::Key { key: "k".into(), field: KeyField::Version, compare: Compare::Equal, wanted: 9 };
    db.execute(command(
        "bob",
        Commit { guards: vec![guard], then: vec![put("k", "2")], ..Commit::default() },
    ))
    .unwrap();
    db.execute(command("cid", Commit::of(vec![put("other", "1")]))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let subject = Subject::Key { key: "k".into() };
    let found = runtime.block_on(db.handle().why(subject, 10)).unwrap();
    let told: Vec<String> = found.iter().map(|r| format!("{} {:?}", r.principal, r.verdict)).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "ann Done(Revision(1))");
    assert!(told[1].starts_with("bob Refused(Some(Guards"), "{}", told[1]);
}

#[test]
fn a_denial_by_a_limit_alone_costs_no_log_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let policy = LimitPolicy::Bucket { count: 1, period: Millis(3_600_000), burst: 1 };
    let take =
        || Commit { guards: vec![Guard::Limit { name: "t".into(), policy, cost: 1 }], ..Commit::default() };
    db.commit(take()).unwrap();
    let applied = db.handle().status().applied;
    for _ in 0..5 {
        let Err(CommitError::Refused(refusal)) = db.commit(take()) else { panic!("it is used up") };
        assert!(refusal.to_string().contains("limit t has 0 of 1 left"), "{refusal}");
    }
    assert_eq!(db.handle().status().applied, applied);
    db.commit(Commit::of(vec![put("k", "v")])).unwrap();
    assert_eq!(db.read(|machine| machine.limit_report(&"t".into(), &policy, 1).1).unwrap(), 5);
}

#[test]
fn a_closed_database_refuses_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let handle = db.handle();
    db.close();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let refused = runtime.block_on(handle.command(Commit::of(vec![put("k", "v")]).into()));
    assert_eq!(refused, Err(RuntimeError::Stopped { why: "it was asked to".into() }));
    assert!(runtime.block_on(handle.read(|machine| machine.revision())).is_err());
    assert_eq!(runtime.block_on(handle.stopped()), "it was asked to");
}
