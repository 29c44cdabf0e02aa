//! A sequence as a counted B+ tree: the element of a rank, insertion and removal anywhere, and a search, in logarithmic time.
//!
//! Nodes are shared until one is changed, so that a pin is one count and a change while it is held copies a path.
//!
//! Invariant: all leaves lie equally deep; no node but an empty root is empty; a count tells the elements below.
//! Invariant: where elements are ordered by a key, a child's key is at most its first element's, and more than every element's before it.
//! Called by: `list` and `sorted`.
//! Source: Bayer & McCreight, "Organization and maintenance of large ordered indexes", 1972; counted as in Knuth, TAOCP 3, §6.2.4.

use std::cmp::Ordering;
use std::sync::Arc;

/// Most children of a node.
const FAN: usize = 64;

/// A row of elements, as the tree keeps them.
pub(super) trait Leaf: Clone + Default {
    /// An element.
    type Item;
    /// By which elements are ordered; `()` where they are not.
    type Key: Clone;
    fn key(item: &Self::Item) -> Self::Key;
    /// A number that orders as keys do, as far as it tells them apart.
    fn rough(key: &Self::Key) -> u64;
    fn first_key(&self) -> Self::Key;
    fn len(&self) -> usize;
    /// Whether it has no room for one more such element.
    fn full_for(&self, item: &Self::Item) -> bool;
    /// Whether it is so empty that it should go into a neighbour.
    fn sparse(&self) -> bool;
    /// Whether the next leaf's elements have room here, with some to spare.
    fn absorbs(&self, next: &Self) -> bool;
    fn insert(&mut self, at: usize, item: Self::Item);
    fn remove(&mut self, at: usize) -> Self::Item;
    fn replace(&mut self, at: usize, item: Self::Item) -> Self::Item;
    /// Keeps the first half and gives the second. There are two elements at least.
    fn split(&mut self) -> Self;
    fn append(&mut self, next: Self);
    /// Gives back the room it has kept to grow: it is full, and the next element goes elsewhere.
    fn settle(&mut self);
    /// How many elements at the start have a key that passes.
    fn passing(&self, passes: &mut impl FnMut(&Self::Key) -> bool) -> usize;
    /// The number of the element with a key, if there is one.
    fn find(&self, order: &mut impl FnMut(&Self::Key) -> Ordering) -> Option<usize>;
    /// A point of walking in front of the element `at`.
    fn point(&self, at: usize) -> usize;
    /// The element behind a point, which is moved over it.
    fn next(&self, point: &mut usize) -> Self::Item;
    /// The element in front of a point, which is moved over it.
    fn previous(&self, point: &mut usize) -> Self::Item;
}

#[derive(Clone)]
enum Node<L: Leaf> {
    Leaf(L),
    Inner(Inner<L>),
}

/// Children: how many elements each holds, its key, and itself. Side by side, so that adding counts up touches few cache lines.
#[derive(Clone)]
struct Inner<L: Leaf> {
    counts: Vec<u64>,
    /// What [`Leaf::rough`] makes of the keys: a search goes over these without a branch, and looks at keys only where they are equal.
    roughs: Vec<u64>,
    keys: Vec<L::Key>,
    nodes: Vec<Arc<Node<L>>>,
}

impl<L: Leaf> Inner<L> {
    fn new() -> Self {
        Self {
            counts: Vec::with_capacity(FAN + 1),
            roughs: Vec::with_capacity(FAN + 1),
            keys: Vec::with_capacity(FAN + 1),
            nodes: Vec::with_capacity(FAN + 1),
        }
    }

    fn len(&self) -> usize {
        self.nodes.len()
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The child that holds the element `at`, and its number there. One behind the last is the last child's.
    fn child_of(&self, mut at: u64) -> (usize, u64) {
        for (number, count) in self.counts.iter().enumerate() {
            if at < *count {
                return (number, at);
            }
            at -= count;
        }
        let last = self.len() - 1;
        (last, self.counts[last] + at)
    }

    fn insert(&mut self, number: usize, count: u64, node: Arc<Node<L>>) {
        let key = first_key(&node);
        self.counts.insert(number, count);
        self.roughs.insert(number, L::rough(&key));
        self.keys.insert(number, key);
        self.nodes.insert(number, node);
    }

    fn remove(&mut self, number: usize) -> (u64, Arc<Node<L>>) {
        self.roughs.remove(number);
        self.keys.remove(number);
        (self.counts.remove(number), self.nodes.remove(number))
    }

    /// How many keys at the start pass, where all pass that are roughly less, and none that is more.
    fn search(&self, rough: u64, passes: impl FnMut(&L::Key) -> bool) -> usize {
        let less = self.roughs.iter().map(|of| usize::from(*of < rough)).sum();
        let upto: usize = self.roughs.iter().map(|of| usize::from(*of <= rough)).sum();
        less + self.keys[less..upto].partition_point(passes)
    }

    fn split_off(&mut self, at: usize) -> Self {
        let mut right = Self::new();
        right.counts.extend(self.counts.drain(at..));
        right.roughs.extend(self.roughs.drain(at..));
        right.keys.extend(self.keys.drain(at..));
        right.nodes.extend(self.nodes.drain(at..));
        right
    }

    fn append(&mut self, next: Self) {
        self.counts.extend(next.counts);
        self.roughs.extend(next.roughs);
        self.keys.extend(next.keys);
        self.nodes.extend(next.nodes);
    }
}

/// The sequence.
#[derive(Clone)]
pub(super) struct Tree<L: Leaf> {
    root: Arc<Node<L>>,
    len: u64,
}

impl<L: Leaf> Default for Tree<L> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(L::default())), len: 0 }
    }
}

