//! Functions on disk: what was deployed is there after a restart, whole or not at all.
//!
//! ```text
//! functions/<name>/meta.json   specification, digest of the code
//!                  code        source or module
//!                  root/       its files, where its containers see them
//! ```
//! A directory is written beside its place and renamed into it. What does not agree with its digests is reported and not served.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use teemate_control::function::FunctionSpec;

use crate::error::{Error, Result};
use crate::locks::{Lock, SharedLock};
use crate::text::hex;

/// Largest code: OpenWhisk's limit.
pub const CODE_MAX: usize = 48 << 20;
/// Largest sum of a function's files.
pub const FILES_MAX: usize = 256 << 20;
/// Directories that a container mounts something on, or that the system needs: no file of a function may lie there.
const RESERVED: [&str; 3] = ["dev", "proc", "sys"];
/// Mount points that each root has.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "tmp", "mnt", "work"];
const META_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Meta {
    version: u32,
    spec: FunctionSpec,
    digest: [u8; 32],
    size: u64,
}

/// A deployed function.
#[derive(Debug)]
pub struct Function {
    /// What was deployed.
    pub spec: FunctionSpec,
    /// SHA-256 of the code.
    pub digest: [u8; 32],
    /// Bytes of code.
    pub size: u64,
    directory: PathBuf,
}

impl Function {
    /// The code, read from disk and checked against its digest.
    pub fn code(&self) -> Result<Vec<u8>> {
        let path = self.directory.join("code");
        let code = fs::read(&path).map_err(Error::system(format!("read {}", path.display())))?;
        let digest: [u8; 32] = Sha256::digest(&code).into();
        if digest != self.digest {
            return Err(Error::Corrupt {
                name: self.spec.name.clone(),
                reason: "its code does not have the digest that was deployed".to_owned(),
            });
        }
        Ok(code)
    }

    /// The directory with its files, if it has any.
    pub fn root(&self) -> Option<PathBuf> {
        (!self.spec.files.is_empty()).then(|| self.directory.join("root"))
    }
}

/// A function that is written and does not count yet. Dropping it removes what is beside its place: itself, or what it replaced.
pub struct Staged {
    /// As it will be.
    pub function: Function,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.function.directory);
    }
}

/// All functions of a node.
pub struct Store {
    directory: PathBuf,
    functions: RwLock<BTreeMap<String, Arc<Function>>>,
    serial: AtomicU64,
    writing: std::sync::Mutex<()>,
}

impl Store {
    /// Opens the store below the state directory; gives what it found damaged, by name.
    pub fn open(state: &Path) -> Result<(Store, Vec<Error>)> {
        let directory = state.join("functions");
        fs::create_dir_all(&directory).map_err(Error::system(format!("make the directory {}", directory.display())))?;
        let list = fs::read_dir(&directory).map_err(Error::system(format!("read the directory {}", directory.display())))?;
        let (mut functions, mut damaged) = (BTreeMap::new(), Vec::new());
        for entry in list.filter_map(std::result::Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                // Half-written, or given up, by an earlier node.
                let _ = fs::remove_dir_all(entry.path());
                continue;
            }
            match load(&entry.path()) {
                Ok(function) if directory_name(&function.spec.name) == name => {
                    functions.insert(function.spec.name.clone(), Arc::new(function));
                }
                Ok(_) => damaged.push(Error::Corrupt { name, reason: "it says that it has another name".to_owned() }),
                Err(reason) => damaged.push(Error::Corrupt { name, reason }),
            }
        }
        let store = Store { directory, functions: RwLock::new(functions), serial: AtomicU64::new(0), writing: std::sync::Mutex::new(()) };
        Ok((store, damaged))
    }

    /// All, by name.
    pub fn all(&self) -> Vec<Arc<Function>> {
        self.functions.read_lock().values().cloned().collect()
    }

    /// One.
    pub fn get(&self, name: &str) -> Result<Arc<Function>> {
        self.functions
            .read_lock()
            .get(name)
            .cloned()
            .ok_or_else(|| Error::Invalid(format!("there is no function {name:?}; `teemate function list` shows those that there are")))
    }

    /// Writes one beside its place, so that it can be tried before it counts.
    pub fn stage(&self, spec: FunctionSpec, code: &[u8], files: &[Vec<u8>]) -> Result<Staged> {
        check(&spec, code, files)?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let beside = self.directory.join(format!(".new-{}-{serial}", std::process::id()));
        let function = Function { digest: Sha256::digest(code).into(), size: code.len() as u64, directory: beside, spec };
        let written = write(&function.directory, &function, code, files);
        let staged = Staged { function };
        written.map_err(Error::system(format!("store the function {:?}", staged.function.spec.name)))?;
        Ok(staged)
    }

    /// Puts a staged one into its place, where an older one of the same name may be.
    pub fn commit(&self, staged: Staged) -> Result<Arc<Function>> {
        let _one_at_a_time = self.writing.locked();
        let spec = staged.function.spec.clone();
        let place = self.directory.join(directory_name(&spec.name));
        let failed = || format!("store the function {:?}", spec.name);
        swap(&staged.function.directory, &place).map_err(Error::system(failed()))?;
        sync(&self.directory).map_err(Error::system(failed()))?;
        let function = Arc::new(Function { digest: staged.function.digest, size: staged.function.size, directory: place, spec });
        self.functions.write_lock().insert(function.spec.name.clone(), Arc::clone(&function));
        Ok(function)
    }

    /// Writes one, in place of an older one of the same name.
    pub fn put(&self, spec: FunctionSpec, code: &[u8], files: &[Vec<u8>]) -> Result<Arc<Function>> {
        self.commit(self.stage(spec, code, files)?)
    }

    /// Forgets one.
    pub fn delete(&self, name: &str) -> Result<()> {
        let _one_at_a_time = self.writing.locked();
        let function = self.get(name)?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let beside = self.directory.join(format!(".old-{}-{serial}", std::process::id()));
        fs::rename(&function.directory, &beside).map_err(Error::system(format!("delete the function {name:?}")))?;
        self.functions.write_lock().remove(name);
        let _ = sync(&self.directory);
        let _ = fs::remove_dir_all(&beside);
        Ok(())
    }
}

