//! What can go wrong in the node, in sentences that a user can act on.

use std::path::PathBuf;

use teemate_control::function::{Failure, FailureKind};

/// An error of the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refuses.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Another node owns the state.
    #[error("another node (pid {pid}) uses the state directory {}; stop it, or take another --state", state.display())]
    StateInUse {
        /// The directory.
        state: PathBuf,
        /// Its process, as it wrote it.
        pid: String,
    },
    /// Another node answers.
    #[error("another node answers at {}; stop it with `teemate node stop`, or take another --socket", .0.display())]
    SocketInUse(PathBuf),
    /// A mode needs something that the node was not given.
    #[error("{0}")]
    Missing(String),
    /// The device.
    #[error(transparent)]
    Device(#[from] teemate_sgx::Error),
    /// The quoting service.
    #[error(transparent)]
    Quoting(#[from] teemate_quoting::Error),
    /// The image.
    #[error("the enclave image {} can't be used: {reason}; build it again with `teemate image build`", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A container could not be started.
    #[error(transparent)]
    Container(#[from] teemate_container::Error),
    /// The service did not come up, or went away.
    #[error("{0}")]
    Service(String),
    /// A stored function.
    #[error("the stored function {name:?} is damaged and is not served: {reason}; deploy it again")]
    Corrupt {
        /// Its name, or its directory's.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A request that cannot be carried out.
    #[error("{0}")]
    Invalid(String),
    /// No room now.
    #[error("{0}")]
    Busy(String),
}

/// The node's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` of a system call.
    pub fn system<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |source| Error::System { what: what.into(), source: source.into() }
    }

    /// As the answer to a request.
    pub fn failure(&self) -> Failure {
        let kind = match self {
            Error::Invalid(_) => FailureKind::Invalid,
            Error::Busy(_) | Error::Device(teemate_sgx::Error::EpcFull { .. }) => FailureKind::Busy,
            _ => FailureKind::Internal,
        };
        Failure::new(kind, self.to_string())
    }
}
