//! Where an enclave listens, as people write it.

use std::fmt;

/// Port when none is named.
pub const DEFAULT_PORT: u16 = 8443;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    /// `https://host:port/`, `host:port`, `host`, `[::1]:port`. Nothing may follow the port but one slash.
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some((scheme, _)) => return Err(format!("an enclave is reached by https, not by {scheme}")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let wrong = || "an endpoint is written as https://HOST:PORT".to_owned();
        let (host, port) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or_else(wrong)?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(wrong)?) })
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) if port.bytes().all(|c| c.is_ascii_digit()) => {
                port.parse().map_err(|_| "a port is a number up to 65535".to_owned())?
            }
            Some(_) => return Err(wrong()),
        };
        let endpoint = Endpoint { host: host.to_owned(), port };
        if host.is_empty() || endpoint.server_name().is_none() {
            return Err(wrong());
        }
        Ok(endpoint)
    }
}

impl Endpoint {
    /// The name as TLS has it. `None` for what can't be a host's name.
    pub(crate) fn server_name(&self) -> Option<rustls::pki_types::ServerName<'static>> {
        rustls::pki_types::ServerName::try_from(self.host.clone()).ok()
    }

    /// As in a `Host` header, and to connect.
    pub fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "https://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_spellings() {
        for (text, host, port) in [
            ("https://node.example:444/", "node.example", 444),
            ("node.example", "node.example", DEFAULT_PORT),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("https://[::1]:8443", "::1", 8443),
            ("[::1]", "::1", DEFAULT_PORT),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "http://node",
            "https://",
            "node:",
            "node:70000",
            "node:+1",
            "node/path",
            "user@node",
            "::1",
            "[::1",
            "[::1]x",
            "no de",
            "a\r\nb",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
