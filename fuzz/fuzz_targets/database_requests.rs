//! Bytes of a client of the database: read as requests, carried out, answered. In pieces, too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_database::executor::Executor;
use teemate_database::resp::{self, Reply};
use teemate_database::session::Session;
use teemate_database::shared::{Settings, Shared};
use teemate_database::store::Store;

/// Requests of one input.
const MOST: usize = 64;

fuzz_target!(|input: &[u8]| {
    let mut executor = Executor { store: Store::new(4), shared: Shared::new(Settings::default(), 0) };
    executor.store.now = 1_700_000_000_000;
    let mut session = Session { id: 1, version: 2, authenticated: true, ..Session::default() };
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
                let spared: [&[u8]; 6] = [b"bgsave", b"shutdown", b"setrange", b"setbit", b"srandmember", b"hrandfield"];
                if !spared.contains(&name.as_slice()) {
                    executor.execute(&mut session, &arguments, &mut reply);
                }
                session.waiting = None;
                at += length;
            }
            Ok(None) | Err(_) => break,
        }
    }
});
