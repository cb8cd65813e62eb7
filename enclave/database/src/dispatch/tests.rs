use super::*;
use crate::config::Config;
use crate::resp::Reply;
use crate::session::Session;
use crate::shared::Shared;
use crate::store::Store;

/// Carries out lines, and compares what is answered; `|` stands for line ends.
fn talk(password: &str, lines: &[(&str, &str)]) {
    let mut config = Config::default();
    config.set("requirepass", password).unwrap();
    let (mut store, mut shared, mut session) = (Store::new(16), Shared::new(config, 0), Session::new(1, 0, 0));
    session.user = shared.acl.initial();
    store.now = 1_000_000;
    for (line, answer) in lines {
        let words = crate::resp::words(line.as_bytes()).unwrap();
        let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let mut reply = Reply { version: session.version, ..Reply::default() };
        process(&mut Context { store: &mut store, session: &mut session, shared: &mut shared, args: &args, reply: &mut reply });
        let said = String::from_utf8_lossy(&reply.bytes).replace("\r\n", "|");
        assert_eq!(said, *answer, "{line}");
    }
}

#[test]
fn a_list_that_goes_round_in_itself_keeps_its_time() {
    talk(
        "",
        &[
            ("RPUSH l a", ":1|"),
            ("PEXPIREAT l 2000000", ":1|"),
            ("LMOVE l l LEFT RIGHT", "$1|a|"),
            ("RPOPLPUSH l l", "$1|a|"),
            ("PEXPIRETIME l", ":2000000|"),
            ("RPUSH l b c", ":3|"),
            ("LMOVE l l LEFT RIGHT", "$1|a|"),
            ("LMOVE l l RIGHT RIGHT", "$1|a|"),
            ("LRANGE l 0 -1", "*3|$1|b|$1|c|$1|a|"),
        ],
    );
}

#[test]
fn strings() {
    talk(
        "",
        &[
            ("SET a 1", "+OK|"),
            ("GET a", "$1|1|"),
            ("INCR a", ":2|"),
            ("INCRBYFLOAT a 0.5", "$3|2.5|"),
            ("INCR a", "-ERR value is not an integer or out of range|"),
            ("SET a x NX", "$-1|"),
            ("SET a x XX GET", "$3|2.5|"),
            ("APPEND a yz", ":3|"),
            ("GETRANGE a -2 -1", "$2|yz|"),
            ("SETRANGE a 5 !", ":6|"),
            ("GET a", "$6|xyz\0\0!|"),
            ("SET b 1 EX 0", "-ERR invalid expire time in 'set' command|"),
            ("SET b 1 PX 1500", "+OK|"),
            ("TTL b", ":2|"),
            ("PTTL b", ":1500|"),
            ("GETEX b PERSIST", "$1|1|"),
            ("TTL b", ":-1|"),
            ("TTL c", ":-2|"),
            ("MSET x 1 y", "-ERR wrong number of arguments for 'mset' command|"),
            ("MGET a nothing b", "*3|$6|xyz\0\0!|$-1|$1|1|"),
            ("SETBIT bits 7 1", ":0|"),
            ("GET bits", "$1|\u{1}|"),
            ("BITCOUNT bits", ":1|"),
            ("DECR big", ":-1|"),
            ("SET big 9223372036854775807", "+OK|"),
            ("INCR big", "-ERR increment or decrement would overflow|"),
            ("LPUSH a 1", "-WRONGTYPE Operation against a key holding the wrong kind of value|"),
        ],
    );
}

#[test]
fn collections() {
    talk(
        "",
        &[
            ("RPUSH l a b c d", ":4|"),
            ("LRANGE l 0 -1", "*4|$1|a|$1|b|$1|c|$1|d|"),
            ("LPOP l 2", "*2|$1|a|$1|b|"),
            ("LINSERT l BEFORE d x", ":3|"),
            ("LPOS l d", ":2|"),
            ("LREM l 0 x", ":1|"),
            ("LTRIM l 5 9", "+OK|"),
            ("EXISTS l", ":0|"),
            ("LPUSHX l a", ":0|"),
            ("BLPOP l 0", ""),
            ("HSET h a 1 b 2", ":2|"),
            ("HINCRBY h a 5", ":6|"),
            ("HGETALL h", "*4|$1|a|$1|6|$1|b|$1|2|"),
            ("HDEL h a b", ":2|"),
            ("TYPE h", "+none|"),
            ("SADD s 3 1 2", ":3|"),
            ("SMEMBERS s", "*3|$1|1|$1|2|$1|3|"),
            ("OBJECT ENCODING s", "$6|intset|"),
            ("SADD s x", ":1|"),
            ("OBJECT ENCODING s", "$9|hashtable|"),
            ("SADD t 2 x", ":2|"),
            ("SINTERCARD 2 s t", ":2|"),
            ("SDIFFSTORE u t s", ":0|"),
            ("ZADD z 1 a 2 b 3 c", ":3|"),
            ("ZRANGE z (1 +inf BYSCORE", "*2|$1|b|$1|c|"),
            ("ZRANGE z 0 -1 REV WITHSCORES", "*6|$1|c|$1|3|$1|b|$1|2|$1|a|$1|1|"),
            ("ZADD z GT CH 0 a 9 b", ":1|"),
            ("ZREVRANK z b", ":0|"),
            ("ZINCRBY z 0.5 a", "$3|1.5|"),
            ("ZPOPMIN z", "*2|$1|a|$3|1.5|"),
            ("ZRANGEBYLEX z [b +", "*2|$1|c|$1|b|"),
            ("ZREMRANGEBYRANK z 0 -1", ":2|"),
            ("DBSIZE", ":2|"),
        ],
    );
}

