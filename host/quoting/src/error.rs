//! Why there is no quote.

use std::path::PathBuf;
use std::time::Duration;

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The quoting service does not answer.
    #[error("Intel's quoting service (AESM) does not answer at {}: {source}; is the package sgx-aesm-service installed, and aesmd running?", socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It stopped in the middle.
    #[error("Intel's quoting service (AESM) at {} broke off: {source}", socket.display())]
    Broken {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("Intel's quoting service (AESM) at {} gave no answer within {} s; see aesmd's log, and whether it reaches its PCCS", socket.display(), time.as_secs_f32())]
    Late {
        /// Its socket.
        socket: PathBuf,
        /// How long was waited.
        time: Duration,
    },
    /// It says no.
    #[error("Intel's quoting service (AESM) refuses with code {code}: {meaning}")]
    Refused {
        /// Its code (aesm_error.h).
        code: u32,
        /// What that means.
        meaning: &'static str,
    },
    /// What it says can't be.
    #[error("Intel's quoting service (AESM) gave an answer that can't be: {0}")]
    Nonsense(String),
    /// The REPORT was not made for the quoting enclave of this machine.
    #[error("the report was not made on this machine for its quoting enclave: its MAC is wrong")]
    Report,
    /// The simulated machine can't be used.
    #[error(transparent)]
    Machine(#[from] teemate_sgx::Error),
}
