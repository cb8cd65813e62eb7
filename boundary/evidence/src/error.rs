//! What can be wrong with evidence.

/// Why a piece of evidence is not taken. The sentences name the piece and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is larger than any honest one.
    #[error("the {what} has {length} bytes; at most {limit} are read")]
    TooLarge {
        /// Which piece.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// It does not have the form that its format prescribes.
    #[error("the {what} is malformed: {why}")]
    Malformed {
        /// Which piece.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It is of a version, type or algorithm that is not spoken here.
    #[error("the {what} is of a kind that is not supported: {why}")]
    Unsupported {
        /// Which piece.
        what: &'static str,
        /// What was found.
        why: String,
    },
    /// A signature does not fit.
    #[error("the signature of the {what} is wrong: it was changed, or signed with another key")]
    Signature {
        /// Which piece.
        what: &'static str,
    },
    /// It could not be signed.
    #[error("the {what} can't be signed: the processor's generator of random numbers does not answer")]
    Unsigned {
        /// Which piece.
        what: &'static str,
    },
    /// Two things that must belong together do not.
    #[error("{0}")]
    Mismatch(&'static str),
}

impl Error {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Error::Malformed { what, why: why.to_string() }
    }

    pub(crate) fn unsupported(what: &'static str, why: impl ToString) -> Self {
        Error::Unsupported { what, why: why.to_string() }
    }
}
