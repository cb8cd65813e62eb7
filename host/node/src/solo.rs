//! A payload of its own for one call: with an enclave that is built for it (exclusive), or without any (native).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use teemate_container::Filter;
use teemate_control::function::{Failure, FailureKind, Mark, Outcome, Phase};
use teemate_control::node::EnclaveInfo;
use teemate_control::service::{Reply, ToService};
use teemate_runner::board::{Board, now_ns};
use teemate_runner::role::Role;
use teemate_sgx::Enclave;

use crate::broker::Allowed;
use crate::channel::{Channel, Demand};
use crate::containers::{Kind, Nursery, Order, Process};
use crate::error::{Error, Result};
use crate::node::{Shop, add_phases};
use crate::shared::{LIFETIME_MARGIN, device_name, limits, not_up, reason, serve_edmm};
use crate::store::Function;
use crate::text::hex;

/// How long the payload has to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long it has to compile a function.
pub const DEPLOY_LIMIT: Duration = Duration::from_secs(120);
/// Memory of a payload beside the function's: the engine, and its compiled code.
const PAYLOAD_MEMORY: u64 = 1 << 30;

/// One payload in one container. Dropping it takes everything down, and waits for that.
pub struct Solo {
    process: Arc<Process>,
    channel: Arc<Channel>,
    enclave: Option<Arc<dyn Enclave>>,
    enclave_id: Option<u64>,
    board: Arc<Board>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    shop: Arc<Shop>,
}

impl Solo {
    /// An enclave of its own for the container.
    pub fn exclusive(shop: &Arc<Shop>, nursery: &Nursery, function: &Function, marks: Vec<Mark>) -> Result<Solo> {
        let requested = Mark { phase: Phase::ContainerRequested, at_ns: now_ns() };
        let image = shop.image()?;
        let enclave: Arc<dyn Enclave> = Arc::from(shop.build(&image)?);
        let board = Board::create().map_err(Error::system("make the memory shared with the container"))?;
        let descriptors = enclave.share()?;
        let role = Role::Service {
            tcs: (0..enclave.tcs_count()).collect(),
            attach: Some(device_name(&*enclave)),
            broker: has_egress(function),
            listener: false,
            life: 0,
        };
        let marks = [marks, vec![requested, Mark { phase: Phase::EnclaveReady, at_ns: now_ns() }]].concat();
        Solo::start(shop, nursery, function, role, Some(enclave), board, &descriptors, marks)
    }

    /// The payload as an ordinary program.
    pub fn native(shop: &Arc<Shop>, nursery: &Nursery, function: &Function, marks: Vec<Mark>) -> Result<Solo> {
        let requested = Mark { phase: Phase::ContainerRequested, at_ns: now_ns() };
        let path = &shop.config.native_payload;
        let program = std::fs::File::open(path).map_err(|source| {
            Error::Missing(format!(
                "native mode needs the payload as a program, and {} can't be opened ({source}); build it, or name it with --native-payload",
                path.display()
            ))
        })?;
        let board = Board::create().map_err(Error::system("make the memory shared with the container"))?;
        let role = Role::Native {
            slot: 0,
            args: vec!["teemate-functions".to_owned()],
            env: Vec::new(),
            broker: has_egress(function),
            listener: false,
        };
        let marks = [marks, vec![requested]].concat();
        Solo::start(shop, nursery, function, role, None, board, &[program.into()], marks)
    }

