//! Sorted sets: members with scores, in order of score, then of the member's bytes.
//!
//! A small one is packed in its order, scores as short as they are. A large one is a tree in that order, and an index from a member to its score: with the score, the tree
//! finds the member's rank. The index lies in an order of its own, by a hash that is the same everywhere: a scan follows it, since a member's
//! place there does not change with its score. That is why the index names the member too (a short name takes no more than its own few words, a
//! long one is shared).
//!
//! Invariant: a member's place in the order of [`Sorted::scan`] is a function of its bytes alone.
//! Invariant: what shows is the same whether the set is packed or large.
//! Called by: `collections::value`, and handlers that build a sorted set whole.

use super::index::{Entry, Index, SEGMENT, Spot, hash_of};
use super::packed::{self, Either, Packed};
use super::shape::{Grown, Shape};
use super::tree::{Leaf, Tree};
use quorate_types::{Blob, Score};
use std::cmp::Ordering;

/// Members with scores.
#[derive(Clone)]
pub struct Sorted(Shape<Large>);

#[derive(Clone, Default)]
struct Large {
    tree: Tree<Members>,
    index: Index<Scored>,
    /// Bytes that all would take packed.
    raw: u64,
    heap: u64,
}

#[derive(Clone)]
struct Scored {
    member: Blob,
    score: Score,
    spot: Spot,
}

impl Entry for Scored {
    fn spot(&self) -> Spot {
        self.spot
    }
}

/// Where a member is in the index. Whoever chooses members whose places are alike makes steps of scans long, and nothing else: a segment is found
/// by the seeded hash within.
fn spot_of(member: &[u8]) -> Spot {
    Spot { segment: xxhash_rust::xxh3::xxh3_64(member) as u32, hash: hash_of(member) }
}

const _: () = assert!(size_of::<Sorted>() == 16);
const _: () = assert!(size_of::<Scored>() == 40);

