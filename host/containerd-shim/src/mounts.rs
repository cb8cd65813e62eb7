//! Files of a bundle's bind mounts (ConfigMaps, Secrets, volumes): a function is given them as they are when its container is created.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;

use crate::error::{Error, Result};

/// Most files of one container: as many as the enclave takes.
const FILES_MAX: usize = 256;
/// Most bytes of them. A ConfigMap or a Secret has at most 1 MiB.
const BYTES_MAX: u64 = 16 << 20;
/// Most entries of directories that are looked at.
const ENTRIES_MAX: usize = 4096;
/// Deepest directory below a mount.
const DEPTH_MAX: usize = 16;
/// What CRI and Docker add to each container: about its host, and not its own.
const ADDED: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
/// What is mounted there belongs to the container itself.
const SYSTEM: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Where Kubernetes mounts a pod's token for itself. It is another one in each pod, and changes while that lives: with it, no two pods would
/// have the same function, so each would have to be compiled, and the function would soon hold a token that is no longer good.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Which mounts a function is given the files of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    None,
    /// Those that somebody chose: all but a pod's own token.
    Chosen,
    /// That, too.
    All,
}

/// A mount of `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Mount {
    destination: PathBuf,
    #[serde(rename = "type")]
    kind: String,
    source: PathBuf,
    options: Vec<String>,
}

impl Mount {
    /// Whether a function is given its files.
    fn is_given(&self, wanted: Wanted) -> bool {
        let chosen = wanted == Wanted::Chosen && !self.destination.starts_with(ACCOUNT);
        let bind = self.kind == "bind" || self.options.iter().any(|option| option == "bind" || option == "rbind");
        (wanted == Wanted::All || chosen)
            && bind
            && !ADDED.iter().any(|path| self.destination == Path::new(path))
            && !SYSTEM.iter().any(|path| self.destination.starts_with(path))
    }
}

/// The regular files below a container's bind mounts, by their path in it. A relative source is one of the bundle.
///
/// # Errors
/// When they are too many or too large, or one of them can't be read.
pub fn files(mounts: &[Mount], bundle: &Path, wanted: Wanted) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Found::default();
    for mount in mounts.iter().filter(|mount| mount.is_given(wanted)) {
        // What was mounted below the same place before is covered.
        found.files.retain(|path, _| !path.starts_with(&mount.destination));
        found.add(&bundle.join(&mount.source), &mount.destination)?;
    }
    let text = |path: PathBuf| path.into_os_string().into_string();
    let named = found.files.into_iter().map(|(path, content)| {
        let path = text(path).map_err(|path| Error::Refused(format!("the mounted file {path:?} can't be given: its name is not UTF-8")))?;
        Ok((path, content))
    });
    named.collect()
}

#[derive(Default)]
struct Found {
    files: BTreeMap<PathBuf, Vec<u8>>,
    entries: usize,
}