impl<L: Leaf> Tree<L> {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Inserts before the element `at`, or behind the last. In order of keys, where they have one.
    pub(super) fn insert(&mut self, at: u64, item: L::Item) {
        debug_assert!(at <= self.len);
        let place = match at {
            0 => Split::First,
            at if at == self.len => Split::Last,
            _ => Split::Half,
        };
        let old_len = self.len;
        self.len += 1;
        let Some((right, right_count)) = insert(&mut self.root, at, item, place) else { return };
        let mut inner = Inner::new();
        inner.insert(0, old_len + 1 - right_count, self.root.clone());
        inner.insert(1, right_count, right);
        self.root = Arc::new(Node::Inner(inner));
    }

    /// Removes the element `at`, which is there.
    pub(super) fn remove(&mut self, at: u64) -> L::Item {
        let item = remove(&mut self.root, at);
        self.len -= 1;
        while let Node::Inner(inner) = &*self.root {
            match inner.nodes.as_slice() {
                [] => self.root = Arc::new(Node::Leaf(L::default())),
                [only] => self.root = only.clone(),
                _ => break,
            }
        }
        item
    }

    /// Replaces the element `at`, which is there, by one of the same key.
    pub(super) fn replace(&mut self, at: u64, item: L::Item) -> L::Item {
        let (mut node, mut at) = (&mut self.root, at);
        loop {
            match Arc::make_mut(node) {
                Node::Leaf(leaf) => return leaf.replace(at as usize, item),
                Node::Inner(inner) => {
                    let (number, rest) = inner.child_of(at);
                    at = rest;
                    node = &mut inner.nodes[number];
                }
            }
        }
    }

    /// The element `at`.
    pub(super) fn get(&self, at: u64) -> Option<L::Item> {
        (at < self.len).then(|| {
            let (leaf, within) = self.leaf(at);
            leaf.next(&mut leaf.point(within))
        })
    }

