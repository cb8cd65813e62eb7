//! What each policy promises, on a disk that loses power, is full, or belongs to somebody who changes what is on it.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::machine::{Content, Machine, counter, read, storage};
use teemate_database::eviction::USED;
use teemate_database::persistence::import::{self, Answer, Kept, Report};
use teemate_database::persistence::{self, Error, rdb};
use teemate_database::replication::spool::{self, Spool};
use teemate_database::settings::Keep;
use teemate_sealed::simulated::{Disk, Kind};
use teemate_sealed::{Counter, Mark, Remembered, Version};

const ALWAYS: &[(&str, &str)] = &[("appendonly", "yes"), ("appendfsync", "always")];
const NO: &[(&str, &str)] = &[("appendonly", "yes"), ("appendfsync", "no")];

/// One turn's commands: several clients', one of them a transaction, all of which must be there or not.
fn turn(machine: &mut Machine, number: usize) {
    machine.ask(&format!("SET last {number}"));
    machine.ask(&format!("RPUSH all {number}"));
    machine.ask("MULTI");
    machine.ask("SELECT 1");
    machine.ask(&format!("SET left {number}"));
    machine.ask("SELECT 0");
    machine.ask(&format!("SET right {number} EX 1000000"));
    machine.ask("EXEC");
    machine.ask("DEL tmp");
}

/// Works until the disk ends. The states after each turn, how many of them were answered, and how many were on disk when they were.
fn work(machine: &mut Machine, from: usize) -> (Vec<Content>, usize, usize) {
    let (mut states, mut answered, mut synced) = (vec![machine.content()], 0, 0);
    for number in 1..14 {
        turn(machine, from + number);
        let done = machine.commit();
        states.push(machine.content());
        if !done {
            break;
        }
        answered = number;
        if machine.shared.config.hot.sync == persistence::log::Policy::Always {
            synced = number;
        }
        if number % 5 == 4 && machine.rewrite() {
            synced = number;
        }
    }
    (states, answered, synced)
}

#[test]
fn wherever_it_ends_what_was_answered_is_there() {
    let mut ends = 0;
    for settings in [ALWAYS, NO] {
        for power_cut in [false, true] {
            for (part, zeros) in [(0, false), (120, false), (120, true), (255, false)] {
                for at in (0..400).step_by(3) {
                    let disk = Disk::default();
                    disk.crash_at(at, part);
                    let (mut states, mut answered, mut synced) = (vec![Content::new()], 0, 0);
                    let ended = match Machine::start(&disk, settings, Some(counter(&disk))) {
                        Ok(mut machine) => {
                            (states, answered, synced) = work(&mut machine, 0);
                            let went_on = answered == 13;
                            machine.kill();
                            !went_on
                        }
                        Err(_) => true,
                    };
                    if !ended && disk.operations() <= at {
                        break;
                    }
                    ends += 1;
                    for again in 1..4 {
                        if power_cut {
                            disk.cut_power(part, zeros);
                        } else {
                            disk.restart();
                        }
                        let mut machine = Machine::start(&disk, settings, Some(counter(&disk)))
                            .unwrap_or_else(|error| panic!("{settings:?}, end at {at}, {part}, {power_cut}, {again}: {error}"));
                        let found = machine.content();
                        let least = if power_cut { synced } else { answered };
                        let which = states.iter().rposition(|state| *state == found);
                        assert!(
                            which.is_some_and(|which| which >= least),
                            "{settings:?}, end at {at}, {part}, {power_cut}: {which:?} of {least}"
                        );
                        disk.crash_at(disk.operations() + at % (11 + again), part);
                        (states, answered, synced) = work(&mut machine, 100 * again as usize);
                        machine.kill();
                    }
                }
            }
        }
    }
    assert!(ends > 300, "{ends}");
}

