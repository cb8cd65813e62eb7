//! Why there is no session, or none any more.

use std::io;

/// Why there is no session, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The processor did not do what was asked of it.
    #[error("the processor gives no report: {0}")]
    Platform(#[from] io::Error),
    /// Key agreement or random numbers failed.
    #[error("the keys can't be agreed on")]
    Keys,
    /// A packet of another kind or length than this step has.
    #[error("a packet that does not belong here")]
    Misplaced,
    /// A REPORT whose MAC is not for this enclave, or which binds another conversation.
    #[error("a report that was not made for this conversation")]
    Report,
    /// A REPORT of another program, signer, version or mode.
    #[error("the other end is not the same program in the same mode")]
    Stranger,
    /// A record that is not the next one: changed, repeated, out of order, or another session's.
    #[error("a record that is not the next one of this session")]
    Record,
    /// An earlier record did not open.
    #[error("the session is over")]
    Over,
}
