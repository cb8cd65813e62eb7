//! Answers what the service asks of the host: sealed bytes and quotes. One thread an enclave, in the order of the questions, since what
//! is appended to a journal must keep its order. What concerns a connection goes to that connection's own thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use teemate_control::service::{Ask, Reply, ToService};

use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::locks::Lock;
use crate::node::Shop;
use crate::streams::Streams;

/// Questions that may wait. The service asks few at a time; one that floods gets refusals.
const QUEUE: usize = 1024;

/// Where questions are left.
pub struct Answers {
    questions: SyncSender<(u64, Ask)>,
    streams: Streams,
}

impl Answers {
    /// Starts the thread; it ends with the last `Answers`, or with the channel.
    pub fn start(shop: &Arc<Shop>, channel: &Arc<Channel>) -> Result<Answers> {
        let (sender, questions) = sync_channel(QUEUE);
        let streams = Streams::new(channel);
        let (shop, channel) = (Arc::clone(shop), Arc::clone(channel));
        let spawned = std::thread::Builder::new().name("answers".to_owned()).spawn(move || work(&shop, &channel, &questions));
        spawned.map_err(Error::system("start a thread of the node"))?;
        Ok(Answers { questions: sender, streams })
    }

    /// Leaves a question; one that can't wait is refused. Never blocks for long.
    pub fn leave(&self, channel: &Channel, question: u64, ask: Ask) {
        if matches!(ask, Ask::Connect { .. } | Ask::Send { .. } | Ask::Receive { .. } | Ask::HangUp { .. }) {
            return self.streams.leave(channel, question, ask);
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.questions.try_send((question, ask)) {
            let reply = Reply::Failed(format!("{QUEUE} questions wait for the host already"));
            let _ = channel.send(&ToService::Reply { question, reply });
        }
    }
}

fn work(shop: &Shop, channel: &Channel, questions: &Receiver<(u64, Ask)>) {
    for (question, ask) in questions {
        let sealed = shop.sealed.locked().answer(&ask);
        let reply = sealed.unwrap_or_else(|| shop.quote(&ask));
        if channel.send(&ToService::Reply { question, reply }).is_err() {
            return;
        }
    }
}
