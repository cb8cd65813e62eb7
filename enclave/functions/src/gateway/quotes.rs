//! Quotes of this enclave for the gateway.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use teemate_gateway::Attester;
use teemate_service::stream::Host;

use crate::handle::Handle;

/// How long the host has for each of the two steps.
const LIMIT: Duration = Duration::from_secs(20);

/// Asks the host for quotes.
pub struct Quotes {
    handle: Handle,
    simulation: AtomicBool,
}

impl Quotes {
    /// Through this handle.
    pub fn new(handle: Handle) -> Quotes {
        Quotes { handle, simulation: AtomicBool::new(false) }
    }
}

impl Attester for Quotes {
    fn quote(&self, report_data: [u8; 64]) -> io::Result<Vec<u8>> {
        let (quote, simulated) = teemate_service::quotes::quote(|ask| self.handle.ask_wait(ask, LIMIT), report_data)?;
        self.simulation.store(simulated, Ordering::Relaxed);
        Ok(quote)
    }

    fn is_simulation(&self) -> bool {
        self.simulation.load(Ordering::Relaxed)
    }
}
