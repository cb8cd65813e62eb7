//! The node's end of a function service: one for each process that runs the payload, whichever mode it is in.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, sockopt};
use teemate_control::PROTOCOL;
use teemate_control::function::{Failure, FailureKind, FunctionSpec, Outcome};
use teemate_control::packet::{Joiner, MAX_PACKET, cut};
use teemate_control::service::{Ask, FromService, KEEP_LIMIT_MS, LinkNews, Order, OrderDone, ToService};
use teemate_runner::board::now_ns;

use crate::error::{Error, Result};
use crate::locks::Lock;

/// How long the service may leave a packet unread.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How often a waiting call looks whether its caller is still there.
const LOOK: Duration = Duration::from_millis(200);

/// The longest time limit of a call.
const TIMEOUT_MAX_MS: u64 = 600_000;

/// A service's wish for a container.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Id that the enclave chose.
    pub container: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// What it may connect to.
    pub egress: Vec<String>,
    /// Whether it may use the data directory.
    pub data: bool,
    /// Function.
    pub function: String,
    /// Time limit of its call.
    pub timeout_ms: u64,
    /// For how long it may wait for further calls; 0: not at all.
    pub keep_ms: u64,
    /// Whether no other enclave will do.
    pub here: bool,
    /// When the node read it.
    pub at_ns: u64,
}

/// What a service wants of its node without having been asked.
#[derive(Debug)]
pub enum Demand {
    /// A container.
    Container(Wish),
    /// The container that it asked for under this id no more.
    Unneeded(u64),
    /// That a container may live for so long from now.
    Keep(u64, Duration),
    /// Something of the host, to be answered by [`ToService::Reply`].
    Question(u64, Ask),
    /// Something about its link to another enclave.
    Link(u64, LinkNews),
}

/// Answer to a request.
#[derive(Debug)]
enum Answer {
    Administered(OrderDone),
    Deployed { digest: [u8; 32], precompiled: Option<Vec<u8>> },
    Deleted,
    Done { outcome: Box<Outcome>, at_ns: u64 },
    Stats(Stats),
    Failed(Failure),
}

/// Counters of a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Functions deployed.
    pub functions: u64,
    /// Calls under way.
    pub running: u64,
    /// Workers that wait for a container.
    pub idle_workers: u64,
    /// Calls answered.
    pub answered: u64,
}

/// A service's channel. Requests may come from any thread.
pub struct Channel {
    socket: OwnedFd,
    packets: AtomicU64,
    requests: AtomicU64,
    waiting: Mutex<HashMap<u64, SyncSender<Answer>>>,
    closed: AtomicBool,
}

