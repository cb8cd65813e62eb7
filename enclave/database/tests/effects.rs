//! What the log carries out again is what there was: any commands, at any time, with rewrites in between.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::machine::Machine;
use proptest::prelude::*;
use teemate_database::persistence;
use teemate_sealed::simulated::Disk;

/// Numbers that look random, and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    /// A key of a family, a value, a number.
    fn fill(&mut self, line: &str) -> String {
        let mut filled = String::new();
        let mut letters = line.chars();
        while let Some(letter) = letters.next() {
            if letter != '$' {
                filled.push(letter);
                continue;
            }
            match letters.next().unwrap() {
                'v' => filled.push_str(
                    ["a", "b", "c", "12", "3", "x y", "long-long-long-long-long-long-long-long"][self.roll(7)].split(' ').next().unwrap(),
                ),
                '$' => filled.push('$'),
                'n' => filled.push_str(&(self.roll(12) as i64 - 3).to_string()),
                'p' => filled.push_str(&(self.roll(6) + 1).to_string()),
                'i' => filled.push_str(&format!("{}-{}", 1_699_999_999_990 + self.roll(20), self.roll(3))),
                '*' => {
                    let family = ['s', 'l', 'h', 't', 'z', 'x'][self.roll(6)];
                    filled.push_str(&format!("{family}{}", self.roll(3)));
                }
                family => filled.push_str(&format!("{family}{}", self.roll(3))),
            }
        }
        filled
    }
}

const LINES: &[&str] = &[
    "SET $s $v",
    "SET $s $v EX $p",
    "SET $s $v PX 40$p",
    "SET $s $v PXAT 1",
    "SET $s $v KEEPTTL",
    "SET $s $v NX EX $p",
    "SET $s $v XX GET",
    "SETNX $s $v",
    "SETEX $s $p $v",
    "PSETEX $s 30$p $v",
    "GETSET $s $v",
    "GETDEL $s",
    "GETEX $s EX $p",
    "GETEX $s PXAT 1",
    "GETEX $s PERSIST",
    "GET $*",
    "MSET $s $v $s $v",
    "MSETNX $s $v $s $v",
    "APPEND $s $v",
    "INCR $s",
    "DECRBY $s $n",
    "INCRBYFLOAT $s 0.1",
    "SETRANGE $s $p $v",
    "SETBIT $s $p 1",
    "BITFIELD $s INCRBY u8 0 $n SET i4 9 $n",
    "BITOP XOR $s $s $s",
    "PFADD $s $v $v",
    "PFMERGE $s $s",
    "PFCOUNT $s",
    "DEL $*",
    "UNLINK $* $*",
    "EXPIRE $* $p",
    "PEXPIRE $* 50$p NX",
    "PEXPIRE $* 50$p GT",
    "PEXPIRE $* 50$p LT",
    "EXPIREAT $* 1",
    "PERSIST $*",
    "RENAME $s $s",
    "RENAME $* $*",
    "RENAMENX $l $l",
    "COPY $* $* REPLACE",
    "COPY $z $z DB 2",
    "MOVE $* 1",
    "TOUCH $*",
    "SORT $t BY nosort STORE $l",
    "SORT $l ALPHA DESC STORE $l",
    "SORT $t ALPHA LIMIT 0 2 STORE $l",
    "LPUSH $l $v $v",
    "RPUSH $l $v",
    "LPUSHX $l $v",
    "LPOP $l",
    "RPOP $l $p",
    "LSET $l 0 $v",
    "LINSERT $l BEFORE $v $v",
    "LREM $l $n $v",
    "LTRIM $l 0 $p",
    "LMOVE $l $l LEFT RIGHT",
    "RPOPLPUSH $l $l",
    "BLPOP $l $l 1",
    "BLMOVE $l $l RIGHT LEFT 1",
    "LMPOP 2 $l $l RIGHT COUNT 2",
    "HSET $h $v $v $v $v",
    "HSETNX $h $v $v",
    "HDEL $h $v",
    "HINCRBY $h $v $n",
    "HINCRBYFLOAT $h $v 1.3",
    "SADD $t $v $v $v",
    "SREM $t $v",
    "SPOP $t",
    "SPOP $t 2",
    "SMOVE $t $t $v",
    "SUNIONSTORE $t $t $t",
    "SDIFFSTORE $t $t $t",
    "ZADD $z $n $v $n $v",
    "ZADD $z GT CH $n $v",
    "ZADD $z INCR $n $v",
    "ZINCRBY $z 0.1 $v",
    "ZREM $z $v",
    "ZPOPMIN $z",
    "BZPOPMAX $z $z 1",
    "ZMPOP 2 $z $z MIN",
    "ZREMRANGEBYSCORE $z -inf $n",
    "ZUNIONSTORE $z 2 $z $z AGGREGATE SUM",
    "ZRANGESTORE $z $z 0 $p",
    "GEOADD $z 13.3 38.1 $v",
    "GEOSEARCHSTORE $z $z FROMLONLAT 15 37 BYRADIUS 400 km",
    "XADD $x * f $v",
    "XADD $x * f $v g $v",
    "XADD $x MAXLEN ~ 3 * f $v",
    "XADD $x MAXLEN = 2 * f $v",
    "XADD $x NOMKSTREAM * f $v",
    "XADD $x $i f $v",
    "XDEL $x $i",
    "XTRIM $x MAXLEN $p",
    "XTRIM $x MINID $i",
    "XSETID $x 1800000000000-0",
    "XGROUP CREATE $x g $i MKSTREAM",
    "XGROUP CREATE $x g 0",
    "XGROUP CREATE $x k $$",
    "XGROUP SETID $x g $i",
    "XGROUP CREATECONSUMER $x g c$v",
    "XGROUP DELCONSUMER $x g c",
    "XGROUP DESTROY $x k",
    "XREADGROUP GROUP g c COUNT $p STREAMS $x >",
    "XREADGROUP GROUP g d COUNT 1 STREAMS $x >",
    "XREADGROUP GROUP g d NOACK COUNT 1 STREAMS $x >",
    "XREADGROUP GROUP k c STREAMS $x >",
    "XREADGROUP GROUP g c STREAMS $x 0",
    "XACK $x g $i",
    "XCLAIM $x g e 0 $i $i",
    "XCLAIM $x g e 10000 $i LASTID $i",
    "XCLAIM $x g c 0 $i FORCE JUSTID RETRYCOUNT 4",
    "XAUTOCLAIM $x g f 0 0 COUNT $p",
    "XAUTOCLAIM $x g f 0 0 JUSTID",
    "SELECT 1",
    "SELECT 0",
    "SELECT 0",
    "SWAPDB 0 1",
    "DEBUG POPULATE 3 many",
    "OBJECT ENCODING $*",
    "RANDOMKEY",
];

