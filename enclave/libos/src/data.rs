//! Files that the payload keeps in the node's data directory, which is [`ROOT`] to it.
//!
//! They are the host's: it can give other bytes than were written, forget what was synced, and lie about names and sizes. Who keeps
//! something there seals it. Here only the shape of answers is checked.
//!
//! Positions are in here, and each read and write says where. So a call that is lost with its process can be made again: the process that
//! took over opens the file anew.

use alloc::vec::Vec;

use teemate_abi::ocall::{DATA_PATH_MAX, OPEN_FLAGS};

use crate::files::{self, File, Kind, Target};
use crate::lock::Spin;
use crate::{SysResult, container, ocall, user};

/// What the data directory is called.
pub const ROOT: &[u8] = b"/data";
/// Largest size of a file that is believed, and largest offset.
const MAX_SIZE: u64 = 1 << 44;

/// An open file or directory.
pub struct Data {
    path: Vec<u8>,
    /// O_ACCMODE and O_DIRECTORY: what it takes to open it again.
    flags: u64,
    /// The host's number.
    host: Spin<i32>,
    /// The next byte to read or write.
    position: Spin<u64>,
    /// With O_APPEND, where the next write goes. Nobody else writes to the file.
    end: Option<Spin<u64>>,
}

impl Data {
    /// The host's number.
    pub fn host(&self) -> i32 {
        *self.host.lock()
    }

    /// Carries a call out; once more if the file was another process's.
    fn on<R>(&self, owner: u64, act: impl Fn(i32) -> Result<R, i32>) -> Result<R, i32> {
        let fd = self.host();
        match act(fd) {
            Err(libc::EBADF) => self.open_again(owner, fd).and_then(act),
            done => done,
        }
    }

    fn open_again(&self, owner: u64, old: i32) -> Result<i32, i32> {
        let new = ocall::open(&self.path, self.flags)?;
        files::claim(owner, new)?;
        let mut host = self.host.lock();
        if *host != old {
            // Another thread was faster.
            let there = *host;
            drop(host);
            files::release(owner, new);
            ocall::close(new);
            return Ok(there);
        }
        *host = new;
        drop(host);
        files::release(owner, old);
        Ok(new)
    }

    /// read(2): from the position on, which it moves.
    pub fn read(&self, owner: u64, address: u64, length: u64) -> SysResult {
        let from = *self.position.lock();
        let got = self.read_at(owner, address, length, from)?;
        *self.position.lock() = from + got;
        Ok(got)
    }

    /// write(2): at the position, or at the end with O_APPEND.
    pub fn write(&self, owner: u64, address: u64, length: u64) -> SysResult {
        let place = self.end.as_ref().unwrap_or(&self.position);
        let from = *place.lock();
        let done = self.write_at(owner, address, length, from)?;
        *place.lock() = from + done;
        Ok(done)
    }

