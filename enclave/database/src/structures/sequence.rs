//! A sequence: a B+tree whose nodes know how many elements are below them.
//!
//! By index it is a list. Kept in order by who inserts, and searched with [`Sequence::partition_point`], it is a sorted set with ranks, or
//! a stream.

use std::ops::Range;
use std::sync::Arc;

/// Elements of a leaf at the most.
const LEAF: usize = 64;
/// Children of a branch at the most.
const BRANCH: usize = 32;

/// Elements in an order.
///
/// `clone` copies one reference. Everything by index is logarithmic, and what is changed after a clone copies one path of nodes.
#[derive(Clone, Debug)]
pub struct Sequence<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
enum Node<T> {
    Leaf(Arc<Vec<T>>),
    Branch(Arc<Vec<Child<T>>>),
}

#[derive(Clone, Debug)]
struct Child<T> {
    /// Elements below.
    count: usize,
    node: Node<T>,
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Node::Leaf(items) => Node::Leaf(Arc::clone(items)),
            Node::Branch(children) => Node::Branch(Arc::clone(children)),
        }
    }
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Sequence { root: Node::Leaf(Arc::new(Vec::new())), len: 0 }
    }
}

impl<T> Node<T> {
    /// Elements of a leaf, children of a branch.
    fn width(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(children) => children.len(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    fn most(&self) -> usize {
        match self {
            Node::Leaf(_) => LEAF,
            Node::Branch(_) => BRANCH,
        }
    }
}

/// The child that has element `index`, and its index there. `index` may be one past the last.
fn locate<T>(children: &[Child<T>], mut index: usize) -> (usize, usize) {
    for (number, child) in children.iter().enumerate() {
        if index < child.count {
            return (number, index);
        }
        index -= child.count;
    }
    // One past the last is the end of the last child.
    let last = children.len().saturating_sub(1);
    (last, index + children.get(last).map_or(0, |child| child.count))
}

impl<T> Sequence<T> {
    /// An empty one.
    pub fn new() -> Self {
        Sequence::default()
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The leaf that has element `index`, and the element's index there.
    fn leaf(&self, mut index: usize) -> (&[T], usize) {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(items) => return (items, index),
                Node::Branch(children) => {
                    let (number, inside) = locate(children, index);
                    (node, index) = (&children[number].node, inside);
                }
            }
        }
    }

    /// An element.
    pub fn get(&self, index: usize) -> Option<&T> {
        let (items, index) = self.leaf(index);
        items.get(index)
    }

    /// The first element.
    pub fn first(&self) -> Option<&T> {
        self.get(0)
    }

    /// The last element.
    pub fn last(&self) -> Option<&T> {
        self.get(self.len.checked_sub(1)?)
    }

    /// How many elements at the beginning satisfy `is_before`, of which all that do must come before all that do not.
    pub fn partition_point(&self, mut is_before: impl FnMut(&T) -> bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(items) => return before + items.partition_point(is_before),
                Node::Branch(children) => {
                    // The last child whose first element is before: the boundary lies in it, or at its end.
                    let number = children.partition_point(|child| first(&child.node).is_some_and(&mut is_before)).saturating_sub(1);
                    before += children[..number].iter().map(|child| child.count).sum::<usize>();
                    node = &children[number].node;
                }
            }
        }
    }

    /// Elements of a range, in order, from either end. What of the range is not there is left out.
    pub fn range(&self, range: Range<usize>) -> Iter<'_, T> {
        let end = range.end.min(self.len);
        Iter { sequence: self, range: range.start.min(end)..end, front: &[], back: &[] }
    }

    /// All elements.
    pub fn iter(&self) -> Iter<'_, T> {
        self.range(0..self.len)
    }
}

fn first<T>(mut node: &Node<T>) -> Option<&T> {
    loop {
        match node {
            Node::Leaf(items) => return items.first(),
            Node::Branch(children) => node = &children.first()?.node,
        }
    }
}

