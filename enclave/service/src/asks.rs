//! Questions to the host: numbered, answered at most once, and by nothing that does not fit the question.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use teemate_control::service::{Ask, BLOB_LIMIT, FromService, JOURNAL_PIECE, QUOTE_LIMIT, Reply, STREAM_PIECE};

use crate::channel::Outbox;
use crate::lock;

/// Questions that may be open at one time.
const MAX_OPEN: usize = 1024;
/// Longest sentence of the host's that is passed on.
const MAX_REASON: usize = 400;

/// What is done with the host's reply.
pub type Answered = Box<dyn FnOnce(Reply) + Send>;

/// Questions without an answer.
#[derive(Default)]
pub struct Asks {
    open: HashMap<u64, (Shape, Answered)>,
    last: u64,
}

/// What replies fit a question, beside a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Done,
    Bytes { least: usize, most: usize, may_lack: bool },
}

impl Shape {
    fn of(ask: &Ask) -> Shape {
        let bytes = |least, most, may_lack| Shape::Bytes { least, most, may_lack };
        match ask {
            Ask::QuoteTarget => bytes(512, 512, false),
            Ask::Quote { .. } => bytes(1, QUOTE_LIMIT, false),
            Ask::Journal { length, .. } => bytes(0, (*length as usize).min(JOURNAL_PIECE), true),
            Ask::Blob { .. } => bytes(0, BLOB_LIMIT, true),
            Ask::Receive { length, .. } => bytes(0, (*length as usize).min(STREAM_PIECE), true),
            Ask::Append { .. } | Ask::Activate { .. } | Ask::PutBlob { .. } | Ask::DropBlob { .. } => Shape::Done,
            Ask::Connect { .. } | Ask::Send { .. } | Ask::HangUp { .. } => Shape::Done,
        }
    }

    /// The reply if it fits, else that it does not.
    fn check(self, reply: Reply) -> Reply {
        let why = match (self, reply) {
            (_, Reply::Failed(reason)) => return Reply::Failed(reason.chars().take(MAX_REASON).collect()),
            (Shape::Done, Reply::Done) => return Reply::Done,
            (Shape::Bytes { may_lack: true, .. }, Reply::Missing) => return Reply::Missing,
            (Shape::Bytes { least, most, .. }, Reply::Bytes(bytes)) if (least..=most).contains(&bytes.len()) => return Reply::Bytes(bytes),
            (Shape::Bytes { least, most, .. }, Reply::Bytes(bytes)) => format!("{} bytes where {least} to {most} are right", bytes.len()),
            (_, Reply::Bytes(_)) => "bytes where none were asked for".to_owned(),
            (_, Reply::Done) => "no bytes where some were asked for".to_owned(),
            (_, Reply::Missing) => "that there is no such thing, where there must be".to_owned(),
        };
        Reply::Failed(format!("the host's reply does not fit the question: {why}"))
    }
}

impl Asks {
    /// Opens a question; gives its number.
    ///
    /// # Errors
    /// The callback, when too many are open.
    pub fn open(&mut self, ask: &Ask, answered: Answered) -> Result<u64, Answered> {
        if self.open.len() >= MAX_OPEN {
            return Err(answered);
        }
        self.last += 1;
        self.open.insert(self.last, (Shape::of(ask), answered));
        Ok(self.last)
    }

    /// The host has replied. `None` when there is no such question, or not any more; else what to do.
    pub fn reply(&mut self, question: u64, reply: Reply) -> Option<(Answered, Reply)> {
        let (shape, answered) = self.open.remove(&question)?;
        Some((answered, shape.check(reply)))
    }

    /// Nobody waits for this one any more.
    pub fn forget(&mut self, question: u64) {
        self.open.remove(&question);
    }

    /// Takes out all that are open.
    pub fn take_all(&mut self) -> Vec<Answered> {
        self.open.drain().map(|(_, (_, answered))| answered).collect()
    }
}

/// Asks the host. `done` gets the reply, exactly once; gives the question's number, if it was asked at all.
pub fn put(asks: &Mutex<Asks>, outbox: &Outbox, ask: Ask, done: Answered) -> Option<u64> {
    // A binding, for the lock must be free when the callback runs.
    let opened = lock(asks).open(&ask, done);
    match opened {
        Ok(question) => {
            outbox.post_here(FromService::Ask { question, ask });
            Some(question)
        }
        Err(done) => {
            done(Reply::Failed("too many questions to the host are open; try again later".to_owned()));
            None
        }
    }
}

