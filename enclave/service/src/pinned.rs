//! A server that an owner named: where it is, and by which certificates it is known. TLS to it ends here.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// The port of `https`.
const PORT: u16 = 443;
/// Most root certificates of one server.
const ROOTS: usize = 16;
/// Longest address.
const MAX_ADDRESS: usize = 512;

/// Why a server can't be reached so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What names none.
    #[error("{0:?} is no address: https://HOST[:PORT][/PATH]")]
    Address(String),
    /// The certificates, or what TLS makes of them.
    #[error("{0}")]
    Tls(String),
}

/// The server: its address, and the roots to one of which its certificate must chain. The owner gives both: the authorities that a machine
/// trusts are the host's choice. So is the clock by which the certificate's dates are judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pinned {
    /// Of a host, or an address without brackets.
    name: String,
    port: u16,
    /// Empty, or a path without `/` at its ends.
    path: String,
    roots: Vec<Vec<u8>>,
}

/// Whether a text can stand in the head of a request without meaning something else there.
pub fn is_harmless(text: &str) -> bool {
    text.len() <= MAX_ADDRESS && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
}

impl Pinned {
    /// The server at `https://HOST[:PORT][/PATH]`, known by these certificates in PEM.
    ///
    /// # Errors
    /// What is wrong with the two.
    pub fn new(address: &str, roots: &str) -> Result<Pinned, Error> {
        let bad = || Error::Address(address.chars().take(300).collect());
        let rest = address.strip_prefix("https://").filter(|rest| is_harmless(rest)).ok_or_else(bad)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').filter(|(name, _)| name.contains(':')).ok_or_else(bad)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => PORT,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?
            }
            _ => return Err(bad()),
        };
        server_name(name).map_err(|_| bad())?;
        let unreadable = |error: &dyn fmt::Display| Error::Tls(format!("the root certificates are not in PEM: {error}"));
        let mut ders = Vec::new();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            ders.push(root.map_err(|error| unreadable(&error))?.to_vec());
            if ders.len() > ROOTS {
                return Err(Error::Tls(format!("more than {ROOTS} root certificates are given")));
            }
        }
        trusted(&ders)?;
        Ok(Pinned { name: name.to_ascii_lowercase(), port, path: path.trim_matches('/').to_owned(), roots: ders })
    }

    /// Where to connect to: `HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }

    /// Host, and the port if it is not the usual one.
    pub fn authority(&self) -> String {
        if self.port == PORT { self.host() } else { self.endpoint() }
    }

    /// Empty, or a path without `/` at its ends.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// TLS over a connection that is said to lead there. The handshake is made when something is sent.
    ///
    /// # Errors
    /// None that [`Pinned::new`] has not met.
    pub fn over<S: Read + Write>(&self, connection: S) -> Result<StreamOwned<ClientConnection, S>, Error> {
        let failed = |error: rustls::Error| Error::Tls(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let mut config = builder.with_root_certificates(trusted(&self.roots)?).with_no_client_auth();
        // Each is met seldom, and a session kept is a secret kept.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), server_name(&self.name)?).map_err(failed)?, connection))
    }

    fn host(&self) -> String {
        if self.name.contains(':') { format!("[{}]", self.name) } else { self.name.clone() }
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "https://{}", self.authority())?;
        if self.path.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.path) }
    }
}

fn trusted(roots: &[Vec<u8>]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.as_slice()).into_owned()).map_err(|error| Error::Tls(error.to_string()))?;
    }
    if store.is_empty() { Err(Error::Tls("no root certificate is given".to_owned())) } else { Ok(store) }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|error| Error::Tls(error.to_string()))
}
