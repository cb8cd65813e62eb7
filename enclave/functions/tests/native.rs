//! The program as a process: what the node does natively, from outside.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{Node, Store, failure, spec, text};
use teemate_control::function::{FailureKind, Kind, Phase, VerifiedFile};
use teemate_control::service::{FromService, ToService};

macro_rules! need_javascript {
    () => {
        if !teemate_functions::javascript::is_built() {
            println!("skipped: the JavaScript engine is not built (cargo xtask build)");
            return;
        }
    };
}

#[test]
fn all_examples() {
    let (folder, examples) = harness::examples();
    let store = Store::start();
    let mut node = Node::start();
    for example in &examples {
        let (kind, code) = match harness::code(&folder, example) {
            Ok(code) => code,
            Err(reason) => {
                println!("skipped: {}: {reason}", example.name);
                continue;
            }
        };
        let (spec, params) = harness::native(&folder, example, kind, &store.address);
        node.deploy(spec, code).unwrap_or_else(|failure| panic!("{}: {failure}", example.name));
        let began = Instant::now();
        let outcome = node.call(&example.name, &params);
        let took = began.elapsed();
        println!("{:20} {:8.2} ms  {:?}", example.name, took.as_secs_f64() * 1e3, outcome.usage);
        harness::check(&folder, example, &outcome, took.as_millis(), &store);
    }
    // Whatever they did, the next call is right.
    assert_eq!(text(&node.call("hello", "{}")), r#"{"hello":"world"}"#);
    assert_eq!(node.hang_up(), Some(0));
}

#[test]
fn phases_in_order() {
    let mut node = Node::start();
    node.deploy_wat("hello", include_str!("../../../examples/functions/hello/hello.wat")).unwrap();
    let outcome = node.call("hello", "{}");
    let phases: Vec<_> = outcome.marks.iter().map(|mark| mark.phase).collect();
    assert_eq!(phases, [Phase::Accepted, Phase::Entered, Phase::InstanceReady, Phase::Executed, Phase::Answered]);
    assert!(outcome.marks.windows(2).all(|two| two[0].at_ns <= two[1].at_ns));
    assert!(outcome.usage.fuel > 0 && outcome.usage.memory_peak == 65536);
}

#[test]
fn bad_input_is_refused_in_words() {
    let mut node = Node::start();
    let garbage: &[(&[u8], &str)] = &[
        (b"", "does not begin"),
        (b"garbage", "does not begin"),
        (b"\0asm\x01\0\0\0\xff\xff\xff", "no WebAssembly module"),
        (b"\0asm\x0d\0\x01\0", "no WebAssembly module"),
    ];
    for (code, word) in garbage {
        let refused = node.deploy(spec("f", Kind::Wasm), code.to_vec()).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Invalid);
        assert!(refused.message.contains(word), "{refused}");
    }
    let refused = node.deploy_wat("f", r#"(module (import "env" "steal" (func)) (func (export "_start")))"#).unwrap_err();
    assert!(refused.message.contains("steal from env"), "{refused}");
    let refused = node.deploy_wat("f", r#"(module (func (export "run")))"#).unwrap_err();
    assert!(refused.message.contains("_start"), "{refused}");
    let refused = node
        .deploy_wat("f", r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i64))) (func (export "_start")))"#)
        .unwrap_err();
    assert!(refused.message.contains("do not fit"), "{refused}");
    assert_eq!(refused.kind, FailureKind::Invalid);

    node.deploy_wat("echo", include_str!("../../../examples/functions/hello/echo.wat")).unwrap();
    for params in ["", "[]", "1", "{", "nonsense", "{\"a\":1}x"] {
        assert_eq!(failure_kind(&mut node, "echo", params), FailureKind::Invalid, "{params}");
    }
    assert_eq!(failure_kind(&mut node, "nobody", "{}"), FailureKind::Invalid);
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1_000_000));
    assert_eq!(text(&node.call("echo", &large)).len(), large.len());
    let (kind, message) = failure(&node.call("echo", &format!("{{\"a\":\"{}\"}}", "x".repeat(2_000_000))));
    assert_eq!(kind, FailureKind::Limit);
    assert!(message.contains("1048576"), "{message}");
    let (kind, message) = failure(&node.call("echo", &format!("{{\"a\":\"{}\"}}", "x".repeat(9_000_000))));
    assert_eq!(kind, FailureKind::Invalid, "{message}");

    // A module that writes nothing, or no object.
    node.deploy_wat("nothing", r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
    assert_eq!(failure(&node.call("nothing", "{}")), (FailureKind::Application, "The action did not return a dictionary.".into()));
    // No memory at all, although it calls WASI.
    node.deploy_wat("bare", r#"(module (import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32))) (func (export "_start") (drop (call $r (i32.const 0) (i32.const 8)))))"#).unwrap();
    assert_eq!(failure_kind(&mut node, "bare", "{}"), FailureKind::Application);
    // A function of WASI that is not here is ENOSYS.
    node.deploy_wat(
        "nosys",
        r#"(module (import "wasi_snapshot_preview1" "path_unlink_file" (func $u (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $e (param i32))) (memory (export "memory") 1)
        (func (export "_start") (call $e (call $u (i32.const 3) (i32.const 0) (i32.const 0)))))"#,
    )
    .unwrap();
    assert!(failure(&node.call("nosys", "{}")).1.contains("code 52"));
    // Called elsewhere than inline: this is no enclave.
    let request = node.begin("echo", "{}", false);
    assert!(failure(&node.answer(request)).1.contains("no enclave"));

    // Hostile packets do not end the service.
    for length in [0, 1, 15, 16, 17, 100] {
        if length > 0 {
            node.send_raw(&vec![0xff; length]);
        }
    }
    assert_eq!(text(&node.call("echo", r#"{"still":"here"}"#)), r#"{"still":"here"}"#);
}

fn failure_kind(node: &mut Node, name: &str, params: &str) -> FailureKind {
    failure(&node.call(name, params)).0
}

#[test]
fn a_start_function_is_under_the_limits_too() {
    let mut node = Node::start();
    let mut spec = spec("start", Kind::Wasm);
    spec.limits.timeout_ms = 100;
    node.deploy(
        spec,
        wat::parse_str(r#"(module (memory (export "memory") 1) (func $f (loop $on (br $on))) (start $f) (func (export "_start")))"#)
            .unwrap(),
    )
    .unwrap();
    assert_eq!(failure_kind(&mut node, "start", "{}"), FailureKind::Limit);
}

/// Of little WebAssembly, and much work of the service.
#[test]
fn random_bytes_cost_fuel() {
    let mut node = Node::start();
    let mut spec = spec("random", Kind::Wasm);
    spec.limits.fuel = Some(100_000_000);
    let module = r#"(module (import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32))) (memory (export "memory") 16)
        (func (export "_start") (loop $on (drop (call $r (i32.const 0) (i32.const 1048576))) (br $on))))"#;
    // A length that there is no memory for is refused, and not paid for.
    let too_long = module.replace("1048576", "1048577").replace("(br $on)", "");
    node.deploy(spec.clone(), wat::parse_str(module).unwrap()).unwrap();
    let outcome = node.call("random", "{}");
    assert!(failure(&outcome).1.contains("fuel"), "{outcome:?}");
    assert_eq!(outcome.usage.fuel, 100_000_000);
    node.deploy(spec, wat::parse_str(too_long).unwrap()).unwrap();
    let outcome = node.call("random", "{}");
    assert!(failure(&outcome).1.contains("dictionary") && outcome.usage.fuel < 100, "{outcome:?}");
}

#[test]
fn too_large_at_once() {
    let mut node = Node::start();
    let mut small = spec("small", Kind::Wasm);
    small.limits.memory = 1 << 20;
    node.deploy(small, wat::parse_str(r#"(module (memory (export "memory") 100) (func (export "_start")))"#).unwrap()).unwrap();
    let (kind, message) = failure(&node.call("small", "{}"));
    assert_eq!(kind, FailureKind::Limit, "{message}");
    assert!(message.contains("1048576"), "{message}");
    node.deploy_wat("tables", r#"(module (table 100000000 funcref) (func (export "_start")))"#).unwrap();
    failure(&node.call("tables", "{}"));
}

#[test]
fn once_and_only_once() {
    let mut node = Node::start();
    node.deploy_wat("echo", include_str!("../../../examples/functions/hello/echo.wat")).unwrap();
    let invoke = |params: &str| ToService::Invoke { request: 7777, name: "echo".into(), params: params.into(), inline: true };
    node.send(&invoke(r#"{"n":1}"#));
    node.send(&invoke(r#"{"n":2}"#));
    assert_eq!(text(&node.answer(7777)), r#"{"n":1}"#);
    node.send(&invoke(r#"{"n":3}"#));
    node.send(&ToService::Stats { request: 8888 });
    let FromService::Stats { answered, running, functions, .. } = node.receive() else { panic!("a second answer") };
    assert_eq!((answered, running, functions), (1, 0, 1));
}

#[test]
fn cancel_and_shutdown() {
    let mut node = Node::start();
    node.deploy_wat("loop", include_str!("../../../examples/functions/misbehaving/loop.wat")).unwrap();
    let began = Instant::now();
    let looping = node.begin("loop", "{}", true);
    std::thread::sleep(Duration::from_millis(50));
    node.send(&ToService::Cancel { request: looping });
    let (kind, message) = failure(&node.answer(looping));
    assert_eq!(kind, FailureKind::Limit, "{message}");
    assert!(began.elapsed() < Duration::from_secs(5));
    // Of a call that is not there: nothing.
    node.send(&ToService::Cancel { request: 424242 });
    node.send(&ToService::ContainerLost { container: 1, reason: "?".into() });
    // What runs is finished first.
    node.deploy_wat("echo", include_str!("../../../examples/functions/hello/echo.wat")).unwrap();
    let looping = node.begin("loop", "{}", true);
    node.send(&ToService::Shutdown);
    let refused = node.begin("echo", "{}", true);
    assert_eq!(failure(&node.answer(refused)).0, FailureKind::Busy);
    node.send(&ToService::Cancel { request: looping });
    failure(&node.answer(looping));
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn delete_and_replace() {
    let mut node = Node::start();
    let says = |what: &str| {
        format!(
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32))) (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\07\00\00\00") (data (i32.const 16) "{{\22{what}\22:1}}") (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
        )
    };
    node.deploy_wat("f", &says("a")).unwrap();
    assert_eq!(text(&node.call("f", "{}")), r#"{"a":1}"#);
    node.deploy_wat("f", &says("b")).unwrap();
    assert_eq!(text(&node.call("f", "{}")), r#"{"b":1}"#);
    // A refused deployment leaves the old function.
    node.deploy(spec("f", Kind::Wasm), b"garbage".to_vec()).unwrap_err();
    assert_eq!(text(&node.call("f", "{}")), r#"{"b":1}"#);
    node.send(&ToService::Delete { request: 99, name: "f".into() });
    assert_eq!(node.receive(), FromService::Deleted { request: 99 });
    failure(&node.call("f", "{}"));
    // A call right behind its deployment waits for it.
    let deploy =
        ToService::Deploy { request: 100, spec: spec("f", Kind::Wasm), code: wat::parse_str(says("c")).unwrap(), precompiled: None };
    node.send(&deploy);
    assert_eq!(text(&node.call("f", "{}")), r#"{"c":1}"#);
}

#[test]
fn precompiled_code_natively() {
    let mut node = Node::start();
    let module = wat::parse_str(include_str!("../../../examples/functions/hello/hello.wat")).unwrap();
    let blob = node.deploy(spec("hello", Kind::Wasm), module.clone()).unwrap().unwrap();
    let mut other = Node::start();
    other.deploy_with(spec("hello", Kind::Wasm), module.clone(), Some(blob.clone())).unwrap();
    assert_eq!(text(&other.call("hello", "{}")), r#"{"hello":"world"}"#);
    other.deploy_with(spec("hello", Kind::Wasm), module, Some(b"garbage".to_vec())).unwrap_err();
}

#[test]
fn many_at_once() {
    let mut node = Node::start();
    node.deploy_wat("echo", include_str!("../../../examples/functions/hello/echo.wat")).unwrap();
    for round in 0..20 {
        let all: Vec<_> = (0..64).map(|i| (i, node.begin("echo", &format!("{{\"n\":{}}}", round * 64 + i), true))).collect();
        for (i, request) in all {
            assert_eq!(text(&node.answer(request)), format!("{{\"n\":{}}}", round * 64 + i));
        }
    }
}

#[test]
fn a_secret_is_gone_after_the_call() {
    let mut node = Node::start();
    // Looks through all its memory for what an earlier instance left, then leaves the secret everywhere, its grown pages included.
    node.deploy_wat(
        "secret",
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2)
        (data (i32.const 0) "\10\00\00\00\0a\00\00\00") (data (i32.const 16) "{\22found\22:0}")
        (func (export "_start") (local $at i32) (local $found i32)
            (drop (memory.grow (i32.const 4)))
            (local.set $at (i32.const 64))
            (loop $on
                (local.set $found (i32.or (local.get $found) (i32.ne (i32.load (local.get $at)) (i32.const 0))))
                (local.set $at (i32.add (local.get $at) (i32.const 4)))
                (br_if $on (i32.lt_u (local.get $at) (i32.const 393216))))
            (i32.store8 (i32.const 25) (i32.add (i32.const 48) (local.get $found)))
            (memory.fill (i32.const 64) (i32.const 0x53) (i32.const 393152))
            (i32.store (i32.const 4) (i32.const 11))
            (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    )
    .unwrap();
    let rounds = if cfg!(debug_assertions) { 1000 } else { 10_000 };
    for batch in 0..rounds / 10 {
        let all: Vec<_> = (0..10).map(|_| node.begin("secret", "{}", true)).collect();
        for request in all {
            assert_eq!(text(&node.answer(request)), r#"{"found":0}"#, "batch {batch}");
        }
    }
}

#[test]
fn a_javascript_secret_is_gone_after_the_call() {
    need_javascript!();
    let mut node = Node::start();
    node.deploy_js("leaver", r#"function main({ n }) { globalThis.kept = "the secret of call " + n; Object.prototype.leak = kept; Array.prototype.push = null; return { had: typeof globalThis.before, n } }"#).unwrap();
    node.deploy_js(
        "finder",
        r#"function main() { return { kept: typeof globalThis.kept, leak: typeof ({}).leak, push: typeof [].push } }"#,
    )
    .unwrap();
    for n in 0..500 {
        node.call("leaver", &format!("{{\"n\":{n}}}"));
        assert_eq!(text(&node.call("finder", "{}")), r#"{"kept":"undefined","leak":"undefined","push":"function"}"#);
    }
}

#[test]
fn files_are_verified() {
    need_javascript!();
    let path = std::env::temp_dir().join(format!("teemate-file-{}", std::process::id()));
    std::fs::write(&path, "content").unwrap();
    let mut node = Node::start();
    let mut spec = spec("reader", Kind::JavaScript);
    spec.files = vec![VerifiedFile {
        path: path.to_str().unwrap().into(),
        sha256: <sha2::Sha256 as sha2::Digest>::digest(b"content").into(),
        length: 7,
    }];
    node.deploy(spec, br#"const fs = require("fs"); function main({ path }) { return { text: fs.readFileSync(path, "utf8") } }"#.to_vec())
        .unwrap();
    let params = format!("{{\"path\":{:?}}}", path.to_str().unwrap());
    assert_eq!(text(&node.call("reader", &params)), r#"{"text":"content"}"#);
    std::fs::write(&path, "Content").unwrap();
    let (kind, message) = failure(&node.call("reader", &params));
    assert_eq!(kind, FailureKind::Integrity);
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(failure(&node.call("reader", &params)).0, FailureKind::Integrity);
    assert_eq!(failure(&node.call("reader", r#"{"path":"/etc/hosts"}"#)).0, FailureKind::Denied);
}

#[test]
fn outgoing_http() {
    need_javascript!();
    let store = Store::start();
    let mut node = Node::start();
    let mut spec = spec("client", Kind::JavaScript);
    spec.egress = vec![store.address.clone()];
    spec.limits.timeout_ms = 1500;
    node.deploy(spec, br#"async function main({ url, method, body }) { const r = await fetch(url, { method, body }); return { status: r.status, text: await r.text() } }"#.to_vec()).unwrap();
    let call = |node: &mut Node, path: &str| node.call("client", &format!(r#"{{"url":"http://{}{path}"}}"#, store.address));
    assert_eq!(text(&call(&mut node, "/chunked")), r#"{"status":200,"text":"Wikipedia"}"#);
    assert_eq!(text(&call(&mut node, "/moved")), r#"{"status":200,"text":"Wikipedia"}"#);
    assert_eq!(text(&call(&mut node, "/missing")), r#"{"status":404,"text":""}"#);
    assert_eq!(failure(&call(&mut node, "/garbage")).0, FailureKind::Application);
    let (kind, message) = failure(&call(&mut node, "/silent"));
    assert_eq!(kind, FailureKind::Limit, "{message}");
    let (kind, message) = failure(&node.call("client", r#"{"url":"http://127.0.0.1:1/"}"#));
    assert_eq!(kind, FailureKind::Denied);
    assert!(message.contains("127.0.0.1:1") && message.contains(&store.address), "{message}");
}

#[test]
fn what_javascript_functions_use() {
    need_javascript!();
    let mut node = Node::start();
    let cases: &[(&str, &str)] = &[
        ("function main(p) { return p }", r#"{"a":1}"#),
        ("exports.main = (p) => ({ n: p.a + 1 })", r#"{"n":2}"#),
        ("module.exports.main = async (p) => ({ n: p.a + 1 })", r#"{"n":2}"#),
        ("module.exports = { main: (p) => ({ n: p.a + 1 }) }", r#"{"n":2}"#),
        ("const main = (p) => ({ n: p.a + 1 })", r#"{"n":2}"#),
        ("async function main() { await null; await new Promise((r) => setTimeout(r, 5)); return { ok: true } }", r#"{"ok":true}"#),
        ("function main() { }", "{}"),
        (
            "function main() { return { e: new TextEncoder().encode('h\u{e9}').length, d: new TextDecoder().decode(new Uint8Array([104, 195, 169])) } }",
            r#"{"e":3,"d":"hé"}"#,
        ),
        (
            "function main() { const u = new URL('../b?x=1&y=a%20b#h', 'http://user@Example.com:80/a/c/d'); return { h: u.href, p: u.searchParams.get('y'), o: u.origin } }",
            r##"{"h":"http://user@example.com/a/b?x=1&y=a%20b#h","p":"a b","o":"http://example.com"}"##,
        ),
        (
            "function main() { const b = Buffer.from('h\u{e9}llo'); return { hex: b.toString('hex'), b64: b.toString('base64'), back: Buffer.from(b.toString('base64'), 'base64').toString(), n: Buffer.concat([b, Buffer.alloc(2)]).length, u: Buffer.from([1, 2, 3, 4]).readUInt32BE(0) } }",
            r#"{"hex":"68c3a96c6c6f","b64":"aMOpbGxv","back":"héllo","n":8,"u":16909060}"#,
        ),
        ("function main() { return { a: btoa('abc'), b: atob('YWJj') } }", r#"{"a":"YWJj","b":"abc"}"#),
        (
            "function main() { const c = structuredClone({ a: new Map([[1, { b: new Date(0) }]]) }); return { t: c.a.get(1).b.getTime() } }",
            r#"{"t":0}"#,
        ),
        (
            "function main() { const h = (n) => require('crypto').createHash(n).update('abc').digest('hex').slice(0, 8); return { m: h('md5'), s: h('sha1'), t: h('sha256') } }",
            r#"{"m":"90015098","s":"a9993e36","t":"ba7816bf"}"#,
        ),
        (
            "function main() { return { h: require('crypto').createHmac('sha256', 'key').update('The quick brown fox jumps over the lazy dog').digest('hex').slice(0, 16) } }",
            r#"{"h":"f7bc83f430538424"}"#,
        ),
        (
            "function main() { const E = require('events'); const e = new E(); let n = 0; e.once('x', (d) => n += d); e.emit('x', 3); e.emit('x', 4); return { n } }",
            r#"{"n":3}"#,
        ),
        (
            "function main() { return { r: crypto.randomUUID().length, v: crypto.getRandomValues(new Uint8Array(8)).length, p: typeof performance.now(), q: process.hrtime().length } }",
            r#"{"r":36,"v":8,"p":"number","q":2}"#,
        ),
        (
            "let n = 0; async function main() { const t = setInterval(() => { if (++n === 3) clearInterval(t) }, 1); await new Promise((r) => setTimeout(r, 30)); return { n } }",
            r#"{"n":3}"#,
        ),
        (
            "function main() { return { f: require('util').format('%s %d %j', 'a', 1, { b: 2 }), p: require('path').join('/a', '../b', 'c.txt') } }",
            r#"{"f":"a 1 {\"b\":2}","p":"/b/c.txt"}"#,
        ),
        ("function main() { return { error: 'in words' } }", r#"{"error":"in words"}"#),
    ];
    for (source, expected) in cases {
        node.deploy_js("f", source).unwrap_or_else(|failure| panic!("{source}: {failure}"));
        assert_eq!(&text(&node.call("f", r#"{"a":1}"#)), expected, "{source}");
    }
    let failures: &[(&str, FailureKind, &str)] = &[
        ("function main() { return 1 }", FailureKind::Application, "The action did not return a dictionary."),
        ("function main() { return [1] }", FailureKind::Application, "The action did not return a dictionary."),
        ("async function main() { return null }", FailureKind::Application, "The action did not return a dictionary."),
        ("function main() { throw new Error('boom') }", FailureKind::Application, "An error has occurred: Error: boom"),
        ("async function main() { throw 'text' }", FailureKind::Application, "An error has occurred: text"),
        ("function main() { return new Promise(() => {}) }", FailureKind::Application, "never settle"),
        ("function other() { }", FailureKind::Application, "has no function 'main'"),
        ("throw new Error('at the top')", FailureKind::Application, "at the top"),
        ("function main() { return { get a() { throw new Error('late') } } }", FailureKind::Application, "late"),
        ("function main() { const a = {}; a.a = a; return a }", FailureKind::Application, "circular"),
        ("function main() { throw Object.assign(new Error('I made it up'), { teemate: 'D' }) }", FailureKind::Application, "I made it up"),
        ("function main() { return { b: 10n } }", FailureKind::Application, "An error has occurred"),
    ];
    for (source, kind, part) in failures {
        node.deploy_js("f", source).unwrap();
        let (found, message) = failure(&node.call("f", "{}"));
        assert_eq!(found, *kind, "{source}: {message}");
        assert!(message.contains(part), "{source}: {message}");
    }
    for (source, part) in
        [("function main( {", "SyntaxError"), ("let a = ;", "SyntaxError"), ("let a; let a;", "SyntaxError"), ("\u{0}", "SyntaxError")]
    {
        let failure = node.deploy_js("f", source).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(failure.message.contains(part), "{source}: {failure}");
    }
    node.deploy(spec("f", Kind::JavaScript), vec![0xff, 0xfe]).unwrap_err();
    // Logs, environment, entry points of other names.
    let mut named = spec("named", Kind::JavaScript);
    named.main = "a.b".into();
    named.env = vec![("KEY".into(), "value".into())];
    node.deploy(named, b"exports.a = { b: () => { console.log('one', { two: [3] }, new Map([[1, 2]])); console.error('four'); return { key: process.env.KEY } } }".to_vec()).unwrap();
    let outcome = node.call("named", "{}");
    assert_eq!(text(&outcome), r#"{"key":"value"}"#);
    assert_eq!(outcome.logs, "one { two: [ 3 ] } Map(1) { 1 => 2 }\nfour\n");
    // Math.random differs between instances of one image.
    node.deploy_js("random", "function main() { return { n: Math.random() } }").unwrap();
    assert_ne!(text(&node.call("random", "{}")), text(&node.call("random", "{}")));
}

/// What the node waits for natively: process, engine, deployment, call. Prints medians; `--nocapture` shows them.
#[test]
fn a_native_start() {
    let hello = wat::parse_str(include_str!("../../../examples/functions/hello/hello.wat")).unwrap();
    let mut cases = vec![("hello.wat", Kind::Wasm, hello)];
    if teemate_functions::javascript::is_built() {
        cases.push(("hello.js", Kind::JavaScript, include_bytes!("../../../examples/functions/hello/main.js").to_vec()));
    }
    for (name, kind, code) in cases {
        let blob = Node::start().deploy(spec("f", kind), code.clone()).unwrap();
        let mut times: [Vec<u128>; 3] = Default::default();
        for _ in 0..31 {
            let began = Instant::now();
            let mut node = Node::start();
            times[0].push(began.elapsed().as_micros());
            let deployed = node.deploy_with(spec("f", kind), code.clone(), blob.clone()).unwrap();
            assert!(deployed.is_none());
            times[1].push(began.elapsed().as_micros());
            text(&node.call("f", "{}"));
            times[2].push(began.elapsed().as_micros());
        }
        let [ready, deployed, answered] = times.map(|mut each| {
            each.sort();
            each[15]
        });
        println!("{name}: ready {ready} us, deployed {deployed} us, answered {answered} us after the start of the process");
    }
}
