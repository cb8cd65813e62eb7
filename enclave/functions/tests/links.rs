//! Calls that run in another enclave: two services in this process, and a host between them that carries, or lies.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use harness::{Node, failure, in_process, spec, text};
use proptest::prelude::*;
use teemate_control::function::{FailureKind, Kind, Outcome, Phase, Reuse};
use teemate_control::service::{FromService, LinkNews, LinkOrder, ToService};
use teemate_functions::handle::Handle;
use teemate_functions::jobs::Input;
use teemate_link::testing::FakePlatform;

const ECHO: &str = include_str!("../../../examples/functions/hello/echo.wat");
const LOOP: &str = include_str!("../../../examples/functions/misbehaving/loop.wat");
/// In the code, in the parameters, in the environment and so in the results: nothing that the host carries may contain it.
const CANARY: &str = "canary-5c1e7d";
const PATIENCE: Duration = Duration::from_secs(20);
/// The node's numbers for the enclaves.
const SERVING: u64 = 1;
const WORKER: u64 = 2;

/// An enclave, as its node has it.
struct Enclave {
    node: Node,
    enter: Sender<u64>,
    handle: Handle,
}

fn start(platform: FakePlatform) -> Enclave {
    let (node, enter, handle) = in_process(true, platform, None);
    Enclave { node, enter, handle }
}

impl Enclave {
    fn order(&mut self, peer: u64, link: LinkOrder) {
        self.node.send(&ToService::Link { peer, link });
    }

    fn deliver(&mut self, peer: u64, packet: &[u8]) {
        assert!(!packet.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()), "the host sees what it carries");
        self.order(peer, LinkOrder::Packet(packet.to_vec()));
    }

    fn news(&mut self) -> LinkNews {
        match self.node.receive_that(|message| matches!(message, FromService::Link { .. })) {
            FromService::Link { news, .. } => news,
            _ => unreachable!(),
        }
    }

    fn packet(&mut self) -> Vec<u8> {
        match self.news() {
            LinkNews::Packet(packet) => packet,
            other => panic!("no packet but {other:?}"),
        }
    }

    fn down(&mut self) -> String {
        match self.news() {
            LinkNews::Down(why) => why,
            other => panic!("not down but {other:?}"),
        }
    }

    fn need(&mut self) -> (u64, bool) {
        match self.node.receive_that(|message| matches!(message, FromService::NeedContainer { .. })) {
            FromService::NeedContainer { container, here, .. } => (container, here),
            _ => unreachable!(),
        }
    }

    fn elsewhere(&mut self, peer: u64) {
        let (container, _) = self.need();
        self.node.send(&ToService::Elsewhere { container, peer });
    }

    fn let_in(&mut self) -> u64 {
        let (container, _) = self.need();
        self.enter.send(container).unwrap();
        container
    }

    fn functions(&mut self) -> u64 {
        self.node.send(&ToService::Stats { request: 77 });
        match self.node.receive_that(|message| matches!(message, FromService::Stats { .. })) {
            FromService::Stats { functions, .. } => functions,
            _ => unreachable!(),
        }
    }

    /// A call of an owner.
    fn invoke(&self, name: &str, params: &str) -> (u64, Receiver<Outcome>) {
        let (sender, receiver) = channel();
        let input = Input { params: params.into(), env: vec![("__OW_KEY".into(), CANARY.into())] };
        (self.handle.invoke(name, input, Box::new(move |outcome| sender.send(outcome).unwrap())), receiver)
    }

    fn deploy(&self, name: &str, wat: &str, reuse: Reuse) {
        let (sender, receiver) = channel();
        let mut spec = spec(name, Kind::Wasm);
        spec.env = vec![("SECRET".into(), CANARY.into())];
        spec.reuse = reuse;
        self.handle.deploy(spec, wat::parse_str(wat).unwrap(), Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv_timeout(PATIENCE).unwrap().unwrap();
    }
}

/// Offer, answer, proof.
fn link(serving: &mut Enclave, peer: u64, worker: &mut Enclave) {
    serving.order(peer, LinkOrder::Open);
    worker.deliver(SERVING, &serving.packet());
    serving.deliver(peer, &worker.packet());
    worker.deliver(SERVING, &serving.packet());
    assert_eq!(serving.news(), LinkNews::Up);
}

