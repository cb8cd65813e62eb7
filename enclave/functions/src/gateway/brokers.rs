//! Key brokers of owners: TLS to them ends here, the host carries its bytes, and a quote of this enclave is what they give secrets for.

use std::sync::Arc;
use std::time::Duration;

use teemate_gateway::{Attester, KeyBrokers};
use teemate_kbs::{Broker, KbsError, ResourceId};
use teemate_service::stream::HostStream;

use crate::handle::Handle;

/// How long a broker has for everything: connection, handshake, and all secrets of an action.
const LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of it all.
const MOST: usize = 8 << 20;
/// Header in which a broker, or a proxy before it, finds for whom the enclave asks: the owner's uuid. A quote does not say that.
const OWNER: &str = "x-teemate-owner";

/// Reaches brokers through the host.
pub struct Brokers {
    handle: Handle,
    attester: Arc<dyn Attester>,
    limit: Duration,
}

impl Brokers {
    /// Through this handle, with quotes from there.
    pub fn new(handle: Handle, attester: Arc<dyn Attester>) -> Brokers {
        Brokers { handle, attester, limit: LIMIT }
    }

    /// Gives a broker only so long.
    #[must_use]
    pub fn within(self, limit: Duration) -> Brokers {
        Brokers { limit, ..self }
    }
}

impl KeyBrokers for Brokers {
    fn release(&self, owner: &str, broker: &Broker, resources: &[ResourceId]) -> Result<Vec<Vec<u8>>, KbsError> {
        let connection = HostStream::connect(self.handle.clone(), &broker.endpoint(), self.limit, MOST)?;
        let http = broker.over(connection)?;
        let mut http = if owner.is_empty() { http } else { http.with_header(OWNER, owner)? };
        teemate_kbs::release(&mut http, |report_data| self.attester.quote(report_data), resources)
    }
}
