//! Members in the order of their scores, and of their bytes where scores are equal.

use std::cmp::Ordering;

use super::{Blob, Limits};
use crate::structures::{Dict, Sequence};

/// A member and its score, which is never "not a number".
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Score.
    pub score: f64,
    /// Member.
    pub name: Blob,
}

impl Member {
    fn order(&self, score: f64, name: &[u8]) -> Ordering {
        self.score.partial_cmp(&score).unwrap_or(Ordering::Equal).then_with(|| (*self.name).cmp(name))
    }
}

/// A sorted set. Small ones have no index of scores.
#[derive(Clone, Debug, Default)]
pub struct SortedSet {
    order: Sequence<Member>,
    /// The score of each member, once there are many.
    scores: Option<Dict<f64>>,
}

impl SortedSet {
    /// Members.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A member's score.
    pub fn score(&self, name: &[u8]) -> Option<f64> {
        match &self.scores {
            Some(scores) => scores.get(name).copied(),
            None => self.order.iter().find(|member| *member.name == *name).map(|member| member.score),
        }
    }

    /// How many members come before one with this score and name.
    fn position(&self, score: f64, name: &[u8]) -> usize {
        self.order.partition_point(|member| member.order(score, name) == Ordering::Less)
    }

    /// How many members come before this one.
    pub fn rank(&self, name: &[u8]) -> Option<usize> {
        Some(self.position(self.score(name)?, name))
    }

    /// Adds a member, or gives it another score. The score that it had.
    pub fn insert(&mut self, name: &[u8], score: f64, limits: &Limits) -> Option<f64> {
        let old = self.score(name);
        if old == Some(score) {
            return old;
        }
        let name: Blob = match old {
            Some(old) => match self.order.remove(self.position(old, name)) {
                Some(member) => member.name,
                None => name.into(),
            },
            None => name.into(),
        };
        let (most, longest) = limits.sorted_set;
        if self.scores.is_none() && (self.order.len() >= most || name.len() > longest) {
            let mut scores = Dict::new();
            for member in self.order.iter() {
                scores.insert(&member.name, member.score);
            }
            self.scores = Some(scores);
        }
        if let Some(scores) = &mut self.scores {
            scores.insert(&name, score);
        }
        self.order.insert(self.position(score, &name), Member { score, name });
        old
    }

    /// Takes a member out. The score that it had.
    pub fn remove(&mut self, name: &[u8]) -> Option<f64> {
        let score = self.score(name)?;
        self.order.remove(self.position(score, name));
        if let Some(scores) = &mut self.scores {
            scores.remove(name);
        }
        Some(score)
    }

    /// Takes the member of this rank out.
    pub fn remove_at(&mut self, rank: usize) -> Option<Member> {
        let member = self.order.remove(rank)?;
        if let Some(scores) = &mut self.scores {
            scores.remove(&member.name);
        }
        Some(member)
    }

    /// Members in their order.
    pub fn members(&self) -> &Sequence<Member> {
        &self.order
    }

    /// How many members at the beginning satisfy `is_before`.
    pub fn partition_point(&self, is_before: impl FnMut(&Member) -> bool) -> usize {
        self.order.partition_point(is_before)
    }

    /// As [`Dict::scan`]; a small set comes all at once.
    pub fn scan(&self, cursor: u64, count: usize, mut see: impl FnMut(&[u8], f64)) -> u64 {
        match &self.scores {
            Some(scores) => scores.scan(cursor, count, |name, score| see(name, *score)),
            None => {
                self.order.iter().for_each(|member| see(&member.name, member.score));
                0
            }
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        if self.scores.is_some() { "skiplist" } else { "listpack" }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_agrees_with_a_map_and_a_sort(steps in prop::collection::vec((0u32..300, prop::option::weighted(0.8, -5i32..5)), 0..600)) {
            let (mut set, mut model) = (SortedSet::default(), BTreeMap::new());
            for (name, score) in steps {
                let name = format!("m{name}").into_bytes();
                match score.map(f64::from) {
                    Some(score) => prop_assert_eq!(set.insert(&name, score, &Limits::default()), model.insert(name, score)),
                    None => prop_assert_eq!(set.remove(&name), model.remove(&name)),
                }
            }
            let mut sorted: Vec<_> = model.iter().map(|(name, score)| (*score, name.clone())).collect();
            sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let mine: Vec<_> = set.members().iter().map(|member| (member.score, member.name.to_vec())).collect();
            prop_assert_eq!(&mine, &sorted);
            for (rank, (score, name)) in sorted.iter().enumerate() {
                prop_assert_eq!((set.rank(name), set.score(name)), (Some(rank), Some(*score)));
            }
        }
    }
}
