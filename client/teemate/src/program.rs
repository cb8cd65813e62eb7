//! Finds the programs that belong to the host: they stand beside the command line, as git's and cargo's do.

use std::path::{Path, PathBuf};

/// Name of the environment variable that names another directory for them.
pub const VARIABLE: &str = "TEEMATE_LIBEXEC";

/// Where `name` is. `None`: neither in `$TEEMATE_LIBEXEC`, nor beside this executable, nor on the `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    let libexec = std::env::var_os(VARIABLE).map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    search(name, libexec.into_iter().chain(beside).chain(std::env::split_paths(&path)))
}

/// The sentence for a program that is not there.
pub fn missing(name: &str) -> String {
    format!("{name} is neither beside this program nor on the PATH; build it with `cargo xtask build`, or set {VARIABLE} to its directory")
}

fn search(name: &str, directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.map(|directory| directory.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_directory_that_has_it_wins_and_a_plain_file_does_not_count() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(a.path().join("tool"), "").unwrap();
        let there = b.path().join("tool");
        std::fs::write(&there, "").unwrap();
        std::fs::set_permissions(&there, std::fs::Permissions::from_mode(0o755)).unwrap();
        let directories = || [a.path().to_owned(), b.path().to_owned()].into_iter();
        assert_eq!(search("tool", directories()), Some(there));
        assert_eq!(search("other", directories()), None);
    }
}
