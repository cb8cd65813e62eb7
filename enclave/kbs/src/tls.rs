//! TLS to a broker.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::KbsError;

/// TLS over a connection to the broker of this name. Its certificate must chain to one of these roots (DER), which the owner gives: the
/// authorities that a machine trusts are the host's choice. So is the clock by which the certificate's dates are judged.
///
/// # Errors
/// When the name or the roots are of no use.
pub fn https<S: Read + Write>(connection: S, name: &str, roots: &[Vec<u8>]) -> Result<StreamOwned<ClientConnection, S>, KbsError> {
    let store = trusted(roots)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| KbsError::Tls(error.to_string()))?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    // Each broker is asked seldom, and a session kept is a secret kept.
    config.resumption = rustls::client::Resumption::disabled();
    let client = ClientConnection::new(Arc::new(config), server_name(name)?).map_err(|error| KbsError::Tls(error.to_string()))?;
    Ok(StreamOwned::new(client, connection))
}

/// The store of these roots.
///
/// # Errors
/// When there is none, or one is no certificate.
pub fn trusted(roots: &[Vec<u8>]) -> Result<RootCertStore, KbsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.as_slice()).into_owned()).map_err(|error| KbsError::Tls(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(KbsError::Tls("no root certificate is given".into()));
    }
    Ok(store)
}

/// The name that a certificate must be for: of a host, or an address without brackets.
///
/// # Errors
/// When it is neither.
pub fn server_name(name: &str) -> Result<ServerName<'static>, KbsError> {
    ServerName::try_from(name.to_owned()).map_err(|error| KbsError::Tls(error.to_string()))
}
