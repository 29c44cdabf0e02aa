//! Linearizability of registers: is there one order of the operations that respects real time and explains every answer?
//!
//! Each register is judged alone, since linearizability is local (Herlihy & Wing, "Linearizability", TOPLAS 1990, §3.2). The search
//! is Wing & Gong's ("Testing and verifying concurrent objects", JPDC 1993) with Lowe's memory of what was already tried ("Testing for
//! linearizability", CCPE 2017). An operation without a clear answer may be placed anywhere after it began, or nowhere.
//!
//! Invariant: a history is called linearizable only with an order in hand. The memory may, with a chance of 2⁻¹²⁸ a pair, take two
//! different situations for one, which could only raise a false alarm.
//! Called by: `run`.

use super::Anomaly;
use crate::history::{OPEN, RegisterEvent, Span, State, Touch};
use crate::random::Random;
use std::collections::{BTreeMap, HashSet};

/// Steps after which the search for one register is given up, and said to be undecided. Sound histories need about one an operation.
const STEPS_MAX: u64 = 50_000_000;

/// Every register whose history is impossible, or too hard to decide.
pub(crate) fn check(events: &[RegisterEvent]) -> Vec<Anomaly> {
    let mut registers: BTreeMap<u32, Vec<RegisterEvent>> = BTreeMap::new();
    for event in events {
        registers.entry(event.register).or_default().push(*event);
    }
    registers.into_iter().filter_map(|(register, events)| judge(register, &events, STEPS_MAX)).collect()
}