    /// Elements `from` to before `to`, which are within bounds.
    pub(super) fn range(&self, from: u64, to: u64) -> Range<'_, L> {
        Range { tree: self, from, to, front: None, back: None }
    }

    /// How many elements have a key that passes; those come before all others.
    pub(super) fn passing(&self, mut passes: impl FnMut(&L::Key) -> bool) -> u64 {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match &**node {
                Node::Leaf(leaf) => return before + leaf.passing(&mut passes) as u64,
                Node::Inner(inner) => {
                    let number = inner.keys.partition_point(&mut passes).saturating_sub(1);
                    before += inner.counts[..number].iter().sum::<u64>();
                    node = &inner.nodes[number];
                }
            }
        }
    }

    /// The same, where keys pass that are roughly less than `rough`, and those that are more do not.
    pub(super) fn passing_near(&self, rough: u64, mut passes: impl FnMut(&L::Key) -> bool) -> u64 {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match &**node {
                Node::Leaf(leaf) => return before + leaf.passing(&mut passes) as u64,
                Node::Inner(inner) => {
                    let number = inner.search(rough, &mut passes).saturating_sub(1);
                    before += inner.counts[..number].iter().sum::<u64>();
                    node = &inner.nodes[number];
                }
            }
        }
    }

    /// The number of the element with this key, if there is one: a single way down. `rough` is what [`Leaf::rough`] makes of the key.
    pub(super) fn find(&self, rough: u64, mut order: impl FnMut(&L::Key) -> Ordering) -> Option<u64> {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match &**node {
                Node::Leaf(leaf) => return leaf.find(&mut order).map(|at| before + at as u64),
                Node::Inner(inner) => {
                    // A child whose key is not more than what is wanted is behind all that is less: the last such child has it.
                    let number = inner.search(rough, |key| order(key).is_le()).checked_sub(1)?;
                    before += inner.counts[..number].iter().sum::<u64>();
                    node = &inner.nodes[number];
                }
            }
        }
    }

    /// Frees up to about `max` elements from the end; whether none is left.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        let freed = drop_some(&mut self.root, max.max(1) as u64);
        let left = match &*self.root {
            Node::Leaf(_) => false,
            Node::Inner(inner) => inner.len() > 0,
        };
        self.len = self.len.saturating_sub(freed);
        if !left {
            *self = Self::default();
        }
        !left
    }

    /// The leaf that holds the element `at`, which is there, and its number in it.
    fn leaf(&self, mut at: u64) -> (&L, usize) {
        let mut node = &self.root;
        loop {
            match &**node {
                Node::Leaf(leaf) => return (leaf, at as usize),
                Node::Inner(inner) => {
                    let (number, rest) = inner.child_of(at);
                    at = rest;
                    node = &inner.nodes[number];
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn leaves(&self) -> Vec<&L> {
        fn walk<'a, L: Leaf>(node: &'a Node<L>, all: &mut Vec<&'a L>) {
            match node {
                Node::Leaf(leaf) => all.push(leaf),
                Node::Inner(inner) => inner.nodes.iter().for_each(|node| walk(node, all)),
            }
        }
        let mut all = Vec::new();
        walk(&self.root, &mut all);
        all
    }

    #[cfg(test)]
    pub(super) fn check(&self)
    where
        L::Key: Ord,
    {
        fn walk<L: Leaf>(node: &Node<L>, depth: usize, depths: &mut Vec<usize>) -> u64
        where
            L::Key: Ord,
        {
            match node {
                Node::Leaf(leaf) => {
                    depths.push(depth);
                    leaf.len() as u64
                }
                Node::Inner(inner) => {
                    assert!((1..=FAN).contains(&inner.len()));
                    assert!(inner.counts.len() == inner.len() && inner.keys.len() == inner.len());
                    assert!(inner.roughs.iter().copied().eq(inner.keys.iter().map(L::rough)));
                    for (at, node) in inner.nodes.iter().enumerate() {
                        assert_eq!(walk(node, depth + 1, depths), inner.counts[at]);
                        assert!(inner.counts[at] > 0);
                        assert!(inner.keys[at] <= first_key(node));
                        assert!(at == 0 || inner.keys[at - 1] <= inner.keys[at]);
                    }
                    inner.total()
                }
            }
        }
        let mut depths = Vec::new();
        assert_eq!(walk(&self.root, 0, &mut depths), self.len);
        assert!(depths.windows(2).all(|pair| pair[0] == pair[1]), "leaves lie equally deep");
    }
}

/// Where a full node is split: at an end of the whole sequence the new element gets a node of its own, so that queues fill their nodes.
#[derive(Clone, Copy)]
enum Split {
    First,
    Last,
    Half,
}

fn first_key<L: Leaf>(node: &Node<L>) -> L::Key {
    match node {
        Node::Leaf(leaf) => leaf.first_key(),
        Node::Inner(inner) => inner.keys[0].clone(),
    }
}

/// What a node has split off to its right, and how many elements that holds.
type Right<L> = Option<(Arc<Node<L>>, u64)>;

fn insert<L: Leaf>(node: &mut Arc<Node<L>>, at: u64, item: L::Item, split: Split) -> Right<L> {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => {
            let within = at as usize;
            if leaf.len() == 0 || !leaf.full_for(&item) {
                leaf.insert(within, item);
                return None;
            }
            let edge = within == 0 || within == leaf.len();
            if edge && (leaf.len() == 1 || !matches!(split, Split::Half)) {
                leaf.settle();
                let mut alone = L::default();
                alone.insert(0, item);
                if within > 0 {
                    return Some((Arc::new(Node::Leaf(alone)), 1));
                }
                let count = leaf.len() as u64;
                return Some((std::mem::replace(node, Arc::new(Node::Leaf(alone))), count));
            }
            let mut right = leaf.split();
            match within.checked_sub(leaf.len()) {
                Some(within) if within > 0 => right.insert(within, item),
                _ => leaf.insert(within, item),
            }
            let count = right.len() as u64;
            Some((Arc::new(Node::Leaf(right)), count))
        }
        Node::Inner(inner) => {
            let (number, rest) = inner.child_of(at);
            if rest == 0 {
                // It becomes the first element there, and so tells the exact bound.
                inner.keys[number] = L::key(&item);
                inner.roughs[number] = L::rough(&inner.keys[number]);
            }
            inner.counts[number] += 1;
            if let Some((right, count)) = insert(&mut inner.nodes[number], rest, item, split) {
                inner.counts[number] -= count;
                inner.insert(number + 1, count, right);
            }
            (inner.len() > FAN).then(|| split_inner(inner, split))
        }
    }
}

fn split_inner<L: Leaf>(inner: &mut Inner<L>, split: Split) -> (Arc<Node<L>>, u64) {
    let right = inner.split_off(match split {
        Split::First => 1,
        Split::Last => inner.len() - 1,
        Split::Half => inner.len() / 2,
    });
    let count = right.total();
    (Arc::new(Node::Inner(right)), count)
}

fn remove<L: Leaf>(node: &mut Arc<Node<L>>, at: u64) -> L::Item {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => leaf.remove(at as usize),
        Node::Inner(inner) => {
            let (number, rest) = inner.child_of(at);
            let item = remove(&mut inner.nodes[number], rest);
            inner.counts[number] -= 1;
            if inner.counts[number] == 0 {
                inner.remove(number);
            } else if sparse(&inner.nodes[number]) && !(number > 0 && merge(inner, number - 1)) {
                merge(inner, number);
            }
            item
        }
    }
}

