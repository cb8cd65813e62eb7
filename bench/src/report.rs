//! What is written: raw samples, tables, figures, and what they do not show.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use teemate_client::breakdown::{Part, human};
use teemate_control::node::Status;

use crate::figures::{self, Chart, Group};
use crate::footprint::Footprint;
use crate::latency::Sample;
use crate::machine::Machine;
use crate::mode::Mode;
use crate::modules;
use crate::reuse;
use crate::stats::{Spread, spread, times};
use crate::throughput::Round;
use crate::workload::SMALL;

/// Everything of one run.
#[derive(Serialize)]
pub struct Run {
    /// Where.
    pub machine: Machine,
    /// Load averages at the end.
    pub load_after: String,
    /// What the node said of itself.
    pub node: Option<Status>,
    /// How Node containers were made, or why there are none.
    pub nodejs: String,
    /// Figure 7.
    pub latency: Vec<Sample>,
    /// Figures 8 and 9.
    pub throughput: Vec<Round>,
    /// Figure 10.
    pub memory: Vec<Footprint>,
    /// Modules in the enclave and outside.
    pub modules: Vec<Sample>,
    /// Containers used again.
    pub reuse: Vec<reuse::Sample>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// The function that only waits: many of its calls are under way at one time, and none can be quicker than another.
const WAITS: &str = "sleep";
/// Functions whose call is short: for the others most of a call is the function itself.
const SHORT: [&str; 2] = ["dynamic-html", "uploader"];
/// Names of parts that only a Node container has.
const NODE_PARTS: [&str; 1] = ["initialisation"];

/// Writes it all below `directory`; gives the text.
pub fn write(run: &Run, directory: &Path) -> Result<String> {
    fs::create_dir_all(directory).with_context(|| format!("{} can't be made", directory.display()))?;
    let put = |name: &str, text: &str| fs::write(directory.join(name), text).with_context(|| format!("{name} can't be written"));
    put("samples.json", &serde_json::to_string_pretty(run)?)?;
    put("latency.csv", &latency_csv(&run.latency))?;
    put("throughput.csv", &throughput_csv(&run.throughput))?;
    put("memory.csv", &memory_csv(&run.memory))?;
    let text = text(run);
    put("report.md", &text)?;
    draw(run, directory)?;
    Ok(text)
}

/// The report.
pub fn text(run: &Run) -> String {
    let mut text = String::from("# Figures 7 to 10\n\n");
    text += &head(run);
    if !run.latency.is_empty() {
        text += &latency_text(&run.latency);
        text += &marks_text(&run.latency, &run.throughput, &run.memory);
    }
    if !run.throughput.is_empty() {
        text += &throughput_text(&run.throughput);
    }
    if !run.memory.is_empty() {
        text += &memory_text(&run.memory);
    }
    if !run.reuse.is_empty() {
        text += &reuse::text(&run.reuse);
    }
    if !run.modules.is_empty() {
        text += &modules::text(&run.modules);
    }
    let errors: BTreeSet<String> = failures(run).collect();
    if !errors.is_empty() {
        text += "\n## What failed\n\n";
        errors.iter().for_each(|error| _ = writeln!(text, "- {error}"));
    }
    if !run.notes.is_empty() {
        text += "\n## What was left out\n\n";
        run.notes.iter().for_each(|note| _ = writeln!(text, "- {note}"));
    }
    text
}

fn head(run: &Run) -> String {
    let machine = &run.machine;
    let device = run.node.as_ref().map_or("none", |status| status.device.as_str());
    let mut text = format!(
        "{}, {} cores, {} MiB of memory, Linux {}, Node.js {}. Load averages {} before, {} after. Enclave device: {device}.\n\
         Node container: {}.\n\n",
        machine.processor,
        machine.cores,
        machine.memory_kib / 1024,
        machine.kernel,
        machine.nodejs,
        machine.load,
        run.load_after,
        run.nodejs
    );
    if device == "simulator" {
        text += "**The enclave is simulated.** The same image, library OS and host code run as would on SGX; the processor's part is played by\n\
            software. What differs from hardware, as far as is known: building an enclave costs about 5 us a page (published for hardware:\n\
            7.2), so *exclusive* looks better here; entering and leaving cost about 0.1 us instead of 2.5 to 4.5 us, and a call does so\n\
            about six times, so add 15 to 30 us to both enclave modes; memory is not encrypted, so memory-bound\n\
            functions look better in both enclave modes; paging of EPC does not exist. Compare ratios of one run, not numbers of two.\n\n";
    }
    text
}

/// The good samples of a function in a mode.
fn good<'a>(samples: &'a [Sample], function: &'a str, mode: Mode) -> impl Iterator<Item = &'a Sample> {
    samples.iter().filter(move |sample| sample.function == function && sample.mode == mode && sample.error.is_none())
}

fn latency_of(samples: &[Sample], function: &str, mode: Mode) -> Option<Spread> {
    spread(good(samples, function, mode).map(|sample| sample.latency_us))
}

fn part_of(samples: &[Sample], function: &str, mode: Mode, part: &str) -> Option<f64> {
    let of = |sample: &Sample| sample.parts.iter().find(|(name, _)| *name == part).map_or(0.0, |(_, us)| *us);
    spread(good(samples, function, mode).map(of)).map(|spread| spread.median)
}

fn functions<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut all = Vec::new();
    for name in names {
        if !all.contains(&name.as_str()) {
            all.push(name.as_str());
        }
    }
    all
}

