//! Several nodes that serve the same owners: one keeps what changes (the *source*), the others follow it.
//!
//! | module | what |
//! |---|---|
//! | [`wire`] | what they say to each other |
//! | [`source`] | the one that is followed |
//! | [`follower`] | one that follows: it joins, copies, passes on what changes something |
//! | [`following`] | what a follower's clients meet |
//!
//! Both ends are enclaves of one signer and product, and each has verified the other before anything is told: the follower by the source's
//! certificate, as every client does; the source by a quote that binds the very connection it comes over. What is copied is owners, and what
//! they deployed; any node can serve any call then, also when the source is gone. Calls are made where they arrive; their records go to the
//! source, where each node finds those of the others. There is no agreement among nodes: what changes something waits for the source.
//! `docs/decisions/0035-nodes-that-follow.md`.

pub mod follower;
pub mod following;
pub mod source;
pub mod wire;

use std::io;
use std::sync::Arc;

use teemate_attestation::{Collateral, Policy};

/// What this node is to others.
#[derive(Clone, Default)]
pub enum Role {
    /// Nothing.
    #[default]
    Alone,
    /// They follow it.
    Source(Arc<source::Source>),
    /// It follows one.
    Follower(Arc<follower::Follower>),
}

/// What another node is accepted by.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// What this enclave is itself.
    pub policy: Policy,
    /// For quotes of processors; simulated ones need none.
    pub collateral: Option<Collateral>,
}

/// An error of the other end, or on the way there.
fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}
