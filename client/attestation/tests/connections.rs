//! Connections to honest and lying servers.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::{Enclave, Server, policy, quote, server_config};
use teemate_attestation::proxy::{self, Event, Options, Protocol};
use teemate_attestation::{Connector, Document, Endpoint, Policy, Refusal, Session, now, session, tls};
use teemate_evidence::SecretKey;
use teemate_evidence::certificate::self_signed;

fn connector() -> Connector {
    Connector::new(policy()).unwrap()
}

fn strict() -> Connector {
    Connector::new(Policy { insecure_simulation: false, ..policy() }).unwrap()
}

#[test]
fn an_accepted_enclave_is_spoken_to() {
    let server = Server::honest();
    let mut session = Session::open(&connector(), &server.endpoint()).unwrap();
    assert_eq!(session.verified().mrenclave, common::MRENCLAVE);
    assert_eq!(session.info().unwrap().epoch, 7);
    let nonce = session::nonce().unwrap();
    let fresh = session.attest(nonce, now()).unwrap();
    assert_eq!(fresh.binding.nonce, Some(nonce));
    let bundle = session.receipt("00112233445566778899aabbccddeeff").unwrap();
    let findings = Document::Receipt(Box::new(bundle)).verify(None, &policy(), None, now()).unwrap();
    assert_eq!(findings.receipt.unwrap().owner, "ada");
    let missing = session.receipt("ffffffffffffffffffffffffffffffff").unwrap_err();
    assert!(matches!(&missing, session::Error::Answer { status: 404, why, .. } if why.contains("nothing of this name")), "{missing}");
}