fn part_names() -> Vec<&'static str> {
    let parts = Part::ALL.iter().filter(|part| **part != Part::Cleanup).map(|part| part.title());
    parts.chain(NODE_PARTS).collect()
}

fn latency_text(samples: &[Sample]) -> String {
    let mut text = String::from(
        "## Figure 7: a cold call\n\nMedian (p10 to p90) from the request to the result, each in a fresh container; n: samples. The ways take turns, with\n\
         a pause of 50 ms between two calls, in which the last one is taken down. The caller's connection is open before.\n\n\
         **shared** takes its container from a few that the node made ahead, in the pauses: fresh, used once, but their creation is not in\n\
         the latency. **shared, no pool** makes each container when its call is there, as do native and exclusive and the Node container.\n\
         **shared, rewound** is no cold call: the container served this function before, and its instance was made anew in the pause.\n\n",
    );
    text += "| function | ";
    text += &Mode::ALL.map(Mode::title).join(" | ");
    let _ = writeln!(text, " | exclusive / shared, no pool | exclusive / shared |\n|---|{}---|---|", "---|".repeat(Mode::ALL.len()));
    for function in functions(samples.iter().map(|sample| &sample.function)) {
        let spreads = Mode::ALL.map(|mode| latency_of(samples, function, mode));
        let cells = spreads.map(times);
        let exclusive = latency_of(samples, function, Mode::Exclusive);
        let ratios = [Mode::Unpooled, Mode::Shared].map(|mode| match (exclusive, latency_of(samples, function, mode)) {
            (Some(exclusive), Some(shared)) => format!("{:.1}", exclusive.median / shared.median),
            _ => "-".to_owned(),
        });
        let _ = writeln!(text, "| {function} | {} | {} |", cells.join(" | "), ratios.join(" | "));
    }
    text += "\nMedians of the parts. What the node does not see (the way from the caller to it and back) is in the latency, not in the parts.\n\n";
    let names = part_names();
    let _ = writeln!(text, "| function | way | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for function in functions(samples.iter().map(|sample| &sample.function)) {
        for mode in Mode::ALL {
            if latency_of(samples, function, mode).is_none() {
                continue;
            }
            let cells = names.iter().map(|name| match part_of(samples, function, mode, name) {
                Some(us) if us > 0.0 => human(us),
                _ => "-".to_owned(),
            });
            let _ = writeln!(text, "| {function} | {} | {} |", mode.title(), cells.collect::<Vec<_>>().join(" | "));
        }
    }
    text.push('\n');
    text
}

