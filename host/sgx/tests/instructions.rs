//! A hand-assembled enclave: each instruction and each exception, in real processes.
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use common::{CODE, DATA, HEAP, act, attach, build, build_limited, in_child};
use teemate_abi::ocall::edmm;
use teemate_sgx::{EPC_FULL, Enclave, Error, Exit, TcsState};

fn exit(reason: u64, argument: u64) -> Exit {
    Exit::Exit { reason, argument }
}

#[test]
fn enter_and_exit() {
    for gate in [true, false] {
        let (enclave, _dir) = build(gate);
        in_child(|| {
            let attachment = attach(&enclave);
            let thread = attachment.thread(0).unwrap();
            for round in 0..1000 {
                assert_eq!(thread.enter(act::ADD, 40, round).unwrap(), exit(77, 40 + round));
            }
            assert_eq!(thread.state(), TcsState { busy: false, cssa: 0 });
        });
        assert_eq!(enclave.counters().eenter, 1000);
        assert_eq!(enclave.counters().eexit, 1000);
    }
}

#[test]
fn a_forked_child_inherits_the_mapping() {
    let (enclave, _dir) = build(true);
    in_child(|| {
        let attachment = attach(&enclave);
        for tcs in 0..4 {
            in_child(|| {
                let thread = attachment.thread(tcs).unwrap();
                assert_eq!(thread.enter(act::ADD, 1, 2).unwrap(), exit(77, 3));
            });
        }
    });
}

#[test]
fn a_syscall_inside_is_an_invalid_opcode() {
    for gate in [true, false] {
        let (enclave, _dir) = build(gate);
        in_child(|| {
            let attachment = attach(&enclave);
            let thread = attachment.thread(1).unwrap();
            for _ in 0..100 {
                let came = thread.enter(act::SYSCALL, 0, 0).unwrap();
                assert_eq!(came, Exit::Exception { vector: 6, error: 0, address: 0 });
                assert_eq!(thread.state(), TcsState { busy: false, cssa: 1 });
                assert_eq!(thread.enter(act::SKIP, 2, 0).unwrap(), exit(83, 2));
                // RAX is what it was before the instruction.
                assert_eq!(thread.resume().unwrap(), exit(78, 39));
            }
        });
    }
}

#[test]
fn faults_have_their_address_and_code() {
    let (enclave, _dir) = build(true);
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(2).unwrap();
        let fault = |error, address| Exit::Exception { vector: 14, error, address };
        // Write to a page that is readable and executable: EPCM violation.
        assert_eq!(thread.enter(act::STORE, CODE, 0).unwrap(), fault(0x8007, CODE));
        thread.enter(act::SKIP, 7, 0).unwrap();
        assert_eq!(thread.resume().unwrap().clone(), exit(79, CODE));
        // A TCS can't be read.
        assert_eq!(thread.enter(act::LOAD, common::TCS_START, 0).unwrap(), fault(0x8005, common::TCS_START));
        thread.enter(act::SKIP, 3, 0).unwrap();
        assert_eq!(thread.resume().unwrap(), exit(85, common::TCS_START));
        // Where there is no page.
        assert_eq!(thread.enter(act::LOAD, DATA + 0x10000, 0).unwrap(), fault(4, DATA + 0x10000));
        thread.enter(act::SKIP, 3, 0).unwrap();
        thread.resume().unwrap();
        // Outside ELRANGE, where the host has nothing.
        assert_eq!(thread.enter(act::LOAD, 0x123000, 0).unwrap(), fault(4, 0x123000));
        thread.enter(act::SKIP, 3, 0).unwrap();
        thread.resume().unwrap();
        assert_eq!(thread.enter(act::INT3, 0, 0).unwrap(), Exit::Exception { vector: 3, error: 0, address: 0 });
        thread.enter(act::SKIP, 1, 0).unwrap();
        assert!(matches!(thread.resume().unwrap(), Exit::Exit { reason: 84, .. }));
    });
    // EXINFO and EXITINFO of the last #PF... are overwritten by INT3, so look at EXITINFO only.
    let frame = enclave.peek(common::TCS_START + 2 * 0x8000 + 0x1000, 4096).unwrap();
    let info = u32::from_le_bytes(*frame[4096 - 184 + 160..].first_chunk().unwrap());
    assert_eq!(info, 1 << 31 | 6 << 8 | 3);
}

