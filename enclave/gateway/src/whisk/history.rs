//! The activations of a namespace: which there are, and how many stay.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::activation::Activation;
use super::lock;

/// How much of the past a namespace keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Activations.
    pub count: usize,
    /// Bytes of their records.
    pub bytes: usize,
}

/// What is remembered of each activation; the record itself is in the store.
struct Entry {
    id: String,
    start: u64,
    name: String,
    summary: String,
    bytes: usize,
}

/// Activations, in the order in which they ended.
#[derive(Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Inner {
    fn trim(&mut self, retention: Retention) -> Vec<String> {
        let mut gone = Vec::new();
        if self.entries.len() <= retention.count && self.bytes <= retention.bytes {
            return gone;
        }
        // Some more than needed, because forgetting costs a write to the disk, of one as of many.
        let (count, bytes) = (retention.count - retention.count / 16, retention.bytes - retention.bytes / 16);
        while self.entries.len() > count || (self.bytes > bytes && self.entries.len() > 1) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= entry.bytes;
            gone.push(entry.id);
        }
        gone
    }
}

/// Which activations somebody asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of the action of this name.
    pub name: Option<String>,
    /// Started then or later.
    pub since: Option<u64>,
    /// Started then or before.
    pub upto: Option<u64>,
}

impl Filter {
    fn takes(&self, entry: &Entry) -> bool {
        self.name.as_ref().is_none_or(|name| *name == entry.name)
            && self.since.is_none_or(|since| entry.start >= since)
            && self.upto.is_none_or(|upto| entry.start <= upto)
    }
}

impl History {
    /// Remembers an activation whose record has so many bytes. Gives the ids of those that are now too old.
    pub fn add(&self, activation: &Activation, bytes: usize, retention: Retention) -> Vec<String> {
        let entry = Entry {
            id: activation.id.clone(),
            start: activation.start,
            name: activation.filter_name(),
            summary: activation.summary(),
            bytes,
        };
        let mut inner = lock(&self.inner);
        inner.bytes += bytes;
        inner.entries.push_back(entry);
        inner.trim(retention)
    }

    /// Forgets those that are too old. Gives their ids.
    pub fn trim(&self, retention: Retention) -> Vec<String> {
        lock(&self.inner).trim(retention)
    }

    /// Puts what was read from the store into the order of time.
    pub fn sort(&self) {
        lock(&self.inner).entries.make_contiguous().sort_by_key(|entry| entry.start);
    }

    /// Ids and summaries of those that are asked for, the latest first.
    pub fn list(&self, filter: &Filter, skip: usize, limit: usize) -> Vec<(String, String)> {
        let inner = lock(&self.inner);
        let mut found: Vec<(usize, &Entry)> = inner.entries.iter().enumerate().filter(|(_, entry)| filter.takes(entry)).collect();
        found.sort_by_key(|(index, entry)| std::cmp::Reverse((entry.start, *index)));
        found.into_iter().skip(skip).take(limit).map(|(_, entry)| (entry.id.clone(), entry.summary.clone())).collect()
    }

    /// How many are asked for.
    pub fn count(&self, filter: &Filter) -> usize {
        lock(&self.inner).entries.iter().filter(|entry| filter.takes(entry)).count()
    }

    /// Whether there is such an activation.
    pub fn contains(&self, id: &str) -> bool {
        lock(&self.inner).entries.iter().any(|entry| entry.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::activation::{Ended, Status};
    use super::super::names::SemVer;
    use super::super::parameters::Parameters;
    use super::*;

    fn activation(id: &str, name: &str, start: u64) -> Activation {
        Activation {
            namespace: "ada".into(),
            name: name.into(),
            version: SemVer::default(),
            id: id.into(),
            start,
            end: Some(start),
            duration: None,
            cause: None,
            response: Ended { status: Status::Success, result: None, size: None },
            logs: vec![],
            annotations: Parameters::default(),
        }
    }

    fn ids(history: &History, filter: &Filter) -> Vec<String> {
        history.list(filter, 0, 100).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let history = History::default();
        let retention = Retention { count: 3, bytes: 100 };
        for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
            assert!(history.add(&activation(id, "x", at as u64), 10, retention).is_empty());
        }
        assert_eq!(history.add(&activation("d", "x", 3), 10, retention), ["a"]);
        assert_eq!(history.add(&activation("e", "x", 4), 75, retention), ["b", "c"]);
        // One that is larger than all may be stays alone: somebody waits for it.
        assert_eq!(history.add(&activation("f", "x", 5), 1000, retention), ["d", "e"]);
        assert!(history.contains("f") && !history.contains("e"));
    }

    #[test]
    fn they_go_several_at_a_time() {
        let history = History::default();
        let retention = Retention { count: 32, bytes: usize::MAX };
        let gone: Vec<usize> = (0..64).map(|at| history.add(&activation(&at.to_string(), "x", at), 1, retention).len()).collect();
        assert!(gone.iter().all(|count| matches!(count, 0 | 3)) && gone.contains(&3), "{gone:?}");
    }

    #[test]
    fn lists_are_filtered_and_latest_first() {
        let history = History::default();
        let retention = Retention { count: 100, bytes: 1000 };
        for (id, name, start) in [("a", "x", 10), ("b", "y", 30), ("c", "x", 20), ("d", "x", 20)] {
            history.add(&activation(id, name, start), 1, retention);
        }
        assert_eq!(ids(&history, &Filter::default()), ["b", "d", "c", "a"]);
        assert_eq!(ids(&history, &Filter { name: Some("x".into()), ..Filter::default() }), ["d", "c", "a"]);
        assert_eq!(ids(&history, &Filter { since: Some(20), upto: Some(29), ..Filter::default() }), ["d", "c"]);
        assert_eq!(history.list(&Filter::default(), 1, 2).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), ["d", "c"]);
        assert_eq!(history.count(&Filter { since: Some(11), ..Filter::default() }), 3);
    }
}