/// The project's own marks, each with what was measured.
fn marks_text(samples: &[Sample], rounds: &[Round], memory: &[Footprint]) -> String {
    let mut rows: Vec<(String, Option<f64>, f64, bool)> = Vec::new();
    let small = |mode| latency_of(samples, SMALL, mode).map(|spread| spread.median);
    let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    // With containers that are made ahead, and the same without: neither figure shall stand without the other.
    for mode in [Mode::Shared, Mode::Unpooled] {
        let title = mode.title();
        rows.push((format!("small function: exclusive / {title}, at least"), ratio(small(Mode::Exclusive), small(mode)), 50.0, true));
        rows.push((format!("small function: Node container / {title}, at least"), ratio(small(Mode::Node), small(mode)), 100.0, true));
    }
    let part = |part: Part| part_of(samples, SMALL, Mode::Unpooled, part.title());
    let added = [Part::ThreadLease, Part::EnclaveCreation, Part::EnclaveAliasing, Part::EnclaveExpansion, Part::Execution, Part::Return];
    let added = added.iter().map(|which| part(*which)).sum::<Option<f64>>();
    rows.push((
        "small function, no pool: what the enclave adds / the bare container, at most".into(),
        ratio(added, part(Part::ContainerCreation)),
        1.0,
        false,
    ));
    let throughput = |mode| rate(rounds, SMALL, mode, 64).map(|spread| spread.median);
    rows.push((
        "small function, 64 at once: throughput shared / exclusive, at least".into(),
        ratio(throughput(Mode::Shared), throughput(Mode::Exclusive)),
        10.0,
        true,
    ));
    let resident = |mode| {
        let found =
            memory.iter().find(|footprint| footprint.mode == Some(mode) && footprint.error.is_none() && footprint.function == WAITS);
        found.map(|footprint| footprint.resident_kib as f64)
    };
    let shared = resident(Mode::Shared);
    rows.push(("64 calls of sleep: memory exclusive / shared, at least".into(), ratio(resident(Mode::Exclusive), shared), 20.0, true));
    rows.push(("64 calls of sleep: memory Node container / shared, at least".into(), ratio(resident(Mode::Node), shared), 1.0, true));
    rows.push((
        "small function, after a pause: rewound / shared, at most".into(),
        ratio(small(Mode::Rewound), small(Mode::Shared)),
        0.2,
        false,
    ));
    // End to end: with the way to the enclave, TLS, the gateway and the record.
    let attested = Mode::Attested.title();
    for function in
        functions(samples.iter().map(|sample| &sample.function)).into_iter().filter(|function| ![SMALL, WAITS].contains(function))
    {
        let (cold, at_once) = if SHORT.contains(&function) { (50.0, 10.0) } else { (2.0, 3.0) };
        let latency = |mode| latency_of(samples, function, mode).map(|spread| spread.median);
        let name = format!("{function}: latency Node container / {attested}, at least");
        rows.push((name, ratio(latency(Mode::Node), latency(Mode::Attested)), cold, true));
        for calls in [8, 64] {
            let rate = |mode| rate(rounds, function, mode, calls).map(|spread| spread.median);
            let name = format!("{function}, {calls} at once: throughput {attested} / Node container, at least");
            rows.push((name, ratio(rate(Mode::Attested), rate(Mode::Node)), at_once, true));
        }
    }
    let mut text = String::from("## The project's marks\n\n| mark | wanted | measured | |\n|---|---|---|---|\n");
    for (name, measured, wanted, at_least) in rows {
        let verdict = match measured {
            None => "not measured",
            Some(value) if (value >= wanted) == at_least || value == wanted => "met",
            Some(_) => "**missed**",
        };
        let measured = measured.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let _ = writeln!(text, "| {name} | {wanted} | {measured} | {verdict} |");
    }
    text.push('\n');
    text
}

fn rate(rounds: &[Round], function: &str, mode: Mode, calls: usize) -> Option<Spread> {
    let good = rounds.iter().filter(|round| round.function == function && round.mode == mode && round.calls == calls && round.failed == 0);
    spread(good.map(|round| round.per_second))
}

