//! Where a broker is, and by which authorities it is known.

use std::fmt;
use std::io::{Read, Write};

use rustls::{ClientConnection, StreamOwned};
use teemate_service::pinned::{self, Pinned};

use crate::{Http, KbsError};

/// A broker that an owner trusts with secrets: its address, and the roots to one of which its certificate must chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broker(Pinned);

impl From<pinned::Error> for KbsError {
    fn from(error: pinned::Error) -> Self {
        match error {
            pinned::Error::Address(address) => KbsError::Address(address),
            pinned::Error::Tls(why) => KbsError::Tls(why),
        }
    }
}

impl Broker {
    /// The broker at `https://HOST[:PORT][/PATH]`, known by these certificates in PEM.
    ///
    /// # Errors
    /// What is wrong with the two.
    pub fn new(address: &str, roots: &str) -> Result<Broker, KbsError> {
        Ok(Broker(Pinned::new(address, roots)?))
    }

    /// Where to connect to: `HOST:PORT`.
    pub fn endpoint(&self) -> String {
        self.0.endpoint()
    }

    /// HTTP over TLS over a connection that is said to lead there. The handshake is made at the first request.
    ///
    /// # Errors
    /// None that [`Broker::new`] has not met.
    pub fn over<S: Read + Write>(&self, connection: S) -> Result<Http<StreamOwned<ClientConnection, S>>, KbsError> {
        Http::new(self.0.over(connection)?, &self.0.authority(), self.0.path())
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
        assert_ne!(new(&root.repeat(2)).unwrap(), new(&root).unwrap());
        assert_eq!(new(&format!("a note\n{root}")).unwrap(), new(&root).unwrap());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = &root[..root.len() / 2];
        for bad in ["", "no certificate", broken, cut, &root.repeat(17)] {
            assert!(matches!(new(bad), Err(KbsError::Tls(_))), "{bad:.60}: {:?}", new(bad));
        }
    }
}
