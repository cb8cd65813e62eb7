//! Where a node listens.

use std::path::PathBuf;

/// Name of the environment variable that names the socket.
pub const VARIABLE: &str = "TEEMATE_SOCKET";

/// The socket of a user's own node, or of the machine's: `$XDG_RUNTIME_DIR/teemate/node.sock`, else `/run/teemate/node.sock`.
pub fn default_path() -> PathBuf {
    from_runtime_dir(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))
}

fn from_runtime_dir(directory: Option<PathBuf>) -> PathBuf {
    match directory {
        Some(directory) if directory.is_absolute() => directory.join("teemate/node.sock"),
        _ => PathBuf::from("/run/teemate/node.sock"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_socket_of_their_own() {
        assert_eq!(from_runtime_dir(Some("/run/user/7".into())), PathBuf::from("/run/user/7/teemate/node.sock"));
    }

    #[test]
    fn an_empty_or_relative_runtime_directory_is_ignored() {
        for directory in [None, Some(PathBuf::new()), Some("here".into())] {
            assert_eq!(from_runtime_dir(directory), PathBuf::from("/run/teemate/node.sock"));
        }
    }
}