/// Does something: a command, alone or in a transaction or a script, or time passes.
fn step(machine: &mut Machine, dice: &mut Dice) {
    let line = |dice: &mut Dice| {
        let line = LINES[dice.roll(LINES.len())];
        dice.fill(line)
    };
    match dice.roll(40) {
        0 => {
            machine.store.now += dice.roll(3000) as i64;
            machine.store.clock.now = machine.store.now;
        }
        1 => drop(machine.store.expire_some(0, &mut 0, 100)),
        2 => drop(machine.store.evict(0, dice.fill("$*").as_bytes())),
        3 => {
            machine.ask("MULTI");
            for _ in 0..dice.roll(4) {
                machine.ask(&line(dice));
            }
            machine.ask("EXEC");
        }
        4 => drop(machine.ask("FLUSHDB")),
        6 => {
            let payload = teemate_rdb::dump(|writer| writer.text(0, b"", None, b"restored")).unwrap();
            let key = dice.fill("$s");
            let (time, absolute): (&[u8], &[u8]) = if dice.roll(2) == 0 { (b"700", b"REPLACE") } else { (b"1", b"ABSTTL") };
            machine.carry_out(&[b"RESTORE", key.as_bytes(), time, &payload, b"REPLACE", absolute]);
        }
        _ => drop(machine.ask(&line(dice))),
    }
}

