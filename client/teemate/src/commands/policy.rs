//! `teemate policy`, and where the other commands find theirs.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use teemate_attestation::{Connector, Identity, Policy};
use teemate_evidence::encoding::{hex, unhex};

use crate::arguments::attestation::{Judge, Policy as Command, PolicyFile, PolicyInit};
use crate::failure::Failure;
use crate::output::Output;

/// Carries out a `policy` command.
pub fn run(command: &Command, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(arguments) => init(arguments, output),
        Command::Check(file) => {
            let path = path(file)?;
            let policy = Policy::load(&path)?;
            output.result(&json!({ "policy": path, "valid": true }), || {
                let count = policy.enclaves.len();
                let warning = if policy.insecure_simulation { "; it takes SIMULATED QUOTES, which prove nothing" } else { "" };
                format!("{} is a policy for {count} enclave{}{warning}", path.display(), if count == 1 { "" } else { "s" })
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show(file) => {
            let policy = Policy::load(&path(file)?)?;
            output.result(&document(&policy), || policy.to_toml())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn document(policy: &Policy) -> Value {
    json!({
        "insecure_simulation": policy.insecure_simulation,
        "debug": policy.debug,
        "tcb_status": policy.tcb_status,
        "advisories": policy.advisories,
        "max_collateral_age_s": policy.max_collateral_age,
        "collateral": policy.collateral,
        "enclaves": policy.enclaves,
    })
}

fn init(arguments: &PolicyInit, output: &Output) -> Result<ExitCode, Failure> {
    let mut enclaves = Vec::new();
    for text in &arguments.mrenclave {
        enclaves.push(Identity::Enclave { mrenclave: digest(text)? });
    }
    for image in &arguments.image {
        enclaves.push(Identity::Enclave { mrenclave: teemate_image::Image::load(image)?.measure() });
    }
    if let (Some(mrsigner), Some(product), Some(min_svn)) = (&arguments.mrsigner, arguments.product, arguments.min_svn) {
        enclaves.push(Identity::Signer { mrsigner: digest(mrsigner)?, product, min_svn });
    }
    let policy = Policy { insecure_simulation: arguments.insecure_simulation, ..Policy::strict(enclaves) };
    let text = policy.to_toml();
    let path = path(&arguments.policy)?;
    if path == Path::new("-") {
        output.result(&document(&policy), || text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    let opened = if arguments.replace { options.write(true).create(true).truncate(true) } else { options.write(true).create_new(true) };
    let written = opened.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(format!("{} is there already; --replace replaces it", path.display())),
        _ => Failure::new(format!("{} can't be written: {error}", path.display())),
    })?;
    output.result(&json!({ "policy": path, "enclaves": policy.enclaves }), || {
        let named: Vec<String> = policy.enclaves.iter().map(name).collect();
        format!("{} accepts\n{}", path.display(), named.join("\n"))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn name(identity: &Identity) -> String {
    match identity {
        Identity::Enclave { mrenclave } => format!("  MRENCLAVE {}", hex(mrenclave)),
        Identity::Signer { mrsigner, product, min_svn } => {
            format!("  MRSIGNER  {}, product {product}, versions from {min_svn} on", hex(mrsigner))
        }
    }
}

fn digest(text: &str) -> Result<[u8; 32], Failure> {
    unhex(text).ok_or_else(|| Failure::usage(format!("{text:?} is no measurement: it has 64 hexadecimal digits")))
}

/// The policy's path.
pub fn path(file: &PolicyFile) -> Result<PathBuf, Failure> {
    match &file.policy {
        Some(path) => Ok(path.clone()),
        None => Ok(teemate_client::profile::directory()?.join("policy.toml")),
    }
}

/// Connections under the policy that the arguments name, with their collateral. `fallback`: a policy where they name none.
pub fn connector(judge: &Judge, fallback: Option<&Path>) -> Result<Connector, Failure> {
    let path = match (&judge.policy.policy, fallback) {
        (None, Some(fallback)) => fallback.to_owned(),
        _ => path(&judge.policy)?,
    };
    let mut policy = Policy::load(&path)?;
    if let Some(collateral) = &judge.collateral {
        policy.collateral = Some(collateral.clone());
    }
    Ok(Connector::new(policy)?)
}
