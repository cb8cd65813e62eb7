//! Links to other enclaves of this program on this machine: calls for which there is no room here run there.
//!
//! The enclave that serves (the *opener*) hands functions and calls to a *worker* that the node built; outcomes come back the same way.
//! Everything goes through the node as packets of a [`teemate_link::Session`], agreed on after each end has checked a report of the other.
//! A link that breaks, for whatever reason, stays broken: calls that are away are answered as lost, once, and what the worker still
//! says is not heard.
//!
//! The node decides where there is room, as it decides who gets a thread. It can't learn what it moves, nor make a call run twice: a call
//! leaves [`Jobs`](crate::jobs::Jobs)' waiting room once, and only while nothing of it has run.
//!
//! `serving` is the end that gives calls, `working` the end that takes them.

mod serving;
mod working;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use teemate_control::function::{FunctionSpec, Outcome};
use teemate_control::service::{FromService, LinkNews, LinkOrder};
use teemate_link::handshake::is_offer;
use teemate_link::{Answerer, LinkError, Opener, Platform, Session};

use self::serving::Serving;
use self::working::Working;
use crate::channel::Outbox;
use crate::service::Service;
use crate::{lock, spec};

/// Links at one time.
const MAX_LINKS: usize = 64;

/// What the serving enclave says to a worker. Its order is that of the session.
#[derive(Serialize, Deserialize)]
enum ToWorker {
    /// Compile and keep this.
    Function { id: u64, spec: FunctionSpec, code: Vec<u8> },
    /// No call of it comes any more.
    Forget { id: u64 },
    /// Run it. `number` is never given twice in a session.
    Call { number: u64, function: u64, params: Vec<u8>, env: Vec<(String, String)> },
    /// Nobody waits for this call.
    Cancel { number: u64 },
}

/// What a worker says.
#[derive(Serialize, Deserialize)]
enum FromWorker {
    /// What came of a call.
    Done { number: u64, outcome: Outcome },
}

enum Link {
    /// We made an offer.
    Opening(Opener),
    /// We answered one.
    Answering(Box<Answerer>),
    /// We give calls.
    Serving(Serving),
    /// We take them.
    Working(Working),
}

/// All links, by the node's number for the other enclave. The number says only whose packets are whose: what a peer may do follows from
/// the keys.
pub struct Links {
    platform: Box<dyn Platform>,
    table: Mutex<HashMap<u64, Link>>,
    /// Tells links of one peer apart that follow each other.
    serials: AtomicU64,
}

impl Links {
    /// None, on this platform.
    pub fn new(platform: Box<dyn Platform>) -> Links {
        Links { platform, table: Mutex::default(), serials: AtomicU64::new(1) }
    }
}

/// Seals a message and leaves it for the node. Under the lock of the table, so that records leave in the order of their numbers.
fn say<M: Serialize>(outbox: &Outbox, peer: u64, session: &mut Session, message: &M) -> Result<(), LinkError> {
    let plain = postcard::to_stdvec(message).map_err(|_| LinkError::Misplaced)?;
    let packet = session.seal(&plain)?;
    outbox.post_here(FromService::Link { peer, news: LinkNews::Packet(packet) });
    Ok(())
}

/// Opens a record and reads the message in it.
fn hear<M: for<'a> Deserialize<'a>>(session: &mut Session, packet: &[u8]) -> Result<M, LinkError> {
    let plain = session.open(packet)?;
    postcard::from_bytes(&plain).map_err(|_| LinkError::Misplaced)
}

impl Service {
    /// The node says something about a link. On the reader.
    pub(crate) fn link(self: &Arc<Self>, peer: u64, order: LinkOrder) {
        match order {
            LinkOrder::Open => self.open_link(peer),
            LinkOrder::Packet(packet) => self.packet(peer, &packet),
            LinkOrder::Drain => self.drain_link(peer),
            LinkOrder::Close(reason) => {
                let reason = format!("the enclave that it ran in is gone: {}", spec::shorten(&reason));
                let gone = lock(&self.links.table).remove(&peer);
                self.end_link(gone, &reason);
            }
        }
    }

