//! Containers as a kubelet has them made: a function that shares the node's enclave beside an ordinary container of runc's, both by
//! containerd's CRI, in turn. And what so many functions at once take of memory.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Serialize;
use teemate_client::oci;
use teemate_tests::artifacts::Artifacts;
use teemate_tests::containerd::{Containerd, Release, busybox, pause};
use teemate_tests::cri::{Container, Cri, NODE, Sandbox};

use crate::machine::{self, Machine};
use crate::stats::{spread, times};

const FUNCTION: &str = "docker.io/teemate/function:1";
const BUSYBOX: &str = "docker.io/teemate/busybox:1";
const SOURCE: &str = "const main = (p) => new Promise((done) => setTimeout(() => done({}), p.sleep || 0));";
/// Creating and starting may take so much of runc's time.
const START_MARK: f64 = 0.5;
/// Memory that the last of the containers at once may take.
const MEMORY_MARK_KIB: u64 = 3 << 10;

/// Measures containers as a kubelet has them made: creating and starting a function against runc, and the memory of many functions at once.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where the table and raw samples go [default: artifacts/bench/containers-TIME].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Containers of each sort, one after the other.
    #[arg(long, default_value_t = 40)]
    samples: usize,
    /// Functions at once, for memory. The image has 160 TCSs, of which the service keeps 24.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=130))]
    at_once: u16,
}

/// One container.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    handler: &'static str,
    /// CreateContainer.
    create_us: f64,
    /// StartContainer.
    start_us: f64,
}

/// Memory of one of the functions at once.
#[derive(Clone, Debug, Serialize)]
struct Footprint {
    /// Which, from 1.
    number: usize,
    /// Of its process alone, shared pages by part (PSS).
    process_kib: u64,
    /// What its control group counts, with the kernel's own for it.
    group_kib: u64,
}

#[derive(Serialize)]
struct Run {
    machine: Machine,
    samples: Vec<Sample>,
    memory: Vec<Footprint>,
}

/// Runs it.
///
/// # Errors
/// When there is no containerd, or something fails.
pub fn run(options: &Options, artifacts: &Artifacts) -> Result<()> {
    let failed = |error: String| anyhow!(error);
    if let Some(reason) = Containerd::missing(artifacts, Release::INSTALLED) {
        bail!(reason);
    }
    let machine = machine::look();
    let no_busybox = "there is no /bin/busybox; install the package busybox-static";
    let containerd =
        Containerd::start_for_pods(artifacts, Release::INSTALLED, &[], &pause("docker.io/teemate/pause:1").context(no_busybox)?)
            .map_err(failed)?;
    containerd.import(&oci::function(FUNCTION, "f.js", SOURCE.as_bytes().to_vec())).map_err(failed)?;
    containerd.import(&busybox(BUSYBOX).context(no_busybox)?).map_err(failed)?;
    let logs = containerd.directory().join("logs");
    fs::create_dir_all(&logs)?;
    let mut cri = Cri::connect(containerd.socket()).map_err(failed)?;
    let mut pods = Vec::new();
    for handler in ["teemate", "runc"] {
        let config = Sandbox::new(handler, NODE, &logs);
        pods.push((handler, cri.run_sandbox(&config, handler).map_err(failed)?, config));
    }
    let mut samples = Vec::new();
    // The first of each sort finds cold caches.
    for number in 0..=options.samples {
        for (handler, pod, config) in &pods {
            let sample = one(&mut cri, handler, pod, config, u32::try_from(number)?).map_err(failed)?;
            if number > 0 {
                samples.push(sample);
            }
        }
    }
    let (_, pod, config) = &pods[0];
    let memory = many(&mut cri, &containerd, pod, config, usize::from(options.at_once)).map_err(failed)?;
    for (_, pod, _) in &pods {
        cri.remove_sandbox(pod).map_err(failed)?;
    }
    let run = Run { machine, samples, memory };
    let output =
        options.output.clone().unwrap_or_else(|| artifacts.directory().join("bench").join(format!("containers-{}", crate::seconds())));
    let text = text(&run);
    fs::create_dir_all(&output).with_context(|| format!("{} can't be made", output.display()))?;
    fs::write(output.join("samples.json"), serde_json::to_string_pretty(&run)?)?;
    fs::write(output.join("report.md"), &text)?;
    println!("{text}\nwritten to {}", output.display());
    Ok(())
}

