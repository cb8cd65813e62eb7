//! The certificate that clients verify: a key of this process, a quote that binds it.

use std::io;
use std::sync::{Arc, RwLock, Weak};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use teemate_evidence::{SecretKey, certificate as x509};
use teemate_service::{certificate, quotes};

use super::{Node, thread};

/// How long the host has for each of the two steps to a quote.
const LIMIT: Duration = Duration::from_secs(20);
/// Age at which a certificate is made anew: verifiers ask how old the evidence is.
const AGE: Duration = Duration::from_secs(3600);
/// Names in the certificate. Who verifies looks at the quote.
const NAMES: &[&str] = &["teemate", "localhost"];

/// The certificate in use.
pub struct Certificates {
    node: Arc<Node>,
    secret: SecretKey,
    key: Arc<dyn SigningKey>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Certificates")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

/// TLS 1.3 with a new key and a first certificate, which is renewed as long as the configuration is in use.
///
/// # Errors
/// When the host gives no quote.
pub fn config(node: &Arc<Node>) -> io::Result<Arc<ServerConfig>> {
    let secret = certificate::fresh_key();
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(x509::pkcs8(&secret)));
    let key = provider::sign::any_ecdsa_type(&der).map_err(io::Error::other)?;
    let current = RwLock::new(certified(node, &secret, &key)?);
    let certificates = Arc::new(Certificates { node: node.clone(), secret, key, current });
    let renewed = Arc::downgrade(&certificates);
    thread("certificate", 256 << 10, move || keep_fresh(&renewed))?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    Ok(Arc::new(config))
}

fn certified(node: &Node, secret: &SecretKey, key: &Arc<dyn SigningKey>) -> io::Result<Arc<CertifiedKey>> {
    let quote = |report_data| quotes::quote(|ask| node.ask(ask, LIMIT), report_data).map(|(quote, _)| quote);
    let der = certificate::attested(secret, NAMES, quote)?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(der)], key.clone())))
}

fn keep_fresh(certificates: &Weak<Certificates>) {
    const STEP: Duration = Duration::from_secs(5);
    let mut age = Duration::ZERO;
    loop {
        std::thread::sleep(STEP);
        age += STEP;
        let Some(certificates) = certificates.upgrade() else { return };
        if age < AGE {
            continue;
        }
        match certified(&certificates.node, &certificates.secret, &certificates.key) {
            Ok(new) => {
                *certificates.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = new;
                age = Duration::ZERO;
            }
            // The old one serves on; who wants younger evidence refuses it.
            Err(error) => eprintln!("teemate-database: no new certificate: {error}"),
        }
    }
}