impl Channel {
    /// A channel, and the service's end of it.
    pub fn pair() -> Result<(Arc<Channel>, OwnedFd)> {
        let (ours, theirs) = socketpair_checked()?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Send, Some(SEND_LIMIT))
            .map_err(Error::system("set up the service's channel"))?;
        let channel = Channel {
            socket: ours,
            packets: AtomicU64::new(1),
            requests: AtomicU64::new(1),
            waiting: Mutex::new(HashMap::new()),
            closed: AtomicBool::new(false),
        };
        Ok((Arc::new(channel), theirs))
    }

    /// Says hello and waits until the service is ready. Before [`Channel::pump`].
    pub fn open(&self, limit: Duration) -> Result<()> {
        self.send(&ToService::Hello { protocol: PROTOCOL }).map_err(|failure| Error::Service(failure.message))?;
        let timeout = |limit| sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, limit);
        timeout(Some(limit)).map_err(Error::system("set up the service's channel"))?;
        let mut joiner = Joiner::default();
        let mut buffer = vec![0; MAX_PACKET];
        let message = loop {
            let length = match rustix::io::retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::empty())) {
                Ok((0, _)) => {
                    return Err(Error::Service(
                        "the function service ended before it was ready; the node's log has its last words".to_owned(),
                    ));
                }
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(Error::Service(format!("the function service was not ready within {} s", limit.as_secs())));
                }
                Err(error) => return Err(Error::system("read from the function service")(error)),
            };
            let packet = buffer.get(..length).unwrap_or_default();
            if let Some(message) = joiner.take::<FromService>(packet).map_err(|error| Error::Service(error.to_string()))? {
                break message;
            }
        };
        timeout(None).map_err(Error::system("set up the service's channel"))?;
        match message {
            FromService::Ready { protocol: PROTOCOL } => Ok(()),
            FromService::Ready { protocol } => Err(Error::Service(format!(
                "the function service speaks protocol {protocol}, this node {PROTOCOL}; build the image and the node from the same sources"
            ))),
            _ => Err(Error::Service("the function service's first message is not what it should be".to_owned())),
        }
    }

    /// Reads what the service sends until it is gone, then fails whoever waits. What it wants goes to `on_demand`.
    pub fn pump(&self, mut on_demand: impl FnMut(Demand)) {
        let mut joiner = Joiner::default();
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            let length = match rustix::io::retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::empty())) {
                Ok((0, _)) => break,
                Ok((length, _)) => length,
                Err(error) => {
                    tracing::warn!(%error, "the function service's channel broke");
                    break;
                }
            };
            let at_ns = now_ns();
            match joiner.take::<FromService>(buffer.get(..length).unwrap_or_default()) {
                Ok(None) => {}
                Ok(Some(message)) => self.dispatch(message, at_ns, &mut on_demand),
                Err(error) => {
                    tracing::error!(%error, "the function service sent what is no message; its channel is closed");
                    break;
                }
            }
        }
        self.close();
    }

    fn dispatch(&self, message: FromService, at_ns: u64, on_demand: &mut impl FnMut(Demand)) {
        match message {
            FromService::NeedContainer { container, memory, cpu_milli, egress, data, function, timeout_ms, keep_ms, here } => {
                let (timeout_ms, keep_ms) = (timeout_ms.min(TIMEOUT_MAX_MS), keep_ms.min(KEEP_LIMIT_MS));
                on_demand(Demand::Container(Wish {
                    container,
                    memory,
                    cpu_milli,
                    egress,
                    data,
                    function,
                    timeout_ms,
                    keep_ms,
                    here,
                    at_ns,
                }));
            }
            FromService::Unneeded { container } => on_demand(Demand::Unneeded(container)),
            FromService::KeepContainer { container, for_ms } => {
                on_demand(Demand::Keep(container, Duration::from_millis(for_ms.min(KEEP_LIMIT_MS))));
            }
            FromService::Ask { question, ask } => on_demand(Demand::Question(question, ask)),
            FromService::Link { peer, news } => on_demand(Demand::Link(peer, news)),
            FromService::Administered { request, done } => self.answer(request, Answer::Administered(done)),
            FromService::Done { request, outcome } => self.answer(request, Answer::Done { outcome: Box::new(outcome), at_ns }),
            FromService::Deployed { request, digest, precompiled } => self.answer(request, Answer::Deployed { digest, precompiled }),
            FromService::Deleted { request } => self.answer(request, Answer::Deleted),
            FromService::Failed { request, failure } => self.answer(request, Answer::Failed(failure)),
            FromService::Stats { request, functions, running, idle_workers, answered } => {
                self.answer(request, Answer::Stats(Stats { functions, running, idle_workers, answered }));
            }
            FromService::Ready { .. } => tracing::warn!("the function service said twice that it is ready"),
        }
    }

    fn answer(&self, request: u64, answer: Answer) {
        // Nobody waits for a call that was given up.
        if let Some(waiting) = self.waiting.locked().remove(&request) {
            let _ = waiting.try_send(answer);
        }
    }

    /// No request is taken any more; those that wait get an error; the other end reads its end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        self.waiting.locked().clear();
    }

    /// Whether the service is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Sends a message for which there is no answer.
    pub fn send(&self, message: &ToService) -> std::result::Result<(), Failure> {
        let internal = |error: String| Failure::new(FailureKind::Internal, error);
        let id = self.packets.fetch_add(1, Ordering::Relaxed);
        for packet in cut(id, message).map_err(|error| internal(error.to_string()))? {
            rustix::io::retry_on_intr(|| send(&self.socket, &packet, SendFlags::NOSIGNAL))
                .map_err(|error| internal(format!("the function service does not take requests: {error}")))?;
        }
        Ok(())
    }

    fn ask(
        &self,
        limit: Duration,
        given_up: &dyn Fn() -> bool,
        message: impl FnOnce(u64) -> ToService,
    ) -> std::result::Result<(u64, Answer), Failure> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        self.waiting.locked().insert(request, sender);
        // After the insertion, so that either `close` sees it or we see `closed`.
        if self.is_closed() {
            self.waiting.locked().remove(&request);
            return Err(gone());
        }
        let answer = self.send(&message(request)).and_then(|()| await_answer(&receiver, limit, given_up));
        self.waiting.locked().remove(&request);
        match answer {
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(answer) => Ok((request, answer)),
            Err(failure) => {
                let _ = self.send(&ToService::Cancel { request });
                Err(failure)
            }
        }
    }

    /// Deploys a function. Gives the digest that the service computed, and in native mode the compiled code.
    pub fn deploy(
        &self,
        spec: &FunctionSpec,
        code: Vec<u8>,
        precompiled: Option<Vec<u8>>,
        limit: Duration,
    ) -> std::result::Result<([u8; 32], Option<Vec<u8>>), Failure> {
        let message = |request| ToService::Deploy { request, spec: spec.clone(), code, precompiled };
        match self.ask(limit, &|| false, message)?.1 {
            Answer::Deployed { digest, precompiled } => Ok((digest, precompiled)),
            _ => Err(mixed_up()),
        }
    }

    /// Forgets a function.
    pub fn delete(&self, name: &str, limit: Duration) -> std::result::Result<(), Failure> {
        match self.ask(limit, &|| false, |request| ToService::Delete { request, name: name.to_owned() })?.1 {
            Answer::Deleted => Ok(()),
            _ => Err(mixed_up()),
        }
    }

    /// Calls a function. Gives its outcome, and when it was read.
    pub fn invoke(
        &self,
        name: &str,
        params: Vec<u8>,
        inline: bool,
        limit: Duration,
        given_up: &dyn Fn() -> bool,
    ) -> std::result::Result<(Outcome, u64), Failure> {
        let message = |request| ToService::Invoke { request, name: name.to_owned(), params, inline };
        match self.ask(limit, given_up, message)?.1 {
            Answer::Done { outcome, at_ns } => Ok((*outcome, at_ns)),
            _ => Err(mixed_up()),
        }
    }

    /// Has the gateway do something for the administrator.
    pub fn administer(&self, order: Order, limit: Duration) -> std::result::Result<OrderDone, Failure> {
        match self.ask(limit, &|| false, |request| ToService::Administer { request, order })?.1 {
            Answer::Administered(done) => Ok(done),
            _ => Err(mixed_up()),
        }
    }

    /// Asks for the service's counters.
    pub fn stats(&self, limit: Duration) -> std::result::Result<Stats, Failure> {
        match self.ask(limit, &|| false, |request| ToService::Stats { request })?.1 {
            Answer::Stats(stats) => Ok(stats),
            _ => Err(mixed_up()),
        }
    }
}