fn one(cri: &mut Cri, handler: &'static str, pod: &str, config: &Sandbox, attempt: u32) -> Result<Sample, String> {
    let mut container = Container::new("one", attempt, FUNCTION, &[], NODE);
    if handler == "runc" {
        container = Container::new("one", attempt, BUSYBOX, &[], NODE);
        container.command = ["/bin/busybox", "true"].map(str::to_owned).to_vec();
    }
    let begin = Instant::now();
    let id = cri.create(pod, &container, config)?;
    let created = Instant::now();
    cri.start(&id)?;
    let started = Instant::now();
    let status = cri.ended(&id)?;
    if status.exit_code != 0 {
        return Err(format!("a container of {handler} failed: {status:?}"));
    }
    cri.remove(&id)?;
    let us = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e6;
    Ok(Sample { handler, create_us: us(begin, created), start_us: us(created, started) })
}

fn many(cri: &mut Cri, containerd: &Containerd, pod: &str, config: &Sandbox, count: usize) -> Result<Vec<Footprint>, String> {
    let mut ids = Vec::new();
    for number in 1..=count {
        let mut container = Container::new(&format!("many-{number}"), 0, FUNCTION, &["sleep=300000"], NODE);
        container.annotations.insert("io.teemate.timeout-ms".to_owned(), "400000".to_owned());
        let id = cri.create(pod, &container, config)?;
        cri.start(&id)?;
        ids.push(id);
    }
    let mut memory = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let (pid, _) = containerd.task(id).ok_or_else(|| format!("the container {id} has no task"))?;
        let process_kib = kib(format!("/proc/{pid}/smaps_rollup"), "Pss:").ok_or("its memory can't be read")?;
        let group = cri.stats(id)?.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value / 1024);
        memory.push(Footprint { number: index + 1, process_kib, group_kib: group });
    }
    for id in &ids {
        cri.stop(id, 0)?;
        cri.remove(id)?;
    }
    Ok(memory)
}

fn kib(path: impl AsRef<Path>, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn text(run: &Run) -> String {
    let machine = &run.machine;
    let mut text = format!(
        "# Containers by containerd's CRI\n\n{}, {} cores, Linux {}, load {}. **The enclave is simulated** where there is no SGX.\n\n\
         Creating and starting a container whose image is on the node, in a pod that runs: a function in the shared enclave, and busybox by\n\
         containerd's runc, in turn. Median (p10 to p90).\n\n| handler | create | start | both | |\n|---|---|---|---|---|\n",
        machine.processor, machine.cores, machine.kernel, machine.load
    );
    let of = |handler: &str, value: fn(&Sample) -> f64| spread(run.samples.iter().filter(|s| s.handler == handler).map(value));
    let both = |handler: &str| of(handler, |s| s.create_us + s.start_us);
    for handler in ["teemate", "runc"] {
        let ratio = match (both(handler), both("runc")) {
            (Some(ours), Some(theirs)) if handler == "teemate" => {
                let ratio = ours.median / theirs.median;
                format!("{ratio:.2} of runc's; at most {START_MARK} is wanted: {}", if ratio <= START_MARK { "met" } else { "**missed**" })
            }
            _ => String::new(),
        };
        let [create, start] = [of(handler, |s| s.create_us), of(handler, |s| s.start_us)].map(times);
        let _ = writeln!(text, "| {handler} | {create} | {start} | {} | {ratio} |", times(both(handler)));
    }
    if let Some(last) = run.memory.last() {
        let verdict = if last.process_kib.max(last.group_kib) <= MEMORY_MARK_KIB { "met" } else { "**missed**" };
        let _ = write!(
            text,
            "\n{} functions at once, in containers of one enclave. The last one's process has {} KiB (PSS), and its control group counts {} KiB;\n\
             at most {MEMORY_MARK_KIB} are wanted: {verdict}.\n",
            last.number, last.process_kib, last.group_kib
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_judged() {
        let sample = |handler, start_us| Sample { handler, create_us: 10.0, start_us };
        let run = |ours, group_kib| {
            let memory = vec![Footprint { number: 100, process_kib: 900, group_kib }];
            text(&Run { machine: machine::look(), samples: vec![sample("teemate", ours), sample("runc", 90.0)], memory })
        };
        assert!(run(35.0, 2000).contains("0.45 of runc's; at most 0.5 is wanted: met"), "{}", run(35.0, 2000));
        assert!(run(35.0, 2000).contains("3072 are wanted: met"));
        assert!(run(60.0, 4000).contains("0.70 of runc's; at most 0.5 is wanted: **missed**"));
        assert!(run(60.0, 4000).contains("3072 are wanted: **missed**"));
    }
}
