//! The directory in which the payload keeps files: a database's snapshots and log, sealed by the enclave.
//!
//! No process of the enclave has the directory. It asks over its broker's socket, and gets a descriptor of one file; what is renamed or
//! removed the node does itself. A path has at most two parts, and no symbolic link is followed: a payload that was taken over gains
//! nothing outside of the directory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use teemate_abi::ocall;
use teemate_runner::broker::FileQuestion;

use crate::error::{Error, Result};

/// Most parts of a path.
const DEPTH: usize = 2;

/// The part of it that may lie elsewhere: where the payload keeps a counter.
const COUNTER: &[u8] = b"witness";

/// The directory.
#[derive(Debug)]
pub struct Data {
    directory: OwnedFd,
    counter: Option<OwnedFd>,
    path: PathBuf,
}

impl Data {
    /// Opens it, and the directory that stands for its part `witness`, if that lies elsewhere. They are made, for the node's user alone, if
    /// they are missing.
    pub fn open(path: &Path, counter: Option<&Path>) -> Result<Data> {
        Ok(Data { directory: directory(path)?, counter: counter.map(directory).transpose()?, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers a question of a container.
    pub fn answer(&self, question: &FileQuestion) -> std::result::Result<Option<OwnedFd>, Errno> {
        match question {
            FileQuestion::Open { path, flags } => self.open_below(path, *flags).map(Some),
            FileQuestion::Rename { from, to } => {
                let ((from, old), (to, new)) = (self.parent(from)?, self.parent(to)?);
                rustix::fs::renameat(&from, old, &to, new).map(|()| None)
            }
            FileQuestion::Remove { path } => {
                let (parent, name) = self.parent(path)?;
                rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty()).map(|()| None)
            }
        }
    }

    fn open_below(&self, path: &[u8], flags: u32) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlags::from_bits_truncate(flags & ocall::OPEN_FLAGS as u32);
        let path = checked(path)?;
        if flags.contains(OFlags::DIRECTORY | OFlags::CREATE) {
            let (parent, name) = self.parent(path)?;
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) => rustix::fs::fsync(&parent)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        let flags = if flags.contains(OFlags::DIRECTORY) { OFlags::DIRECTORY } else { flags };
        let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        // A file that is no plain one could hold whoever opens it.
        let file = self.resolve(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode)?;
        match rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            rustix::fs::FileType::RegularFile | rustix::fs::FileType::Directory => Ok(file),
            _ => Err(Errno::ACCESS),
        }
    }

    fn resolve(&self, path: &[u8], flags: OFlags, mode: Mode) -> std::result::Result<OwnedFd, Errno> {
        let (root, path) = match (&self.counter, path.strip_prefix(COUNTER)) {
            (Some(counter), Some(b"")) => (counter, &b""[..]),
            (Some(counter), Some([b'/', rest @ ..])) => (counter, rest),
            _ => (&self.directory, path),
        };
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve)
    }

    /// The directory that a path's last part is in, and that part.
    fn parent<'a>(&self, path: &'a [u8]) -> std::result::Result<(OwnedFd, &'a [u8]), Errno> {
        let path = checked(path)?;
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        if name.is_empty() {
            return Err(Errno::INVAL);
        }
        Ok((self.resolve(parent, OFlags::DIRECTORY, Mode::empty())?, name))
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    let what = || format!("use the data directory {}", path.display());
    if !path.is_dir() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::system(what()))?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::system(what()))
}

