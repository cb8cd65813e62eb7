//! The stream of effects: what a replica carries out after the snapshot that it began with.
//!
//! It has a name, and each of its bytes a number, so that a replica whose connection broke can say how far it has come. The last part of it
//! is kept for that, and as much more as somebody who follows has not got yet. All who follow share it.

use std::collections::VecDeque;

use teemate_service::clock;

use crate::resp::write_request;

/// The stream. A new one follows nothing.
#[derive(Debug, Default)]
pub struct Stream {
    /// Forty hexadecimal digits: which stream it is. Empty: it has no name yet.
    id: String,
    /// Bytes so far.
    end: u64,
    /// The last of them.
    kept: VecDeque<u8>,
    /// The database that the last command was for; `None`: nothing may be assumed.
    database: Option<usize>,
    /// Commands that belong together so far.
    unit: Unit,
}

/// Commands that belong together.
#[derive(Debug, Default)]
struct Unit {
    bytes: Vec<u8>,
    commands: usize,
    /// Whether there is more than keys that went by themselves, which do not depend on each other.
    has_effects: bool,
}

impl Stream {
    /// Its name.
    pub fn id(&mut self) -> &str {
        if self.id.is_empty() {
            self.id = fresh_id();
        }
        &self.id
    }

    /// Bytes so far: the number that the next one will have.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The number of the first byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - self.kept.len() as u64
    }

    /// Bytes that are kept.
    pub fn held(&self) -> usize {
        self.kept.len()
    }

    /// Adds a command to the unit.
    pub fn note(&mut self, database: usize, command: &[&[u8]]) {
        self.unit.has_effects = true;
        self.add(database, command);
    }

    /// Adds to the unit that a key went by itself.
    pub fn note_dropped(&mut self, database: usize, key: &[u8]) {
        self.add(database, &[b"DEL", key]);
    }

    fn add(&mut self, database: usize, command: &[&[u8]]) {
        if self.database != Some(database) {
            self.database = Some(database);
            write_request(&mut self.unit.bytes, &[&b"SELECT"[..], database.to_string().as_bytes()]);
        }
        write_request(&mut self.unit.bytes, command);
        self.unit.commands += 1;
    }

    /// Ends the unit: what is in it a replica carries out as one.
    pub fn end_unit(&mut self) {
        let Unit { mut bytes, commands, has_effects } = std::mem::take(&mut self.unit);
        if bytes.is_empty() {
            return;
        }
        if commands > 1 && has_effects {
            self.push(b"*1\r\n$5\r\nMULTI\r\n");
            self.push(&bytes);
            self.push(b"*1\r\n$4\r\nEXEC\r\n");
        } else {
            self.push(&bytes);
        }
        // The room is used again, unless it became large.
        bytes.clear();
        bytes.shrink_to(64 << 10);
        self.unit.bytes = bytes;
    }

    /// Adds a command that changes nothing, and that belongs to no database.
    pub fn say(&mut self, command: &[&[u8]]) {
        let mut bytes = Vec::new();
        write_request(&mut bytes, command);
        self.push(&bytes);
    }

    /// Adds bytes as they are.
    pub fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        self.end += bytes.len() as u64;
    }

    /// Somebody begins here who does not know what database the last command was for.
    pub fn forget_database(&mut self) {
        self.database = None;
    }

    /// The bytes from this number on, in two parts. `None`: they are not kept any more, or not there yet.
    pub fn from(&self, number: u64) -> Option<(&[u8], &[u8])> {
        let at = usize::try_from(number.checked_sub(self.start())?).ok().filter(|at| *at <= self.kept.len())?;
        let (first, second) = self.kept.as_slices();
        Some(if at <= first.len() { (&first[at..], second) } else { (&second[at - first.len()..], &[]) })
    }

    /// Forgets what is before this number.
    pub fn forget(&mut self, before: u64) {
        let count = usize::try_from(before.saturating_sub(self.start())).unwrap_or(usize::MAX).min(self.kept.len());
        self.kept.drain(..count);
        if self.kept.capacity() > 4 * self.kept.len() + (1 << 20) {
            self.kept.shrink_to_fit();
        }
    }

    /// Becomes another server's stream, which has come so far.
    pub fn become_one(&mut self, id: String, end: u64) {
        *self = Stream { id, end, ..Stream::default() };
    }

    /// Goes on under another name.
    pub fn rename(&mut self, id: String) {
        self.id = id;
    }

    /// Goes on under a name of its own: who has followed it so far can go on. The name before.
    pub fn part(&mut self) -> String {
        self.database = None;
        std::mem::replace(&mut self.id, fresh_id())
    }

    /// Becomes another stream: nobody who followed the one before can go on.
    pub fn restart(&mut self) {
        *self = Stream { end: self.end, ..Stream::default() };
    }
}

/// Forty hexadecimal digits.
fn fresh_id() -> String {
    let mut random = [0; 20];
    clock::random(&mut random);
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(stream: &Stream, from: u64) -> String {
        let (first, second) = stream.from(from).unwrap();
        String::from_utf8([first, second].concat()).unwrap().replace("\r\n", " ")
    }

    #[test]
    fn units_are_transactions_and_the_database_is_said_once() {
        let mut stream = Stream::default();
        stream.note(0, &[b"DEL", b"a"]);
        stream.end_unit();
        let one = stream.end();
        stream.note(0, &[b"DEL", b"b"]);
        stream.note(2, &[b"DEL", b"c"]);
        stream.end_unit();
        stream.end_unit();
        assert_eq!(text(&stream, 0)[..text(&stream, 0).len() - text(&stream, one).len()], *"*2 $6 SELECT $1 0 *2 $3 DEL $1 a ");
        assert_eq!(text(&stream, one), "*1 $5 MULTI *2 $3 DEL $1 b *2 $6 SELECT $1 2 *2 $3 DEL $1 c *1 $4 EXEC ");
    }

    #[test]
    fn keys_that_go_by_themselves_are_no_transaction_unless_a_command_goes_with_them() {
        let mut stream = Stream::default();
        stream.note_dropped(0, b"a");
        stream.note_dropped(0, b"b");
        stream.end_unit();
        assert_eq!(text(&stream, 0), "*2 $6 SELECT $1 0 *2 $3 DEL $1 a *2 $3 DEL $1 b ");
        let before = stream.end();
        stream.note_dropped(0, b"c");
        stream.note(0, &[b"SET", b"c", b"1"]);
        stream.end_unit();
        assert_eq!(text(&stream, before), "*1 $5 MULTI *2 $3 DEL $1 c *3 $3 SET $1 c $1 1 *1 $4 EXEC ");
    }

    #[test]
    fn what_is_forgotten_can_not_be_had_and_numbers_stay() {
        let mut stream = Stream::default();
        for _ in 0..1000 {
            stream.say(&[b"PING"]);
        }
        let (end, id) = (stream.end(), stream.id().to_owned());
        assert_eq!(end, 14_000);
        stream.forget(13_986);
        assert_eq!((stream.start(), stream.end(), stream.held()), (13_986, end, 14));
        assert!(stream.from(13_985).is_none() && stream.from(end + 1).is_none());
        assert_eq!(text(&stream, 13_986), "*1 $4 PING ");
        assert_eq!(text(&stream, end), "");
        stream.restart();
        assert!(stream.id() != id && stream.end() == end && stream.held() == 0);
    }
}
