//! The whole conversation.

use std::io;

use crate::protocol::{Answer, Hello, Request};
use crate::{Evidence, KbsError, ResourceId};

/// Carries requests to a broker.
pub trait Transport {
    /// Sends a request and waits for its answer. How long it waits, it decides itself.
    ///
    /// # Errors
    /// When no answer comes.
    fn exchange(&mut self, request: &Request) -> Result<Answer, KbsError>;
}

/// Has the broker release these secrets to this enclave, in their order. `quote` makes an SGX quote with the given REPORT_DATA.
///
/// # Errors
/// What went wrong first; the names of the secrets are in it where it matters.
pub fn release(
    transport: &mut dyn Transport,
    quote: impl FnOnce([u8; 64]) -> io::Result<Vec<u8>>,
    resources: &[ResourceId],
) -> Result<Vec<Vec<u8>>, KbsError> {
    let hello = Hello::sgx();
    let challenge = transport.exchange(&hello.request()?)?;
    let challenged = hello.answer(&challenge)?;
    let quote = quote(challenged.report_data()?).map_err(KbsError::Quote)?;
    let shown = transport.exchange(&challenged.request(&Evidence::Sgx { quote })?)?;
    let session = challenged.answer(&shown)?;
    resources.iter().map(|resource| session.answer(resource, &transport.exchange(&session.request(resource))?)).collect()
}
