//! Images of functions for containerd, Docker and Kubernetes: an OCI image layout in a tar file, with the function as its only file. Made
//! without a daemon; `ctr image import`, `docker load`, `podman load` and `skopeo copy oci-archive:` take it.
//!
//! Sources: OCI Image Format Specification 1.0 (manifest, config, image layout); POSIX.1-1988 ustar. The same input gives the same bytes.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Where the files of an image come from.
#[derive(Clone, Debug, Default)]
pub struct ImageSpec {
    /// Reference, such as `registry.example/team/function:1`.
    pub reference: String,
    /// Path inside and content; executables are marked.
    pub files: Vec<ImageFile>,
    /// The command; its first word is the function's path.
    pub entrypoint: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// A WebAssembly module that is a layer by itself, instead of a file (containerd 1.7 and newer).
    pub module: Option<Vec<u8>>,
}

/// One file of an image.
#[derive(Clone, Debug, Default)]
pub struct ImageFile {
    /// Path without a slash at its beginning, at most 100 bytes.
    pub path: String,
    /// Content.
    pub content: Vec<u8>,
    /// Whether it can be executed.
    pub executable: bool,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ustar has no room for it.
    #[error("{0:?} can't be a file of an image: a path has 1 to 100 bytes of ASCII, is relative and holds no `..`")]
    Path(String),
}

/// An image of one function: the file under its own name at the top.
pub fn function(reference: &str, name: &str, code: Vec<u8>) -> ImageSpec {
    ImageSpec {
        reference: reference.to_owned(),
        files: vec![ImageFile { path: name.to_owned(), content: code, executable: false }],
        entrypoint: vec![format!("/{name}")],
        env: Vec::new(),
        module: None,
    }
}

/// An image of one module, which is a layer by itself.
pub fn module(reference: &str, name: &str, code: Vec<u8>) -> ImageSpec {
    ImageSpec { files: Vec::new(), module: Some(code), ..function(reference, name, Vec::new()) }
}

/// Content that is named by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it is.
    pub media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Blob {
    fn new(media_type: &str, content: Vec<u8>) -> Blob {
        let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        Blob { media_type: media_type.to_owned(), digest: format!("sha256:{digest}"), content }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.content.len() })
    }
}

/// A built image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    reference: String,
    layer: Blob,
    config: Blob,
    manifest: Blob,
}

impl Image {
    /// Builds one.
    ///
    /// # Errors
    /// When a path does not fit.
    pub fn build(spec: &ImageSpec) -> Result<Image, Error> {
        let mut files = Tar::default();
        for file in &spec.files {
            files.add(&file.path, if file.executable { 0o755 } else { 0o644 }, &file.content)?;
        }
        let layer = match &spec.module {
            Some(module) => Blob::new("application/wasm", module.clone()),
            None => Blob::new("application/vnd.oci.image.layer.v1.tar", files.end()),
        };
        // What is not unpacked is no part of the root file system.
        let unpacked: &[&str] = if spec.module.is_some() { &[] } else { &[&layer.digest] };
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Entrypoint": spec.entrypoint, "Env": spec.env, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": unpacked },
        });
        let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        });
        let manifest = Blob::new("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
        Ok(Image { reference: spec.reference.clone(), layer, config, manifest })
    }

    /// What its manifest names.
    pub fn blobs(&self) -> [&Blob; 2] {
        [&self.layer, &self.config]
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Blob {
        &self.manifest
    }

    /// The image layout as a tar file.
    ///
    /// # Errors
    /// None that an image which could be built has.
    pub fn archive(&self) -> Result<Vec<u8>, Error> {
        let mut manifest = self.manifest.descriptor();
        manifest["annotations"] = json!({
            "org.opencontainers.image.ref.name": self.reference,
            "io.containerd.image.name": self.reference,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest] });
        // What `docker load` looks for beside a layout.
        let place = |blob: &Blob| format!("blobs/{}", blob.digest.replace(':', "/"));
        let docker = json!([{ "Config": place(&self.config), "RepoTags": [self.reference], "Layers": [place(&self.layer)] }]);
        let mut tar = Tar::default();
        tar.add("manifest.json", 0o644, docker.to_string().as_bytes())?;
        tar.add("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.add("index.json", 0o644, index.to_string().as_bytes())?;
        for blob in [&self.layer, &self.config, &self.manifest] {
            tar.add(&place(blob), 0o644, &blob.content)?;
        }
        Ok(tar.end())
    }
}

/// A ustar archive whose files belong to root and have no time.
#[derive(Default)]
struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    fn add(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), Error> {
        let fits = (1..=100).contains(&path.len()) && path.is_ascii() && !path.contains('\0');
        if !fits || path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::Path(path.to_owned()));
        }
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        // The sum is made with blanks in its own place.
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\0");
        put(263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        Ok(())
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_function_is_the_same_image_and_each_digest_fits() {
        let spec = function("example/f:1", "f.js", b"code".to_vec());
        let archive = Image::build(&spec).unwrap().archive().unwrap();
        assert_eq!(archive, Image::build(&spec).unwrap().archive().unwrap());
        let (mut at, mut names) = (0, Vec::new());
        while archive[at] != 0 {
            let name = std::str::from_utf8(&archive[at..at + 100]).unwrap().trim_end_matches('\0').to_owned();
            let size = usize::from_str_radix(std::str::from_utf8(&archive[at + 124..at + 135]).unwrap(), 8).unwrap();
            let content = &archive[at + 512..at + 512 + size];
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            }
            names.push(name);
            at += 512 + size.next_multiple_of(512);
        }
        assert_eq!(names.len(), 6, "{names:?}");
    }

    #[test]
    fn paths_that_tar_or_an_image_can_not_have_are_refused() {
        for path in ["", "/f.js", "a/../f.js", "ä.js", &"x".repeat(101)] {
            assert!(Image::build(&function("r", path, Vec::new())).is_err(), "{path:?}");
        }
    }
}
