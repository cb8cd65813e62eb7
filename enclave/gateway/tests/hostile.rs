//! What a hostile client can do, and what it cannot.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Http1, Http2, PATIENCE, Running, anonymous, request, run, start, tls, wait_for};
use teemate_gateway::{Limits, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHORT: Duration = Duration::from_millis(200);

fn limited(limits: Limits) -> Running {
    start(Settings { limits, ..Settings::default() })
}

/// The gateway still serves others.
fn serves(running: &Running) {
    run(async {
        let mut client = Http1::connect(running.address).await;
        assert_eq!(client.send(request("GET", "/api/v1/who", "")).await.unwrap().0, 200);
    });
}

/// Everything that a connection still gives, whatever its end is.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn who_says_nothing_or_no_tls_is_let_go() {
    let running = limited(Limits { handshake: SHORT, ..Limits::default() });
    let mut silent = std::net::TcpStream::connect(running.address).unwrap();
    let mut other = std::net::TcpStream::connect(running.address).unwrap();
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    for stream in [&mut silent, &mut other] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert!(!String::from_utf8_lossy(&all).contains("HTTP"));
    }
    wait_for(|| running.gateway.counts().handshakes_failed == 2);
    serves(&running);
}

#[test]
fn a_head_that_never_ends_is_let_go() {
    let running = limited(Limits { head: SHORT, ..Limits::default() });
    run(async {
        let mut stream = tls(running.address, &[b"http/1.1"]).await;
        let mut drip = async |bytes: &[u8]| {
            for byte in bytes.iter().cycle() {
                if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        drip(b"x-drip: drop\r\n").await;
    });
    wait_for(|| running.gateway.counts().closed == 1);
    assert_eq!(running.gateway.counts().requests, 0);
    serves(&running);
}

#[test]
fn a_connection_without_requests_is_let_go() {
    let running = limited(Limits { idle: SHORT, farewell: SHORT, ..Limits::default() });
    run(async {
        for protocol in [&b"h2"[..], b"http/1.1"] {
            let mut stream = tls(running.address, &[protocol]).await;
            rest(&mut stream).await;
        }
    });
    wait_for(|| running.gateway.counts().closed == 2);
}

#[test]
fn heads_have_a_largest_size() {
    let running = limited(Limits::default());
    run(async {
        let long = format!("GET /api/v1/who HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(100_000));
        let many = format!("GET /api/v1/who HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(200));
        let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
        for head in [long, many, path] {
            let mut stream = tls(running.address, &[b"http/1.1"]).await;
            let _ = stream.write_all(head.as_bytes()).await;
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 "), "{answer:?}");
        }
        let mut client = Http2::connect(running.address).await;
        let mut long = request("GET", "/api/v1/who", "");
        long.headers_mut().insert("x-long", "a".repeat(100_000).parse().unwrap());
        match client.send(long).await {
            Ok((status, _, _)) => assert_eq!(status, 431),
            Err(error) => assert!(!error.is_timeout()),
        }
    });
    assert_eq!(running.echo.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
    serves(&running);
}

#[test]
fn bodies_have_a_largest_size_by_route() {
    let running = limited(Limits::default());
    run(async {
        let body = vec![b'x'; (1 << 20) + 1];
        let mut client = Http2::connect(running.address).await;
        assert_eq!(client.send(request("POST", "/api/v1/large", body.clone())).await.unwrap().0, 200);
        assert_eq!(client.send(request("POST", "/api/v1/echo", body[1..].to_vec())).await.unwrap().0, 200);
        let (status, _, answer) = client.send(request("POST", "/api/v1/echo", body.clone())).await.unwrap();
        assert_eq!(status, 413);
        assert!(String::from_utf8_lossy(&answer).contains("Request larger than allowed: 1048577 > 1048576 bytes."));
        // The client gets its answer although it writes on, announced or in chunks.
        let credentials = {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(teemate_gateway::testing::ADA)
        };
        for framing in [format!("content-length: {}", 3 << 20), "transfer-encoding: chunked".to_owned()] {
            let mut stream = tls(running.address, &[b"http/1.1"]).await;
            let head = format!("POST /api/v1/echo HTTP/1.1\r\nhost: x\r\nauthorization: Basic {credentials}\r\n{framing}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let writing = tokio::spawn(async move {
                for _ in 0..48 {
                    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                    if writer.write_all(chunk.as_bytes()).await.is_err() || writer.flush().await.is_err() {
                        break;
                    }
                }
            });
            let answer = rest(&mut reader).await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
            writing.await.unwrap();
        }
    });
    assert_eq!(running.gateway.counts().refused_large, 3);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let running = limited(Limits { patience: SHORT, ..Limits::default() });
    run(async {
        let mut stream = tls(running.address, &[b"http/1.1"]).await;
        stream.write_all(b"POST /api/v1/web/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc").await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
        // Here the end of the stream is the end of the body: what is missing is no body.
        let mut stream = tls(running.address, &[b"http/1.1"]).await;
        stream.write_all(b"POST /api/v1/web/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc").await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    });
    assert_eq!(running.echo.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
    wait_for(|| running.gateway.counts().closed == 2);
    serves(&running);
}

#[test]
fn bodies_together_have_a_largest_size() {
    let running = limited(Limits { bodies: 1 << 20, ..Limits::default() });
    run(async {
        let mut stream = tls(running.address, &[b"http/1.1"]).await;
        stream.write_all(b"POST /api/v1/web/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc").await.unwrap();
        while running.gateway.counts().requests < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut client = Http1::connect(running.address).await;
        let (status, headers, _) = client.send(request("POST", "/api/v1/echo", vec![0; 100_000])).await.unwrap();
        assert_eq!((status, headers.contains_key("retry-after")), (503, true));
        drop(stream);
        // Both: the body that was refused has not been read, so its connection ends too.
        wait_for_async(|| running.gateway.counts().closed == 2).await;
        let mut client = Http1::connect(running.address).await;
        assert_eq!(client.send(request("POST", "/api/v1/echo", vec![0; 100_000])).await.unwrap().0, 200);
    });
}

#[test]
fn who_does_not_read_is_let_go() {
    let running = limited(Limits { patience: SHORT, rate: 1 << 30, farewell: SHORT, ..Limits::default() });
    run(async {
        let mut one = tls(running.address, &[b"http/1.1"]).await;
        for _ in 0..3 {
            one.write_all(b"GET /api/v1/web/bytes?n=20000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        }
        one.flush().await.unwrap();
        // With HTTP/2 it is the window that stays closed: the socket itself never blocks.
        let stream = tls(running.address, &[b"h2"]).await;
        let (mut sender, connection) =
            h2::client::Builder::new().initial_window_size(10).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get("https://localhost/api/v1/web/bytes?n=1000000").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        wait_for_async(|| running.gateway.counts().closed == 2).await;
        drop((one, response));
        let _ = connection.await;
    });
    assert!(running.gateway.counts().refused_slow >= 1);
    serves(&running);
}

async fn wait_for_async(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_flood_of_resets_ends_the_connection_that_it_comes_from() {
    let running = limited(Limits { resets: 50, ..Limits::default() });
    run(async {
        let stream = tls(running.address, &[b"h2"]).await;
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        for _ in 0..100_000 {
            let Ok(mut ready) = sender.clone().ready().await else { break };
            let request = http::Request::get("https://localhost/api/v1/web/sleep?ms=60000").body(()).unwrap();
            let Ok((_, mut stream)) = ready.send_request(request, true) else { break };
            // Give it time to arrive, or else it is reset before it was sent.
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        assert!(connection.await.unwrap().is_err() || running.gateway.counts().closed == 1);
    });
    wait_for(|| running.gateway.counts().closed == 1);
    assert_eq!(running.echo.answered.load(std::sync::atomic::Ordering::SeqCst), 0);
    serves(&running);
}

#[test]
fn streams_of_a_connection_are_limited() {
    let running = limited(Limits { streams: 4, ..Limits::default() });
    run(async {
        let mut client = Http2::connect(running.address).await;
        // From the first answer on the client knows the limit.
        client.send(request("GET", "/api/v1/who", "")).await.unwrap();
        let all: Vec<_> = (0..40)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move { client.send(request("GET", "/api/v1/sleep?ms=5", "")).await.unwrap().0 })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), 200);
        }
    });
}

#[test]
fn one_address_does_not_take_all_places() {
    let running = limited(Limits { per_address: 2, ..Limits::default() });
    run(async {
        let (_one, _two) = (tls(running.address, &[]).await, tls(running.address, &[]).await);
        let mut three = tokio::net::TcpStream::connect(running.address).await.unwrap();
        assert_eq!(rest(&mut three).await, "");
        wait_for_async(|| running.gateway.counts().refused_address == 1).await;
    });
    wait_for(|| running.gateway.counts().closed == 3);
    serves(&running);
}

#[test]
fn the_idlest_makes_room_and_the_busy_do_not() {
    let running = limited(Limits { connections: 4, ..Limits::default() });
    run(async {
        let mut busy = Http1::connect(running.address).await;
        let working = tokio::spawn(async move { busy.send(request("GET", "/api/v1/sleep?ms=1000", "")).await });
        wait_for_async(|| running.gateway.counts().requests == 1).await;
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(tls(running.address, &[]).await);
        }
        assert_eq!(working.await.unwrap().unwrap().0, 200);
        assert!(running.gateway.counts().refused_idlest >= 16);
    });
    serves(&running);
}

#[test]
fn a_panic_is_an_error_of_one_request() {
    let running = limited(Limits::default());
    run(async {
        let mut client = Http2::connect(running.address).await;
        assert_eq!(client.send(request("GET", "/api/v1/panic", "")).await.unwrap().0, 500);
        assert_eq!(client.send(request("GET", "/api/v1/who", "")).await.unwrap().0, 200);
    });
}

#[test]
fn an_answer_that_takes_too_long_is_an_error() {
    let running = limited(Limits { answer: SHORT, ..Limits::default() });
    run(async {
        let mut client = Http2::connect(running.address).await;
        assert_eq!(client.send(anonymous("GET", "/api/v1/web/sleep?ms=60000", "", None)).await.unwrap().0, 503);
    });
    assert_eq!(running.gateway.counts().refused_time, 1);
}

#[test]
fn old_tls_is_not_spoken() {
    let running = limited(Limits::default());
    run(async {
        // A TLS 1.2 ClientHello of the shortest kind.
        let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
        let mut stream = tokio::net::TcpStream::connect(running.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        // An alert, and nothing else.
        assert_eq!(all.first(), Some(&0x15), "{all:?}");
    });
}
