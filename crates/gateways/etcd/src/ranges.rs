//! Ranges of names, and which of them hold a name: an interval tree.
//!
//! A treap in the order of starts, in which each node knows the furthest end below it, so that a look passes by whatever ends before the name. Ten
//! thousand watches of ranges cost a change a dozen comparisons and those that it concerns.
//!
//! Invariant: a node's `furthest` is the furthest end of itself and all below it.
//! Invariant: weights grow towards the root, and nobody outside chooses them: no order of insertions makes it deep.
//! Called by: `watch`, the hub.
//! Source: Seidel & Aragon, "Randomized search trees", 1996; Cormen et al., "Introduction to Algorithms", §14.3 (interval trees).

use quorate_types::{Blob, KeyRange};

/// See the module's documentation. A value is known by its range and a number of its own.
pub(crate) struct Ranges<N, T> {
    root: Tree<N, T>,
    inserted: u64,
}

type Tree<N, T> = Option<Box<Node<N, T>>>;

struct Node<N, T> {
    start: Blob,
    number: N,
    end: End,
    furthest: End,
    weight: u64,
    value: T,
    left: Tree<N, T>,
    right: Tree<N, T>,
}

/// Where a range ends; one without a bound ends after all names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Blob),
    Open,
}

impl End {
    fn is_after(&self, name: &Blob) -> bool {
        match self {
            Self::Before(end) => name < end,
            Self::Open => true,
        }
    }
}

impl<N, T> Default for Ranges<N, T> {
    fn default() -> Self {
        Self { root: None, inserted: 0 }
    }
}

impl<N: Ord + Copy, T> Ranges<N, T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Adds a value of a range of its keyspace; its number is no other's of the same start.
    pub(crate) fn insert(&mut self, range: &KeyRange, number: N, value: T) {
        let end = range.end.clone().map_or(End::Open, End::Before);
        self.inserted += 1;
        let node = Box::new(Node {
            start: range.start.name.clone(),
            number,
            furthest: end.clone(),
            end,
            weight: weight(self.inserted),
            value,
            left: None,
            right: None,
        });
        let (before, after) = split(self.root.take(), (&node.start, number));
        self.root = merge(merge(before, Some(node)), after);
    }

    /// Takes out the value of a range and a number, if it is there.
    pub(crate) fn remove(&mut self, range: &KeyRange, number: N) -> Option<T> {
        remove(&mut self.root, (&range.start.name, number))
    }

    /// Tells of every value whose range holds the name, in the order of the starts.
    pub(crate) fn holding<'a>(&'a self, name: &Blob, tell: &mut impl FnMut(&'a T)) {
        visit(&self.root, name, tell);
    }

    /// Every value, in the order of the starts; nothing is left.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let mut values = Vec::new();
        let mut waiting = Vec::new();
        let mut next = self.root.take();
        loop {
            while let Some(mut node) = next {
                next = node.left.take();
                waiting.push(node);
            }
            let Some(node) = waiting.pop() else { return values };
            next = node.right;
            values.push(node.value);
        }
    }
}

/// SplitMix64: Steele, Lea & Flood, OOPSLA 2014.
fn weight(number: u64) -> u64 {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl<N: Ord + Copy, T> Node<N, T> {
    fn place(&self) -> (&Blob, N) {
        (&self.start, self.number)
    }

    /// Makes `furthest` true again after a change right below.
    fn look(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.furthest);
        self.furthest = below.chain([&self.end]).max().cloned().unwrap_or(End::Open);
    }
}

/// What comes before a place, and what at it or after.
fn split<N: Ord + Copy, T>(tree: Tree<N, T>, at: (&Blob, N)) -> (Tree<N, T>, Tree<N, T>) {
    let Some(mut node) = tree else { return (None, None) };
    if node.place() < at {
        let (before, after) = split(node.right.take(), at);
        node.right = before;
        node.look();
        (Some(node), after)
    } else {
        let (before, after) = split(node.left.take(), at);
        node.left = after;
        node.look();
        (before, Some(node))
    }
}

