//! A process without descriptors. Alone in its file, for the limit is the process's.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Http1, request, run, start};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use teemate_gateway::Settings;
use tokio::net::TcpSocket;

#[test]
fn accepting_without_descriptors_waits_and_goes_on() {
    let running = start(Settings::default());
    run(async {
        let socket = TcpSocket::new_v4().unwrap();
        let limit = getrlimit(Resource::Nofile);
        // Every number below the limit is taken, so that no new descriptor can be had.
        let mut taken = Vec::new();
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: limit.maximum }).unwrap();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        let stream = socket.connect(running.address).await.unwrap();
        while running.gateway.counts().accept_failed < 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // 5, 10, 20, .. ms: three failures take longer than 15 ms, and a loop that spins makes thousands in that time.
        assert!(running.gateway.counts().accept_failed < 10);
        assert_eq!(running.gateway.counts().accepted, 0);
        drop(taken);
        setrlimit(Resource::Nofile, limit).unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = common::connector(std::sync::Arc::default(), &[]).connect(name, stream).await.unwrap();
        drop(stream);
        let mut client = Http1::connect(running.address).await;
        assert_eq!(client.send(request("GET", "/api/v1/who", "")).await.unwrap().0, 200);
    });
}