#[test]
fn everysec_loses_about_a_second_in_a_power_cut_and_nothing_in_a_kill() {
    let disk = Disk::default();
    let settings = [("appendonly", "yes"), ("appendfsync", "everysec")];
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    let (began, mut answered) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_millis(4500) {
        machine.ask(&format!("SET last {}", answered.len()));
        assert!(machine.commit());
        answered.push(Instant::now());
        persistence::upkeep(&mut machine.store, &mut machine.shared);
        std::thread::sleep(Duration::from_millis(5));
    }
    let end = Instant::now();
    machine.kill();
    let last = |disk: &Disk| {
        let mut machine = Machine::start(disk, &settings, None).unwrap();
        machine.ask("GET last").split('|').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let killed = Disk::default();
    killed.put_back(disk.content());
    assert_eq!(last(&killed), answered.len() - 1, "a kill loses nothing");
    disk.cut_power(0, false);
    let found = last(&disk);
    let lost = end - answered[found];
    // A second, the time until somebody looks, and what a busy machine adds.
    assert!(lost < Duration::from_millis(3000), "{lost:?} are lost");
}

#[test]
fn one_time_on_the_disk_serves_all_who_came_in_one_turn() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, ALWAYS, None).unwrap();
    machine.ask("SET a 0");
    machine.commit();
    let before = disk.operations();
    (0..1000).for_each(|n| drop(machine.ask(&format!("SET k{n} {n}"))));
    assert_eq!(disk.operations(), before, "nothing is written before the turn ends");
    assert!(machine.commit());
    assert_eq!(disk.operations(), before + 2, "one write, and once to the disk");
    assert!(machine.commit());
    assert_eq!(disk.operations(), before + 2);
    disk.cut_power(0, false);
    machine.kill();
    assert_eq!(Machine::start(&disk, ALWAYS, None).unwrap().content().len(), 1001);
}

/// A log with a base and frames after it, and what was in it after each turn.
fn good() -> (Disk, Vec<Content>) {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap();
    machine.ask("RPUSH all 0");
    machine.commit();
    assert!(machine.rewrite());
    let mut states = vec![machine.content()];
    for number in 1..5 {
        machine.ask(&format!("RPUSH all {number}"));
        assert!(machine.commit());
        states.push(machine.content());
    }
    persistence::end(&mut machine.shared);
    machine.kill();
    (disk, states)
}

#[test]
fn a_torn_end_is_cut_and_said_wherever_it_is() {
    let (disk, states) = good();
    let name = disk.names().into_iter().rfind(|name| name.ends_with(".log")).unwrap();
    let whole = disk.bytes(&name);
    let mut seen = std::collections::BTreeSet::new();
    for length in 0..whole.len() {
        disk.set_bytes(&name, whole[..length].to_vec());
        let mut machine = Machine::start(&disk, ALWAYS, None).unwrap();
        let found = machine.content();
        seen.insert(states.iter().position(|state| *state == found).unwrap());
        let torn = machine.started.torn.take();
        machine.kill();
        if let Some(torn) = torn {
            assert!(torn.contains(&name), "{torn}");
            // Who does not accept that is told.
            let strict = Machine::start(&disk, &[ALWAYS, &[("aof-load-truncated", "no")]].concat(), None);
            assert!(matches!(strict, Err(Error::Torn(_))));
        }
        // Who knows how far it had come is not deceived.
        assert!(
            matches!(Machine::start(&disk, ALWAYS, Some(counter(&disk))), Err(Error::Sealed(_) | Error::RolledBack { .. })),
            "{length}"
        );
    }
    assert_eq!(seen.len(), states.len() - 1);
}

#[test]
fn every_changed_bit_is_noticed() {
    let (disk, states) = good();
    let mut machine = Machine::start(&disk, ALWAYS, None).unwrap();
    machine.ask("SAVE");
    machine.kill();
    let whole = disk.content();
    let (mut errors, mut cut) = (0, 0);
    for name in disk.names().into_iter().filter(|name| name != "counter") {
        let genuine = disk.bytes(&name);
        let settings = if name == "dump.rdb" { &[("appendonly", "no")][..] } else { ALWAYS };
        for bit in (0..genuine.len() * 8).step_by(5) {
            let mut changed = genuine.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            disk.set_bytes(&name, changed);
            match Machine::start(&disk, settings, None) {
                Err(error) => {
                    errors += 1;
                    let text = error.to_string();
                    assert!(text.contains("appendonly.aof") || text.contains("dump.rdb"), "{text}");
                }
                Ok(mut machine) => {
                    assert!(states[..4].contains(&machine.content()), "{name}, bit {bit}");
                    cut += 1;
                }
            }
            if settings == ALWAYS {
                assert!(Machine::start(&disk, settings, Some(counter(&disk))).is_err(), "{name}, bit {bit}");
            }
            disk.put_back(whole.clone());
        }
    }
    assert!(errors > 300 && cut < errors / 10, "{errors} {cut}");
}