/// An entry below a mount. Links are followed below the mount alone: what they lead to elsewhere is not what the container would see.
fn open(top: &OwnedFd, below: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(top, below, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn kind(fd: &OwnedFd) -> rustix::io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

impl Found {
    fn add(&mut self, source: &Path, destination: &Path) -> Result<()> {
        let top = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(Error::file(source))?;
        match kind(&top).map_err(Error::file(source))? {
            FileType::RegularFile => {
                let file = rustix::fs::open(source, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
                self.take(file.map_err(Error::file(source))?, destination.to_owned())
            }
            FileType::Directory => self.walk(&top, source, destination),
            // A socket or a device, which a function could not use.
            _ => Ok(()),
        }
    }

    fn walk(&mut self, top: &OwnedFd, source: &Path, destination: &Path) -> Result<()> {
        let mut left = vec![PathBuf::new()];
        while let Some(directory) = left.pop() {
            let failed = || Error::file(source.join(&directory));
            let opened = open(top, &directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed())?;
            for entry in rustix::fs::Dir::new(opened).map_err(failed())? {
                let entry = entry.map_err(failed())?;
                let name = entry.file_name().to_bytes();
                // `.`, `..`, and where a kubelet keeps what its links lead to (`..data`).
                if name == b"." || name.starts_with(b"..") {
                    continue;
                }
                self.entries += 1;
                if self.entries > ENTRIES_MAX || directory.components().count() >= DEPTH_MAX {
                    return Err(too_much(format!("more than {ENTRIES_MAX} entries, or directories deeper than {DEPTH_MAX}")));
                }
                let below = directory.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
                let found = match open(top, &below, OFlags::PATH) {
                    // A link to nothing, out of the mount, or in a circle names no file of it.
                    Err(Errno::NOENT | Errno::XDEV | Errno::LOOP) => continue,
                    found => found.map_err(Error::file(source.join(&below)))?,
                };
                match kind(&found).map_err(Error::file(source.join(&below)))? {
                    FileType::Directory => left.push(below),
                    FileType::RegularFile => {
                        // It may have become a FIFO meanwhile, in which nobody must wait.
                        let file = open(top, &below, OFlags::RDONLY | OFlags::NONBLOCK).map_err(Error::file(source.join(&below)))?;
                        self.take(file, destination.join(&below))?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, file: OwnedFd, path: PathBuf) -> Result<()> {
        let room = BYTES_MAX - self.files.values().map(|content| content.len() as u64).sum::<u64>();
        let mut content = Vec::new();
        File::from(file).take(room + 1).read_to_end(&mut content).map_err(Error::file(&path))?;
        if content.len() as u64 > room {
            return Err(too_much(format!("more than {} MiB", BYTES_MAX >> 20)));
        }
        self.files.insert(path, content);
        if self.files.len() > FILES_MAX {
            return Err(too_much(format!("more than {FILES_MAX} files")));
        }
        Ok(())
    }
}

fn too_much(what: String) -> Error {
    Error::Refused(format!(
        "the container's mounts have {what}, which a function can't be given; mount less, or set the annotation {} to \"none\"",
        crate::bundle::MOUNTS
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn bind(source: &Path, destination: &str) -> Mount {
        Mount { destination: destination.into(), kind: "bind".to_owned(), source: source.to_owned(), options: vec!["ro".to_owned()] }
    }

    /// A ConfigMap as a kubelet lays it out.
    fn config_map(at: &Path) {
        let data = at.join("..2026_01_01");
        std::fs::create_dir_all(data.join("deep")).unwrap();
        std::fs::write(data.join("key"), "value").unwrap();
        std::fs::write(data.join("deep/er"), "deeper").unwrap();
        symlink("..2026_01_01", at.join("..data")).unwrap();
        symlink("..data/key", at.join("key")).unwrap();
        symlink("..data/deep", at.join("deep")).unwrap();
    }

    fn pairs(found: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
        found.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect()
    }

    #[test]
    fn files_are_found_where_the_container_would_see_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::create_dir(at.join("map")).unwrap();
        config_map(&at.join("map"));
        std::fs::write(at.join("single"), "one").unwrap();
        let mounts = [
            bind(&at.join("single"), "/etc/map/key"),
            bind(&at.join("map"), "/etc/map"),
            bind(Path::new("single"), "/etc/one"),
            bind(&at.join("single"), "/etc/hosts"),
            bind(&at.join("map"), "/dev/shm"),
            Mount { kind: "tmpfs".to_owned(), ..bind(Path::new("tmpfs"), "/run") },
        ];
        let found = files(&mounts, at, Wanted::Chosen).unwrap();
        assert_eq!(
            pairs(&found),
            [("/etc/map/deep/er", &b"deeper"[..]), ("/etc/map/key", b"value"), ("/etc/one", b"one")],
            "a later mount covers an earlier one"
        );
        let token = [bind(&at.join("single"), "/var/run/secrets/kubernetes.io/serviceaccount/token")];
        for (wanted, count) in [(Wanted::None, 0), (Wanted::Chosen, 0), (Wanted::All, 1)] {
            assert_eq!(files(&token, at, wanted).unwrap().len(), count, "{wanted:?}");
        }
    }

    #[test]
    fn links_lead_nowhere_else_and_what_is_no_file_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let volume = at.join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(at.join("secret"), "secret").unwrap();
        for (target, name) in [("/etc/passwd", "absolute"), ("../secret", "up"), ("nothing", "dangling"), (".", "itself")] {
            symlink(target, volume.join(name)).unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
        let error = files(&[bind(&volume, "/v")], at, Wanted::Chosen).unwrap_err().to_string();
        assert!(error.contains("deeper than"), "a directory that contains itself ends somewhere: {error}");
        std::fs::remove_file(volume.join("itself")).unwrap();
        std::fs::write(volume.join("good"), "good").unwrap();
        assert_eq!(pairs(&files(&[bind(&volume, "/v")], at, Wanted::Chosen).unwrap()), [("/v/good", &b"good"[..])]);
    }

    #[test]
    fn there_is_an_end_to_number_and_size() {
        let directory = tempfile::tempdir().unwrap();
        let (many, large) = (directory.path().join("many"), directory.path().join("large"));
        std::fs::create_dir(&many).unwrap();
        for number in 0..=FILES_MAX {
            std::fs::write(many.join(number.to_string()), "").unwrap();
        }
        File::create(&large).unwrap().set_len(BYTES_MAX + 1).unwrap();
        for (source, why) in [(&many, "256 files"), (&large, "16 MiB")] {
            let error = files(&[bind(source, "/v")], directory.path(), Wanted::Chosen).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        for number in ["0", "1"] {
            std::fs::remove_file(many.join(number)).unwrap();
        }
        File::options().write(true).open(&large).unwrap().set_len(BYTES_MAX).unwrap();
        assert_eq!(files(&[bind(&many, "/v"), bind(&large, "/w")], directory.path(), Wanted::Chosen).unwrap().len(), FILES_MAX);
    }
}