/// A file name for a function's name: the same where it can be one.
fn directory_name(name: &str) -> String {
    if name.len() <= 200 && !name.starts_with('.') {
        return name.to_owned();
    }
    // '%' is in no function's name, so this is nobody else's.
    format!("%{}", hex(&Sha256::digest(name.as_bytes())))
}

fn load(directory: &Path) -> std::result::Result<Function, String> {
    let read = |name: &str| fs::read(directory.join(name)).map_err(|error| format!("{name} can't be read: {error}"));
    let meta: Meta = serde_json::from_slice(&read("meta.json")?).map_err(|error| format!("meta.json can't be understood: {error}"))?;
    if meta.version != META_VERSION {
        return Err(format!("it is stored in version {} of the format, this node reads version {META_VERSION}", meta.version));
    }
    let code = read("code")?;
    let digest: [u8; 32] = Sha256::digest(&code).into();
    if digest != meta.digest {
        return Err("its code does not have the digest that was deployed".to_owned());
    }
    check_spec(&meta.spec).map_err(|error| error.to_string())?;
    for file in &meta.spec.files {
        let relative = relative(&file.path).map_err(|error| error.to_string())?;
        let path = directory.join("root").join(relative);
        let length = fs::symlink_metadata(&path).map_err(|error| format!("its file {} can't be read: {error}", file.path))?.len();
        if length != file.length {
            return Err(format!("its file {} has {length} bytes instead of {}", file.path, file.length));
        }
    }
    Ok(Function { spec: meta.spec, digest: meta.digest, size: meta.size, directory: directory.to_owned() })
}

fn write(directory: &Path, function: &Function, code: &[u8], files: &[Vec<u8>]) -> std::io::Result<()> {
    fs::create_dir(directory)?;
    let meta = Meta { version: META_VERSION, spec: function.spec.clone(), digest: function.digest, size: function.size };
    write_file(&directory.join("meta.json"), &serde_json::to_vec_pretty(&meta)?, 0o600)?;
    write_file(&directory.join("code"), code, 0o600)?;
    let root = directory.join("root");
    make_directory(&root)?;
    for point in MOUNT_POINTS {
        make_directory(&root.join(point))?;
    }
    for (file, content) in function.spec.files.iter().zip(files) {
        let path = root.join(relative(&file.path).map_err(std::io::Error::other)?);
        let mut parents: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| *parent != root).collect();
        parents.reverse();
        for parent in parents {
            if !parent.is_dir() {
                make_directory(parent)?;
            }
        }
        write_file(&path, content, 0o444)?;
    }
    sync(&root)?;
    sync(directory)
}