#[test]
fn what_is_put_back_or_exchanged_is_noticed_and_named() {
    let (disk, _) = good();
    let old = disk.content();
    let (old_bytes, names) = ((|name: &str| disk.bytes(name)), disk.names());
    let old_files: Vec<(String, Vec<u8>)> = names.iter().map(|name| (name.clone(), old_bytes(name))).collect();
    let mut machine = Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap();
    machine.ask("RPUSH all new");
    assert!(machine.commit());
    assert!(machine.rewrite());
    machine.ask("RPUSH all newer");
    assert!(machine.commit());
    persistence::end(&mut machine.shared);
    machine.kill();
    let new = disk.content();
    let start = |disk: &Disk| Machine::start(disk, ALWAYS, Some(counter(disk))).map(drop).map_err(|error| error.to_string());
    assert_eq!(start(&disk), Ok(()));
    disk.put_back(new.clone());

    // Everything of the log as it was, and only the counter as it is.
    let known = disk.bytes("counter");
    disk.put_back(old.clone());
    disk.set_bytes("counter", known.clone());
    let error = start(&disk).unwrap_err();
    assert!(error.contains("rolled back"), "{error}");
    // Nothing at all.
    disk.names().iter().filter(|name| *name != "counter").for_each(|name| disk.take(name));
    let error = start(&disk).unwrap_err();
    assert!(error.contains("rolled back"), "{error}");

    // Each file of the old state among those of the new one.
    for (name, bytes) in old_files.iter().filter(|(name, _)| name != "counter") {
        disk.put_back(new.clone());
        if disk.bytes(name) == *bytes || disk.bytes(name).is_empty() {
            continue;
        }
        disk.set_bytes(name, bytes.clone());
        assert!(start(&disk).is_err(), "{name} of another time");
    }
    // Any two exchanged; any one missing.
    disk.put_back(new.clone());
    let names = disk.names();
    for a in &names {
        for b in names.iter().filter(|b| *b > a) {
            disk.put_back(new.clone());
            let (first, second) = (disk.bytes(a), disk.bytes(b));
            disk.set_bytes(a, second);
            disk.set_bytes(b, first);
            assert!(start(&disk).is_err(), "{a} and {b} exchanged");
        }
        if a != "counter" {
            disk.put_back(new.clone());
            disk.take(a);
            assert!(start(&disk).is_err(), "{a} missing");
        }
    }
    // Another database's, under the same key.
    disk.put_back(new);
    let mut other = storage(&disk, None);
    other.database = "other".to_owned();
    assert!(Machine::start_at(1_700_000_000_000, other, ALWAYS).is_err());
}

#[test]
fn a_snapshot_of_another_name_or_form_does_not_open() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    machine.ask("SET canary-key canary-value");
    assert_eq!(machine.ask("SAVE"), "+OK|");
    let was = machine.content();
    machine.kill();
    let sealed = disk.bytes("dump.rdb");
    for word in [&b"canary"[..], b"REDIS"] {
        assert!(!sealed.windows(word.len()).any(|window| window == word), "it is not sealed");
    }
    assert_eq!(Machine::start(&disk, &[], None).unwrap().content(), was);
    disk.set_bytes("other.rdb", sealed.clone());
    assert!(Machine::start(&disk, &[("dbfilename", "other.rdb")], None).is_err());
    // Anybody can write a plain one.
    disk.set_bytes("dump.rdb", plain(&["SET canary-key canary-value"]));
    assert!(matches!(Machine::start(&disk, &[], None), Err(Error::Plain(_))));
    let mut lax = storage(&disk, None);
    lax.plain = true;
    assert_eq!(Machine::start_at(1_700_000_000_000, lax, &[]).unwrap().content(), was);
    // Cut at any place.
    for length in 0..sealed.len() {
        disk.set_bytes("dump.rdb", sealed[..length].to_vec());
        assert!(Machine::start(&disk, &[], None).is_err(), "{length} bytes of it");
    }
    let mut nothing = storage(&disk, None);
    nothing.key = None;
    disk.take("dump.rdb");
    let mut machine = Machine::start_at(1_700_000_000_000, nothing, &[]).unwrap();
    assert!(machine.ask("SAVE").contains("no sealing key"));
    assert!(machine.ask("CONFIG SET appendonly yes").contains("needs a sealing key"));
    assert_eq!(machine.ask("CONFIG GET appendonly"), "*2|$10|appendonly|$2|no|");
}

/// What a plain file of these commands has.
fn plain(lines: &[&str]) -> Vec<u8> {
    let mut machine = Machine::start(&Disk::default(), &[], None).unwrap();
    for line in lines {
        machine.ask(line);
    }
    let mut bytes = Vec::new();
    let libraries = machine.shared.libraries();
    rdb::write_store(&mut machine.store, &libraries, &mut bytes, "memory").unwrap();
    bytes
}

const VARIOUS: &[&str] = &["SET a 1 EX 1000", "HSET h f v", "XADD x 5-5 f v", "SELECT 2", "ZADD z 1.5 m", "DEBUG POPULATE 3000 key 40"];

