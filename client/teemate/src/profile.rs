//! Who one is at an enclave: endpoint, policy, namespace and key, in a file that only its owner can read.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Environment variable that names the profile in use.
pub const VARIABLE: &str = "TEEMATE_PROFILE";
/// Environment variable that names another directory of profiles.
pub const DIRECTORY: &str = "TEEMATE_CONFIG";

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No directory to keep it in.
    #[error("there is no home directory for profiles; set {DIRECTORY} to a directory")]
    NoDirectory,
    /// A name that can't be a file's.
    #[error("{0:?} is no name for a profile: use letters, digits, _ and -")]
    Name(String),
    /// It is not there.
    #[error("there is no profile {name:?} ({}); make one with `teemate login`", path.display())]
    Missing {
        /// Its name.
        name: String,
        /// Where it was sought.
        path: PathBuf,
    },
    /// It is there already.
    #[error("the profile {name:?} is there already ({}); take another --name, or --replace", path.display())]
    Exists {
        /// Its name.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
    /// It can't be read or written, or says nonsense.
    #[error("the profile {} can't be used: {why}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What `teemate login` keeps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `https://host:port` of the enclave.
    pub endpoint: String,
    /// Policy that its quote must satisfy.
    pub policy: PathBuf,
    /// The namespace that one owns.
    pub namespace: String,
    /// `uuid:key`.
    pub auth: String,
}

impl std::fmt::Debug for Profile {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("endpoint", &self.endpoint).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Profile {
    /// Reads one.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(name: &str) -> Result<Profile, Error> {
        let path = path(name)?;
        let failed = |why: String| Error::File { path: path.clone(), why };
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| failed(error.message().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Missing { name: name.to_owned(), path }),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Whether one can be saved under this name; asked before a token is spent.
    ///
    /// # Errors
    /// [`Error::Exists`], or what keeps it from being written.
    pub fn check_free(name: &str, replace: bool) -> Result<(), Error> {
        let path = path(name)?;
        if path.exists() && !replace {
            return Err(Error::Exists { name: name.to_owned(), path });
        }
        path.parent().map_or(Ok(()), make_directory)
    }

    /// Writes it, readable for its owner only. Replaces one of the same name.
    ///
    /// # Errors
    /// [`Error`].
    pub fn save(&self, name: &str) -> Result<PathBuf, Error> {
        let path = path(name)?;
        let failed = |why: String| Error::File { path: path.clone(), why };
        if let Some(directory) = path.parent() {
            make_directory(directory)?;
        }
        let text = toml::to_string(self).map_err(|error| failed(error.to_string()))?;
        let new = path.with_extension("new");
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|error| failed(error.to_string()))?;
        Ok(path)
    }
}

/// The directory of profiles and of what else a client remembers.
///
/// # Errors
/// [`Error::NoDirectory`].
pub fn directory() -> Result<PathBuf, Error> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(DIRECTORY)
        .or_else(|| Some(absolute("XDG_CONFIG_HOME")?.join("teemate")))
        .or_else(|| Some(absolute("HOME")?.join(".config/teemate")))
        .ok_or(Error::NoDirectory)
}

fn path(name: &str) -> Result<PathBuf, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(Error::Name(name.to_owned()));
    }
    Ok(directory()?.join("profiles").join(format!("{name}.toml")))
}

fn make_directory(directory: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| Error::File { path: directory.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        for bad in ["", "../x", "a/b", "a.b", &"x".repeat(65)] {
            assert!(matches!(path(bad), Err(Error::Name(_))), "{bad}");
        }
    }

    #[test]
    fn the_key_is_not_shown() {
        let profile = Profile {
            endpoint: "https://127.0.0.1:1".into(),
            policy: "p.toml".into(),
            namespace: "ada".into(),
            auth: "uuid:secret".into(),
        };
        assert!(!format!("{profile:?}").contains("secret"));
        assert_eq!(toml::from_str::<Profile>(&toml::to_string(&profile).unwrap()).unwrap(), profile);
    }
}
