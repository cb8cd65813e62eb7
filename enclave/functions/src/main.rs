//! The payload `teemate-functions`: serves the node on file descriptor 3 until the node hangs up.
//!
//! `TEEMATE_SERVICE_FD` names another descriptor, for tests.
#![allow(unsafe_code)]

use std::process::ExitCode;

use teemate_control::service::SERVICE_FD;
use teemate_functions::channel::Channel;
use teemate_functions::service::{Enclave, serve};

fn main() -> ExitCode {
    let inside = teemate_containers::in_enclave();
    if inside {
        // An arena a thread would reserve 64 MiB of the enclave each.
        // SAFETY: called before there is another thread.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
    let fd = std::env::var("TEEMATE_SERVICE_FD").ok().and_then(|text| text.parse().ok()).unwrap_or(SERVICE_FD);
    match serve(Channel(fd), Box::new(Enclave), inside, |_| Ok(None)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teemate-functions: {error}");
            ExitCode::FAILURE
        }
    }
}