#[test]
fn nothing_is_sent_to_who_is_refused() {
    let enclave = Enclave::new();
    let host = SecretKey::from_bytes(&[0x66; 32]).unwrap();
    let stolen = self_signed(&host, &enclave.evidence().encode(), &["localhost"], 1_700_000_000, 4_000_000_000);
    let plain = self_signed(&host, &[0x80], &["localhost"], 1_700_000_000, 4_000_000_000);
    for (config, connector, hint) in [
        (server_config(enclave.certificate(), &enclave.tls), strict(), "simulated quote"),
        (server_config(stolen, &host), connector(), "another key"),
        (server_config(plain, &host), connector(), "certificate's evidence"),
    ] {
        let server = Server::new(config, |_, _| (200, Vec::new()));
        let error = Session::open(&connector, &server.endpoint()).err().unwrap();
        assert!(matches!(error, session::Error::Connect(tls::Error::Refused { .. })), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        assert_eq!(server.received(), 0);
    }
}

#[test]
fn who_has_the_certificate_but_not_its_key_is_refused() {
    let enclave = Enclave::new();
    let host = SecretKey::from_bytes(&[0x66; 32]).unwrap();
    // rustls would refuse to serve a certificate with a key that is not its own; a host's server would not.
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&rustls::pki_types::PrivateKeyDer::Pkcs8(
        teemate_evidence::certificate::pkcs8(&host).into(),
    ))
    .unwrap();
    let certified = rustls::sign::CertifiedKey::new(vec![enclave.certificate().into()], key);
    #[derive(Debug)]
    struct Always(std::sync::Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Always {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(std::sync::Arc::new(Always(certified.into())));
    let server = Server::new(config.into(), |_, _| (200, Vec::new()));
    let error = Session::open(&connector(), &server.endpoint()).err().unwrap();
    assert!(matches!(error, session::Error::Connect(tls::Error::Handshake { .. })), "{error}");
    assert_eq!(server.received(), 0);
}

/// A session with an enclave's key, whose answers are changed.
fn lying(answer: impl Fn(&Enclave, &str, &[u8]) -> Vec<u8> + Clone + Send + 'static) -> Session {
    let enclave = Enclave::new();
    let config = server_config(enclave.certificate(), &enclave.tls);
    let server = Server::new(config, move |path, body| (200, answer(&enclave, path, body)));
    Session::open(&connector(), &server.endpoint()).unwrap()
}

#[test]
fn what_contradicts_the_quote_is_not_believed() {
    let info = |change: fn(&mut teemate_evidence::api::Info)| {
        let mut session = lying(move |enclave, _, _| {
            let mut info = enclave.info();
            change(&mut info);
            serde_json::to_vec(&info).unwrap()
        });
        session.info()
    };
    assert!(info(|_| {}).is_ok());
    let changes: [fn(&mut teemate_evidence::api::Info); 5] =
        [|i| i.mrenclave[0] ^= 1, |i| i.mrsigner[0] ^= 1, |i| i.isv_svn += 1, |i| i.isv_prod_id += 1, |i| i.simulation = false];
    for change in changes {
        assert!(matches!(info(change), Err(session::Error::Contradiction { .. })));
    }
    assert!(matches!(lying(|_, _, _| b"[]".to_vec()).info(), Err(session::Error::Nonsense { .. })));
    assert!(matches!(lying(|_, _, _| vec![b' '; 2 << 20]).info(), Err(session::Error::Http(_))));
}

#[test]
fn fresh_quotes_must_be_fresh_and_for_this_connection() {
    let attest = |answer: fn(&Enclave, [u8; 32]) -> teemate_evidence::api::AttestResponse| {
        let mut session = lying(move |enclave, _, body| {
            let request: teemate_evidence::api::AttestRequest = serde_json::from_slice(body).unwrap();
            serde_json::to_vec(&answer(enclave, request.nonce)).unwrap()
        });
        session.attest([7; 32], now()).map(|fresh| fresh.binding)
    };
    let refused = |answer| match attest(answer) {
        Err(session::Error::Refused(refusal)) => *refusal,
        other => panic!("{other:?}"),
    };
    assert!(attest(|enclave, nonce| enclave.attest(nonce)).is_ok());
    assert!(matches!(refused(|enclave, _| enclave.attest([8; 32])), Refusal::Nonce), "an old answer");
    let renamed = |enclave: &Enclave, nonce| {
        let mut answer = enclave.attest([8; 32]);
        answer.binding.nonce = Some(nonce);
        answer
    };
    assert!(matches!(refused(renamed), Refusal::Evidence(_)), "an old quote with the new nonce beside it");
    // Another enclave of the same kind answers: its quote is good, but it is not at the other end of this connection.
    let relayed = |_: &Enclave, nonce| Enclave { tls: SecretKey::from_bytes(&[0x44; 32]).unwrap(), ..Enclave::new() }.attest(nonce);
    assert!(matches!(refused(relayed), Refusal::ConnectionKey));
    let receipts = |enclave: &Enclave, _| {
        let bundle = enclave.bundle();
        teemate_evidence::api::AttestResponse { quote: bundle.quote, binding: bundle.binding, collateral: None }
    };
    assert!(matches!(refused(receipts), Refusal::Nonce), "a quote for receipts");
    let other = |enclave: &Enclave, nonce| teemate_evidence::api::AttestResponse { quote: quote(&[0; 64]), ..enclave.attest(nonce) };
    assert!(matches!(refused(other), Refusal::Evidence(_)), "a quote of something else");
}

#[test]
fn silence_and_dribble_end_in_time() {
    for dribble in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            // The head of a long handshake record, then a byte now and then.
            let _ = socket.write_all(&[0x16, 3, 3, 0x40, 0]);
            while dribble && socket.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_secs(20));
        });
        let connector = connector().with_timeout(Duration::from_millis(200));
        let endpoint = Endpoint { host: address.ip().to_string(), port: address.port() };
        let error = connector.connect(&endpoint).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}

#[test]
fn nobody_there_is_said() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = Endpoint { host: address.ip().to_string(), port: address.port() };
    assert!(matches!(connector().connect(&endpoint), Err(tls::Error::Unreachable { .. })));
}

/// A proxy in a thread; its address and events.
fn proxied(endpoint: Endpoint, connector: Connector, connections: usize, idle: Duration) -> (SocketAddr, mpsc::Receiver<Event>) {
    proxied_for(Protocol::Http, endpoint, connector, connections, idle)
}

