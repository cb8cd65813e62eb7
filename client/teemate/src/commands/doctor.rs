//! `teemate doctor`: each prerequisite, found or not, and what to do.
//!
//! What belongs to the host (the device, namespaces, what may be delegated) `teemate-node doctor --json` probes by trying; this program
//! only looks at what any user can see, and starts the other one if it is there.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};
use teemate_client::{node, program};

use crate::failure::{FAILED, Failure};
use crate::output::{Output, harmless, table, verdict};

/// One prerequisite.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Check {
    /// What it is.
    name: String,
    /// Whether it is there.
    found: bool,
    /// Whether a node can't run without it.
    #[serde(default)]
    required: bool,
    /// What was seen.
    #[serde(default)]
    detail: String,
    /// What to do when it is not there.
    #[serde(default)]
    advice: String,
}

#[derive(Serialize)]
struct Report {
    device: &'static str,
    ready: bool,
    checks: Vec<Check>,
}

/// Looks at everything. Fails when something required is missing.
pub fn run(output: &Output) -> Result<ExitCode, Failure> {
    let mut checks = own_checks();
    for check in node_checks() {
        // The node's word on a thing is the better one: it tried.
        checks.retain(|own| own.name != check.name);
        checks.push(check);
    }
    let sgx = checks.iter().any(|check| check.name == SGX_DEVICE && check.found)
        && checks.iter().any(|check| check.name == SGX_CPU && check.found);
    let ready = checks.iter().all(|check| check.found || !check.required);
    let report = Report { device: if sgx { "sgx" } else { "simulator" }, ready, checks };
    output.result(&report, || describe(&report))?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn describe(report: &Report) -> String {
    let rows = report.checks.iter().map(|check| {
        let word = match (check.found, check.required) {
            (true, _) => verdict(true, "found"),
            (false, true) => verdict(false, "MISSING"),
            (false, false) => "absent".to_owned(),
        };
        vec![word, check.name.clone(), harmless(&check.detail)]
    });
    let mut text = table(&["state", "what", "detail"], rows.collect(), &[]);
    let advice: Vec<_> = report.checks.iter().filter(|check| !check.found && !check.advice.is_empty()).collect();
    if !advice.is_empty() {
        text += "\n\nWhat to do:";
        for check in advice {
            text += &format!("\n  {}: {}", check.name, harmless(&check.advice));
        }
    }
    text += match report.device {
        "sgx" => "\n\nA node here can use SGX. This project has not run on SGX hardware yet: see docs/hardware.md.",
        _ => "\n\nA node here uses the simulator. It protects nothing: see docs/simulator.md.",
    };
    text
}

const SGX_DEVICE: &str = "SGX driver";
const SGX_CPU: &str = "SGX processor";

fn check(name: &str, required: bool, found: bool, detail: impl Into<String>, advice: &str) -> Check {
    Check { name: name.to_owned(), found, required, detail: detail.into(), advice: advice.to_owned() }
}

fn own_checks() -> Vec<Check> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let machine = std::env::consts::ARCH;
    let flags = cpu_flags(&cpu);
    let has = |flag: &str| flags.contains(&flag);
    let device = Path::new("/dev/sgx_enclave");
    let maximum = read("/proc/sys/user/max_user_namespaces").trim().to_owned();
    let clone = read("/proc/sys/kernel/unprivileged_userns_clone").trim().to_owned();
    let cgroups = cgroups(&read("/proc/self/mounts"));
    vec![
        check("processor", true, machine == "x86_64", machine, "enclaves are x86-64 code; use such a machine"),
        check(
            "kernel",
            true,
            version(&release).is_some_and(|version| version >= (5, 13)),
            &*release,
            "Linux 5.13 or newer is needed (clone3 with cgroups, Syscall User Dispatch, pidfd)",
        ),
        check(
            "XSAVE, FSGSBASE",
            true,
            has("xsave") && has("fsgsbase"),
            "",
            "an enclave's thread saves its state with XSAVE and its FS base with WRFSBASE; the hypervisor must offer both",
        ),
        check(
            SGX_CPU,
            false,
            has("sgx"),
            if has("sgx_lc") { "with launch control" } else { "" },
            "only for hardware: a processor with SGX2, enabled in the firmware",
        ),
        check(
            SGX_DEVICE,
            false,
            device.exists() && fs::File::open(device).is_ok(),
            device.display().to_string(),
            "only for hardware: a kernel with CONFIG_X86_SGX, and membership of the group that owns /dev/sgx_enclave",
        ),
        check("cgroups", true, !cgroups.is_empty(), cgroups.join(" and "), "mount cgroup2 at /sys/fs/cgroup"),
        check(
            "user namespaces",
            false,
            maximum != "0" && clone != "0" && Path::new("/proc/self/ns/user").exists(),
            format!("at most {maximum}"),
            "set user.max_user_namespaces (and kernel.unprivileged_userns_clone) with sysctl; without them a node needs root",
        ),
        check("memfd, shared memory", true, Path::new("/dev/shm").is_dir(), shared_memory(), "mount a tmpfs at /dev/shm"),
        tool("node", &["--version"], "only for the benchmark's Node container: install Node.js 18 or newer"),
        tool(
            "clang-19",
            &["--version"],
            "only for building the JavaScript engine from C: install clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc",
        ),
        tool("runc", &["--version"], "only for the benchmark's Node container: install runc; without it the container is made by unshare"),
    ]
}

