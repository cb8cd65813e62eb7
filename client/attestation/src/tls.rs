//! Connections that end in an enclave.
//!
//! The server's certificate is not judged by names, dates or authorities but by the quote in it: the quote must satisfy the policy and bind
//! the certificate's key, and the handshake proves that the other end has that key. Only then does the caller get the connection. TLS 1.3
//! only; no session is ever resumed and no early data sent, so that each connection is verified by itself.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use sha2::{Digest, Sha256};

use crate::certificate::Certificate;
use crate::{Collateral, Endpoint, Policy, Refusal, Verified};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error("{endpoint} can't be reached: {source}")]
    Unreachable {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// Who answers is not accepted. Nothing was sent to it but the handshake.
    #[error("{endpoint} is refused: {refusal}")]
    Refused {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// The handshake failed for another reason.
    #[error("no TLS connection to {endpoint}: {why}")]
    Handshake {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        why: String,
    },
}

impl Error {
    fn handshake(endpoint: &Endpoint, why: &dyn std::fmt::Display) -> Error {
        Error::Handshake { endpoint: endpoint.clone(), why: why.to_string() }
    }
}

/// What was found out in a handshake.
#[derive(Clone, Debug)]
pub struct Attested {
    /// What the quote in the certificate says.
    pub verified: Verified,
    /// SHA-256 of the SubjectPublicKeyInfo that the other end has the key of.
    pub tls_key: [u8; 32],
}

/// ALPN's name of HTTP/1.1.
pub(crate) const HTTP: &str = "http/1.1";

/// For how long a certificate that was judged good need not be judged again, in seconds. That the other end has its key each handshake
/// proves; what its quote says is the same for the same bytes, as long as no date has passed and no collateral was renewed meanwhile.
const KNOWN: u64 = 60;

/// The certificate that was accepted last: its SHA-256, when, and what was found.
type Known = Arc<Mutex<Option<([u8; 32], u64, Attested)>>>;

/// Judges the certificate of one connection.
#[derive(Debug)]
pub(crate) struct Verifier {
    known: Known,
    policy: Arc<Policy>,
    collateral: Option<Arc<Collateral>>,
    algorithms: WebPkiSupportedAlgorithms,
    outcome: Mutex<Option<Result<Attested, Refusal>>>,
}

impl Verifier {
    /// What comes of a handshake that ended so: what it gave, and whom it was made with.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Handshake`].
    pub(crate) fn verdict<T>(&self, endpoint: &Endpoint, done: io::Result<T>) -> Result<(T, Attested), Error> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (outcome, done) {
            (Some(Err(refusal)), _) => Err(Error::Refused { endpoint: endpoint.clone(), refusal: Box::new(refusal) }),
            (_, Err(error)) => Err(Error::handshake(endpoint, &error)),
            (None, Ok(_)) => Err(Error::handshake(endpoint, &"it showed no certificate")),
            (Some(Ok(attested)), Ok(made)) => Ok((made, attested)),
        }
    }

    fn judge(&self, certificate: &[u8], now: u64) -> Result<Attested, Refusal> {
        let digest: [u8; 32] = Sha256::digest(certificate).into();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((same, when, attested)) = &*known
            && *same == digest
            && (*when..*when + KNOWN).contains(&now)
        {
            return Ok(attested.clone());
        }
        // Nobody else judges meanwhile: who comes second finds what the first found.
        let certificate = Certificate::from_der(certificate)?;
        let verified = certificate.verify(self.collateral.as_deref(), &self.policy, now)?;
        let attested = Attested { verified, tls_key: Sha256::digest(&certificate.spki).into() };
        *known = Some((digest, now, attested.clone()));
        Ok(attested)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let outcome = self.judge(end_entity, now.as_secs());
        let accepted = outcome.is_ok();
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        if accepted {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Makes connections under a policy.
#[derive(Clone, Debug)]
pub struct Connector {
    policy: Arc<Policy>,
    collateral: Option<Arc<Collateral>>,
    provider: Arc<CryptoProvider>,
    timeout: Duration,
    known: Known,
}

impl Connector {
    /// Under this policy, with its collateral if it names any.
    ///
    /// # Errors
    /// [`Refusal::BadCollateral`].
    pub fn new(policy: Policy) -> Result<Self, Refusal> {
        let collateral = policy.collateral.as_deref().map(Collateral::load).transpose()?.map(Arc::new);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Connector { policy: Arc::new(policy), collateral, provider, timeout: Duration::from_secs(20), known: Known::default() })
    }

    /// With this collateral instead.
    pub fn with_collateral(mut self, collateral: Collateral) -> Self {
        self.collateral = Some(Arc::new(collateral));
        self.known = Known::default();
        self
    }

    /// How long connecting and the handshake may take together.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The collateral.
    pub fn collateral(&self) -> Option<&Collateral> {
        self.collateral.as_deref()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A verifier, the configuration of the one connection that it is for, and whom TLS asks for. `protocol` is what ALPN (RFC 7301) offers;
    /// `None`: a protocol that has no name there.
    ///
    /// # Errors
    /// [`Error::Handshake`].
    pub(crate) fn configure(
        &self,
        endpoint: &Endpoint,
        protocol: Option<&str>,
    ) -> Result<(Arc<Verifier>, Arc<ClientConfig>, ServerName<'static>), Error> {
        let verifier = Arc::new(Verifier {
            known: self.known.clone(),
            policy: self.policy.clone(),
            collateral: self.collateral.clone(),
            algorithms: self.provider.signature_verification_algorithms,
            outcome: Mutex::new(None),
        });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Error::handshake(endpoint, &error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        // A resumed session would bring no certificate, and so no quote.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.alpn_protocols = protocol.map(|name| name.as_bytes().to_vec()).into_iter().collect();
        let name = endpoint.server_name().ok_or_else(|| Error::handshake(endpoint, &"its name can't be a host's"))?;
        Ok((verifier, Arc::new(config), name))
    }

    /// Connects, and verifies before it gives the connection away.
    ///
    /// # Errors
    /// [`Error`].
    pub fn connect(&self, endpoint: &Endpoint) -> Result<Stream, Error> {
        let deadline = Instant::now() + self.timeout;
        let socket = dial(endpoint, deadline).map_err(|source| Error::Unreachable { endpoint: endpoint.clone(), source })?;
        let (verifier, connection) = self.client(endpoint, Some(HTTP))?;
        let mut plain = Plain { connection, socket, deadline: Some(deadline) };
        let done = plain.handshake();
        let ((), attested) = verifier.verdict(endpoint, done)?;
        plain.deadline = None;
        Ok(Stream { plain, attested })
    }

    /// The same over a connection that somebody else made, and that may lead to anybody. The caller sees to it that this ends.
    ///
    /// # Errors
    /// [`Error`].
    pub fn over<S: Read + Write>(&self, endpoint: &Endpoint, mut carried: S) -> Result<StreamOwned<ClientConnection, S>, Error> {
        let (verifier, mut connection) = self.client(endpoint, None)?;
        let mut done = Ok(());
        while connection.is_handshaking() && done.is_ok() {
            done = connection.complete_io(&mut carried).map(drop);
        }
        verifier.verdict(endpoint, done)?;
        Ok(StreamOwned::new(connection, carried))
    }

    fn client(&self, endpoint: &Endpoint, protocol: Option<&str>) -> Result<(Arc<Verifier>, ClientConnection), Error> {
        let (verifier, config, name) = self.configure(endpoint, protocol)?;
        let connection = ClientConnection::new(config, name).map_err(|error| Error::handshake(endpoint, &error))?;
        Ok((verifier, connection))
    }
}

/// The first of the name's addresses that answers.
fn dial(endpoint: &Endpoint, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, remaining(deadline)?) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long")) } else { Ok(left) }
}

struct Plain {
    connection: ClientConnection,
    socket: TcpStream,
    deadline: Option<Instant>,
}

impl Plain {
    /// Sets the socket's timeouts to what is left.
    fn hurry(&self) -> io::Result<()> {
        let left = self.deadline.map(remaining).transpose()?;
        self.socket.set_read_timeout(left)?;
        self.socket.set_write_timeout(left)
    }

    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.hurry()?;
            self.connection.write_tls(&mut self.socket).map_err(late)?;
        }
        Ok(())
    }

    /// Takes what the other end sent; false: it will send no more.
    fn receive(&mut self) -> io::Result<bool> {
        self.hurry()?;
        let more = self.connection.read_tls(&mut self.socket).map_err(late)? > 0;
        if let Err(error) = self.connection.process_new_packets() {
            // So that the other end learns of it.
            let _ = self.send();
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(more)
    }

    fn handshake(&mut self) -> io::Result<()> {
        while self.connection.is_handshaking() {
            self.send()?;
            if self.connection.is_handshaking() && !self.receive()? {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection in the handshake"));
            }
        }
        self.send()
    }
}

/// A socket's timeout has two names.
fn late(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::Error::new(io::ErrorKind::TimedOut, "it took too long") } else { error }
}

/// A connection to an enclave that was verified.
pub struct Stream {
    plain: Plain,
    attested: Attested,
}

impl Stream {
    /// What the quote in the certificate says.
    pub fn verified(&self) -> &Verified {
        &self.attested.verified
    }

    /// SHA-256 of the SubjectPublicKeyInfo of this connection.
    pub fn tls_key(&self) -> [u8; 32] {
        self.attested.tls_key
    }

    /// From now on everything must be done by then; `None`: it takes as long as it takes.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.plain.deadline = deadline;
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.plain.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An end without TLS's own farewell is an error here: the host may have cut it.
                result => return result,
            }
            self.plain.send()?;
            // At the socket's end the reader knows which end it was.
            self.plain.receive()?;
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.plain.connection.writer().write(bytes)?;
        self.plain.send()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.plain.send()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stream").field("attested", &self.attested).finish_non_exhaustive()
    }
}
