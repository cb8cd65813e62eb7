//! Scripts and functions: what they may, that functions are kept like keys, and that one that does not end can be ended.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::machine::Machine;
use common::process::{Client, Server};
use teemate_sealed::simulated::Disk;

const LIBRARY: &str = "#!lua name=counters\n\
    redis.register_function('add', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)\n\
    redis.register_function{function_name = 'show', callback = function(keys) return redis.call('GET', keys[1]) end, flags = {'no-writes'}}";

/// Whether scripts can run; says so if they can't.
fn scripts() -> bool {
    if !teemate_lua::is_there() {
        println!("SKIPPED: this was built without clang-19 and wasi-libc, so without Lua");
    }
    teemate_lua::is_there()
}

fn load(machine: &mut Machine, code: &str) -> String {
    machine.carry_out(&[b"FUNCTION", b"LOAD", b"REPLACE", code.as_bytes()])
}

#[test]
fn functions_are_kept_by_the_log_and_by_its_base() {
    if !scripts() {
        return;
    }
    let disk = Disk::default();
    let settings = [("appendonly", "yes"), ("appendfsync", "always")];
    let start = || Machine::start(&disk, &settings, None).unwrap();
    let mut machine = start();
    assert_eq!(load(&mut machine, LIBRARY), "$8|counters|");
    assert_eq!(load(&mut machine, "#!lua name=other\nredis.register_function('one', function() return 1 end)"), "$5|other|");
    assert_eq!(machine.ask("FCALL add 1 k 5"), ":5|");
    // What does not load changes nothing, in memory or in the log.
    assert!(
        load(&mut machine, "#!lua name=counters\nredis.register_function('one', function() end)").contains("Function one already exists")
    );
    assert!(load(&mut machine, "#!lua name=counters\nerror('no')").contains("Error registering functions"));
    assert!(machine.commit());
    machine.kill();

    let mut machine = start();
    assert_eq!(machine.ask("FCALL ADD 1 k 1"), ":6|");
    assert_eq!(machine.ask("FUNCTION DELETE other"), "+OK|");
    assert!(machine.commit() && machine.rewrite());
    machine.kill();

    let mut machine = start();
    assert!(machine.ask("FUNCTION LIST").contains("counters") && !machine.ask("FUNCTION LIST").contains("other"));
    assert_eq!(machine.ask("FCALL_RO show 1 k"), "$1|6|");
    assert!(machine.ask("FUNCTION STATS").contains("libraries_count|:1|$15|functions_count|:2|"));
    let payload = machine.carry_out(&[b"FUNCTION", b"DUMP"]);
    assert_eq!(machine.ask("FUNCTION FLUSH"), "+OK|");
    assert!(payload.len() > LIBRARY.len() && machine.commit());
    machine.kill();
    assert_eq!(start().ask("FUNCTION LIST"), "*0|");
}

#[test]
fn functions_are_in_a_snapshot() {
    if !scripts() {
        return;
    }
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    load(&mut machine, LIBRARY);
    machine.ask("FCALL add 1 k 5");
    assert_eq!(machine.ask("SAVE"), "+OK|");
    assert_eq!(machine.ask("FLUSHALL"), "+OK|");
    assert!(machine.ask("FUNCTION LIST").contains("counters"), "they are not keys");
    machine.kill();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    assert_eq!(machine.ask("FCALL add 1 k 1"), ":6|");
    // After a script that had to be stopped they are loaded anew.
    assert!(machine.carry_out(&[b"EVAL", b"while true do end", b"0"]).starts_with("-ERR the script did not end"));
    assert_eq!(machine.ask("FCALL add 1 k 1"), ":7|");
}