/// One tree of two, of which all of the first comes before the second.
fn merge<N: Ord + Copy, T>(first: Tree<N, T>, second: Tree<N, T>) -> Tree<N, T> {
    let (mut first, mut second) = match (first, second) {
        (Some(first), Some(second)) => (first, second),
        (one, other) => return one.or(other),
    };
    if first.weight >= second.weight {
        first.right = merge(first.right.take(), Some(second));
        first.look();
        Some(first)
    } else {
        second.left = merge(Some(first), second.left.take());
        second.look();
        Some(second)
    }
}

fn remove<N: Ord + Copy, T>(tree: &mut Tree<N, T>, at: (&Blob, N)) -> Option<T> {
    let node = tree.as_mut()?;
    if node.place() == at {
        let node = *tree.take()?;
        *tree = merge(node.left, node.right);
        return Some(node.value);
    }
    let below = if at < node.place() { &mut node.left } else { &mut node.right };
    let found = remove(below, at);
    node.look();
    found
}

fn visit<'a, N, T>(tree: &'a Tree<N, T>, name: &Blob, tell: &mut impl FnMut(&'a T)) {
    let Some(node) = tree.as_ref().filter(|node| node.furthest.is_after(name)) else { return };
    visit(&node.left, name, tell);
    if node.start <= *name {
        if node.end.is_after(name) {
            tell(&node.value);
        }
        visit(&node.right, name, tell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Key, Keyspace};

    fn range(start: u64, end: Option<u64>) -> KeyRange {
        let name = |at: u64| Blob::copy_from(&[at as u8]);
        KeyRange { start: Key { space: Keyspace::DEFAULT, name: name(start) }, end: end.map(name) }
    }

    /// Checks both invariants; how deep it is.
    fn check<N, T>(tree: &Tree<N, T>) -> usize {
        let Some(node) = tree else { return 0 };
        let below = [&node.left, &node.right];
        assert!(below.into_iter().flatten().all(|other| other.weight <= node.weight));
        let furthest = below.into_iter().flatten().map(|other| &other.furthest).chain([&node.end]).max();
        assert!(furthest == Some(&node.furthest));
        1 + below.into_iter().map(check).max().unwrap_or(0)
    }

    #[test]
    fn a_name_is_held_by_the_ranges_that_a_look_at_each_would_find() {
        let mut number = 0;
        let mut random = |below: u64| {
            number += 1;
            weight(number) % below
        };
        for _ in 0..100 {
            let (mut ranges, mut each) = (Ranges::default(), Vec::new());
            for step in 0..200 {
                if random(3) > 0 || each.is_empty() {
                    let end = (random(4) > 0).then(|| random(40));
                    let one = range(random(40), end);
                    ranges.insert(&one, step, step);
                    each.push((one, step));
                } else {
                    let (one, step) = each.swap_remove(random(each.len() as u64) as usize);
                    assert_eq!(ranges.remove(&one, step), Some(step));
                    assert_eq!(ranges.remove(&one, step), None);
                }
                check(&ranges.root);
                let name = range(random(40), None).start;
                let (mut found, mut wanted) = (Vec::new(), Vec::new());
                ranges.holding(&name.name, &mut |step| found.push(*step));
                wanted.extend(each.iter().filter(|(one, _)| one.contains(&name)).map(|(_, step)| *step));
                found.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(found, wanted);
            }
            let mut left = ranges.drain();
            left.sort_unstable();
            each.sort_by_key(|(_, step)| *step);
            assert_eq!(left, each.iter().map(|(_, step)| *step).collect::<Vec<_>>());
            assert!(ranges.is_empty());
        }
    }

    #[test]
    fn names_in_order_make_it_no_deeper_than_names_in_none() {
        let mut ranges = Ranges::default();
        for number in 0..10_000u64 {
            let name = |number: u64| Blob::copy_from(&number.to_be_bytes());
            let start = Key { space: Keyspace::DEFAULT, name: name(number) };
            ranges.insert(&KeyRange { start, end: Some(name(number + 1)) }, 0, number);
        }
        // Some 32 are expected of 10,000.
        assert!(check(&ranges.root) < 64, "{}", check(&ranges.root));
    }
}