impl<T: Clone> Sequence<T> {
    /// An element, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        if index >= self.len {
            return None;
        }
        let (mut node, mut index) = (&mut self.root, index);
        loop {
            match node {
                Node::Leaf(items) => return Arc::make_mut(items).get_mut(index),
                Node::Branch(children) => {
                    let (number, inside) = locate(children, index);
                    (node, index) = (&mut Arc::make_mut(children)[number].node, inside);
                }
            }
        }
    }

    /// Puts an element before the one that is at `index` now; at the end if there are only so many.
    pub fn insert(&mut self, index: usize, value: T) {
        let index = index.min(self.len);
        if let Some(right) = insert(&mut self.root, index, value) {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Arc::new(Vec::new())));
            let children = vec![Child { count: left.count(), node: left }, right];
            self.root = Node::Branch(Arc::new(children));
        }
        self.len += 1;
    }

    /// Takes an element out.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        if index >= self.len {
            return None;
        }
        let value = remove(&mut self.root, index)?;
        self.len -= 1;
        while let Node::Branch(children) = &mut self.root
            && children.len() == 1
        {
            let only = Arc::make_mut(children).pop()?;
            self.root = only.node;
        }
        Some(value)
    }

    /// Puts an element before all others.
    pub fn push_front(&mut self, value: T) {
        self.insert(0, value);
    }

    /// Puts an element behind all others.
    pub fn push_back(&mut self, value: T) {
        self.insert(self.len, value);
    }

    /// Takes the first element out.
    pub fn pop_front(&mut self) -> Option<T> {
        self.remove(0)
    }

    /// Takes the last element out.
    pub fn pop_back(&mut self) -> Option<T> {
        self.remove(self.len.checked_sub(1)?)
    }

    /// Takes a range out. Costs as much as there are elements in it, or outside of it, whichever is less.
    pub fn remove_range(&mut self, range: Range<usize>) {
        let end = range.end.min(self.len);
        let start = range.start.min(end);
        if end - start > self.len / 2 {
            let left = self.range(0..start).chain(self.range(end..self.len)).cloned().collect();
            *self = left;
        } else {
            for _ in start..end {
                self.remove(start);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Sequence::default();
    }
}

/// Inserts below `node`. When it had no room, its upper part comes back, to be put beside it.
fn insert<T: Clone>(node: &mut Node<T>, index: usize, value: T) -> Option<Child<T>> {
    match node {
        Node::Leaf(items) => {
            let items = Arc::make_mut(items);
            if items.len() < LEAF {
                items.insert(index, value);
                return None;
            }
            let mut right = items.split_off(cut(index, LEAF));
            if index <= items.len() && !(index == items.len() && right.is_empty()) {
                items.insert(index, value);
            } else {
                right.insert(index - items.len(), value);
            }
            Some(Child { count: right.len(), node: Node::Leaf(Arc::new(right)) })
        }
        Node::Branch(children) => {
            let children = Arc::make_mut(children);
            let (number, inside) = locate(children, index);
            let child = &mut children[number];
            let beside = insert(&mut child.node, inside, value);
            child.count += 1;
            let beside = beside?;
            child.count -= beside.count;
            children.insert(number + 1, beside);
            if children.len() <= BRANCH {
                return None;
            }
            let right = children.split_off(cut(number + 1, BRANCH + 1));
            Some(Child { count: right.iter().map(|child| child.count).sum(), node: Node::Branch(Arc::new(right)) })
        }
    }
}

/// Where a full node is cut: in the middle; but who appends or prepends leaves full nodes behind.
fn cut(index: usize, width: usize) -> usize {
    match index {
        0 => 1,
        _ if index + 1 >= width => width - 1,
        _ => width / 2,
    }
}

fn remove<T: Clone>(node: &mut Node<T>, index: usize) -> Option<T> {
    match node {
        Node::Leaf(items) => {
            let items = Arc::make_mut(items);
            (index < items.len()).then(|| items.remove(index))
        }
        Node::Branch(children) => {
            let children = Arc::make_mut(children);
            let (number, inside) = locate(children, index);
            let value = remove(&mut children[number].node, inside)?;
            children[number].count -= 1;
            if children[number].node.width() < children[number].node.most() / 4 {
                join(children, number);
            }
            Some(value)
        }
    }
}

/// Child `number` has become narrow: puts it together with its neighbour, if both fit into one.
fn join<T: Clone>(children: &mut Vec<Child<T>>, number: usize) {
    if children[number].count == 0 {
        if children.len() > 1 {
            children.remove(number);
        }
        return;
    }
    let left = if number + 1 < children.len() { number } else { number.saturating_sub(1) };
    let Some(right) = children.get(left + 1) else { return };
    // Not to the brim, or the next insertion would cut it again.
    if children[left].node.width() + right.node.width() > children[left].node.most() * 3 / 4 {
        return;
    }
    let right = children.remove(left + 1);
    match (&mut children[left].node, right.node) {
        (Node::Leaf(into), Node::Leaf(from)) => Arc::make_mut(into).extend(Arc::unwrap_or_clone(from)),
        (Node::Branch(into), Node::Branch(from)) => Arc::make_mut(into).extend(Arc::unwrap_or_clone(from)),
        // All leaves are at one depth.
        (Node::Leaf(_), Node::Branch(_)) | (Node::Branch(_), Node::Leaf(_)) => unreachable!("neighbours are of one height"),
    }
    children[left].count += right.count;
}

impl<T: Clone> FromIterator<T> for Sequence<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut sequence = Sequence::new();
        items.into_iter().for_each(|item| sequence.push_back(item));
        sequence
    }
}

