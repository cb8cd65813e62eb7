//! What a peer may use of the gateway. Every size, count and time that somebody outside decides has its bound here.

use std::time::Duration;

/// More time than anything gets. Clocks can add it to now.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Limits of the transport. Those of an owner (calls a minute, calls at one time) are the API's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time. When all are taken, the one that has been without a request for longest makes room.
    pub connections: usize,
    /// Connections at one time from one address (IPv6: from one /64). The host tells the address, so this is help against strangers and
    /// none against the host.
    pub per_address: usize,
    /// TLS handshake.
    pub handshake: Duration,
    /// Head of a request. With HTTP/1.1 it counts from the end of the request before, so it is the idle time as well.
    pub head: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// A connection without a request.
    pub idle: Duration,
    /// What a body in either direction gets beside [`Limits::rate`], and a peer that takes nothing at all.
    pub patience: Duration,
    /// Bytes a second that a peer has to send or take, once `patience` is used up.
    pub rate: usize,
    /// From the end of the body to the answer.
    pub answer: Duration,
    /// Bodies under way in all, bytes. What would go beyond is answered 503.
    pub bodies: usize,
    /// Streams of one HTTP/2 connection.
    pub streams: u32,
    /// Requests of one connection that it takes back beyond those that it let finish, before it is closed.
    pub resets: u32,
    /// What a connection that is told to close gets to do so.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            per_address: 512,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            head_bytes: 32 << 10,
            headers: 100,
            idle: Duration::from_secs(90),
            patience: Duration::from_secs(20),
            rate: 16 << 10,
            answer: Duration::from_secs(180),
            bodies: 512 << 20,
            streams: 100,
            resets: 100,
            farewell: Duration::from_secs(3),
        }
    }
}

impl Limits {
    /// How long a body of this many bytes may take.
    pub fn transfer(&self, bytes: usize) -> Duration {
        let more = Duration::from_secs((bytes / self.rate.max(1)) as u64);
        self.patience.saturating_add(more).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_gets_time_for_its_size() {
        let limits = Limits { patience: Duration::from_secs(5), rate: 1000, ..Limits::default() };
        assert_eq!(limits.transfer(0), Duration::from_secs(5));
        assert_eq!(limits.transfer(10_000), Duration::from_secs(15));
        // No division by zero, no overflow.
        assert_eq!(Limits { rate: 0, ..limits }.transfer(usize::MAX), LONGEST);
    }
}
