//! Members without an order.

use std::borrow::Cow;

use super::Limits;
use crate::structures::Dict;
use crate::{number, resp};

/// A set: a sorted list of numbers as long as it has nothing else and few of them.
#[derive(Clone, Debug)]
pub enum Set {
    /// Few, all whole numbers.
    Integers(Vec<i64>),
    /// Any.
    Large(Dict<()>),
}

impl Default for Set {
    fn default() -> Self {
        Set::Integers(Vec::new())
    }
}

fn show(number: i64) -> Vec<u8> {
    resp::decimal(number, &mut [0; 20]).to_vec()
}

impl Set {
    /// Members.
    pub fn len(&self) -> usize {
        match self {
            Set::Integers(numbers) => numbers.len(),
            Set::Large(members) => members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this is a member.
    pub fn contains(&self, member: &[u8]) -> bool {
        match self {
            Set::Integers(numbers) => number::integer(member).is_some_and(|number| numbers.binary_search(&number).is_ok()),
            Set::Large(members) => members.contains_key(member),
        }
    }

    /// Adds a member. Whether it is new.
    pub fn insert(&mut self, member: &[u8], limits: &Limits) -> bool {
        if let Set::Integers(numbers) = self {
            match number::integer(member).map(|number| (number, numbers.binary_search(&number))) {
                Some((_, Ok(_))) => return false,
                Some((number, Err(at))) if numbers.len() < limits.set => {
                    numbers.insert(at, number);
                    return true;
                }
                _ => {}
            }
            let mut members = Dict::new();
            for number in numbers.drain(..) {
                members.insert(&show(number), ());
            }
            *self = Set::Large(members);
        }
        match self {
            Set::Large(members) => members.insert(member, ()).is_none(),
            Set::Integers(_) => unreachable!("it became large above"),
        }
    }

    /// Takes a member out. Whether it was one.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self {
            Set::Integers(numbers) => match number::integer(member).map(|number| numbers.binary_search(&number)) {
                Some(Ok(at)) => {
                    numbers.remove(at);
                    true
                }
                _ => false,
            },
            Set::Large(members) => members.remove(member).is_some(),
        }
    }

    /// All members.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + '_> {
        match self {
            Set::Integers(numbers) => Box::new(numbers.iter().map(|number| Cow::Owned(show(*number)))),
            Set::Large(members) => Box::new(members.iter().map(|(member, ())| Cow::Borrowed(member))),
        }
    }

    /// As [`Dict::scan`]; a small set comes all at once.
    pub fn scan(&self, cursor: u64, count: usize, mut see: impl FnMut(&[u8])) -> u64 {
        match self {
            Set::Integers(numbers) => {
                numbers.iter().for_each(|number| see(&show(*number)));
                0
            }
            Set::Large(members) => members.scan(cursor, count, |member, ()| see(member)),
        }
    }

    /// A member at random.
    pub fn random(&self, mut random: impl FnMut(usize) -> usize) -> Option<Cow<'_, [u8]>> {
        match self {
            Set::Integers(numbers) if numbers.is_empty() => None,
            Set::Integers(numbers) => numbers.get(random(numbers.len())).map(|number| Cow::Owned(show(*number))),
            Set::Large(members) => members.random(random).map(|(member, ())| Cow::Borrowed(member)),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        if matches!(self, Set::Integers(_)) { "intset" } else { "hashtable" }
    }
}