impl Sorted {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Shape::new())
    }

    /// How many members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.items()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, nearly: a function of the members and scores alone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// The score of a member.
    #[must_use]
    pub fn score(&self, member: &[u8]) -> Option<Score> {
        match &self.0 {
            Shape::Small(_) => self.find(member).map(|(_, score)| score),
            Shape::Large(large) => large.score(member),
        }
    }

    /// How many members come before this one.
    #[must_use]
    pub fn rank(&self, member: &[u8]) -> Option<u64> {
        self.find(member).map(|(rank, _)| rank)
    }

    /// The member of a rank.
    #[must_use]
    pub fn at(&self, rank: u64) -> Option<(Blob, Score)> {
        match &self.0 {
            Shape::Small(packed) => packed.get(usize::try_from(rank).ok()?).map(owned),
            Shape::Large(large) => large.tree.get(rank).map(|(score, member)| (member, score)),
        }
    }

    /// Members from rank `from` to before rank `to`; what is beyond the end is left out.
    pub fn range(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = (Blob, Score)> + '_ {
        let to = to.min(self.len());
        let from = from.min(to);
        match &self.0 {
            Shape::Small(packed) => Either::Small(packed.range(from as usize, to as usize).map(owned)),
            Shape::Large(large) => {
                Either::Large(large.tree.range(from, to).map(|(score, member)| (member, score)))
            }
        }
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Blob, Score)> + '_ {
        self.range(0, self.len())
    }

    /// The next `count` members or a few more, in an order that does not change with their scores, from a number of [`Sorted::scan`] on, 0 at first; and the
    /// number to go on at, 0 at the end. Members that are there all the while are seen once.
    #[must_use]
    pub fn scan(&self, from: u64, count: u64) -> (Vec<(Blob, Score)>, u64) {
        let Shape::Large(large) = &self.0 else { return (self.iter().collect(), 0) };
        let Ok(from) = u32::try_from(from) else { return (Vec::new(), 0) };
        let (mut found, next) = large.index.walk(from, usize::try_from(count).unwrap_or(usize::MAX));
        // Of one number they come in the order of a seeded table.
        found.sort_unstable_by(|a, b| {
            let place = |entry: &Scored| entry.spot.segment.reverse_bits();
            (place(a), &a.member[..]).cmp(&(place(b), &b.member[..]))
        });
        let members = found.into_iter().map(|entry| (entry.member.clone(), entry.score)).collect();
        (members, next.map_or(0, u64::from))
    }

    /// How many members have a lower score; when `inclusive`, a lower one or this.
    #[must_use]
    pub fn rank_by_score(&self, score: Score, inclusive: bool) -> u64 {
        self.passing_near(score, |of, _| of < score || inclusive && of == score)
    }

    /// How many members have lower bytes; when `inclusive`, lower ones or these. Meaningful when all scores are equal.
    #[must_use]
    pub fn rank_by_lex(&self, member: &[u8], inclusive: bool) -> u64 {
        self.passing(|_, of| of < member || inclusive && of == member)
    }

    /// Adds a member or moves it; its score before.
    pub fn insert(&mut self, member: Blob, score: Score) -> Option<Score> {
        let found = self.find(&member);
        if let Some((rank, before)) = found {
            if before == score {
                return Some(before);
            }
            self.take(rank, &member);
        }
        let rank = self.passing_near(score, |of, name| (of, name) < (score, &member[..]));
        match self.0.room(1, size(score, &member)) {
            Shape::Small(packed) => packed.splice(rank as usize, 0, &[&[Head::of(score).bytes(), &member]]),
            Shape::Large(large) => large.insert(rank, member, score),
        }
        found.map(|(_, before)| before)
    }

    /// Removes a member; its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<Score> {
        let (rank, score) = self.find(member)?;
        self.take(rank, member);
        self.0.shrink();
        Some(score)
    }

    /// The elements as they are; cheap, and not to be changed.
    pub(super) fn pin(&self) -> Self {
        Self(self.0.pin())
    }

    /// Frees up to about `max` elements; whether none is left.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        self.0.drop_some(max)
    }

    /// Rank and score of a member.
    fn find(&self, member: &[u8]) -> Option<(u64, Score)> {
        match &self.0 {
            Shape::Small(packed) => {
                let found = |(_, item): &(usize, &[u8])| split(item).1 == member;
                let (rank, item) = packed.iter().enumerate().find(found)?;
                Some((rank as u64, parts(item).0))
            }
            Shape::Large(large) => large.find(member),
        }
    }

    /// How many members at the start pass; those come before all others.
    fn passing(&self, passes: impl Fn(Score, &[u8]) -> bool) -> u64 {
        match &self.0 {
            Shape::Small(packed) => packed
                .iter()
                .take_while(|item| {
                    let (score, member) = parts(item);
                    passes(score, member)
                })
                .count() as u64,
            Shape::Large(large) => large.tree.passing(|(score, member)| passes(*score, member)),
        }
    }

    /// The same, where members of a lower score pass and those of a higher one do not.
    fn passing_near(&self, score: Score, passes: impl Fn(Score, &[u8]) -> bool) -> u64 {
        match &self.0 {
            Shape::Small(_) => self.passing(passes),
            Shape::Large(large) => {
                large.tree.passing_near(rough(score), |(score, member)| passes(*score, member))
            }
        }
    }

    /// Removes the member of a rank.
    fn take(&mut self, rank: u64, member: &[u8]) {
        match &mut self.0 {
            Shape::Small(packed) => packed.splice(rank as usize, 1, &[]),
            Shape::Large(large) => large.remove(rank, member),
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        if let Shape::Large(large) = &self.0 {
            large.tree.check();
            assert_eq!(large.raw, self.iter().map(|(m, of)| size(of, &m) as u64).sum::<u64>());
            assert_eq!(large.heap, self.iter().map(|(m, _)| packed::heap(&m)).sum::<u64>());
            for (rank, (member, score)) in self.iter().enumerate() {
                assert_eq!(self.find(&member), Some((rank as u64, score)));
            }
            let scanned: std::collections::BTreeMap<Blob, Score> =
                self.scan(0, u64::MAX).0.into_iter().collect();
            assert_eq!(scanned, self.iter().collect());
        }
    }
}

