//! What can go wrong, in sentences for the owner of the secrets.

use std::io;

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KbsError {
    /// The connection.
    #[error("the connection to the key broker failed: {0}")]
    Connection(#[from] io::Error),
    /// The broker's address or certificate is of no use.
    #[error("TLS to the key broker is not possible: {0}")]
    Tls(String),
    /// No quote could be had.
    #[error("no quote for the key broker: {0}")]
    Quote(io::Error),
    /// The broker knows neither the session nor believes the evidence.
    #[error("the key broker does not accept this enclave at {step}: {detail}. Compare its policy with `teemate attest`")]
    Refused {
        /// Which step.
        step: &'static str,
        /// Its words.
        detail: String,
    },
    /// The enclave is known and may not have this.
    #[error("the key broker's policy does not give {resource} to this enclave: {detail}")]
    Denied {
        /// Which resource.
        resource: String,
        /// Its words.
        detail: String,
    },
    /// There is no such resource.
    #[error("the key broker has no {resource}: {detail}")]
    NotFound {
        /// Which resource.
        resource: String,
        /// Its words.
        detail: String,
    },
    /// Another status.
    #[error("the key broker answered {step} with status {status}: {detail}")]
    Status {
        /// Which step.
        step: &'static str,
        /// Status of HTTP.
        status: u16,
        /// Its words.
        detail: String,
    },
    /// An answer that does not follow the protocol.
    #[error("the key broker's answer to {step} cannot be read: {what}")]
    Malformed {
        /// Which step.
        step: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// An answer beyond the limit.
    #[error("the key broker's answer is too long: at most {limit} bytes are read")]
    TooLarge {
        /// Limit.
        limit: usize,
    },
    /// Something that the protocol has and this client has not.
    #[error("the key broker wants {what}, which is not supported")]
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// The secret is not encrypted for this session, or was changed.
    #[error("what the key broker sent does not decrypt: it was not encrypted for this session, or was changed on its way")]
    Decrypt,
    /// What names no broker.
    #[error("{0:?} is not the address of a key broker: https://HOST[:PORT][/PATH]. Without TLS the host could play the broker")]
    Address(String),
    /// A name that no resource has.
    #[error("{0:?} is not a resource: kbs:///REPOSITORY/TYPE/TAG, each of letters, digits and . _ -")]
    Resource(String),
    /// The processor gave no random numbers.
    #[error("no random numbers can be had")]
    Random,
}
