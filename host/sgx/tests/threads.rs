//! Random sequences of entries, exceptions, resumptions, growth and kills, carried out by real processes, against a model that says only
//! what the SDM says of a TCS: a busy bit, CSSA, and what each SSA frame would go on with.
//!
//! Which process carries a step out is part of the sequence: to the model it makes no difference, and must make none.
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{CODE, DATA, HEAP, TCS_COUNT, TCS_START, act, attach, build, spawn, spawn_guarded, wait};
use proptest::prelude::*;
use teemate_abi::layout::{PAGE_SIZE, tcs_block};
use teemate_sgx::simulator::SimulatedEnclave;
use teemate_sgx::{Counters, Enclave, Error, Exit, TcsState};

/// SSA frames of a TCS of the test's image.
const NSSA: usize = 3;
/// Where RIP lies, from the end of an SSA frame (SDM, vol. 3D, "GPRSGX region": 184 bytes, RIP at 136).
const RIP_FROM_END: u64 = 184 - 136;
/// A page that is not there.
const NOWHERE: u64 = DATA + 0x10_000;
/// The SPIN act's registers.
const SEED: u64 = 0x0123_4567_89ab_cdef;

/// One step at one TCS.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// EENTER, an addition, EEXIT.
    Add(u8),
    /// EENTER, `syscall`: #UD.
    Syscall,
    /// EENTER, a load from where there is no page: #PF.
    Load,
    /// EENTER, a store to a page that the EPCM does not let be written: #PF.
    Store,
    /// EENTER, so many more pages of the heap by EACCEPT, EEXIT.
    Grow(u8),
    /// What an exception handler in the enclave does: moves the RIP of the newest frame past the instruction that faulted.
    Mend,
    /// ERESUME.
    Resume,
    /// A process enters and stays inside; others try; it is killed.
    Kill,
    /// The steps that follow are another process's.
    Hand,
}

/// What a frame of the SSA goes on with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Frame {
    /// It would fault again.
    Faulting(Exit),
    /// It would come out.
    Leaving(Exit),
}

#[derive(Clone, Debug, Default)]
struct Tcs {
    frames: Vec<Frame>,
}

/// What the SDM lets be seen.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counted {
    eenter: u64,
    eexit: u64,
    aex: u64,
    eresume: u64,
    pages: u64,
}

struct Model {
    tcs: Vec<Tcs>,
    counted: Counted,
    /// Pages of the heap so far. They are the enclave's, whichever TCS asked for them.
    grown: u64,
}

/// What a step must give.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Comes(Exit),
    /// #GP of EENTER: CSSA = NSSA.
    NoFrame,
    /// #GP of ERESUME: CSSA = 0.
    Nothing,
    /// Not an entry.
    Silent,
}

impl Model {
    fn new() -> Model {
        Model { tcs: vec![Tcs::default(); TCS_COUNT as usize], counted: Counted::default(), grown: 0 }
    }

    fn step(&mut self, index: usize, step: Step) -> Expected {
        let exit = |reason, argument| Exit::Exit { reason, argument };
        let fault = |vector, error, address| Exit::Exception { vector, error, address };
        match step {
            Step::Add(value) => self.enter(index, None, exit(77, u64::from(value) + 1)),
            Step::Syscall => self.enter(index, Some(fault(6, 0, 0)), exit(78, 39)),
            Step::Load => self.enter(index, Some(fault(14, 4, NOWHERE)), exit(85, NOWHERE)),
            Step::Store => self.enter(index, Some(fault(14, 0x8007, CODE)), exit(79, CODE)),
            Step::Grow(more) => {
                if self.tcs[index].frames.len() < NSSA {
                    self.grown += u64::from(more);
                    self.counted.pages += u64::from(more);
                }
                self.enter(index, None, exit(86, self.grown))
            }
            Step::Mend => {
                if let Some(frame) = self.tcs[index].frames.last_mut()
                    && let Frame::Faulting(Exit::Exception { vector, address, .. }) = *frame
                {
                    *frame = Frame::Leaving(match (vector, address) {
                        (6, _) => exit(78, 39),
                        (_, NOWHERE) => exit(85, NOWHERE),
                        _ => exit(79, CODE),
                    });
                }
                Expected::Silent
            }
            Step::Resume => match self.tcs[index].frames.pop() {
                None => Expected::Nothing,
                Some(Frame::Leaving(came)) => {
                    self.counted.eresume += 1;
                    self.counted.eexit += 1;
                    Expected::Comes(came)
                }
                Some(again @ Frame::Faulting(came)) => {
                    self.counted.eresume += 1;
                    self.counted.aex += 1;
                    self.tcs[index].frames.push(again);
                    Expected::Comes(came)
                }
            },
            Step::Kill => {
                if self.tcs[index].frames.len() == NSSA {
                    return Expected::NoFrame;
                }
                self.counted.eenter += 1;
                self.counted.aex += 1;
                self.tcs[index].frames.push(Frame::Leaving(exit(80, 0)));
                Expected::Silent
            }
            Step::Hand => Expected::Silent,
        }
    }