fn proxied_for(
    protocol: Protocol,
    endpoint: Endpoint,
    connector: Connector,
    connections: usize,
    idle: Duration,
) -> (SocketAddr, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel();
    let (started, address) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            started.send(listener.local_addr().unwrap()).unwrap();
            let tell = move |event| drop(sender.send(event));
            proxy::serve(listener, connector, Options { endpoint, protocol, connections, idle, known: None }, tell).await;
        });
    });
    (address.recv().unwrap(), events)
}

const MINUTE: Duration = Duration::from_secs(60);

fn get(stream: &mut TcpStream, path: &str) -> String {
    stream.set_read_timeout(Some(MINUTE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"inside") && stream.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn the_proxy_pipes_to_who_is_accepted() {
    let server = Server::honest();
    let (address, events) = proxied(server.endpoint(), connector(), 1, MINUTE);
    let mut first = TcpStream::connect(address).unwrap();
    for _ in 0..3 {
        assert!(get(&mut first, "/hello").ends_with("hello from inside"), "keep-alive");
    }
    assert!(matches!(events.recv().unwrap(), Event::Opened(_)));
    // A second connection waits for the only place.
    let mut second = TcpStream::connect(address).unwrap();
    second.write_all(b"GET /hello HTTP/1.1\r\n\r\n").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(second.read(&mut [0]).is_err());
    drop(first);
    assert!(matches!(events.recv().unwrap(), Event::Closed(_, there, back) if there > 0 && back > 0));
    assert!(get(&mut second, "/hello").ends_with("inside"));
}

#[test]
fn the_proxy_says_502_and_sends_nothing_to_who_is_refused() {
    let server = Server::honest();
    let (address, events) = proxied(server.endpoint(), strict(), 4, MINUTE);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"POST /secret HTTP/1.1\r\nContent-Length: 100000\r\n\r\n").unwrap();
    let _ = stream.write_all(&[b's'; 100_000]);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{page}");
    assert!(page.contains("simulated quote") && page.contains("sent nothing"), "{page}");
    assert!(matches!(events.recv().unwrap(), Event::Refused(_, why) if why.contains("simulated quote")));
    assert_eq!(server.received(), 0);
    // It does not even start where it can know.
    let options = Options { endpoint: server.endpoint(), protocol: Protocol::Http, connections: 1, idle: MINUTE, known: None };
    let started = proxy::run("127.0.0.1:0".parse().unwrap(), strict(), options, |_| panic!("it listens"), |_| {});
    assert!(matches!(started, Err(proxy::Error::Endpoint(tls::Error::Refused { .. }))));
}

/// Answers each read with a simple string of Redis's, inside TLS. Tells what ALPN chose for each connection, and counts the bytes read.
fn redis(names: mpsc::Sender<Option<Vec<u8>>>) -> (Endpoint, Arc<AtomicUsize>) {
    let enclave = Enclave::new();
    let mut config = (*server_config(enclave.certificate(), &enclave.tls)).clone();
    // A client that offered HTTP would get it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let received = Arc::new(AtomicUsize::new(0));
    let counter = received.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (config, names, counter) = (config.clone(), names.clone(), counter.clone());
            std::thread::spawn(move || {
                let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), socket.unwrap());
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    counter.fetch_add(length, Ordering::SeqCst);
                    let _ = names.send(stream.conn.alpn_protocol().map(<[u8]>::to_vec));
                    if stream.write_all(b"+PONG\r\n").and_then(|()| stream.flush()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (Endpoint { host: address.ip().to_string(), port: address.port() }, received)
}

#[test]
fn the_proxy_pipes_redis_without_a_name_for_it() {
    let (names, named) = mpsc::channel();
    let (endpoint, received) = redis(names);
    for protocol in [Protocol::Redis, Protocol::Tcp] {
        let (address, _events) = proxied_for(protocol, endpoint.clone(), connector(), 4, MINUTE);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(MINUTE)).unwrap();
        for _ in 0..3 {
            stream.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"+PONG\r\n");
            assert_eq!(named.recv_timeout(MINUTE).unwrap(), None, "nothing was offered");
        }
    }
    assert!(received.load(Ordering::SeqCst) >= 6 * 14);
    let (address, _events) = proxied(endpoint, connector(), 4, MINUTE);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(named.recv_timeout(MINUTE).unwrap().as_deref(), Some(&b"http/1.1"[..]), "HTTP is offered where it is spoken");
}