#[test]
fn transactions() {
    talk(
        "",
        &[
            ("EXEC", "-ERR EXEC without MULTI|"),
            ("MULTI", "+OK|"),
            ("SET a 1", "+QUEUED|"),
            ("LPUSH a 1", "+QUEUED|"),
            ("BLPOP nothing 0", "+QUEUED|"),
            ("EXEC", "*3|+OK|-WRONGTYPE Operation against a key holding the wrong kind of value|*-1|"),
            ("MULTI", "+OK|"),
            ("NONSENSE x", "-ERR unknown command 'NONSENSE', with args beginning with: 'x' |"),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors.|"),
            ("WATCH a", "+OK|"),
            ("SET a 2", "+OK|"),
            ("MULTI", "+OK|"),
            ("GET a", "+QUEUED|"),
            ("EXEC", "*-1|"),
            ("WATCH a", "+OK|"),
            ("MULTI", "+OK|"),
            ("GET a", "+QUEUED|"),
            ("EXEC", "*1|$1|2|"),
            ("MULTI", "+OK|"),
            ("MULTI", "-ERR MULTI calls can not be nested|"),
            ("DISCARD", "+OK|"),
        ],
    );
}

#[test]
fn passwords_and_versions() {
    talk(
        "secret",
        &[
            ("GET a", "-NOAUTH Authentication required.|"),
            ("EXEC", "-NOAUTH Authentication required.|"),
            ("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.|"),
            ("AUTH default secret", "+OK|"),
            ("GET a", "$-1|"),
            ("HELLO 4", "-NOPROTO unsupported protocol version|"),
            (
                "HELLO 3",
                "%7|$6|server|$5|redis|$7|version|$6|7.0.15|$5|proto|:3|$2|id|:1|$4|mode|$10|standalone|$4|role|$6|master|$7|modules|*0|",
            ),
            ("GET a", "_|"),
            ("SUBSCRIBE c", ">3|$9|subscribe|$1|c|:1|"),
            ("GET a", "_|"),
            (
                "HELLO 2",
                "*14|$6|server|$5|redis|$7|version|$6|7.0.15|$5|proto|:2|$2|id|:1|$4|mode|$10|standalone|$4|role|$6|master|$7|modules|*0|",
            ),
            (
                "GET a",
                "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context|",
            ),
            ("PING", "*2|$4|pong|$0||"),
            ("RESET", "+RESET|"),
            ("GET a", "-NOAUTH Authentication required.|"),
        ],
    );
}

#[test]
fn databases() {
    talk(
        "",
        &[
            ("SET a 0", "+OK|"),
            ("SELECT 1", "+OK|"),
            ("GET a", "$-1|"),
            ("SELECT 16", "-ERR DB index is out of range|"),
            ("SWAPDB 0 1", "+OK|"),
            ("GET a", "$1|0|"),
            ("MOVE a 2", ":1|"),
            ("DBSIZE", ":0|"),
            ("SELECT 2", "+OK|"),
            ("COPY a b", ":1|"),
            ("RENAME a b", "+OK|"),
            ("KEYS *", "*1|$1|b|"),
            ("SCAN 0 MATCH b COUNT 10", "*2|$1|0|*1|$1|b|"),
            ("FLUSHALL", "+OK|"),
            ("RANDOMKEY", "$-1|"),
            ("EXPIRE b 10", ":0|"),
        ],
    );
}

#[cfg(feature = "scripts")]
#[test]
fn scripts() {
    if !teemate_lua::is_there() {
        println!("SKIPPED: this was built without a compiler for Lua");
        return;
    }
    talk(
        "",
        &[
            ("EVAL \"return redis.call('set', KEYS[1], ARGV[1])\" 1 a 5", "+OK|"),
            ("GET a", "$1|5|"),
            ("EVAL \"return redis.call('incr', KEYS[1])\" 1 a", ":6|"),
            (
                "EVAL \"return redis.pcall('lpush', 'a', 1).err\" 0",
                "$65|WRONGTYPE Operation against a key holding the wrong kind of value|",
            ),
            ("EVAL \"return redis.pcall('eval', 'x', 0)\" 0", "-ERR This Redis command is not allowed from script|"),
            ("EVAL \"return redis.pcall('multi')\" 0", "-ERR This Redis command is not allowed from script|"),
            ("EVAL \"redis.call('select', 1) return redis.call('set', 'b', 1)\" 0", "+OK|"),
            ("EXISTS b", ":0|"),
            ("SCRIPT LOAD \"return 1\"", "$40|e0e1f9fabfc9d4800c877a703b823ac0578ff8db|"),
            ("EVALSHA E0E1F9FABFC9D4800C877A703B823AC0578FF8DB 0", ":1|"),
            ("SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db x", "*2|:1|:0|"),
            ("SCRIPT FLUSH", "+OK|"),
            ("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0", "-NOSCRIPT No matching script. Please use EVAL.|"),
            ("EVAL x 2 a", "-ERR Number of keys can't be greater than number of args|"),
        ],
    );
}