/// Elements of a range, from either end: a leaf at a time.
#[derive(Clone, Debug)]
pub struct Iter<'a, T> {
    sequence: &'a Sequence<T>,
    /// What neither end has reached yet, those in `front` and `back` not counted.
    range: Range<usize>,
    front: &'a [T],
    back: &'a [T],
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        if self.front.is_empty() && !self.range.is_empty() {
            let (items, index) = self.sequence.leaf(self.range.start);
            let items = &items[index..];
            self.front = &items[..items.len().min(self.range.len())];
            self.range.start += self.front.len();
        }
        if let Some((first, rest)) = self.front.split_first() {
            self.front = rest;
            return Some(first);
        }
        let (first, rest) = self.back.split_first()?;
        self.back = rest;
        Some(first)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.front.len() + self.range.len() + self.back.len();
        (left, Some(left))
    }
}

impl<T> DoubleEndedIterator for Iter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.back.is_empty() && !self.range.is_empty() {
            let (items, index) = self.sequence.leaf(self.range.end - 1);
            let items = &items[..=index];
            self.back = &items[items.len() - items.len().min(self.range.len())..];
            self.range.end -= self.back.len();
        }
        if let Some((last, rest)) = self.back.split_last() {
            self.back = rest;
            return Some(last);
        }
        let (last, rest) = self.front.split_last()?;
        self.front = rest;
        Some(last)
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts are right, leaves are at one depth, nodes are neither too wide nor empty.
    fn check<T>(node: &Node<T>, is_root: bool) -> usize {
        assert!(node.width() <= node.most());
        match node {
            Node::Leaf(items) => {
                assert!(is_root || !items.is_empty());
                1
            }
            Node::Branch(children) => {
                assert!(children.len() > usize::from(is_root));
                assert!(children.iter().all(|child| child.count == child.node.count()));
                let depths: Vec<_> = children.iter().map(|child| check(&child.node, false)).collect();
                assert!(depths.windows(2).all(|pair| pair[0] == pair[1]));
                depths[0] + 1
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(usize, u32),
        Remove(usize),
        Change(usize, u32),
        PushBack(u16),
        PushFront(u16),
        PopFront(u16),
        RemoveRange(usize, usize),
        Clone,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<usize>(), any::<u32>()).prop_map(|(i, v)| Step::Insert(i, v)),
            4 => any::<usize>().prop_map(Step::Remove),
            2 => (any::<usize>(), any::<u32>()).prop_map(|(i, v)| Step::Change(i, v)),
            2 => (0u16..600).prop_map(Step::PushBack),
            1 => (0u16..600).prop_map(Step::PushFront),
            1 => (0u16..900).prop_map(Step::PopFront),
            1 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Step::RemoveRange(a, b)),
            1 => Just(Step::Clone),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_vector_and_its_clones_stay_what_they_were(steps in prop::collection::vec(step(), 1..60)) {
            let (mut sequence, mut model) = (Sequence::new(), Vec::new());
            let mut clones: Vec<(Sequence<u32>, Vec<u32>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(i, v) => {
                        let i = i % (model.len() + 1);
                        sequence.insert(i, v);
                        model.insert(i, v);
                    }
                    Step::Remove(i) if model.is_empty() => prop_assert!(sequence.remove(i).is_none()),
                    Step::Remove(i) => prop_assert_eq!(sequence.remove(i % model.len()), Some(model.remove(i % model.len()))),
                    Step::Change(i, v) => if let Some(at) = i.checked_rem(model.len()) {
                        *sequence.get_mut(at).unwrap() = v;
                        model[at] = v;
                    },
                    Step::PushBack(n) => (0..u32::from(n)).for_each(|v| {
                        sequence.push_back(v);
                        model.push(v);
                    }),
                    Step::PushFront(n) => {
                        (0..u32::from(n)).for_each(|v| sequence.push_front(v));
                        model.splice(0..0, (0..u32::from(n)).rev());
                    }
                    Step::PopFront(n) => {
                        let n = usize::from(n).min(model.len());
                        for value in model.drain(..n) {
                            prop_assert_eq!(sequence.pop_front(), Some(value));
                        }
                    }
                    Step::RemoveRange(a, b) => {
                        let (a, b) = (a % (model.len() + 1), b % (model.len() + 1));
                        let (a, b) = (a.min(b), a.max(b));
                        sequence.remove_range(a..b);
                        model.drain(a..b);
                    }
                    Step::Clone => clones.push((sequence.clone(), model.clone())),
                }
                check(&sequence.root, true);
                prop_assert_eq!(sequence.len(), model.len());
            }
            prop_assert!(sequence.iter().eq(&model));
            prop_assert!(sequence.iter().rev().eq(model.iter().rev()));
            for (clone, model) in clones {
                prop_assert!(clone.iter().eq(&model));
            }
        }

        #[test]
        fn ranges_and_both_ends(len in 0usize..2000, a in 0usize..2100, b in 0usize..2100, ends in prop::collection::vec(any::<bool>(), 0..300)) {
            let sequence: Sequence<usize> = (0..len).collect();
            let model: Vec<usize> = (0..len).collect();
            let (start, end) = (a.min(b).min(len), a.max(b).min(len));
            let (mut mine, mut theirs) = (sequence.range(a.min(b)..a.max(b)), model[start..end].iter());
            for front in ends {
                prop_assert_eq!(mine.len(), theirs.len());
                if front { prop_assert_eq!(mine.next(), theirs.next()) } else { prop_assert_eq!(mine.next_back(), theirs.next_back()) }
            }
            prop_assert!(mine.eq(theirs));
            prop_assert_eq!(sequence.partition_point(|value| *value < a), a.min(len));
            prop_assert_eq!(sequence.get(a), model.get(a));
        }
    }

    #[test]
    fn appending_leaves_full_leaves() {
        let sequence: Sequence<u32> = (0..100_000).collect();
        fn leaves<T>(node: &Node<T>) -> usize {
            match node {
                Node::Leaf(_) => 1,
                Node::Branch(children) => children.iter().map(|child| leaves(&child.node)).sum(),
            }
        }
        assert!(leaves(&sequence.root) <= 100_000 / LEAF + 100_000 / LEAF / 16, "{}", leaves(&sequence.root));
    }
}
