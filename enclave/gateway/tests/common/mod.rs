//! A gateway on the loopback interface, and clients that look at its certificate.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use teemate_evidence::extension::{Evidence, OID};
use teemate_evidence::quote::Quote;
use teemate_gateway::testing::{ADA, Echo, MRENCLAVE, SimulatedAttester, parts};
use teemate_gateway::{Gateway, Settings, State};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::der::{Decode, Encode};

/// Long enough for anything here; only a hang takes as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Running {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub echo: Arc<Echo>,
    pub attester: Arc<SimulatedAttester>,
    pub receipts: Arc<teemate_gateway::Receipts>,
}

/// A gateway that serves.
pub fn start(settings: Settings) -> Running {
    let running = start_failing(settings, 0);
    wait_for(|| running.gateway.state() == State::Serving);
    running
}

/// A gateway whose first attempts to get a quote fail.
pub fn start_failing(settings: Settings, failures: usize) -> Running {
    let (echo, attester) = (Arc::new(Echo::default()), SimulatedAttester::failing(failures));
    let parts = parts(attester.clone(), echo.clone(), settings).unwrap();
    let (address, receipts) = (parts.listener.local_addr().unwrap(), parts.receipts.clone());
    Running { gateway: Gateway::start(parts).unwrap(), address, echo, attester, receipts }
}

/// Waits until something holds; a test that waits for ever has failed.
pub fn wait_for(holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A runtime for clients.
pub fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it hangs") })
}

/// Takes a certificate whose quote has the right measurement and binds the certificate's key. That the quote is genuine is for others to
/// test.
#[derive(Debug, Default)]
pub struct Verifier {
    /// Certificates looked at.
    pub seen: AtomicUsize,
    /// Digests of certificates.
    pub certificates: std::sync::Mutex<std::collections::BTreeSet<Vec<u8>>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = x509_cert::Certificate::from_der(certificate).unwrap();
        let inner = parsed.tbs_certificate();
        let extension = inner.extensions().unwrap().iter().find(|extension| extension.extn_id.to_string() == OID).unwrap();
        let evidence = Evidence::decode(extension.extn_value.as_bytes()).unwrap();
        let quote = Quote::parse(&evidence.quote).unwrap();
        assert_eq!(quote.body.mrenclave(), MRENCLAVE);
        evidence.check(&inner.subject_public_key_info().to_der().unwrap(), &quote.body.report_data()).unwrap();
        self.seen.fetch_add(1, SeqCst);
        self.certificates.lock().unwrap().insert(certificate.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        panic!("TLS 1.2 is not spoken");
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &default_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A connector that offers these protocols.
pub fn connector(verifier: Arc<Verifier>, protocols: &[&[u8]]) -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub async fn tls(address: SocketAddr, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    connector(Arc::default(), protocols).connect(name, stream).await.unwrap()
}

/// A client of HTTP/1.1.
pub struct Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Http1 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = tls(address, &[b"http/1.1"]).await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Http1(sender)
    }

    pub async fn send(&mut self, request: http::Request<Full<Bytes>>) -> Result<(u16, http::HeaderMap, Bytes), hyper::Error> {
        self.0.ready().await?;
        collect(self.0.send_request(request).await?).await
    }
}

/// A client of HTTP/2.
#[derive(Clone)]
pub struct Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>);

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = tls(address, &[b"h2"]).await;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Http2(sender)
    }

    pub async fn send(&mut self, request: http::Request<Full<Bytes>>) -> Result<(u16, http::HeaderMap, Bytes), hyper::Error> {
        self.0.ready().await?;
        collect(self.0.send_request(request).await?).await
    }
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> Result<(u16, http::HeaderMap, Bytes), hyper::Error> {
    let (parts, body) = response.into_parts();
    Ok((parts.status.as_u16(), parts.headers, body.collect().await?.to_bytes()))
}

/// A request with Ada's credentials.
pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    anonymous(method, path, body, Some(ADA))
}

/// A request with any credentials, or none.
pub fn anonymous(method: &str, path: &str, body: impl Into<Bytes>, credentials: Option<&str>) -> http::Request<Full<Bytes>> {
    use base64::Engine;
    let mut request = http::Request::builder().method(method).uri(format!("https://localhost{path}")).header("host", "localhost");
    if let Some(credentials) = credentials {
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        request = request.header("authorization", format!("Basic {encoded}"));
    }
    request.body(Full::new(body.into())).unwrap()
}
