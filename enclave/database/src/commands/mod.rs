//! The commands: a table a family, and how they are found and called.

pub(crate) mod connection;
mod hashes;
mod keys;
mod lists;
#[cfg(feature = "scripts")]
pub(crate) mod scripting;
pub(crate) mod server;
mod sets;
mod sorted_algebra;
mod sorted_sets;
mod strings;

pub use server::save_points;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::error::Error;
use crate::number;
use crate::resp::Reply;
use crate::session::Session;
use crate::shared::Shared;
use crate::store::Store;
use crate::value::{Limits, Value};

/// What came of a handler: it wrote its reply, or there is an error to write.
pub type Done = Result<(), Error>;

/// What a command works with.
pub struct Context<'a> {
    /// The databases.
    pub store: &'a mut Store,
    /// Who asks.
    pub session: &'a mut Session,
    /// What all connections share.
    pub shared: &'a mut Shared,
    /// The command's name and arguments.
    pub args: &'a [&'a [u8]],
    /// Where the reply goes.
    pub reply: &'a mut Reply,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Looks.
    Read,
    /// Changes keys.
    Write,
    /// Changes keys, and may need memory for it.
    Grow,
    /// Is about the server or the connection.
    Server,
}

/// A command.
pub struct Command {
    /// In lower case.
    pub name: &'static str,
    /// Arguments, the name included; negative: at least so many.
    pub arity: i32,
    /// What it does.
    pub kind: Kind,
    /// First key, last key (negative: from the end), step. 0: none.
    pub keys: (i32, i32, i32),
    /// Carries it out.
    pub run: fn(&mut Context<'_>) -> Done,
}

const fn command(name: &'static str, arity: i32, kind: Kind, keys: (i32, i32, i32), run: fn(&mut Context<'_>) -> Done) -> Command {
    Command { name, arity, kind, keys, run }
}

/// All commands.
pub fn all() -> impl Iterator<Item = &'static Command> {
    let families = [
        strings::COMMANDS,
        keys::COMMANDS,
        hashes::COMMANDS,
        lists::COMMANDS,
        sets::COMMANDS,
        sorted_sets::COMMANDS,
        sorted_algebra::COMMANDS,
        connection::COMMANDS,
        server::COMMANDS,
        #[cfg(feature = "scripts")]
        scripting::COMMANDS,
    ];
    families.into_iter().flatten()
}

/// The command of this name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    static TABLE: LazyLock<HashMap<&'static [u8], &'static Command>> =
        LazyLock::new(|| all().map(|command| (command.name.as_bytes(), command)).collect());
    let mut lower = [0; 32];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    TABLE.get(&*lower).copied()
}

impl Command {
    /// Whether it can have so many arguments, its name included.
    pub fn fits(&self, count: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= wanted } else { count == wanted }
    }

    /// The keys among its arguments.
    pub fn keys<'a>(&self, args: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { args.len() as i32 + last } else { last };
        let none = first == 0;
        let range = if none { 0..0 } else { first as usize..(last + 1).max(first) as usize };
        range.step_by(step.max(1) as usize).filter_map(|at| args.get(at).copied())
    }
}

impl<'a> Context<'a> {
    /// The database that the client has selected.
    pub fn db(&self) -> usize {
        self.session.database
    }

    /// An argument, by its place behind the name (1 is the first).
    pub fn arg(&self, at: usize) -> &'a [u8] {
        self.args.get(at).copied().unwrap_or_default()
    }

    /// An argument that is a whole number.
    pub fn integer(&self, at: usize) -> Result<i64, Error> {
        number::integer(self.arg(at)).ok_or(Error::NotAnInteger)
    }

    /// An argument that is a number.
    pub fn float(&self, at: usize) -> Result<f64, Error> {
        number::float(self.arg(at)).ok_or(Error::NotAFloat)
    }

    /// Whether an argument is this word, in any case.
    pub fn is(&self, at: usize, word: &str) -> bool {
        self.arg(at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The command's name as it is in the table.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.arg(0)).to_ascii_lowercase()
    }

    /// Up to which size values are small.
    pub fn limits(&self) -> Limits {
        self.shared.settings.limits
    }

    /// The value of the key that this argument names.
    pub fn read(&mut self, at: usize) -> Option<&Value> {
        let (db, key) = (self.db(), self.arg(at));
        self.store.get(db, key)
    }

    /// A number below a limit, at random.
    pub fn random(&mut self) -> impl FnMut(usize) -> usize + use<> {
        let mut seed = self.shared.random();
        move |limit| {
            // xorshift64*: nothing depends on it but fairness.
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
        }
    }
}

/// A part of something with an order, as Redis's ranges name it: negative numbers count from the end. Empty where nothing is meant.
fn range(start: i64, stop: i64, length: usize) -> std::ops::Range<usize> {
    let length = length as i64;
    let place = |at: i64| if at < 0 { at + length } else { at };
    let (start, stop) = (place(start).max(0), place(stop).min(length - 1));
    if start > stop { 0..0 } else { start as usize..stop as usize + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_are_told_once() {
        assert_eq!(find(b"GeT").map(|command| command.name), Some("get"));
        assert!(find(b"nothing").is_none() && find(&[b'x'; 100]).is_none() && find(b"").is_none());
        let mut names: Vec<_> = all().map(|command| command.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let keys = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            find(args[0]).unwrap().keys(&args).map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(keys("mset a 1 b 2"), ["a", "b"]);
        assert_eq!(keys("del a b c"), ["a", "b", "c"]);
        assert_eq!(keys("blpop a b 0"), ["a", "b"]);
        assert!(keys("ping").is_empty());
    }

    #[test]
    fn ranges_count_from_either_end() {
        for (start, stop, length, expected) in [
            (0, -1, 5, 0..5),
            (-2, -1, 5, 3..5),
            (1, 1, 5, 1..2),
            (3, 1, 5, 0..0),
            (0, 100, 5, 0..5),
            (-100, 0, 5, 0..1),
            (5, 9, 5, 0..0),
            (0, -1, 0, 0..0),
        ] {
            assert_eq!(range(start, stop, length), expected, "{start} {stop} {length}");
        }
    }
}
