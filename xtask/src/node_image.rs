//! The node's image for Kubernetes, as a file that a registry's tools, `ctr image import` and `docker load` take.

use anyhow::{Context, Result, anyhow, bail};
use teemate_client::oci::Image;
use teemate_tests::node_image;

use crate::build;

/// What `deploy/kustomization.yaml` names.
const REFERENCE: &str = "registry.example/teemate-node:latest";

/// Builds everything, and the image.
pub fn run(arguments: &[String]) -> Result<()> {
    let reference = match arguments {
        [] => REFERENCE,
        [reference] if !reference.starts_with('-') => reference,
        _ => bail!("usage: cargo xtask node-image [REFERENCE]"),
    };
    let built = build::everything()?;
    let spec = node_image::spec(&built, reference).map_err(|error| anyhow!(error))?;
    let archive = Image::build(&spec)?.archive()?;
    let file = built.directory().join("node-image.tar");
    std::fs::write(&file, &archive).with_context(|| format!("{} can't be written", file.display()))?;
    println!("{} holds {reference}: {} MB", file.display(), archive.len() >> 20);
    Ok(())
}