    fn open_link(&self, peer: u64) {
        let mut table = lock(&self.links.table);
        if table.contains_key(&peer) || table.len() >= MAX_LINKS {
            return;
        }
        match Opener::new(&*self.links.platform) {
            Ok((opener, offer)) => {
                table.insert(peer, Link::Opening(opener));
                self.news(peer, LinkNews::Packet(offer));
            }
            Err(error) => self.news(peer, LinkNews::Down(error.to_string())),
        }
    }

    fn packet(self: &Arc<Self>, peer: u64, packet: &[u8]) {
        let mut table = lock(&self.links.table);
        let (next, result) = match table.remove(&peer) {
            // Whoever opened a link takes no offer over it.
            Some(Link::Opening(opener)) => match opener.answered(&*self.links.platform, packet) {
                Ok((session, proof)) => {
                    self.news(peer, LinkNews::Packet(proof));
                    self.news(peer, LinkNews::Up);
                    (Some(Link::Serving(Serving::new(session))), Ok(None))
                }
                Err(error) => (None, Err(error)),
            },
            Some(Link::Serving(mut serving)) => {
                let heard = serving.hear(packet);
                (Some(Link::Serving(serving)), heard.map(|done| done.map(Heard::Done)))
            }
            // A worker belongs to whom it talks to now: another offer ends what was before it.
            old @ (None | Some(Link::Answering(_) | Link::Working(_))) if is_offer(packet) => {
                let answered = if table.len() >= MAX_LINKS { Err(LinkError::Over) } else { Answerer::new(&*self.links.platform, packet) };
                match answered {
                    Ok((answerer, answer)) => {
                        self.news(peer, LinkNews::Packet(answer));
                        (Some(Link::Answering(Box::new(answerer))), Ok(Some(Heard::Replaced(Box::new(old)))))
                    }
                    Err(error) => (old, Err(error)),
                }
            }
            Some(Link::Answering(answerer)) => match answerer.proved(&*self.links.platform, packet) {
                Ok(session) => {
                    let serial = self.links.serials.fetch_add(1, SeqCst);
                    (Some(Link::Working(Working::new(session, serial))), Ok(None))
                }
                Err(error) => (None, Err(error)),
            },
            Some(Link::Working(mut working)) => {
                let serial = working.serial;
                let heard = working.hear(packet);
                (Some(Link::Working(working)), heard.map(|task| task.map(|task| Heard::Task(serial, Box::new(task)))))
            }
            None => (None, Err(LinkError::Misplaced)),
        };
        match result {
            Ok(heard) => {
                if let Some(link) = next {
                    table.insert(peer, link);
                }
                drop(table);
                match heard {
                    Some(Heard::Done(done)) => self.came_back(peer, *done),
                    Some(Heard::Task(serial, task)) => self.work_for(peer, serial, *task),
                    Some(Heard::Replaced(old)) => self.end_link(*old, ""),
                    None => {}
                }
            }
            Err(error) => {
                drop(table);
                self.news(peer, LinkNews::Down(error.to_string()));
                self.end_link(next, &format!("the link to the enclave that it ran in broke: {error}"));
            }
        }
    }

    /// Calls of a link that is no more: those that are away are lost, those that run here for another are given up.
    fn end_link(self: &Arc<Self>, link: Option<Link>, reason: &str) {
        match link {
            Some(Link::Serving(serving)) => self.lose_all(serving, reason),
            Some(Link::Working(working)) => self.stop_working(working),
            Some(Link::Opening(_) | Link::Answering(_)) | None => {}
        }
    }

    fn news(&self, peer: u64, news: LinkNews) {
        self.outbox.post_here(FromService::Link { peer, news });
    }
}

/// What a packet came to.
enum Heard {
    Done(Box<serving::Back>),
    Task(u64, Box<working::Task>),
    /// A link that another has taken the place of.
    Replaced(Box<Option<Link>>),
}
