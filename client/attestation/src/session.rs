//! TeeMate's own paths on an attested connection ([`teemate_evidence::api`]). What the enclave says is compared with what its quote says.

use std::time::Duration;

use serde::de::DeserializeOwned;
use teemate_evidence::api::{AttestRequest, AttestResponse, Info, MAX_ANSWER, ReceiptBundle, path};
use teemate_evidence::{Binding, Purpose};

use crate::http::{self, Client, Request};
use crate::tls::Stream;
use crate::{Collateral, Connector, Endpoint, Refusal, Verified, tls, verify};

/// How long each of these requests may take. A quote takes the longest.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why an enclave's answer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] tls::Error),
    /// The request failed.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The enclave answered with an error.
    #[error("{path} answered {status}: {why}")]
    Answer {
        /// Which path.
        path: String,
        /// Status.
        status: u16,
        /// What it says.
        why: String,
    },
    /// The answer is none.
    #[error("the answer of {path} can't be understood ({why}); enclave and command line must be of fitting versions")]
    Nonsense {
        /// Which path.
        path: String,
        /// Why.
        why: String,
    },
    /// What it presents is refused.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// It contradicts its own quote.
    #[error("the enclave says that its {what} is another than its quote says")]
    Contradiction {
        /// What.
        what: &'static str,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Refused(Box::new(refusal))
    }
}

/// A fresh quote that was verified.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// What it says.
    pub verified: Verified,
    /// What it binds.
    pub binding: Binding,
    /// The quote.
    pub quote: Vec<u8>,
    /// The collateral that came along.
    pub collateral: Option<serde_json::Value>,
}

/// A conversation on one attested connection.
pub struct Session {
    client: Client,
    connector: Connector,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn open(connector: &Connector, endpoint: &Endpoint) -> Result<Self, Error> {
        let stream = connector.connect(endpoint)?;
        Ok(Session { client: Client::new(stream, endpoint.authority()), connector: connector.clone() })
    }

    /// What the certificate's quote says.
    pub fn verified(&self) -> &Verified {
        self.client.stream().verified()
    }

    /// For other requests on the same connection.
    pub fn client(&mut self) -> &mut Client<Stream> {
        &mut self.client
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request<'_>) -> Result<T, Error> {
        let answer = self.client.send_within(request, MAX_ANSWER, PATIENCE)?;
        if answer.status != 200 {
            let why = serde_json::from_slice::<serde_json::Value>(&answer.body).ok();
            let why = why.as_ref().and_then(|why| why["error"].as_str()).unwrap_or("it does not say why").chars().take(500).collect();
            return Err(Error::Answer { path: request.path.to_owned(), status: answer.status, why });
        }
        serde_json::from_slice(&answer.body).map_err(|error| Error::Nonsense { path: request.path.to_owned(), why: error.to_string() })
    }

    /// What the enclave says of itself, as far as it agrees with its quote.
    ///
    /// # Errors
    /// [`Error`].
    pub fn info(&mut self) -> Result<Info, Error> {
        let info: Info = self.ask(&Request { method: "GET", path: path::INFO, ..Request::default() })?;
        let verified = self.verified();
        for (same, what) in [
            (info.mrenclave == verified.mrenclave, "MRENCLAVE"),
            (info.mrsigner == verified.mrsigner, "MRSIGNER"),
            ((info.isv_prod_id, info.isv_svn) == (verified.isv_prod_id, verified.isv_svn), "product or version"),
            (info.simulation == verified.simulation, "kind of quoting enclave"),
        ] {
            if !same {
                return Err(Error::Contradiction { what });
            }
        }
        Ok(info)
    }

    /// A quote that answers `nonce`, for the key of this very connection.
    ///
    /// # Errors
    /// [`Error`].
    pub fn attest(&mut self, nonce: [u8; 32], now: u64) -> Result<Fresh, Error> {
        let body = serde_json::to_vec(&AttestRequest { nonce })
            .map_err(|error| Error::Nonsense { path: path::ATTEST.to_owned(), why: error.to_string() })?;
        let request = Request { method: "POST", path: path::ATTEST, body: Some(("application/json", &body)), ..Request::default() };
        let answer: AttestResponse = self.ask(&request)?;
        let own = match (self.connector.collateral(), &answer.collateral) {
            (None, Some(sent)) => Some(Collateral::from_json(sent)?),
            _ => None,
        };
        let collateral = self.connector.collateral().or(own.as_ref());
        let verified = verify(&answer.quote, collateral, self.connector.policy(), now)?;
        check_fresh(&answer.binding, &verified, &nonce)?;
        if answer.binding.tls_key != self.client.stream().tls_key() {
            return Err(Refusal::ConnectionKey.into());
        }
        if verified.mrenclave != self.verified().mrenclave {
            return Err(Error::Contradiction { what: "MRENCLAVE" });
        }
        Ok(Fresh { verified, binding: answer.binding, quote: answer.quote, collateral: answer.collateral })
    }

    /// The receipt of an activation, as it came: [`crate::Document`] verifies it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn receipt(&mut self, activation: &str) -> Result<ReceiptBundle, Error> {
        let path = format!("{}{activation}", path::RECEIPTS);
        self.ask(&Request { method: "GET", path: &path, ..Request::default() })
    }
}

/// Whether a verified quote answers this nonce.
pub(crate) fn check_fresh(binding: &Binding, verified: &Verified, nonce: &[u8; 32]) -> Result<(), Refusal> {
    binding.check(&verified.report_data)?;
    if binding.purpose != Purpose::Attest || binding.nonce.as_ref() != Some(nonce) {
        return Err(Refusal::Nonce);
    }
    Ok(())
}

/// 32 random bytes.
///
/// # Errors
/// The system has none.
pub fn nonce() -> Result<[u8; 32], getrandom::Error> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}