#[test]
fn scripts_may_what_they_say_and_what_their_user_may() {
    if !scripts() {
        return;
    }
    let disk = Disk::default();
    let mut machine = Machine::start(&disk, &[], None).unwrap();
    let mut eval = |command: &str, script: &str| machine.carry_out(&[command.as_bytes(), script.as_bytes(), b"1", b"k"]);
    assert_eq!(eval("EVAL", "return redis.call('SET', KEYS[1], 1)"), "+OK|");
    assert!(
        eval("EVAL_RO", "return redis.call('SET', KEYS[1], 1)").starts_with("-ERR Write commands are not allowed from read-only scripts.")
    );
    assert!(eval("EVAL", "#!lua flags=no-writes\nreturn redis.call('DEL', KEYS[1])").starts_with("-ERR Write commands are not allowed"));
    assert!(eval("EVAL_RO", "#!lua\nreturn 1").starts_with("-ERR Can not execute a script with write flag using *_ro command."));
    assert!(eval("EVAL", "#!lua flags=what\nreturn 1").contains("Unexpected flag in script shebang: what"));
    assert_eq!(eval("EVAL", "return redis.pcall('BLPOP', KEYS[1], 0).err"), "$49|ERR This Redis command is not allowed from script|");
    assert!(eval("EVAL", "return redis.call('SCRIPT', 'FLUSH')").contains("not allowed from script"));
    assert_eq!(machine.ask("GET k"), "$1|1|");
    // What is called is checked, whatever keys the script was given; those of commands that count their keys, too.
    machine.ask("ACL SETUSER some on nopass ~k +@all");
    machine.session.user = Some("some".to_owned());
    for call in ["'GET', 'other'", "'ZUNION', 2, 'k', 'other'", "'LMPOP', 1, 'other', 'LEFT'", "'SINTERCARD', 1, 'other'"] {
        let script = format!("return redis.call({call})");
        assert!(machine.carry_out(&[b"EVAL", script.as_bytes(), b"0"]).starts_with("-NOPERM"), "{call}");
    }
    assert!(machine.ask("ZUNIONSTORE k 1 other").starts_with("-NOPERM"));
    let may = b"return {redis.acl_check_cmd('GET', 'k'), redis.acl_check_cmd('GET', 'other')}";
    assert_eq!(machine.carry_out(&[b"EVAL", may, b"0"]), "*2|:1|$-1|");
}

/// Asks until the answer begins so, for a time that a slow machine needs for its first script.
fn until(client: &mut Client, line: &str, begins: &str) {
    let begin = Instant::now();
    loop {
        let said = client.ask(line);
        if said.starts_with(begins) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(300), "{line}: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_script_that_does_not_end_is_ended_by_another_client() {
    if !scripts() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--insecure-plain-rdb"]);
    let (mut runs, mut asks) = (server.connect(), server.connect());
    runs.0.get_ref().set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    asks.0.get_ref().set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    // What it is interpreted by is compiled with the first one.
    assert_eq!(runs.ask("EVAL \"return 1\" 0"), "1");
    assert_eq!(asks.ask("CONFIG SET busy-reply-threshold 50"), "OK");
    assert_eq!(asks.ask("SCRIPT KILL"), "NOTBUSY No scripts in execution right now.");
    for script in ["while true do end", "while true do pcall(function() while true do redis.call('PING') end end) end"] {
        // One that was answered before it in the same turn is not forgotten, nor what comes behind it.
        runs.send(&format!("SET before 1\r\nEVAL \"{script}\" 0\r\nPING"));
        until(&mut asks, "GET before", "BUSY Redis is busy running a script. You can only call SCRIPT KILL");
        // A new connection, too.
        let mut late = server.connect();
        assert!(late.ask("FUNCTION KILL").starts_with("BUSY"));
        assert_eq!(late.ask("SCRIPT KILL"), "OK");
        assert_eq!(runs.read(), "OK");
        let said = runs.read();
        assert!(said.contains("killed by user with SCRIPT KILL"), "{said}");
        assert_eq!(runs.read(), "PONG");
        assert_eq!(asks.ask("GET before"), "1");
    }
    // What has written is not ended half way, but by the end of the server.
    runs.send("EVAL \"redis.call('SET', 'half', 1) while true do end\" 0");
    until(&mut asks, "PING", "BUSY");
    assert!(asks.ask("SCRIPT KILL").starts_with("UNKILLABLE"));
    asks.send("SHUTDOWN NOSAVE");
    assert_eq!(asks.read(), "", "the server has ended");
}
