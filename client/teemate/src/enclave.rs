//! An enclave that was verified, as its owner asks it: OpenWhisk's API and TeeMate's own paths, JSON both ways.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use teemate_attestation::http::{self, Request};
use teemate_attestation::memory::{self, Memory, Presented, Whose};
use teemate_attestation::{Connector, Endpoint, Policy, Refusal, Session, policy, session};

use crate::profile::{self, Profile};

/// Longest answer: an action with its code, in base64.
const MAX_ANSWER: usize = 80 << 20;
/// For how long a conversation rests before it is rather begun anew: less than the gateway waits for a further request.
const IDLE: Duration = Duration::from_secs(10);

/// Why the enclave was not asked, or its answer is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The profile.
    #[error(transparent)]
    Profile(#[from] profile::Error),
    /// The endpoint's text.
    #[error("{endpoint:?} is no endpoint: {why}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// The policy.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// Its collateral.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection, or what the enclave is.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// What was remembered of its store.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The exchange.
    #[error("{0}; whether the request was carried out is not known")]
    Http(#[from] http::Error),
    /// The answer.
    #[error("the enclave's answer is not JSON ({0}); enclave and command line must be of fitting versions")]
    Nonsense(serde_json::Error),
    /// The gateway refused.
    #[error("{message} (HTTP {status})")]
    Answered {
        /// Status.
        status: u16,
        /// Its sentence.
        message: String,
        /// The whole answer.
        body: Value,
    },
}

/// An answer below 400.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// JSON; null when there is no body.
    pub body: Value,
}

/// Where an enclave is, what it must be, and who asks.
pub struct Enclave {
    endpoint: Endpoint,
    connector: Connector,
    namespace: Option<String>,
    auth: Option<String>,
}

impl Enclave {
    /// That of a profile.
    ///
    /// # Errors
    /// When profile, endpoint or policy can't be used.
    pub fn of(profile: &str) -> Result<Enclave, Error> {
        let Profile { endpoint, policy, namespace, auth } = Profile::load(profile)?;
        Ok(Enclave { namespace: Some(namespace), ..Enclave::new(&endpoint, &policy, Some(&auth))? })
    }

    /// At this endpoint, under this policy, with this key (`uuid:key`) if one has any.
    ///
    /// # Errors
    /// When endpoint or policy can't be used.
    pub fn new(endpoint: &str, policy: &Path, auth: Option<&str>) -> Result<Enclave, Error> {
        let wrong = |why| Error::Endpoint { endpoint: endpoint.to_owned(), why };
        let endpoint = endpoint.parse().map_err(wrong)?;
        let connector = Connector::new(Policy::load(policy)?)?;
        Ok(Enclave { endpoint, connector, namespace: None, auth: auth.map(str::to_owned) })
    }

    /// As `https://host:port`.
    pub fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    /// Verifies the enclave, looks whether its store goes on from where it was last seen, and asks.
    ///
    /// # Errors
    /// [`Error`]; nothing was sent to an enclave that the policy does not accept.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
        self.open()?.ask(method, path, &[], body)
    }

    /// Verifies the enclave, and looks whether its store goes on from where it was last seen: for more than one request.
    ///
    /// # Errors
    /// [`Error`]; nothing was sent to an enclave that the policy does not accept.
    pub fn open(&self) -> Result<Conversation, Error> {
        let mut session = Session::open(&self.connector, &self.endpoint)?;
        self.look_for_rollback(&mut session)?;
        let credentials = self.auth.as_ref().map(|auth| format!("Basic {}", STANDARD.encode(auth)));
        Ok(Conversation { session, credentials, used: Instant::now() })
    }

    fn look_for_rollback(&self, session: &mut Session) -> Result<(), Error> {
        let Some(path) = Memory::default_path() else { return session.info().map(drop).map_err(Error::from) };
        // Opened before it is asked.
        let mut memory = Memory::open(&path)?;
        let info = session.info()?;
        let whose = Whose { node: &self.endpoint.to_string(), mrsigner: info.mrsigner, owner: self.namespace.as_deref() };
        memory.observe_one_of(&whose, Presented::from(&info))?;
        Ok(())
    }
}

/// Requests on one verified connection, one after the other.
pub struct Conversation {
    session: Session,
    credentials: Option<String>,
    /// When it was last used.
    used: Instant,
}

impl Conversation {
    /// Whether it has rested for so long that the other side may have closed it.
    pub fn is_over(&self) -> bool {
        self.used.elapsed() > IDLE
    }

    /// Asks, with further headers.
    ///
    /// # Errors
    /// [`Error`]. After any but [`Error::Answered`] the conversation is over.
    pub fn ask(&mut self, method: &str, path: &str, more: &[(&str, &str)], body: Option<&Value>) -> Result<Answer, Error> {
        let body = body.map(ToString::to_string);
        let mut headers = more.to_vec();
        headers.extend(self.credentials.iter().map(|value| ("Authorization", value.as_str())));
        let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
        let response = self.session.client().send(&Request { method, path, headers: &headers, body }, MAX_ANSWER)?;
        self.used = Instant::now();
        let value = if response.body.is_empty() { Value::Null } else { serde_json::from_slice(&response.body).map_err(Error::Nonsense)? };
        if response.status < 400 {
            return Ok(Answer { status: response.status, body: value });
        }
        let message = value["error"].as_str().unwrap_or("the gateway gives no reason").to_owned();
        Err(Error::Answered { status: response.status, message, body: value })
    }
}

/// A name as one segment of a path, or as a value of a query.
pub fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("a b/ü.js"), "a%20b%2F%C3%BC.js");
    }

    #[test]
    fn what_can_not_be_used_is_named_before_anything_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none.toml");
        assert!(matches!(Enclave::new("https://h:1", &missing, None), Err(Error::Policy(_))));
        assert!(matches!(Enclave::new("http://h:1", &missing, None), Err(Error::Endpoint { .. })));
    }
}
