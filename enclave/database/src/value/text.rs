//! Bytes that SET, INCR, APPEND and SETRANGE change.

use std::borrow::Cow;
use std::sync::Arc;

use super::Blob;
use crate::{number, resp};

/// Longest that Redis keeps in one piece with its object.
const EMBEDDED: usize = 44;

/// A string value.
#[derive(Clone, Debug)]
pub enum Text {
    /// A whole number in its one spelling.
    Integer(i64),
    /// As it was set.
    Fixed(Blob),
    /// Changed in place at least once, and likely to be again.
    Growing(Arc<Vec<u8>>),
}

impl Text {
    /// Of these bytes.
    pub fn new(bytes: &[u8]) -> Text {
        match number::integer(bytes) {
            Some(number) => Text::Integer(number),
            None => Text::Fixed(bytes.into()),
        }
    }

    /// Of bytes that are no number to anybody, and likely to be changed in place.
    pub fn from_bits(bytes: Vec<u8>) -> Text {
        Text::Growing(Arc::new(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Text::Integer(number) => Cow::Owned(resp::decimal(*number, &mut [0; 20]).to_vec()),
            Text::Fixed(bytes) => Cow::Borrowed(bytes),
            Text::Growing(bytes) => Cow::Borrowed(bytes),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Text::Integer(number) => resp::decimal(*number, &mut [0; 20]).len(),
            Text::Fixed(bytes) => bytes.len(),
            Text::Growing(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number that it is, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Text::Integer(number) => Some(*number),
            other => number::integer(&other.bytes()),
        }
    }

    /// The bytes, to be changed. Those that a snapshot shares are copied once.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        if !matches!(self, Text::Growing(_)) {
            *self = Text::Growing(Arc::new(self.bytes().into_owned()));
        }
        match self {
            Text::Growing(bytes) => Arc::make_mut(bytes),
            Text::Integer(_) | Text::Fixed(_) => unreachable!("it was made to grow above"),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self {
            Text::Integer(_) => "int",
            Text::Fixed(bytes) if bytes.len() <= EMBEDDED => "embstr",
            Text::Fixed(_) | Text::Growing(_) => "raw",
        }
    }
}