    /// EENTER, and either an exception or an EEXIT.
    fn enter(&mut self, index: usize, exception: Option<Exit>, leaves: Exit) -> Expected {
        if self.tcs[index].frames.len() == NSSA {
            return Expected::NoFrame;
        }
        self.counted.eenter += 1;
        match exception {
            Some(came) => {
                self.counted.aex += 1;
                self.tcs[index].frames.push(Frame::Faulting(came));
                Expected::Comes(came)
            }
            None => {
                self.counted.eexit += 1;
                Expected::Comes(leaves)
            }
        }
    }
}

/// Length of the instruction that faulted, by the exception that it raised.
fn length(came: Exit) -> u64 {
    match came {
        Exit::Exception { vector: 6, .. } => 2,
        Exit::Exception { address: NOWHERE, .. } => 3,
        _ => 7,
    }
}

/// Carries out the steps up to the next [`Step::Hand`] or [`Step::Kill`], in a process of its own, and compares each.
fn carry_out(enclave: &SimulatedEnclave, steps: &[(usize, Step)], model: &mut Model) {
    // The child works on a copy; the parent repeats the model's part, for it needs the state and the child can't give it back.
    let mut copy = Model { tcs: model.tcs.clone(), counted: model.counted.clone(), grown: model.grown };
    let pid = spawn(move || {
        let attachment = attach(enclave);
        for &(index, step) in steps {
            let newest = copy.tcs[index].frames.last().copied();
            let expected = copy.step(index, step);
            let thread = attachment.thread(index as u32).unwrap();
            let came = match step {
                Step::Add(value) => thread.enter(act::ADD, u64::from(value), 1),
                Step::Syscall => thread.enter(act::SYSCALL, 0, 0),
                Step::Load => thread.enter(act::LOAD, NOWHERE, 0),
                Step::Store => thread.enter(act::STORE, CODE, 0),
                Step::Grow(_) => thread.enter(act::GROW, HEAP, copy.grown),
                Step::Resume => thread.resume(),
                Step::Mend => {
                    if let Some(Frame::Faulting(came)) = newest {
                        mend(index, copy.tcs[index].frames.len() - 1, length(came));
                    }
                    Ok(Exit::Interrupted)
                }
                Step::Kill | Step::Hand => unreachable!("these end the process's steps"),
            };
            let agrees = match (expected, &came) {
                (Expected::Comes(wanted), Ok(came)) => wanted == *came,
                (Expected::NoFrame, Err(Error::Entry { why, .. })) => why.contains("NSSA"),
                (Expected::Nothing, Err(Error::Entry { why, .. })) => why.contains("CSSA = 0"),
                (Expected::Silent, _) => true,
                _ => false,
            };
            let state = TcsState { busy: false, cssa: copy.tcs[index].frames.len() as u32 };
            if !agrees || thread.state() != state {
                eprintln!("{step:?} at TCS {index}: expected {expected:?} and {state:?}, came {came:?} and {:?}", thread.state());
                return 1;
            }
        }
        0
    });
    assert_eq!(wait(pid), 0, "the processor and the model differ");
    for &(index, step) in steps {
        model.step(index, step);
    }
}