/// Containers run as users of their own: they must be able to read it.
fn make_directory(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn sync(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Puts `beside` into its place; what was there is beside afterwards.
fn swap(beside: &Path, place: &Path) -> std::io::Result<()> {
    if !place.exists() {
        return fs::rename(beside, place);
    }
    match rustix::fs::renameat_with(CWD, beside, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            // A file system that can't exchange: a crash between the two loses the older one, never gives half of one.
            let old = beside.with_extension("old");
            fs::rename(place, &old)?;
            fs::rename(beside, place)?;
            fs::remove_dir_all(old)
        }
        Err(error) => Err(error.into()),
    }
}

fn check(spec: &FunctionSpec, code: &[u8], files: &[Vec<u8>]) -> Result<()> {
    check_spec(spec)?;
    if code.is_empty() || code.len() > CODE_MAX {
        return Err(Error::Invalid(format!("the code has {} bytes; it must have 1 to {CODE_MAX}", code.len())));
    }
    if files.len() != spec.files.len() {
        return Err(Error::Invalid(format!("{} files are named, but {} came with the request", spec.files.len(), files.len())));
    }
    if files.iter().map(Vec::len).sum::<usize>() > FILES_MAX {
        return Err(Error::Invalid(format!("the files have more than {FILES_MAX} bytes in all")));
    }
    for (file, content) in spec.files.iter().zip(files) {
        let digest: [u8; 32] = Sha256::digest(content).into();
        if content.len() as u64 != file.length || digest != file.sha256 {
            return Err(Error::Invalid(format!(
                "the content of the file {} does not have the length and digest in its specification",
                file.path
            )));
        }
    }
    Ok(())
}

fn check_spec(spec: &FunctionSpec) -> Result<()> {
    let invalid = |text: String| Err(Error::Invalid(text));
    let good = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    if spec.name.is_empty() || spec.name.len() > 256 || !spec.name.chars().all(good) {
        return invalid(format!("{:?} can't be the name of a function: 1 to 256 characters of A-Z a-z 0-9 _ . @ - are allowed", spec.name));
    }
    let limits = &spec.limits;
    if !(1..=600_000).contains(&limits.timeout_ms) {
        return invalid(format!("a timeout of {} ms is not allowed: 1 to 600000", limits.timeout_ms));
    }
    if !(65_536..=4 << 30).contains(&limits.memory) {
        return invalid(format!("a memory limit of {} bytes is not allowed: 65536 to {}", limits.memory, 4u64 << 30));
    }
    if limits.log > 64 << 20 || limits.result > 64 << 20 {
        return invalid("the limits of log and result may be at most 64 MiB".to_owned());
    }
    if spec.egress.len() > 64 || spec.files.len() > 1024 || spec.env.len() > 1024 {
        return invalid("at most 64 addresses, 1024 files and 1024 variables are allowed".to_owned());
    }
    for address in &spec.egress {
        crate::broker::split(address).map_err(Error::Invalid)?;
    }
    let mut paths: Vec<PathBuf> = spec.files.iter().map(|file| relative(&file.path)).collect::<Result<_>>()?;
    paths.sort();
    if let Some(pair) = paths.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
        return invalid(format!("the files /{} and /{} can't both be there", pair[0].display(), pair[1].display()));
    }
    Ok(())
}

