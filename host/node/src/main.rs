//! The daemon.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use teemate_container::cgroup::Cgroups;
use teemate_control::node::Sharing;
use teemate_image::Image;
use teemate_node::config::LogFormat;
use teemate_node::containers::Containers;
use teemate_node::control::Control;
use teemate_node::node::{Node, Shop};
use teemate_node::store::Store;
use teemate_node::{Config, Error, Result, device, signals};
use teemate_sgx::Device;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "doctor") {
        return doctor();
    }
    signals::hold();
    let config = Config::parse();
    log_to_stderr(config.log_format);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the node ends");
            ExitCode::FAILURE
        }
    }
}

/// `teemate-node doctor [--json]`: what the host lacks, as `teemate doctor` reads it.
fn doctor() -> ExitCode {
    let containers = teemate_container::doctor::Report::now();
    let sgx = teemate_sgx::kernel::probe();
    if std::env::args_os().any(|word| word == "--json") {
        let mut checks = serde_json::json!(containers.items);
        let found = sgx.iter().map(|finding| {
            let (detail, advice) = if finding.found { (&*finding.sentence, "") } else { ("", &*finding.sentence) };
            serde_json::json!({ "name": finding.name, "found": finding.found, "required": false, "detail": detail, "advice": advice })
        });
        if let Some(list) = checks.as_array_mut() {
            list.extend(found);
        }
        println!("{checks}");
    } else {
        print!("{containers}");
        for finding in sgx {
            println!("{} {}: {}", if finding.found { "found  " } else { "absent " }, finding.name, finding.sentence);
        }
    }
    if containers.is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn log_to_stderr(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn run(config: Config) -> Result<()> {
    let _owner = own(&config.state)?;
    more_descriptors();
    // Before anything is built: whether there is a place to answer at.
    let control = Control::bind(&config.socket)?;

    let detected = Cgroups::detect();
    for missing in &detected.missing {
        tracing::warn!(controller = missing.0.name(), missing = missing.1.as_str(), "control groups are incomplete");
    }
    for path in Cgroups::sweep(&detected) {
        tracing::info!(path = %path.display(), "removed a control group that an earlier node left behind");
    }
    let cgroups = Cgroups::open(detected, &std::process::id().to_string())?;
    let (store, damaged) = Store::open(&config.state)?;
    for error in damaged {
        tracing::error!("{error}");
    }
    let enclaves = open_device(&config)?;
    let containers = Containers::new(cgroups)?;
    let (pid_path, metrics_address, ready_fd) = (config.pid_path(), config.metrics_address, config.ready_fd);
    let sharing = config.sharing;
    let socket = config.socket.clone();
    let processes = std::sync::Arc::clone(&containers);
    let node = Shop::new(config, store, containers, enclaves).and_then(Node::new).inspect_err(|_| {
        processes.kill_all("the node ends", Duration::from_secs(5), |_| true);
        processes.stop();
    })?;
    let served = serve(&node, &control, metrics_address, &pid_path, ready_fd);
    if served.is_ok() {
        tracing::info!(pid = std::process::id(), socket = %socket.display(), ?sharing, "the node answers");
        while !node.is_stopping() {
            if let Some(signal) = signals::wait(Duration::from_millis(100)) {
                tracing::info!(signal, "told to stop");
                break;
            }
        }
    }
    node.shut_down();
    let _ = std::fs::remove_file(&pid_path);
    drop(control);
    tracing::info!("the node has ended");
    served
}

fn serve(
    node: &std::sync::Arc<Node>,
    control: &Control,
    metrics: Option<std::net::SocketAddr>,
    pid_path: &Path,
    ready_fd: Option<i32>,
) -> Result<()> {
    if let Some(address) = metrics {
        let bound = teemate_node::metrics::serve(address, node)?;
        tracing::info!(%bound, "metrics are served");
    }
    control.serve(node)?;
    std::fs::write(pid_path, format!("{}\n", std::process::id())).map_err(Error::system(format!("write {}", pid_path.display())))?;
    if let Some(fd) = ready_fd {
        // Opened by path, so that no descriptor of somebody else's is taken over by number.
        let path = format!("/proc/self/fd/{fd}");
        let told = File::options().write(true).open(&path).and_then(|mut file| file.write_all(b"ready\n"));
        told.map_err(Error::system(format!("tell the descriptor {fd} that the node is ready")))?;
    }
    Ok(())
}

fn open_device(config: &Config) -> Result<Option<(Box<dyn Device>, Image)>> {
    let Some(path) = &config.image else {
        return match config.sharing {
            Sharing::Native => Ok(None),
            _ => Err(Error::Missing(
                "shared and exclusive modes need an enclave image: name it with --image, or use --sharing native".to_owned(),
            )),
        };
    };
    let image = Image::load(path).map_err(|error| Error::Image { path: path.clone(), reason: error.to_string() })?;
    let device = device::open(config.device, &config.state)?;
    if device.kind() == teemate_sgx::DeviceKind::Simulator {
        eprintln!("{}", teemate_sgx::simulator::BANNER);
    }
    Ok(Some((device, image)))
}

/// Makes the state directory and locks it for the life of the process.
fn own(state: &Path) -> Result<File> {
    let what = || format!("use the state directory {}", state.display());
    if !state.is_dir() {
        std::fs::create_dir_all(state).map_err(Error::system(what()))?;
        std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700)).map_err(Error::system(what()))?;
    }
    let path = state.join("lock");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(Error::system(what()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(Error::StateInUse { state: state.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(Error::system(what())(error)),
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(Error::system(what()))?;
    Ok(file)
}

/// A container takes some descriptors while it starts; 64 at once are more than the usual soft limit allows.
fn more_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}