impl Large {
    fn score(&self, member: &[u8]) -> Option<Score> {
        self.index.find(spot_of(member), |entry| entry.member[..] == *member).map(|entry| entry.score)
    }

    fn find(&self, member: &[u8]) -> Option<(u64, Score)> {
        let score = self.score(member)?;
        let order = |(of, name): &(Score, Blob)| of.cmp(&score).then_with(|| name[..].cmp(member));
        let rank = self.tree.find(rough(score), order).expect("the index names what is in the tree");
        Some((rank, score))
    }

    fn insert(&mut self, rank: u64, member: Blob, score: Score) {
        self.raw += size(score, &member) as u64;
        self.heap += packed::heap(&member);
        self.index.insert(Scored { member: member.clone(), score, spot: spot_of(&member) });
        self.tree.insert(rank, (score, member));
    }

    fn remove(&mut self, rank: u64, member: &[u8]) {
        let known = self.index.remove(spot_of(member), |entry| entry.member[..] == *member);
        assert!(known, "every member is in the index");
        let (score, member) = self.tree.remove(rank);
        self.raw -= size(score, &member) as u64;
        self.heap -= packed::heap(&member);
    }
}

impl Grown for Large {
    fn items(&self) -> u64 {
        self.tree.len()
    }
    fn raw(&self) -> u64 {
        self.raw
    }
    /// 32 bytes in a leaf and 41 in the index, both at about two thirds of their room.
    fn bytes(&self) -> u64 {
        256 + self.heap + self.tree.len() * 112
    }
    /// From items of a score, then the member.
    fn unpack(packed: &Packed) -> Self {
        let mut large = Self::default();
        for (member, score) in packed.iter().map(owned) {
            large.insert(large.tree.len(), member, score);
        }
        large
    }
    fn pack(&self) -> Packed {
        let mut packed = Packed::default();
        for (score, member) in self.tree.range(0, self.tree.len()) {
            packed.splice(packed.count(), 0, &[&[Head::of(score).bytes(), &member]]);
        }
        packed
    }
    fn pin(&self) -> Self {
        Self { tree: self.tree.clone(), index: Index::default(), raw: self.raw, heap: self.heap }
    }
    /// Entries of the index name members: freeing a segment costs what so many elements do.
    fn drop_some(&mut self, max: usize) -> bool {
        self.index.drop_some(max.div_ceil(SEGMENT)) == 0 && self.tree.drop_some(max)
    }
}

shown!(Sorted, debug_map);

