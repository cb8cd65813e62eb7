//! Where `cargo xtask build` put what it built.

use std::path::{Path, PathBuf};

/// Name of the environment variable that names another directory.
pub const VARIABLE: &str = "TEEMATE_ARTIFACTS";

/// What `cargo xtask build` made.
#[derive(Clone, Debug)]
pub struct Artifacts {
    directory: PathBuf,
}

/// Top directory of the source.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

impl Artifacts {
    /// Those in a directory, complete or not.
    pub fn at(directory: PathBuf) -> Self {
        Artifacts { directory }
    }

    /// Those of this source tree.
    ///
    /// # Errors
    /// A sentence that tells what is missing and how to get it.
    pub fn find() -> Result<Self, String> {
        let directory = std::env::var_os(VARIABLE).map_or_else(|| root().join("artifacts"), PathBuf::from);
        let artifacts = Artifacts { directory };
        let needed = [artifacts.program("teemate"), artifacts.program("teemate-node"), artifacts.image()];
        match needed.iter().find(|path| !path.is_file()) {
            Some(path) => Err(format!("{} is not built; run `cargo xtask build` first", path.display())),
            None => Ok(artifacts),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// One of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    /// The enclave image of the function service.
    pub fn image(&self) -> PathBuf {
        self.directory.join("functions.teemate")
    }

    /// The enclave image of the database.
    pub fn database_image(&self) -> PathBuf {
        self.directory.join("database.teemate")
    }

    /// The manifest of the paper's nine functions.
    pub fn manifest() -> PathBuf {
        root().join("examples/functions/functions.toml")
    }
}
