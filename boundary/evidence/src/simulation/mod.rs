//! The simulated quoting enclave's certificates, collateral and quotes.
//!
//! ```text
//! !!  THE ROOT KEY IS IN THIS SOURCE. EVERYBODY CAN MAKE SUCH QUOTES FOR ANYTHING. THEY PROVE NOTHING.  !!
//! ```
//!
//! They exist so that the whole way of attestation (report, quote, certificate chain, TCB information, policy, receipts) runs and is tested
//! on machines without SGX, with the verifier's own code. They have the form of real ones, but another root, a header that says
//! [`crate::quote::SIMULATION_MARK`], and names that say INSECURE. A verifier refuses them unless its policy says
//! `insecure_simulation = true`.

mod collateral;
mod pki;
mod platform;

pub use collateral::Collateral;
pub use pki::root;
pub use platform::Platform;

/// CPUSVN of the simulated processor: its security version in the PCK certificate and in the TCB information.
pub const CPUSVN: [u8; 16] = *b"teemate sim. 01\0";
/// FMSPC of the simulated platform.
pub const FMSPC: [u8; 6] = *b"TMSIM\0";
/// SVN of the simulated provisioning certification enclave.
pub const PCE_SVN: u16 = 1;
