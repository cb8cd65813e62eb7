//! A quote against a policy.

use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuotePolicy, TcbStatus};
use teemate_evidence::quote::{Body, Quote};
use teemate_evidence::simulation;

use crate::policy::{Identity, Policy};
use crate::{Collateral, Refusal};

/// A quote that was verified: what it says is so, as far as the maker of the processor is believed.
///
/// It says which program runs, not who asks it or when: freshness comes from a nonce or from a live connection whose key REPORT_DATA binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// It comes from a simulated quoting enclave, and the policy takes such. Nothing of the rest is proven then.
    pub simulation: bool,
    /// MRENCLAVE.
    pub mrenclave: [u8; 32],
    /// MRSIGNER.
    pub mrsigner: [u8; 32],
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// Its host can read it.
    pub debug: bool,
    /// REPORT_DATA.
    pub report_data: [u8; 64],
    /// Which entry of the policy accepted it.
    pub accepted: Accepted,
    /// State of the platform.
    pub tcb_status: TcbStatus,
    /// What the platform is open to.
    pub advisories: Vec<String>,
    /// When the level of the platform's TCB was current, as the maker writes it.
    pub tcb_date: String,
    /// Family of processors.
    pub fmspc: [u8; 6],
    /// The platform's security version.
    pub cpu_svn: [u8; 16],
    /// The platform's identifier, as in its certificate.
    pub ppid: Vec<u8>,
    /// The quoting enclave's version.
    pub qe_svn: u16,
    /// When the oldest piece of the collateral was issued, seconds since 1970.
    pub collateral_issued: u64,
    /// When its first piece ends.
    pub collateral_expires: u64,
}

/// Which kind of entry accepted an enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Its measurement.
    Mrenclave,
    /// Its signer, product and version.
    Signer,
}

/// Verifies a quote and applies a policy. `now` is in seconds since 1970.
///
/// Simulated quotes are recognised by their header; they verify against the simulation's root and no other, and only if the policy takes
/// them. All others verify against Intel's root and no other. Without collateral a real quote is refused; for a simulated one it is made
/// here, since everybody can make it.
///
/// # Errors
/// [`Refusal`].
pub fn verify(quote: &[u8], collateral: Option<&Collateral>, policy: &Policy, now: u64) -> Result<Verified, Refusal> {
    let parsed = Quote::parse(quote)?;
    let simulation = parsed.is_marked_as_simulation();
    if simulation && !policy.insecure_simulation {
        return Err(Refusal::Simulation);
    }
    let own;
    let collateral = match collateral {
        Some(collateral) if !simulation || collateral.is_simulation() => collateral,
        _ if simulation => {
            own = Collateral::from_json(&simulation::Collateral::new(now).json())?;
            &own
        }
        _ => return Err(Refusal::NoCollateral),
    };
    let verifier = if simulation { QuoteVerifier::new(simulation::root().to_vec()) } else { QuoteVerifier::new_prod() };
    // Signatures, chains, revocation and dates. Debug bit, status and advisories are judged below, where refusals have types.
    let claims = verifier
        .allow_debug(true)
        .verify_with_policy(quote, &collateral.0, now, &QuotePolicy::claims_only(now))
        .map_err(|error| Refusal::NotGenuine(format!("{error:#}")))?;
    let accepted = appraise(&parsed.body, &claims, policy)?;
    let collateral_issued = collateral.issued()?;
    let age = now.saturating_sub(collateral_issued);
    if age > policy.max_collateral_age {
        return Err(Refusal::StaleCollateral { age_days: age / 86_400, limit_days: policy.max_collateral_age / 86_400 });
    }
    Ok(Verified {
        simulation,
        mrenclave: parsed.body.mrenclave(),
        mrsigner: parsed.body.mrsigner(),
        isv_prod_id: parsed.body.isv_prod_id(),
        isv_svn: parsed.body.isv_svn(),
        debug: parsed.body.is_debug(),
        report_data: parsed.body.report_data(),
        accepted,
        tcb_status: claims.tcb.status,
        advisories: claims.tcb.advisory_ids,
        tcb_date: claims.platform.tcb_level.tcb_date,
        fmspc: claims.platform.pck.fmspc,
        cpu_svn: claims.platform.pck.cpu_svn,
        ppid: claims.platform.pck.ppid,
        qe_svn: parsed.qe_body.isv_svn(),
        collateral_issued,
        collateral_expires: claims.earliest_expiration_date,
    })
}

fn appraise(body: &Body<'_>, claims: &QuoteClaims, policy: &Policy) -> Result<Accepted, Refusal> {
    let accepted = identify(body, policy)?;
    if body.is_debug() && !policy.debug {
        return Err(Refusal::Debug);
    }
    let (status, advisories) = (claims.tcb.status, &claims.tcb.advisory_ids);
    if !policy.tcb_status.contains(&status) {
        return Err(Refusal::TcbStatus {
            status: status.to_string(),
            advisories: advisories.clone(),
            allowed: policy.tcb_status.iter().map(ToString::to_string).collect(),
        });
    }
    let open: Vec<String> = advisories.iter().filter(|id| !policy.advisories.contains(id)).cloned().collect();
    if !open.is_empty() {
        return Err(Refusal::Advisory { status: status.to_string(), advisories: open });
    }
    Ok(accepted)
}

fn identify(body: &Body<'_>, policy: &Policy) -> Result<Accepted, Refusal> {
    let is = |identity: &Identity| match identity {
        Identity::Enclave { mrenclave } => (*mrenclave == body.mrenclave()).then_some(Accepted::Mrenclave),
        Identity::Signer { mrsigner, product, min_svn } => {
            let matches = *mrsigner == body.mrsigner() && *product == body.isv_prod_id() && body.isv_svn() >= *min_svn;
            matches.then_some(Accepted::Signer)
        }
    };
    policy.enclaves.iter().find_map(is).ok_or_else(|| Refusal::Enclave {
        mrenclave: body.mrenclave(),
        mrsigner: body.mrsigner(),
        isv_prod_id: body.isv_prod_id(),
        isv_svn: body.isv_svn(),
        accepted: policy.enclaves.clone(),
    })
}
