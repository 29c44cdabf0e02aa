//! A sequence as a counted B+ tree: the element of a rank, insertion and removal anywhere, and a search, in logarithmic time.
//!
//! Nodes are shared until one is changed, so that a pin is one count and a change while it is held copies a path.
//!
//! Invariant: all leaves lie equally deep; no node but an empty root is empty; a count tells the elements below.
//! Invariant: where elements are ordered by a key, a child's key is at most its first element's, and more than every element's before it.
//! Called by: `list` and `sorted`.
//! Source: Bayer & McCreight, "Organization and maintenance of large ordered indexes", 1972; counted as in Knuth, TAOCP 3, §6.2.4.

use std::sync::Arc;

/// Most children of a node.
const FAN: usize = 32;

/// A row of elements, as the tree keeps them.
pub(super) trait Leaf: Clone + Default {
    /// An element.
    type Item;
    /// By which elements are ordered; `()` where they are not.
    type Key: Clone;
    fn key(item: &Self::Item) -> Self::Key;
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
    /// How many elements at the start have a key that passes.
    fn passing(&self, passes: &mut impl FnMut(&Self::Key) -> bool) -> usize;
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
    Inner(Vec<Child<L>>),
}

#[derive(Clone)]
struct Child<L: Leaf> {
    count: u64,
    key: L::Key,
    node: Arc<Node<L>>,
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
        let left = std::mem::replace(&mut self.root, Arc::new(Node::Inner(Vec::new())));
        let mut children = Vec::with_capacity(FAN + 1);
        children.push(Child { count: old_len + 1 - right_count, key: first_key(&left), node: left });
        children.push(Child { count: right_count, key: first_key(&right), node: right });
        self.root = Arc::new(Node::Inner(children));
    }

    /// Removes the element `at`, which is there.
    pub(super) fn remove(&mut self, at: u64) -> L::Item {
        let item = remove(&mut self.root, at);
        self.len -= 1;
        while let Node::Inner(children) = &*self.root {
            match children.as_slice() {
                [] => self.root = Arc::new(Node::Leaf(L::default())),
                [only] => self.root = only.node.clone(),
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
                Node::Inner(children) => {
                    let (number, rest) = child_of(children, at);
                    at = rest;
                    node = &mut children[number].node;
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
                Node::Inner(children) => {
                    let number = children.partition_point(|child| passes(&child.key)).saturating_sub(1);
                    before += children[..number].iter().map(|child| child.count).sum::<u64>();
                    node = &children[number].node;
                }
            }
        }
    }

    /// Frees up to about `max` elements from the end; whether none is left.
    pub(super) fn drop_some(&mut self, max: usize) -> bool {
        let freed = drop_some(&mut self.root, max.max(1) as u64);
        let left = match &*self.root {
            Node::Leaf(_) => false,
            Node::Inner(children) => !children.is_empty(),
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
                Node::Inner(children) => {
                    let (number, rest) = child_of(children, at);
                    at = rest;
                    node = &children[number].node;
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn leaves(&self) -> Vec<&L> {
        fn walk<'a, L: Leaf>(node: &'a Node<L>, all: &mut Vec<&'a L>) {
            match node {
                Node::Leaf(leaf) => all.push(leaf),
                Node::Inner(children) => children.iter().for_each(|child| walk(&child.node, all)),
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
                Node::Inner(children) => {
                    assert!(!children.is_empty() && children.len() <= FAN);
                    let mut sum = 0;
                    for (at, child) in children.iter().enumerate() {
                        assert_eq!(walk(&child.node, depth + 1, depths), child.count);
                        assert!(child.count > 0);
                        assert!(child.key <= first_key(&child.node));
                        assert!(at == 0 || children[at - 1].key <= child.key);
                        sum += child.count;
                    }
                    sum
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

/// The child that holds the element `at`, and its number there. One behind the last is the last child's.
fn child_of<L: Leaf>(children: &[Child<L>], mut at: u64) -> (usize, u64) {
    for (number, child) in children.iter().enumerate() {
        if at < child.count {
            return (number, at);
        }
        at -= child.count;
    }
    let last = children.len() - 1;
    (last, children[last].count + at)
}

fn first_key<L: Leaf>(node: &Node<L>) -> L::Key {
    match node {
        Node::Leaf(leaf) => leaf.first_key(),
        Node::Inner(children) => children[0].key.clone(),
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
        Node::Inner(children) => {
            let (number, rest) = child_of(children, at);
            let child = &mut children[number];
            if rest == 0 {
                // It becomes the first element there, and so tells the exact bound.
                child.key = L::key(&item);
            }
            child.count += 1;
            if let Some((right, count)) = insert(&mut child.node, rest, item, split) {
                child.count -= count;
                let key = first_key(&right);
                children.insert(number + 1, Child { count, key, node: right });
            }
            (children.len() > FAN).then(|| split_inner(children, split))
        }
    }
}

fn split_inner<L: Leaf>(children: &mut Vec<Child<L>>, split: Split) -> (Arc<Node<L>>, u64) {
    let at = match split {
        Split::First => 1,
        Split::Last => children.len() - 1,
        Split::Half => children.len() / 2,
    };
    let mut right = Vec::with_capacity(FAN + 1);
    right.extend(children.drain(at..));
    let count = right.iter().map(|child| child.count).sum();
    (Arc::new(Node::Inner(right)), count)
}

fn remove<L: Leaf>(node: &mut Arc<Node<L>>, at: u64) -> L::Item {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => leaf.remove(at as usize),
        Node::Inner(children) => {
            let (number, rest) = child_of(children, at);
            let child = &mut children[number];
            let item = remove(&mut child.node, rest);
            child.count -= 1;
            if child.count == 0 {
                children.remove(number);
            } else if sparse(&child.node) {
                let left = number.saturating_sub(1);
                if !(number > 0 && merge(children, left)) {
                    merge(children, number);
                }
            }
            item
        }
    }
}

fn sparse<L: Leaf>(node: &Node<L>) -> bool {
    match node {
        Node::Leaf(leaf) => leaf.sparse(),
        Node::Inner(children) => children.len() <= FAN / 4,
    }
}

/// Puts the child behind `left` into it, if it has room; whether it has.
fn merge<L: Leaf>(children: &mut Vec<Child<L>>, left: usize) -> bool {
    let [first, second] = match children.get(left..left + 2) {
        Some([first, second]) => [first, second],
        _ => return false,
    };
    let room = match (&*first.node, &*second.node) {
        (Node::Leaf(first), Node::Leaf(second)) => first.absorbs(second),
        (Node::Inner(first), Node::Inner(second)) => first.len() + second.len() <= FAN * 3 / 4,
        _ => false,
    };
    if room {
        let second = children.remove(left + 1);
        let first = &mut children[left];
        first.count += second.count;
        match (Arc::make_mut(&mut first.node), Arc::unwrap_or_clone(second.node)) {
            (Node::Leaf(first), Node::Leaf(second)) => first.append(second),
            (Node::Inner(first), Node::Inner(second)) => first.extend(second),
            _ => unreachable!("leaves lie equally deep"),
        }
    }
    room
}

/// Frees from the end; how many elements are gone.
fn drop_some<L: Leaf>(node: &mut Arc<Node<L>>, max: u64) -> u64 {
    // A shared node is not ours to take apart: letting go of it costs nothing.
    let Some(Node::Inner(children)) = Arc::get_mut(node) else {
        let freed = match &**node {
            Node::Leaf(leaf) => leaf.len() as u64,
            Node::Inner(children) => children.iter().map(|child| child.count).sum(),
        };
        *node = Arc::new(Node::Leaf(L::default()));
        return freed;
    };
    let mut freed = 0;
    while freed < max {
        let Some(last) = children.last_mut() else { break };
        if last.count <= max - freed || matches!(&*last.node, Node::Leaf(_)) {
            freed += last.count;
            children.pop();
        } else {
            let some = drop_some(&mut last.node, max - freed);
            last.count -= some;
            freed += some;
            if last.count == 0 {
                children.pop();
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
