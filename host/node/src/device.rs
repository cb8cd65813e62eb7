//! Which enclave device this machine has.

use std::path::{Path, PathBuf};

use teemate_quoting::{Aesm, QuotingService, SimulatedQuotingEnclave};
use teemate_sgx::kernel::{self, KernelDevice};
use teemate_sgx::simulator::{Simulator, SimulatorOptions};
use teemate_sgx::{Device, DeviceKind};

use crate::config::{Config, DeviceChoice};
use crate::error::{Error, Result};

/// Its name on the command line and in messages.
pub fn name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Sgx => "sgx",
        DeviceKind::Simulator => "simulator",
    }
}

/// Opens the device. The simulator keeps what stands in for the processor's fuses in the state directory.
pub fn open(choice: DeviceChoice, state: &Path) -> Result<Box<dyn Device>> {
    match choice {
        DeviceChoice::Sgx => hardware(),
        DeviceChoice::Simulator => simulator(state),
        DeviceChoice::Auto => match hardware() {
            Ok(device) => Ok(device),
            Err(error) => {
                tracing::info!(reason = %error, "no SGX here; the simulator is used");
                simulator(state)
            }
        },
    }
}

/// Who makes quotes of this device's enclaves.
pub fn quoting(kind: DeviceKind, config: &Config) -> Result<Box<dyn QuotingService>> {
    Ok(match kind {
        DeviceKind::Sgx => Box::new(Aesm::new(&config.aesm_socket)),
        DeviceKind::Simulator => Box::new(SimulatedQuotingEnclave::new(secrets(&config.state))?),
    })
}

fn hardware() -> Result<Box<dyn Device>> {
    match kernel::probe().into_iter().find(|finding| finding.required && !finding.found) {
        None => Ok(Box::new(KernelDevice::new())),
        Some(finding) => Err(Error::Missing(format!("{}: {}; `teemate doctor` tells more", finding.name, finding.sentence))),
    }
}

fn simulator(state: &Path) -> Result<Box<dyn Device>> {
    Ok(Box::new(Simulator::new(SimulatorOptions::new(secrets(state)))?))
}

/// Where the simulated machine has its secret.
fn secrets(state: &Path) -> PathBuf {
    state.join("simulator")
}
