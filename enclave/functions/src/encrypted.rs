//! Code that comes encrypted: its owner's key broker releases the key to this enclave, which nobody else on the machine sees.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use teemate_control::envelope::{self, Envelope};
use teemate_control::function::{Failure, FailureKind};
use teemate_gateway::KeyBrokers;
use teemate_kbs::{Broker, ResourceId};

/// For whom the broker is asked. An owner of this enclave has a number; whoever deploys by the node has none.
const NOBODY: &str = "";

/// The plain code of an envelope. Waits for the broker.
///
/// # Errors
/// What is wrong with the envelope, why the key can't be had, or that it does not fit.
pub fn open(brokers: &dyn KeyBrokers, name: &str, code: &[u8]) -> Result<Vec<u8>, Failure> {
    let invalid = |why: String| Failure::new(FailureKind::Invalid, format!("the encrypted code of '{name}' can't be opened: {why}"));
    let Envelope { release, associated, nonce, sealed } =
        envelope::parse(code).ok_or_else(|| invalid("it is cut or damaged; pack the image again".to_owned()))?;
    let broker = Broker::new(&release.broker, &release.roots).map_err(|error| invalid(error.to_string()))?;
    let resource: ResourceId = release.resource.parse().map_err(|error: teemate_kbs::KbsError| invalid(error.to_string()))?;
    let keys = brokers.release(NOBODY, &broker, std::slice::from_ref(&resource)).map_err(|error| {
        let why = format!("the key of the code of '{name}' can't be had from {}: {error}", release.broker);
        Failure::new(FailureKind::Denied, why)
    })?;
    let fits = |key: &Vec<u8>| key.len() == envelope::KEY;
    let key = keys.into_iter().next().filter(fits).ok_or_else(|| invalid(format!("{resource} is no key of {} bytes", envelope::KEY)))?;
    let key = UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new).map_err(|_| invalid("the key can't be used".to_owned()))?;
    let mut code = sealed.to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut code);
    let length = opened.map_err(|_| invalid(format!("{resource} is another key, or the code was changed")))?.len();
    code.truncate(length);
    Ok(code)
}
