//! The roles, as the body of a zygote.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use teemate_abi::transition::{enter, refused};
use teemate_container::command::Command;
use teemate_container::zygote::{Body, Start};
use teemate_sgx::{Attachment, DeviceKind, Exit, Thread};

use crate::board::{Board, Guest, Stamp};
use crate::calls::Calls;
use crate::descriptors::{self, Descriptors, Service};
use crate::drive::{self, End, Left, Transition};
use crate::host::HostArea;
use crate::role::{self, DeviceName, Role, descriptor};
use crate::{reaper, service};

/// How long the node has to let a container in.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);
/// How long a container waits for its worker: the enclave may still be starting the thread that asked for it.
const WORKER_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two looks.
const WORKER_PAUSE: Duration = Duration::from_micros(50);
/// Message of the node to the zygote: map what the enclave has grown by, so that later containers need not.
pub const SYNC: &[u8] = b"sync";

/// An enclave as this process has it mapped.
pub struct Mapped {
    /// The mapping.
    pub attachment: Attachment,
    /// Shared with the node.
    pub board: Board,
    /// Shared with the enclave.
    pub host: HostArea,
}

impl Mapped {
    /// Maps it.
    pub fn new(kind: DeviceKind, tcs_count: u32, board: OwnedFd, enclave: Vec<OwnedFd>) -> Result<Mapped, String> {
        let board = Board::open(board).map_err(|error| format!("the board can't be mapped: {error}"))?;
        let attachment = Attachment::attach(kind, enclave).map_err(|error| error.to_string())?;
        // SAFETY: the attachment maps the host area with a slot for each TCS, for the rest of the process's life.
        let host = unsafe { HostArea::mapped(tcs_count) }.ok_or("there is no host area")?;
        Ok(Mapped { attachment, board, host })
    }

    /// Enters with this TCS for a reason, and stays until its end.
    pub fn run(&self, tcs: u32, reason: u64, argument: u64, descriptors: &Descriptors, broker: Option<BorrowedFd<'_>>) -> End {
        let Some(mailbox) = self.host.mailbox(tcs) else { return End::Device(format!("there is no TCS {tcs}")) };
        match self.attachment.thread(tcs) {
            Ok(thread) => {
                let calls = Calls { board: &self.board, host: self.host, descriptors, broker };
                drive::run(&mut Entering(thread), &calls, tcs, mailbox, reason, argument)
            }
            Err(error) => End::Device(error.to_string()),
        }
    }

    /// Brings the thread of a killed process on, and stays until its end. The board learns how it was found.
    pub fn take_over(&self, tcs: u32, descriptors: &Descriptors, broker: Option<BorrowedFd<'_>>) -> End {
        let Some(mailbox) = self.host.mailbox(tcs) else { return End::Device(format!("there is no TCS {tcs}")) };
        match self.attachment.thread(tcs) {
            Ok(thread) => {
                let calls = Calls { board: &self.board, host: self.host, descriptors, broker };
                drive::adopt(&mut Entering(thread), &calls, tcs, mailbox, |found| self.board.note_found(tcs, found)).0
            }
            Err(error) => End::Device(error.to_string()),
        }
    }
}

/// A device's thread, as [`drive`] wants it.
pub struct Entering<'a>(pub Thread<'a>);

impl Transition for Entering<'_> {
    fn enter(&mut self, reason: u64, a: u64, b: u64) -> Result<Left, String> {
        left(self.0.enter(reason, a, b))
    }
    fn resume(&mut self) -> Result<Left, String> {
        left(self.0.resume())
    }
    fn cssa(&self) -> Option<u32> {
        Some(self.0.state().cssa)
    }
}

fn left(exit: Result<Exit, teemate_sgx::Error>) -> Result<Left, String> {
    match exit {
        Ok(Exit::Exit { reason, argument }) => Ok(Left::Exit { reason, argument }),
        Ok(Exit::Exception { error, .. }) if error & teemate_sgx::EPC_FULL != 0 => Ok(Left::EpcFull),
        Ok(Exit::Exception { vector, error, address }) => Ok(Left::Exception { vector, error, address }),
        Ok(Exit::Interrupted) => Ok(Left::Interrupted),
        Err(teemate_sgx::Error::EpcFull { .. }) => Ok(Left::EpcFull),
        Err(error) => Err(error.to_string()),
    }
}

/// The body of every process that comes from this zygote.
#[derive(Default)]
pub struct Runner {
    /// Which device, if the zygote is to attach.
    pub device: Option<DeviceKind>,
    /// TCSs of its enclave.
    pub tcs_count: u32,
    mapped: Option<Mapped>,
}

