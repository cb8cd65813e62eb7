//! TLS 1.3 with the certificate of the moment: the key stays, the certificate is made anew before its quote is old. Connections go on, for a
//! certificate is looked at when they begin.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use teemate_evidence::{SecretKey, certificate};

/// The certificate that is shown. Before the first, no handshake succeeds.
pub struct Shown {
    key: Arc<dyn SigningKey>,
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl Shown {
    /// None yet, of this key.
    ///
    /// # Errors
    /// When the key can't be used.
    pub fn new(secret: &SecretKey) -> Result<Shown, rustls::Error> {
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certificate::pkcs8(secret)));
        Ok(Shown { key: provider::sign::any_ecdsa_type(&der)?, current: RwLock::new(None) })
    }

    /// Shows this one (DER) from now on.
    pub fn replace(&self, der: Vec<u8>) {
        let certified = CertifiedKey::new(vec![CertificateDer::from(der)], self.key.clone());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// TLS 1.3 only, no early data, clients without certificates.
///
/// # Errors
/// Those of rustls.
pub fn config(shown: Arc<Shown>) -> Result<ServerConfig, rustls::Error> {
    Ok(ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(shown))
}
