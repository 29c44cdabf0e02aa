//! The shortest sequence that still shows a difference.
//!
//! Invariant: what is returned showed a difference of the same signature when it was last played.
//! Called by: `main`.

use super::families::Sequence;
use super::run::{Difference, Match, play};
use std::time::{Duration, Instant};

/// Longest time to spend on one finding.
const PATIENCE: Duration = Duration::from_secs(20);

/// Drops commands, halves first, as long as the difference stays.
pub(crate) fn shrink(
    between: &Match,
    sequence: &Sequence,
    difference: &Difference,
) -> (Sequence, Difference) {
    let until = Instant::now() + PATIENCE;
    let mut best = (sequence.clone(), difference.clone());
    best.0.steps.truncate(difference.step + 1);
    let signature = difference.signature();
    let again = |candidate: &Sequence| -> Option<Difference> {
        let found = play(between, candidate).ok()?.difference?;
        (found.signature() == signature).then_some(found)
    };
    let mut size = best.0.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut dropped = false;
        while at < best.0.steps.len() && Instant::now() < until {
            let mut candidate = best.0.clone();
            candidate.steps.drain(at..(at + size).min(candidate.steps.len()));
            match again(&candidate) {
                Some(found) => {
                    candidate.steps.truncate(found.step + 1);
                    best = (candidate, found);
                    dropped = true;
                }
                None => at += size,
            }
        }
        if !(dropped && size == 1) {
            size /= 2;
        }
        if Instant::now() >= until {
            break;
        }
    }
    best
}