#[test]
fn a_redis_client_is_told_in_its_own_words_who_was_refused() {
    let (names, _named) = mpsc::channel();
    let (endpoint, received) = redis(names);
    let (address, events) = proxied_for(Protocol::Redis, endpoint.clone(), strict(), 4, MINUTE);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(MINUTE)).unwrap();
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6\r\nsecret\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("-ERR ") && reply.contains("simulated quote"), "{reply}");
    assert_eq!(reply.find('\n'), Some(reply.len() - 1), "one line, or it would be several replies: {reply:?}");
    drop(stream);
    assert!(matches!(events.recv().unwrap(), Event::Refused(_, why) if why.contains("simulated quote")));
    // A protocol that has no words for it.
    let (address, _events) = proxied_for(Protocol::Tcp, endpoint, strict(), 4, MINUTE);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(MINUTE)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(received.load(Ordering::SeqCst), 0);
}

/// Skipped where there is no `redis-cli`.
#[test]
fn redis_cli_goes_through_the_proxy() {
    let (names, _named) = mpsc::channel();
    let (endpoint, _received) = redis(names);
    let ping = |connector| {
        let (address, _events) = proxied_for(Protocol::Redis, endpoint.clone(), connector, 4, MINUTE);
        std::process::Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "PING"]).output()
    };
    let Ok(accepted) = ping(connector()) else {
        println!("skipped: redis-cli is not installed");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&accepted.stdout).trim(), "PONG", "{accepted:?}");
    let refused = ping(strict()).unwrap();
    assert!(String::from_utf8_lossy(&refused.stdout).contains("teemate proxy sent nothing"), "{refused:?}");
}

#[test]
fn the_proxy_closes_what_stands_still_and_keeps_what_moves() {
    let server = Server::honest();
    let (address, events) = proxied(server.endpoint(), connector(), 4, Duration::from_secs(1));
    let mut stream = TcpStream::connect(address).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1300) {
        assert!(get(&mut stream, "/hello").ends_with("inside"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "closed");
    let told: Vec<Event> = events.iter().take(2).collect();
    assert!(matches!(told[..], [Event::Opened(_), Event::Idle(_)]), "{told:?}");
}

#[test]
fn a_cut_connection_is_no_end() {
    // The host cuts TCP after a part of an answer whose length is not stated.
    let enclave = Enclave::new();
    let config = server_config(enclave.certificate(), &enclave.tls);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), socket.unwrap());
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of it").and_then(|()| stream.flush());
        }
    });
    let endpoint = Endpoint { host: address.ip().to_string(), port: address.port() };
    assert!(matches!(Session::open(&connector(), &endpoint).unwrap().info(), Err(session::Error::Http(_))));
    let (address, _events) = proxied(endpoint, connector(), 1, MINUTE);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut text = Vec::new();
    assert!(stream.read_to_end(&mut text).is_err(), "a reset, not an end: {}", String::from_utf8_lossy(&text));
}

#[test]
fn the_same_certificate_is_judged_once_a_minute_and_its_key_is_proven_each_time() {
    let enclave = Enclave::new();
    let connector = connector();
    let honest = Server::new(server_config(enclave.certificate(), &enclave.tls), |_, _| (200, Vec::new()));
    assert!(connector.connect(&honest.endpoint()).is_ok());
    // Known by now, and good for that connection's key alone.
    let host = SecretKey::from_bytes(&[0x66; 32]).unwrap();
    let stolen = self_signed(&host, &enclave.evidence().encode(), &["localhost"], 1_700_000_000, 4_000_000_000);
    let liar = Server::new(server_config(stolen, &host), |_, _| (200, Vec::new()));
    assert!(matches!(connector.connect(&liar.endpoint()), Err(tls::Error::Refused { .. })));
    assert!(connector.connect(&honest.endpoint()).is_ok());
    // What one connector accepted is nothing to another one's policy.
    assert!(matches!(strict().connect(&honest.endpoint()), Err(tls::Error::Refused { .. })));
    assert!(connector.clone().connect(&honest.endpoint()).is_ok());
}
