//! Builds everything, and gathers it in artifacts/.
//!
//! | what | how |
//! |---|---|
//! | host programs | release, as usual |
//! | zygote, shim | release, static-pie: a container's root is empty, and a dynamic program would start more slowly; the shim is copied to other machines |
//! | JavaScript engine | C to WebAssembly, by the functions' own builder |
//! | payload | static-pie for glibc: the image builder relocates it into ELRANGE |
//! | LibOS | static-pie without any C library |
//! | image | `teemate image build`, signed with a development key that never leaves artifacts/ |
//!
//! Paths of this machine are replaced in what is measured, so that the same source gives the same MRENCLAVE everywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use teemate_tests::artifacts::{self, Artifacts};

use crate::paths::{self, TARGET, cargo, root};
use crate::step::{self, Steps};
use crate::tools;

/// Packages and their programs that run on the host as they are.
const HOST: &[(&str, &str)] = &[("teemate", "teemate"), ("teemate-node", "teemate-node"), ("teemate-bench", "teemate-bench")];
/// Those that run where nothing of this machine is: in a container's empty root, and on machines that only get the program.
const STATIC: &[(&str, &str)] = &[("teemate-runner", "teemate-zygote"), ("teemate-containerd-shim", "containerd-shim-teemate-v1")];
/// A static, position-independent program with glibc in it.
const STATIC_PIE: &[&str] = &["-Ctarget-feature=+crt-static", "-Crelocation-model=pie"];
/// The LibOS has no C library, no start files and no interpreter.
const LIBOS: &[&str] = &[
    "-Ctarget-feature=+crt-static",
    "-Crelocation-model=pie",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static-pie",
];

/// The feature with which the builder of the JavaScript engine is there.
pub const ENGINE_BUILD: &str = "teemate-functions/engine-build";

/// Everything; or nothing, when `TEEMATE_ARTIFACTS` names a directory where it is built already.
pub fn everything() -> Result<Artifacts> {
    if std::env::var_os(artifacts::VARIABLE).is_some() {
        let given = Artifacts::find().map_err(|error| anyhow!(error))?;
        println!("using what is built in {}", given.directory().display());
        return Ok(given);
    }
    let mut steps = Steps::default();
    let built = Artifacts::at(paths::artifacts());
    fs::create_dir_all(built.directory().join("bin")).context("artifacts/bin can't be made")?;
    steps.step("host programs", || host(&built))?;
    steps.step("zygote and shim", || everywhere(&built))?;
    measured(&mut steps, &built)?;
    println!("{}", steps.summary());
    Ok(built)
}

/// Only the image, and the command line that makes it.
pub fn image_only() -> Result<()> {
    let mut steps = Steps::default();
    let built = Artifacts::at(paths::artifacts());
    fs::create_dir_all(built.directory().join("bin")).context("artifacts/bin can't be made")?;
    steps.step("command line", || {
        step::run(Command::new(cargo()).current_dir(root()).args(["build", "--locked", "--release", "--package", "teemate"]))?;
        keep(&paths::target_base().join("release/teemate"), &built.program("teemate"))
    })?;
    measured(&mut steps, &built)?;
    step::run(Command::new(built.program("teemate")).args(["image", "measure"]).arg(built.image()))
}

/// What is inside the enclave.
fn measured(steps: &mut Steps, built: &Artifacts) -> Result<()> {
    steps.step("JavaScript engine", || engine(built))?;
    steps.step("payload", || payload(built))?;
    steps.step("LibOS", || libos(built))?;
    steps.step("image", || image(built))?;
    steps.step("database", || database(built))?;
    steps.step("test payload", || test_payload(built))
}

/// The payload that checks the LibOS from inside, and its image.
fn test_payload(built: &Artifacts) -> Result<()> {
    let mut command = with_flags("payload", STATIC_PIE, true)?;
    command.args(["build", "--locked", "--profile", "payload", "--target", TARGET, "--package", "teemate-test-payload"]);
    step::run(&mut command)?;
    let payload = built.program("teemate-test-payload");
    keep(&paths::target("payload").join(TARGET).join("payload/teemate-test-payload"), &payload)?;
    sign(built, &payload, &root().join("xtask/test-image.toml"), &built.directory().join("test-payload.teemate"))
}

