//! The payload `teemate-functions`: serves the node on file descriptor 3 until the node hangs up.
//!
//! `TEEMATE_SERVICE_FD` names another descriptor, for tests.
#![allow(unsafe_code)]

use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::process::ExitCode;

use teemate_control::service::{LISTEN_FD, SERVICE_FD};
use teemate_functions::channel::Channel;
use teemate_functions::gateway;
use teemate_functions::service::{Enclave, serve};
use teemate_link::EnclavePlatform;

fn main() -> ExitCode {
    let inside = teemate_containers::in_enclave();
    if inside {
        // An arena a thread would reserve 64 MiB of the enclave each.
        // SAFETY: called before there is another thread.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
    let fd = std::env::var("TEEMATE_SERVICE_FD").ok().and_then(|text| text.parse().ok()).unwrap_or(SERVICE_FD);
    let start = |handle| if inside { gateway::start(handle, listener()).map(Some) } else { Ok(None) };
    match serve(Channel(fd), Box::new(Enclave), inside, Box::new(EnclavePlatform), start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teemate-functions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The socket that the node gave, or a number without a socket: then nothing serves at it, and the order to do so says that.
fn listener() -> TcpListener {
    // SAFETY: the number is the listener's by the protocol, and nothing else in this process has it; the standard library opens none
    // before `main` beyond the first three.
    unsafe { TcpListener::from_raw_fd(LISTEN_FD) }
}
