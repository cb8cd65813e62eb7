//! What a quote says, in words.

use std::fmt::Write;

use serde::Serialize;
use teemate_evidence::encoding::hex;
use teemate_evidence::time::Civil;

use crate::{Accepted, Verified};

/// What a quote says, for programs; [`std::fmt::Display`] has it for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// A simulated quote: nothing is proven.
    pub simulation: bool,
    /// `enclave`: a program; the key is what was measured.
    pub mrenclave: String,
    /// The signer's key.
    pub mrsigner: String,
    /// Product.
    pub isv_prod_id: u16,
    /// Version.
    pub isv_svn: u16,
    /// Whether its host can read it.
    pub debug: bool,
    /// `mrenclave` or `signer`: what the policy accepted it by.
    pub accepted_by: &'static str,
    /// REPORT_DATA.
    pub report_data: String,
    /// State of the platform.
    pub tcb_status: String,
    /// What the platform is open to.
    pub advisories: Vec<String>,
    /// Since when the platform's level is known.
    pub tcb_date: String,
    /// Family of processors.
    pub fmspc: String,
    /// Version of the quoting enclave.
    pub qe_svn: u16,
    /// Date of the oldest collateral.
    pub collateral_issued: String,
    /// When the first piece of it ends.
    pub collateral_expires: String,
}

/// Puts it in words.
pub fn describe(verified: &Verified) -> Description {
    Description {
        simulation: verified.simulation,
        mrenclave: hex(&verified.mrenclave),
        mrsigner: hex(&verified.mrsigner),
        isv_prod_id: verified.isv_prod_id,
        isv_svn: verified.isv_svn,
        debug: verified.debug,
        accepted_by: match verified.accepted {
            Accepted::Mrenclave => "mrenclave",
            Accepted::Signer => "signer",
        },
        report_data: hex(&verified.report_data),
        tcb_status: verified.tcb_status.to_string(),
        advisories: verified.advisories.clone(),
        tcb_date: verified.tcb_date.clone(),
        fmspc: hex(&verified.fmspc),
        qe_svn: verified.qe_svn,
        collateral_issued: Civil::from_unix(verified.collateral_issued).to_string(),
        collateral_expires: Civil::from_unix(verified.collateral_expires).to_string(),
    }
}

/// What a state of a platform means.
fn meaning(status: &str) -> &'static str {
    match status {
        "UpToDate" => "its microcode and firmware have all fixes that the maker knows of",
        "SWHardeningNeeded" => "up to date, but the enclave's own code must mitigate what is listed",
        "ConfigurationNeeded" => "up to date, but a setting of the firmware leaves it open to what is listed",
        "ConfigurationAndSWHardeningNeeded" => "both a setting and mitigations in the enclave's code are needed",
        "OutOfDate" => "fixes are missing: what is listed can be used against it",
        "OutOfDateConfigurationNeeded" => "fixes are missing, and a setting as well",
        _ => "a state that this program has no words for",
    }
}

impl std::fmt::Display for Description {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        let mut row = |name: &str, value: &str| writeln!(text, "{name:<12}{value}");
        if self.simulation {
            row("WARNING", "SIMULATION: everybody can make such a quote; nothing below is proven")?;
        }
        row("enclave", &format!("MRENCLAVE {}", self.mrenclave))?;
        let by = if self.accepted_by == "mrenclave" {
            "this measurement is in the policy"
        } else {
            "its signer, product and version are in the policy"
        };
        row("", by)?;
        row("signer", &format!("MRSIGNER  {}", self.mrsigner))?;
        row("product", &format!("{}, version {}", self.isv_prod_id, self.isv_svn))?;
        row("debug", if self.debug { "YES: its host can read everything in it" } else { "no: its host can't read its memory" })?;
        row("platform", &format!("{}: {}", self.tcb_status, meaning(&self.tcb_status)))?;
        if !self.advisories.is_empty() {
            row("", &self.advisories.join(", "))?;
        }
        row("", &format!("FMSPC {}, level of {}", self.fmspc, self.tcb_date))?;
        let root = if self.simulation { "the SIMULATION's root, whose key is public" } else { "Intel's SGX root" };
        row("chain", &format!("signatures hold up to {root}"))?;
        row("collateral", &format!("issued {}, ends {}", self.collateral_issued, self.collateral_expires))?;
        formatter.write_str(text.trim_end())
    }
}
