//! The simulated quoting enclave. It does what the real one does, checks included, with keys that prove nothing.

use std::path::PathBuf;

use teemate_evidence::simulation::Platform;
use teemate_sgx::simulator::Machine;

use crate::{Error, QuotingService, REPORT, TARGETINFO};

/// What stands in for Intel's quoting enclave on a simulated machine.
pub struct SimulatedQuotingEnclave {
    machine: Machine,
    platform: Platform,
}

impl SimulatedQuotingEnclave {
    /// Of the machine whose secret is in this directory, the simulator's own.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub fn new(state_dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let machine = Machine::open(state_dir)?;
        let platform = Platform::new(&machine.derive(b"quoting"));
        Ok(SimulatedQuotingEnclave { machine, platform })
    }
}

impl QuotingService for SimulatedQuotingEnclave {
    fn target(&self) -> Result<[u8; TARGETINFO], Error> {
        Ok(Platform::target())
    }

    fn quote(&self, report: &[u8; REPORT]) -> Result<Vec<u8>, Error> {
        // By the key that EREPORT used for this target: only an enclave of this machine could make that MAC.
        if !self.machine.is_genuine(report, &Platform::target()) {
            return Err(Error::Report);
        }
        let (body, _) = report.split_first_chunk().ok_or(Error::Report)?;
        Ok(self.platform.quote(body))
    }

    fn is_simulation(&self) -> bool {
        true
    }
}
