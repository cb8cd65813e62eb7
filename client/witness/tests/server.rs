//! A real server on a real socket, and strangers who send it what they like.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use teemate_witness::protocol::{self, About, Refusal, Request, Response, Secret, VERSION};
use teemate_witness::{Mark, Remembered};
use teemate_witness_server::{Identity, Memory, Server};

struct Place {
    directory: tempfile::TempDir,
    address: SocketAddr,
    certificate: Vec<u8>,
}

fn start() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let memory = Memory::open(directory.path()).unwrap();
    let identity = Identity::open(directory.path(), &["127.0.0.1".to_owned(), "witness.example".to_owned()]).unwrap();
    let certificate = std::fs::read(identity.certificate()).unwrap();
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &identity, memory).unwrap();
    let address = server.address().unwrap();
    std::thread::spawn(move || server.serve(|_| {}));
    Place { directory, address, certificate }
}

fn connect(place: &Place, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&place.certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(place.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap(), socket)
}

fn request(about: About) -> Request {
    Request { version: VERSION, database: [1; 16], secret: Secret([2; 32]), about }
}

fn ask(stream: &mut (impl Read + Write), request: &Request) -> Response {
    protocol::write(request, stream).unwrap();
    protocol::read(stream).unwrap().unwrap()
}

#[test]
fn it_answers_who_knows_the_secret_and_nobody_else() {
    let place = start();
    for name in ["127.0.0.1", "witness.example"] {
        let mut stream = connect(&place, name);
        let opened = ask(&mut stream, &request(About::Open { above: 0, new: true }));
        let Response::Opened(Remembered { epoch, .. }) = opened else { panic!("{opened:?}") };
        let mark = Mark { epoch, ..Mark::default() };
        assert_eq!(ask(&mut stream, &request(About::Remember(mark))), Response::Remembered);
        let stranger = Request { secret: Secret([3; 32]), ..request(About::Remember(mark)) };
        assert_eq!(ask(&mut stream, &stranger), Response::Refused(Refusal::Key));
        let stranger = Request { secret: Secret([3; 32]), ..request(About::Open { above: 0, new: true }) };
        assert_eq!(ask(&mut stream, &stranger), Response::Refused(Refusal::Key));
        let other = Request { version: VERSION + 1, ..request(About::Remember(mark)) };
        assert_eq!(ask(&mut stream, &other), Response::Refused(Refusal::Version(VERSION)));
    }
    assert!(protocol::write(&request(About::Open { above: 0, new: true }), &mut connect(&place, "other.example")).is_err());
    // The next process has the same key, and the same memory.
    let again = Identity::open(place.directory.path(), &[]).unwrap();
    assert_eq!(std::fs::read(again.certificate()).unwrap(), place.certificate);
    assert!(again.tls().is_ok());
    assert_eq!(teemate_witness_server::memory::read(place.directory.path()).unwrap().len(), 1);
}

#[test]
fn strangers_gain_nothing_and_hold_nobody_up() {
    let place = start();
    // Plain bytes; TLS and then nonsense; TLS and a length without end; connections that say nothing.
    TcpStream::connect(place.address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    for nonsense in [&b"\xff\xff\xff\xff"[..], &[5, 0, 0, 0, 9, 9, 9, 9, 9], &[4, 0, 0, 0]] {
        let mut stream = connect(&place, "127.0.0.1");
        stream.write_all(nonsense).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut rest = Vec::new();
        // It ends without an answer, in one way or another.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(place.address).unwrap()).collect();
    let began = Instant::now();
    let mut stream = connect(&place, "127.0.0.1");
    assert!(matches!(ask(&mut stream, &request(About::Open { above: 0, new: true })), Response::Opened(_)));
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(silent);
}
