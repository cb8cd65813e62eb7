//! The witness: remembers how far databases have come, where their hosts have no say.
//!
//! * [`memory`]: one file a database, on disk before anything is answered;
//! * [`identity`]: the key and the certificate that owners give to their databases;
//! * [`server`]: TLS, a thread a connection, bounds on all that a stranger can send.
#![forbid(unsafe_code)]

pub mod identity;
pub mod memory;
pub mod server;

use std::io;
use std::path::PathBuf;

pub use identity::Identity;
pub use memory::Memory;
pub use server::Server;

/// Why a witness does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{} can't be {what}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is not thrown away: then a host's old state would be taken.
    #[error("{} is damaged ({why}). Put back a backup; what it forgets since then it can't notice", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// Two would remember different things.
    #[error("another witness has {} already", .0.display())]
    InUse(PathBuf),
    /// No database.
    #[error("{0:?} is no database's name: it has 32 hexadecimal digits; `teemate witness show` lists those that are known")]
    Name(String),
    /// The certificate.
    #[error("the witness's key and certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
    /// It can't listen, or have a thread.
    #[error("can't serve: {0}")]
    Serve(io::Error),
}

fn failed(path: &std::path::Path, what: &'static str) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path: path.clone(), what, source }
}

/// Puts a file in its place, at once, and on disk when this returns. For this user alone.
fn replace(directory: &std::path::Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(failed(&new, "written"))?;
    std::fs::rename(&new, &path).map_err(failed(&path, "replaced"))?;
    sync(directory)
}

/// Names that were made or removed are on disk when this returns.
fn sync(directory: &std::path::Path) -> Result<(), Error> {
    std::fs::File::open(directory).and_then(|file| file.sync_all()).map_err(failed(directory, "put on disk"))
}
