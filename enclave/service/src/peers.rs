//! Other enclaves of the same kind, on other machines: what is accepted as one.

use std::io;

use teemate_attestation::{Identity, Policy};
use teemate_evidence::quote::Body;
use teemate_evidence::simulation;

/// What the same signer signed as the same product, no older than this, on a platform that is up to date.
///
/// Simulated enclaves are accepted by simulated ones alone. Which this is, the processor says: CPUSVN in a report is its own word, no host's,
/// and the simulator's is no processor's.
///
/// # Errors
/// Without an enclave.
pub fn like_this_one() -> io::Result<Policy> {
    let report = teemate_containers::report(None, &[0; 64])?;
    let (body, _) = report.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    let own = Body::new(body);
    let identity = Identity::Signer { mrsigner: own.mrsigner(), product: own.isv_prod_id(), min_svn: own.isv_svn() };
    let insecure_simulation = own.cpu_svn() == simulation::CPUSVN;
    Ok(Policy { insecure_simulation, debug: own.is_debug(), ..Policy::strict(vec![identity]) })
}