fn socketpair_checked() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Error::system("make the service's channel"))?;
    for end in [ours.as_fd(), theirs.as_fd()] {
        // Room for a few packets; the kernel cuts it to net.core.wmem_max, which is enough for one.
        let _ = sockopt::set_socket_send_buffer_size(end, 8 * MAX_PACKET);
    }
    Ok((ours, theirs))
}

fn await_answer(receiver: &Receiver<Answer>, limit: Duration, given_up: &dyn Fn() -> bool) -> std::result::Result<Answer, Failure> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = limit.as_secs_f32();
            let text = format!("no answer within {seconds:.1} s, the function's time limit and a margin; the call was given up");
            return Err(Failure::new(FailureKind::Limit, text));
        }
        match receiver.recv_timeout(left.min(LOOK)) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            Err(RecvTimeoutError::Timeout) if given_up() => {
                return Err(Failure::new(FailureKind::Internal, "the caller went away; the call was given up"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn gone() -> Failure {
    Failure::new(
        FailureKind::ContainerLost,
        "the function service ended while the call was under way; the same call may succeed in a moment",
    )
}

fn mixed_up() -> Failure {
    Failure::new(FailureKind::Internal, "the function service gave another kind of answer than was asked for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use teemate_control::function::Usage;

    /// A service that answers by itself.
    fn fake(
        theirs: OwnedFd,
        mut act: impl FnMut(ToService, &mut dyn FnMut(FromService)) -> bool + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let (mut joiner, mut buffer, mut id) = (Joiner::default(), vec![0; MAX_PACKET], 0);
            while let Ok((length, _)) = recv(&theirs, &mut buffer[..], RecvFlags::empty()) {
                if length == 0 {
                    return;
                }
                let Some(message) = joiner.take::<ToService>(&buffer[..length]).unwrap() else { continue };
                let mut say = |message: FromService| {
                    id += 1;
                    for packet in cut(id, &message).unwrap() {
                        let _ = send(&theirs, &packet, SendFlags::NOSIGNAL);
                    }
                };
                if !act(message, &mut say) {
                    return;
                }
            }
        })
    }

    fn outcome(text: &[u8]) -> Outcome {
        Outcome { result: Ok(text.to_vec()), logs: String::new(), usage: Usage::default(), container: 5, marks: vec![] }
    }

    #[test]
    fn calls_are_answered_lost_or_given_up() {
        let (channel, theirs) = Channel::pair().unwrap();
        let service = fake(theirs, |message, say| {
            match message {
                ToService::Hello { protocol } => say(FromService::Ready { protocol }),
                ToService::Invoke { request, name, params, .. } => match name.as_str() {
                    "echo" => {
                        let (egress, function) = (vec![], name);
                        say(FromService::NeedContainer {
                            container: 5,
                            memory: 1,
                            cpu_milli: 0,
                            egress,
                            data: false,
                            function,
                            timeout_ms: 1,
                            keep_ms: 0,
                            here: false,
                        });
                        say(FromService::Done { request, outcome: outcome(&params) });
                    }
                    "fail" => say(FromService::Failed { request, failure: Failure::new(FailureKind::Invalid, "no") }),
                    "silent" => {}
                    "other" => say(FromService::Deleted { request }),
                    _ => return false,
                },
                _ => {}
            }
            true
        });
        channel.open(Duration::from_secs(5)).unwrap();
        let pump = Arc::clone(&channel);
        let wishes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&wishes);
        let pump = std::thread::spawn(move || {
            pump.pump(|demand| {
                if let Demand::Container(wish) = demand {
                    seen.locked().push(wish.container);
                }
            });
        });
        let call = |name: &str, params: &[u8], limit: u64, given_up: bool| {
            channel.invoke(name, params.to_vec(), false, Duration::from_millis(limit), &|| given_up).map(|(outcome, _)| outcome.result)
        };
        let large = vec![7u8; 300_000];
        assert_eq!(call("echo", &large, 5000, false), Ok(Ok(large.clone())));
        assert_eq!(wishes.locked().as_slice(), [5]);
        assert_eq!(call("fail", b"", 5000, false).unwrap_err().kind, FailureKind::Invalid);
        assert_eq!(call("silent", b"", 10, false).unwrap_err().kind, FailureKind::Limit);
        assert!(call("silent", b"", 5000, true).unwrap_err().message.contains("caller"));
        assert_eq!(call("other", b"", 5000, false).unwrap_err().kind, FailureKind::Internal);
        assert_eq!(call("end", b"", 5000, false).unwrap_err().kind, FailureKind::ContainerLost);
        service.join().unwrap();
        pump.join().unwrap();
        assert!(channel.is_closed());
        assert_eq!(call("echo", b"", 5000, false).unwrap_err().kind, FailureKind::ContainerLost);
        assert!(channel.waiting.locked().is_empty());
    }

    #[test]
    fn a_service_that_does_not_come_up_is_named() {
        let (channel, theirs) = Channel::pair().unwrap();
        assert!(channel.open(Duration::from_millis(20)).unwrap_err().to_string().contains("not ready within"));
        drop(theirs);
        assert!(channel.open(Duration::from_secs(1)).is_err());
        let (channel, theirs) = Channel::pair().unwrap();
        let service = fake(theirs, |_, say| {
            say(FromService::Ready { protocol: 999 });
            false
        });
        assert!(channel.open(Duration::from_secs(5)).unwrap_err().to_string().contains("999"));
        service.join().unwrap();
    }

    #[test]
    fn noise_closes_the_channel() {
        let (channel, theirs) = Channel::pair().unwrap();
        let pump = Arc::clone(&channel);
        let pump = std::thread::spawn(move || pump.pump(|_| {}));
        send(&theirs, b"noise", SendFlags::empty()).unwrap();
        pump.join().unwrap();
        assert!(channel.is_closed());
    }
}
