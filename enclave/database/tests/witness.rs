//! A real witness, a database in this process, and a host between them that lies: about the bytes it carries, and about what is on its
//! disk.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::machine::Machine;
use proptest::prelude::*;
use teemate_database::persistence::disk::Witness;
use teemate_database::persistence::guard::Reach;
use teemate_database::persistence::{self, Error};
use teemate_database::witness::{Dial, Remote, Wire};
use teemate_sealed::simulated::Disk;
use teemate_witness_server::{Identity, Memory, Server, memory};

const NAME: [u8; 16] = [7; 16];
const SECRET: [u8; 32] = [8; 32];
/// Every answer is covered by disk and witness.
const COVERED: &[(&str, &str)] = &[("appendonly", "yes"), ("appendfsync", "always"), ("witness-sync", "always")];
const SNAPSHOTS: &[(&str, &str)] = &[("appendonly", "no")];

/// What the host does to a connection to the witness.
#[derive(Clone, Debug, Default)]
enum Lie {
    /// Nothing: it carries the bytes.
    #[default]
    None,
    /// There is no way, and none any more.
    Refused,
    /// What the witness is told arrives, and its answer does not.
    Deaf,
    /// It leads to another server.
    Elsewhere(SocketAddr),
    /// After so many bytes from the witness nothing comes.
    Cut(usize),
    /// A byte of the witness's is another.
    Changed(usize),
    /// What the witness sent another time.
    Replayed(Arc<Vec<u8>>),
}

/// The host, between the two.
#[derive(Clone)]
struct Host {
    witness: Arc<Mutex<SocketAddr>>,
    lie: Arc<Mutex<Lie>>,
    /// What came from the witness, over all connections.
    seen: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

struct Carried {
    socket: TcpStream,
    host: Host,
    lie: Lie,
    at: usize,
}

impl Read for Carried {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if matches!(*self.host.lie.lock().unwrap(), Lie::Refused | Lie::Deaf) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if let Lie::Replayed(bytes) = &self.lie {
            let rest = &bytes[self.at.min(bytes.len())..];
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            self.at += count;
            return Ok(count);
        }
        let most = match self.lie {
            Lie::Cut(after) if self.at >= after => return Ok(0),
            Lie::Cut(after) => into.len().min(after - self.at),
            _ => into.len(),
        };
        let count = self.socket.read(&mut into[..most])?;
        self.host.seen.lock().unwrap().extend_from_slice(&into[..count]);
        if let Lie::Changed(place) = self.lie
            && (self.at..self.at + count).contains(&place)
        {
            into[place - self.at] ^= 1;
        }
        self.at += count;
        Ok(count)
    }
}

impl Write for Carried {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match *self.host.lie.lock().unwrap() {
            Lie::Refused => Err(io::ErrorKind::ConnectionReset.into()),
            _ => self.socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Carried {
    fn renew(&mut self, limit: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(limit.min(Duration::from_secs(2))))
    }
}

impl Host {
    fn new(witness: SocketAddr) -> Host {
        let (lie, seen, connections) = (Arc::default(), Arc::default(), Arc::default());
        Host { witness: Arc::new(Mutex::new(witness)), lie, seen, connections }
    }

    fn dial(&self) -> Dial {
        let host = self.clone();
        Arc::new(move |_, _| {
            let lie = host.lie.lock().unwrap().clone();
            let to = match lie {
                Lie::Refused => return Err(io::ErrorKind::ConnectionRefused.into()),
                Lie::Elsewhere(other) => other,
                _ => *host.witness.lock().unwrap(),
            };
            host.connections.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Carried { socket: TcpStream::connect(to)?, host: host.clone(), lie, at: 0 }) as Box<dyn Wire>)
        })
    }

    fn lies(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }
}

