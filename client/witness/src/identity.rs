//! The witness's key and certificate. Owners give the certificate to their databases, which take no other.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use teemate_evidence::{SecretKey, certificate};

use crate::{Error, failed, replace};

/// The files.
const KEY: &str = "key.der";
const CERTIFICATE: &str = "certificate.pem";
/// Seconds that a certificate is in date. It is trusted because the owner gave it; a date would only end that at a bad time.
const VALID: u64 = 30 * 365 * 24 * 3600;
/// Seconds by which clocks may differ.
const BEFORE: u64 = 24 * 3600;

/// The key and the certificate.
pub struct Identity {
    key: Vec<u8>,
    certificate: Vec<u8>,
    path: PathBuf,
}

impl Identity {
    /// What the directory has; made at the first time, for these names and addresses.
    ///
    /// # Errors
    /// [`Error`]: what is there can't be used, or written.
    pub fn open(directory: &Path, names: &[String]) -> Result<Identity, Error> {
        let (key, path) = (directory.join(KEY), directory.join(CERTIFICATE));
        if !key.exists() {
            let secret = fresh_key()?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let made = certificate::of_server(&secret, &names, now.saturating_sub(BEFORE), now.saturating_add(VALID));
            // Without its key a certificate is worth nothing, so the key comes last.
            replace(directory, CERTIFICATE, certificate::pem(&made).as_bytes())?;
            replace(directory, KEY, &certificate::pkcs8(&secret))?;
        }
        let damaged = |path: &Path, why: String| Error::Damaged { path: path.to_owned(), why };
        let text = fs::read(&path).map_err(failed(&path, "read"))?;
        let certificate = CertificateDer::from_pem_slice(&text).map_err(|error| damaged(&path, error.to_string()))?.to_vec();
        Ok(Identity { key: fs::read(&key).map_err(failed(&key, "read"))?, certificate, path })
    }

    /// The file that owners give to their databases.
    pub fn certificate(&self) -> &Path {
        &self.path
    }

    /// TLS 1.3 with it.
    ///
    /// # Errors
    /// [`Error::Tls`]: key and certificate do not belong together.
    pub fn tls(&self) -> Result<Arc<ServerConfig>, Error> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(self.certificate.clone())], key)?;
        Ok(Arc::new(config))
    }
}

fn fresh_key() -> Result<SecretKey, Error> {
    loop {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| Error::Serve(std::io::Error::other(error.to_string())))?;
        // One in 2^32 is no key.
        if let Some(key) = SecretKey::from_bytes(&bytes) {
            return Ok(key);
        }
    }
}
