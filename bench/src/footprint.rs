//! Figure 10: peak memory while 64 calls are under way. Each mode has a node of its own, so that none pays for another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use teemate_tests::memory;
use teemate_tests::running::Node;

use crate::latency::{self, Others};
use crate::mode::Mode;
use crate::nodejs::Nodejs;
use crate::workload::Workload;

/// How often memory is looked at.
const STEP: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Footprint {
    /// Function.
    pub function: String,
    /// Way.
    pub mode: Option<Mode>,
    /// Calls at once.
    pub calls: usize,
    /// Peak of EPC pages of all enclaves, in KiB.
    pub epc_kib: u64,
    /// Peak of resident memory, shared pages counted once: EPC, and what the processes have besides, in KiB.
    pub resident_kib: u64,
    /// The same before the calls.
    pub at_rest_kib: u64,
    /// Most containers seen at one time.
    pub containers: usize,
    /// What went wrong, if anything.
    pub error: Option<String>,
}

/// Memory now: (EPC, resident, containers).
pub fn now(node: &Node) -> Option<(u64, u64, usize)> {
    let ps = node.ps().ok()?;
    let epc: u64 = ps.enclaves.iter().map(|enclave| enclave.epc_pages * 4).sum();
    let processes = memory::of(&memory::family(node.pid()?));
    // A simulated EPC is shared memory: the processes' share of it is what somebody has touched, the device's count what is in use.
    let besides = processes.pss_kib.saturating_sub(processes.shared_kib);
    let containers = ps.containers.iter().filter(|container| container.role == "function").count();
    Some((epc, besides + processes.shared_kib.max(epc), containers))
}

/// Measures a mode of the node.
pub fn of_node(workload: &Workload, mode: Mode, calls: usize, node: &Node) -> Footprint {
    let mut seen = Footprint { function: workload.name.clone(), mode: Some(mode), calls, ..Footprint::default() };
    seen.at_rest_kib = now(node).map_or(0, |(_, resident, _)| resident);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = (0, 0, 0);
            while !over.load(Ordering::Relaxed) {
                if let Some((epc, resident, containers)) = now(node) {
                    peak = (peak.0.max(epc), peak.1.max(resident), peak.2.max(containers));
                }
                thread::sleep(STEP);
            }
            peak
        });
        let callers: Vec<_> = (0..calls)
            .map(|_| scope.spawn(|| latency::once(workload, mode, node, Others::default()).and_then(|sample| sample.error)))
            .collect();
        let errors: Vec<_> = callers.into_iter().filter_map(|caller| caller.join().ok().flatten()).collect();
        over.store(true, Ordering::Relaxed);
        if let Ok((epc, resident, containers)) = watcher.join() {
            (seen.epc_kib, seen.resident_kib, seen.containers) = (epc, resident, containers);
        }
        seen.error = errors.first().map(|error| format!("{} calls failed, the first: {error}", errors.len()));
    });
    seen
}

/// Measures Node containers: all stay until the last is measured.
pub fn of_nodejs(workload: &Workload, calls: usize, nodejs: &Nodejs) -> Option<Footprint> {
    let action = latency::action(workload)?;
    nodejs.fits(&action).ok()?;
    let mut seen = Footprint { function: workload.name.clone(), mode: Some(Mode::Node), calls, ..Footprint::default() };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..calls).map(|_| scope.spawn(|| nodejs.call(&action, &workload.params))).collect();
        let done: Vec<_> = callers.into_iter().filter_map(|caller| caller.join().ok()).collect();
        seen.error = done.iter().find_map(|call| call.as_ref().err().map(|error| format!("{error:#}")));
        let alive: Vec<_> = done.into_iter().flatten().collect();
        seen.resident_kib = alive.iter().map(|call| call.container.memory().pss_kib).sum();
        seen.containers = alive.len();
    });
    Some(seen)
}