/// One step of the import under way: what its client is told, if anything.
fn step(machine: &mut Machine) -> Option<Answer> {
    machine.store.walk();
    let answer = import::step(&mut machine.store, &mut machine.shared);
    machine.commit();
    answer.map(|(session, answer)| {
        assert_eq!(session, machine.session.id);
        answer
    })
}

/// Sends an import. How it ended.
fn send(machine: &mut Machine, bytes: &[u8], replace: bool) -> Result<Report, String> {
    let begin: &[&[u8]] = if replace { &[b"TEEMATE.IMPORT", b"BEGIN", b"REPLACE"] } else { &[b"TEEMATE.IMPORT", b"BEGIN"] };
    let reply = machine.carry_out(begin);
    if reply != "+OK|" {
        return Err(reply);
    }
    let mut pieces = bytes.chunks(7000);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let (last, reply) = match pieces.next() {
            Some(piece) => (false, machine.carry_out(&[b"TEEMATE.IMPORT", b"DATA", piece])),
            None => (true, machine.ask("TEEMATE.IMPORT COMMIT")),
        };
        assert_eq!(reply, "", "it is answered when there is room");
        loop {
            assert!(Instant::now() < end, "the import does not end");
            match step(machine) {
                Some(Answer::Taken) => break,
                Some(Answer::Done(report)) => return Ok(report),
                Some(Answer::Failed(why)) => return Err(why),
                // Its thread is at work.
                None => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        assert!(!last);
    }
}

#[test]
fn an_import_is_all_or_nothing() {
    let file = plain(VARIOUS);
    let mut machine = Machine::start(&Disk::default(), &[], None).unwrap();
    let report = send(&mut machine, &file, false).unwrap();
    assert_eq!((report.keys, report.expired, report.kept), (3004, 0, Kept::Memory));
    assert_eq!(machine.content(), read(&file));
    // It is not empty any more.
    let other = plain(&["SET other 1", "SET over 1 PX 5"]);
    assert!(send(&mut machine, &other, false).unwrap_err().contains("only if it is told so"));
    assert_eq!(machine.content(), read(&file));
    // What is not whole, or not one, changes nothing.
    let mut longer = other.clone();
    longer.push(0);
    let mut changed = other.clone();
    changed[other.len() / 2] ^= 1;
    let beyond = rdb_of(9, b"key");
    for bad in [&other[..other.len() - 1], &longer, &changed, &beyond, b"REDIS0010", b""] {
        assert!(send(&mut machine, bad, true).is_err());
        assert_eq!(machine.content(), read(&file));
        assert!(machine.shared.import.is_none());
    }
    // Who watches a key, or waits for one, sees that it is another.
    let version = machine.store.watch(0, b"a");
    machine.store.now += 100;
    let report = send(&mut machine, &other, true).unwrap();
    assert_eq!((report.keys, report.expired), (1, 1));
    assert!(machine.store.unwatch(0, b"a", version));
    assert_eq!(machine.ask("GET other") + &machine.ask("DBSIZE"), "$1|1|:1|");
    // There is one at a time, and it goes with who began it.
    machine.ask("TEEMATE.IMPORT BEGIN REPLACE");
    assert!(machine.ask("TEEMATE.IMPORT BEGIN REPLACE").starts_with("-BUSY"));
    machine.session.id += 1;
    assert!(machine.ask("TEEMATE.IMPORT COMMIT").contains("no import of this connection"));
    machine.session.id -= 1;
    assert_eq!(machine.ask("TEEMATE.IMPORT ABORT"), "+OK|");
    assert!(machine.ask("TEEMATE.IMPORT DATA x").contains("no import of this connection"));
}

/// One key in a database.
fn rdb_of(database: usize, key: &[u8]) -> Vec<u8> {
    let mut writer = teemate_rdb::Writer::new(Vec::new()).unwrap();
    writer.text(database, key, None, b"value").unwrap();
    writer.finish().unwrap().1
}

#[test]
fn an_import_keeps_within_the_memory_there_is() {
    let mut machine = Machine::start(&Disk::default(), &[("maxmemory", "1mb"), ("maxmemory-policy", "allkeys-lru")], None).unwrap();
    machine.ask("SET a 1");
    // Nobody counts here but who is told to.
    USED.store(2 << 20, std::sync::atomic::Ordering::Relaxed);
    let why = send(&mut machine, &plain(VARIOUS), true).unwrap_err();
    USED.store(0, std::sync::atomic::Ordering::Relaxed);
    assert!(why.starts_with("OOM"), "{why}");
    assert_eq!(machine.ask("GET a"), "$1|1|", "nothing went for it");
}

#[test]
fn an_import_is_kept_as_the_settings_promise() {
    let file = plain(VARIOUS);
    for (settings, kept) in [(ALWAYS, Kept::Log), (NO, Kept::Log), (&[("save", "3600 1")][..], Kept::Snapshot)] {
        let mut at = 0;
        loop {
            // The machine ends at one of the disk's operations, one after the other.
            let disk = Disk::default();
            let mut machine = Machine::start(&disk, settings, None).unwrap();
            for line in ["SET old 1", "RPUSH list a b"] {
                machine.ask(line);
            }
            if kept == Kept::Snapshot {
                machine.ask("SAVE");
            }
            assert!(machine.commit() && machine.shared.log.sync().is_ok());
            let was = machine.content();
            disk.crash_at(disk.operations() + at, 100);
            let answer = send(&mut machine, &file, true);
            let is_whole = answer.as_ref().is_ok_and(|report| report.kept == kept);
            if !is_whole && settings == ALWAYS {
                // What would not be in the log is not done.
                assert!(machine.ask("SET late 1").starts_with("-MISCONF"), "end at {at}: {answer:?}");
            }
            machine.kill();
            disk.cut_power(100, false);
            let is = Machine::start(&disk, settings, None).unwrap_or_else(|error| panic!("end at {at}: {error}")).content();
            if is_whole {
                assert_eq!(is, read(&file), "{settings:?}: answered at {at}");
                break;
            }
            assert!(is == was || is == read(&file), "{settings:?}: half of it at {at}");
            at += 1;
        }
        println!("{settings:?}: {at} ends");
        assert!(at > 3);
    }
}

#[test]
fn what_comes_after_an_import_is_in_the_log_behind_it() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, ALWAYS, None).unwrap();
    machine.ask("RPUSH list old");
    machine.commit();
    send(&mut machine, &plain(&["RPUSH list new"]), true).unwrap();
    assert_eq!(machine.ask("RPUSH list newer"), ":2|");
    assert!(machine.commit());
    let was = machine.content();
    machine.kill();
    disk.cut_power(255, false);
    assert_eq!(Machine::start(&disk, ALWAYS, None).unwrap().content(), was);
}

