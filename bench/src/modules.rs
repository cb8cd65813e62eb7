//! Functions in WebAssembly: the same module in the enclave and outside, by the same program with the same settings. Outside it is wasmtime
//! in an ordinary process; what the enclave costs a computation is the ratio.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use teemate_client::breakdown::Part;
use teemate_tests::manifest::Manifest;

use crate::latency::{self, Nodes, Others, Sample};
use crate::mode::Mode;
use crate::stats::{Spread, spread, times};
use crate::workload::{self, Workload};

/// The enclave may take so much longer.
const MARK: f64 = 1.1;
/// The manifest's functions that compute, in C, and how often each does its work in one call, so that what is compared takes tens of
/// milliseconds.
const MODULES: [(&str, u64); 3] = [("binary-search-wasm", 100), ("crypto-md5-wasm", 1000), ("partial-sums-wasm", 100)];
/// The ways that are compared.
pub const MODES: [Mode; 2] = [Mode::Native, Mode::Shared];

/// The modules; what must be compiled goes below `scratch`.
///
/// # Errors
/// When they cannot be compiled here.
pub fn workloads(manifest: &Manifest, scratch: &Path) -> Result<Vec<Workload>> {
    let names = MODULES.map(|(name, _)| name.to_owned());
    let mut all = workload::nine(manifest, &names, "", scratch)?;
    for workload in &mut all {
        let rounds = MODULES.iter().find(|(name, _)| *name == workload.name).map_or(1, |(_, rounds)| *rounds);
        workload.params = serde_json::json!({ "rounds": rounds });
    }
    Ok(all)
}

/// Measures them, the two ways in turn.
pub fn measure(workloads: &[Workload], samples: usize, nodes: &Nodes) -> Vec<Sample> {
    workloads
        .iter()
        .flat_map(|workload| {
            eprintln!("modules: {}", workload.name);
            latency::measure(workload, &MODES, samples, samples, nodes, Others::default())
        })
        .collect()
}

/// Time in the function alone.
fn execution(samples: &[Sample], function: &str, mode: Mode) -> Option<Spread> {
    let good = samples.iter().filter(|sample| sample.function == function && sample.mode == mode && sample.error.is_none());
    spread(good.filter_map(|sample| sample.parts.iter().find(|(part, _)| *part == Part::Execution.title()).map(|(_, us)| *us)))
}

/// The table.
pub fn text(samples: &[Sample]) -> String {
    let mut text = format!(
        "## WebAssembly modules\n\nTime in the function, median (p10 to p90): the same module, program and settings outside and in\n\
         the enclave. At most {MARK} times as long is wanted.\n\n| module | native | enclave | enclave / native | |\n|---|---|---|---|---|\n"
    );
    for (function, _) in MODULES {
        let [native, shared] = MODES.map(|mode| execution(samples, function, mode));
        let (ratio, verdict) = match (native, shared) {
            (Some(native), Some(shared)) => {
                let ratio = shared.median / native.median;
                (format!("{ratio:.3}"), if ratio <= MARK { "met" } else { "**missed**" })
            }
            _ => ("-".to_owned(), "not measured"),
        };
        let _ = writeln!(text, "| {function} | {} | {} | {ratio} | {verdict} |", times(native), times(shared));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_judged() {
        let sample = |mode, us: f64| Sample {
            function: MODULES[0].0.into(),
            mode,
            round: 1,
            latency_us: us * 2.0,
            parts: vec![(Part::Execution.title(), us)],
            error: None,
        };
        let table = |shared| text(&[sample(Mode::Native, 1000.0), sample(Mode::Shared, shared)]);
        assert!(table(1050.0).contains("| 1.050 | met |"), "{}", table(1050.0));
        assert!(table(1200.0).contains("| 1.200 | **missed** |"));
        assert!(table(1200.0).contains("| crypto-md5-wasm | - | - | - | not measured |"));
    }
}
