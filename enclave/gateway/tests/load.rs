//! Many clients at one time, and changes under them.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::{Http1, Http2, PATIENCE, Verifier, connector, request, run, start};
use rustls::pki_types::ServerName;
use teemate_gateway::{Limits, Settings, State};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 1000;

/// Raises the limit of descriptors to what this machine allows; says whether there are enough.
fn descriptors(wanted: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.is_none_or(|current| current >= wanted)
}

#[test]
fn a_thousand_connections_are_served_side_by_side() {
    if !descriptors(2 * CONNECTIONS as u64 + 100) {
        println!("SKIPPED: too few descriptors are allowed for {CONNECTIONS} connections");
        return;
    }
    let limits = Limits { per_address: CONNECTIONS, ..Limits::default() };
    let running = start(Settings { limits, ..Settings::default() });
    run(async {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Http1::connect(running.address).await);
        }
        let counts = running.gateway.counts();
        assert_eq!((counts.accepted, counts.closed), (CONNECTIONS as u64, 0));
        let all: Vec<_> = clients
            .into_iter()
            .map(|mut client| tokio::spawn(async move { client.send(request("GET", "/api/v1/who", "")).await.unwrap().0 }))
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), 200);
        }
    });
    assert_eq!(running.gateway.counts().answered_well, CONNECTIONS as u64);
}

#[test]
fn draining_loses_no_request_that_was_begun() {
    let running = start(Settings::default());
    let (well, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = running.address;
    let clients = {
        let (well, refused) = (well.clone(), refused.clone());
        std::thread::spawn(move || {
            run(async {
                let mut all = Vec::new();
                for index in 0..16 {
                    let (well, refused) = (well.clone(), refused.clone());
                    all.push(tokio::spawn(async move {
                        let (mut one, mut two) = (Http1::connect(address).await, Http2::connect(address).await);
                        loop {
                            let asked = request("GET", "/api/v1/sleep?ms=5", "");
                            let answer = if index % 2 == 0 { one.send(asked).await } else { two.send(asked).await };
                            match answer {
                                Ok((status, _, body)) => {
                                    assert_eq!((status, &body[..]), (200, &b"{}"[..]));
                                    well.fetch_add(1, SeqCst);
                                }
                                // Closed before it was sent, or while it lay unread in the socket.
                                Err(_) => {
                                    refused.fetch_add(1, SeqCst);
                                    return;
                                }
                            }
                        }
                    }));
                }
                for one in all {
                    one.await.unwrap();
                }
            });
        })
    };
    common::wait_for(|| well.load(SeqCst) > 200);
    let drained = running.gateway.drain(PATIENCE);
    clients.join().unwrap();
    assert_eq!((drained.cut, drained.finished), (0, 32));
    assert_eq!(running.gateway.state(), State::Ended);
    // Whatever arrived was answered, and whatever was answered has arrived.
    let (asked, answered) = (running.echo.asked.load(SeqCst), running.echo.answered.load(SeqCst));
    assert_eq!((asked, answered), (well.load(SeqCst), well.load(SeqCst)));
    assert_eq!(refused.load(SeqCst), 16);
    // A second time there is nothing to do.
    assert_eq!(running.gateway.drain(PATIENCE).finished, 0);
    // Who connects now waits for the next gateway, on the same socket.
    let waiting = std::net::TcpStream::connect(address).unwrap();
    let mut parts = teemate_gateway::testing::parts(running.attester.clone(), running.echo.clone(), Settings::default()).unwrap();
    parts.listener = running.gateway.take_listener().unwrap();
    let next = teemate_gateway::Gateway::start(parts).unwrap();
    common::wait_for(|| next.counts().accepted == 1);
    drop(waiting);
    next.drain(PATIENCE);
    drop(next);
    assert!(std::net::TcpStream::connect(address).is_err(), "it still listens");
}

#[test]
fn what_does_not_finish_in_time_is_cut() {
    let running = start(Settings::default());
    let address = running.address;
    let client = std::thread::spawn(move || {
        run(async {
            let mut client = Http2::connect(address).await;
            client.send(request("GET", "/api/v1/sleep?ms=600000", "")).await.is_err()
        })
    });
    common::wait_for(|| running.echo.asked.load(SeqCst) == 1);
    let drained = running.gateway.drain(Duration::from_millis(50));
    assert_eq!((drained.finished, drained.cut), (0, 1));
    assert!(client.join().unwrap());
}

#[test]
fn certificates_are_renewed_under_load() {
    let running = start(Settings { certificate_age: Duration::from_millis(30), ..Settings::default() });
    run(async {
        let mut old = Http2::connect(running.address).await;
        let verifier = Arc::new(Verifier::default());
        let name = ServerName::try_from("localhost").unwrap();
        while verifier.certificates.lock().unwrap().len() < 5 {
            // A new connector has no session to take up again.
            let stream = TcpStream::connect(running.address).await.unwrap();
            let stream = connector(verifier.clone(), &[b"http/1.1"]).connect(name.clone(), stream).await.unwrap();
            drop(stream);
            assert_eq!(old.send(request("GET", "/api/v1/who", "")).await.unwrap().0, 200);
        }
    });
    let counts = running.gateway.counts();
    assert!(counts.certificates >= 5);
    assert_eq!((counts.handshakes_failed, counts.quotes_failed), (0, 0));
}

#[test]
fn a_certificate_that_cannot_be_renewed_serves_on() {
    let running = start(Settings { certificate_age: Duration::from_millis(20), ..Settings::default() });
    running.attester.failures.store(usize::MAX, SeqCst);
    common::wait_for(|| running.gateway.counts().quotes_failed >= 1);
    assert_eq!(running.gateway.state(), State::Serving);
    run(async {
        let mut client = Http1::connect(running.address).await;
        assert_eq!(client.send(request("GET", "/api/v1/who", "")).await.unwrap().0, 200);
    });
}

#[test]
fn sessions_can_be_taken_up_again() {
    let running = start(Settings::default());
    run(async {
        let verifier = Arc::new(Verifier::default());
        let connector = connector(verifier.clone(), &[b"http/1.1"]);
        for _ in 0..3 {
            let stream = TcpStream::connect(running.address).await.unwrap();
            let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            assert_eq!(sender.send_request(request("GET", "/api/v1/who", "")).await.unwrap().status(), 200);
            drop(sender);
            let _ = connection.await;
        }
        assert_eq!(verifier.seen.load(SeqCst), 1);
    });
}