/// A witness in a directory; it ends with the process.
fn serve(directory: &Path) -> (SocketAddr, String) {
    let memory = Memory::open(directory).unwrap();
    let identity = Identity::open(directory, &["witness.example".to_owned()]).unwrap();
    let certificate = std::fs::read_to_string(identity.certificate()).unwrap();
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &identity, memory).unwrap();
    let address = server.address().unwrap();
    std::thread::spawn(move || server.serve(|_| {}));
    (address, certificate)
}

/// A witness, and a database that it has met.
struct World {
    directory: tempfile::TempDir,
    certificate: String,
    host: Host,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let (address, certificate) = serve(directory.path());
        let world = World { directory, certificate, host: Host::new(address) };
        world.remote(true).lock().unwrap().open(0).unwrap();
        world
    }

    fn remote(&self, new: bool) -> Witness {
        Arc::new(Mutex::new(Remote::new("https://witness.example", &self.certificate, (NAME, SECRET), new, self.host.dial()).unwrap()))
    }

    fn start(&self, disk: &Disk, settings: &[(&str, &str)]) -> Result<Machine, Error> {
        Machine::start(disk, settings, Some(self.remote(false)))
    }
}

/// Writes so that everybody may be told.
fn set(machine: &mut Machine, value: &str) {
    assert_eq!(machine.ask(&format!("SET key {value}")), "+OK|");
    assert!(machine.commit(), "{value}");
}

fn get(machine: &mut Machine) -> String {
    machine.ask("GET key")
}

/// Ends in order.
fn stop(mut machine: Machine) {
    persistence::close(&mut machine.store, &mut machine.shared).unwrap();
    persistence::end(&mut machine.shared);
}

