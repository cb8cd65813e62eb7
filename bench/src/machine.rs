//! The machine that a run was on, and how busy it was.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// What numbers mean nothing without.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Kernel.
    pub kernel: String,
    /// Node.js, if there.
    pub nodejs: String,
    /// Load averages at the start.
    pub load: String,
}

/// Looks.
pub fn look() -> Machine {
    let cpu = read("/proc/cpuinfo");
    let processor = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    Machine {
        processor: processor.trim_start_matches(['\t', ' ', ':']).to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_kib: memory("MemTotal:"),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        nodejs: version("node"),
        load: load(),
    }
}

/// Load averages over 1, 5 and 15 minutes.
pub fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Whether the load is so high that numbers mean little.
pub fn is_busy() -> bool {
    load().split(' ').next().and_then(|load| load.parse::<f64>().ok()).is_some_and(|load| load > 2.0)
}

/// Memory that could be had without swapping, in KiB.
pub fn available_kib() -> u64 {
    memory("MemAvailable:")
}

fn memory(field: &str) -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    output.map_or_else(|_| "absent".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
