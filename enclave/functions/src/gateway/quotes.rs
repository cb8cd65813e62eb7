//! Quotes of this enclave: a report for the machine's quoting enclave, which the host carries there.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use teemate_control::service::{Ask, Reply};
use teemate_evidence::quote;
use teemate_gateway::Attester;

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

    fn ask(&self, ask: Ask) -> io::Result<Vec<u8>> {
        match self.handle.ask_wait(ask, LIMIT)? {
            Reply::Bytes(bytes) => Ok(bytes),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Attester for Quotes {
    fn quote(&self, report_data: [u8; 64]) -> io::Result<Vec<u8>> {
        let target = self.ask(Ask::QuoteTarget)?;
        let target: [u8; 512] = target.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let report = teemate_containers::report(Some(&target), &report_data)?;
        let bytes = self.ask(Ask::Quote { report: report.to_vec() })?;
        // The host could return any quote; a client would refuse it, and the operator would wonder why.
        let parsed = quote::Quote::parse(&bytes).map_err(|error| io::Error::other(format!("the host returned no quote: {error}")))?;
        if parsed.body.report_data() != report_data {
            return Err(io::Error::other("the host returned a quote of another report"));
        }
        self.simulation.store(parsed.is_marked_as_simulation(), Ordering::Relaxed);
        Ok(bytes)
    }

    fn is_simulation(&self) -> bool {
        self.simulation.load(Ordering::Relaxed)
    }
}