fn throughput_text(rounds: &[Round]) -> String {
    let mut text = String::new();
    for (figure, calls) in [(8, 8), (9, 64)] {
        let _ = write!(
            text,
            "## Figure {figure}: {calls} calls at once\n\nCalls a second, median (p10 to p90) of the rounds; each call in a fresh container. Connections\n\
             are open before. Shared: the first few containers are made ahead.\n\n"
        );
        let _ = writeln!(text, "| function | {} |\n|---|{}", Mode::ALL.map(Mode::title).join(" | "), "---|".repeat(Mode::ALL.len()));
        for function in functions(rounds.iter().map(|round| &round.function)) {
            let cells = Mode::ALL.map(|mode| {
                rate(rounds, function, mode, calls)
                    .map_or_else(|| "-".to_owned(), |s| format!("{:.1} ({:.1} to {:.1}; n {})", s.median, s.p10, s.p90, s.count))
            });
            let _ = writeln!(text, "| {function} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

fn memory_text(footprints: &[Footprint]) -> String {
    let mut text = String::from(
        "## Figure 10: peak memory\n\nResident memory counts shared pages once: private memory and files by proportional share, and the larger of EPC pages in\n\
         use and mapped shared memory. Of the node and all its processes; of Node containers without their runtime's own processes.\n\n\
         | function | way | calls | most containers at one time | EPC, MiB | resident, MiB | at rest, MiB |\n|---|---|---|---|---|---|---|\n",
    );
    for footprint in footprints {
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            footprint.function,
            footprint.mode.map_or("-", Mode::title),
            footprint.calls,
            footprint.containers,
            mib(footprint.epc_kib),
            mib(footprint.resident_kib),
            mib(footprint.at_rest_kib)
        );
    }
    text.push('\n');
    text
}

fn failures(run: &Run) -> impl Iterator<Item = String> {
    let latency =
        run.latency.iter().chain(&run.modules).filter_map(|s| Some(format!("{}, {}: {}", s.function, s.mode.title(), s.error.as_ref()?)));
    let rounds = run.throughput.iter().filter(|r| r.failed > 0);
    let rounds = rounds.map(|r| {
        format!("{}, {}, {} at once: {} failed: {}", r.function, r.mode.title(), r.calls, r.failed, r.error.as_deref().unwrap_or("-"))
    });
    let memory = run
        .memory
        .iter()
        .filter_map(|m| Some(format!("{}, {}, memory: {}", m.function, m.mode.map_or("-", Mode::title), m.error.as_ref()?)));
    latency.chain(rounds).chain(memory)
}

fn cell(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\"").replace('\n', " "))
}

fn latency_csv(samples: &[Sample]) -> String {
    let names: Vec<_> = part_names().into_iter().chain([Part::Cleanup.title()]).collect();
    let mut text = format!(
        "function,mode,round,latency_us,{},error\n",
        names.iter().map(|name| name.replace(' ', "_") + "_us").collect::<Vec<_>>().join(",")
    );
    for sample in samples {
        let parts = names
            .iter()
            .map(|name| sample.parts.iter().find(|(part, _)| part == name).map(|(_, us)| format!("{us:.1}")).unwrap_or_default());
        let parts = parts.collect::<Vec<_>>().join(",");
        let error = sample.error.as_deref().map(cell).unwrap_or_default();
        let _ = writeln!(text, "{},{},{},{:.1},{parts},{error}", sample.function, sample.mode.title(), sample.round, sample.latency_us);
    }
    text
}

fn throughput_csv(rounds: &[Round]) -> String {
    let mut text = String::from("function,mode,calls,round,seconds,per_second,failed\n");
    for r in rounds {
        let _ =
            writeln!(text, "{},{},{},{},{:.6},{:.3},{}", r.function, r.mode.title(), r.calls, r.round, r.seconds, r.per_second, r.failed);
    }
    text
}

fn memory_csv(footprints: &[Footprint]) -> String {
    let mut text = String::from("function,mode,calls,containers,epc_kib,resident_kib,at_rest_kib\n");
    for f in footprints {
        let mode = f.mode.map_or("-", Mode::title);
        let _ = writeln!(text, "{},{mode},{},{},{},{},{}", f.function, f.calls, f.containers, f.epc_kib, f.resident_kib, f.at_rest_kib);
    }
    text
}

fn draw(run: &Run, directory: &Path) -> Result<()> {
    let series = Mode::ALL.map(Mode::title);
    let names = part_names();
    let groups: Vec<Group> = functions(run.latency.iter().map(|sample| &sample.function))
        .into_iter()
        .map(|function| {
            let part = |mode, name: &&str| part_of(&run.latency, function, mode, name).unwrap_or(0.0) / 1e3;
            Group {
                label: function.to_owned(),
                bars: Mode::ALL.iter().map(|mode| names.iter().map(|name| part(*mode, name)).collect()).collect(),
            }
        })
        .collect();
    let chart = Chart { title: "Figure 7: a cold call, medians of its parts", axis: "ms", series: &series, parts: &names, groups: &groups };
    figures::draw(&chart, &directory.join("figure7.svg"))?;
    let flat = |value: &dyn Fn(&str, Mode) -> Option<f64>, names: Vec<&str>| -> Vec<Group> {
        let bar = |function: &str, mode| value(function, mode).map(|value| vec![value]).unwrap_or_default();
        names
            .into_iter()
            .map(|name| Group { label: name.to_owned(), bars: Mode::ALL.iter().map(|mode| bar(name, *mode)).collect() })
            .collect()
    };
    for (figure, calls) in [(8, 8), (9, 64)] {
        let value = |function: &str, mode| rate(&run.throughput, function, mode, calls).map(|spread| spread.median);
        let groups = flat(&value, functions(run.throughput.iter().map(|round| &round.function)));
        let title = format!("Figure {figure}: throughput with {calls} calls at once, medians");
        let chart = Chart { title: &title, axis: "calls a second", series: &series, parts: &[], groups: &groups };
        figures::draw(&chart, &directory.join(format!("figure{figure}.svg")))?;
    }
    let value = |function: &str, mode| {
        let found = run.memory.iter().find(|footprint| footprint.function == function && footprint.mode == Some(mode))?;
        Some(found.resident_kib as f64 / 1024.0)
    };
    let groups = flat(&value, functions(run.memory.iter().map(|footprint| &footprint.function)));
    let chart = Chart {
        title: "Figure 10: peak resident memory with 64 calls, shared pages once",
        axis: "MiB",
        series: &series,
        parts: &[],
        groups: &groups,
    };
    figures::draw(&chart, &directory.join("figure10.svg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mode: Mode, us: f64) -> Sample {
        Sample { function: SMALL.into(), mode, round: 1, latency_us: us, parts: vec![("container creation", us / 2.0)], error: None }
    }

    fn run() -> Run {
        let round = |mode, per_second| Round {
            function: SMALL.into(),
            mode,
            calls: 64,
            round: 1,
            seconds: 1.0,
            per_second,
            failed: 0,
            error: None,
        };
        Run {
            machine: crate::machine::look(),
            load_after: String::new(),
            node: None,
            nodejs: "none".into(),
            latency: vec![sample(Mode::Shared, 500.0), sample(Mode::Exclusive, 40_000.0), sample(Mode::Node, 40_000.0)],
            throughput: vec![round(Mode::Shared, 100.0), round(Mode::Exclusive, 5.0)],
            memory: vec![Footprint {
                function: "sleep".into(),
                mode: Some(Mode::Shared),
                calls: 64,
                resident_kib: 1000,
                ..Default::default()
            }],
            modules: vec![],
            reuse: vec![],
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn marks_are_judged() {
        let text = text(&run());
        assert!(text.contains("| small function: exclusive / shared, at least | 50 | 80.00 | met |"), "{text}");
        assert!(text.contains("| small function: Node container / shared, at least | 100 | 80.00 | **missed** |"), "{text}");
        assert!(text.contains("memory exclusive / shared, at least | 20 | - | not measured |"), "{text}");
        assert!(text.contains("- a note"));
    }

    #[test]
    fn everything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        write(&run(), directory.path()).unwrap();
        for name in
            ["report.md", "samples.json", "latency.csv", "throughput.csv", "memory.csv", "figure7.svg", "figure9.svg", "figure10.svg"]
        {
            assert!(directory.path().join(name).is_file(), "{name}");
        }
    }
}
