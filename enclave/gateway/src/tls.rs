//! TLS 1.3 with a certificate that carries the enclave's quote.
//!
//! The key is made at the start and stays; the certificate is made anew before its quote is old. Connections go on: a certificate is looked
//! at when they begin.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use teemate_service::certificate::attested;
use teemate_service::tls::{self, Shown};
use tokio::time::sleep;

use crate::error::GatewayError;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::platform::Attester;
use crate::receipts::Receipts;

/// Sessions that may be taken up again without a handshake in full.
const SESSIONS: usize = 1024;
/// Pauses between attempts to get a quote.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The certificate in use.
pub struct Certificates {
    shown: Arc<Shown>,
    identity: Arc<Identity>,
    attester: Arc<dyn Attester>,
    receipts: Arc<Receipts>,
    names: Vec<String>,
    metrics: Arc<Metrics>,
}

impl Certificates {
    /// None yet.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn new(
        identity: Arc<Identity>,
        attester: Arc<dyn Attester>,
        receipts: Arc<Receipts>,
        names: Vec<String>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, GatewayError> {
        let shown = Arc::new(Shown::new(identity.tls())?);
        Ok(Arc::new(Certificates { shown, identity, attester, receipts, names, metrics }))
    }

    /// Makes a certificate with a fresh quote, and has another vouch for receipts. Blocks.
    ///
    /// # Errors
    /// Those of the attester.
    pub fn renew(&self) -> io::Result<()> {
        let voucher = self.identity.voucher();
        let vouching = self.attester.quote(voucher.report_data())?;
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let der = attested(self.identity.tls(), &names, |report_data| self.attester.quote(report_data))?;
        self.shown.replace(der);
        self.receipts.vouch(vouching, voucher);
        self.metrics.certificates.add();
        Ok(())
    }

    /// Makes a certificate, and tries again for as long as there is no quote. `failed` hears of each failure.
    pub async fn renew_until_done(self: &Arc<Self>, failed: impl Fn(&io::Error)) {
        let mut pause = FIRST_PAUSE;
        loop {
            let this = self.clone();
            let attempt = tokio::task::spawn_blocking(move || this.renew()).await;
            match attempt.unwrap_or_else(|_| Err(io::Error::other("the attempt panicked"))) {
                Ok(()) => return,
                Err(error) => {
                    self.metrics.quotes_failed.add();
                    failed(&error);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Makes certificates for ever, one each `age`.
    pub async fn keep_fresh(self: Arc<Self>, age: Duration, failed: impl Fn(&io::Error)) {
        loop {
            sleep(age).await;
            self.renew_until_done(&failed).await;
        }
    }
}

/// TLS 1.3 only, HTTP/2 before HTTP/1.1, no early data.
///
/// # Errors
/// Those of rustls.
pub fn config(certificates: &Certificates) -> Result<Arc<ServerConfig>, GatewayError> {
    let mut config = tls::config(certificates.shown.clone())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(Arc::new(config))
}