impl Body for Runner {
    fn inherit(&mut self, descriptors: Vec<(String, OwnedFd)>) -> Result<(), String> {
        let Some(kind) = self.device else { return Ok(()) };
        let (mut board, mut enclave) = (None, Vec::new());
        for (name, fd) in descriptors {
            match name.strip_prefix(descriptor::ENCLAVE).map(str::parse::<usize>) {
                Some(Ok(index)) => enclave.push((index, fd)),
                _ if name == descriptor::BOARD => board = Some(fd),
                _ => return Err(format!("a descriptor has the unknown name {name:?}")),
            }
        }
        enclave.sort_by_key(|(index, _)| *index);
        let enclave = enclave.into_iter().map(|(_, fd)| fd).collect();
        self.mapped = Some(Mapped::new(kind, self.tcs_count, board.ok_or("the board's descriptor is missing")?, enclave)?);
        Ok(())
    }

    fn configure(&mut self, message: &[u8], _: Vec<OwnedFd>) -> Result<Vec<u8>, String> {
        match (message, &self.mapped) {
            (SYNC, Some(mapped)) => {
                mapped.attachment.sync();
                Ok(Vec::new())
            }
            _ => Err("the zygote knows no such message".to_owned()),
        }
    }

    fn run(&mut self, start: Start) -> i32 {
        let Some(role) = Role::decode(&start.payload) else {
            eprintln!("container {}: its role can't be read; build node and zygote from the same source", start.id);
            return role::EXIT_SETUP;
        };
        let result = match (role, &self.mapped) {
            (Role::Function { tcs, number, ahead }, Some(mapped)) => return function(mapped, tcs, number, ahead, start),
            (Role::Service { tcs, attach: None, broker, listener, life }, Some(mapped)) => {
                shared_service(mapped, &tcs, broker, listener, life, start.descriptors)
            }
            (Role::Service { tcs, attach: Some(device), broker, listener, .. }, _) => {
                own_enclave(device, &tcs, broker, listener, start.descriptors)
            }
            (Role::Reaper, Some(mapped)) => {
                first(start.descriptors).and_then(|(commands, rest)| Ok(reaper::serve(mapped, &commands, kick(rest)?)))
            }
            (Role::Native { slot, args, env, broker, listener }, _) => {
                native(slot, args, env, broker, listener, start.id, start.descriptors)
            }
            _ => Err("this zygote has no enclave".to_owned()),
        };
        result.unwrap_or_else(|message| {
            eprintln!("container {}: {message}", start.id);
            role::EXIT_SETUP
        })
    }
}

fn first(descriptors: Vec<OwnedFd>) -> Result<(OwnedFd, std::vec::IntoIter<OwnedFd>), String> {
    let mut descriptors = descriptors.into_iter();
    Ok((descriptors.next().ok_or("a descriptor is missing")?, descriptors))
}

/// What wakes the payload's waiting threads.
fn kick(mut descriptors: impl Iterator<Item = OwnedFd>) -> Result<OwnedFd, String> {
    descriptors.next().ok_or_else(|| "what wakes the payload's threads is missing".to_owned())
}

/// The descriptors that the payload's own process begins with; then the others.
fn service_of(descriptors: Vec<OwnedFd>, listener: bool) -> Result<(Service, std::vec::IntoIter<OwnedFd>), String> {
    let (channel, mut rest) = first(descriptors)?;
    let listener = if listener { Some(rest.next().ok_or("the listening socket is missing")?) } else { None };
    let service = Service::new(channel, listener).map_err(|error| format!("the payload's process can't be set up: {error}"))?;
    Ok((service, rest))
}

fn shared_service(
    mapped: &Mapped,
    tcs: &[u32],
    broker: bool,
    listener: bool,
    life: u32,
    mut descriptors: Vec<OwnedFd>,
) -> Result<i32, String> {
    let broker = if broker { descriptors.pop() } else { None };
    let (service, rest) = service_of(descriptors, listener)?;
    let kick = kick(rest)?;
    let takes_over = life > 0;
    if takes_over {
        mapped.attachment.sync();
        // Not before the guard has it: a kill in between would cost the enclave a thread.
        let first = tcs.first().ok_or("there is no TCS for the payload")?;
        if mapped.board.wait_for_leave(*first, life, Some(LEAVE_LIMIT)).is_none() {
            return Ok(role::EXIT_NO_LEAVE);
        }
    }
    let descriptors = Descriptors::of_service(service, kick, life);
    let broker = broker.as_ref().map(AsFd::as_fd);
    Ok(service::serve(service::Service { mapped, descriptors: &descriptors, broker, takes_over }, tcs))
}

