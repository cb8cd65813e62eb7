//! Containers that can be cloned in (nearly) constant time, and that never stall.
//!
//! A snapshot holds a clone of a value while the server goes on to change the value itself. Both share what neither has changed: a write
//! copies one segment or one path of nodes, never the whole. And none of them ever moves everything at once, as a hash table does that
//! doubles: a server with one thread would stand still.

mod dict;
mod sequence;

pub use dict::{Dict, hash, position};
pub use sequence::Sequence;
