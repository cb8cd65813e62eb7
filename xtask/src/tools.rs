//! Programs that a task needs besides Rust and a C compiler: looked for, installed with apt-get where that is possible, else named.

use std::path::Path;
use std::process::{Command, Stdio};

/// Something that a package brings.
pub struct Tool {
    /// For messages.
    name: &'static str,
    /// How one sees that it is there.
    probe: Probe,
    /// Debian's packages.
    packages: &'static [&'static str],
    /// What does not work without it.
    purpose: &'static str,
}

enum Probe {
    /// A program on the PATH; the argument makes it print its version.
    Program(&'static str, &'static str),
    /// A file or directory.
    Path(&'static str),
}

/// The compiler of the JavaScript engine.
pub const CLANG: Tool = Tool {
    name: "clang-19",
    probe: Probe::Program("clang-19", "--version"),
    packages: &["clang-19", "libclang-rt-19-dev-wasm32"],
    purpose: "compiling the JavaScript engine to WebAssembly",
};
/// Its linker.
pub const WASM_LD: Tool = Tool {
    name: "wasm-ld-19",
    probe: Probe::Program("wasm-ld-19", "--version"),
    packages: &["lld-19"],
    purpose: "linking the JavaScript engine",
};
/// Its C library.
pub const WASI_LIBC: Tool = Tool {
    name: "wasi-libc",
    probe: Probe::Path("/usr/include/wasm32-wasi/stdio.h"),
    packages: &["wasi-libc"],
    purpose: "compiling the JavaScript engine to WebAssembly",
};
/// For the benchmark's Node container, and for ordinary images beside functions.
pub const RUNC: Tool = Tool {
    name: "runc",
    probe: Probe::Program("runc", "--version"),
    packages: &["runc"],
    purpose: "the benchmark's Node container, and ordinary images under containerd",
};
/// For the tests of the shim.
pub const CONTAINERD: Tool = Tool {
    name: "containerd",
    probe: Probe::Program("containerd", "--version"),
    packages: &["containerd"],
    purpose: "the tests of the shim",
};
/// For their ordinary images.
pub const BUSYBOX: Tool =
    Tool { name: "busybox", probe: Probe::Path("/usr/bin/busybox"), packages: &["busybox-static"], purpose: "the tests of the shim" };
/// For pods with a network of their own.
pub const CNI: Tool = Tool {
    name: "the plugins of CNI",
    probe: Probe::Path("/usr/lib/cni/ptp"),
    packages: &["containernetworking-plugins"],
    purpose: "the tests of pods",
};
/// For images that go through a registry.
pub const REGISTRY: Tool = Tool {
    name: "docker-registry",
    probe: Probe::Program("docker-registry", "--version"),
    packages: &["docker-registry"],
    purpose: "the tests of pushing images",
};
/// For comparing the database with Redis.
pub const REDIS: Tool = Tool {
    name: "redis-server",
    probe: Probe::Program("redis-server", "--version"),
    packages: &["redis-server", "redis-tools"],
    purpose: "comparing the database with Redis",
};

/// For Redis's own test suite.
pub const TCL: Tool = Tool { name: "tclsh", probe: Probe::Path("/usr/bin/tclsh"), packages: &["tcl"], purpose: "Redis's own test suite" };
/// To unpack it.
pub const DPKG_SOURCE: Tool = Tool {
    name: "dpkg-source",
    probe: Probe::Program("dpkg-source", "--version"),
    packages: &["dpkg-dev"],
    purpose: "unpacking Redis's own test suite",
};

impl Tool {
    /// Whether it is there.
    pub fn found(&self) -> bool {
        match self.probe {
            Probe::Path(path) => Path::new(path).exists(),
            Probe::Program(program, argument) => {
                let run = Command::new(program).arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                run.is_ok_and(|status| status.success())
            }
        }
    }
}

/// Sees to it that tools are there; gives a sentence for each that is not.
pub fn ensure(tools: &[Tool]) -> Vec<String> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.found()).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages.iter().copied()).collect();
    if may_install() {
        println!("installing {}", packages.join(" "));
        install(&packages);
    }
    missing
        .into_iter()
        .filter(|tool| !tool.found())
        .map(|tool| {
            format!("{} is missing ({}): install it, on Debian with `apt-get install {}`", tool.name, tool.purpose, tool.packages.join(" "))
        })
        .collect()
}

/// Whether packages may be fetched here: by root, on Debian, where nobody forbade it.
pub fn may_install() -> bool {
    let forbidden = std::env::var_os("TEEMATE_NO_INSTALL").is_some_and(|value| !value.is_empty());
    !forbidden && is_root() && Tool { name: "", probe: Probe::Program("apt-get", "--version"), packages: &[], purpose: "" }.found()
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Tries to install; whether it worked is seen by looking for the tools again.
fn install(packages: &[&str]) {
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(packages);
    // Lists may be absent on a fresh machine; then one update helps.
    if !apt(&arguments) && apt(&["update", "--quiet"]) {
        apt(&arguments);
    }
}
