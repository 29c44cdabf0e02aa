//! Revisions: one order of all keys together. Whoever begins after another has ended must stand behind it.
//!
//! The registers are judged one by one; this binds them, streams and locks into one order. It is a necessary condition, not a
//! sufficient one, and takes no search: two operations whose times do not overlap must have revisions in the same order.
//! Called by: `run`.

use super::Anomaly;
use crate::history::RevisionEvent;

/// How many are reported: one broken order breaks many pairs.
const REPORTED_MAX: usize = 10;

/// Revisions that contradict real time, or that two commits claim.
pub(crate) fn check(events: &[RevisionEvent]) -> Vec<Anomaly> {
    let mut found = claimed_twice(events);
    let mut by_end: Vec<_> = events.iter().collect();
    by_end.sort_by_key(|event| event.span.ended);
    let mut by_begin: Vec<_> = events.iter().collect();
    by_begin.sort_by_key(|event| event.span.begun);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&RevisionEvent> = None;
    for event in by_begin {
        while let Some(other) = ended.next_if(|other| other.span.ended < event.span.begun) {
            if newest.is_none_or(|newest| newest.revision < other.revision) {
                newest = Some(other);
            }
        }
        let Some(other) = newest else { continue };
        let behind = event.revision < other.revision || (event.wrote && event.revision == other.revision);
        if behind {
            found.push(Anomaly::new(
                if event.wrote { "write out of order" } else { "stale read" },
                told(event, other),
            ));
        }
    }
    found.truncate(REPORTED_MAX);
    found
}

fn told(event: &RevisionEvent, other: &RevisionEvent) -> String {
    format!(
        "client {} on node {} {} revision {} at {:.6} s, though client {} on node {} had been answered with revision {} at {:.6} s",
        event.client,
        event.node,
        if event.wrote { "made" } else { "saw" },
        event.revision,
        event.span.begun as f64 / 1e9,
        other.client,
        other.node,
        other.revision,
        other.span.ended as f64 / 1e9,
    )
}

fn claimed_twice(events: &[RevisionEvent]) -> Vec<Anomaly> {
    let mut writes: Vec<_> = events.iter().filter(|event| event.wrote).collect();
    writes.sort_by_key(|event| event.revision);
    writes
        .windows(2)
        .filter(|pair| pair[0].revision == pair[1].revision)
        .map(|pair| {
            let what = format!(
                "revision {} was given to client {} and to client {}",
                pair[0].revision, pair[0].client, pair[1].client
            );
            Anomaly::new("revision given twice", what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    fn event(begun: u64, ended: u64, revision: u64, wrote: bool) -> RevisionEvent {
        RevisionEvent { client: 0, node: 1, span: Span { begun, ended }, revision, wrote }
    }
    fn kinds(events: &[RevisionEvent]) -> Vec<&'static str> {
        check(events).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    #[test]
    fn overlapping_operations_may_have_either_order() {
        assert!(kinds(&[event(0, 10, 2, true), event(5, 15, 1, true), event(16, 17, 2, false)]).is_empty());
    }

    #[test]
    fn a_stale_read_of_any_key_is_found() {
        assert_eq!(kinds(&[event(0, 1, 5, true), event(2, 3, 4, false)]), ["stale read"]);
        assert!(kinds(&[event(0, 1, 5, true), event(2, 3, 5, false)]).is_empty());
    }

    #[test]
    fn a_commit_behind_one_that_was_answered_before_it_began_is_found() {
        assert_eq!(kinds(&[event(0, 1, 5, true), event(2, 3, 4, true)]), ["write out of order"]);
    }

    #[test]
    fn one_revision_for_two_commits_is_found() {
        assert_eq!(kinds(&[event(0, 9, 5, true), event(1, 8, 5, true)]), ["revision given twice"]);
    }
}