fn judge(register: u32, events: &[RegisterEvent], steps_max: u64) -> Option<Anomaly> {
    let mut search = Search::new(events);
    match search.run(steps_max) {
        Verdict::Linearizable => None,
        Verdict::Impossible => {
            let blocking = search.blocking();
            let what = format!(
                "register {register}: no order explains these {} operations; at most {} fit, then none of: {blocking}",
                events.len(),
                search.deepest,
            );
            Some(Anomaly::new("not linearizable", what))
        }
        Verdict::Undecided => {
            let what = format!("register {register}: {} operations, {steps_max} steps", events.len());
            Some(Anomaly::new("linearizability undecided", what))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Linearizable,
    Impossible,
    Undecided,
}

struct Search<'a> {
    /// Acknowledged operations by their beginning, then those without a clear answer.
    ops: Vec<&'a RegisterEvent>,
    acknowledged: usize,
    placed: Vec<bool>,
    /// A random number for each operation: those placed, combined by xor, name the set (Zobrist, 1970).
    names: Vec<u128>,
    deepest: usize,
    /// The state and candidates at the deepest place.
    stuck: (State, Vec<usize>),
}

/// One placed operation, and what else could be placed instead.
struct Frame {
    candidates: Vec<usize>,
    next: usize,
    state: State,
    low: usize,
}

impl<'a> Search<'a> {
    fn new(events: &'a [RegisterEvent]) -> Self {
        let mut ops: Vec<_> = events.iter().filter(|event| !unclear_and_harmless(event)).collect();
        ops.sort_by_key(|event| (event.span.ended == OPEN, event.span.begun));
        let acknowledged = ops.iter().filter(|event| event.span.ended != OPEN).count();
        let mut random = Random::new(ops.len() as u64);
        let names = ops.iter().map(|_| u128::from(random.next()) << 64 | u128::from(random.next())).collect();
        Self {
            placed: vec![false; ops.len()],
            acknowledged,
            ops,
            names,
            deepest: 0,
            stuck: Default::default(),
        }
    }

    fn run(&mut self, steps_max: u64) -> Verdict {
        let mut seen: HashSet<(u128, State)> = HashSet::new();
        let (mut set, mut done, mut steps) = (0u128, 0, 0);
        let mut frames = vec![self.frame(State::default(), 0)];
        loop {
            if done == self.acknowledged {
                return Verdict::Linearizable;
            }
            let Some(frame) = frames.last_mut() else { return Verdict::Impossible };
            let Some(&op) = frame.candidates.get(frame.next) else {
                // Nothing fits here: take back what led here.
                frames.pop();
                if let Some(parent) = frames.last() {
                    let op = parent.candidates[parent.next - 1];
                    self.placed[op] = false;
                    set ^= self.names[op];
                    done -= usize::from(op < self.acknowledged);
                }
                continue;
            };
            frame.next += 1;
            steps += 1;
            if steps > steps_max {
                return Verdict::Undecided;
            }
            let Some(state) = step(frame.state, self.ops[op].touch) else { continue };
            if !seen.insert((set ^ self.names[op], state)) {
                continue;
            }
            let low = frame.low;
            self.placed[op] = true;
            set ^= self.names[op];
            done += usize::from(op < self.acknowledged);
            let frame = self.frame(state, low);
            if done > self.deepest {
                self.deepest = done;
                self.stuck = (state, frame.candidates.clone());
            }
            frames.push(frame);
        }
    }

    /// What may come next: whatever began before the first end of all that is not placed yet.
    fn frame(&self, state: State, mut low: usize) -> Frame {
        while low < self.acknowledged && self.placed[low] {
            low += 1;
        }
        let mut first_end = OPEN;
        let mut candidates = Vec::new();
        for op in low..self.acknowledged {
            if self.ops[op].span.begun > first_end {
                break;
            }
            if !self.placed[op] {
                first_end = first_end.min(self.ops[op].span.ended);
                candidates.push(op);
            }
        }
        candidates.retain(|op| self.ops[*op].span.begun <= first_end);
        // What may never have happened comes last: in sound histories the rest nearly always suffices.
        let unclear = (self.acknowledged..self.ops.len())
            .filter(|op| !self.placed[*op] && self.ops[*op].span.begun <= first_end);
        candidates.extend(unclear);
        Frame { candidates, next: 0, state, low }
    }

    fn blocking(&self) -> String {
        let (state, candidates) = &self.stuck;
        let shown = candidates.iter().take(8).map(|op| {
            let RegisterEvent { client, node, span: Span { begun, ended }, touch, .. } = self.ops[*op];
            let end = if *ended == OPEN { "never".into() } else { format!("{:.3}", *ended as f64 / 1e9) };
            format!("client {client} on node {node} [{:.3} s, {end}] {touch:?}", *begun as f64 / 1e9)
        });
        format!("{} after {state:?}", shown.collect::<Vec<_>>().join("; "))
    }
}

/// A read that was not answered says nothing.
fn unclear_and_harmless(event: &RegisterEvent) -> bool {
    event.span.ended == OPEN && matches!(event.touch, Touch::Read(_) | Touch::NotSwapped { .. })
}

/// The state after an operation, if it can be answered so in this one.
fn step(state: State, touch: Touch) -> Option<State> {
    let written = |value| State { version: state.version + 1, value };
    match touch {
        Touch::Read(found) => (found == state).then_some(state),
        Touch::Write { value, before } => before.is_none_or(|before| before == state).then(|| written(value)),
        Touch::Swap { version, value } => (version == state.version).then(|| written(value)),
        Touch::NotSwapped { version, found } => {
            (found == state.version && version != state.version).then_some(state)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(begun: u64, ended: u64, touch: Touch) -> RegisterEvent {
        RegisterEvent { register: 0, client: 0, node: 1, span: Span { begun, ended }, touch }
    }
    fn write(begun: u64, ended: u64, value: u64) -> RegisterEvent {
        event(begun, ended, Touch::Write { value, before: None })
    }
    fn read(begun: u64, ended: u64, version: u64, value: u64) -> RegisterEvent {
        event(begun, ended, Touch::Read(State { version, value }))
    }
    fn swap(begun: u64, ended: u64, version: u64, value: u64) -> RegisterEvent {
        event(begun, ended, Touch::Swap { version, value })
    }
    #[track_caller]
    fn sound(events: &[RegisterEvent]) {
        assert_eq!(check(events), []);
    }
    #[track_caller]
    fn impossible(events: &[RegisterEvent]) {
        let found = check(events);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].kind, "not linearizable");
    }

    #[test]
    fn concurrent_operations_may_take_any_order_that_explains_them() {
        sound(&[write(0, 10, 1), read(2, 4, 0, 0), read(5, 6, 1, 1)]);
        sound(&[write(0, 10, 1), write(0, 10, 2), read(11, 12, 2, 1)]);
        sound(&[write(0, 10, 1), write(0, 10, 2), read(11, 12, 2, 2)]);
    }

    #[test]
    fn a_stale_read_is_found() {
        impossible(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, 1, 1)]);
        impossible(&[write(0, 10, 1), read(2, 4, 1, 1), read(5, 6, 0, 0)]);
    }

    #[test]
    fn a_lost_write_is_found() {
        impossible(&[write(0, 1, 1), read(2, 3, 0, 0)]);
        // The second writer overwrote what the first wrote, yet only one write is counted.
        impossible(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, 1, 2)]);
    }

    #[test]
    fn a_write_that_happened_twice_is_found() {
        impossible(&[write(0, 1, 1), read(2, 3, 2, 1)]);
    }

    #[test]
    fn a_value_that_nobody_wrote_is_found() {
        impossible(&[write(0, 1, 1), read(2, 3, 1, 9)]);
    }

    #[test]
    fn two_swaps_of_one_version_are_found() {
        impossible(&[write(0, 1, 1), swap(2, 9, 1, 2), swap(3, 8, 1, 3)]);
        let refused = event(3, 8, Touch::NotSwapped { version: 1, found: 2 });
        sound(&[write(0, 1, 1), swap(2, 9, 1, 2), refused]);
        let wrongly = event(4, 8, Touch::NotSwapped { version: 2, found: 2 });
        impossible(&[write(0, 1, 1), swap(2, 3, 1, 2), wrongly]);
    }

    #[test]
    fn an_unclear_write_may_happen_late_or_never_but_not_twice_and_not_early() {
        sound(&[write(0, OPEN, 1), read(5, 6, 0, 0)]);
        sound(&[write(0, OPEN, 1), read(5, 6, 0, 0), read(7, 8, 1, 1)]);
        impossible(&[write(0, OPEN, 1), read(5, 6, 1, 1), read(7, 8, 0, 0)]);
        impossible(&[write(3, OPEN, 1), read(1, 2, 1, 1)]);
        impossible(&[write(0, OPEN, 1), write(2, 3, 2), read(4, 5, 3, 1)]);
    }

    #[test]
    fn what_a_write_says_it_overwrote_binds() {
        let told = |begun, ended, value, version, before| {
            event(begun, ended, Touch::Write { value, before: Some(State { version, value: before }) })
        };
        sound(&[write(0, 10, 1), told(0, 10, 2, 1, 1)]);
        impossible(&[write(0, 1, 1), told(2, 3, 2, 0, 0)]);
    }

    #[test]
    fn registers_are_judged_alone_and_named() {
        let mut other = read(0, 1, 5, 5);
        other.register = 7;
        let found = check(&[write(0, 1, 1), other]);
        assert!(found[0].what.starts_with("register 7:"), "{found:?}");
    }

    /// A register served in one order by a machine that takes its time, with some answers lost.
    fn served(seed: u64, count: usize, lost_percent: u64) -> Vec<RegisterEvent> {
        let mut random = Random::new(seed);
        let mut state = State::default();
        let mut events = Vec::new();
        for number in 0..count as u64 {
            let now = number * 10;
            let (begun, ended) = (now.saturating_sub(random.below(60)), now + 1 + random.below(60));
            let touch = match random.below(3) {
                0 => Touch::Read(state),
                1 => Touch::Write { value: number + 1, before: random.percent(50).then_some(state) },
                _ if random.percent(30) => {
                    Touch::NotSwapped { version: state.version + 1, found: state.version }
                }
                _ => Touch::Swap { version: state.version, value: number + 1 },
            };
            state = step(state, touch).unwrap();
            let lost = random.percent(lost_percent);
            let touch = match touch {
                Touch::Write { value, .. } if lost => Touch::Write { value, before: None },
                other => other,
            };
            events.push(event(begun, if lost { OPEN } else { ended }, touch));
        }
        events
    }

    #[test]
    fn what_one_order_made_is_linearizable_even_with_lost_answers() {
        for seed in 0..200 {
            sound(&served(seed, 300, if seed % 2 == 0 { 0 } else { 3 }));
        }
    }

    #[test]
    fn one_read_moved_to_an_older_state_is_found_in_a_long_history() {
        let mut found = 0;
        for seed in 0..50 {
            let mut events = served(seed, 400, 1);
            let reads: Vec<usize> = (200..400)
                .filter(|at| matches!(events[*at].touch, Touch::Read(_)) && events[*at].span.ended != OPEN)
                .collect();
            let at = reads[seed as usize % reads.len()];
            // Forty operations ago is beyond every overlap.
            let old = (0..at - 40).rev().find_map(|at| match events[at].touch {
                Touch::Read(state) => Some(state),
                _ => None,
            });
            let Touch::Read(now) = events[at].touch else { continue };
            if old == Some(now) {
                continue;
            }
            events[at].touch = Touch::Read(old.unwrap());
            impossible(&events);
            found += 1;
        }
        assert!(found > 40, "{found}");
    }
}