#[test]
fn growth_by_eaccept() {
    for gate in [true, false] {
        let (enclave, _dir) = build(gate);
        let before = enclave.epc().pages;
        in_child(|| {
            let attachment = attach(&enclave);
            let thread = attachment.thread(0).unwrap();
            assert_eq!(thread.enter(act::GROW, HEAP, 600).unwrap(), exit(86, 600));
            assert_eq!(thread.enter(act::LOAD, HEAP + 599 * 4096, 0).unwrap(), exit(85, 600));
        });
        assert_eq!(enclave.epc().pages, before + 600);
        // A process that attaches later maps them at once.
        in_child(|| {
            let attachment = attach(&enclave);
            let thread = attachment.thread(0).unwrap();
            assert_eq!(thread.enter(act::LOAD, HEAP + 7 * 4096, 0).unwrap(), exit(85, 8));
        });
    }
}

#[test]
fn the_epc_has_a_limit() {
    let pages = common::image().page_count() + 1;
    let (enclave, _dir) = build_limited(true, pages + 5);
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        match thread.enter(act::GROW, HEAP, 600).unwrap() {
            Exit::Exception { vector: 14, error, address } => {
                assert_ne!(error & EPC_FULL, 0);
                assert_eq!(address, HEAP + 5 * 4096);
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(enclave.epc().pages, pages + 5);
}

#[test]
fn a_full_ssa_and_an_empty_one_refuse() {
    let (enclave, _dir) = build(true);
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        assert!(matches!(thread.resume(), Err(Error::Entry { why, .. }) if why.contains("CSSA = 0")));
        for _ in 0..3 {
            assert!(matches!(thread.enter(act::SYSCALL, 0, 0).unwrap(), Exit::Exception { vector: 6, .. }));
        }
        assert!(matches!(thread.enter(act::ADD, 0, 0), Err(Error::Entry { why, .. }) if why.contains("NSSA")));
        assert!(attachment.thread(common::TCS_COUNT).is_err());
    });
}

#[test]
fn another_process_resumes() {
    let (enclave, _dir) = build(true);
    in_child(|| {
        let attachment = attach(&enclave);
        in_child(|| {
            let thread = attachment.thread(3).unwrap();
            assert!(matches!(thread.enter(act::SYSCALL, 0, 0).unwrap(), Exit::Exception { vector: 6, .. }));
        });
        in_child(|| {
            let thread = attachment.thread(3).unwrap();
            assert_eq!(thread.state(), TcsState { busy: false, cssa: 1 });
            thread.enter(act::SKIP, 2, 0).unwrap();
            assert_eq!(thread.resume().unwrap(), exit(78, 39));
        });
    });
}

#[test]
fn a_jump_out_of_the_enclave_is_a_fault() {
    let (enclave, _dir) = build(true);
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        assert!(matches!(thread.enter(act::JUMP, 0x5000, 0).unwrap(), Exit::Exception { vector: 14, address: 0x5000, .. }));
    });
}

#[test]
fn trim_and_remove() {
    let (enclave, _dir) = build(true);
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        assert_eq!(thread.enter(act::GROW, HEAP, 4).unwrap(), exit(86, 4));
    });
    assert!(enclave.edmm(edmm::REMOVE, HEAP, 4096, 0).is_err());
    assert_eq!(enclave.edmm(edmm::TRIM, HEAP, 2 * 4096, 0).unwrap(), 2 * 4096);
    assert!(enclave.edmm(edmm::REMOVE, HEAP, 4096, 0).is_err());
    in_child(|| {
        let attachment = attach(&enclave);
        let thread = attachment.thread(0).unwrap();
        assert_eq!(thread.enter(act::LOAD, HEAP, 0).unwrap(), Exit::Exception { vector: 14, error: 0x8005, address: HEAP });
        assert_eq!(thread.enter(act::LOAD, HEAP + 2 * 4096, 0).unwrap(), exit(85, 3));
        // SECINFO: MODIFIED, PT_TRIM, in the data page.
        unsafe { (DATA as *mut u64).add(0x880 / 8).write(0x410) };
        let block = DATA + 0x900;
        for page in [HEAP, HEAP + 4096] {
            unsafe {
                (block as *mut u64).add(1).write(DATA + 0x880);
                (block as *mut u64).add(2).write(page);
            }
            assert_eq!(thread.enter(act::LEAF, block, 5).unwrap(), exit(82, 0));
        }
    });
    let before = enclave.epc().pages;
    assert_eq!(enclave.edmm(edmm::REMOVE, HEAP, 2 * 4096, 0).unwrap(), 2 * 4096);
    assert_eq!(enclave.epc().pages, before - 2);
    assert_eq!(enclave.peek(HEAP, 8).unwrap(), [0; 8]);
}
