//! Who is to have which partitions: the two assignors, as functions of who wants what and who was to have what.
//!
//! Invariant: the same input gives the same answer on every replica; nothing here depends on anything but its arguments.
//! Invariant: every partition that somebody wants is given to one who wants it, and to nobody else.
//! Called by: `decide`. Source: KIP-848, "Server Side Assignors".

use super::{Part, Parts};
use crate::streams::StreamId;
use quorate_types::Blob;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds in which partitions are moved between members who want different streams. In one round all classes are balanced, each for itself; what
/// the last of them has moved may be too much for the first again. Two or three do for groups that people have; a hundred bound the work.
const ROUNDS: usize = 100;

/// A member, as far as dividing goes.
pub(super) struct Seat<'a> {
    /// What the order of members goes by.
    pub(super) rank: &'a Blob,
    /// Which of the sets of streams it wants.
    pub(super) set: usize,
    /// What it was to have.
    pub(super) before: &'a Parts,
}

/// A set of streams that somebody wants, each with its partitions, in order.
pub(super) type Set = Vec<(StreamId, u32)>;

/// Every stream is divided into runs of neighbours, one for each of those who want it, in the order of their ranks; the first have one more where
/// it does not come out even. So streams with as many partitions and the same readers are divided alike.
pub(super) fn range(seats: &[Seat<'_>], sets: &[Set]) -> Vec<Parts> {
    let mut order: Vec<usize> = (0..seats.len()).collect();
    order.sort_unstable_by_key(|seat| seats[*seat].rank);
    let mut topics: BTreeMap<StreamId, (u32, Vec<usize>)> = BTreeMap::new();
    for seat in order {
        for (stream, count) in &sets[seats[seat].set] {
            topics.entry(*stream).or_insert_with(|| (*count, Vec::new())).1.push(seat);
        }
    }
    let mut given = vec![Parts::new(); seats.len()];
    for (stream, (count, readers)) in topics {
        let (each, more) = (count / readers.len() as u32, count as usize % readers.len());
        let mut next = 0;
        for (place, seat) in readers.into_iter().enumerate() {
            let end = next + each + u32::from(place < more);
            given[seat].extend((next..end).map(|partition| Part { stream, partition }));
            next = end;
        }
    }
    given
}

/// Everybody keeps what it was to have; what is left goes to those who have least; then whoever has more than one too many gives to who has
/// least, of what both want. So nothing moves but what has to.
pub(super) fn uniform(seats: &[Seat<'_>], sets: &[Set]) -> Vec<Parts> {
    let mut division = Division::new(seats, sets);
    let mut free = division.keep(seats);
    // Those first for whom fewest can take them.
    let mut order: Vec<usize> = (0..division.classes.len()).collect();
    order.sort_by_key(|class| division.classes[*class].len());
    for class in &order {
        division.hand_out(*class, std::mem::take(&mut free[*class]));
    }
    for _ in 0..ROUNDS {
        let moved = order.iter().fold(0, |moved, class| moved + division.balance(*class));
        // A class is balanced for good while no other moves anything.
        if moved == 0 || order.len() == 1 {
            break;
        }
    }
    division.given()
}

/// Who has what, while it is worked out. Streams that the same members want are of one class: they are handed around together.
struct Division {
    /// The seats of each class.
    classes: Vec<Vec<usize>>,
    /// Streams with their class and their partitions.
    streams: BTreeMap<StreamId, (usize, u32)>,
    /// By seat, then by class.
    held: Vec<BTreeMap<usize, Vec<Part>>>,
    /// By seat.
    load: Vec<usize>,
}

impl Division {
    fn new(seats: &[Seat<'_>], sets: &[Set]) -> Self {
        let mut wanted: BTreeMap<StreamId, (u32, Vec<usize>)> = BTreeMap::new();
        for (set, streams) in sets.iter().enumerate() {
            for (stream, count) in streams {
                wanted.entry(*stream).or_insert_with(|| (*count, Vec::new())).1.push(set);
            }
        }
        let mut numbers: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut classes = Vec::new();
        let mut streams = BTreeMap::new();
        for (stream, (count, of)) in wanted {
            let class = *numbers.entry(of).or_insert_with_key(|of| {
                let wants = |seat: &usize| of.binary_search(&seats[*seat].set).is_ok();
                classes.push((0..seats.len()).filter(wants).collect());
                classes.len() - 1
            });
            streams.insert(stream, (class, count));
        }
        let held = vec![BTreeMap::new(); seats.len()];
        Self { classes, streams, held, load: vec![0; seats.len()] }
    }

    fn give(&mut self, seat: usize, class: usize, part: Part) {
        self.held[seat].entry(class).or_default().push(part);
        self.load[seat] += 1;
    }

    /// Gives everybody what it had and may keep; what is left, by class.
    fn keep(&mut self, seats: &[Seat<'_>]) -> Vec<Vec<Part>> {
        let empty = |(_, count): &(usize, u32)| vec![false; *count as usize];
        let mut taken: BTreeMap<StreamId, Vec<bool>> =
            self.streams.iter().map(|(stream, of)| (*stream, empty(of))).collect();
        for (number, seat) in seats.iter().enumerate() {
            for part in seat.before {
                let Some((class, _)) = self.streams.get(&part.stream).copied() else { continue };
                let is_taken =
                    taken.get_mut(&part.stream).and_then(|all| all.get_mut(part.partition as usize));
                if let Some(is_taken) = is_taken.filter(|taken| !**taken)
                    && self.classes[class].binary_search(&number).is_ok()
                {
                    *is_taken = true;
                    self.give(number, class, *part);
                }
            }
        }
        let mut free = vec![Vec::new(); self.classes.len()];
        for (stream, taken) in taken {
            let left = (0..).zip(taken).filter(|(_, taken)| !taken);
            let class = self.streams[&stream].0;
            free[class].extend(left.map(|(partition, _)| Part { stream, partition }));
        }
        free
    }

    fn by_load(&self, seats: impl Iterator<Item = usize>) -> BTreeSet<(usize, usize)> {
        seats.map(|seat| (self.load[seat], seat)).collect()
    }

    fn hand_out(&mut self, class: usize, parts: Vec<Part>) {
        let mut least = self.by_load(self.classes[class].iter().copied());
        for part in parts {
            let Some((load, seat)) = least.pop_first() else { return };
            self.give(seat, class, part);
            least.insert((load + 1, seat));
        }
    }

    /// Moves partitions of a class from those who have most to those who have least; how many.
    fn balance(&mut self, class: usize) -> usize {
        let mut least = self.by_load(self.classes[class].iter().copied());
        let holds = |seat: &usize| self.held[*seat].get(&class).is_some_and(|parts| !parts.is_empty());
        let mut most = self.by_load(self.classes[class].iter().copied().filter(holds));
        let mut moved = 0;
        while let (Some((load, from)), Some((little, to))) = (most.last().copied(), least.first().copied()) {
            if load < little + 2 {
                break;
            }
            let parts = self.held[from].get_mut(&class).expect("who is among those who have most has some");
            let part = parts.pop().expect("and is taken out with its last");
            let is_last = parts.is_empty();
            self.load[from] -= 1;
            self.give(to, class, part);
            for set in [&mut least, &mut most] {
                set.remove(&(load, from));
                set.remove(&(little, to));
            }
            least.extend([(load - 1, from), (little + 1, to)]);
            most.insert((little + 1, to));
            if !is_last {
                most.insert((load - 1, from));
            }
            moved += 1;
        }
        moved
    }

    fn given(self) -> Vec<Parts> {
        let of = |held: BTreeMap<usize, Vec<Part>>| {
            let mut all: Parts = held.into_values().flatten().collect();
            all.sort_unstable();
            all
        };
        self.held.into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<Blob> {
        (0..count).map(|number| Blob::from(format!("m-{number:03}"))).collect()
    }

    /// What must hold of any division: all that is wanted is given once, to one who wants it.
    fn check(seats: &[Seat<'_>], sets: &[Set], given: &[Parts]) {
        let mut seen = BTreeSet::new();
        for (seat, parts) in seats.iter().zip(given) {
            assert!(parts.is_sorted());
            for part in parts {
                let of = sets[seat.set].iter().find(|(stream, _)| *stream == part.stream);
                assert!(of.is_some_and(|(_, count)| part.partition < *count), "{part:?} is wanted");
                assert!(seen.insert(*part), "{part:?} is given once");
            }
        }
        let wanted: BTreeSet<(StreamId, u32)> =
            seats.iter().flat_map(|seat| sets[seat.set].iter().copied()).collect();
        assert_eq!(seen.len(), wanted.iter().map(|(_, count)| *count as usize).sum::<usize>());
    }

    /// Nobody could take one from somebody and both be nearer to each other by it.
    fn is_balanced(seats: &[Seat<'_>], sets: &[Set], given: &[Parts]) -> bool {
        let wants =
            |seat: &Seat<'_>, part: &Part| sets[seat.set].iter().any(|(stream, _)| *stream == part.stream);
        let takes = |from: &Parts, to: &Parts, seat: &Seat<'_>| {
            from.len() >= to.len() + 2 && from.iter().any(|part| wants(seat, part))
        };
        !given.iter().any(|from| given.iter().zip(seats).any(|(to, seat)| takes(from, to, seat)))
    }

    fn sets() -> impl Strategy<Value = Vec<Set>> {
        let counts = proptest::collection::vec(0u32..9, 6);
        (counts, proptest::collection::vec(proptest::collection::btree_set(0usize..6, 0..6), 1..4)).prop_map(
            |(counts, sets)| {
                let one = |set: BTreeSet<usize>| {
                    set.into_iter().map(|at| (StreamId(at as u64), counts[at])).collect::<Set>()
                };
                sets.into_iter().map(one).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn all_is_given_once_and_nobody_has_much_more(sets in sets(), wants in proptest::collection::vec(0usize..4, 1..8)) {
            let (names, none) = (names(wants.len()), Parts::new());
            let seat = |(rank, set): (_, &usize)| Seat { rank, set: set % sets.len(), before: &none };
            let seats: Vec<Seat<'_>> = names.iter().zip(&wants).map(seat).collect();
            check(&seats, &sets, &range(&seats, &sets));
            let given = uniform(&seats, &sets);
            check(&seats, &sets, &given);
            prop_assert!(is_balanced(&seats, &sets, &given));
        }

        #[test]
        fn only_what_has_to_move_does(count in 0u32..40, members in 1usize..8, leaves in 0usize..8) {
            let (names, none) = (names(members + 1), Parts::new());
            let sets = vec![vec![(StreamId(1), count), (StreamId(2), 3)]];
            let seats = |before: &[Parts]| -> usize { before.len() };
            let first: Vec<Seat<'_>> = names[..members].iter().map(|rank| Seat { rank, set: 0, before: &none }).collect();
            let given = uniform(&first, &sets);
            prop_assert_eq!(seats(&given), members);
            let most = given.iter().map(Vec::len).max().unwrap_or_default();
            let least = given.iter().map(Vec::len).min().unwrap_or_default();
            prop_assert!(most - least <= 1);
            // One comes: it takes its share, and nobody else's changes but by that.
            let mut before = given.clone();
            before.push(Parts::new());
            let second: Vec<Seat<'_>> =
                names.iter().zip(&before).map(|(rank, before)| Seat { rank, set: 0, before }).collect();
            let with = uniform(&second, &sets);
            check(&second, &sets, &with);
            prop_assert_eq!(with[members].len(), (count as usize + 3) / (members + 1));
            for (had, has) in given.iter().zip(&with) {
                prop_assert!(has.iter().all(|part| had.contains(part)), "who was there is given nothing new");
            }
            // One goes: the others keep all they had.
            let gone = leaves % members;
            if members > 1 {
                let left: Vec<usize> = (0..members).filter(|seat| *seat != gone).collect();
                let third: Vec<Seat<'_>> =
                    left.iter().map(|seat| Seat { rank: &names[*seat], set: 0, before: &given[*seat] }).collect();
                let without = uniform(&third, &sets);
                check(&third, &sets, &without);
                for (seat, has) in left.iter().zip(&without) {
                    prop_assert!(given[*seat].iter().all(|part| has.contains(part)), "nobody gives anything up");
                }
            }
        }
    }

    #[test]
    fn runs_of_neighbours_are_the_same_in_streams_of_one_size() {
        let (names, none) = (names(2), Parts::new());
        let sets = vec![vec![(StreamId(1), 3), (StreamId(2), 3)]];
        let seats: Vec<Seat<'_>> = names.iter().map(|rank| Seat { rank, set: 0, before: &none }).collect();
        let numbers =
            |parts: &Parts| parts.iter().map(|part| (part.stream.0, part.partition)).collect::<Vec<_>>();
        let given = range(&seats, &sets);
        assert_eq!(numbers(&given[0]), [(1, 0), (1, 1), (2, 0), (2, 1)]);
        assert_eq!(numbers(&given[1]), [(1, 2), (2, 2)]);
    }

    #[test]
    fn a_large_group_is_divided_in_bounded_time() {
        let (names, none) = (names(1000), Parts::new());
        let all: Vec<Set> =
            (0..10).map(|set| (set * 50..set * 50 + 500).map(|at| (StreamId(at), 20)).collect()).collect();
        let seats: Vec<Seat<'_>> = names
            .iter()
            .enumerate()
            .map(|(at, rank)| Seat { rank, set: at % all.len(), before: &none })
            .collect();
        let given = uniform(&seats, &all);
        check(&seats, &all, &given);
        assert!(is_balanced(&seats, &all, &given));
    }
}
