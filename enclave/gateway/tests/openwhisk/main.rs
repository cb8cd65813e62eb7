//! OpenWhisk's own clients, over TLS, against a gateway with a real vault. The functions run in Node instead of in containers, so this shows
//! what the API, and the JavaScript that it puts round an action, are worth with real code; tests/clients runs against the enclave as well.

mod functions;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use teemate_gateway::testing::{SimulatedAttester, parts};
use teemate_gateway::whisk::vault::VaultStore;
use teemate_gateway::whisk::{Config, Whisk};
use teemate_gateway::{Gateway, Receipts, Settings, State};
use teemate_vault::testing::MemoryDisk;
use teemate_vault::{FixedSealing, OwnerLimits, Owners, Vault};

use self::functions::NodeFunctions;

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

/// A folder whose `node_modules` has this module, installed there unless it was before.
fn modules(module: &str, version: &str) -> Result<PathBuf, String> {
    if std::env::var_os("TEEMATE_NO_INSTALL").is_some_and(|value| value == "1") && !clients().join("node_modules").join(module).is_dir() {
        return Err(format!("{module} is not installed, and TEEMATE_NO_INSTALL=1 forbids it"));
    }
    if clients().join("node_modules").join(module).is_dir() {
        return Ok(clients());
    }
    // CARGO_TARGET_TMPDIR lives as long as the build directory, so this is done once.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(module.replace('/', "-"));
    if folder.join("node_modules").join(module).is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    std::fs::write(folder.join("package.json"), "{\"private\":true}").map_err(|error| error.to_string())?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--fetch-retries=0", "--fetch-timeout=20000", "--loglevel=error"]);
    let output =
        npm.arg(format!("{module}@{version}")).current_dir(&folder).output().map_err(|error| format!("npm does not run: {error}"))?;
    if output.status.success() && folder.join("node_modules").join(module).is_dir() {
        return Ok(folder);
    }
    Err(format!("npm cannot install {module}: {}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no reason given")))
}

fn has_node() -> bool {
    Command::new("node").arg("--version").output().is_ok_and(|output| {
        let version =
            String::from_utf8_lossy(&output.stdout).trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
        version.is_some_and(|major: u32| major >= 20)
    })
}

/// Starts a gateway, runs these scripts against it, and gives those that failed.
fn run(scripts: &[&str], modules: &Path) -> Vec<String> {
    let vault = Vault::open(Arc::new(MemoryDisk::new()), Arc::new(FixedSealing::new([3; 16]))).expect("a vault");
    let owners = Arc::new(Owners::open(vault.clone()).expect("owners"));
    let limits = OwnerLimits { calls_per_minute: 10_000, triggers_per_minute: 10_000, ..OwnerLimits::default() };
    let token = owners.invite("grace", limits, Duration::from_secs(60)).expect("an invitation");
    let claimed = owners.claim(&token).expect("credentials");
    let store = Arc::new(VaultStore::new(vault.clone(), owners.clone()));
    let identity = Arc::new(teemate_gateway::Identity::generate().expect("keys"));
    let receipts = Receipts::new(identity.clone(), store.clone());
    let whisk = Whisk::new(Config::default(), Arc::new(NodeFunctions::start()), store, receipts.clone(), Arc::new(()));
    let mut parts = parts(SimulatedAttester::failing(0), whisk, Settings::default()).expect("parts");
    (parts.identity, parts.receipts, parts.accounts) = (identity, receipts, owners);
    let host = format!("https://{}", parts.listener.local_addr().expect("an address"));
    let gateway = Gateway::start(parts).expect("a gateway");
    while gateway.state() != State::Serving {
        std::thread::sleep(Duration::from_millis(5));
    }
    let auth = format!("{}:{}", claimed.uuid, claimed.key);
    let failed = |script: &&&str| {
        let mut node = Command::new("node");
        node.arg(clients().join(format!("{script}.js"))).env("OW_APIHOST", &host).env("OW_AUTH", &auth).env("OW_MODULES", modules);
        let status = node.env("OW_WASM", "1").env("NODE_NO_WARNINGS", "1").status().expect("node runs");
        !status.success()
    };
    scripts.iter().filter(failed).map(|script| (*script).to_owned()).collect()
}

#[test]
fn the_client_library() {
    if !has_node() {
        return println!("SKIPPED: no Node of version 20 or newer is here");
    }
    let modules = match modules("openwhisk", "3.21.9") {
        Ok(modules) => modules,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let scripts = ["actions", "invoking", "sequences", "packages", "rules", "web", "activations", "errors", "wasm"];
    assert_eq!(run(&scripts, &modules), Vec::<String>::new());
}

#[test]
fn the_command_line() {
    if std::env::var_os("TEEMATE_FULL").is_none_or(|value| value != "1") {
        return println!("SKIPPED: a minute of one process for each command: TEEMATE_FULL=1 runs it");
    }
    if !has_node() {
        return println!("SKIPPED: no Node of version 20 or newer is here");
    }
    let modules = match modules("@adobe/aio-cli-plugin-runtime", "7.1.0") {
        Ok(modules) => modules,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    assert_eq!(run(&["aio"], &modules), Vec::<String>::new());
}
