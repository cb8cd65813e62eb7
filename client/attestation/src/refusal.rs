//! Why a quote, or whoever presents it, is refused. Each sentence says what was found, and where there is something to do, what.

use teemate_evidence::Error as EvidenceError;
use teemate_evidence::encoding::hex;

use crate::policy::Identity;

/// A refusal. Nothing was sent to whoever is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no evidence, or pieces of it do not belong together.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// It comes from a simulated quoting enclave, and the policy does not take such.
    #[error(
        "this is a simulated quote: it proves nothing, because everybody can make one; only a policy with `insecure_simulation = true` accepts it"
    )]
    Simulation,
    /// Signatures, certificates, revocation lists or dates do not hold.
    #[error("the quote is not genuine, or can't be shown to be: {0}")]
    NotGenuine(String),
    /// The maker's information on the platform is missing.
    #[error(
        "there is no collateral to verify the quote with (TCB information, revocation lists): name a file with --collateral or in the policy; the node's host can fetch one"
    )]
    NoCollateral,
    /// The collateral is no collateral.
    #[error("the collateral can't be used: {0}")]
    BadCollateral(String),
    /// The collateral is older than the policy allows.
    #[error("the collateral is {age_days} days old, and the policy takes at most {limit_days} (max_collateral_age): fetch it anew")]
    StaleCollateral {
        /// Its age.
        age_days: u64,
        /// The policy's bound.
        limit_days: u64,
    },
    /// The enclave can be debugged.
    #[error("this is a debug enclave: its host can read everything in it; only a policy with `debug = true` accepts it")]
    Debug,
    /// It is another program.
    #[error("this enclave is not one that the policy accepts: MRENCLAVE {}, MRSIGNER {}, product {isv_prod_id}, version {isv_svn}{}", hex(mrenclave), hex(mrsigner), nearest(accepted, mrsigner, *isv_prod_id))]
    Enclave {
        /// What it is.
        mrenclave: [u8; 32],
        /// Who signed it.
        mrsigner: [u8; 32],
        /// Product.
        isv_prod_id: u16,
        /// Version.
        isv_svn: u16,
        /// What would have been accepted.
        accepted: Vec<Identity>,
    },
    /// The platform is in a state that the policy does not take.
    #[error("the platform's TCB status is {status}{}, and the policy takes {} only (tcb_status)", advised(advisories), allowed.join(", "))]
    TcbStatus {
        /// Its state.
        status: String,
        /// What it is open to.
        advisories: Vec<String>,
        /// What the policy takes.
        allowed: Vec<String>,
    },
    /// The platform is open to an advisory that the policy does not name.
    #[error("the platform is open to {} (status {status}); who can live with that adds it to `advisories` in the policy", advisories.join(", "))]
    Advisory {
        /// Its state.
        status: String,
        /// Those that the policy does not name.
        advisories: Vec<String>,
    },
    /// An answer to another question.
    #[error("the quote answers another nonce: it is old, or somebody else's")]
    Nonce,
    /// The quote binds another TLS key than the connection's.
    #[error("the quote is for another TLS key than this connection's: somebody stands in between, or passes on another enclave's quote")]
    ConnectionKey,
}

fn advised(advisories: &[String]) -> String {
    if advisories.is_empty() { String::new() } else { format!(" ({})", advisories.join(", ")) }
}

/// What was wrong about an enclave of a signer whom the policy knows.
fn nearest(accepted: &[Identity], signer: &[u8; 32], found: u16) -> String {
    let near = accepted.iter().find_map(|identity| match identity {
        Identity::Signer { mrsigner, product, min_svn } if mrsigner == signer => Some((*product, *min_svn)),
        _ => None,
    });
    match near {
        Some((product, _)) if product != found => format!("; of this signer it accepts product {product}"),
        Some((_, svn)) => format!("; of this signer it accepts versions from {svn} on"),
        None => String::new(),
    }
}