fn two() -> (Enclave, Enclave) {
    let (mut serving, mut worker) = (start(FakePlatform::default()), start(FakePlatform::default()));
    link(&mut serving, WORKER, &mut worker);
    (serving, worker)
}

fn params(n: usize) -> String {
    format!("{{\"n\":{n},\"c\":\"{CANARY}\"}}")
}

fn lost(outcome: &Outcome) {
    let (kind, message) = failure(outcome);
    assert_eq!(kind, FailureKind::ContainerLost, "{message}");
    assert!(message.starts_with("its container was lost: "), "{message}");
}

#[test]
fn calls_go_there_and_outcomes_come_back() {
    let (mut serving, mut worker) = two();
    serving.deploy("f", ECHO, Reuse::Fresh);
    serving.node.deploy_wat("operators", ECHO).unwrap();
    for n in 0..6 {
        // An owner's and the operator's by turns.
        let (answer, request) = if n % 2 == 0 {
            (Some(serving.invoke("f", &params(n)).1), 0)
        } else {
            (None, serving.node.begin("operators", &params(n), false))
        };
        serving.elsewhere(WORKER);
        // Each function goes once, each call at its time.
        for _ in 0..if n < 2 { 2 } else { 1 } {
            let packet = serving.packet();
            worker.deliver(SERVING, &packet);
        }
        let container = worker.let_in();
        let back = worker.packet();
        serving.deliver(WORKER, &back);
        let outcome = match answer {
            Some(answer) => answer.recv_timeout(PATIENCE).unwrap(),
            None => serving.node.answer(request),
        };
        assert_eq!((text(&outcome), outcome.container), (params(n), container));
        assert!(outcome.usage.memory_peak > 0, "{:?}", outcome.usage);
        let phases: Vec<_> = outcome.marks.iter().map(|mark| mark.phase).collect();
        assert_eq!(phases, [Phase::Accepted, Phase::Entered, Phase::InstanceReady, Phase::Executed, Phase::Answered]);
    }
    assert_eq!((serving.functions(), worker.functions()), (2, 2));
    // The node can't name what was handed over, and what is forgotten here is forgotten there.
    for name in ["f", "operators", "1-1", "1-2"] {
        let request = worker.node.begin(name, "{}", false);
        assert_eq!(failure(&worker.node.answer(request)).0, FailureKind::Invalid);
    }
    serving.handle.delete("f");
    worker.deliver(SERVING, &serving.packet());
    assert_eq!(worker.functions(), 1);
    // One that is deployed anew is another function.
    serving.node.deploy_wat("operators", LOOP).unwrap();
    worker.deliver(SERVING, &serving.packet());
    assert_eq!(worker.functions(), 0);
}

