//! The container that an invoker of OpenWhisk starts for an action, as an image on nothing: `teemate action`.

use teemate_client::oci::ImageSpec;

use crate::artifacts::Artifacts;
use crate::scratch::{self, PLACE};

/// Where the owner's profile and policy are mounted.
pub const PROFILES: &str = "/root/.config/teemate/profiles";
/// Environment. An invoker that makes pods lets its template set none.
const ENVIRONMENT: [&str; 2] = ["HOME=/root", "TEEMATE_PROFILE=default"];

/// The image under this name.
///
/// # Errors
/// A sentence.
pub fn spec(artifacts: &Artifacts, reference: &str) -> Result<ImageSpec, String> {
    let env = ENVIRONMENT.iter().map(|pair| (*pair).to_owned()).chain([format!("PATH=/{PLACE}/bin")]).collect();
    let entrypoint = vec![format!("/{PLACE}/bin/teemate"), "action".to_owned()];
    let files = scratch::programs(artifacts, &["teemate"])?;
    Ok(ImageSpec { reference: reference.to_owned(), files, entrypoint, env, module: None })
}
