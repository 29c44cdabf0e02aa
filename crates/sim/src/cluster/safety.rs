//! Raft's own promises, looked at after every step, and how log time has to run by a clock that nobody in the cluster has.
//!
//! Invariant: at most one leader per term; no node gives two candidates its vote in a term; a leader has everything that was committed in
//! earlier terms; a vote that was on disk is never forgotten.
//! Invariant: between two entries log time grows by no more than the fastest clock could have counted; and by no less than the slowest
//! must have, from the last moment of the old leader's time that the new one had heard.
//! Called by: the cluster's world, after each call to a node.
//! Source: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm", ATC 2014, figure 3.

use crate::cluster::truth::{Fresh, Truth};
use crate::model::{Check, ensure};
use quorate_types::{LogIndex, LogTime, NodeId, Term};
use std::collections::BTreeMap;

/// The fastest and slowest clocks, in thousandths of true time.
pub(crate) const RATE_MIN: u64 = 950;
pub(crate) const RATE_MAX: u64 = 1050;
/// A stall counts a second by the stalled node's clock: at least so much of true time.
const STALL_NS: u64 = 1_000_000_000 * 1000 / RATE_MAX;
/// Rounding of clocks.
const SLACK_NS: u64 = 2_000_000;

/// A term of office.
struct Office {
    won_ns: u64,
    /// Log time at least, when it was won.
    base_ns: u64,
    /// When the leader's clock was read last, and what its stalls have cost until then: (true time, sum), oldest first.
    stalls: Vec<(u64, u64)>,
}

impl Office {
    /// Log time at least, at a moment when the leader has read its clock.
    fn low(&self, at_ns: u64) -> u64 {
        let passed = at_ns.saturating_sub(self.won_ns);
        let lost = self.stalls.iter().rev().find(|(at, _)| *at <= at_ns).map_or(0, |(_, sum)| *sum);
        self.base_ns + passed.saturating_sub(lost) * RATE_MIN / 1000
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Safety {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, u64), u64>,
    offices: BTreeMap<Term, Office>,
    /// When each entry was ordered, by true time, of those that may still be committed.
    ordered: BTreeMap<(LogIndex, Term), u64>,
    /// The last entry of commands: its log time, and when it was ordered.
    last: Option<(LogTime, u64)>,
    /// The largest gap by which the new leader's log time fell behind what it had to be at least, for the report.
    pub(crate) carried: u64,
}

impl Safety {
    pub(crate) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// A vote leaves a node.
    pub(crate) fn votes(&mut self, voter: NodeId, term: u64, candidate: u64) -> Check {
        let given = self.votes.entry((voter, term)).or_insert(candidate);
        ensure!(
            *given == candidate,
            "node {voter} voted for node {given} in term {term}, and now for node {candidate}"
        );
        Ok(())
    }

    /// A node leads: whether that is news.
    pub(crate) fn leads(&mut self, node: NodeId, term: Term) -> Check<bool> {
        let known = self.leaders.insert(term, node);
        ensure!(
            known.is_none_or(|known| known == node),
            "nodes {} and {node} both lead term {term}",
            known.unwrap_or_default()
        );
        Ok(known.is_none())
    }

    /// Leadership was won. `heard` is the leader's term whose log time counts, and the true time at which that leader had read its
    /// clock when it told it last.
    pub(crate) fn won(&mut self, term: Term, now_ns: u64, truth: &Truth, heard: Option<(Term, u64)>) {
        let told = heard.and_then(|(term, at)| self.offices.get(&term).map(|office| office.low(at)));
        let certain = truth.told(truth.last_before(term)).map_or(0, |_| truth.time().0);
        let certain = if truth.last_before(term) == truth.applied() { certain } else { 0 };
        if told.is_some_and(|told| told > certain + 50_000_000) {
            self.carried += 1;
        }
        let base_ns = told.unwrap_or(0).max(certain);
        self.offices.insert(term, Office { won_ns: now_ns, base_ns, stalls: Vec::new() });
    }

    /// A leader reads its clock, `gap_ns` of true time after it did last.
    pub(crate) fn beats(&mut self, term: Term, now_ns: u64, gap_ns: u64) {
        let Some(office) = self.offices.get_mut(&term).filter(|_| gap_ns > STALL_NS) else { return };
        let sum = office.stalls.last().map_or(0, |(_, sum)| *sum);
        office.stalls.push((now_ns, sum + gap_ns - STALL_NS));
    }

    /// A leader has given places up to `last`.
    pub(crate) fn orders(&mut self, term: Term, from: LogIndex, last: LogIndex, now_ns: u64) {
        for index in from.0 + 1..=last.0 {
            self.ordered.entry((LogIndex(index), term)).or_insert(now_ns);
        }
    }

    /// An entry is certain.
    pub(crate) fn committed(&mut self, fresh: &Fresh) -> Check {
        let Fresh { index, term, time } = fresh;
        let ordered = self.ordered.get(&(*index, *term)).copied();
        self.ordered = self.ordered.split_off(&(*index, Term::ZERO));
        let (Some(time), Some(ordered)) = (time, ordered) else { return Ok(()) };
        if let Some((before, at)) = self.last {
            let most = ordered.saturating_sub(at) * RATE_MAX / 1000 + SLACK_NS;
            let grown = time.0.saturating_sub(before.0);
            ensure!(
                grown <= most,
                "log time ran ahead: it grew by {grown} ns up to entry {index}, in {} ns of true time",
                ordered.saturating_sub(at)
            );
        }
        if let Some(office) = self.offices.get(term) {
            let low = office.low(ordered).saturating_sub(SLACK_NS);
            ensure!(
                time.0 >= low,
                "log time restarted or stood still: entry {index} of term {term} says {time}, by a clock of {RATE_MIN}/1000 at least {low} ns had passed"
            );
        }
        self.last = Some((*time, ordered));
        Ok(())
    }
}