    /// pread(2).
    pub fn read_at(&self, owner: u64, address: u64, length: u64, offset: u64) -> SysResult {
        let into = user::bytes_mut(address, within(offset, length)?)?;
        let mut at = 0;
        while at < into.len() {
            let most = (into.len() - at).min(ocall::MAX_DATA);
            match self.on(owner, |fd| ocall::read_at(fd, most, offset + at as u64)) {
                Ok(0) => break,
                Ok(got) => {
                    ocall::take(0, &mut into[at..at + got]);
                    at += got;
                }
                Err(error) if at == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(at as u64)
    }

    /// pwrite(2).
    pub fn write_at(&self, owner: u64, address: u64, length: u64, offset: u64) -> SysResult {
        let bytes = user::bytes(address, within(offset, length)?)?;
        let mut at = 0;
        while at < bytes.len() {
            let piece = &bytes[at..bytes.len().min(at + ocall::MAX_DATA)];
            match self.on(owner, |fd| ocall::write_at(fd, piece, offset + at as u64)) {
                Ok(0) => break,
                Ok(done) => at += done,
                Err(error) if at == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(at as u64)
    }

    /// lseek(2).
    pub fn seek(&self, owner: u64, offset: i64, whence: u64) -> SysResult {
        let base = match whence as i32 {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => *self.position.lock(),
            libc::SEEK_END => self.status(owner)?.1,
            _ => return Err(libc::EINVAL),
        };
        let to = base.checked_add_signed(offset).filter(|to| *to <= MAX_SIZE).ok_or(libc::EINVAL)?;
        *self.position.lock() = to;
        Ok(to)
    }

    /// `st_mode` and size, by the host's word.
    pub fn status(&self, owner: u64) -> Result<(u32, u64), i32> {
        self.on(owner, ocall::file_status).and_then(believe)
    }
}

/// What the host says a file is, if one of this kind and size can be in the data directory.
fn believe((mode, size): (u32, u64)) -> Result<(u32, u64), i32> {
    let known = matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
    if known && size <= MAX_SIZE { Ok((mode & (libc::S_IFMT | 0o777), size)) } else { Err(libc::EIO) }
}

fn within(offset: u64, length: u64) -> Result<u64, i32> {
    let length = length.min(files::MAX_TRANSFER);
    if offset.checked_add(length).is_some_and(|end| end <= MAX_SIZE) { Ok(length) } else { Err(libc::EFBIG) }
}

/// open(2) and openat(2). What is not below [`ROOT`] is not there.
pub fn open(path: u64, flags: u64) -> SysResult {
    let path = below(path)?;
    let appends = flags & libc::O_APPEND as u64 != 0;
    // Links are never followed, and nothing is passed on to another program.
    let mut asked = flags & OPEN_FLAGS;
    if flags & libc::O_PATH as u64 != 0 {
        return Err(libc::EINVAL);
    }
    let host = loop {
        match ocall::open_once(&path, asked) {
            // Perhaps it made the file before it went: then it is there, and it is ours.
            Err(ocall::Lost) => asked &= !(libc::O_EXCL as u64),
            Ok(opened) => break opened?,
        }
    };
    let owner = container::current();
    files::claim(owner, host)?;
    let kept = asked & (libc::O_ACCMODE | libc::O_DIRECTORY) as u64;
    let end = appends.then(|| Spin::new(0));
    let file = File::new(Kind::Data(Data { path, flags: kept, host: Spin::new(host), position: Spin::new(0), end }), false);
    if let Kind::Data(data) = &file.kind
        && let Some(end) = &data.end
    {
        *end.lock() = data.status(owner)?.1;
    }
    files::insert(file)
}

/// stat(2) and its like, by path: `st_mode` and size.
pub fn status(path: u64) -> Result<(u32, u64), i32> {
    let path = below(path)?;
    let owner = container::current();
    let host = ocall::open(&path, 0)?;
    files::claim(owner, host)?;
    let data = Data { path, flags: 0, host: Spin::new(host), position: Spin::new(0), end: None };
    // Dropped, and so closed, at the end.
    let file = File::new(Kind::Data(data), false);
    match &file.kind {
        Kind::Data(data) => data.status(owner),
        _ => Err(libc::EIO),
    }
}

/// mkdir(2): a directory that is there already is no mistake to the host, and one to the caller only if he asks first.
pub fn make_directory(path: u64) -> SysResult {
    let path = below(path)?;
    let host = ocall::open(&path, (libc::O_DIRECTORY | libc::O_CREAT) as u64)?;
    ocall::close(host);
    Ok(0)
}

/// rename(2).
pub fn rename(from: u64, to: u64) -> SysResult {
    let (from, to) = (below(from)?, below(to)?);
    ocall::rename(&from, &to).map(|()| 0)
}

/// unlink(2).
pub fn remove(path: u64) -> SysResult {
    ocall::remove(&below(path)?).map(|()| 0)
}

/// fsync(2) and fdatasync(2).
pub fn sync(fd: u64, data_only: bool) -> SysResult {
    on(fd, |data, owner| data.on(owner, |fd| ocall::sync(fd, data_only)).map(|()| 0))
}

/// ftruncate(2).
pub fn truncate(fd: u64, size: u64) -> SysResult {
    if size > MAX_SIZE {
        return Err(libc::EFBIG);
    }
    on(fd, |data, owner| {
        data.on(owner, |fd| ocall::truncate(fd, size))?;
        if let Some(end) = &data.end {
            *end.lock() = size;
        }
        Ok(0)
    })
}

/// pread64(2) and pwrite64(2).
pub fn transfer_at(fd: u64, address: u64, length: u64, offset: u64, writes: bool) -> SysResult {
    on(fd, |data, owner| if writes { data.write_at(owner, address, length, offset) } else { data.read_at(owner, address, length, offset) })
}

fn on(fd: u64, act: impl FnOnce(&Data, u64) -> SysResult) -> SysResult {
    match files::get(fd)? {
        Target::File(file) => match &file.kind {
            Kind::Data(data) => act(data, file.owner()),
            _ => Err(libc::EINVAL),
        },
        Target::Standard(_) => Err(libc::EINVAL),
    }
}

/// The part of a path below [`ROOT`]; ENOENT for any other.
fn below(path: u64) -> Result<Vec<u8>, i32> {
    relative(user::string(path)?)
}

fn relative(path: &[u8]) -> Result<Vec<u8>, i32> {
    let rest = path.strip_prefix(ROOT).ok_or(libc::ENOENT)?;
    let rest = match rest.split_first() {
        None => rest,
        Some((b'/', rest)) => rest,
        Some(_) => return Err(libc::ENOENT),
    };
    let rest = rest.strip_suffix(b"/").unwrap_or(rest);
    if rest.len() > DATA_PATH_MAX { Err(libc::ENAMETOOLONG) } else { Ok(Vec::from(rest)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_root_is_there() {
        assert_eq!(relative(b"/data/a/b"), Ok(b"a/b".to_vec()));
        assert_eq!(relative(b"/data"), Ok(Vec::new()));
        assert_eq!(relative(b"/data/"), Ok(Vec::new()));
        for other in [&b"/database"[..], b"data/a", b"/etc/passwd", b"", b"/"] {
            assert_eq!(relative(other), Err(libc::ENOENT));
        }
        assert_eq!(relative(&[b"/data/".as_slice(), &[b'x'; 256]].concat()), Err(libc::ENAMETOOLONG));
    }

    #[test]
    fn a_lying_status_is_an_error() {
        assert_eq!(believe((libc::S_IFREG | 0o4600, 7)), Ok((libc::S_IFREG | 0o600, 7)));
        assert_eq!(believe((libc::S_IFDIR | 0o700, MAX_SIZE)), Ok((libc::S_IFDIR | 0o700, MAX_SIZE)));
        for lie in [(libc::S_IFREG, MAX_SIZE + 1), (libc::S_IFREG, u64::MAX), (libc::S_IFCHR, 0), (libc::S_IFLNK, 1), (0, 0), (u32::MAX, 0)]
        {
            assert_eq!(believe(lie), Err(libc::EIO), "{lie:?}");
        }
    }

    #[test]
    fn offsets_end_somewhere() {
        assert_eq!(within(0, 10), Ok(10));
        assert_eq!(within(MAX_SIZE - 10, 10), Ok(10));
        assert_eq!(within(MAX_SIZE - 9, 10), Err(libc::EFBIG));
        assert_eq!(within(u64::MAX, 10), Err(libc::EFBIG));
        assert_eq!(within(0, u64::MAX), Ok(files::MAX_TRANSFER));
    }
}
