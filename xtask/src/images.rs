//! Images of our programs, as files that a registry's tools, `ctr image import` and `docker load` take.

use anyhow::{Context, Result, anyhow, bail};
use teemate_client::oci::{Image, ImageSpec};
use teemate_tests::artifacts::Artifacts;
use teemate_tests::{action_image, node_image};

use crate::build;

/// An image that can be built.
struct Kind {
    /// Name of the task, and of the file.
    name: &'static str,
    /// Reference where none is given.
    reference: &'static str,
    spec: fn(&Artifacts, &str) -> Result<ImageSpec, String>,
}

/// The node's for Kubernetes, under the name that `deploy/node/kustomization.yaml` has, and that of OpenWhisk's actions.
const KINDS: [Kind; 2] = [
    Kind { name: "node-image", reference: "registry.example/teemate-node:latest", spec: node_image::spec },
    Kind { name: "action-image", reference: "registry.example/teemate-action:latest", spec: action_image::spec },
];

/// Builds everything, and the image that this task is for.
pub fn run(task: &str, arguments: &[String]) -> Result<()> {
    let Some(kind) = KINDS.iter().find(|kind| kind.name == task) else { bail!("there is no image for {task:?}") };
    let reference = match arguments {
        [] => kind.reference,
        [reference] if !reference.starts_with('-') => reference,
        _ => bail!("usage: cargo xtask {task} [REFERENCE]"),
    };
    let built = build::everything()?;
    let spec = (kind.spec)(&built, reference).map_err(|error| anyhow!(error))?;
    let archive = Image::build(&spec)?.archive()?;
    let file = built.directory().join(format!("{task}.tar"));
    std::fs::write(&file, &archive).with_context(|| format!("{} can't be written", file.display()))?;
    println!("{} holds {reference}: {} MB", file.display(), archive.len() >> 20);
    Ok(())
}