fn refusal(started: Result<Machine, Error>) -> String {
    match started {
        Ok(_) => panic!("it was served"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn without_a_witness_the_old_state_is_served_and_with_one_it_is_refused() {
    for settings in [COVERED, SNAPSHOTS] {
        for watched in [false, true] {
            let (world, disk) = (World::new(), Disk::default());
            let start = || if watched { world.start(&disk, settings) } else { Machine::start(&disk, settings, None) };
            let mut machine = start().unwrap();
            set(&mut machine, "old");
            machine.ask("SAVE");
            stop(machine);
            let old = disk.content();
            let mut machine = start().unwrap();
            set(&mut machine, "new");
            machine.ask("SAVE");
            stop(machine);
            let new = disk.content();

            disk.put_back(old.clone());
            match start() {
                Ok(mut machine) => {
                    assert!(!watched, "{settings:?}");
                    assert_eq!(get(&mut machine), "$3|old|", "the control: nobody notices");
                }
                Err(error) => {
                    assert!(watched && error.to_string().contains("teemate witness accept"), "{error}");
                }
            }
            // Nothing at all.
            disk.names().iter().for_each(|name| disk.take(name));
            assert_eq!(start().is_err(), watched);
            disk.put_back(new);
            assert_eq!(get(&mut start().unwrap()), "$3|new|");
            if watched {
                // A backup that the owner means.
                disk.put_back(old);
                memory::accept(world.directory.path(), &NAME).unwrap();
                let mut machine = start().unwrap();
                assert_eq!(get(&mut machine), "$3|old|");
                set(&mut machine, "newest");
                stop(machine);
                assert_eq!(get(&mut start().unwrap()), "$6|newest|", "what was accepted goes on");
            }
        }
    }
}

#[test]
fn each_old_file_among_new_ones_is_noticed() {
    let (world, disk) = (World::new(), Disk::default());
    let mut machine = world.start(&disk, COVERED).unwrap();
    set(&mut machine, "old");
    assert_eq!(machine.ask("SAVE"), "+OK|");
    stop(machine);
    let (old, names) = (disk.content(), disk.names());
    let bytes: Vec<(String, Vec<u8>)> = names.into_iter().map(|name| (name.clone(), disk.bytes(&name))).collect();
    let mut machine = world.start(&disk, COVERED).unwrap();
    set(&mut machine, "new");
    assert!(machine.rewrite());
    set(&mut machine, "newer");
    assert_eq!(machine.ask("SAVE"), "+OK|");
    stop(machine);
    let new = disk.content();
    let mut tried = 0;
    for (name, bytes) in bytes {
        disk.put_back(new.clone());
        if disk.names().contains(&name) && disk.bytes(&name) != bytes {
            disk.set_bytes(&name, bytes);
            assert!(world.start(&disk, COVERED).is_err(), "{name}");
            tried += 1;
        }
    }
    assert!(tried >= 2, "{tried}");
    // A cut end of the log.
    disk.put_back(new.clone());
    let log = disk.names().into_iter().rfind(|name| name.ends_with(".log")).unwrap();
    let whole = disk.bytes(&log);
    for length in (58..whole.len()).step_by(3) {
        disk.set_bytes(&log, whole[..length].to_vec());
        assert!(world.start(&disk, COVERED).is_err(), "{length}");
    }
    disk.put_back(old);
    assert!(world.start(&disk, COVERED).is_err());
    disk.put_back(new);
    assert_eq!(get(&mut world.start(&disk, COVERED).unwrap()), "$5|newer|");
}

#[test]
fn what_was_answered_is_covered_wherever_it_ends() {
    // Kills at each operation of the disk: honest, so nothing is refused; and what was answered is there.
    for at in (0..120).step_by(2) {
        let (world, disk) = (World::new(), Disk::default());
        disk.crash_at(at, 100);
        let mut answered = 0;
        if let Ok(mut machine) = world.start(&disk, COVERED) {
            for number in 1..8 {
                let reply = machine.ask(&format!("SET key {number}"));
                if !machine.commit() || reply != "+OK|" {
                    break;
                }
                answered = number;
                if number == 4 {
                    machine.rewrite();
                }
            }
            machine.kill();
        }
        disk.cut_power(0, false);
        let mut machine = world.start(&disk, COVERED).unwrap_or_else(|error| panic!("end at {at}: {error}"));
        let found = get(&mut machine).split('|').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        assert!(found >= answered, "end at {at}: {found} of {answered}");
        machine.kill();
    }
}

#[test]
fn a_host_that_lies_about_the_witness_serves_nothing() {
    let (world, disk) = (World::new(), Disk::default());
    let mut machine = world.start(&disk, COVERED).unwrap();
    set(&mut machine, "old");
    stop(machine);
    let old = disk.content();
    // What the witness sent when this was the newest.
    world.host.seen.lock().unwrap().clear();
    stop(world.start(&disk, COVERED).unwrap());
    let sent = Arc::new(world.host.seen.lock().unwrap().clone());
    assert!(sent.len() > 500);
    let mut machine = world.start(&disk, COVERED).unwrap();
    set(&mut machine, "new");
    stop(machine);
    disk.put_back(old);

    let other = tempfile::tempdir().unwrap();
    let (elsewhere, _) = serve(other.path());
    let mut lies = vec![Lie::Refused, Lie::Elsewhere(elsewhere), Lie::Replayed(sent.clone()), Lie::Replayed(Arc::default())];
    lies.extend((0..sent.len()).step_by(97).map(Lie::Cut));
    for lie in lies {
        world.host.lies(lie.clone());
        let why = refusal(world.start(&disk, COVERED));
        assert!(why.contains("can't be asked") && why.contains("does not begin without it"), "{lie:?}: {why}");
    }
    for place in (0..sent.len()).step_by(61) {
        world.host.lies(Lie::Changed(place));
        // In what TLS does not look at nothing changes: then the old state is refused for what it is.
        let why = refusal(world.start(&disk, COVERED));
        assert!(why.contains("can't be asked") || why.contains("old state"), "{place}: {why}");
    }
    world.host.lies(Lie::None);
    assert!(refusal(world.start(&disk, COVERED)).contains("an old state was put back"));
}

#[test]
fn of_two_copies_one_goes_on() {
    let (world, one) = (World::new(), Disk::default());
    let mut first = world.start(&one, COVERED).unwrap();
    set(&mut first, "common");
    let two = Disk::default();
    two.put_back(one.content());
    let mut second = world.start(&two, COVERED).unwrap();
    assert_eq!(get(&mut second), "$6|common|");
    // The first may answer nobody any more who writes, and says why.
    first.ask("SET key first");
    assert!(!first.commit());
    assert!(first.shared.guard.left_behind().unwrap().contains("another enclave"), "{:?}", first.shared.guard);
    set(&mut second, "second");
    stop(second);
    first.kill();
    assert!(refusal(world.start(&one, COVERED)).contains("teemate witness accept"));
    assert_eq!(get(&mut world.start(&two, COVERED).unwrap()), "$6|second|");
}

#[test]
fn a_copy_that_was_cut_off_cannot_come_back() {
    for rewrites in [false, true] {
        let (world, one) = (World::new(), Disk::default());
        let settings = [COVERED, &[("witness-away", "continue")]].concat();
        let mut first = world.start(&one, &settings).unwrap();
        set(&mut first, "common");
        assert_eq!(first.ask("SAVE"), "+OK|");
        let two = Disk::default();
        two.put_back(one.content());
        // The host keeps the witness from the first, which goes on by its own, as its owner chose.
        world.host.lies(Lie::Refused);
        for number in 0..5 {
            set(&mut first, &number.to_string());
        }
        assert!(first.ask("INFO persistence").contains("rollback_witness_status:away"));
        if rewrites {
            assert!(first.rewrite());
            set(&mut first, "rewritten");
            first.ask("SAVE");
        }
        first.kill();
        world.host.lies(Lie::None);
        let mut second = world.start(&two, &settings).unwrap();
        set(&mut second, "second");
        assert_eq!(second.ask("SAVE"), "+OK|");
        stop(second);
        let why = refusal(world.start(&one, &settings));
        assert!(why.contains("old state"), "{rewrites}: {why}");
    }
}

#[test]
fn what_was_told_counts_though_the_answer_was_lost() {
    let (world, disk) = (World::new(), Disk::default());
    let mut machine = world.start(&disk, COVERED).unwrap();
    set(&mut machine, "told");
    let old = disk.content();
    world.host.lies(Lie::Deaf);
    machine.ask("SET key nearly");
    assert!(!machine.commit());
    machine.kill();
    world.host.lies(Lie::None);
    let new = disk.content();
    disk.put_back(old);
    assert!(refusal(world.start(&disk, COVERED)).contains("old state"));
    disk.put_back(new);
    assert_eq!(get(&mut world.start(&disk, COVERED).unwrap()), "$6|nearly|");
}

#[test]
fn who_waits_for_the_witness_is_not_answered_without_it() {
    let (world, disk) = (World::new(), Disk::default());
    let mut machine = world.start(&disk, COVERED).unwrap();
    set(&mut machine, "1");
    world.host.lies(Lie::Refused);
    machine.ask("SET key 2");
    assert!(!machine.commit(), "nobody is told");
    assert!(machine.ask("SET key 3").starts_with("-MISCONF The witness"));
    assert!(machine.ask("SAVE").contains("could not be told"));
    assert_eq!(get(&mut machine), "$1|2|");
    assert!(machine.commit(), "who reads is answered");
    let info = machine.ask("INFO persistence");
    assert!(info.contains("rollback_protection:witness") && info.contains("rollback_witness_status:away"), "{info}");
    world.host.lies(Lie::None);
    let end = Instant::now() + Duration::from_secs(20);
    while machine.ask("INFO persistence").contains("rollback_witness_status:away") {
        assert!(Instant::now() < end, "it does not come back");
        persistence::upkeep(&mut machine.store, &mut machine.shared);
        std::thread::sleep(Duration::from_millis(20));
    }
    set(&mut machine, "4");
    stop(machine);
    assert_eq!(get(&mut world.start(&disk, COVERED).unwrap()), "$1|4|");
}

#[test]
fn once_a_second_is_enough_for_who_says_so_and_a_turn_does_not_wait() {
    let (world, disk) = (World::new(), Disk::default());
    let settings = [("appendonly", "yes"), ("appendfsync", "always")];
    let mut machine = world.start(&disk, &settings).unwrap();
    let told = || memory::read(world.directory.path()).unwrap()[0].1.kept.last.and_then(|last| last.log).map_or(0, |log| log.frames);
    let began = Instant::now();
    let mut frames = 0;
    while began.elapsed() < Duration::from_millis(2500) {
        set(&mut machine, "x");
        frames += 1;
        persistence::upkeep(&mut machine.store, &mut machine.shared);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(told() > frames / 4 && told() <= frames, "{} of {frames}", told());
    stop(machine);
    assert_eq!(told(), frames, "at the end it knows the last");
    assert!(world.host.connections.load(Ordering::SeqCst) <= 3, "a connection is used again");
}

#[test]
fn a_connection_that_was_closed_is_replaced_and_costs_no_answer() {
    let (world, disk) = (World::new(), Disk::default());
    let mut machine = world.start(&disk, COVERED).unwrap();
    for number in 0..4 {
        set(&mut machine, &number.to_string());
        // Of each connection the host carries the handshake and a few answers.
        world.host.lies(Lie::Cut(1800));
    }
    world.host.lies(Lie::None);
    for number in 0..20 {
        set(&mut machine, &number.to_string());
    }
    stop(machine);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize),
    Write(usize),
    Save(usize),
    Rewrite(usize),
    Upkeep(usize),
    Stop(usize),
    Crash(usize),
    /// The host keeps a copy of a disk.
    Keep(usize),
    /// And puts it back, on whichever.
    PutBack(usize, usize),
    Carry,
    Refuse,
    Deafen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let of = || 0..2usize;
    let one = prop_oneof![
        4 => of().prop_map(Step::Start),
        6 => of().prop_map(Step::Write),
        1 => of().prop_map(Step::Save),
        2 => of().prop_map(Step::Rewrite),
        1 => of().prop_map(Step::Upkeep),
        1 => of().prop_map(Step::Stop),
        2 => of().prop_map(Step::Crash),
        3 => of().prop_map(Step::Keep),
        3 => (of(), 0..8usize).prop_map(|(disk, kept)| Step::PutBack(disk, kept)),
        3 => Just(Step::Carry),
        1 => Just(Step::Refuse),
        1 => Just(Step::Deafen),
    ];
    proptest::collection::vec(one, 10..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("TEEMATE_FULL").is_some() { 2000 } else { 60 }))]
    /// Two enclaves, and a host that copies disks, puts them back anywhere and at any time, runs both at once, and keeps the witness from
    /// them: whatever is served has everything that anybody was ever told was kept; unless the owner said that it may go on without.
    #[test]
    fn no_host_finds_a_way_back(steps in steps(), goes_on in any::<bool>()) {
        let world = World::new();
        let settings = [COVERED, &[("witness-away", if goes_on { "continue" } else { "refuse" })]].concat();
        let disks = [Disk::default(), Disk::default()];
        let mut machines: [Option<Machine>; 2] = [None, None];
        let (mut kept, mut number, mut answered) = (Vec::new(), 0u64, 0u64);
        for step in steps {
            match step {
                Step::Start(at) if machines[at].is_none() => {
                    if let Ok(mut machine) = world.start(&disks[at], &settings) {
                        let found = get(&mut machine).split('|').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
                        prop_assert!(found >= answered, "{} of {} on {}", found, answered, at);
                        machines[at] = Some(machine);
                    }
                }
                Step::Write(at) => {
                    if let Some(machine) = &mut machines[at] {
                        number += 1;
                        let said = machine.ask(&format!("SET key {number}"));
                        let told = machine.commit() && said == "+OK|" && machine.shared.guard.away().is_none();
                        if told && machine.shared.guard.left_behind().is_none() {
                            answered = number;
                        }
                    }
                }
                Step::Save(at) => drop(machines[at].as_mut().map(|machine| machine.ask("SAVE"))),
                Step::Rewrite(at) => drop(machines[at].as_mut().map(Machine::rewrite)),
                Step::Upkeep(at) => drop(machines[at].as_mut().map(|machine| persistence::upkeep(&mut machine.store, &mut machine.shared))),
                Step::Stop(at) => {
                    if let Some(mut machine) = machines[at].take() {
                        let _ = persistence::close(&mut machine.store, &mut machine.shared);
                        persistence::end(&mut machine.shared);
                    }
                }
                Step::Crash(at) => {
                    if let Some(machine) = machines[at].take() {
                        machine.kill();
                        disks[at].cut_power(0, false);
                    }
                }
                Step::Keep(at) => kept.push(disks[at].content()),
                Step::PutBack(at, which) if machines[at].is_none() && !kept.is_empty() => {
                    disks[at].put_back(kept[which % kept.len()].clone());
                }
                Step::Carry => world.host.lies(Lie::None),
                Step::Refuse => world.host.lies(Lie::Refused),
                Step::Deafen => world.host.lies(Lie::Deaf),
                Step::Start(_) | Step::PutBack(..) => {}
            }
            // A server ends when it learns that it was left behind.
            for machine in &mut machines {
                if machine.as_ref().is_some_and(|machine| machine.shared.guard.left_behind().is_some())
                    && let Some(machine) = machine.take()
                {
                    machine.kill();
                }
            }
        }
    }
}

/// Makes ways for CONFIG SET witness.
struct Ways(Host, Arc<AtomicUsize>);

impl Reach for Ways {
    fn reach(&self, address: &str, roots: &str, new: bool) -> Result<Witness, String> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Mutex::new(Remote::new(address, roots, (NAME, SECRET), new, self.0.dial())?)))
    }
}