    #[allow(clippy::too_many_arguments)]
    fn start(
        shop: &Arc<Shop>,
        nursery: &Nursery,
        function: &Function,
        role: Role,
        enclave: Option<Arc<dyn Enclave>>,
        board: Board,
        descriptors: &[std::os::fd::OwnedFd],
        marks: Vec<Mark>,
    ) -> Result<Solo> {
        let board = Arc::new(board);
        let (channel, service_end) = Channel::pair()?;
        let enclave_id = enclave.is_some().then(|| shop.next_enclave());
        let mut body = vec![service_end.as_fd(), board.fd()];
        body.extend(descriptors.iter().map(AsFd::as_fd));
        let spec = &function.spec;
        let lifetime = BOOT_LIMIT + DEPLOY_LIMIT + Duration::from_millis(spec.limits.timeout_ms) + LIFETIME_MARGIN;
        let broker = has_egress(function)
            .then(|| crate::broker::serve(Allowed { egress: spec.egress.clone(), data: None }, Some(lifetime), false))
            .transpose()?;
        body.extend(broker.iter().map(AsFd::as_fd));
        let order = Order {
            id: shop.next_id(),
            kind: Kind::Function,
            role,
            function: Some(spec.name.clone()),
            enclave: enclave_id,
            lease: None,
            limits: teemate_container::cgroup::Limits {
                pids: Some(256),
                ..limits(spec.limits.memory.saturating_add(PAYLOAD_MEMORY), spec.limits.cpu_milli)
            },
            filter: Filter::None,
            root: function.root(),
            lifetime: Some(lifetime),
            body,
            board: Some((Arc::clone(&board), 0)),
            marks,
        };
        let process = shop.containers.start(nursery, order, Box::new(|_, _| {}))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let mut solo = Solo { process, channel, enclave, enclave_id, board, stopping, threads: Vec::new(), shop: Arc::clone(shop) };
        drop(service_end);
        if let (Some(enclave), Some(id)) = (&solo.enclave, enclave_id) {
            shop.solos(|rows| {
                rows.insert(id, Arc::clone(enclave));
            });
            let (board, enclave, stopping) = (Arc::clone(&solo.board), Arc::clone(enclave), Arc::clone(&solo.stopping));
            solo.thread("edmm", move || serve_edmm(&board, &*enclave, &stopping))?;
        }
        solo.channel.open(BOOT_LIMIT).map_err(|error| not_up(&solo.process, error))?;
        let channel = Arc::clone(&solo.channel);
        solo.thread("service", move || {
            channel.pump(|demand| match demand {
                Demand::Container(wish) => {
                    tracing::warn!(container = wish.container, "a payload of its own asked for a container; it gets none");
                }
                // It was told to call in its own process, where nothing waits.
                Demand::Unneeded(_) | Demand::Keep(..) | Demand::Link(..) => {}
                Demand::Question(question, _) => {
                    let reply = Reply::Failed("a payload of its own has no sealed store and no quotes".to_owned());
                    let _ = channel.send(&ToService::Reply { question, reply });
                }
            });
        })?;
        Ok(solo)
    }

    fn thread(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        self.threads.push(thread.map_err(Error::system(format!("start the thread {name:?}")))?);
        Ok(())
    }

    /// Gives the function to the payload; in native mode with the code that an earlier payload compiled.
    pub fn deploy(&self, function: &Function) -> std::result::Result<(), Failure> {
        let code = function.code().map_err(|error| error.failure())?;
        let native = self.enclave.is_none();
        let precompiled = if native { self.shop.precompiled(&function.digest) } else { None };
        let known = precompiled.is_some();
        let (digest, compiled) =
            self.channel.deploy(&function.spec, code, precompiled, DEPLOY_LIMIT).map_err(|failure| self.explain(failure))?;
        if digest != function.digest {
            let text = "the function service read another code than was sent";
            return Err(Failure::new(FailureKind::Internal, text));
        }
        if let (true, false, Some(compiled)) = (native, known, compiled) {
            self.shop.keep_precompiled(function.digest, compiled);
        }
        Ok(())
    }

    /// Calls the function in the payload's own container.
    pub fn invoke(
        &self,
        name: &str,
        params: Vec<u8>,
        limit: Duration,
        given_up: &dyn Fn() -> bool,
    ) -> std::result::Result<Outcome, Failure> {
        let result = self.channel.invoke(name, params, true, limit, given_up);
        let (mut outcome, returned_ns) = result.map_err(|failure| self.explain(failure))?;
        outcome.container = self.process.id();
        add_phases(&mut outcome.marks, self.process.marks());
        outcome.marks.push(Mark { phase: Phase::Returned, at_ns: returned_ns });
        Ok(outcome)
    }

    /// A failure for want of a service is one for want of its container: say what became of that.
    fn explain(&self, failure: Failure) -> Failure {
        if !self.channel.is_closed() {
            return failure;
        }
        self.process.wait(Duration::from_millis(500));
        match self.process.ended() {
            Some(ended) => Failure::new(FailureKind::ContainerLost, reason(&self.process, &ended)),
            None => failure,
        }
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.channel.close();
        self.board.ring();
        self.process.kill("its call is over");
        if !self.process.wait(Duration::from_secs(10)) {
            tracing::error!(pid = self.process.pid, "a container did not end within 10 s");
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(mark) = self.process.marks().iter().find(|mark| mark.phase == Phase::Reaped) {
            self.shop.history.reaped(self.process.function().as_deref(), self.process.id(), *mark);
        }
        if let Some(id) = self.enclave_id {
            self.shop.solos(|rows| {
                rows.remove(&id);
            });
        }
        if let Some(enclave) = &self.enclave {
            self.shop.account(&**enclave, &self.board);
        }
    }
}

/// Whether a function may connect anywhere.
fn has_egress(function: &Function) -> bool {
    !function.spec.egress.is_empty()
}

/// A row of `ps`.
pub fn row(id: u64, role: &str, enclave: &dyn Enclave, tcs_leased: u32) -> EnclaveInfo {
    let epc = enclave.epc();
    EnclaveInfo {
        id,
        role: role.to_owned(),
        mrenclave: hex(&enclave.mrenclave()),
        device: crate::device::name(enclave.kind()).to_owned(),
        tcs_total: enclave.tcs_count(),
        tcs_leased,
        epc_pages: epc.pages,
        epc_limit: epc.limit,
    }
}
