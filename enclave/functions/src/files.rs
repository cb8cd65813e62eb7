//! Files that a function may read: those of its specification, with the digest that its owner gave.

use sha2::{Digest, Sha256};
use teemate_control::function::{Failure, FailureKind, FunctionSpec};

/// The content of `path`.
///
/// # Errors
/// Denied when the specification does not list it, Integrity when the content is not what the owner deployed.
pub fn read(spec: &FunctionSpec, path: &str) -> Result<Vec<u8>, Failure> {
    let Some(file) = spec.files.iter().find(|file| file.path == path) else {
        return Err(Failure::new(FailureKind::Denied, denied(spec, path)));
    };
    let content = teemate_containers::verified_file(&file.path, &file.sha256, file.length).map_err(|error| {
        let changed = error.raw_os_error() == Some(libc::EBADMSG);
        let what =
            if changed { "is not what its owner deployed: its digest differs".to_owned() } else { format!("cannot be read: {error}") };
        Failure::new(FailureKind::Integrity, format!("the file {path} {what}"))
    })?;
    if content.len() as u64 != file.length || Sha256::digest(&content)[..] != file.sha256 {
        return Err(Failure::new(FailureKind::Integrity, format!("the file {path} is not what its owner deployed: its digest differs")));
    }
    Ok(content)
}

fn denied(spec: &FunctionSpec, path: &str) -> String {
    let path = crate::spec::shorten(path);
    if spec.files.is_empty() {
        return format!("the file {path} may not be opened: '{}' was deployed without files", spec.name);
    }
    let some: Vec<_> = spec.files.iter().take(8).map(|file| file.path.as_str()).collect();
    format!(
        "the file {path} may not be opened: '{}' may read {}{}",
        spec.name,
        some.join(", "),
        if spec.files.len() > 8 { ", ..." } else { "" }
    )
}
