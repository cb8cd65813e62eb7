//! The host's way from a REPORT to a quote.
//!
//! An enclave asks whom to make its REPORT for (TARGETINFO of the machine's quoting enclave), makes it, and gives it out; the quoting enclave
//! checks that it was made on this machine and signs. None of that has to be trusted by the host's users: a wrong quote does not verify.
//!
//! * [`Aesm`]: Intel's quoting service, by its socket. It has not been tried on hardware;
//! * [`SimulatedQuotingEnclave`]: for the simulator. It really checks the REPORT, and its quotes prove nothing.
#![forbid(unsafe_code)]

mod aesm;
mod error;
mod messages;
mod simulated;

pub use aesm::{Aesm, DEFAULT_SOCKET};
pub use error::Error;
pub use simulated::SimulatedQuotingEnclave;

/// Bytes of a REPORT.
pub const REPORT: usize = 432;
/// Bytes of a TARGETINFO.
pub const TARGETINFO: usize = 512;

/// Makes quotes.
pub trait QuotingService: Send + Sync {
    /// TARGETINFO of the quoting enclave.
    ///
    /// # Errors
    /// [`Error`].
    fn target(&self) -> Result<[u8; TARGETINFO], Error>;

    /// A quote of a REPORT that was made for that target: DCAP, version 3, without padding.
    ///
    /// # Errors
    /// [`Error`].
    fn quote(&self, report: &[u8; REPORT]) -> Result<Vec<u8>, Error>;

    /// Whether its quotes prove nothing.
    fn is_simulation(&self) -> bool;
}