/// The host has the file that a replica's snapshot lies in.
#[test]
fn a_replica_gets_the_snapshot_that_was_written_for_it_or_none() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    let mut write = |lines: &[&str]| {
        lines.iter().for_each(|line| drop(machine.ask(line)));
        assert!(persistence::begin_for_replicas(&mut machine.store, &mut machine.shared).unwrap());
        persistence::finish(&mut machine.store, &mut machine.shared);
        (machine.shared.replication.take_saved().unwrap().unwrap(), machine.content())
    };
    let get = |spool: &Arc<Spool>| -> Result<Vec<u8>, String> {
        let pieces = spool::read(spool.clone()).unwrap();
        let mut all = Vec::new();
        for piece in pieces {
            all.extend(piece?);
        }
        Ok(all)
    };
    let (first, _) = write(VARIOUS);
    let old = disk.bytes("replica-0.rdb");
    assert!(!old.windows(5).any(|window| window == b"REDIS"), "it is not sealed");
    drop(first);
    assert!(!disk.names().contains(&"replica-0.rdb".to_owned()), "nobody gets it any more");
    let (spool, was) = write(&["SET newer 1"]);
    assert_eq!(read(&get(&spool).unwrap()), was);
    let (second, _) = write(&["SET newest 1"]);
    assert!(disk.names().contains(&"replica-1.rdb".to_owned()), "the first is in use");
    let (new, other) = (disk.bytes("replica-0.rdb"), disk.bytes("replica-1.rdb"));
    drop(second);
    let mut changed = new.clone();
    changed[new.len() / 2] ^= 1;
    // One of an earlier time, one of another time, a changed one, a part of it.
    for lie in [&old, &other, &changed, &new[..new.len() - 1].to_vec(), &Vec::new()] {
        disk.set_bytes("replica-0.rdb", lie.clone());
        assert!(get(&spool).is_err());
    }
    disk.take("replica-0.rdb");
    assert!(get(&spool).is_err());
    disk.set_bytes("replica-0.rdb", new);
    assert_eq!(read(&get(&spool).unwrap()), was);
    // What a crash leaves goes with the next start.
    machine.kill();
    drop(Machine::start(&disk, &[], None).unwrap());
    assert!(!disk.names().contains(&"replica-0.rdb".to_owned()));
}