fn host(built: &Artifacts) -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["build", "--locked", "--release"]);
    for (package, _) in HOST {
        command.args(["--package", package]);
    }
    step::run(&mut command)?;
    for (_, program) in HOST {
        keep(&paths::target_base().join("release").join(program), &built.program(program))?;
    }
    Ok(())
}

fn everywhere(built: &Artifacts) -> Result<()> {
    let target = paths::target("static");
    let mut command = with_flags("static", STATIC_PIE, false)?;
    command.args(["build", "--locked", "--release", "--target", TARGET]);
    for (package, program) in STATIC {
        command.args(["--package", package, "--bin", program]);
    }
    step::run(&mut command)?;
    for (_, program) in STATIC {
        keep(&target.join(TARGET).join("release").join(program), &built.program(program))?;
    }
    Ok(())
}

/// The engine is built only when its sources are newer than it: it takes a while, and changes seldom. Its builder is compiled with the
/// payload's flags, in the payload's target directory: they share wasmtime, and the engine is compiled ahead by the very same one.
fn engine(built: &Artifacts) -> Result<()> {
    let module = built.directory().join("js-engine.wasm");
    let parts = [module.clone(), module.with_extension("image"), module.with_extension("cwasm")];
    let sources = files_below(&[&root().join("enclave/functions/engine"), &root().join("enclave/functions/src")]);
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    if parts.iter().all(|part| is_newer(part, &sources)) {
        return Ok(());
    }
    let missing = tools::ensure(&[tools::CLANG, tools::WASM_LD, tools::WASI_LIBC]);
    if !missing.is_empty() {
        bail!("{}", missing.join("; "));
    }
    step::run(&mut payloads(built, "teemate-js-engine-build", &[ENGINE_BUILD])?)?;
    step::run(Command::new(payload_program("teemate-js-engine-build")).arg(&module))
}

/// Regular files in these directories and below.
fn files_below(directories: &[&Path]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut left: Vec<PathBuf> = directories.iter().map(|directory| directory.to_path_buf()).collect();
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { left.push(path) } else { files.push(path) }
        }
    }
    files
}

/// Builds one program of the payloads. All payloads are named each time: features of what they share, wasmtime above all, are then the same
/// for each, and it is compiled once.
fn payloads(built: &Artifacts, program: &str, features: &[&str]) -> Result<Command> {
    let mut command = with_flags("payload", STATIC_PIE, true)?;
    // Always the same value, so that no build makes another's stale; the engine's own builder does not look for it.
    command.env("TEEMATE_JS_ENGINE", built.directory().join("js-engine.wasm"));
    command.args(["build", "--locked", "--profile", "payload", "--target", TARGET, "--package", "teemate-functions"]);
    command.args(["--package", "teemate-database", "--no-default-features", "--bin", program]);
    command.args(["--features", &[&["teemate-database/scripts"], features].concat().join(",")]);
    Ok(command)
}

/// Where cargo leaves one.
fn payload_program(program: &str) -> PathBuf {
    paths::target("payload").join(TARGET).join("payload").join(program)
}

fn payload(built: &Artifacts) -> Result<()> {
    const PROGRAM: &str = "teemate-functions";
    step::run(&mut payloads(built, PROGRAM, &[])?)?;
    keep(&payload_program(PROGRAM), &built.program(PROGRAM))
}

/// The database as a payload, without its command line, and its image.
fn database(built: &Artifacts) -> Result<()> {
    const PROGRAM: &str = "teemate-database-enclave";
    step::run(&mut payloads(built, PROGRAM, &[])?)?;
    let payload = built.program(PROGRAM);
    keep(&payload_program(PROGRAM), &payload)?;
    sign(built, &payload, &root().join("xtask/database-image.toml"), &built.database_image())
}

/// The database as an ordinary program: only the bench compares with it. Nothing is built when `TEEMATE_ARTIFACTS` names a directory.
pub fn native_database(built: &Artifacts) -> Result<()> {
    const PROGRAM: &str = "teemate-database";
    if std::env::var_os(artifacts::VARIABLE).is_some() {
        return Ok(());
    }
    let mut command = Command::new(cargo());
    step::run(command.current_dir(root()).args(["build", "--locked", "--release", "--package", PROGRAM, "--bin", PROGRAM]))?;
    keep(&paths::target_base().join("release").join(PROGRAM), &built.program(PROGRAM))
}

