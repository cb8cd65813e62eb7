//! Names of numbers and cases, for logs and metrics.

use teemate_abi::ocall;
use teemate_control::function::Phase;
use teemate_control::node::Sharing;

/// Of a mode.
pub fn sharing(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Native => "native",
        Sharing::Exclusive => "exclusive",
        Sharing::Shared => "shared",
    }
}

/// Of a phase, as the protocol spells it.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Received => "received",
        Phase::Accepted => "accepted",
        Phase::ContainerRequested => "container_requested",
        Phase::TcsLeased => "tcs_leased",
        Phase::EnclaveReady => "enclave_ready",
        Phase::ProcessStarted => "process_started",
        Phase::ContainerReady => "container_ready",
        Phase::EnclaveMapped => "enclave_mapped",
        Phase::Entered => "entered",
        Phase::InstanceReady => "instance_ready",
        Phase::Executed => "executed",
        Phase::Answered => "answered",
        Phase::Returned => "returned",
        Phase::Reaped => "reaped",
        Phase::ContainerTaken => "container_taken",
    }
}

/// Of an OCALL.
pub fn ocall(number: usize) -> &'static str {
    match u32::try_from(number).unwrap_or(0) {
        ocall::PARK => "park",
        ocall::UNPARK => "unpark",
        ocall::SPAWN => "spawn",
        ocall::CLOCK => "clock",
        ocall::WRITE => "write",
        ocall::READ => "read",
        ocall::SEND => "send",
        ocall::RECV => "recv",
        ocall::CLOSE => "close",
        ocall::SHUTDOWN => "shutdown",
        ocall::POLL => "poll",
        ocall::CONNECT => "connect",
        ocall::READ_FILE => "read_file",
        ocall::EDMM => "edmm",
        ocall::PREFAULT => "prefault",
        ocall::SETSOCKOPT => "setsockopt",
        ocall::ACCEPT => "accept",
        ocall::EPOLL_CREATE => "epoll_create",
        ocall::EPOLL_CTL => "epoll_ctl",
        ocall::EPOLL_WAIT => "epoll_wait",
        ocall::KICK => "kick",
        ocall::SOCKET_NAME => "socket_name",
        ocall::SOCKET_ERROR => "socket_error",
        ocall::OPEN => "open",
        ocall::READ_AT => "read_at",
        ocall::WRITE_AT => "write_at",
        ocall::SYNC => "sync",
        ocall::TRUNCATE => "truncate",
        ocall::STATUS => "status",
        ocall::RENAME => "rename",
        ocall::REMOVE => "remove",
        ocall::TURN => "turn",
        _ => "unknown",
    }
}