/// Everything up to the wait may lie before the call. From there on every instruction is part of its latency.
fn function(mapped: &Mapped, tcs: u32, number: u32, ahead: bool, start: Start) -> i32 {
    mapped.attachment.sync();
    let mut given = start.descriptors.into_iter();
    let (Some(mailbox), Some(kick)) = (mapped.host.mailbox(tcs), given.next()) else { return role::EXIT_SETUP };
    let (descriptors, broker) = (Descriptors::of_container(kick), given.next());
    let mut thread = match mapped.attachment.thread(tcs) {
        Ok(thread) => Entering(thread),
        Err(error) => {
            eprintln!("container {}: {error}", start.id);
            return role::EXIT_SETUP;
        }
    };
    if ahead {
        thread.0.prefault();
    }
    mapped.board.stamp(tcs, Stamp::EnclaveMapped);
    let Some(Guest { container, broker: has_broker }) = mapped.board.wait_for_leave(tcs, number, (!ahead).then_some(LEAVE_LIMIT)) else {
        return role::EXIT_NO_LEAVE;
    };
    if container == 0 {
        return role::EXIT_IDLE;
    }
    mapped.board.stamp(tcs, Stamp::Entered);
    if ahead {
        mapped.attachment.sync();
    }
    let broker = broker.as_ref().filter(|_| has_broker).map(AsFd::as_fd);
    let calls = Calls { board: &mapped.board, host: mapped.host, descriptors: &descriptors, broker };
    let begun = Instant::now();
    let end = loop {
        let end = drive::run(&mut thread, &calls, tcs, mailbox, enter::CONTAINER, container);
        if end != End::Refused(refused::NO_WORKER) || begun.elapsed() > WORKER_LIMIT {
            break end;
        }
        std::thread::sleep(WORKER_PAUSE);
    };
    if end != End::Idle {
        eprintln!("container {container}: {end}");
    }
    end.status()
}

fn own_enclave(device: DeviceName, tcs: &[u32], broker: bool, listener: bool, mut descriptors: Vec<OwnedFd>) -> Result<i32, String> {
    let broker = if broker { descriptors.pop() } else { None };
    let (service, mut rest) = service_of(descriptors, listener)?;
    let board = rest.next().ok_or("the board's descriptor is missing")?;
    let kind = match device {
        DeviceName::Sgx => DeviceKind::Sgx,
        DeviceName::Simulator => DeviceKind::Simulator,
    };
    let tcs_count = tcs.iter().max().map_or(0, |last| last + 1);
    let mapped = Mapped::new(kind, tcs_count, board, rest.collect())?;
    let kick = descriptors::new_kick().map_err(|error| format!("the payload's process can't be set up: {error}"))?;
    mapped.board.stamp(0, Stamp::EnclaveMapped);
    mapped.board.stamp(0, Stamp::Entered);
    let descriptors = Descriptors::of_service(service, kick, 0);
    let broker = broker.as_ref().map(AsFd::as_fd);
    let service = service::Service { mapped: &mapped, descriptors: &descriptors, broker, takes_over: false };
    Ok(service::serve(service, tcs))
}

fn native(
    slot: u32,
    args: Vec<String>,
    env: Vec<String>,
    broker: bool,
    listener: bool,
    id: u64,
    mut descriptors: Vec<OwnedFd>,
) -> Result<i32, String> {
    let broker = if broker { descriptors.pop() } else { None };
    let (channel, mut rest) = first(descriptors)?;
    let listener = if listener { Some(rest.next().ok_or("the listening socket is missing")?) } else { None };
    let board = rest.next().ok_or("the board's descriptor is missing")?;
    let program = rest.next().ok_or("the program's descriptor is missing")?;
    let board = Board::open(board).map_err(|error| format!("the board can't be mapped: {error}"))?;
    let mut args = args.into_iter();
    let mut environment: Vec<(String, String)> =
        env.iter().filter_map(|entry| entry.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    // Descriptor 3 may be the program's: the payload is told the channel's own number instead.
    environment.push(("TEEMATE_SERVICE_FD".to_owned(), channel.as_raw_fd().to_string()));
    if let Some(listener) = &listener {
        environment.push(("TEEMATE_LISTEN_FD".to_owned(), listener.as_raw_fd().to_string()));
    }
    if let Some(broker) = &broker {
        environment.push(("TEEMATE_BROKER_FD".to_owned(), broker.as_raw_fd().to_string()));
    }
    let command = Command {
        program: args.next().unwrap_or_default(),
        arguments: args.collect(),
        environment,
        directory: None,
        from_descriptor: true,
    };
    let payload = command.to_payload().map_err(|error| error.to_string())?;
    board.stamp(slot, Stamp::Entered);
    drop(board);
    Ok(Command::execute(Start {
        id,
        payload,
        descriptors: [Some(channel), listener, broker, Some(program)].into_iter().flatten().collect(),
    }))
}
