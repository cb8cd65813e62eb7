//! TLS 1.3 as both servers are asked by it. Whoever answers is accepted: this measures, it does not trust.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// Accepts every certificate.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// For clients of both.
pub fn config() -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Anybody(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The client's end of a connection.
pub fn client(config: &Arc<ClientConfig>) -> Result<ClientConnection> {
    let mut client = ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?;
    client.set_buffer_limit(None);
    Ok(client)
}

/// Writes a certificate and its key for Redis: P-256, as the enclave's.
pub fn certificate(certificate: &Path, key: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("no certificate can be made")?;
    let put = |path: &Path, name: &str, der: &[u8]| {
        let text = format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", lines(der));
        std::fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
    };
    put(certificate, "CERTIFICATE", made.cert.der())?;
    put(key, "PRIVATE KEY", &made.signing_key.serialize_der())
}

/// Base64 in lines of 64.
fn lines(der: &[u8]) -> String {
    der.chunks(48).map(|line| STANDARD.encode(line)).collect::<Vec<_>>().join("\n")
}
