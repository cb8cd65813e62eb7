//! An enclave that is simulated down to its quotes, and a server that ends TLS in it.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use teemate_attestation::{Endpoint, Identity, Policy};
use teemate_evidence::api::{AttestRequest, AttestResponse, Info, ReceiptBundle};
use teemate_evidence::extension::{Claims, Evidence};
use teemate_evidence::receipt::{Limits, Reuse, Status, Usage};
use teemate_evidence::simulation::Platform;
use teemate_evidence::{Binding, Receipt, SecretKey, certificate};

pub const MRENCLAVE: [u8; 32] = [0xe1; 32];
pub const MRSIGNER: [u8; 32] = [0x51; 32];
pub const PRODUCT: u16 = 1;
pub const SVN: u16 = 3;
pub const DEBUG: u64 = 2;

pub fn platform() -> Platform {
    Platform::new(&[0x77; 32])
}

/// The report body of the test's enclave.
pub fn body(flags: u64, report_data: &[u8; 64]) -> [u8; 384] {
    let mut body = [0; 384];
    body[48..56].copy_from_slice(&(flags | 5).to_le_bytes());
    body[56] = 3;
    body[64..96].copy_from_slice(&MRENCLAVE);
    body[128..160].copy_from_slice(&MRSIGNER);
    body[256..258].copy_from_slice(&PRODUCT.to_le_bytes());
    body[258..260].copy_from_slice(&SVN.to_le_bytes());
    body[320..].copy_from_slice(report_data);
    body
}

pub fn quote(report_data: &[u8; 64]) -> Vec<u8> {
    platform().quote(&body(0, report_data))
}

/// Takes the test's enclave, simulated or not.
pub fn policy() -> Policy {
    Policy { insecure_simulation: true, ..Policy::strict(vec![Identity::Enclave { mrenclave: MRENCLAVE }]) }
}

#[derive(Clone)]
pub struct Enclave {
    pub tls: SecretKey,
    pub receipts: SecretKey,
}

impl Enclave {
    pub fn new() -> Self {
        Enclave { tls: SecretKey::from_bytes(&[0x21; 32]).unwrap(), receipts: SecretKey::from_bytes(&[0x22; 32]).unwrap() }
    }

    pub fn evidence(&self) -> Evidence {
        let claims = Claims::new(&self.tls.public().spki());
        Evidence { quote: quote(&claims.report_data()), claims: claims.encode() }
    }

    pub fn certificate(&self) -> Vec<u8> {
        certificate::self_signed(&self.tls, &self.evidence().encode(), &["localhost"], 1_700_000_000, 4_000_000_000)
    }

    pub fn info(&self) -> Info {
        Info {
            version: "0.1.0".into(),
            api: 1,
            mrenclave: MRENCLAVE,
            mrsigner: MRSIGNER,
            isv_prod_id: PRODUCT,
            isv_svn: SVN,
            simulation: true,
            store: Some("store-1".into()),
            source: None,
            epoch: 7,
            receipt_key: self.receipts.public(),
        }
    }

    pub fn attest(&self, nonce: [u8; 32]) -> AttestResponse {
        let binding = Binding::attest(nonce, self.tls.public().spki_sha256(), self.receipts.public());
        AttestResponse { quote: quote(&binding.report_data()), binding, collateral: None }
    }

    pub fn bundle(&self) -> ReceiptBundle {
        let receipt = Receipt {
            version: 1,
            owner: "ada".into(),
            action: "hello".into(),
            action_version: "0.0.1".into(),
            code_sha256: [0xc0; 32],
            limits: Limits { timeout_ms: 60_000, memory: 256 << 20, fuel: None, log: 1 << 20, result: 1 << 20 },
            container: 12,
            activation: "00112233445566778899aabbccddeeff".into(),
            reuse: Reuse::Fresh,
            status: Status::Success,
            usage: Usage { fuel: 1000, memory_peak: 65_536, untrusted_execution_us: 250 },
            input_sha256: None,
            output_sha256: None,
            untrusted_start_ms: 1_700_000_000_000,
            untrusted_end_ms: 1_700_000_000_009,
        };
        let binding = Binding::receipts(self.tls.public().spki_sha256(), self.receipts.public());
        ReceiptBundle {
            version: 1,
            receipt: receipt.sign(&self.receipts).unwrap(),
            quote: quote(&binding.report_data()),
            binding,
            collateral: None,
        }
    }

    /// What the gateway answers.
    pub fn answer(&self, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let json = match path {
            "/teemate/v1/info" => serde_json::to_vec(&self.info()),
            "/teemate/v1/attest" => serde_json::to_vec(&self.attest(serde_json::from_slice::<AttestRequest>(body).unwrap().nonce)),
            path if path.starts_with("/teemate/v1/receipts/00112233445566778899aabbccddeeff") => serde_json::to_vec(&self.bundle()),
            "/hello" => return (200, b"hello from inside".to_vec()),
            _ => return (404, b"{\"error\":\"there is nothing of this name\",\"code\":\"x\"}".to_vec()),
        };
        (200, json.unwrap())
    }
}

pub fn server_config(certificate: Vec<u8>, key: &SecretKey) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate::pkcs8(key)));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .unwrap();
    Arc::new(config)
}

/// A server in threads of this process.
pub struct Server {
    pub address: SocketAddr,
    /// Bytes of requests that arrived inside TLS.
    pub received: Arc<AtomicUsize>,
}

impl Server {
    /// HTTP over TLS, keep-alive, answered by `answer`.
    pub fn new(config: Arc<ServerConfig>, answer: impl Fn(&str, &[u8]) -> (u16, Vec<u8>) + Clone + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(AtomicUsize::new(0));
        let counter = received.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (config, answer, counter) = (config.clone(), answer.clone(), counter.clone());
                std::thread::spawn(move || serve(socket.unwrap(), config, &counter, answer));
            }
        });
        Server { address, received }
    }

    pub fn honest() -> Server {
        let enclave = Enclave::new();
        let config = server_config(enclave.certificate(), &enclave.tls);
        Server::new(config, move |path, body| enclave.answer(path, body))
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint { host: self.address.ip().to_string(), port: self.address.port() }
    }

    pub fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }
}

fn serve(socket: TcpStream, config: Arc<ServerConfig>, counter: &AtomicUsize, answer: impl Fn(&str, &[u8]) -> (u16, Vec<u8>)) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some((head, length)) = request(&bytes) {
            let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
            let path = text.split(' ').nth(1).unwrap().to_owned();
            let body: Vec<u8> = bytes.drain(..head + length).skip(head).collect();
            let (status, body) = answer(&path, &body);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all(&[head.as_bytes(), &body].concat()).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                counter.fetch_add(length, Ordering::SeqCst);
                bytes.extend(&buffer[..length]);
            }
        }
    }
}

/// Lengths of head and body of a complete request.
fn request(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap().to_ascii_lowercase();
    let length = text.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
    (bytes.len() >= head + length).then_some((head, length))
}
