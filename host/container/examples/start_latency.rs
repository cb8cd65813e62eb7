//! How long a container takes: request -> body -> reaped, for sets of namespaces. One after the other, sets interleaved.
//!
//! `cargo run --release -p teemate-container --example start_latency [starts]`

use std::os::fd::AsFd;
use std::time::Duration;

use teemate_container::cgroup::{Cgroups, Limits};
use teemate_container::pool::{NetPool, NetPoolConfig};
use teemate_container::zygote::{self, Body, Start};
use teemate_container::{ContainerSpec, Fds, Filter, Namespaces, Zygote, ZygoteConfig, monotonic_ns};

struct Nothing;

impl Body for Nothing {
    fn run(&mut self, _: Start) -> i32 {
        0
    }
}

struct Set {
    name: &'static str,
    namespaces: Namespaces,
    pooled_net: bool,
    groups: bool,
    filter: bool,
    proc: bool,
    mounts: Mounts,
}

#[derive(Clone, Copy, PartialEq)]
enum Mounts {
    /// The root as inherited from the zygote.
    Inherited,
    /// One more bind.
    Bind,
    /// A root of its own by pivot_root.
    Pivot,
}

fn sets() -> Vec<Set> {
    let four = Namespaces { net: false, user: false, ..Namespaces::ALL_SIX };
    let set = |name, namespaces, pooled_net, groups, filter, proc| Set {
        name,
        namespaces,
        pooled_net,
        groups,
        filter,
        proc,
        mounts: Mounts::Inherited,
    };
    vec![
        set("none", Namespaces::NONE, false, false, false, false),
        set("pid mount uts ipc", four, false, false, false, false),
        set("+ user", Namespaces { user: true, ..four }, false, false, false, false),
        set("+ net from the pool", Namespaces::ALL_SIX, true, false, false, false),
        set("+ seccomp", Namespaces::ALL_SIX, true, false, true, false),
        set("+ cgroups: all six", Namespaces::ALL_SIX, true, true, true, false),
        set("all six + /proc", Namespaces::ALL_SIX, true, true, true, true),
        Set { mounts: Mounts::Bind, ..set("all six + a bind", Namespaces::ALL_SIX, true, true, true, false) },
        Set { mounts: Mounts::Pivot, ..set("all six, root by pivot", Namespaces::ALL_SIX, true, true, true, false) },
        set("all six, new net each", Namespaces::ALL_SIX, false, true, true, false),
    ]
}

/// p10, p50, p90 in us.
fn percentiles(samples: &mut [u64]) -> String {
    samples.sort_unstable();
    let at = |percent: usize| samples.get(samples.len() * percent / 100).copied().unwrap_or(0) as f64 / 1e3;
    format!("{:6.0} {:6.0} {:6.0}", at(50), at(10), at(90))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some("zygote") {
        return Ok(zygote::serve(zygote::control_socket()?, Nothing)?);
    }
    let starts: usize = std::env::args().nth(1).map_or(Ok(300), |text| text.parse())?;
    let program = std::env::var_os("ZYGOTE").map_or_else(std::env::current_exe, |path| Ok(path.into()))?;
    let zygote = Zygote::spawn(&program, Vec::new(), &ZygoteConfig { arguments: vec!["zygote".into()], ..ZygoteConfig::default() })?;
    let detected = Cgroups::detect();
    for (controller, reason) in &detected.missing {
        println!("without {}: {reason}", controller.name());
    }
    let cgroups = Cgroups::open(detected, &format!("latency-{}", std::process::id()))?;
    cgroups.prepare(4)?;
    let nets = NetPool::new(zygote.helper(), NetPoolConfig::default())?;
    let directory = tempfile::tempdir()?;
    std::fs::create_dir(directory.path().join("dev"))?;
    let limits = Limits { cpu_us_per_s: Some(1_000_000), memory_bytes: Some(256 << 20), pids: Some(16) };
    std::thread::sleep(Duration::from_millis(100));
    println!("{starts} starts each, rootless: {}, load {}", zygote.is_rootless(), std::fs::read_to_string("/proc/loadavg")?.trim());
    println!(
        "us, p50 p10 p90{:11}| request -> clone3 | clone3 -> first   | first -> body     | request -> body   | body -> reaped    | in all",
        ""
    );

    let only = std::env::var("SETS").unwrap_or_default();
    let sets: Vec<Set> = sets().into_iter().filter(|set| set.name.contains(&only)).collect();
    let mut samples: Vec<[Vec<u64>; 6]> = sets.iter().map(|_| Default::default()).collect();
    for round in 0..starts {
        for (set, samples) in sets.iter().zip(&mut samples) {
            let mut spec = ContainerSpec::new(round as u64);
            spec.namespaces = set.namespaces;
            spec.filter = if set.filter { Filter::Runner } else { Filter::None };
            spec.proc = set.proc;
            let group = if set.groups { Some(cgroups.acquire(&limits)?) } else { None };
            let net = if set.pooled_net { Some(nets.take()?) } else { None };
            let tree = if set.mounts == Mounts::Inherited { None } else { Some(zygote.helper().tree(directory.path(), true)?) };
            let fds = Fds {
                root: tree.as_ref().filter(|_| set.mounts == Mounts::Pivot).map(AsFd::as_fd),
                binds: tree.iter().filter(|_| set.mounts == Mounts::Bind).map(|tree| ("/data", tree.as_fd())).collect(),
                group: group.as_ref(),
                net: net.as_ref().map(AsFd::as_fd),
                ..Fds::default()
            };
            let mut container = zygote.start(&spec, &fds)?;
            let exit = container.wait(Duration::from_secs(5))?.ok_or("a container did not end")?;
            let reaped = monotonic_ns();
            if let Some(error) = container.setup_error() {
                return Err(error.into());
            }
            let t = container.timing();
            let phases = [
                t.received_ns - t.requested_ns,
                t.first_ns.saturating_sub(t.received_ns),
                t.ready_ns - t.first_ns,
                t.ready_ns - t.requested_ns,
                reaped - t.ready_ns,
                reaped - t.requested_ns,
            ];
            for (list, value) in samples.iter_mut().zip(phases) {
                list.push(value);
            }
            if let Some(group) = group {
                cgroups.release(group, Some(&exit), 8)?;
            }
        }
    }
    for (set, samples) in sets.iter().zip(&mut samples) {
        let text: Vec<String> = samples.iter_mut().map(|list| percentiles(list)).collect();
        println!("{:25} | {}", set.name, text.join(" | "));
    }
    println!("network namespaces: {:?}", nets.counts());
    Ok(())
}