#[test]
fn a_failure_there_is_the_calls_own() {
    let (mut serving, mut worker) = two();
    serving.deploy("trap", r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#, Reuse::Fresh);
    let (_, answer) = serving.invoke("trap", "{}");
    serving.elsewhere(WORKER);
    for _ in 0..2 {
        worker.deliver(SERVING, &serving.packet());
    }
    worker.let_in();
    let back = worker.packet();
    serving.deliver(WORKER, &back);
    assert_eq!(failure(&answer.recv_timeout(PATIENCE).unwrap()).0, FailureKind::Application);
    // A container that is lost there, before and at its call.
    serving.deploy("loop", LOOP, Reuse::Fresh);
    for entered in [false, true] {
        let (_, answer) = serving.invoke("loop", "{}");
        serving.elsewhere(WORKER);
        for _ in 0..if entered { 1 } else { 2 } {
            worker.deliver(SERVING, &serving.packet());
        }
        let (container, _) = worker.need();
        if entered {
            worker.enter.send(container).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        worker.node.send(&ToService::ContainerLost { container, reason: "killed".into() });
        let back = worker.packet();
        serving.deliver(WORKER, &back);
        lost(&answer.recv_timeout(PATIENCE).unwrap());
    }
}

#[test]
fn a_container_is_used_again_where_it_is() {
    if !teemate_functions::javascript::is_built() {
        println!("skipped: the JavaScript engine is not built (cargo xtask build)");
        return;
    }
    let (mut serving, mut worker) = two();
    let (sender, receiver) = channel();
    let mut kept = spec("count", Kind::JavaScript);
    kept.reuse = Reuse::Keep;
    let source = b"let n = 0; function main() { return { n: ++n } }".to_vec();
    serving.handle.deploy(kept, source, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(PATIENCE).unwrap().unwrap();
    let mut containers = Vec::new();
    for n in 1..=3 {
        let (_, answer) = serving.invoke("count", "{}");
        serving.elsewhere(WORKER);
        for _ in 0..if n == 1 { 2 } else { 1 } {
            worker.deliver(SERVING, &serving.packet());
        }
        if n == 1 {
            worker.let_in();
        }
        let back = worker.packet();
        serving.deliver(WORKER, &back);
        let outcome = answer.recv_timeout(PATIENCE).unwrap();
        assert_eq!(text(&outcome), format!("{{\"n\":{n}}}"));
        containers.push(outcome.container);
    }
    assert!(containers.iter().all(|container| *container == containers[0]));
    // A call that runs here finds nothing of theirs.
    let (_, answer) = serving.invoke("count", "{}");
    serving.let_in();
    assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), "{\"n\":1}");
}

#[test]
fn a_call_that_can_not_go_stays() {
    let (mut serving, mut worker) = two();
    serving.deploy("f", ECHO, Reuse::Fresh);
    // No such enclave.
    let (_, answer) = serving.invoke("f", &params(1));
    serving.elsewhere(99);
    let (container, here) = serving.need();
    assert!(here, "the node would send it there again");
    // Said again, and of a call that nobody made.
    serving.node.send(&ToService::Elsewhere { container: container + 1000, peer: WORKER });
    serving.enter.send(container).unwrap();
    assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), params(1));
    serving.node.send(&ToService::Elsewhere { container, peer: WORKER });
    // Sent twice: it goes once.
    let (_, answer) = serving.invoke("f", &params(2));
    let (container, _) = serving.need();
    for _ in 0..2 {
        serving.node.send(&ToService::Elsewhere { container, peer: WORKER });
    }
    for _ in 0..2 {
        worker.deliver(SERVING, &serving.packet());
    }
    worker.let_in();
    let back = worker.packet();
    serving.deliver(WORKER, &back);
    assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), params(2));
    // A worker that drains gets none.
    serving.order(WORKER, LinkOrder::Drain);
    assert!(serving.down().contains("answered"));
    let (_, answer) = serving.invoke("f", &params(3));
    serving.elsewhere(WORKER);
    let (container, here) = serving.need();
    assert!(here);
    serving.enter.send(container).unwrap();
    assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), params(3));
}

#[test]
fn draining_waits_for_the_last_answer() {
    let (mut serving, mut worker) = two();
    serving.deploy("f", ECHO, Reuse::Fresh);
    let (_, answer) = serving.invoke("f", &params(1));
    serving.elsewhere(WORKER);
    for _ in 0..2 {
        worker.deliver(SERVING, &serving.packet());
    }
    serving.order(WORKER, LinkOrder::Drain);
    worker.let_in();
    let back = worker.packet();
    assert!(answer.try_recv().is_err());
    serving.deliver(WORKER, &back);
    assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), params(1));
    assert!(serving.down().contains("answered"));
}

#[test]
fn a_call_that_is_given_up_is_answered_at_once() {
    let (mut serving, mut worker) = two();
    serving.deploy("loop", LOOP, Reuse::Fresh);
    let (call, answer) = serving.invoke("loop", "{}");
    serving.elsewhere(WORKER);
    for _ in 0..2 {
        worker.deliver(SERVING, &serving.packet());
    }
    worker.let_in();
    serving.handle.cancel(call);
    assert_eq!(failure(&answer.recv_timeout(PATIENCE).unwrap()).0, FailureKind::Limit);
    // The worker stops it, too, and what it says of it goes nowhere.
    worker.deliver(SERVING, &serving.packet());
    let back = worker.packet();
    serving.deliver(WORKER, &back);
    serving.order(WORKER, LinkOrder::Drain);
    assert!(serving.down().contains("answered"));
    assert!(answer.try_recv().is_err());
}

