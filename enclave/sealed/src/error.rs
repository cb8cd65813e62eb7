//! What can go wrong.

use std::io;

use teemate_witness::Backwards;

/// Why a sealed file or log can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("{file} can't be {what}: {source}")]
    Disk {
        /// Which file.
        file: String,
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// What lies there is not what the enclave wrote.
    #[error("{file} was changed: {what}. Put back the newest undamaged copy")]
    Damaged {
        /// Which file.
        file: String,
        /// How it shows.
        what: String,
    },
    /// No key.
    #[error("{file} does not open: the processor gives no key for it ({source}). A newer security version may have sealed it")]
    Key {
        /// Which file.
        file: String,
        /// The answer.
        source: io::Error,
    },
    /// An old state, or another one.
    #[error("{file} is older than what is known of it: it ends with frame {found}, and frame {known} was acknowledged. It was rolled back")]
    RolledBack {
        /// Which log.
        file: String,
        /// Its last frame.
        found: u64,
        /// The last frame that is known.
        known: u64,
    },
    /// Another line of the same log, or another log.
    #[error("{file} is not the log that is known: {what}")]
    Foreign {
        /// Which log.
        file: String,
        /// How it shows.
        what: &'static str,
    },
    /// After a failure that leaves open what is on disk.
    #[error("the log takes nothing more: {0}. Start anew from what is on disk")]
    Failed(String),
    /// A record that is too long.
    #[error("{bytes} bytes are too many for one write to the log: at most 1 GiB")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// The processor gave no random numbers.
    #[error("no random numbers can be had")]
    Random,
    /// Who was given the content did not want it.
    #[error("{file} was not taken: {reason}")]
    Content {
        /// Which file.
        file: String,
        /// Why.
        reason: String,
    },
    /// It does not come after what is known.
    #[error("{0}")]
    Backwards(Backwards),
    /// Whoever remembers can't be asked, or says no.
    #[error("{0}")]
    Counter(String),
}