/// A path of names that are nothing special; the empty one is the directory itself.
fn checked(path: &[u8]) -> std::result::Result<&[u8], Errno> {
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    let parts = || path.split(|byte| *byte == b'/');
    let fine = path.is_empty() || path.len() <= ocall::DATA_PATH_MAX && parts().count() <= DEPTH && parts().all(plain);
    if fine { Ok(path) } else { Err(Errno::ACCESS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const CREATE: u32 = (libc::O_RDWR | libc::O_CREAT) as u32;

    fn open(data: &Data, path: &str, flags: i32) -> std::result::Result<std::fs::File, Errno> {
        let answer = data.answer(&FileQuestion::Open { path: path.into(), flags: flags as u32 })?;
        Ok(answer.expect("a descriptor").into())
    }

    #[test]
    fn files_are_opened_renamed_and_removed_below_it() {
        let directory = tempfile::tempdir().unwrap();
        let data = Data::open(&directory.path().join("new"), None).unwrap();
        assert_eq!(open(&data, "a", libc::O_RDONLY).unwrap_err(), Errno::NOENT);
        open(&data, "a", CREATE as i32).unwrap().write_all(b"hello").unwrap();
        assert_eq!(open(&data, "a", CREATE as i32 | libc::O_EXCL).unwrap_err(), Errno::EXIST);
        open(&data, "log", libc::O_DIRECTORY | libc::O_CREAT).unwrap().sync_all().unwrap();
        open(&data, "log", libc::O_DIRECTORY | libc::O_CREAT).unwrap();
        assert_eq!(data.answer(&FileQuestion::Rename { from: b"a".to_vec(), to: b"log/b".to_vec() }).unwrap().map(|_| ()), None);
        let mut text = String::new();
        open(&data, "log/b", libc::O_RDONLY).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        open(&data, "", libc::O_RDONLY).unwrap().sync_all().unwrap();
        data.answer(&FileQuestion::Remove { path: b"log/b".to_vec() }).unwrap();
        assert_eq!(data.answer(&FileQuestion::Remove { path: b"log/b".to_vec() }).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn a_counter_may_lie_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let (at, elsewhere) = (directory.path().join("data"), directory.path().join("elsewhere"));
        let data = Data::open(&at, Some(&elsewhere)).unwrap();
        open(&data, "witness/counter.new", CREATE as i32).unwrap().write_all(b"7").unwrap();
        let rename = FileQuestion::Rename { from: b"witness/counter.new".to_vec(), to: b"witness/counter".to_vec() };
        data.answer(&rename).unwrap();
        open(&data, "witness", libc::O_RDONLY | libc::O_DIRECTORY).unwrap().sync_all().unwrap();
        assert_eq!(std::fs::read(elsewhere.join("counter")).unwrap(), b"7");
        open(&data, "witnesses", CREATE as i32).unwrap();
        assert!(at.join("witnesses").exists() && !at.join("witness").exists());
        assert!(open(&data, "witness/../secret", libc::O_RDONLY).is_err());
    }

    /// The enclave's processes lie too, once a payload was taken over.
    #[test]
    fn nothing_outside_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let data = Data::open(&directory.path().join("data"), None).unwrap();
        std::fs::write(directory.path().join("secret"), "x").unwrap();
        std::fs::write(data.path().join("mine"), "y").unwrap();
        std::os::unix::fs::symlink(directory.path().join("secret"), data.path().join("link")).unwrap();
        std::os::unix::fs::symlink(directory.path(), data.path().join("up")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, data.path().join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let long = "x".repeat(300);
        for path in
            ["../secret", "/etc/passwd", "link", "up/secret", "a/../../secret", "a/b/c", "./mine", "mine/", "a//b", "\0", &long, "pipe"]
        {
            for flags in [libc::O_RDONLY, CREATE as i32, libc::O_RDWR | libc::O_TRUNC, libc::O_DIRECTORY | libc::O_CREAT] {
                assert!(open(&data, path, flags).is_err(), "{path:?} {flags:o}");
            }
            assert!(
                data.answer(&FileQuestion::Rename { from: b"mine".to_vec(), to: path.into() }).is_err() || path == "link" || path == "pipe"
            );
            std::fs::write(data.path().join("mine"), "y").unwrap();
        }
        assert_eq!(std::fs::read(directory.path().join("secret")).unwrap(), b"x");
        assert!(data.answer(&FileQuestion::Remove { path: b"../secret".to_vec() }).is_err());
        assert!(data.answer(&FileQuestion::Remove { path: b"".to_vec() }).is_err());
    }
}
