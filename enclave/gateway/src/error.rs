//! What can be wrong with the gateway as a whole.

use std::io;

/// Why the gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// No random numbers.
    #[error("no random numbers for keys: the processor's generator does not answer")]
    Random,
    /// A certificate could not be made.
    #[error("no certificate can be made: {0}")]
    Certificate(String),
    /// TLS could not be set up.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The runtime or the listener.
    #[error("the gateway's {what} can't be set up: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It was told to end before it had a quote.
    #[error("the gateway was stopped before the machine gave a quote; the last attempt: {0}")]
    NoQuote(String),
}

impl GatewayError {
    /// A failure of this piece.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| GatewayError::Io { what, source }
    }
}
