//! Which database an enclave serves. A quote says which program runs, and not on whose data: so a user remembers the database that he knew,
//! and is told when another is shown to him, an older state of it, or the same one without its witness.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::memory::{self, Memory, Seen, Whose};

/// What is asked, in Redis's protocol: before anything of a client's, on the same connection.
pub const QUESTION: &[u8] = b"*1\r\n$16\r\nTEEMATE.IDENTITY\r\n";
/// Longest answer.
const MAX_ANSWER: usize = 4 << 10;
/// What stands for the owner in the memory of known nodes.
const OWNER: &str = "(database)";

/// Why a database is not spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not answer.
    #[error("it does not say which database it is: {0}")]
    Connection(#[from] io::Error),
    /// It answered something else.
    #[error("it does not say which database it is: it answered {0:?}")]
    Nonsense(String),
    /// Another one.
    #[error(
        "it is ANOTHER DATABASE than before: what was stored there is gone or hidden. If its operator explains it, `--accept-database` \
         accepts it"
    )]
    Other,
    /// An older state of the same.
    #[error(
        "it is an OLD COPY of the database: it is in epoch {presented}, and epoch {known} was seen before. If its owner has put back a \
         backup, `--accept-database` accepts it"
    )]
    Old {
        /// What was seen.
        known: u64,
        /// What is presented.
        presented: u64,
    },
    /// Without its witness.
    #[error(
        "it has ANOTHER WITNESS than before, or none: nobody may have noticed an old state. If its owner changed that, \
         `--accept-database` accepts it"
    )]
    Unwitnessed,
    /// The memory of known nodes.
    #[error(transparent)]
    Memory(memory::Error),
}

impl From<memory::Error> for Error {
    fn from(error: memory::Error) -> Self {
        match error {
            memory::Error::RolledBack { known, presented, .. } => Error::Old { known, presented },
            memory::Error::OtherStore { .. } => Error::Other,
            memory::Error::OtherWitness { .. } => Error::Unwitnessed,
            error => Error::Memory(error),
        }
    }
}

/// What a database says of itself. It is the enclave's word: the connection was verified before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name: random, and for ever.
    pub database: String,
    /// Whether it has an owner. One that has none is not remembered: it has nothing yet, and another name tomorrow.
    pub owned: bool,
    /// What keeps an old state from being served, in a word.
    pub protection: String,
    /// The epoch in which it is: it never falls.
    pub epoch: u64,
    /// Which witness it has, if it has one.
    pub witness: Option<String>,
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "database {}, epoch {}, protected by: {}", self.database, self.epoch, self.protection)
    }
}

impl Identity {
    /// Reads the answer to [`QUESTION`], of which there may be a part. `None`: more has to come.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn parse(bytes: &[u8]) -> Result<Option<Identity>, Error> {
        let nonsense =
            || Error::Nonsense(String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).chars().filter(|c| !c.is_control()).collect());
        let (mut rest, mut words) = (bytes, Vec::new());
        let more = || if bytes.len() < MAX_ANSWER { Ok(None) } else { Err(nonsense()) };
        let Some(count) = line(&mut rest) else { return more() };
        let count: usize = count.strip_prefix(b"*").and_then(number).filter(|count| *count <= 32 && count % 2 == 0).ok_or_else(nonsense)?;
        for _ in 0..count {
            let Some(length) = line(&mut rest) else { return more() };
            let length: usize = length.strip_prefix(b"$").and_then(number).filter(|length| *length <= MAX_ANSWER).ok_or_else(nonsense)?;
            let Some((word, tail)) = rest.split_at_checked(length + 2) else { return more() };
            let word = word.strip_suffix(b"\r\n").and_then(|word| std::str::from_utf8(word).ok()).ok_or_else(nonsense)?;
            words.push(word);
            rest = tail;
        }
        // Nothing else was asked.
        if !rest.is_empty() {
            return Err(nonsense());
        }
        let value = |name: &str| words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].to_owned()).ok_or_else(nonsense);
        let plain = |text: String| {
            let fine = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if fine { Ok(text) } else { Err(nonsense()) }
        };
        Ok(Some(Identity {
            database: plain(value("database")?)?,
            owned: value("owned")? == "yes",
            protection: plain(value("protection")?)?,
            epoch: value("epoch")?.parse().map_err(|_| nonsense())?,
            witness: Some(plain(value("witness")?)?).filter(|name| !name.is_empty()),
        }))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ask(stream: &mut (impl Read + Write)) -> Result<Identity, Error> {
        stream.write_all(QUESTION)?;
        stream.flush()?;
        let (mut bytes, mut piece) = (Vec::new(), [0; 512]);
        loop {
            match stream.read(&mut piece)? {
                0 => return Err(Error::Connection(io::ErrorKind::UnexpectedEof.into())),
                count => bytes.extend_from_slice(&piece[..count]),
            }
            if let Some(identity) = Identity::parse(&bytes)? {
                return Ok(identity);
            }
        }
    }
}