/// A score as a number of the same order (IEEE 754 §5.10: sign and magnitude, made a plain count).
fn rough(score: Score) -> u64 {
    let bits = score.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// A score in front of a packed member: how many bytes it takes, then the highest bytes of the double, without the zeros at its end. What people count
/// with (ranks, points, seconds) has many of those.
struct Head {
    bytes: [u8; 9],
    width: usize,
}

impl Head {
    fn of(score: Score) -> Self {
        let bits = score.to_bits();
        let width = 8 - bits.trailing_zeros() as usize / 8;
        let mut bytes = [0; 9];
        bytes[0] = width as u8;
        bytes[1..].copy_from_slice(&bits.to_be_bytes());
        Self { bytes, width }
    }
    fn bytes(&self) -> &[u8] {
        &self.bytes[..=self.width]
    }
}

/// Bytes that a member takes packed.
fn size(score: Score, member: &[u8]) -> usize {
    packed::size(Head::of(score).bytes().len() + member.len())
}

/// A packed item's bytes of the score, and its member.
fn split(item: &[u8]) -> (&[u8], &[u8]) {
    item[1..].split_at(usize::from(item[0]))
}

/// Score and member of a packed item.
fn parts(item: &[u8]) -> (Score, &[u8]) {
    let (high, member) = split(item);
    let mut bytes = [0; 8];
    bytes[..high.len()].copy_from_slice(high);
    let score = Score::from_bits(u64::from_be_bytes(bytes)).expect("a score was packed");
    (score, member)
}

fn owned(item: &[u8]) -> (Blob, Score) {
    let (score, member) = parts(item);
    (member.into(), score)
}

/// Most members of a leaf.
const MEMBERS: usize = 64;

/// A row of members.
#[derive(Clone, Default)]
struct Members(Vec<(Score, Blob)>);

impl Leaf for Members {
    type Item = (Score, Blob);
    type Key = (Score, Blob);
    fn key(item: &Self::Item) -> Self::Key {
        item.clone()
    }
    fn rough(key: &Self::Key) -> u64 {
        rough(key.0)
    }
    fn first_key(&self) -> Self::Key {
        self.0[0].clone()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn full_for(&self, _: &Self::Item) -> bool {
        self.0.len() >= MEMBERS
    }
    fn sparse(&self) -> bool {
        self.0.len() <= MEMBERS / 4
    }
    fn absorbs(&self, next: &Self) -> bool {
        self.0.len() + next.0.len() <= MEMBERS * 3 / 4
    }
    fn insert(&mut self, at: usize, item: Self::Item) {
        self.0.insert(at, item);
    }
    fn remove(&mut self, at: usize) -> Self::Item {
        self.0.remove(at)
    }
    fn replace(&mut self, at: usize, item: Self::Item) -> Self::Item {
        std::mem::replace(&mut self.0[at], item)
    }
    fn split(&mut self) -> Self {
        let mut right = Vec::with_capacity(MEMBERS);
        right.extend(self.0.drain(self.0.len() / 2..));
        Self(right)
    }
    fn append(&mut self, next: Self) {
        self.0.extend(next.0);
    }
    fn settle(&mut self) {}
    fn passing(&self, passes: &mut impl FnMut(&Self::Key) -> bool) -> usize {
        self.0.partition_point(passes)
    }
    fn find(&self, order: &mut impl FnMut(&Self::Key) -> Ordering) -> Option<usize> {
        self.0.binary_search_by(order).ok()
    }
    fn point(&self, at: usize) -> usize {
        at
    }
    fn next(&self, point: &mut usize) -> Self::Item {
        *point += 1;
        self.0[*point - 1].clone()
    }
    fn previous(&self, point: &mut usize) -> Self::Item {
        *point -= 1;
        self.0[*point].clone()
    }
}

#[cfg(test)]
mod scores {
    use super::*;
    use proptest::prelude::*;

    fn kept(score: Score) -> (Score, usize) {
        let head = Head::of(score);
        let item = [head.bytes(), b"member"].concat();
        assert_eq!(parts(&item).1, b"member");
        (parts(&item).0, head.bytes().len())
    }

    #[test]
    fn round_scores_are_short() {
        for (value, width) in [(0.0, 1), (1.0, 3), (-2.0, 2), (9.0, 3), (1000.0, 4), (0.5, 3), (0.1, 9)] {
            let score = Score::new(value).expect("a number");
            assert_eq!(kept(score), (score, width), "{value}");
        }
        assert_eq!((kept(Score::MIN), kept(Score::MAX)), ((Score::MIN, 3), (Score::MAX, 3)));
    }

    proptest! {
        #[test]
        fn a_packed_score_is_the_same_to_the_bit(bits: u64) {
            if let Some(score) = Score::from_bits(bits) {
                prop_assert_eq!(kept(score).0.to_bits(), score.to_bits());
            }
        }
    }
}
