//! Accepts connections, keeps them few enough, and lets them go.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::activity::{Activity, Verdict};
use crate::connection::{self, Version};
use crate::lock;
use crate::nodes;
use crate::paced::Paced;
use crate::service::Service;

/// Pauses after an accept that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What came of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that finished what they had begun.
    pub finished: usize,
    /// Connections that were cut at the deadline.
    pub cut: usize,
}

/// The server.
pub struct Server {
    service: Arc<Service>,
    tls: TlsAcceptor,
    table: Mutex<Table>,
    /// A connection ended.
    freed: Notify,
    /// The server stops accepting.
    stop: Notify,
}

#[derive(Default)]
struct Table {
    connections: HashMap<u64, (Arc<Activity>, Address)>,
    addresses: HashMap<Address, usize>,
    next: u64,
    stopping: bool,
}

/// Who counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Address([u8; 8]);

impl Address {
    fn of(ip: IpAddr) -> Self {
        let mut bytes = [0; 8];
        match ip.to_canonical() {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.copy_from_slice(&ip.octets()[..8]),
        }
        Address(bytes)
    }
}

impl Server {
    /// A server that has not begun.
    pub fn new(service: Arc<Service>, config: Arc<ServerConfig>) -> Arc<Self> {
        Arc::new(Server { service, tls: TlsAcceptor::from(config), table: Mutex::default(), freed: Notify::new(), stop: Notify::new() })
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        lock(&self.table).connections.len()
    }

    /// Accepts until [`Server::drain`].
    pub async fn run(self: &Arc<Self>, listener: &TcpListener) {
        let mut pause = FIRST_PAUSE;
        while !lock(&self.table).stopping {
            if !self.has_room() {
                tokio::select! {
                    () = self.freed.notified() => {}
                    () = self.stop.notified() => {}
                    // Something may have become idle meanwhile.
                    () = sleep(LONGEST_PAUSE) => {}
                }
                continue;
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.notified() => continue,
            };
            match accepted {
                Ok((stream, peer)) => {
                    pause = FIRST_PAUSE;
                    self.admit(stream, peer.ip());
                }
                // The peer's doing, and the next one may be in the queue already.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                // Mostly no descriptors: those come back when connections end, so one is asked to.
                Err(_) => {
                    self.service.metrics().accept_failed.add();
                    self.cut_idlest();
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.stop.notified() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Stops accepting, lets every connection finish what it has begun, and cuts those that have not by then.
    pub async fn drain(&self, limit: Duration) -> Drained {
        let deadline = Instant::now() + limit;
        let all: Vec<_> = {
            let mut table = lock(&self.table);
            table.stopping = true;
            table.connections.values().map(|(activity, _)| activity.clone()).collect()
        };
        self.stop.notify_one();
        for activity in &all {
            activity.close();
        }
        let _ = timeout_at(deadline, self.empty()).await;
        let late: Vec<_> = lock(&self.table).connections.values().map(|(activity, _)| activity.clone()).collect();
        for activity in &late {
            activity.cut();
        }
        self.empty().await;
        Drained { finished: all.len().saturating_sub(late.len()), cut: late.len() }
    }

    async fn empty(&self) {
        while self.connections() > 0 {
            // Checked again now and then: `run` waits for the same signal.
            let _ = timeout(Duration::from_millis(20), self.freed.notified()).await;
        }
    }

    /// Whether one more may come. When all places are taken, the idlest connection is asked to leave its own.
    fn has_room(&self) -> bool {
        let limit = self.service.limits().connections;
        if self.connections() < limit {
            return true;
        }
        self.cut_idlest();
        false
    }

    fn cut_idlest(&self) {
        let table = lock(&self.table);
        let quiet = table.connections.values().filter_map(|(activity, _)| Some((activity.quiet_since()?, activity)));
        if let Some((_, idlest)) = quiet.min_by_key(|(since, _)| *since) {
            self.service.metrics().refused_idlest.add();
            idlest.cut();
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, ip: IpAddr) {
        let metrics = self.service.metrics();
        metrics.accepted.add();
        let Some((place, activity)) = Place::take(self, Address::of(ip)) else {
            metrics.refused_address.add();
            metrics.closed.add();
            return;
        };
        let server = self.clone();
        tokio::spawn(async move {
            let _place = place;
            server.converse(stream, activity).await;
        });
    }

    /// One connection from its first byte.
    async fn converse(&self, stream: TcpStream, activity: Arc<Activity>) {
        let (limits, metrics) = (self.service.limits(), self.service.metrics());
        // Answers are written whole; waiting for more would only delay their end.
        let _ = stream.set_nodelay(true);
        let stream = Paced::new(stream, limits.patience, limits.farewell);
        let mut handshake = std::pin::pin!(timeout(limits.handshake, self.tls.accept(stream)));
        let shaken = loop {
            tokio::select! {
                shaken = &mut handshake => break shaken,
                // Who was accepted before a drain began is served; only a connection that is cut ends here.
                () = activity.changed() => match activity.verdict(Instant::now(), limits) {
                    Verdict::Wait(_) | Verdict::Finish => {}
                    Verdict::Cut | Verdict::Resets | Verdict::Slow => return,
                },
            }
        };
        let Ok(Ok(stream)) = shaken else {
            metrics.handshakes_failed.add();
            return;
        };
        metrics.handshakes.add();
        let version = Version::of(stream.get_ref().1.alpn_protocol());
        if let Ok(channel) = stream.get_ref().1.export_keying_material([0; 32], nodes::wire::EXPORTER, None) {
            activity.bind(channel);
        }
        connection::serve(stream, version, self.service.clone(), activity).await;
    }
}

/// A connection's place in the table, until it is dropped.
struct Place {
    server: Arc<Server>,
    id: u64,
}

impl Place {
    fn take(server: &Arc<Server>, address: Address) -> Option<(Self, Arc<Activity>)> {
        let mut table = lock(&server.table);
        let count = table.addresses.entry(address).or_default();
        if *count >= server.service.limits().per_address {
            return None;
        }
        *count += 1;
        let id = table.next;
        table.next += 1;
        let activity = Activity::new();
        if table.stopping {
            // Accepted in the very moment in which a drain began.
            activity.close();
        }
        table.connections.insert(id, (activity.clone(), address));
        Some((Place { server: server.clone(), id }, activity))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = lock(&self.server.table);
        if let Some((_, address)) = table.connections.remove(&self.id)
            && let Some(count) = table.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                table.addresses.remove(&address);
            }
        }
        drop(table);
        self.server.service.metrics().closed.add();
        self.server.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_or_a_network_of_one() {
        let of = |text: &str| Address::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
