//! Random numbers: getrandom(2), which in an enclave is the LibOS's RDRAND. The host has no say in them.

use ring::rand::{SecureRandom, SystemRandom};

use crate::VaultError;

/// `N` random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| VaultError::Random)?;
    Ok(bytes)
}
