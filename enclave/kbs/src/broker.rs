//! Where a broker is, and by which authorities it is known.

use std::fmt;
use std::io::{Read, Write};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConnection, StreamOwned};

use crate::http::is_harmless;
use crate::{Http, KbsError, tls};

/// The port of `https`.
const PORT: u16 = 443;
/// Most root certificates of one broker.
const ROOTS: usize = 16;

/// A broker that an owner trusts with secrets: its address, and the roots to one of which its certificate must chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broker {
    /// Of a host, or an address without brackets.
    name: String,
    port: u16,
    /// Empty, or a path without `/` at its ends.
    prefix: String,
    roots: Vec<Vec<u8>>,
}

impl Broker {
    /// The broker at `https://HOST[:PORT][/PATH]`, known by these certificates in PEM.
    ///
    /// # Errors
    /// What is wrong with the two.
    pub fn new(address: &str, roots: &str) -> Result<Broker, KbsError> {
        let bad = || KbsError::Address(address.chars().take(300).collect());
        let rest = address.strip_prefix("https://").filter(|rest| is_harmless(rest)).ok_or_else(bad)?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
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
        tls::server_name(name).map_err(|_| bad())?;
        let unreadable = |error: &dyn fmt::Display| KbsError::Tls(format!("the root certificates are not in PEM: {error}"));
        let mut ders = Vec::new();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            ders.push(root.map_err(|error| unreadable(&error))?.to_vec());
            if ders.len() > ROOTS {
                return Err(KbsError::Tls(format!("more than {ROOTS} root certificates are given")));
            }
        }
        tls::trusted(&ders)?;
        Ok(Broker { name: name.to_ascii_lowercase(), port, prefix: prefix.trim_matches('/').to_owned(), roots: ders })
    }

    /// Where to connect to: `HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }

    /// HTTP over TLS over a connection that is said to lead there. The handshake is made at the first request.
    ///
    /// # Errors
    /// None that [`Broker::new`] has not met.
    pub fn over<S: Read + Write>(&self, connection: S) -> Result<Http<StreamOwned<ClientConnection, S>>, KbsError> {
        let stream = tls::https(connection, &self.name, &self.roots)?;
        Http::new(stream, &self.authority(), &self.prefix)
    }

    fn host(&self) -> String {
        if self.name.contains(':') { format!("[{}]", self.name) } else { self.name.clone() }
    }

    fn authority(&self) -> String {
        if self.port == PORT { self.host() } else { self.endpoint() }
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::Authority;

    static ROOTS: LazyLock<String> = LazyLock::new(|| Authority::new("a root").pem());

    proptest! {
        /// What is accepted leads to one place, and can be written down and read again.
        #[test]
        fn odd_addresses_are_refused_or_lead_somewhere(rest in r"[a-z0-9:./\[\]@%_-]{0,24}|\PC{0,12}") {
            let Ok(broker) = Broker::new(&format!("https://{rest}"), &ROOTS) else { return Ok(()) };
            let endpoint = broker.endpoint();
            let (host, port) = endpoint.rsplit_once(':').unwrap();
            prop_assert!(!host.is_empty() && !host.contains(['/', '@', '%']) && port.parse::<u16>().is_ok_and(|port| port != 0));
            prop_assert_eq!(Broker::new(&broker.to_string(), &ROOTS).unwrap(), broker);
        }
    }

    #[test]
    fn addresses_are_of_https_alone() {
        let roots = Authority::new("a root").pem();
        let new = |address: &str| Broker::new(address, &roots).map(|broker| (broker.endpoint(), broker.to_string()));
        for (address, endpoint, shown) in [
            ("https://Broker.example", "broker.example:443", "https://broker.example"),
            ("https://broker.example:8443/a/b/", "broker.example:8443", "https://broker.example:8443/a/b"),
            ("https://127.0.0.1:8080", "127.0.0.1:8080", "https://127.0.0.1:8080"),
            ("https://[::1]:8080/x", "[::1]:8080", "https://[::1]:8080/x"),
            ("https://[::1]", "[::1]:443", "https://[::1]"),
        ] {
            assert_eq!(new(address).unwrap(), (endpoint.to_owned(), shown.to_owned()));
        }
        for bad in [
            "",
            "broker",
            "http://broker",
            "https://",
            "https:///x",
            "https://:1",
            "https://a:0",
            "https://a:",
            "https://a:65536",
            "https://a:+1",
            "https://a:1:2",
            "https://user@a",
            "https://a b",
            "https://a/?x",
            "https://a/#x",
            "https://a\r\nX: y",
            "https://[a]",
            "https://[::1]x",
            "https://[::1",
            "https://::1",
        ] {
            assert!(matches!(new(bad), Err(KbsError::Address(_))), "{bad:?}: {:?}", new(bad));
        }
    }

    #[test]
    fn roots_are_certificates_in_pem() {
        let root = Authority::new("a root").pem();
        let new = |roots: &str| Broker::new("https://a", roots);
        assert_eq!(new(&root.repeat(2)).unwrap().roots.len(), 2);
        assert_eq!(new(&format!("a note\n{root}")).unwrap().roots.len(), 1);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = &root[..root.len() / 2];
        for bad in ["", "no certificate", broken, cut, &root.repeat(17)] {
            assert!(matches!(new(bad), Err(KbsError::Tls(_))), "{bad:.60}: {:?}", new(bad));
        }
    }
}