#[test]
fn a_witness_is_met_while_the_database_runs_and_what_was_copied_before_does_not_count() {
    let directory = tempfile::tempdir().unwrap();
    let (address, certificate) = serve(directory.path());
    let host = Host::new(address);
    let disk = Disk::default();
    let settings = [("appendonly", "yes"), ("appendfsync", "always"), ("witness-sync", "always")];
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    assert!(machine.ask("CONFIG SET witness https://witness.example witness-ca x").contains("no way to a witness"));
    machine.shared.reach = Some(Box::new(Ways(host.clone(), Arc::default())));
    set(&mut machine, "before");
    assert!(machine.ask("INFO persistence").contains("rollback_protection:none"));
    // A copy that the host lets run for long, before there is a witness.
    let copy = Disk::default();
    copy.put_back(disk.content());
    let mut other = Machine::start(&copy, &settings, None).unwrap();
    for _ in 0..20 {
        set(&mut other, "copy");
        other.ask("SAVE");
        assert!(other.rewrite());
    }
    stop(other);

    let words: Vec<&[u8]> = vec![b"CONFIG", b"SET", b"witness", b"https://witness.example", b"witness-ca", certificate.as_bytes()];
    host.lies(Lie::Refused);
    assert!(machine.carry_out(&words).contains("can't be asked"));
    assert_eq!(machine.ask("CONFIG GET witness"), "*2|$7|witness|$0||");
    for bad in ["http://witness.example", "https://witness.example/path", "https://"] {
        let words: Vec<&[u8]> = vec![b"CONFIG", b"SET", b"witness", bad.as_bytes(), b"witness-ca", certificate.as_bytes()];
        assert!(machine.carry_out(&words).contains("argument 'witness'"), "{bad}");
    }
    host.lies(Lie::None);
    assert_eq!(machine.carry_out(&words), "+OK|");
    assert!(machine.ask("INFO persistence").contains("rollback_protection:witness"));
    assert!(machine.ask("TEEMATE.IDENTITY").contains("witness"));
    set(&mut machine, "after");
    machine.kill();

    let remote = || {
        Arc::new(Mutex::new(Remote::new("https://witness.example", &certificate, (NAME, SECRET), false, host.dial()).unwrap())) as Witness
    };
    let why = refusal(Machine::start(&copy, &settings, Some(remote())));
    assert!(why.contains("old state"), "{why}");
    let mut machine = Machine::start(&disk, &settings, Some(remote())).unwrap();
    assert_eq!(get(&mut machine), "$5|after|");
    // Its memory is gone: the database does not take that for a beginning.
    machine.kill();
    let empty = tempfile::tempdir().unwrap();
    std::fs::copy(directory.path().join("key.der"), empty.path().join("key.der")).unwrap();
    std::fs::copy(directory.path().join("certificate.pem"), empty.path().join("certificate.pem")).unwrap();
    let (address, _) = serve(empty.path());
    *host.witness.lock().unwrap() = address;
    assert!(refusal(Machine::start(&disk, &settings, Some(remote()))).contains("does not know this database"));
    memory::accept(empty.path(), &NAME).unwrap();
    assert_eq!(get(&mut Machine::start(&disk, &settings, Some(remote())).unwrap()), "$5|after|");
}

