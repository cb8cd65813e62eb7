//! Requests of OpenWhisk's API, one after the other: any method, path, query and body. Each has an answer, what it says is JSON where it says
//! so, and nothing panics.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use teemate_gateway::testing::EchoFunctions;
use teemate_gateway::whisk::vault::VaultStore;
use teemate_gateway::whisk::{Config, Whisk};
use teemate_gateway::{Owner, Request, Routes};
use teemate_vault::testing::MemoryDisk;
use teemate_vault::{FixedSealing, OwnerLimits, Owners, Vault};

const METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "BREW"];

// Each request is two lines: method, path and query; body.
fuzz_target!(|bytes: &[u8]| {
    let vault = Vault::open(Arc::new(MemoryDisk::new()), Arc::new(FixedSealing::new([1; 16]))).expect("a vault");
    let owners = Arc::new(Owners::open(vault.clone()).expect("owners"));
    let token = owners.invite("ada", OwnerLimits::default(), Duration::from_secs(60)).expect("an invitation");
    let uuid = owners.claim(&token).expect("credentials").uuid;
    let store = Arc::new(VaultStore::new(vault, owners));
    let whisk = Whisk::new(Config::default(), Arc::new(EchoFunctions::default()), store, Arc::new(()), Arc::new(()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let mut lines = bytes.split(|byte| *byte == b'\n');
    for _ in 0..12 {
        let Some((choice, line)) = lines.next().and_then(<[u8]>::split_first) else { return };
        let target = String::from_utf8_lossy(line).into_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pair = |pair: &str| pair.split_once('=').map_or((pair.to_owned(), String::new()), |(key, value)| (key.to_owned(), value.to_owned()));
        let request = Request {
            method: METHODS[usize::from(choice & 7)].parse().expect("a method"),
            path: format!("/{path}"),
            query: query.split('&').map(pair).collect(),
            headers: http::HeaderMap::new(),
            body: lines.next().unwrap_or_default().to_vec().into(),
            owner: (choice & 8 == 0).then(|| Owner { namespace: "ada".into(), uuid: uuid.clone() }),
        };
        let _ = whisk.limits(&request.method, &request.path);
        let response = runtime.block_on(whisk.clone().handle(request));
        if response.headers.get("content-type").is_some_and(|kind| kind == "application/json") {
            serde_json::from_slice::<serde::de::IgnoredAny>(&response.body).expect("JSON that is JSON");
        }
        assert_ne!(response.status, 500, "{}", String::from_utf8_lossy(&response.body));
    }
});