/// Asks the host and waits. Not from a callback.
///
/// # Errors
/// When it does not reply in time, or says why it cannot.
pub fn wait(asks: &Mutex<Asks>, outbox: &Outbox, ask: Ask, limit: Duration) -> io::Result<Reply> {
    let (sender, receiver) = sync_channel(1);
    let question = put(asks, outbox, ask, Box::new(move |reply| drop(sender.try_send(reply))));
    match receiver.recv_timeout(limit) {
        Ok(Reply::Failed(reason)) => Err(io::Error::other(reason)),
        Ok(reply) => Ok(reply),
        Err(_) => {
            question.inspect(|&question| lock(asks).forget(question));
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("the host did not reply within {} s", limit.as_secs_f32())))
        }
    }
}

/// Tells the host something whose reply nobody waits for.
pub fn tell(asks: &Mutex<Asks>, outbox: &Outbox, ask: Ask) {
    if let Some(question) = put(asks, outbox, ask, Box::new(drop)) {
        lock(asks).forget(question);
    }
}

/// Answers all that are open: nobody else will.
pub fn fail_all(asks: &Mutex<Asks>, why: &str) {
    let open = lock(asks).take_all();
    open.into_iter().for_each(|answered| answered(Reply::Failed(why.to_owned())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_ask() -> impl Strategy<Value = Ask> {
        prop_oneof![
            Just(Ask::QuoteTarget),
            Just(Ask::Quote { report: vec![] }),
            Just(Ask::Journal { offset: 0, length: JOURNAL_PIECE as u32 }),
            Just(Ask::Journal { offset: 0, length: 100 }),
            Just(Ask::Append { generation: 0, offset: 0, bytes: vec![] }),
            Just(Ask::Activate { generation: 0 }),
            Just(Ask::PutBlob { id: [0; 32], bytes: vec![] }),
            Just(Ask::Blob { id: [0; 32] }),
            Just(Ask::DropBlob { id: [0; 32] }),
            Just(Ask::Connect { connection: 1, address: String::new() }),
            Just(Ask::Send { connection: 1, bytes: vec![] }),
            Just(Ask::Receive { connection: 1, length: 100, within_ms: 1 }),
            Just(Ask::Receive { connection: 1, length: u32::MAX, within_ms: 1 }),
            Just(Ask::HangUp { connection: 1 }),
        ]
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let length = prop_oneof![
            0usize..600,
            Just(512),
            Just(QUOTE_LIMIT + 1),
            Just(JOURNAL_PIECE),
            Just(JOURNAL_PIECE + 1),
            Just(STREAM_PIECE + 1)
        ];
        prop_oneof![
            Just(Reply::Done),
            Just(Reply::Missing),
            length.prop_map(|length| Reply::Bytes(vec![7; length])),
            ".{0,900}".prop_map(Reply::Failed),
        ]
    }

    proptest! {
        #[test]
        fn a_lying_host_gets_no_further(ask in any_ask(), reply in any_reply()) {
            let (sender, receiver) = std::sync::mpsc::channel();
            let mut asks = Asks::default();
            let question = asks.open(&ask, Box::new(move |reply| sender.send(reply).unwrap())).ok().unwrap();
            prop_assert!(asks.reply(question + 1, reply.clone()).is_none());
            let (answered, seen) = asks.reply(question, reply.clone()).unwrap();
            answered(seen);
            prop_assert!(asks.reply(question, reply.clone()).is_none());
            let seen = receiver.try_recv().unwrap();
            let gives = matches!(
                ask,
                Ask::QuoteTarget | Ask::Quote { .. } | Ask::Journal { .. } | Ask::Blob { .. } | Ask::Receive { .. }
            );
            let may_lack = matches!(ask, Ask::Journal { .. } | Ask::Blob { .. } | Ask::Receive { .. });
            match seen {
                Reply::Done => prop_assert!(!gives && reply == Reply::Done),
                Reply::Missing => prop_assert!(may_lack),
                Reply::Bytes(bytes) => match ask {
                    Ask::QuoteTarget => prop_assert_eq!(bytes.len(), 512),
                    Ask::Quote { .. } => prop_assert!(!bytes.is_empty() && bytes.len() <= QUOTE_LIMIT),
                    Ask::Journal { length, .. } => prop_assert!(bytes.len() <= length as usize),
                    Ask::Receive { length, .. } => prop_assert!(bytes.len() <= STREAM_PIECE.min(length as usize)),
                    _ => prop_assert!(may_lack),
                },
                Reply::Failed(reason) => prop_assert!(reason.chars().count() <= MAX_REASON),
            }
        }
    }

    #[test]
    fn questions_are_bounded() {
        let mut asks = Asks::default();
        for _ in 0..MAX_OPEN {
            assert!(asks.open(&Ask::QuoteTarget, Box::new(|_| {})).is_ok());
        }
        assert!(asks.open(&Ask::QuoteTarget, Box::new(|_| {})).is_err());
        asks.forget(3);
        assert!(asks.open(&Ask::QuoteTarget, Box::new(|_| {})).is_ok());
        assert_eq!(asks.take_all().len(), MAX_OPEN);
    }
}