#[test]
fn until_the_first_base_counts_there_is_no_log_that_could_be_taken_for_all() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    machine.ask("DEBUG POPULATE 100");
    machine.ask("SAVE");
    let was = machine.content();
    machine.kill();
    let saved = disk.content();
    let mut at = 0;
    loop {
        disk.put_back(saved.clone());
        disk.crash_at(disk.operations() + at, 100);
        let started = Machine::start(&disk, ALWAYS, Some(counter(&disk)));
        let whole = started.is_ok();
        if let Ok(machine) = started {
            machine.kill();
        }
        disk.cut_power(100, false);
        let mut machine = Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap_or_else(|error| panic!("end at {at}: {error}"));
        assert_eq!(machine.content(), was, "end at {at}");
        machine.kill();
        if whole && at > 20 {
            break;
        }
        at += 1;
        assert!(at < 200);
    }
}

#[test]
fn a_start_without_a_write_leaves_nothing_that_the_next_start_could_miss() {
    let disk = Disk::default();
    for round in 0..3 {
        let mut machine = Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap();
        machine.commit();
        for _ in 0..5 {
            persistence::upkeep(&mut machine.store, &mut machine.shared);
            std::thread::sleep(Duration::from_millis(5));
        }
        persistence::end(&mut machine.shared);
        machine.kill();
        assert!(disk.names().iter().all(|name| name == "counter"), "round {round}: {:?}", disk.names());
    }
    let mut machine = Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap();
    let before = disk.bytes("counter");
    machine.ask("SET a 1");
    assert!(machine.commit());
    persistence::upkeep(&mut machine.store, &mut machine.shared);
    machine.kill();
    let end = Instant::now() + Duration::from_secs(10);
    while disk.bytes("counter") == before {
        assert!(Instant::now() < end, "nobody was told");
        std::thread::sleep(Duration::from_millis(5));
    }
    Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap();
}

/// One that can't be reached.
struct Gone;

impl Counter for Gone {
    fn open(&mut self, above: u64) -> Result<Remembered, teemate_sealed::Error> {
        Ok(Remembered { epoch: above + 1, last: None })
    }

    fn remember(&mut self, _: &Mark) -> Result<(), teemate_sealed::Error> {
        std::thread::sleep(Duration::from_millis(1500));
        Err(teemate_sealed::Error::Counter("nobody answers".to_owned()))
    }

    fn name(&self) -> &'static str {
        "gone"
    }
}

#[test]
fn a_witness_that_does_not_answer_keeps_nothing_from_the_disk() {
    let disk = Disk::default();
    let settings = [("appendonly", "yes"), ("appendfsync", "everysec"), ("witness-away", "continue")];
    let mut machine = Machine::start(&disk, &settings, Some(Arc::new(Mutex::new(Gone)))).unwrap();
    let end = Instant::now() + Duration::from_millis(3500);
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        machine.ask(&format!("SET a {number}"));
        assert!(machine.commit());
        persistence::upkeep(&mut machine.store, &mut machine.shared);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(machine.ask("INFO persistence").contains("rollback_witness_status:away"));
    machine.kill();
    disk.cut_power(0, false);
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    let found: u64 = machine.ask("GET a").split('|').nth(1).unwrap().parse().unwrap();
    assert!(found > number / 4, "{found} of {number}");
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    for settings in [ALWAYS, NO] {
        let disk = Disk::default();
        let mut machine = Machine::start(&disk, settings, None).unwrap();
        machine.ask("SET a 1");
        assert!(machine.commit());
        disk.refuse(Some((Kind::Write, std::io::ErrorKind::StorageFull)));
        machine.ask("SET a 2");
        assert!(!machine.commit(), "nobody is told that it is kept");
        assert!(machine.ask("SET a 3").starts_with("-MISCONF Errors writing to the AOF file"));
        assert!(machine.ask("INFO persistence").contains("aof_last_write_status:err"));
        assert!(machine.ask("GET a").contains('2'));
        assert!(machine.commit(), "who reads is answered");
        disk.refuse(None);
        std::thread::sleep(Duration::from_millis(1100));
        assert!(machine.commit());
        assert_eq!(machine.ask("SET a 4"), "+OK|");
        assert!(machine.commit());
        assert!(machine.ask("INFO persistence").contains("aof_last_write_status:ok"));
        let was = machine.content();
        machine.kill();
        assert_eq!(Machine::start(&disk, settings, None).unwrap().content(), was);
    }
}

