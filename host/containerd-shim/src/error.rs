//! What can go wrong, in sentences that a user can act on.

use std::path::PathBuf;

use containerd_shim::protos::ttrpc::{self, Code, get_status};

/// An error of the shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the bundle.
    #[error("{} can't be used: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// There is no such container or process.
    #[error("there is no {0}")]
    Missing(String),
    /// The request can't be carried out as things are.
    #[error("{0}")]
    Refused(String),
    /// What this runtime does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The node.
    #[error("the node at {} {reason}", socket.display())]
    Node {
        /// Its socket.
        socket: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// runc.
    #[error("runc {command} failed: {reason}")]
    Runc {
        /// Its command.
        command: String,
        /// What it said.
        reason: String,
    },
    /// containerd's own library.
    #[error(transparent)]
    Library(#[from] containerd_shim::Error),
}

/// The shim's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` of something done with a file.
    pub fn file<E: std::fmt::Display>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Error {
        move |error| Error::File { path: path.into(), reason: error.to_string() }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> ttrpc::Error {
        let code = match &error {
            Error::Missing(_) => Code::NOT_FOUND,
            Error::Refused(_) => Code::FAILED_PRECONDITION,
            Error::Unsupported(_) => Code::UNIMPLEMENTED,
            _ => Code::UNKNOWN,
        };
        ttrpc::Error::RpcStatus(get_status(code, error.to_string()))
    }
}
