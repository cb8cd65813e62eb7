//! Fields and values.

use super::{Blob, Limits};
use crate::structures::Dict;

/// A hash: a list while it is small, in the order in which its fields came.
#[derive(Clone, Debug)]
pub enum Hash {
    /// Few, short.
    Small(Vec<(Blob, Blob)>),
    /// Any.
    Large(Dict<Blob>),
}

impl Default for Hash {
    fn default() -> Self {
        Hash::Small(Vec::new())
    }
}

impl Hash {
    /// Fields.
    pub fn len(&self) -> usize {
        match self {
            Hash::Small(pairs) => pairs.len(),
            Hash::Large(map) => map.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A field's value.
    pub fn get(&self, field: &[u8]) -> Option<&Blob> {
        match self {
            Hash::Small(pairs) => pairs.iter().find(|(known, _)| **known == *field).map(|(_, value)| value),
            Hash::Large(map) => map.get(field),
        }
    }

    /// Sets a field. Whether it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        if let Hash::Small(pairs) = self {
            let known = pairs.iter().position(|(known, _)| **known == *field);
            let (most, longest) = limits.hash;
            if field.len().max(value.len()) > longest || known.is_none() && pairs.len() >= most {
                let mut map = Dict::new();
                pairs.drain(..).for_each(|(field, value)| drop(map.insert(&field, value)));
                *self = Hash::Large(map);
            } else {
                match known {
                    Some(at) => pairs[at].1 = value.into(),
                    None => pairs.push((field.into(), value.into())),
                }
                return known.is_none();
            }
        }
        match self {
            Hash::Large(map) => map.insert(field, value.into()).is_none(),
            Hash::Small(_) => unreachable!("it became large above"),
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, field: &[u8]) -> Option<Blob> {
        match self {
            Hash::Small(pairs) => pairs.iter().position(|(known, _)| **known == *field).map(|at| pairs.remove(at).1),
            Hash::Large(map) => map.remove(field).map(|(_, value)| value),
        }
    }

    /// All fields and values.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&[u8], &Blob)> + '_> {
        match self {
            Hash::Small(pairs) => Box::new(pairs.iter().map(|(field, value)| (&**field, value))),
            Hash::Large(map) => Box::new(map.iter()),
        }
    }

    /// As [`Dict::scan`]; a small hash comes all at once.
    pub fn scan(&self, cursor: u64, count: usize, mut see: impl FnMut(&[u8], &Blob)) -> u64 {
        match self {
            Hash::Small(pairs) => {
                pairs.iter().for_each(|(field, value)| see(field, value));
                0
            }
            Hash::Large(map) => map.scan(cursor, count, see),
        }
    }

    /// A field at random, and its value.
    pub fn random(&self, mut random: impl FnMut(usize) -> usize) -> Option<(&[u8], &Blob)> {
        match self {
            Hash::Small(pairs) if pairs.is_empty() => None,
            Hash::Small(pairs) => pairs.get(random(pairs.len())).map(|(field, value)| (&**field, value)),
            Hash::Large(map) => map.random(random),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        if matches!(self, Hash::Small(_)) { "listpack" } else { "hashtable" }
    }
}