#[test]
fn a_worker_that_is_gone_has_lost_its_calls() {
    let (mut serving, mut worker) = two();
    serving.deploy("loop", LOOP, Reuse::Fresh);
    let answers: Vec<_> = (0..3)
        .map(|_| {
            let (_, answer) = serving.invoke("loop", "{}");
            serving.elsewhere(WORKER);
            answer
        })
        .collect();
    serving.order(WORKER, LinkOrder::Close("it was killed".into()));
    for answer in answers {
        let outcome = answer.recv_timeout(PATIENCE).unwrap();
        lost(&outcome);
        assert!(failure(&outcome).1.contains("it was killed"));
    }
    // A worker whose serving enclave is gone gives its calls up and forgets its functions.
    for _ in 0..4 {
        worker.deliver(SERVING, &serving.packet());
    }
    worker.let_in();
    worker.order(SERVING, LinkOrder::Close("gone".into()));
    let end = std::time::Instant::now() + PATIENCE;
    while worker.functions() != 0 {
        assert!(std::time::Instant::now() < end, "it keeps functions of nobody");
        std::thread::sleep(Duration::from_millis(10));
    }
    // And it can work for another.
    let mut other = start(FakePlatform::default());
    link(&mut other, WORKER, &mut worker);
}

#[test]
fn strangers_are_not_worked_with() {
    let strangers = [
        FakePlatform { mrenclave: [9; 32], ..FakePlatform::default() },
        FakePlatform { debug: true, ..FakePlatform::default() },
        FakePlatform { fuses: [9; 16], ..FakePlatform::default() },
    ];
    for stranger in strangers {
        let (mut serving, mut worker) = (start(FakePlatform::default()), start(stranger));
        serving.deploy("f", ECHO, Reuse::Fresh);
        serving.order(WORKER, LinkOrder::Open);
        worker.deliver(SERVING, &serving.packet());
        let answer = worker.packet();
        serving.deliver(WORKER, &answer);
        assert!(!serving.down().is_empty());
        // Nothing goes there, whatever the node says.
        let (_, answer) = serving.invoke("f", &params(1));
        serving.elsewhere(WORKER);
        let (container, here) = serving.need();
        assert!(here);
        serving.enter.send(container).unwrap();
        assert_eq!(text(&answer.recv_timeout(PATIENCE).unwrap()), params(1));
    }
}

#[test]
fn a_report_that_another_enclave_was_given_is_none() {
    // The host relays the answer that a worker gave to somebody else's offer.
    let (mut a, mut b, mut worker) = (start(FakePlatform::default()), start(FakePlatform::default()), start(FakePlatform::default()));
    a.order(WORKER, LinkOrder::Open);
    b.order(WORKER, LinkOrder::Open);
    let (_, for_b) = (a.packet(), b.packet());
    worker.deliver(SERVING, &for_b);
    let answer = worker.packet();
    a.deliver(WORKER, &answer);
    assert!(a.down().contains("report"));
    // And the enclave's own offer as its answer.
    a.order(WORKER, LinkOrder::Open);
    let offer = a.packet();
    a.deliver(WORKER, &offer);
    assert!(a.down().contains("belong"));
    // Before there is a link, nothing is heard.
    worker.deliver(55, &[4; 40]);
    assert!(worker.down().contains("belong"));
}