#[test]
fn a_disk_that_fails_to_keep_is_not_believed_again() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, ALWAYS, None).unwrap();
    machine.ask("SET a 1");
    assert!(machine.commit());
    disk.refuse(Some((Kind::Sync, std::io::ErrorKind::Other)));
    machine.ask("SET a 2");
    assert!(!machine.commit());
    disk.refuse(None);
    std::thread::sleep(Duration::from_millis(1100));
    machine.commit();
    assert!(machine.ask("SET a 3").starts_with("-MISCONF"));
    // Everything is written anew: then it counts again.
    assert_eq!(machine.ask("CONFIG SET appendonly no"), "+OK|");
    assert_eq!(machine.ask("CONFIG SET appendonly yes"), "+OK|");
    persistence::upkeep(&mut machine.store, &mut machine.shared);
    assert_eq!(machine.ask("SET b 1"), "+OK|");
    assert!(machine.commit());
    persistence::finish(&mut machine.store, &mut machine.shared);
    assert_eq!(machine.ask("SET c 1"), "+OK|");
    assert!(machine.commit());
    let was = machine.content();
    machine.kill();
    disk.cut_power(0, false);
    assert_eq!(Machine::start(&disk, ALWAYS, None).unwrap().content(), was);
    assert_eq!(was.len(), 3);
}

#[test]
fn a_rewrite_that_fails_changes_nothing_and_the_next_works() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap();
    machine.ask("DEBUG POPULATE 2000");
    machine.ask("EXPIRE key:1 500");
    assert!(machine.commit());
    // The base can't be made: the log goes on without.
    disk.refuse(Some((Kind::Create, std::io::ErrorKind::StorageFull)));
    assert!(machine.ask("BGREWRITEAOF").starts_with("-ERR"));
    disk.refuse(None);
    assert_eq!(machine.ask("BGREWRITEAOF"), "+Background append only file rewriting started|");
    assert!(machine.ask("BGREWRITEAOF").contains("already in progress"));
    assert!(machine.ask("BGSAVE").contains("Another child process"));
    machine.store.abort_snapshot("the test said so");
    persistence::finish(&mut machine.store, &mut machine.shared);
    assert!(machine.ask("INFO persistence").contains("aof_last_bgrewrite_status:err"));
    machine.ask("SET more 1");
    assert!(machine.commit());
    assert!(machine.rewrite());
    assert!(machine.ask("INFO persistence").contains("aof_last_bgrewrite_status:ok"));
    // In a transaction it waits: what was done so far would come twice.
    for line in ["MULTI", "INCR n", "BGREWRITEAOF", "INCR n", "EXEC"] {
        machine.ask(line);
    }
    assert!(machine.commit());
    persistence::upkeep(&mut machine.store, &mut machine.shared);
    assert!(machine.shared.log.is_rewriting());
    persistence::finish(&mut machine.store, &mut machine.shared);
    assert_eq!(machine.shared.log.rewrite_failed(), None);
    let was = machine.content();
    persistence::end(&mut machine.shared);
    machine.kill();
    let mut machine = Machine::start(&disk, ALWAYS, Some(counter(&disk))).unwrap();
    assert_eq!(machine.content(), was);
    assert!(machine.ask("GET n").contains('2'));
}

#[test]
fn it_is_rewritten_by_itself_when_it_has_grown() {
    let disk = Disk::default();
    let settings = [ALWAYS, &[("auto-aof-rewrite-min-size", "10000"), ("auto-aof-rewrite-percentage", "100")]].concat();
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    let size = |disk: &Disk| disk.names().iter().map(|name| disk.bytes(name).len()).sum::<usize>();
    let mut most = 0;
    for round in 0..2000 {
        machine.ask(&format!("SET key {round:050}"));
        assert!(machine.commit());
        persistence::upkeep(&mut machine.store, &mut machine.shared);
        if machine.shared.log.is_rewriting() {
            persistence::finish(&mut machine.store, &mut machine.shared);
        }
        most = most.max(size(&disk));
    }
    let figures = machine.shared.log.figures();
    assert!(figures.rewrites > 5 && most < 60_000, "{} {most}", figures.rewrites);
    machine.ask("CONFIG SET auto-aof-rewrite-percentage 0");
    (0..1000).for_each(|round| drop(machine.ask(&format!("SET key {round:050}"))));
    assert!(machine.commit());
    persistence::upkeep(&mut machine.store, &mut machine.shared);
    assert!(!machine.shared.log.is_rewriting());
}

#[test]
fn turned_on_while_it_runs_the_log_has_what_was_there_before() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    machine.ask("DEBUG POPULATE 3000");
    assert_eq!(machine.ask("BGREWRITEAOF"), "-ERR the append-only log is off|");
    assert!(machine.ask("INFO persistence").contains("aof_enabled:0"));
    assert_eq!(machine.ask("CONFIG SET appendonly yes appendfsync always"), "+OK|");
    assert!(machine.ask("INFO persistence").contains("aof_enabled:1"));
    machine.ask("SET before 1");
    assert!(machine.commit());
    persistence::upkeep(&mut machine.store, &mut machine.shared);
    machine.ask("SET during 1");
    machine.ask("INCR key:5x");
    assert!(machine.commit());
    persistence::finish(&mut machine.store, &mut machine.shared);
    machine.ask("SET after 1");
    assert!(machine.commit());
    let was = machine.content();
    machine.kill();
    disk.cut_power(0, false);
    let mut machine = Machine::start(&disk, ALWAYS, None).unwrap();
    assert_eq!(machine.content(), was);
    // Off: what follows is not in it.
    assert_eq!(machine.ask("CONFIG SET appendonly no"), "+OK|");
    machine.ask("SET later 1");
    machine.commit();
    machine.kill();
    assert_eq!(Machine::start(&disk, ALWAYS, None).unwrap().content(), was);
}

