//! What the gateway needs of the service that it is part of.

use std::io;

use teemate_control::function::{Failure, FunctionSpec, Outcome};
use teemate_kbs::{Broker, KbsError, ResourceId};

use crate::router::Owner;

/// Runs functions. Every `done` is called exactly once, on a thread of the service; it must not block.
pub trait Functions: Send + Sync + 'static {
    /// Compiles and keeps a function under `spec.name`; gives the SHA-256 of the code.
    fn deploy(&self, spec: FunctionSpec, code: Vec<u8>, done: Box<dyn FnOnce(Result<[u8; 32], Failure>) + Send>);

    /// Forgets a function. Calls of it that run go on.
    fn delete(&self, id: &str);

    /// Calls a function; gives the number of the call, for [`Functions::cancel`].
    fn invoke(&self, call: Call, done: Box<dyn FnOnce(Outcome) + Send>) -> u64;

    /// Gives a call up; its `done` is still called.
    fn cancel(&self, call: u64);
}

/// One call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Id under which it was deployed: opaque, made at random by the gateway, for the host sees it.
    pub function: String,
    /// JSON object.
    pub params: Vec<u8>,
    /// Environment of this call, beside the function's own.
    pub env: Vec<(String, String)>,
}

/// Gives quotes of this enclave. Its calls may block for as long as the machine's quoting service takes.
pub trait Attester: Send + Sync + 'static {
    /// A quote with this report data.
    ///
    /// # Errors
    /// When the machine's quoting service gives none.
    fn quote(&self, report_data: [u8; 64]) -> io::Result<Vec<u8>>;

    /// Whether quotes come from a simulator and so prove nothing.
    fn is_simulation(&self) -> bool;
}

/// Has key brokers of owners release secrets to this enclave. Its calls block for as long as a broker and the machine's quoting service take.
pub trait KeyBrokers: Send + Sync + 'static {
    /// These secrets of a broker, in their order. `owner` is for whom it is asked: the broker is told, unless it is
    /// nobody of this enclave's owners (an empty text).
    ///
    /// # Errors
    /// Why they cannot be had.
    fn release(&self, owner: &str, broker: &Broker, resources: &[ResourceId]) -> Result<Vec<Vec<u8>>, KbsError>;
}

/// Reaches none.
impl KeyBrokers for () {
    fn release(&self, _: &str, _: &Broker, _: &[ResourceId]) -> Result<Vec<Vec<u8>>, KbsError> {
        Err(KbsError::Connection(io::Error::other("this service has no way to key brokers")))
    }
}

/// Who may ask. Calls may block for as long as the store takes.
pub trait Accounts: Send + Sync + 'static {
    /// The owner with these credentials, compared in constant time.
    fn authenticate(&self, uuid: &str, key: &str) -> Option<Owner>;

    /// Turns an invitation into credentials, made here and given to the first who presents it.
    ///
    /// # Errors
    /// [`ClaimError`].
    fn claim(&self, token: &str) -> Result<Claimed, ClaimError>;
}

/// Credentials of a new owner. They are shown once.
#[derive(Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Namespace.
    pub namespace: String,
    /// First half of the credentials.
    pub uuid: String,
    /// Second half: the secret.
    pub key: String,
}

/// Why an invitation was not turned into credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It is unknown, too old, or somebody claimed it before: a sentence for the claimer.
    #[error("{0}")]
    Refused(String),
    /// The store failed.
    #[error("{0}")]
    Failed(String),
}