#[test]
fn a_log_that_failed_is_not_read_instead_of_the_snapshot_that_was_written_then() {
    use teemate_sealed::simulated::Kind;
    for watched in [false, true] {
        let (world, disk) = (World::new(), Disk::default());
        let start = || if watched { world.start(&disk, COVERED) } else { Machine::start(&disk, COVERED, None) };
        let mut machine = start().unwrap();
        set(&mut machine, "logged");
        disk.refuse(Some((Kind::Sync, io::ErrorKind::Other)));
        machine.ask("SET key lost");
        assert!(!machine.commit());
        disk.refuse(None);
        stop(machine);
        disk.cut_power(0, false);
        let mut machine = start().unwrap();
        assert_eq!(get(&mut machine), "$4|lost|", "what was in memory at the end, {watched}");
        assert_eq!(machine.started.from.as_deref(), Some("dump.rdb"));
        // From then on the log counts again.
        set(&mut machine, "again");
        machine.kill();
        disk.cut_power(0, false);
        let mut machine = start().unwrap();
        assert_eq!((get(&mut machine).as_str(), machine.started.from.as_deref()), ("$5|again|", Some("appendonly.aof")));
        machine.kill();
    }
}

#[test]
fn a_log_that_was_turned_off_and_on_is_not_read_before_it_has_everything() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, COVERED, None).unwrap();
    set(&mut machine, "logged");
    for (line, restarts) in [("CONFIG SET appendonly no", false), ("SET key later", false), ("SAVE", true)] {
        assert_eq!(machine.ask(line), "+OK|");
        machine.commit();
        if restarts {
            machine.kill();
            machine = Machine::start(&disk, SNAPSHOTS, None).unwrap();
        }
    }
    machine.ask("SET key latest");
    assert_eq!(machine.ask("SAVE"), "+OK|");
    // The end comes before its first base counts.
    assert_eq!(machine.ask("CONFIG SET appendonly yes"), "+OK|");
    machine.kill();
    let mut machine = Machine::start(&disk, COVERED, None).unwrap();
    assert_eq!(get(&mut machine), "$6|latest|");
    set(&mut machine, "again");
    machine.kill();
    assert_eq!(Machine::start(&disk, COVERED, None).unwrap().started.from.as_deref(), Some("appendonly.aof"));
}
