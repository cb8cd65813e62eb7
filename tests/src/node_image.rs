//! The node as an image for Kubernetes, on nothing: the programs, both enclaves, and the C library that the programs were linked with.

use teemate_client::oci::{ImageFile, ImageSpec};

use crate::artifacts::Artifacts;
use crate::containerd::SHIM;
use crate::scratch::{self, PLACE};

/// Programs of it.
const PROGRAMS: [&str; 4] = ["teemate", "teemate-node", "teemate-zygote", SHIM];

/// The image under this name.
///
/// # Errors
/// A sentence.
pub fn spec(artifacts: &Artifacts, reference: &str) -> Result<ImageSpec, String> {
    let mut files = scratch::programs(artifacts, &PROGRAMS)?;
    for image in [artifacts.image(), artifacts.database_image()] {
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(ImageFile { path: format!("{PLACE}/{name}"), content: scratch::read(&image)?, executable: false });
    }
    let entrypoint = vec![format!("/{PLACE}/bin/teemate-node")];
    Ok(ImageSpec { reference: reference.to_owned(), files, entrypoint, env: vec![format!("PATH=/{PLACE}/bin")], module: None })
}
