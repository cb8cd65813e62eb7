//! The certificate that clients verify: a key of this process, a quote that binds it.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustls::ServerConfig;
use teemate_evidence::SecretKey;
use teemate_service::stream::Host;
use teemate_service::tls::{self, Shown};
use teemate_service::{certificate, quotes, thread};

use super::Node;

/// How long the host has for each of the two steps to a quote.
const LIMIT: Duration = Duration::from_secs(20);
/// Age at which a certificate is made anew: verifiers ask how old the evidence is.
const AGE: Duration = Duration::from_secs(3600);
/// Names in the certificate. Who verifies looks at the quote.
const NAMES: &[&str] = &["teemate", "localhost"];

/// What makes certificates.
struct Certificates {
    node: Arc<Node>,
    secret: SecretKey,
}

impl Certificates {
    fn make(&self) -> io::Result<Vec<u8>> {
        let quote = |report_data| quotes::quote(|ask| self.node.ask_wait(ask, LIMIT), report_data).map(|(quote, _)| quote);
        certificate::attested(&self.secret, NAMES, quote)
    }
}

/// TLS 1.3 with a new key and a first certificate, which is renewed as long as the configuration is in use.
///
/// # Errors
/// When the host gives no quote.
pub fn config(node: &Arc<Node>) -> io::Result<Arc<ServerConfig>> {
    let certificates = Certificates { node: node.clone(), secret: certificate::fresh_key() };
    let shown = Arc::new(Shown::new(&certificates.secret).map_err(io::Error::other)?);
    shown.replace(certificates.make()?);
    let renewed = Arc::downgrade(&shown);
    thread("certificate", 256 << 10, move || keep_fresh(&certificates, &renewed))?;
    tls::config(shown).map(Arc::new).map_err(io::Error::other)
}

fn keep_fresh(certificates: &Certificates, shown: &Weak<Shown>) {
    const STEP: Duration = Duration::from_secs(5);
    let mut age = Duration::ZERO;
    loop {
        std::thread::sleep(STEP);
        age += STEP;
        let Some(shown) = shown.upgrade() else { return };
        if age < AGE {
            continue;
        }
        match certificates.make() {
            Ok(new) => {
                shown.replace(new);
                age = Duration::ZERO;
            }
            // The old one serves on; who wants younger evidence refuses it.
            Err(error) => eprintln!("teemate-database: no new certificate: {error}"),
        }
    }
}
