//! A client's TLS over a network that is a pair of vectors.

use std::sync::Mutex;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What the network's other end has sent and got, by slot.
#[derive(Default)]
struct Wire {
    opens: bool,
    to_server: Vec<u8>,
    from_server: Vec<u8>,
    closed: bool,
}

struct Wired(Arc<Mutex<Wire>>);

impl Network for Wired {
    fn turn(&mut self, buffers: &mut Vec<Buffers>, dirty: &[usize], _: Duration, turn: &mut Turn) -> io::Result<()> {
        let mut wire = self.0.lock().unwrap();
        if std::mem::take(&mut wire.opens) {
            buffers.push(Buffers::default());
            turn.opened.push((0, "peer".to_owned(), "local".to_owned()));
        }
        for slot in dirty {
            let output = buffers[*slot].take_unsent();
            wire.from_server.extend(output);
        }
        if !wire.to_server.is_empty() {
            let input = std::mem::take(&mut wire.to_server);
            buffers[0].input.extend(input);
            turn.ready.push(0);
        }
        Ok(())
    }

    fn close(&mut self, _: usize) {
        self.0.lock().unwrap().closed = true;
    }
}

struct Pair {
    wire: Arc<Mutex<Wire>>,
    server: Tls<Wired>,
    buffers: Vec<Buffers>,
    client: ClientConnection,
    /// What the client has got.
    got: Vec<u8>,
}

impl Pair {
    fn new() -> Pair {
        let key = teemate_service::certificate::fresh_key();
        let der = teemate_evidence::certificate::self_signed(&key, b"", &["localhost"], 0, u64::from(u32::MAX));
        let certificate = CertificateDer::from(der);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(teemate_evidence::certificate::pkcs8(&key)));
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], secret)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let wire = Arc::new(Mutex::new(Wire { opens: true, ..Wire::default() }));
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        client.set_buffer_limit(None);
        Pair { server: Tls::new(Wired(wire.clone()), Arc::new(server)), wire, buffers: Vec::new(), client, got: Vec::new() }
    }

    /// One turn of the server, and what the client makes of what came.
    fn turn(&mut self, dirty: &[usize]) -> Turn {
        {
            let mut wire = self.wire.lock().unwrap();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire.to_server).unwrap();
            }
        }
        let mut turn = Turn::default();
        self.server.turn(&mut self.buffers, dirty, Duration::ZERO, &mut turn).unwrap();
        let bytes = std::mem::take(&mut self.wire.lock().unwrap().from_server);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            let _ = self.client.process_new_packets();
            let _ = self.client.reader().read_to_end(&mut self.got);
        }
        turn
    }
}

#[test]
fn what_one_writes_the_other_reads() {
    let mut pair = Pair::new();
    assert_eq!(pair.turn(&[]).opened.len(), 1);
    // What is written before the handshake is over waits for its end.
    let request = vec![b'x'; 300_000];
    pair.client.writer().write_all(&request).unwrap();
    for _ in 0..20 {
        assert!(pair.turn(&[]).closed.is_empty());
    }
    assert!(pair.buffers[0].input == request, "{} bytes", pair.buffers[0].input.len());
    let answer = vec![b'y'; 1_000_000];
    pair.buffers[0].output = answer.clone();
    pair.turn(&[0]);
    for _ in 0..10 {
        pair.turn(&[]);
    }
    assert!(pair.got == answer, "{} bytes", pair.got.len());
    assert_eq!(pair.buffers[0].unsent(), 0);
}

/// The host has the sockets: it changes a byte, or says something that is no TLS.
#[test]
fn a_host_that_changes_something_ends_the_connection() {
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[22, 3, 1, 0xff, 0xff]] {
        let mut pair = Pair::new();
        pair.wire.lock().unwrap().to_server = noise.to_vec();
        let turns: Vec<usize> = (0..3)
            .map(|_| {
                let mut turn = Turn::default();
                pair.server.turn(&mut pair.buffers, &[], Duration::ZERO, &mut turn).unwrap();
                turn.closed.len()
            })
            .collect();
        assert!(turns.iter().sum::<usize>() > 0 || noise.len() < 10, "{noise:?}");
        assert!(pair.buffers[0].input.is_empty());
    }
    let mut pair = Pair::new();
    for _ in 0..6 {
        pair.turn(&[]);
    }
    assert!(!pair.client.is_handshaking());
    pair.client.writer().write_all(b"PING\r\n").unwrap();
    pair.client.write_tls(&mut pair.wire.lock().unwrap().to_server).unwrap();
    let last = pair.wire.lock().unwrap().to_server.len() - 1;
    pair.wire.lock().unwrap().to_server[last] ^= 1;
    let turn = pair.turn(&[]);
    assert_eq!((turn.closed, turn.ready), (vec![0], vec![]));
    assert!(pair.buffers[0].input.is_empty());
    pair.server.close(0);
    assert!(pair.wire.lock().unwrap().closed);
}