/// Adds to the RIP of a frame of the SSA, as code in the enclave could.
fn mend(tcs: usize, frame: usize, by: u64) {
    let end = TCS_START + tcs as u64 * tcs_block::STRIDE + (tcs_block::SSA + (frame as u64 + 1) * PAGE_SIZE);
    unsafe { *((end - RIP_FROM_END) as *mut u64) += by };
}

/// A guarded process enters, is met by another one's attempts, and is killed.
fn kill(enclave: &SimulatedEnclave, index: usize, model: &mut Model) {
    let expected = model.step(index, Step::Kill);
    let tcs = index as u32;
    let pid = spawn_guarded(enclave, || {
        let attachment = attach(enclave);
        match attachment.thread(tcs).unwrap().enter(act::SPIN, 0, SEED) {
            Err(Error::Entry { why, .. }) if why.contains("NSSA") => 7,
            _ => 1,
        }
    });
    if expected == Expected::NoFrame {
        assert_eq!(wait(pid), 7);
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while !enclave.tcs_state(tcs).unwrap().busy {
        assert!(Instant::now() < deadline, "it never entered");
        std::thread::sleep(Duration::from_micros(100));
    }
    let other = spawn(|| {
        let attachment = attach(enclave);
        let thread = attachment.thread(tcs).unwrap();
        let busy = |came| matches!(came, Err(Error::Entry { why, .. }) if why.contains("busy"));
        i32::from(!(busy(thread.enter(act::ADD, 0, 0)) && busy(thread.resume())))
    });
    assert_eq!(wait(other), 0, "a TCS that is busy was entered");
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(wait(pid), -libc::SIGKILL);
    enclave.wait_saved(pid).unwrap();
    assert_eq!(enclave.tcs_state(tcs).unwrap(), TcsState { busy: false, cssa: model.tcs[index].frames.len() as u32 });
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u8>().prop_map(Step::Add),
        3 => Just(Step::Syscall),
        2 => Just(Step::Load),
        2 => Just(Step::Store),
        2 => (0u8..20).prop_map(Step::Grow),
        6 => Just(Step::Mend),
        8 => Just(Step::Resume),
        1 => Just(Step::Kill),
        1 => Just(Step::Hand),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn threads_agree_with_the_model(gate in any::<bool>(), steps in prop::collection::vec((0usize..3, step()), 1..120)) {
        let (enclave, _dir) = build(gate);
        let mut model = Model::new();
        let before = enclave.epc().pages;
        for part in steps.chunk_by(|a, b| !ends(a.1) && !ends(b.1)) {
            match part {
                [(index, Step::Kill)] => {
                    let_spin(&enclave, true);
                    kill(&enclave, *index, &mut model);
                    // Whoever resumes it lets it end.
                    let_spin(&enclave, false);
                }
                [(_, Step::Hand)] => {}
                part => carry_out(&enclave, part, &mut model),
            }
        }
        let Counters { eenter, eexit, aex, eresume, eaug, .. } = enclave.counters();
        // An EACCEPT of a page that is not there yet leaves the enclave and comes back: how often for a range is the driver's choice.
        let round_trips = aex - model.counted.aex;
        prop_assert!(round_trips <= eaug, "{} round trips for {} pages", round_trips, eaug);
        let seen = Counted { eenter, eexit, aex: aex - round_trips, eresume: eresume - round_trips, pages: eaug };
        prop_assert_eq!(seen, model.counted);
        prop_assert_eq!(enclave.epc().pages, before + model.grown);
    }
}

/// Writes the word at which a spinning thread looks.
fn let_spin(enclave: &SimulatedEnclave, on: bool) {
    let pid = spawn(|| {
        let _attachment = attach(enclave);
        unsafe { &*(DATA as *const AtomicU64) }.store(u64::from(!on), SeqCst);
        0
    });
    assert_eq!(wait(pid), 0);
}

/// Steps that are no single process's.
fn ends(step: Step) -> bool {
    matches!(step, Step::Kill | Step::Hand)
}
