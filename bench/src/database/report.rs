//! What is written: raw samples, tables, figures, the marks, and what they do not show.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use teemate_client::breakdown::human;

use super::burst::{Burst, Look, Rewrite};
use super::servers::Kind;
use super::starting::Start;
use super::steady::{CASES, Round};
use crate::figures::{self, Chart, Group, Line};
use crate::machine::{self, Machine};
use crate::stats::{Spread, spread, times};

/// Everything of one run.
#[derive(Serialize)]
pub struct Run {
    /// Where.
    pub machine: Machine,
    /// Load averages at the end.
    pub load_after: String,
    /// What Redis says of itself.
    pub redis: String,
    /// Figure 11.
    pub starts: Vec<Start>,
    /// Figure 12: requests.
    pub bursts: Vec<Burst>,
    /// Figure 12: memory.
    pub rewrites: Vec<Rewrite>,
    /// Memory over time.
    pub series: Vec<Look>,
    /// Steady throughput.
    pub steady: Vec<Round>,
    /// What failed.
    pub failures: Vec<String>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

impl Run {
    /// Nothing yet.
    pub fn begin(redis: String) -> Run {
        Run {
            machine: machine::look(),
            load_after: String::new(),
            redis,
            starts: Vec::new(),
            bursts: Vec::new(),
            rewrites: Vec::new(),
            series: Vec::new(),
            steady: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// Writes it all below `directory`; gives the text.
pub fn write(run: &Run, directory: &Path) -> Result<String> {
    fs::create_dir_all(directory).with_context(|| format!("{} can't be made", directory.display()))?;
    let put = |name: &str, text: &str| fs::write(directory.join(name), text).with_context(|| format!("{name} can't be written"));
    put("samples.json", &serde_json::to_string_pretty(run)?)?;
    put("start.csv", &start_csv(&run.starts))?;
    put("burst.csv", &burst_csv(&run.bursts))?;
    put("rewrite.csv", &rewrite_csv(&run.rewrites))?;
    put("series.csv", &series_csv(&run.series))?;
    put("steady.csv", &steady_csv(&run.steady))?;
    let text = text(run);
    put("report.md", &text)?;
    draw(run, directory)?;
    Ok(text)
}

fn text(run: &Run) -> String {
    let mut text = head(run);
    text += &marks_text(run);
    if !run.starts.is_empty() {
        text += &start_text(&run.starts);
    }
    if !run.bursts.is_empty() {
        text += &burst_text(&run.bursts);
    }
    if !run.rewrites.is_empty() {
        text += &rewrite_text(&run.rewrites);
    }
    if !run.series.is_empty() {
        text += &series_text(&run.series);
    }
    if !run.steady.is_empty() {
        text += &steady_text(&run.steady);
    }
    for (title, lines) in [("What failed", &run.failures), ("What was left out", &run.notes)] {
        if !lines.is_empty() {
            let _ = writeln!(text, "## {title}\n");
            lines.iter().for_each(|line| _ = writeln!(text, "- {line}"));
            text.push('\n');
        }
    }
    text
}

fn head(run: &Run) -> String {
    let machine = &run.machine;
    format!(
        "# Figures 11 and 12: the database\n\n\
         {}, {} cores, {} MiB of memory, Linux {}. Load averages {} before, {} after. {}.\n\n\
         **native** is our server as an ordinary program, **shared** the same in the shared enclave, behind TLS that ends in it. Server, writer of\n\
         the snapshot and clients share the cores. Values are of {} bytes that can't be compressed; sizes are those of the values alone. Our\n\
         snapshots are sealed, Redis's are not; neither keeps a log here.\n\n\
         **The enclave is simulated**: the numbers of shared and exclusive are the simulator's. Entering and leaving cost about 0.1 us instead of 2.5 to\n\
         4.5 us, and one turn of the server does so once; memory is not encrypted, so the enclave looks better here; building an enclave costs\n\
         about 5 us a page (published for hardware: 7.2), so exclusive looks better, too. Compare ratios of one run, not numbers of two.\n\n",
        machine.processor,
        machine.cores,
        machine.memory_kib / 1024,
        machine.kernel,
        machine.load,
        run.load_after,
        run.redis,
        super::starting::VALUE,
    )
}

/// A measured figure, and what it should be.
struct Mark {
    name: String,
    wanted: f64,
    measured: Option<f64>,
    at_least: bool,
}

fn marks(run: &Run) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut mark = |name: String, measured, wanted, at_least| marks.push(Mark { name, wanted, measured, at_least });
    let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    let sizes = sizes(&run.starts);
    let (least, most) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
    let start = |kind, mib| start_of(&run.starts, kind, mib).map(|spread| spread.median);
    for kind in [Kind::Native, Kind::Shared] {
        let own = start(kind, most);
        let name = kind.title();
        mark(format!("{name}: start at {most} MiB / at {least} MiB, at most"), ratio(own, start(kind, least)), 2.0, false);
        mark(format!("{name}: start / Redis's fork at {most} MiB, at most"), ratio(own, start(Kind::Redis, most)), 0.05, false);
        mark(format!("{name}: start / exclusive at {most} MiB, at most"), ratio(own, start(Kind::Exclusive, most)), 0.001, false);
    }
    for kind in [Kind::Native, Kind::Shared] {
        let name = kind.title();
        let rate = |kind, snapshot| burst_of(&run.bursts, kind, snapshot, |burst| burst.per_second).map(|spread| spread.median);
        let during = rate(kind, true);
        mark(format!("{name}: requests a second during a snapshot / without, at least"), ratio(during, rate(kind, false)), 0.9, true);
        let rival = kind.rival().and_then(|rival| rate(rival, true));
        mark(format!("{name}: requests a second during a snapshot / Redis's under BGSAVE, at least"), ratio(during, rival), 1.0, true);
        let extra = spread(run.rewrites.iter().filter(|rewrite| rewrite.kind == kind).map(Rewrite::share));
        mark(format!("{name}: extra memory while all keys are rewritten / data, at most"), extra.map(|spread| spread.median), 0.1, false);
        for (case, _, _) in CASES {
            let rate = |kind| steady_of(&run.steady, kind, case).map(|spread| spread.median);
            let rival = kind.rival().and_then(rate);
            mark(format!("{name}: {case}, requests a second / Redis's, at least"), ratio(rate(kind), rival), 1.0, true);
        }
    }
    marks
}

fn marks_text(run: &Run) -> String {
    let mut text = String::from("## The project's marks\n\n| mark | wanted | measured | |\n|---|---|---|---|\n");
    for Mark { name, wanted, measured, at_least } in marks(run) {
        let Some(measured) = measured else { continue };
        let verdict = if (measured >= wanted) == at_least || measured == wanted { "met" } else { "**missed**" };
        let shown = if measured < 0.01 { format!("{measured:.6}") } else { format!("{measured:.2}") };
        let _ = writeln!(text, "| {name} | {wanted} | {shown} | {verdict} |");
    }
    text.push('\n');
    text
}

// ---- figure 11 --------------------------------------------------------------------------------------------------------------------------

fn sizes(starts: &[Start]) -> Vec<u64> {
    let mut sizes: Vec<u64> = starts.iter().map(|start| start.mib).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn starts_of(starts: &[Start], kind: Kind, mib: u64) -> impl Iterator<Item = &Start> {
    starts.iter().filter(move |start| start.kind == kind && start.mib == mib)
}

fn start_of(starts: &[Start], kind: Kind, mib: u64) -> Option<Spread> {
    spread(starts_of(starts, kind, mib).map(|start| start.start_us))
}

const STARTING: [Kind; 4] = [Kind::Redis, Kind::Native, Kind::Shared, Kind::Exclusive];

fn start_text(starts: &[Start]) -> String {
    let mut text = String::from(
        "## Figure 11: the start of a snapshot\n\nFor how long the server serves nobody, median (p10 to p90; samples). Redis: its fork, by its own account\n\
         (`latest_fork_usec`). Ours: everything that the server does at once, by its account (`rdb_last_start_us`). **exclusive**, the paper's\n\
         Strawman: a second node builds a second enclave of the same image, and all keys go to it through one TLS connection that ends in it. The\n\
         parent's part is played by the bench, which has the content at hand, so reading it out of the parent is not counted.\n\n",
    );
    let _ = writeln!(text, "| MiB | {} |\n|---|{}", STARTING.map(Kind::title).join(" | "), "---|".repeat(STARTING.len()));
    for mib in sizes(starts) {
        let cells = STARTING.map(|kind| times(start_of(starts, kind, mib)));
        let _ = writeln!(text, "| {mib} | {} |", cells.join(" | "));
    }
    text += "\nFrom the begin until the writer runs (a thread; shared: in the snapshot's container), from the client's BGSAVE to its reply, and exclusive's\n\
             enclave alone:\n\n| MiB | native, writer | shared, writer | Redis, reply | native, reply | shared, reply | exclusive, enclave |\n\
             |---|---|---|---|---|---|---|\n";
    for mib in sizes(starts) {
        let of = |kind, value: fn(&Start) -> Option<f64>| times(spread(starts_of(starts, kind, mib).filter_map(value)));
        let cells = [
            of(Kind::Native, |start| start.writer_us),
            of(Kind::Shared, |start| start.writer_us),
            of(Kind::Redis, |start| start.reply_us),
            of(Kind::Native, |start| start.reply_us),
            of(Kind::Shared, |start| start.reply_us),
            of(Kind::Exclusive, |start| start.built_us),
        ];
        let _ = writeln!(text, "| {mib} | {} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

// ---- figure 12 --------------------------------------------------------------------------------------------------------------------------

const SERVING: [Kind; 4] = [Kind::Redis, Kind::Native, Kind::RedisTls, Kind::Shared];

fn burst_of(bursts: &[Burst], kind: Kind, snapshot: bool, value: fn(&Burst) -> f64) -> Option<Spread> {
    spread(bursts.iter().filter(|burst| burst.kind == kind && burst.snapshot == snapshot).map(value))
}

fn burst_text(bursts: &[Burst]) -> String {
    let mut text = String::from(
        "## Figure 12: requests while a snapshot is made\n\nSET of random keys by 50 connections, one request at a time each: a closed loop. Without a snapshot, and with one,\n\
         from just before its begin to its end. Median (p10 to p90) of the rounds; latencies are medians of the rounds' quantiles.\n\n\
         | server | snapshot | requests a second | p50 | p99 | p99.9 | longest | it took, s |\n|---|---|---|---|---|---|---|---|\n",
    );
    for kind in SERVING {
        for snapshot in [false, true] {
            let Some(rate) = burst_of(bursts, kind, snapshot, |burst| burst.per_second) else { continue };
            let us = |value| burst_of(bursts, kind, snapshot, value).map_or_else(|| "-".to_owned(), |s| human(s.median));
            let seconds = burst_of(bursts, kind, snapshot, |burst| burst.seconds).map_or(0.0, |s| s.median);
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} ({:.0} to {:.0}; n {}) | {} | {} | {} | {} | {seconds:.1} |",
                kind.title(),
                if snapshot { "during" } else { "without" },
                rate.median,
                rate.p10,
                rate.p90,
                rate.count,
                us(|burst| burst.p50_us),
                us(|burst| burst.p99_us),
                us(|burst| burst.p999_us),
                us(|burst| burst.most_us)
            );
        }
    }
    text.push('\n');
    text
}

fn rewrite_text(rewrites: &[Rewrite]) -> String {
    let mut text = String::from(
        "## Figure 12: memory while all keys are written again\n\nEvery key once, by 50 connections with four requests at a time: without a snapshot, then during one. Memory of all processes of the server,\n\
         shared pages once, each 50 ms; peaks. Extra: the peak during the snapshot less the peak without, by the data.\n\n\
         | server | round | data, MiB | before, MiB | peak without, MiB | peak during, MiB | extra | writing took, s | the snapshot lasted longer |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mib = |kib: u64| kib / 1024;
    for r in rewrites {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {:.1} % | {:.1} | {} |",
            r.kind.title(),
            r.round,
            r.mib,
            mib(r.before_kib),
            mib(r.without_kib),
            mib(r.during_kib),
            r.share() * 100.0,
            r.seconds,
            if r.whole { "yes" } else { "no" }
        );
    }
    text.push('\n');
    text
}

fn series_text(looks: &[Look]) -> String {
    let mut text = String::from(
        "## Memory over time\n\nWith a steady rate of writes and a snapshot again and again (series.csv, series.svg).\n\n\
         | server | seconds | memory first, MiB | median | peak | last | writes a second |\n|---|---|---|---|---|---|---|\n",
    );
    for kind in SERVING {
        let own: Vec<&Look> = looks.iter().filter(|look| look.kind == kind).collect();
        let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
        let memory = || own.iter().map(|look| look.memory_kib as f64 / 1024.0);
        let _ = writeln!(
            text,
            "| {} | {:.0} | {} | {:.0} | {:.0} | {} | {:.0} |",
            kind.title(),
            last.seconds,
            first.memory_kib / 1024,
            spread(memory()).map_or(0.0, |s| s.median),
            memory().fold(0.0, f64::max),
            last.memory_kib / 1024,
            (last.answered - first.answered) as f64 / (last.seconds - first.seconds).max(1e-9)
        );
    }
    text.push('\n');
    text
}

// ---- steady -----------------------------------------------------------------------------------------------------------------------------

fn steady_of(rounds: &[Round], kind: Kind, case: &str) -> Option<Spread> {
    spread(rounds.iter().filter(|round| round.kind == kind && round.case == case).map(|round| round.per_second))
}

fn steady_text(rounds: &[Round]) -> String {
    let mut text = String::from(
        "## Steady throughput\n\nRequests a second, median (p10 to p90; rounds); 50 connections, values of 64 bytes, 100,000 keys; P1 and P16: requests of a connection at a\n\
         time. The servers take turns in each case. Redis under TLS is asked by the same client, by the same version of TLS.\n\n",
    );
    let _ = writeln!(text, "| | {} |\n|---|{}", SERVING.map(Kind::title).join(" | "), "---|".repeat(SERVING.len()));
    for (case, _, _) in CASES {
        let cells = SERVING.map(|kind| {
            steady_of(rounds, kind, case)
                .map_or_else(|| "-".to_owned(), |s| format!("{:.0} ({:.0} to {:.0}; n {})", s.median, s.p10, s.p90, s.count))
        });
        let _ = writeln!(text, "| {case} | {} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

// ---- files ------------------------------------------------------------------------------------------------------------------------------

fn start_csv(starts: &[Start]) -> String {
    let mut text = String::from("server,mib,start_us,writer_us,reply_us,built_us\n");
    let optional = |us: Option<f64>| us.map(|us| format!("{us:.1}")).unwrap_or_default();
    for s in starts {
        let (writer, reply, built) = (optional(s.writer_us), optional(s.reply_us), optional(s.built_us));
        let _ = writeln!(text, "\"{}\",{},{:.1},{writer},{reply},{built}", s.kind.title(), s.mib, s.start_us);
    }
    text
}

fn burst_csv(bursts: &[Burst]) -> String {
    let mut text = String::from("server,round,snapshot,seconds,per_second,p50_us,p99_us,p999_us,most_us\n");
    for b in bursts {
        let (kind, times) = (b.kind.title(), [b.p50_us, b.p99_us, b.p999_us, b.most_us].map(|us| format!("{us:.1}")).join(","));
        let _ = writeln!(text, "\"{kind}\",{},{},{:.3},{:.1},{times}", b.round, b.snapshot, b.seconds, b.per_second);
    }
    text
}

fn rewrite_csv(rewrites: &[Rewrite]) -> String {
    let mut text = String::from("server,round,mib,before_kib,without_kib,during_kib,seconds,whole\n");
    for r in rewrites {
        let kib = [r.before_kib, r.without_kib, r.during_kib].map(|kib| kib.to_string()).join(",");
        let _ = writeln!(text, "\"{}\",{},{},{kib},{:.3},{}", r.kind.title(), r.round, r.mib, r.seconds, r.whole);
    }
    text
}

fn series_csv(looks: &[Look]) -> String {
    let mut text = String::from("server,seconds,memory_kib,answered,saving\n");
    for l in looks {
        let _ = writeln!(text, "\"{}\",{:.3},{},{},{}", l.kind.title(), l.seconds, l.memory_kib, l.answered, l.saving);
    }
    text
}

fn steady_csv(rounds: &[Round]) -> String {
    let mut text = String::from("server,case,round,per_second,p999_us\n");
    for r in rounds {
        let _ = writeln!(text, "\"{}\",\"{}\",{},{:.1},{:.1}", r.kind.title(), r.case, r.round, r.per_second, r.p999_us);
    }
    text
}

fn bar(spread: Option<Spread>, scale: f64) -> Vec<f64> {
    spread.map(|spread| vec![spread.median * scale]).unwrap_or_default()
}

fn draw(run: &Run, directory: &Path) -> Result<()> {
    let flat = |title: &str, axis: &str, kinds: &[Kind], groups: &[Group], name: &str| {
        let series: Vec<&str> = kinds.iter().map(|kind| kind.title()).collect();
        figures::draw(&Chart { title, axis, series: &series, parts: &[], groups }, &directory.join(name))
    };
    let groups: Vec<Group> = sizes(&run.starts)
        .into_iter()
        .map(|mib| Group {
            label: format!("{mib} MiB"),
            bars: STARTING.iter().map(|kind| bar(start_of(&run.starts, *kind, mib), 1e-3)).collect(),
        })
        .collect();
    flat("Figure 11: the start of a snapshot, medians", "ms", &STARTING, &groups, "figure11.svg")?;
    let requests = |title: &str, axis: &str, value: fn(&Burst) -> f64, scale: f64, name: &str| {
        let group = |snapshot, label: &str| Group {
            label: label.to_owned(),
            bars: SERVING.iter().map(|kind| bar(burst_of(&run.bursts, *kind, snapshot, value), scale)).collect(),
        };
        flat(title, axis, &SERVING, &[group(false, "without a snapshot"), group(true, "during a snapshot")], name)
    };
    requests("Figure 12: SET during a snapshot, medians", "requests a second", |burst| burst.per_second, 1.0, "figure12-requests.svg")?;
    requests("Figure 12: p99.9 of SET during a snapshot, medians", "ms", |burst| burst.p999_us, 1e-3, "figure12-latency.svg")?;
    let extra = |kind| spread(run.rewrites.iter().filter(|rewrite| rewrite.kind == kind).map(Rewrite::share));
    let group = Group { label: "all keys rewritten".to_owned(), bars: SERVING.iter().map(|kind| bar(extra(*kind), 100.0)).collect() };
    flat("Figure 12: extra memory during a snapshot, medians", "% of the data", &SERVING, &[group], "figure12-memory.svg")?;
    let groups: Vec<Group> = CASES
        .iter()
        .map(|(case, _, _)| Group {
            label: (*case).to_owned(),
            bars: SERVING.iter().map(|kind| bar(steady_of(&run.steady, *kind, case), 1e-3)).collect(),
        })
        .collect();
    flat("Steady throughput, medians", "thousand requests a second", &SERVING, &groups, "steady.svg")?;
    let lines: Vec<Line<'_>> = SERVING
        .iter()
        .map(|kind| Line {
            name: kind.title(),
            points: run
                .series
                .iter()
                .filter(|look| look.kind == *kind)
                .map(|look| (look.seconds, look.memory_kib as f64 / 1024.0))
                .collect(),
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    figures::lines("Memory over time, with snapshots", ("seconds", "MiB"), &lines, &directory.join("series.svg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let start = |kind, mib, start_us| Start { kind, mib, start_us, writer_us: None, reply_us: None, built_us: None };
        let burst = |kind, snapshot, per_second| Burst {
            kind,
            round: 1,
            snapshot,
            seconds: 1.0,
            per_second,
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
            most_us: 4.0,
        };
        let round = |kind, per_second| Round { kind, case: CASES[0].0, round: 1, per_second, p999_us: 1.0 };
        let look = |seconds| Look { kind: Kind::Native, seconds, memory_kib: 2048, answered: 10, saving: false };
        let rewrite = |kind, during_kib| Rewrite {
            kind,
            round: 1,
            mib: 1,
            before_kib: 1000,
            without_kib: 1024,
            during_kib,
            seconds: 1.0,
            whole: true,
        };
        Run {
            starts: vec![
                start(Kind::Native, 32, 2.0),
                start(Kind::Native, 1024, 3.0),
                start(Kind::Redis, 1024, 30.0),
                start(Kind::Exclusive, 1024, 3e6),
            ],
            bursts: vec![burst(Kind::Native, false, 100.0), burst(Kind::Native, true, 95.0), burst(Kind::Redis, true, 100.0)],
            rewrites: vec![rewrite(Kind::Native, 1024 + 51)],
            series: vec![look(0.0), look(1.0)],
            steady: vec![round(Kind::Native, 10.0), round(Kind::Redis, 5.0)],
            notes: vec!["a note".into()],
            ..Run::begin("none".into())
        }
    }

    #[test]
    fn marks_are_judged() {
        let text = text(&run());
        assert!(text.contains("| native: start at 1024 MiB / at 32 MiB, at most | 2 | 1.50 | met |"), "{text}");
        assert!(text.contains("| native: start / Redis's fork at 1024 MiB, at most | 0.05 | 0.10 | **missed** |"), "{text}");
        assert!(text.contains("exclusive at 1024 MiB, at most | 0.001 | 0.000001 | met |"), "{text}");
        assert!(text.contains("without, at least | 0.9 | 0.95 | met |"), "{text}");
        assert!(text.contains("Redis's under BGSAVE, at least | 1 | 0.95 | **missed** |"), "{text}");
        assert!(text.contains("/ data, at most | 0.1 | 0.05 | met |"), "{text}");
        assert!(text.contains("GET, P1, requests a second / Redis's, at least | 1 | 2.00 | met |"), "{text}");
        assert!(text.contains("- a note"));
    }

    #[test]
    fn everything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        write(&run(), directory.path()).unwrap();
        for name in ["report.md", "samples.json", "start.csv", "burst.csv", "rewrite.csv", "series.csv", "steady.csv"].into_iter().chain([
            "figure11.svg",
            "figure12-requests.svg",
            "figure12-latency.svg",
            "figure12-memory.svg",
            "steady.svg",
            "series.svg",
        ]) {
            assert!(directory.path().join(name).is_file(), "{name}");
        }
    }
}
