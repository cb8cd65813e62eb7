//! Where the time of a call went: durations between the phases that the node and the service recorded.

use serde::Serialize;
use teemate_control::function::{Mark, Phase};

/// The parts of a call that the paper's figure 7 tells apart, in the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The request's way to the service, and the service's wish for a container back to the node.
    Request,
    /// A TCS is picked.
    ThreadLease,
    /// The enclave is built (exclusive), or found (shared).
    EnclaveCreation,
    /// Process, namespaces, root, cgroup.
    ContainerCreation,
    /// Instead of a container's creation: one that was made ahead is taken, and gets the call's limits.
    ContainerTaking,
    /// The enclave is mapped in the container and a thread enters it.
    EnclaveAliasing,
    /// The instance gets its memory: pages for it, its module.
    EnclaveExpansion,
    /// The function runs.
    Execution,
    /// The answer's way back.
    Return,
    /// After the answer: process reaped, cgroup removed. Not part of the latency.
    Cleanup,
}

impl Part {
    /// All of them, in order.
    pub const ALL: [Part; 10] = [
        Part::Request,
        Part::ThreadLease,
        Part::EnclaveCreation,
        Part::ContainerCreation,
        Part::ContainerTaking,
        Part::EnclaveAliasing,
        Part::EnclaveExpansion,
        Part::Execution,
        Part::Return,
        Part::Cleanup,
    ];

    /// For a table's head or a figure's legend.
    pub const fn title(self) -> &'static str {
        match self {
            Part::Request => "request",
            Part::ThreadLease => "thread lease",
            Part::EnclaveCreation => "enclave creation",
            Part::ContainerCreation => "container creation",
            Part::ContainerTaking => "container taken from pool",
            Part::EnclaveAliasing => "enclave aliasing",
            Part::EnclaveExpansion => "enclave expansion",
            Part::Execution => "function execution",
            Part::Return => "return",
            Part::Cleanup => "clean-up",
        }
    }

    /// The part that ends when `phase` is reached.
    const fn ending_at(phase: Phase) -> Part {
        match phase {
            Phase::Received | Phase::Accepted | Phase::ContainerRequested => Part::Request,
            Phase::TcsLeased => Part::ThreadLease,
            Phase::EnclaveReady => Part::EnclaveCreation,
            Phase::ProcessStarted | Phase::ContainerReady => Part::ContainerCreation,
            Phase::ContainerTaken => Part::ContainerTaking,
            Phase::EnclaveMapped | Phase::Entered => Part::EnclaveAliasing,
            Phase::InstanceReady => Part::EnclaveExpansion,
            Phase::Executed => Part::Execution,
            Phase::Answered | Phase::Returned => Part::Return,
            Phase::Reaped => Part::Cleanup,
        }
    }
}

/// One phase of a call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Which.
    pub phase: Phase,
    /// Microseconds since the first phase.
    pub at_us: f64,
    /// Microseconds since the phase before.
    pub took_us: f64,
}

/// Phases in the order of their times. The node may not tell the truth about time; what it says is at least put in order.
pub fn steps(marks: &[Mark]) -> Vec<Step> {
    let mut marks = marks.to_vec();
    marks.sort_by_key(|mark| (mark.at_ns, mark.phase));
    let Some(first) = marks.first().map(|mark| mark.at_ns) else { return Vec::new() };
    let mut before = first;
    marks
        .iter()
        .map(|mark| {
            let step = Step { phase: mark.phase, at_us: (mark.at_ns - first) as f64 / 1e3, took_us: (mark.at_ns - before) as f64 / 1e3 };
            before = mark.at_ns;
            step
        })
        .collect()
}

/// Microseconds of each part that the marks tell of.
pub fn parts(marks: &[Mark]) -> Vec<(Part, f64)> {
    let steps = steps(marks);
    let sum = |part| steps.iter().filter(|step| Part::ending_at(step.phase) == part).map(|step| step.took_us).sum::<f64>();
    let seen = |part| steps.iter().skip(1).any(|step| Part::ending_at(step.phase) == part);
    Part::ALL.into_iter().filter(|part| seen(*part)).map(|part| (part, sum(part))).collect()
}

/// Microseconds from the request's arrival at the node to the answer's departure. What follows (clean-up) does not count.
pub fn latency_us(marks: &[Mark]) -> Option<f64> {
    let at = |phase| marks.iter().find(|mark| mark.phase == phase).map(|mark| mark.at_ns);
    Some(at(Phase::Returned)?.checked_sub(at(Phase::Received)?)? as f64 / 1e3)
}

/// Microseconds for people: three digits and a unit.
pub fn human(us: f64) -> String {
    match us {
        us if us < 0.005 => "0 us".to_owned(),
        us if us < 0.95 => format!("{us:.2} us"),
        us if us < 999.5 => format!("{us:.0} us"),
        us if us < 9_995.0 => format!("{:.2} ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(phase: Phase, us: u64) -> Mark {
        Mark { phase, at_ns: us * 1000 }
    }

    #[test]
    fn the_parts_of_a_call_sum_up_to_its_latency() {
        let marks = [
            mark(Phase::Received, 100),
            mark(Phase::Accepted, 110),
            mark(Phase::ContainerRequested, 130),
            mark(Phase::TcsLeased, 131),
            mark(Phase::EnclaveReady, 132),
            mark(Phase::ProcessStarted, 300),
            mark(Phase::ContainerReady, 400),
            mark(Phase::EnclaveMapped, 410),
            mark(Phase::Entered, 420),
            mark(Phase::InstanceReady, 450),
            mark(Phase::Executed, 500),
            mark(Phase::Answered, 505),
            mark(Phase::Returned, 520),
            mark(Phase::Reaped, 700),
        ];
        let parts = parts(&marks);
        let get = |part| parts.iter().find(|(p, _)| *p == part).map(|(_, us)| *us).unwrap();
        assert_eq!(get(Part::ContainerCreation), 268.0);
        assert_eq!(get(Part::EnclaveAliasing), 20.0);
        assert_eq!(get(Part::Cleanup), 180.0);
        let latency = latency_us(&marks).unwrap();
        assert_eq!(latency, 420.0);
        let sum: f64 = parts.iter().filter(|(part, _)| *part != Part::Cleanup).map(|(_, us)| us).sum();
        assert!((sum - latency).abs() < 1e-6);
    }

    #[test]
    fn a_call_without_marks_has_no_parts() {
        assert!(parts(&[]).is_empty());
        assert_eq!(latency_us(&[]), None);
    }

    #[test]
    fn microseconds_are_written_with_a_fitting_unit() {
        assert_eq!(human(0.0), "0 us");
        assert_eq!(human(0.5), "0.50 us");
        assert_eq!(human(120.4), "120 us");
        assert_eq!(human(1_234.0), "1.23 ms");
        assert_eq!(human(56_789.0), "56.8 ms");
        assert_eq!(human(2_500_000.0), "2.50 s");
    }

    proptest! {
        #[test]
        fn no_marks_of_a_lying_node_panic(times in prop::collection::vec(any::<u64>(), 0..20)) {
            let phases = [Phase::Received, Phase::Entered, Phase::Executed, Phase::Returned, Phase::Reaped];
            let marks: Vec<_> = times.iter().enumerate().map(|(i, at)| Mark { phase: phases[i % 5], at_ns: *at }).collect();
            let sum: f64 = parts(&marks).iter().map(|(_, us)| us).sum();
            prop_assert!(sum >= 0.0);
            let _ = latency_us(&marks);
        }
    }
}
