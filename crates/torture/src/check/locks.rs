//! Locks: tokens only grow, two holders never overlap while both are certain, and whoever was deposed cannot write under the fence.
//!
//! A holder is certain from the answer that granted the lock until it begins to give it back, or until its lease might have ended,
//! whichever comes first. A lease is promised not to end before its time to live has passed since the request for it was *sent*; all
//! processes of a run share one machine's clock, so a lease that ends early shows as two certain holders.
//! Called by: `run`.

use super::Anomaly;
use crate::history::LockEvent;
use std::collections::BTreeMap;

/// How many are reported.
const REPORTED_MAX: usize = 10;

/// Judges the grants of every lock.
pub(crate) fn check(events: &[LockEvent]) -> Vec<Anomaly> {
    let mut locks: BTreeMap<u32, Vec<&LockEvent>> = BTreeMap::new();
    for event in events {
        locks.entry(event.lock).or_default().push(event);
    }
    let mut found = Vec::new();
    for (lock, mut events) in locks {
        events.sort_by_key(|event| event.token);
        // Not only neighbours: a short grant between two others must not hide that those overlap.
        let mut longest: Option<&LockEvent> = None;
        for &event in &events {
            found.extend(longest.and_then(|longest| judge(lock, longest, event)));
            if longest.is_none_or(|longest| certain(longest).1 <= certain(event).1) {
                longest = Some(event);
            }
        }
        found.extend(real_time(lock, &mut events));
    }
    found.truncate(REPORTED_MAX);
    found
}

/// From when and until when it holds the lock for certain.
fn certain(event: &LockEvent) -> (u64, u64) {
    (event.span.ended, event.promised.min(event.released))
}

/// Two grants of one lock, the second with a token that is not smaller.
fn judge(lock: u32, first: &LockEvent, second: &LockEvent) -> Option<Anomaly> {
    if first.token == second.token {
        let what = format!(
            "lock {lock}: token {} was given to clients {} and {}",
            first.token, first.client, second.client
        );
        return Some(Anomaly::new("token given twice", what));
    }
    let ((from, to), (other_from, other_to)) = (certain(first), certain(second));
    (from.max(other_from) < to.min(other_to)).then(|| {
        let what = format!(
            "lock {lock}: client {} held it with token {} from {:.6} to {:.6} s, and client {} with token {} from {:.6} to {:.6} s",
            first.client,
            first.token,
            from as f64 / 1e9,
            to as f64 / 1e9,
            second.client,
            second.token,
            other_from as f64 / 1e9,
            other_to as f64 / 1e9,
        );
        Anomaly::new("two holders", what)
    })
}

/// A grant asked for after another was answered has the greater token.
fn real_time(lock: u32, events: &mut [&LockEvent]) -> Vec<Anomaly> {
    let mut by_end: Vec<_> = events.to_vec();
    by_end.sort_by_key(|event| event.span.ended);
    events.sort_by_key(|event| event.span.begun);
    let mut ended = by_end.into_iter().peekable();
    let mut newest = 0;
    let mut found = Vec::new();
    for event in events {
        while let Some(other) = ended.next_if(|other| other.span.ended < event.span.begun) {
            newest = newest.max(other.token);
        }
        if event.token < newest {
            let what = format!(
                "lock {lock}: client {} was granted token {} though {newest} had been granted before it asked",
                event.client, event.token
            );
            found.push(Anomaly::new("token went back", what));
        }
    }
    found
}

/// Records `LOCK:TOKEN:…` that holders appended under the fence: along the stream the tokens of a lock never fall.
pub(crate) fn check_fenced(content: &[(u64, String)]) -> Vec<Anomaly> {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for (offset, record) in content {
        let mut parts = record.split(':');
        let (Some(lock), Some(Ok(token))) = (parts.next(), parts.next().map(str::parse::<u64>)) else {
            found.push(Anomaly::new("strange record", format!("{record} at offset {offset}")));
            continue;
        };
        let newest = newest.entry(lock).or_default();
        if token < *newest {
            let what = format!(
                "lock {lock}: {record} at offset {offset} was written under the fence after token {newest}"
            );
            found.push(Anomaly::new("deposed holder wrote", what));
        }
        *newest = token.max(*newest);
    }
    found.truncate(REPORTED_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{OPEN, Span};

    fn event(begun: u64, ended: u64, token: u64, promised: u64, released: u64) -> LockEvent {
        LockEvent { lock: 1, client: token as u32, span: Span { begun, ended }, token, promised, released }
    }
    fn kinds(events: &[LockEvent]) -> Vec<&'static str> {
        check(events).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    #[test]
    fn holders_after_each_other_are_sound() {
        assert!(
            kinds(&[event(0, 1, 5, 100, 10), event(2, 12, 6, 100, OPEN), event(50, 101, 7, 200, 190)])
                .is_empty()
        );
    }

    #[test]
    fn a_token_given_twice_is_found() {
        assert_eq!(kinds(&[event(0, 1, 5, 100, 10), event(20, 21, 5, 100, 30)]), ["token given twice"]);
    }

    #[test]
    fn two_holders_at_once_are_found() {
        assert_eq!(kinds(&[event(0, 1, 5, 100, 50), event(2, 40, 6, 200, 60)]), ["two holders"]);
    }

    #[test]
    fn a_lease_that_ended_early_is_found_but_one_that_may_have_ended_is_no_anomaly() {
        assert_eq!(kinds(&[event(0, 1, 5, 100, OPEN), event(2, 99, 6, 200, OPEN)]), ["two holders"]);
        assert!(kinds(&[event(0, 1, 5, 100, OPEN), event(2, 100, 6, 200, OPEN)]).is_empty());
        // Between the two stands one that was never certain.
        let short = event(2, 30, 6, 20, OPEN);
        assert_eq!(kinds(&[event(0, 1, 5, 100, OPEN), short, event(2, 60, 7, 200, OPEN)]), ["two holders"]);
    }

    #[test]
    fn a_token_that_went_back_is_found() {
        assert_eq!(kinds(&[event(0, 1, 9, 100, 2), event(10, 11, 5, 100, 20)]), ["token went back"]);
    }

    #[test]
    fn a_deposed_holder_that_wrote_is_found() {
        let content =
            |records: &[&str]| records.iter().zip(0..).map(|(r, o)| (o, (*r).to_owned())).collect::<Vec<_>>();
        assert!(check_fenced(&content(&["1:5:a", "2:3:b", "1:5:c", "1:7:d"])).is_empty());
        let found = check_fenced(&content(&["1:5:a", "1:7:b", "1:5:c"]));
        assert_eq!(found[0].kind, "deposed holder wrote");
        assert_eq!(check_fenced(&content(&["nonsense"]))[0].kind, "strange record");
    }
}