fn sparse<L: Leaf>(node: &Node<L>) -> bool {
    match node {
        Node::Leaf(leaf) => leaf.sparse(),
        Node::Inner(inner) => inner.len() <= FAN / 4,
    }
}

/// Puts the child behind `left` into it, if it has room; whether it has.
fn merge<L: Leaf>(inner: &mut Inner<L>, left: usize) -> bool {
    let Some([first, second]) = inner.nodes.get(left..left + 2) else { return false };
    let room = match (&**first, &**second) {
        (Node::Leaf(first), Node::Leaf(second)) => first.absorbs(second),
        (Node::Inner(first), Node::Inner(second)) => first.len() + second.len() <= FAN * 3 / 4,
        _ => false,
    };
    if room {
        let (count, second) = inner.remove(left + 1);
        inner.counts[left] += count;
        match (Arc::make_mut(&mut inner.nodes[left]), Arc::unwrap_or_clone(second)) {
            (Node::Leaf(first), Node::Leaf(second)) => first.append(second),
            (Node::Inner(first), Node::Inner(second)) => first.append(second),
            _ => unreachable!("leaves lie equally deep"),
        }
    }
    room
}

/// Frees from the end; how many elements are gone.
fn drop_some<L: Leaf>(node: &mut Arc<Node<L>>, max: u64) -> u64 {
    // A shared node is not ours to take apart: letting go of it costs nothing.
    let Some(Node::Inner(inner)) = Arc::get_mut(node) else {
        let freed = match &**node {
            Node::Leaf(leaf) => leaf.len() as u64,
            Node::Inner(inner) => inner.total(),
        };
        *node = Arc::new(Node::Leaf(L::default()));
        return freed;
    };
    let mut freed = 0;
    while freed < max {
        let Some(last) = inner.len().checked_sub(1) else { break };
        let count = inner.counts[last];
        if count <= max - freed || matches!(&*inner.nodes[last], Node::Leaf(_)) {
            freed += count;
            inner.remove(last);
        } else {
            let some = drop_some(&mut inner.nodes[last], max - freed);
            inner.counts[last] -= some;
            freed += some;
            if inner.counts[last] == 0 {
                inner.remove(last);
            }
        }
    }
    freed
}

/// Elements in order, from both ends.
pub(super) struct Range<'a, L: Leaf> {
    tree: &'a Tree<L>,
    from: u64,
    to: u64,
    front: Option<Walk<'a, L>>,
    back: Option<Walk<'a, L>>,
}

/// A point in a leaf, and how many elements of it are still ahead in the direction of the walk.
struct Walk<'a, L> {
    leaf: &'a L,
    point: usize,
    left: usize,
}

impl<L: Leaf> Iterator for Range<'_, L> {
    type Item = L::Item;
    fn next(&mut self) -> Option<L::Item> {
        if self.from >= self.to {
            return None;
        }
        if self.front.as_ref().is_none_or(|walk| walk.left == 0) {
            let (leaf, within) = self.tree.leaf(self.from);
            self.front = Some(Walk { leaf, point: leaf.point(within), left: leaf.len() - within });
        }
        let walk = self.front.as_mut()?;
        walk.left -= 1;
        self.from += 1;
        Some(walk.leaf.next(&mut walk.point))
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.to.saturating_sub(self.from) as usize;
        (left, Some(left))
    }
}

impl<L: Leaf> DoubleEndedIterator for Range<'_, L> {
    fn next_back(&mut self) -> Option<L::Item> {
        if self.from >= self.to {
            return None;
        }
        if self.back.as_ref().is_none_or(|walk| walk.left == 0) {
            let (leaf, within) = self.tree.leaf(self.to - 1);
            self.back = Some(Walk { leaf, point: leaf.point(within + 1), left: within + 1 });
        }
        let walk = self.back.as_mut()?;
        walk.left -= 1;
        self.to -= 1;
        Some(walk.leaf.previous(&mut walk.point))
    }
}
