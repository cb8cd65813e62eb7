//! The LibOS, from inside: an image with the payload of `tests/payload` runs in the simulator, in this process.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use teemate_abi::transition::{enter, refused};
use teemate_image::Image;
use teemate_runner::board::Board;
use teemate_runner::body::Mapped;
use teemate_runner::descriptors::{Descriptors, Service, new_kick};
use teemate_runner::drive::End;
use teemate_sgx::simulator::{Simulator, SimulatorOptions};
use teemate_sgx::{BuildOptions, Device, DeviceKind, Enclave};
use teemate_tests::{artifacts::Artifacts, skip};

/// Threads that the payload may have at one time.
const THREADS: u32 = 16;
/// Clients of its server that work at one time.
const CLIENTS: usize = 6;
/// Connections that only wait meanwhile.
const IDLE: usize = 300;
/// The longest that all its checks may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The clients of the payload's server: see `tests/payload/src/server.rs` for what they may ask.
fn use_the_server(address: SocketAddr) {
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    };
    let ask = |stream: &mut TcpStream, letter: u8, number: u64| {
        let mut request = vec![letter];
        request.extend(number.to_le_bytes());
        stream.write_all(&request).unwrap();
    };
    let answer = |stream: &mut TcpStream| {
        let mut number = [0; 8];
        stream.read_exact(&mut number).unwrap();
        u64::from_le_bytes(number)
    };

    let mut first = connect();
    let mut text = String::new();
    first.write_all(b"world").unwrap();
    first.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello, world");
    first.write_all(b"bye").unwrap();
    drop(first);

    let idle: Vec<TcpStream> = (0..IDLE).map(|_| connect()).collect();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut stream = connect();
            scope.spawn(move || {
                for round in 0..3 {
                    // More than all buffers on the way hold: both directions have to go on at once.
                    let length = 1_000_000 + client * 77_777 + round;
                    let sent: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(31) ^ client as u8).collect();
                    ask(&mut stream, b'e', length as u64);
                    let mut writer = stream.try_clone().unwrap();
                    let mut echoed = vec![0; length];
                    std::thread::scope(|scope| {
                        scope.spawn(|| writer.write_all(&sent).unwrap());
                        stream.read_exact(&mut echoed).unwrap();
                    });
                    assert!(echoed == sent, "client {client}: an echo of {length} bytes differs");
                    ask(&mut stream, b'b', 100);
                    assert_eq!(answer(&mut stream), 4950);
                    ask(&mut stream, b't', 5);
                    assert!(answer(&mut stream) >= 5, "a timer was early");
                }
                ask(&mut stream, b'd', 2_000_000);
                let mut data = vec![0; 2_000_000];
                stream.read_exact(&mut data).unwrap();
                let right = |at: usize| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
                assert!(data.iter().enumerate().all(|(at, byte)| *byte == right(at)), "client {client}: a transfer differs");
            });
        }
        // Gone in the middle of a request: nobody else's business.
        let mut rude = connect();
        ask(&mut rude, b'd', 5_000_000);
        drop(rude);
    });
    // Each of those that only waited still works, once.
    let mut seen = BTreeSet::new();
    for (number, mut stream) in idle.into_iter().enumerate() {
        ask(&mut stream, b'b', number as u64 % 3 + 1);
        seen.insert(answer(&mut stream));
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 3]));
    ask(&mut connect(), b'q', 0);
}

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

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (channel, _unused) = UnixStream::pair().unwrap();
    let descriptors =
        Arc::new(Descriptors::of_service(Service::new(channel.into(), Some(listener.into())).unwrap(), new_kick().unwrap(), 1));

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
        let (mapped, ended, over, descriptors) = (mapped.clone(), ended.clone(), over.clone(), descriptors.clone());
        std::thread::spawn(move || {
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
    let clients = std::thread::spawn(move || use_the_server(address));
    let end = end.recv_timeout(LIMIT);
    over.store(true, Ordering::Relaxed);
    edmm.join().unwrap();
    assert_eq!(end, Ok(End::PayloadExit(0)), "the payload's output tells which check failed");
    clients.join().unwrap();
    let counters = enclave.counters();
    assert!(counters.eenter > 0 && counters.eaug > 0, "{counters:?}");
}