#[test]
fn an_orderly_stop_leaves_all_there_is_however_far_the_first_base_is() {
    for begun in [false, true] {
        let disk = Disk::default();
        let mut machine = Machine::start(&disk, ALWAYS, None).unwrap();
        machine.ask("SET old 1");
        machine.commit();
        // Off, and on again: a log of an earlier time is there until the base of the new one counts.
        assert_eq!(machine.ask("CONFIG SET appendonly no"), "+OK|");
        machine.ask("DEBUG POPULATE 3000");
        assert_eq!(machine.ask("CONFIG SET appendonly yes"), "+OK|");
        if begun {
            persistence::upkeep(&mut machine.store, &mut machine.shared);
            assert!(machine.shared.saving.is_under_way());
        }
        machine.ask("SET last 1");
        machine.commit();
        assert_eq!(persistence::close(&mut machine.store, &mut machine.shared), Ok(()));
        let was = machine.content();
        machine.kill();
        disk.cut_power(0, false);
        assert_eq!(Machine::start(&disk, ALWAYS, None).unwrap().content(), was, "begun: {begun}");
    }
}

#[test]
fn an_orderly_stop_that_finds_no_room_is_refused_and_works_when_there_is_some() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    machine.ask("DEBUG POPULATE 3000");
    assert_eq!(machine.ask("CONFIG SET appendonly yes"), "+OK|");
    disk.refuse(Some((Kind::Write, std::io::ErrorKind::StorageFull)));
    assert!(persistence::close(&mut machine.store, &mut machine.shared).is_err());
    disk.refuse(None);
    assert_eq!(persistence::close(&mut machine.store, &mut machine.shared), Ok(()));
    let was = machine.content();
    machine.kill();
    disk.cut_power(0, false);
    assert_eq!(Machine::start(&disk, ALWAYS, None).unwrap().content(), was);
}

/// Keeps settings nowhere.
struct Nowhere;

impl Keep for Nowhere {
    fn version(&self) -> Version {
        Version::default()
    }

    fn keep(&self, _: &[u8], _: Version) -> Result<(), String> {
        Err("no room".to_owned())
    }
}

#[test]
fn settings_that_cannot_be_kept_turn_no_log_on() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    machine.shared.settings = Some(Box::new(Nowhere));
    assert!(machine.ask("CONFIG SET appendonly yes maxclients 7").contains("no room"));
    assert_eq!(machine.ask("CONFIG GET appendonly"), "*2|$10|appendonly|$2|no|");
    assert!(machine.ask("INFO persistence").contains("aof_enabled:0"));
    persistence::upkeep(&mut machine.store, &mut machine.shared);
    assert!(disk.names().is_empty());
}

#[test]
fn long_units_are_there_whole_or_not_at_all() {
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, NO, None).unwrap();
    machine.ask("SET small 1");
    machine.commit();
    let was = machine.content();
    let large = vec![b'x'; 36 << 20];
    machine.ask("MULTI");
    for key in [b"a", b"b"] {
        machine.carry_out(&[b"SET", key, &large]);
    }
    machine.ask("EXEC");
    assert!(machine.commit());
    let is = machine.content().len();
    machine.kill();
    let name = disk.names().into_iter().find(|name| name.ends_with(".log")).unwrap();
    let whole = disk.bytes(&name);
    assert_eq!(Machine::start(&disk, NO, None).unwrap().content().len(), is);
    for part in [40, 99] {
        disk.set_bytes(&name, whole[..whole.len() * part / 100].to_vec());
        let mut machine = Machine::start(&disk, NO, None).unwrap();
        assert_eq!(machine.content(), was, "{part} % of it");
        // What comes after does not become a part of it.
        machine.ask("SET next 1");
        machine.commit();
        machine.kill();
        let mut machine = Machine::start(&disk, NO, None).unwrap();
        assert_eq!(machine.content().len(), 2);
        machine.kill();
        disk.names().into_iter().filter(|other| other.ends_with(".log") && *other != name).for_each(|other| disk.take(&other));
    }
}
