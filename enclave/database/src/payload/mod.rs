//! The database as a node's payload: in an enclave that its containers share.
//!
//! Threads: the reader (the caller's), the sender, the administrator (opens and closes the database when the node says so), the server, one
//! that renews the certificate, and writers, each of which waits until the node lets a snapshot container in, and then *is* in that
//! container ([`containers`]). Clients come over TLS alone: the host has the sockets.

pub mod certificate;
pub mod containers;
pub mod keeping;
mod opening;
mod reaching;

use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use teemate_control::PROTOCOL;
use teemate_control::function::{Failure, FailureKind};
use teemate_control::service::{Ask, FromService, Order, OrderDone, Reply, ToService};
use teemate_service::asks::{self, Asks};
use teemate_service::channel::{Channel, Inbox, Outbox};
use teemate_service::stream::Host;
use teemate_service::{lock, thread};

use self::containers::Containers;
use self::opening::Open;
use crate::persistence::disk::Witness;

/// The node, as the payload's other parts see it.
pub struct Node {
    outbox: Outbox,
    asks: Mutex<Asks>,
}

impl Host for Node {
    fn ask_wait(&self, ask: Ask, limit: Duration) -> io::Result<Reply> {
        asks::wait(&self.asks, &self.outbox, ask, limit)
    }

    fn tell(&self, ask: Ask) {
        asks::tell(&self.asks, &self.outbox, ask);
    }
}

/// Serves the node at this channel until it hangs up or says so; the database answers clients of the listener that the node gave.
///
/// # Errors
/// When a thread can't be started, or the channel fails.
pub fn serve(channel: Channel) -> io::Result<()> {
    let node = Arc::new(Node { outbox: Outbox::new(channel), asks: Mutex::default() });
    let containers = Containers::start(&node)?;
    let sender = thread("sender", 256 << 10, {
        let node = node.clone();
        move || node.outbox.run()
    })?;
    let (orders, received) = std::sync::mpsc::channel();
    thread("administrator", 1 << 20, {
        let (node, containers) = (node.clone(), containers.clone());
        move || Administrator { node, containers, open: None, memory: None }.work(&received)
    })?;
    node.outbox.post_here(FromService::Ready { protocol: PROTOCOL });
    read(channel, &node, &containers, &orders)?;
    asks::fail_all(&node.asks, "the node has hung up");
    // The administrator closes what is open, and ends.
    drop(orders);
    node.outbox.close();
    let _ = sender.join();
    Ok(())
}

fn read(channel: Channel, node: &Node, containers: &Containers, orders: &Sender<(u64, Order)>) -> io::Result<()> {
    let mut inbox = Inbox::new(channel);
    while let Some(message) = inbox.receive()? {
        let no_functions = || Failure::new(FailureKind::Invalid, "this enclave is a database: it has no functions");
        match message {
            ToService::Hello { .. } => asks::fail_all(&node.asks, "the node was replaced before it replied"),
            ToService::Deploy { request, .. } | ToService::Delete { request, .. } | ToService::Invoke { request, .. } => {
                node.outbox.post_here(FromService::Failed { request, failure: no_functions() });
            }
            ToService::ContainerLost { container, reason } => containers.lost(container, reason),
            ToService::Stats { request } => {
                let (running, idle_workers, answered) = containers.counts();
                node.outbox.post_here(FromService::Stats { request, functions: 0, running, idle_workers, answered });
            }
            ToService::Reply { question, reply } => {
                let replied = lock(&node.asks).reply(question, reply);
                if let Some((answered, reply)) = replied {
                    answered(reply);
                }
            }
            ToService::Administer { request, order } => {
                if orders.send((request, order)).is_err() {
                    let failure = Failure::new(FailureKind::Internal, "the administrator's thread has ended; the service's log says why");
                    node.outbox.post_here(FromService::Failed { request, failure });
                }
            }
            // There are no calls, no containers that wait for another, and no other enclaves to send anything to.
            ToService::Cancel { .. } | ToService::Reclaim { .. } | ToService::Link { .. } | ToService::Elsewhere { .. } => {}
            ToService::Shutdown => return Ok(()),
        }
    }
    Ok(())
}

/// Carries out orders, one after the other: some wait for the disk.
struct Administrator {
    node: Arc<Node>,
    containers: Arc<Containers>,
    open: Option<Open>,
    /// What this enclave itself remembers, and of which database.
    memory: Option<(String, Witness)>,
}

impl Administrator {
    fn work(mut self, orders: &Receiver<(u64, Order)>) {
        for (request, order) in orders {
            let done = self.carry_out(order);
            self.node.outbox.post(match done {
                Ok(()) => FromService::Administered { request, done: OrderDone::Done },
                Err(failure) => FromService::Failed { request, failure },
            });
        }
    }

    fn carry_out(&mut self, order: Order) -> Result<(), Failure> {
        let internal = |why: String| Failure::new(FailureKind::Internal, why);
        match order {
            Order::Serve if self.open.as_ref().is_some_and(Open::is_serving) => Ok(()),
            Order::Serve => {
                // One that ended by itself is opened again.
                self.open = None;
                let open = Open::new(&self.node, &self.containers, &mut self.memory);
                self.open = Some(open.map_err(|error| internal(format!("the database can't be opened: {error}")))?);
                Ok(())
            }
            Order::Drain { within_ms } => match &self.open {
                Some(open) => {
                    open.close(Duration::from_millis(within_ms)).map_err(internal)?;
                    self.open = None;
                    Ok(())
                }
                None => Ok(()),
            },
            Order::Nodes(_) => Err(Failure::new(
                FailureKind::Invalid,
                "a database follows another one by REPLICAOF: start the node without --join and --accept-nodes",
            )),
            Order::Invite { .. } | Order::Owners | Order::RemoveOwner { .. } => {
                Err(Failure::new(FailureKind::Invalid, "this enclave is a database: it has users of its own (ACL), and no owners"))
            }
        }
    }
}