fn run(seed: u64, steps: usize) {
    let disk = Disk::default();
    let settings = [("appendonly", "yes"), ("appendfsync", "no")];
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    let mut dice = Dice(seed | 1);
    let mut lines = Vec::new();
    for _ in 0..steps {
        step(&mut machine, &mut dice);
        lines.push(machine.session.last.clone());
        match dice.roll(60) {
            0..20 => assert!(machine.commit()),
            // A rewrite, while more happens.
            20 if persistence::rewrite(&mut machine.store, &mut machine.shared).is_ok() => {
                for _ in 0..dice.roll(30) {
                    step(&mut machine, &mut dice);
                    machine.store.walk();
                    assert!(machine.commit());
                    persistence::upkeep(&mut machine.store, &mut machine.shared);
                }
                persistence::finish(&mut machine.store, &mut machine.shared);
                assert_eq!(machine.shared.log.rewrite_failed(), None);
            }
            21 => {
                assert!(machine.commit());
                let (was, now) = (machine.content(), machine.store.now);
                machine.kill();
                disk.restart();
                // At another time, and on a clock that stands elsewhere.
                let later = if dice.roll(2) == 0 { now + 100_000 } else { now - 1_000_000 };
                machine = Machine::start_at(later, common::machine::storage(&disk, None), &settings)
                    .unwrap_or_else(|error| panic!("seed {seed}, last {:?}: {error}", &lines[lines.len().saturating_sub(60)..]));
                machine.store.now = now;
                machine.store.clock.now = now;
                let is = machine.content();
                for (key, value) in &was {
                    assert_eq!(
                        is.get(key),
                        Some(value),
                        "seed {seed}, {:?}, last {:?}",
                        String::from_utf8_lossy(&key.1),
                        &lines[lines.len().saturating_sub(60)..]
                    );
                }
                assert_eq!(
                    is.len(),
                    was.len(),
                    "seed {seed}: a key is there that was not: {:?}",
                    is.keys().find(|key| !was.contains_key(*key))
                );
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_carried_out_again_is_what_there_was(seed in any::<u64>()) {
        run(seed, 1500);
    }
}

#[cfg(feature = "scripts")]
#[test]
fn of_a_script_the_log_has_what_it_did() {
    let disk = Disk::default();
    let settings = [("appendonly", "yes")];
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    machine.ask("SADD s 1 2 3 4 5 6 7 8");
    let script = "redis.call('spop', KEYS[1], 3) redis.call('set', 'left', ARGV[1], 'px', 900) redis.call('select', 1) redis.call('set', 'right', ARGV[1]) return redis.call('nonsense')";
    for number in ["1", "2"] {
        let reply = machine.carry_out(&[b"EVAL", script.as_bytes(), b"1", b"s", number.as_bytes()]);
        if reply.contains("without a compiler") {
            println!("SKIPPED: {reply}");
            return;
        }
        assert!(reply.starts_with('-'), "{reply}");
    }
    machine.commit();
    let (was, now) = (machine.content(), machine.store.now);
    assert_eq!(was.len(), 3);
    machine.kill();
    let log = disk.names().into_iter().find(|name| name.ends_with(".log")).unwrap();
    let whole = disk.bytes(&log);
    for length in [whole.len(), whole.len() - 1] {
        disk.set_bytes(&log, whole[..length].to_vec());
        let mut machine = Machine::start_at(now, common::machine::storage(&disk, None), &settings).unwrap();
        let is = machine.content();
        // All of what came in one turn, or nothing.
        assert!(if length == whole.len() { is == was } else { is.is_empty() });
        machine.kill();
    }
}

#[test]
fn a_group_has_read_as_much_as_before() {
    let disk = Disk::default();
    let settings = [("appendonly", "yes")];
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    for line in ["XGROUP CREATE x g 0 MKSTREAM", "XADD x * f 1", "XADD x * f 2", "XADD x * f 3", "XREADGROUP GROUP g c COUNT 2 STREAMS x >"]
    {
        machine.ask(line);
    }
    machine.commit();
    let was = machine.ask("XINFO GROUPS x");
    assert!(was.contains("entries-read|:2|") && was.contains("lag|:1|"), "{was}");
    machine.kill();
    assert_eq!(Machine::start(&disk, &settings, None).unwrap().ask("XINFO GROUPS x"), was);
}

#[test]
fn the_log_has_effects_and_not_words() {
    let disk = Disk::default();
    let settings = [("appendonly", "yes")];
    let mut machine = Machine::start(&disk, &settings, None).unwrap();
    for line in ["SET a 1 EX 100", "SADD s 1 2 3 4 5 6 7 8", "SPOP s 4", "XADD x * f v", "EXPIRE s 50", "INCRBYFLOAT f 0.1"] {
        machine.ask(line);
    }
    machine.commit();
    let (was, now) = (machine.content(), machine.store.now);
    machine.kill();
    for later in [now, now + 1_000_000_000, 1] {
        let mut machine = Machine::start_at(later, common::machine::storage(&disk, None), &settings).unwrap();
        assert_eq!(machine.content(), was, "at {later}");
        machine.kill();
    }
}
