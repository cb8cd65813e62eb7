//! What can be wrong with an image, its parts, or its signature.

/// Everything that can go wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input of the builder is not an ELF file that can be placed in an enclave.
    #[error("the {role} ELF file is refused: {why}")]
    Elf {
        /// `LibOS` or `payload`.
        role: &'static str,
        /// The rule that it breaks, and what to do.
        why: String,
    },
    /// The configuration asks for something impossible.
    #[error("the image configuration is refused: {0}")]
    Config(String),
    /// Bytes that should be an image file are not.
    #[error("not a usable image file: {0}")]
    File(String),
    /// An image's pages break a rule of layout.
    #[error("the image's layout is refused: {0}")]
    Layout(String),
    /// Bytes that should be a SIGSTRUCT are not, or its signature is wrong.
    #[error("the SIGSTRUCT is refused: {0}")]
    Sigstruct(String),
    /// The signing key can't be used.
    #[error("the signing key is refused: {0}")]
    Key(String),
    /// A file can't be read or written.
    #[error("{path}: {source}; check the path and its permissions")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
