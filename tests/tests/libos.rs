//! The LibOS, from inside: an image with the payload of `tests/payload` runs in the simulator, in this process.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use teemate_abi::transition::{enter, refused};
use teemate_image::Image;
use teemate_runner::board::Board;
use teemate_runner::body::Mapped;
use teemate_runner::calls::Descriptors;
use teemate_runner::drive::End;
use teemate_sgx::simulator::{Simulator, SimulatorOptions};
use teemate_sgx::{BuildOptions, Device, DeviceKind, Enclave};
use teemate_tests::{artifacts::Artifacts, skip};

/// Threads that the payload may have at one time.
const THREADS: u32 = 16;
/// The longest that all its checks may take.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn every_check_of_the_test_payload_passes() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let path = artifacts.directory().join("test-payload.teemate");
    if !path.is_file() {
        return skip(format!("{} is not built; run `cargo xtask build` first", path.display()));
    }
    let image = Image::load(&path).unwrap();
    let state = tempfile::tempdir().unwrap();
    let simulator = Simulator::new(SimulatorOptions::new(state.path())).unwrap();
    let enclave: Arc<dyn Enclave> = Arc::from(simulator.build(&image, &BuildOptions::default()).unwrap());
    let board = Board::create().unwrap();
    let shared = board.fd().try_clone_to_owned().unwrap();
    let mapped = Arc::new(Mapped::new(DeviceKind::Simulator, enclave.tcs_count(), shared, enclave.share().unwrap()).unwrap());

    let over = Arc::new(AtomicBool::new(false));
    let edmm = {
        let (enclave, over) = (enclave.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let seen = board.bell();
                board.serve_requests(|_, request| {
                    let done = enclave.edmm(request.operation, request.address, request.length, request.permissions);
                    done.map_or(-i64::from(rustix::io::Errno::IO.raw_os_error()), |bytes| bytes as i64)
                });
                board.wait_for_requests(seen, Duration::from_millis(20));
            }
        })
    };
    // Each host thread runs whatever LibOS thread is ready, and looks again when none is.
    let (ended, end) = mpsc::channel();
    for tcs in 0..THREADS {
        let (mapped, ended, over) = (mapped.clone(), ended.clone(), over.clone());
        std::thread::spawn(move || {
            let descriptors = Descriptors::new(None);
            while !over.load(Ordering::Relaxed) {
                match mapped.run(tcs, enter::START, 0, &descriptors, None) {
                    End::Idle => {}
                    End::Refused(refused::NO_THREAD) => std::thread::sleep(Duration::from_millis(1)),
                    end => {
                        let _ = ended.send(end);
                        return;
                    }
                }
            }
        });
    }
    let end = end.recv_timeout(LIMIT);
    over.store(true, Ordering::Relaxed);
    edmm.join().unwrap();
    assert_eq!(end, Ok(End::PayloadExit(0)), "the payload's output tells which check failed");
    let counters = enclave.counters();
    assert!(counters.eenter > 0 && counters.eaug > 0, "{counters:?}");
}
