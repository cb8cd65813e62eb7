//! Why a command is not carried out, in Redis's words: clients compare them.

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key holds something else.
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    /// A number that is none.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    /// A floating-point number that is none.
    #[error("ERR value is not a valid float")]
    NotAFloat,
    /// The options do not go together.
    #[error("ERR syntax error")]
    Syntax,
    /// The key is not there.
    #[error("ERR no such key")]
    NoSuchKey,
    /// Beyond a list.
    #[error("ERR index out of range")]
    IndexOutOfRange,
    /// A number of a database.
    #[error("ERR DB index is out of range")]
    Database,
    /// A sum.
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    /// Too few or too many arguments.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    /// There is no such command.
    #[error("ERR unknown command '{name}', with args beginning with: {arguments}")]
    Unknown {
        /// Its name.
        name: String,
        /// The first of them.
        arguments: String,
    },
    /// There is no such subcommand.
    #[error("ERR unknown subcommand '{0}'. Try {1} HELP.")]
    Subcommand(String, String),
    /// A time that can't be.
    #[error("ERR invalid expire time in '{0}' command")]
    ExpireTime(String),
    /// Not before the password.
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    /// Not the password.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPass,
    /// A transaction that had an error before.
    #[error("EXECABORT Transaction discarded because of previous errors.")]
    ExecAbort,
    /// Memory.
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    /// The error of a command that a script called: it was counted there.
    #[error("{0}")]
    Passed(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// An error of the kind ERR.
    pub fn new(text: impl std::fmt::Display) -> Error {
        Error::Other(format!("ERR {text}"))
    }
}