fn libos(built: &Artifacts) -> Result<()> {
    let mut command = with_flags("libos", LIBOS, true)?;
    command.args(["build", "--locked", "--profile", "enclave", "--target", TARGET]);
    command.args(["--package", "teemate-libos", "--features", "image", "--bin", "teemate-libos"]);
    step::run(&mut command)?;
    keep(&paths::target("libos").join(TARGET).join("enclave/teemate-libos"), &built.directory().join("teemate-libos"))
}

/// The signed image; made again only when one of its parts is newer.
fn image(built: &Artifacts) -> Result<()> {
    let teemate = built.program("teemate");
    let key = built.directory().join("signing-key.pem");
    if !key.is_file() {
        step::run(Command::new(&teemate).args(["image", "keygen"]).arg(&key))?;
    }
    sign(built, &built.program("teemate-functions"), &root().join("xtask/functions-image.toml"), &built.image())
}

/// Builds and signs an image of the LibOS and a payload, unless it is newer than all of its parts.
fn sign(built: &Artifacts, payload: &Path, config: &Path, output: &Path) -> Result<()> {
    let (teemate, libos, key) =
        (built.program("teemate"), built.directory().join("teemate-libos"), built.directory().join("signing-key.pem"));
    if is_newer(output, &[&libos, payload, config, &key, &teemate]) {
        return Ok(());
    }
    let mut command = Command::new(&teemate);
    command.args(["image", "build", "--libos"]).arg(&libos).arg("--payload").arg(payload).arg("--config").arg(config);
    command.arg("--key").arg(&key).arg("--output").arg(output);
    step::run(&mut command)
}

/// Cargo with flags of its own and a target directory of its own. What is measured gets neutral paths.
fn with_flags(purpose: &str, flags: &[&str], neutral: bool) -> Result<Command> {
    let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    if neutral {
        all.extend(remappings()?);
    }
    let mut command = Command::new(cargo());
    command
        .current_dir(root())
        .env("CARGO_TARGET_DIR", paths::target(purpose))
        .env("CARGO_ENCODED_RUSTFLAGS", all.join("\x1f"))
        .env_remove("RUSTFLAGS");
    Ok(command)
}

/// `--remap-path-prefix` for the source, cargo's registry and the toolchain.
fn remappings() -> Result<Vec<String>> {
    let home = |variable: &str, default: &str| {
        let given = std::env::var_os(variable).map(PathBuf::from);
        given.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(default)))
    };
    let sysroot = step::capture(Command::new("rustc").current_dir(root()).args(["--print", "sysroot"]))?;
    let mut all = vec![(root().to_owned(), "/teemate"), (PathBuf::from(sysroot.trim()), "/rust")];
    all.extend(home("CARGO_HOME", ".cargo").map(|path| (path, "/cargo")));
    Ok(all.into_iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect())
}

/// Copies a program to artifacts/, unless it is there already: what has not changed keeps its time.
fn keep(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    // A running program can't be written to, but it can be replaced.
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).and_then(|_| fs::rename(&temporary, to)).with_context(|| format!("{} can't be written", to.display()))
}

/// Whether `product` is there and newer than all its `sources`.
fn is_newer(product: &Path, sources: &[&Path]) -> bool {
    let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let Some(made) = time(product) else { return false };
    sources.iter().all(|source| time(source).unwrap_or(SystemTime::now()) <= made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_keeps_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&from, "x").unwrap();
        keep(&from, &to).unwrap();
        let time = to.metadata().unwrap().modified().unwrap();
        keep(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().modified().unwrap(), time);
        assert!(is_newer(&to, &[&from]));
        assert!(!is_newer(&directory.path().join("none"), &[]));
    }

    #[test]
    fn flags_are_separated_so_that_paths_may_hold_blanks() {
        let command = with_flags("static", &["-Ca", "-Cb"], false).unwrap();
        let flags = command.get_envs().find(|(name, _)| *name == "CARGO_ENCODED_RUSTFLAGS").unwrap().1.unwrap();
        assert_eq!(flags, "-Ca\x1f-Cb");
    }
}