#[test]
fn packets_of_two_workers_that_are_swapped_end_both_links() {
    let (mut serving, mut worker) = two();
    let mut second = start(FakePlatform::default());
    link(&mut serving, 3, &mut second);
    serving.deploy("f", ECHO, Reuse::Fresh);
    let (_, one) = serving.invoke("f", &params(1));
    serving.elsewhere(WORKER);
    let for_first = [serving.packet(), serving.packet()];
    let (_, two) = serving.invoke("f", &params(2));
    serving.elsewhere(3);
    let for_second = [serving.packet(), serving.packet()];
    worker.deliver(SERVING, &for_second[0]);
    assert!(worker.down().contains("record"));
    for packet in &for_second {
        second.deliver(SERVING, packet);
    }
    second.let_in();
    let back = second.packet();
    // What the second says, in the first's name.
    serving.deliver(WORKER, &back);
    assert!(serving.down().contains("record"));
    lost(&one.recv_timeout(PATIENCE).unwrap());
    // The second's own link is as it was.
    assert!(two.try_recv().is_err());
    serving.deliver(3, &back);
    assert_eq!(text(&two.recv_timeout(PATIENCE).unwrap()), params(2));
    drop(for_first);
}

/// What the host does with the next packet between the two.
#[derive(Clone, Debug)]
enum Deed {
    Deliver,
    Drop,
    Again,
    Swap,
    Flip(usize, u8),
    Cut(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        12 => Just(Deed::Deliver),
        1 => Just(Deed::Drop),
        1 => Just(Deed::Again),
        1 => Just(Deed::Swap),
        1 => (any::<usize>(), 1u8..).prop_map(|(at, bits)| Deed::Flip(at, bits)),
        1 => any::<usize>().prop_map(Deed::Cut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Calls over a host that lies: each is answered once, and right or as lost. Nothing hangs once the host says that the worker is gone.
    #[test]
    fn each_call_is_right_or_lost(deeds in prop::collection::vec(deed(), 4..40), calls in 1usize..6) {
        let (mut serving, mut worker) = two();
        serving.deploy("f", ECHO, Reuse::Fresh);
        let answers: Vec<_> = (0..calls)
            .map(|n| {
                let answer = serving.invoke("f", &params(n)).1;
                serving.elsewhere(WORKER);
                answer
            })
            .collect();
        // All that the serving enclave says, and then all that comes back of it, through the host's hands.
        let mut there: VecDeque<_> = (0..=calls).map(|_| serving.packet()).collect();
        let mut deeds = deeds.into_iter().chain(std::iter::repeat(Deed::Deliver));
        let mut heard = 0;
        let mut intact = true;
        while let Some(packet) = there.pop_front() {
            let (packets, fair) = lie(deeds.next().unwrap(), packet, &mut there);
            for packet in packets {
                worker.deliver(SERVING, &packet);
            }
            intact &= fair;
            if !intact { break }
            heard += 1;
        }
        // The first packet is the function.
        let begun = if intact { calls } else { heard.max(1) - 1 };
        let mut back = VecDeque::new();
        if intact {
            for _ in 0..begun {
                worker.let_in();
            }
            back.extend((0..begun).map(|_| worker.packet()));
        }
        while let Some(packet) = back.pop_front() {
            let (packets, fair) = lie(deeds.next().unwrap(), packet, &mut back);
            for packet in packets {
                serving.deliver(WORKER, &packet);
            }
            if !fair { break }
        }
        serving.order(WORKER, LinkOrder::Close("the test is over".into()));
        for (n, answer) in answers.iter().enumerate() {
            let outcome = answer.recv_timeout(PATIENCE).unwrap();
            match &outcome.result {
                Ok(_) => prop_assert_eq!(text(&outcome), params(n)),
                Err(_) => lost(&outcome),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
        prop_assert!(answers.iter().all(|answer| answer.try_recv().is_err()), "answered twice");
    }
}

/// The packets that the host delivers in place of this one, and whether that is what it should.
fn lie(deed: Deed, packet: Vec<u8>, rest: &mut VecDeque<Vec<u8>>) -> (Vec<Vec<u8>>, bool) {
    match deed {
        Deed::Deliver => (vec![packet], true),
        Deed::Drop => (vec![], false),
        Deed::Again => (vec![packet.clone(), packet], false),
        Deed::Swap => match rest.pop_front() {
            Some(later) => (vec![later, packet], false),
            None => (vec![packet], true),
        },
        Deed::Flip(at, bits) => {
            let mut bad = packet;
            let at = at % bad.len();
            bad[at] ^= bits;
            (vec![bad], false)
        }
        Deed::Cut(at) => (vec![packet[..at % packet.len()].to_vec()], false),
    }
}
