//! What `deploy/` holds, as Kubernetes gets it: rendered by the real kubectl, judged by Kubernetes' own schemas.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::artifacts::{Artifacts, root};
use crate::containerd::{Said, peers};

/// kubectl, among what is unpacked beside the artifacts.
pub const KUBECTL: &str = "kubectl";
/// The schemas, and what compares with them.
pub const SCHEMAS: &str = "kubernetes-validate";

/// Both tools.
pub struct Tools {
    kubectl: PathBuf,
    schemas: PathBuf,
}

impl Tools {
    /// Those that `cargo xtask test` unpacked.
    ///
    /// # Errors
    /// What is missing, in a sentence.
    pub fn find(artifacts: &Artifacts) -> Result<Tools, String> {
        let (kubectl, schemas) = (peers(artifacts).join(KUBECTL).join("usr/bin/kubectl"), peers(artifacts).join(SCHEMAS));
        if let Some(path) = [&kubectl, &schemas].into_iter().find(|path| !path.exists()) {
            return Err(format!("there is no {}; `cargo xtask test` fetches it where it is root of a Debian", path.display()));
        }
        Ok(Tools { kubectl, schemas })
    }

    /// A folder of `deploy/`, rendered.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn render(&self, folder: &str) -> Result<String, String> {
        let said = Said::of(Command::new(&self.kubectl).arg("kustomize").arg(root().join(folder)).stdin(Stdio::null()).output());
        if said.status == 0 { Ok(said.stdout) } else { Err(format!("{said:?}")) }
    }

    /// Compares a file with the schemas, strictly: what Kubernetes does not know is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self, file: &Path) -> Result<String, String> {
        let mut command = Command::new("python3");
        command.args(["-m", "kubernetes_validate", "--strict"]).arg(file).env("PYTHONPATH", &self.schemas);
        let said = Said::of(command.stdin(Stdio::null()).output());
        let text = said.stdout + &said.stderr;
        if said.status == 0 { Ok(text) } else { Err(text) }
    }
}