/// The start of a word's line, without its end; moves behind it.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, tail) = (&rest[..end], &rest[end + 2..]);
    *rest = tail;
    Some(line)
}

fn number(digits: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// What this user knows of databases.
#[derive(Clone, Debug)]
pub struct Known {
    /// The file of known nodes.
    pub path: PathBuf,
    /// Whether to take the next one for the right one, whatever was known.
    pub accept: bool,
}

impl Known {
    /// Compares what a database at `node` said with what was known before it was asked, and remembers it. `before`: opened before.
    ///
    /// # Errors
    /// [`Error::Other`], [`Error::Old`], [`Error::Unwitnessed`]; that the memory can't be used.
    pub fn compare(&self, mut before: Memory, node: &str, mrsigner: [u8; 32], identity: &Identity) -> Result<(), Error> {
        let whose = Whose { node, mrsigner, owner: Some(OWNER) };
        if !identity.owned {
            let known = before.last(&whose).is_some() && !self.accept;
            return if known { Err(Error::Other) } else { Ok(()) };
        }
        let seen = Seen { store: Some(identity.database.clone()), epoch: identity.epoch, witness: identity.witness.clone() };
        if self.accept {
            return Ok(before.accept(&whose, seen)?);
        }
        Ok(before.observe(&whose, seen)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(words: &[&str]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        words.iter().for_each(|word| bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
        bytes
    }

    const WORDS: [&str; 10] = ["database", "00ff", "owned", "yes", "protection", "witness", "epoch", "7", "witness", "abcd"];

    #[test]
    fn an_answer_comes_in_pieces_and_nothing_else_passes() {
        let whole = answer(&WORDS);
        for length in 0..whole.len() {
            assert!(Identity::parse(&whole[..length]).unwrap().is_none(), "{length}");
        }
        let identity = Identity::parse(&whole).unwrap().unwrap();
        assert_eq!((identity.database.as_str(), identity.epoch, identity.witness.as_deref()), ("00ff", 7, Some("abcd")));
        let with = |at: usize, word: &'static str| {
            let mut words = WORDS;
            words[at] = word;
            Identity::parse(&answer(&words))
        };
        assert_eq!(with(9, "").unwrap().unwrap().witness, None);
        for (at, word) in [(0, "other"), (1, "a b"), (7, "-1"), (7, "x"), (9, "\u{1b}[0m")] {
            assert!(with(at, word).is_err(), "{at} {word}");
        }
        for bad in
            ["-ERR unknown command\r\n", "+OK\r\n", "*3\r\n", "*-1\r\n", "*99999999\r\n", "*2\r\n$99999\r\n", "*2\r\n:1\r\n", "*0\r\n"]
        {
            assert!(Identity::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let more = [&whole[..], b"x"].concat();
        assert!(Identity::parse(&more).is_err(), "what was not asked for");
        assert!(Identity::parse(&[b'*'; MAX_ANSWER]).is_err(), "without end");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Identity::parse(&bytes);
        }
    }

    #[test]
    fn another_an_older_and_an_unwitnessed_one_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("known.json");
        let see = |accept: bool, database: &str, owned: bool, epoch: u64, witness: Option<&str>| {
            let (database, witness) = (database.to_owned(), witness.map(str::to_owned));
            let identity = Identity { database, owned, protection: "witness".to_owned(), epoch, witness };
            let known = Known { path: path.clone(), accept };
            known.compare(Memory::open(&path).unwrap(), "https://node:1", [1; 32], &identity)
        };
        see(false, "new", false, 1, None).unwrap();
        see(false, "other", false, 1, None).unwrap();
        see(false, "mine", true, 1, None).unwrap();
        // It gets a witness, and its epochs rise.
        see(false, "mine", true, 90, Some("w")).unwrap();
        see(false, "mine", true, 91, Some("w")).unwrap();
        assert!(matches!(see(false, "mine", true, 90, Some("w")), Err(Error::Old { known: 91, presented: 90 })));
        assert!(matches!(see(false, "mine", true, 92, None), Err(Error::Unwitnessed)));
        assert!(matches!(see(false, "mine", true, 92, Some("v")), Err(Error::Unwitnessed)));
        assert!(matches!(see(false, "other", true, 99, Some("w")), Err(Error::Other)));
        assert!(matches!(see(false, "other", false, 99, None), Err(Error::Other)), "a new one in the place of the old");
        see(false, "mine", true, 91, Some("w")).unwrap();
        see(true, "other", true, 3, None).unwrap();
        see(false, "other", true, 3, None).unwrap();
    }
}
