//! Which enclave device this machine has.

use teemate_sgx::{Device, DeviceKind};

use crate::config::DeviceChoice;
use crate::error::{Error, Result};

/// Its name on the command line and in messages.
pub fn name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Sgx => "sgx",
        DeviceKind::Simulator => "simulator",
    }
}

/// Opens the device.
pub fn open(choice: DeviceChoice) -> Result<Box<dyn Device>> {
    let _ = choice;
    Err(Error::Missing("this build has no enclave device yet; only --sharing native works".to_owned()))
}
