//! Bytes of a client of the database: read as requests, carried out, answered. In pieces, too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_database::commands::Context;
use teemate_database::config::Config;
use teemate_database::dispatch;
use teemate_database::resp::{self, Reply};
use teemate_database::session::Session;
use teemate_database::shared::Shared;
use teemate_database::store::Store;

/// Requests of one input.
const MOST: usize = 64;

fuzz_target!(|input: &[u8]| {
    let (mut store, mut shared, mut session) = (Store::new(4), Shared::new(Config::default(), 0), Session::new(1, 0, 0));
    store.now = 1_700_000_000_000;
    session.user = shared.acl.initial();
    let mut reply = Reply::default();
    let mut at = 0;
    for _ in 0..MOST {
        // What is not all there must not be taken for a request, wherever it was cut.
        match resp::request(&input[at..]) {
            Ok(Some((request, length))) => {
                assert!(length > 0 && length <= input.len() - at);
                let arguments = request.arguments(&input[at..]);
                let name = arguments.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
                // These touch the file system, or make as much as they are told to.
                let spared: [&[u8]; 8] = [b"bgsave", b"save", b"shutdown", b"debug", b"setrange", b"setbit", b"srandmember", b"hrandfield"];
                if !arguments.is_empty() && !spared.contains(&name.as_slice()) {
                    dispatch::process(&mut Context {
                        store: &mut store,
                        session: &mut session,
                        shared: &mut shared,
                        args: &arguments,
                        reply: &mut reply,
                    });
                }
                session.waiting = None;
                at += length;
            }
            Ok(None) | Err(_) => break,
        }
    }
});
