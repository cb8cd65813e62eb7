//! The payload `teemate-database-enclave`: the database in an enclave. Serves the node on file descriptor 3 until the node hangs up.
#![allow(unsafe_code)]

#[path = "../allocator.rs"]
mod allocator;

use std::process::ExitCode;

use teemate_control::service::SERVICE_FD;
use teemate_database::payload;
use teemate_service::channel::Channel;

fn main() -> ExitCode {
    if !teemate_containers::in_enclave() {
        eprintln!("teemate-database-enclave: this is the payload of an enclave; outside of one run teemate-database");
        return ExitCode::FAILURE;
    }
    // An arena a thread would reserve 64 MiB of the enclave each.
    // SAFETY: called before there is another thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    match payload::serve(Channel(SERVICE_FD)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teemate-database: {error}");
            ExitCode::FAILURE
        }
    }
}