fn shared_memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    format!("{} available", available.trim())
}

fn tool(name: &str, arguments: &[&str], advice: &str) -> Check {
    let run = Command::new(name).args(arguments).stdin(Stdio::null()).output().ok().filter(|run| run.status.success());
    let detail = run.as_ref().map(|run| String::from_utf8_lossy(&run.stdout).lines().next().unwrap_or_default().to_owned());
    check(name, false, run.is_some(), detail.unwrap_or_default(), advice)
}

fn cpu_flags(cpuinfo: &str) -> Vec<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    line.and_then(|line| line.split_once(':')).map(|(_, flags)| flags.split_whitespace().collect()).unwrap_or_default()
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Which versions are mounted, with the controllers of version 1.
fn cgroups(mounts: &str) -> Vec<String> {
    let fields = || mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut found = Vec::new();
    if let Some(line) = fields().find(|line| line.get(2) == Some(&"cgroup2")) {
        found.push(format!("v2 at {}", line.get(1).copied().unwrap_or_default()));
    }
    let wanted = ["cpu", "memory", "pids"];
    let mut controllers: Vec<String> = fields()
        .filter(|line| line.get(2) == Some(&"cgroup"))
        .flat_map(|line| line.get(3).copied().unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>())
        .filter(|option| wanted.contains(&option.as_str()))
        .collect();
    controllers.sort();
    controllers.dedup();
    if !controllers.is_empty() {
        found.push(format!("v1 ({})", controllers.join(", ")));
    }
    found
}

/// What the node's own program finds.
fn node_checks() -> Vec<Check> {
    let Some(path) = program::find(node::PROGRAM) else {
        return vec![check(node::PROGRAM, true, false, "", &program::missing(node::PROGRAM))];
    };
    let mut checks = vec![check(node::PROGRAM, true, true, path.display().to_string(), "")];
    let image = node::find_image();
    let detail = image.as_ref().map(|image| image.display().to_string()).unwrap_or_default();
    checks.push(check("enclave image", true, image.is_some(), detail, "build it with `cargo xtask build`, or name it by TEEMATE_IMAGE"));
    match Command::new(&path).args(["doctor", "--json"]).stdin(Stdio::null()).output() {
        Err(error) => checks.push(check("host probes", false, false, error.to_string(), "reinstall teemate-node")),
        Ok(run) => match parse(&run.stdout) {
            Some(more) => checks.extend(more),
            None => {
                let words = String::from_utf8_lossy(&run.stderr).lines().next().unwrap_or_default().to_owned();
                checks.push(check(
                    "host probes",
                    false,
                    false,
                    words,
                    "teemate-node gave no report; both programs must be of the same version",
                ));
            }
        },
    }
    checks
}

/// An array of checks, or an object that holds one as `checks`.
fn parse(bytes: &[u8]) -> Option<Vec<Check>> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let list = if value.is_array() { value } else { value.get_mut("checks")?.take() };
    serde_json::from_value(list).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.44-x"), Some((6, 18)));
        assert!(version("5.4.0") < version("5.13"));
        assert_eq!(version(""), None);
    }

    #[test]
    fn both_versions_of_cgroups_are_seen() {
        let mounts = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup /m cgroup rw,memory 0 0\n";
        assert_eq!(cgroups(mounts), ["v2 at /sys/fs/cgroup/unified", "v1 (cpu, memory)"]);
        assert!(cgroups("").is_empty());
    }

    #[test]
    fn a_report_is_read_in_both_shapes() {
        let list = r#"[{"name":"x","found":true}]"#;
        assert_eq!(parse(list.as_bytes()), parse(format!("{{\"checks\":{list}}}").as_bytes()));
        assert!(parse(list.as_bytes()).is_some_and(|checks| checks[0].found));
        assert_eq!(parse(b"no"), None);
    }

    #[test]
    fn flags_of_the_processor() {
        assert_eq!(cpu_flags("model\t: x\nflags\t\t: fpu xsave\n"), ["fpu", "xsave"]);
    }
}
