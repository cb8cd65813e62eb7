//! Counts of what the transport does. They hold nothing of a user: no names, no sizes, no addresses.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters, as they run.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Metrics {
            /// What has been counted so far.
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Connections that ended. `accepted - closed` are open.
    closed,
    /// TLS handshakes done.
    handshakes,
    /// TLS handshakes that failed or took too long.
    handshakes_failed,
    /// Requests whose head arrived.
    requests,
    /// Requests that were taken back before they were answered: a stream reset, or the connection gone.
    abandoned,
    /// Answers below 400.
    answered_well,
    /// Answers 400 to 499.
    answered_client_error,
    /// Answers from 500 on.
    answered_server_error,
    /// Connections refused because one address has too many.
    refused_address,
    /// Connections closed to make room.
    refused_idlest,
    /// Connections closed because they reset too many requests.
    refused_resets,
    /// Connections closed because the peer was too slow to take an answer.
    refused_slow,
    /// Bodies larger than their route takes.
    refused_large,
    /// Bodies that came too slowly.
    refused_late,
    /// Bodies for which there was no room.
    refused_room,
    /// Requests without or with bad credentials.
    refused_credentials,
    /// Requests that took longer than an answer may.
    refused_time,
    /// Accepts that failed, mostly for want of descriptors.
    accept_failed,
    /// Certificates made.
    certificates,
    /// Quotes that could not be had.
    quotes_failed,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