/// A file's place below the root.
fn relative(path: &str) -> Result<PathBuf> {
    let invalid = |why: &str| Error::Invalid(format!("{path:?} can't be the path of a function's file: {why}"));
    if path.len() > 1024 || path.contains('\0') {
        return Err(invalid("it is too long, or contains a NUL"));
    }
    let inner = Path::new(path).strip_prefix("/").map_err(|_| invalid("it must be absolute"))?;
    // `components` drops `.` and doubled slashes: a path that names the same file in another way is refused, for the enclave compares bytes.
    let plain: PathBuf = inner.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    if plain.as_os_str().is_empty() || format!("/{}", plain.display()) != path {
        return Err(invalid("it must be in its shortest form, without . and .."));
    }
    match plain.components().next() {
        Some(Component::Normal(first)) if RESERVED.iter().any(|reserved| first == *reserved) => {
            Err(invalid("/dev, /proc and /sys belong to the container"))
        }
        _ if plain.components().any(|part| part.as_os_str().len() > 255) => Err(invalid("a part of it is too long")),
        _ => Ok(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use teemate_control::function::{Kind, Limits, VerifiedFile};

    fn spec(name: &str, files: &[(&str, &[u8])]) -> FunctionSpec {
        FunctionSpec {
            name: name.to_owned(),
            kind: Kind::JavaScript,
            main: "main".to_owned(),
            limits: Limits::default(),
            egress: vec![],
            files: files
                .iter()
                .map(|(path, content)| VerifiedFile {
                    path: (*path).to_owned(),
                    sha256: Sha256::digest(content).into(),
                    length: content.len() as u64,
                })
                .collect(),
            env: vec![],
            reuse: Default::default(),
        }
    }

    #[test]
    fn what_is_stored_is_there_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let (store, damaged) = Store::open(state.path()).unwrap();
        assert!(damaged.is_empty());
        let long = "n".repeat(256);
        for name in ["a", "..", &long, "..x@-"] {
            store.put(spec(name, &[("/data/in/x.txt", b"content")]), b"code", &[b"content".to_vec()]).unwrap();
        }
        store.put(spec("a", &[]), b"newer", &[]).unwrap();
        store.put(spec("gone", &[]), b"x", &[]).unwrap();
        store.delete("gone").unwrap();
        drop(store);
        fs::create_dir(state.path().join("functions/.new-1-1")).unwrap();
        let (store, damaged) = Store::open(state.path()).unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        assert_eq!(store.all().len(), 4);
        assert_eq!(store.get("a").unwrap().code().unwrap(), b"newer");
        assert!(store.get("a").unwrap().root().is_none());
        let root = store.get(&long).unwrap().root().unwrap();
        assert_eq!(fs::read(root.join("data/in/x.txt")).unwrap(), b"content");
        assert!(root.join("dev").is_dir());
        assert!(matches!(store.get("gone"), Err(Error::Invalid(_))));
        assert_eq!(fs::read_dir(state.path().join("functions")).unwrap().count(), 4, "nothing half-written is left");
    }

    #[test]
    fn damage_is_reported_by_name_and_the_rest_is_served() {
        let state = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(state.path()).unwrap();
        for name in ["good", "code", "meta", "file", "version", "moved"] {
            store.put(spec(name, &[("/f", b"1")]), b"code", &[b"1".to_vec()]).unwrap();
        }
        let at = |path: &str| state.path().join("functions").join(path);
        fs::write(at("code/code"), b"other").unwrap();
        fs::write(at("meta/meta.json"), b"{").unwrap();
        fs::remove_file(at("file/root/f")).unwrap();
        let meta = fs::read_to_string(at("version/meta.json")).unwrap().replace("\"version\": 1", "\"version\": 9");
        fs::write(at("version/meta.json"), meta).unwrap();
        fs::rename(at("moved"), at("elsewhere")).unwrap();
        fs::write(at("stray"), b"").unwrap();
        let (store, damaged) = Store::open(state.path()).unwrap();
        assert_eq!(store.all().iter().map(|f| f.spec.name.as_str()).collect::<Vec<_>>(), ["good"]);
        let mut names: Vec<_> = damaged
            .iter()
            .map(|error| match error {
                Error::Corrupt { name, .. } => name.as_str(),
                _ => "?",
            })
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["code", "elsewhere", "file", "meta", "stray", "version"]);
    }

    #[test]
    fn a_specification_that_reaches_too_far_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(state.path()).unwrap();
        for path in ["x", "/", "/../x", "/a/../b", "/a//b", "/./a", "/a/", "/dev/null", "/proc/x", "/sys/x", "/a\0b", ""] {
            assert!(store.put(spec("f", &[(path, b"1")]), b"c", &[b"1".to_vec()]).is_err(), "{path:?}");
        }
        assert!(store.put(spec("f", &[("/a", b"1"), ("/a/b", b"1")]), b"c", &[b"1".to_vec(), b"1".to_vec()]).is_err());
        for name in ["", "a/b", "ä", "a b", &"x".repeat(257)] {
            assert!(store.put(spec(name, &[]), b"c", &[]).is_err(), "{name:?}");
        }
        assert!(store.put(spec("f", &[("/a", b"1")]), b"c", &[b"2".to_vec()]).is_err(), "another content");
        assert!(store.put(spec("f", &[]), b"", &[]).is_err());
        let mut bad = spec("f", &[]);
        bad.limits.timeout_ms = 0;
        assert!(store.put(bad, b"c", &[]).is_err());
        let mut bad = spec("f", &[]);
        bad.egress = vec!["nowhere".to_owned()];
        assert!(store.put(bad, b"c", &[]).is_err());
        assert!(store.all().is_empty());
    }
}
