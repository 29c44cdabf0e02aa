//! Sorted sets: members with scores, in order of score, then of the member's bytes.
//!
//! Called by: `collections::value`, and handlers that build a sorted set whole.

use quorate_types::{Blob, Score};

/// Members with scores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted(Vec<(Score, Blob)>);

impl Sorted {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// How many members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Bytes in memory, nearly.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len() * 72
    }
    /// The score of a member.
    #[must_use]
    pub fn score(&self, member: &[u8]) -> Option<Score> {
        self.0.iter().find(|(_, m)| **m == *member).map(|(s, _)| *s)
    }
    /// How many members come before this one.
    #[must_use]
    pub fn rank(&self, member: &[u8]) -> Option<u64> {
        self.0.iter().position(|(_, m)| **m == *member).map(|p| p as u64)
    }
    /// The member of a rank.
    #[must_use]
    pub fn at(&self, rank: u64) -> Option<(Blob, Score)> {
        self.0.get(rank as usize).map(|(s, m)| (m.clone(), *s))
    }
    /// Members from rank `from` to before rank `to`; what is beyond the end is left out.
    pub fn range(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = (Blob, Score)> + '_ {
        let to = to.min(self.len()) as usize;
        self.0[(from as usize).min(to)..to].iter().map(|(s, m)| (m.clone(), *s))
    }
    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Blob, Score)> + '_ {
        self.range(0, self.len())
    }
    /// How many members have a lower score; when `inclusive`, a lower one or this.
    #[must_use]
    pub fn rank_by_score(&self, score: Score, inclusive: bool) -> u64 {
        self.0.partition_point(|(s, _)| *s < score || inclusive && *s == score) as u64
    }
    /// How many members have lower bytes; when `inclusive`, lower ones or these. Meaningful when all scores are equal.
    #[must_use]
    pub fn rank_by_lex(&self, member: &[u8], inclusive: bool) -> u64 {
        self.0.partition_point(|(_, m)| **m < *member || inclusive && **m == *member) as u64
    }
    /// Adds a member or moves it; its score before.
    pub fn insert(&mut self, member: Blob, score: Score) -> Option<Score> {
        let before = self.remove(&member);
        let at = self.0.partition_point(|(s, m)| (*s, m) < (score, &member));
        self.0.insert(at, (score, member));
        before
    }
    /// Removes a member; its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<Score> {
        self.rank(member).map(|rank| self.0.remove(rank as usize).0)
    }
}
