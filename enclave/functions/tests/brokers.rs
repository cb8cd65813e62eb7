//! Secrets from a key broker, with a host between the two that looks, lies, cuts, mixes up, repeats, and leads elsewhere.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::in_process;
use teemate_control::service::{Ask, FromService, Reply, ToService};
use teemate_functions::gateway::brokers::Brokers;
use teemate_functions::handle::Handle;
use teemate_gateway::KeyBrokers;
use teemate_gateway::testing::SimulatedAttester;
use teemate_kbs::testing::{Authority, Broker as Server};
use teemate_kbs::{Broker, KbsError, ResourceId};
use teemate_link::EnclavePlatform;

/// Long and like nothing else, so that it is found wherever it is.
const SECRET: &[u8] = b"a secret that no host may ever see, whatever it does to the bytes";
const NAME: &str = "default/key/which-nobody-guesses";
const SOON: Duration = Duration::from_secs(1);
const PATIENT: Duration = Duration::from_secs(60);

type Asked = Box<dyn FnMut(&mut Ask) -> Option<Reply> + Send>;
type Replied = Box<dyn FnMut(&Ask, Reply) -> Option<Reply> + Send>;

/// A host: what it makes of a question before it does it (and replies at once instead), and of the reply before it gives it. `None`: it
/// gives none.
struct Host {
    asked: Asked,
    replied: Replied,
}

impl Host {
    fn honest() -> Host {
        Host { asked: Box::new(|_| None), replied: Box::new(|_, reply| Some(reply)) }
    }

    fn asked(mut change: impl FnMut(&mut Ask) + Send + 'static) -> Host {
        let asked = Box::new(move |ask: &mut Ask| {
            change(ask);
            None
        });
        Host { asked, ..Host::honest() }
    }

    fn replied(replied: impl FnMut(&Ask, Reply) -> Option<Reply> + Send + 'static) -> Host {
        Host { replied: Box::new(replied), ..Host::honest() }
    }

    /// Changes the bytes that come from the broker.
    fn received(mut change: impl FnMut(Vec<u8>) -> Reply + Send + 'static) -> Host {
        Host::replied(move |ask, reply| match (ask, reply) {
            (Ask::Receive { .. }, Reply::Bytes(bytes)) => Some(change(bytes)),
            (_, reply) => Some(reply),
        })
    }
}

/// Does what is asked, as a node does.
fn does(streams: &mut HashMap<u64, TcpStream>, ask: &Ask) -> Reply {
    let did: io::Result<Reply> = (|| match ask {
        Ask::Connect { connection, address } => {
            streams.insert(*connection, TcpStream::connect(address)?);
            Ok(Reply::Done)
        }
        Ask::Send { connection, bytes } => streams.get_mut(connection).unwrap().write_all(bytes).map(|()| Reply::Done),
        Ask::Receive { connection, length, within_ms } => {
            let stream = streams.get_mut(connection).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(u64::from(*within_ms))))?;
            let mut bytes = vec![0; *length as usize];
            let count = stream.read(&mut bytes)?;
            bytes.truncate(count);
            Ok(Reply::Bytes(bytes))
        }
        Ask::HangUp { connection } => {
            streams.remove(connection);
            Ok(Reply::Done)
        }
        other => panic!("nobody needs this here: {other:?}"),
    })();
    did.unwrap_or_else(|error| Reply::Failed(error.to_string()))
}

/// An enclave with its host, and a broker that both can reach.
struct World {
    handle: Handle,
    host: Arc<Mutex<Host>>,
    authority: Authority,
    server: Arc<Server>,
    broker: Broker,
}

impl World {
    fn new() -> World {
        let (mut node, _, handle) = in_process(true, EnclavePlatform, None);
        let host = Arc::new(Mutex::new(Host::honest()));
        std::thread::spawn({
            let host = host.clone();
            move || {
                let mut streams = HashMap::new();
                loop {
                    let FromService::Ask { question, mut ask } = node.receive() else { continue };
                    let mut host = host.lock().unwrap();
                    let instead = (host.asked)(&mut ask);
                    let reply = instead.unwrap_or_else(|| does(&mut streams, &ask));
                    if let Some(reply) = (host.replied)(&ask, reply) {
                        node.send(&ToService::Reply { question, reply });
                    }
                }
            }
        });
        let authority = Authority::new("the owner's");
        let server = Arc::new(Server::new(&[(NAME, SECRET)], "default/key/denied"));
        let address = server.serve(Some(authority.server("127.0.0.1")));
        let broker = Broker::new(&format!("https://{address}"), &authority.pem()).unwrap();
        World { handle, host, authority, server, broker }
    }

    fn ask_within(&self, limit: Duration, host: Host) -> Result<Vec<Vec<u8>>, KbsError> {
        *self.host.lock().unwrap() = host;
        let brokers = Brokers::new(self.handle.clone(), SimulatedAttester::failing(0)).within(limit);
        brokers.release("uuid-of-ada", &self.broker, &[NAME.parse().unwrap()])
    }

    fn ask(&self, host: Host) -> Result<Vec<Vec<u8>>, KbsError> {
        self.ask_within(PATIENT, host)
    }

    /// The sentence of a failure.
    #[track_caller]
    fn fails(&self, host: Host) -> String {
        self.ask(host).map(|_| "it gave a secret").unwrap_err().to_string()
    }

    /// A failure that may be that the rest never comes, of which the broker knows nothing.
    #[track_caller]
    fn fails_soon(&self, host: Host) {
        assert!(self.ask_within(SOON, host).is_err());
    }
}

/// What a host kept a copy of.
type Kept<T> = Arc<Mutex<Vec<T>>>;

/// A host that keeps a copy of everything: of the questions, and of what came.
fn looks() -> (Host, Kept<Ask>, Kept<Vec<u8>>) {
    let (sent, received) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (asks, pieces) = (sent.clone(), received.clone());
    let asked = Box::new(move |ask: &mut Ask| {
        asks.lock().unwrap().push(ask.clone());
        None
    });
    let replied = Host::received(move |bytes| {
        pieces.lock().unwrap().push(bytes.clone());
        Reply::Bytes(bytes)
    });
    (Host { asked, ..replied }, sent, received)
}

#[test]
fn secrets_come_through_a_host_that_sees_neither_them_nor_their_names() {
    let world = World::new();
    let (host, sent, received) = looks();
    assert_eq!(world.ask(host).unwrap(), [SECRET]);
    let mut seen: Vec<u8> = received.lock().unwrap().concat();
    // Not held: a host that comes late with the last wish still notes it.
    let sent = sent.lock().unwrap().clone();
    assert!(matches!(&sent[0], Ask::Connect { address, .. } if *address == world.broker.endpoint()));
    assert!(matches!(sent.last(), Some(Ask::HangUp { .. } | Ask::Receive { .. })));
    seen.extend(sent.iter().flat_map(|ask| if let Ask::Send { bytes, .. } = ask { bytes.clone() } else { Vec::new() }));
    assert!(seen.len() > 4000, "{} bytes are no conversation", seen.len());
    for hidden in [SECRET, NAME.as_bytes(), b"uuid-of-ada", b"kbs-session-id"] {
        assert!(!seen.windows(hidden.len()).any(|window| window == hidden), "{:?}", String::from_utf8_lossy(hidden));
    }
    // However small the pieces are.
    let drips = Host::asked(|ask| {
        if let Ask::Receive { length, .. } = ask {
            *length = 1;
        }
    });
    assert_eq!(world.ask(drips).unwrap(), [SECRET]);
}

#[test]
fn another_server_is_not_believed() {
    let world = World::new();
    let stranger = Authority::new("the host's");
    let lies = |certificate| {
        let other = Arc::new(Server::new(&[(NAME, b"of the host's choice")], ""));
        let address = other.serve(Some(certificate));
        let host = Host::asked(move |ask| {
            if let Ask::Connect { address: to, .. } = ask {
                to.clone_from(&address);
            }
        });
        (host, other)
    };
    // Of its own authority; of the owner's authority, but for another name.
    for certificate in [stranger.server("127.0.0.1"), world.authority.server("other.example")] {
        let (host, other) = lies(certificate);
        let error = world.fails(host);
        assert!(error.contains("certificate"), "{error}");
        assert_eq!(other.released.load(SeqCst), 0);
    }
    // No server of TLS at all.
    let plain = Arc::new(Server::new(&[(NAME, b"x")], "")).serve(None);
    let host = Host::asked(move |ask| {
        if let Ask::Connect { address, .. } = ask {
            address.clone_from(&plain);
        }
    });
    world.fails_soon(host);
    assert_eq!(world.server.released.load(SeqCst), 0);
    // And an owner who gave another root is told.
    let owner = Broker::new(&world.broker.to_string(), &stranger.pem()).unwrap();
    *world.host.lock().unwrap() = Host::honest();
    let brokers = Brokers::new(world.handle.clone(), SimulatedAttester::failing(0));
    let error = brokers.release("uuid-of-ada", &owner, &[NAME.parse().unwrap()]).unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[test]
fn bytes_that_were_cut_changed_mixed_up_or_repeated_give_nothing() {
    let world = World::new();
    let (host, _, received) = looks();
    world.ask(host).unwrap();
    let whole: Vec<u8> = received.lock().unwrap().concat();
    // Cut off after so many bytes.
    for most in (0..whole.len()).step_by(whole.len() / 40) {
        let left = Arc::new(AtomicUsize::new(most));
        let cut = left.clone();
        let host = Host::received(move |mut bytes| {
            bytes.truncate(left.load(SeqCst));
            left.fetch_sub(bytes.len(), SeqCst);
            Reply::Bytes(bytes)
        });
        let ended = move |ask: &mut Ask| (matches!(ask, Ask::Receive { .. }) && cut.load(SeqCst) == 0).then(|| Reply::Bytes(Vec::new()));
        world.fails(Host { asked: Box::new(ended), ..host });
    }
    // One bit of what comes, and one of what goes. What TLS itself does not look at (a version in a record's head) changes nothing.
    let mut noticed = 0;
    for at in (0..whole.len()).step_by(whole.len() / 20) {
        let mut passed = 0;
        let host = Host::received(move |mut bytes| {
            if (passed..passed + bytes.len()).contains(&at) {
                bytes[at - passed] ^= 1;
            }
            passed += bytes.len();
            Reply::Bytes(bytes)
        });
        match world.ask_within(SOON, host) {
            Ok(secrets) => assert_eq!(secrets, [SECRET], "bit at {at}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 15, "only {noticed} changes were noticed");
    for number in 0..3 {
        let mut sent = 0;
        let host = Host::asked(move |ask| {
            if let Ask::Send { bytes, .. } = ask {
                if sent == number {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }
                sent += 1;
            }
        });
        world.fails_soon(host);
    }
    // Two halves in the wrong order, everything twice, an earlier conversation instead of this one.
    world.fails_soon(Host::received(|mut bytes| {
        let middle = bytes.len() / 2;
        bytes.rotate_left(middle);
        Reply::Bytes(bytes)
    }));
    world.fails_soon(Host::received(|bytes| Reply::Bytes(bytes.repeat(2))));
    let mut earlier = received.lock().unwrap().clone().into_iter();
    world.fails_soon(Host::received(move |_| earlier.next().map_or(Reply::Bytes(Vec::new()), Reply::Bytes)));
    // Nothing of all that has made a state that stays.
    assert_eq!(world.ask(Host::honest()).unwrap(), [SECRET]);
}

#[test]
fn a_host_that_delays_or_talks_nonsense_ends_in_an_error() {
    let world = World::new();
    let limit = Duration::from_secs(1);
    let silent: [fn(&Ask) -> bool; 3] =
        [|ask| matches!(ask, Ask::Connect { .. }), |ask| matches!(ask, Ask::Send { .. }), |ask| matches!(ask, Ask::Receive { .. })];
    for silent in silent {
        let began = Instant::now();
        let error = world.ask_within(limit, Host::replied(move |ask, reply| (!silent(ask)).then_some(reply))).unwrap_err();
        assert!(error.to_string().contains("did not reply within"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    // Always a little, for ever: the first bytes of a record that never ends.
    let mut first = true;
    let began = Instant::now();
    let drips = Host::replied(move |ask, reply| match ask {
        Ask::Receive { .. } => {
            std::thread::sleep(Duration::from_millis(20));
            let bytes = if std::mem::take(&mut first) { vec![22, 3, 3, 0x40, 0] } else { vec![2] };
            Some(Reply::Bytes(bytes))
        }
        _ => Some(reply),
    });
    assert!(world.ask_within(limit, drips).is_err());
    assert!(began.elapsed() < Duration::from_secs(20));
    // What is no answer to the question, and what is more than was asked for.
    let wrong: [fn() -> Reply; 4] =
        [|| Reply::Done, || Reply::Missing, || Reply::Bytes(vec![0; 1 << 20]), || Reply::Failed("the moon is full".into())];
    for (number, wrong) in wrong.into_iter().enumerate() {
        let error = world.fails(Host::replied(move |ask, reply| Some(if matches!(ask, Ask::Receive { .. }) { wrong() } else { reply })));
        let words = ["does not fit the question", "nothing came in time", "does not fit the question", "the moon is full"][number];
        assert!(error.contains(words), "{error}");
    }
    for ask in [|ask: &Ask| matches!(ask, Ask::Connect { .. }), |ask: &Ask| matches!(ask, Ask::Send { .. })] {
        let error = world.fails(Host::replied(move |asked, reply| Some(if ask(asked) { Reply::Bytes(vec![1]) } else { reply })));
        assert!(error.contains("bytes where none were asked for"), "{error}");
    }
    assert_eq!(world.server.released.load(SeqCst), 0);
}

#[test]
fn an_enclave_without_a_quote_has_nothing_to_show() {
    let world = World::new();
    let brokers = Brokers::new(world.handle.clone(), SimulatedAttester::failing(1));
    let names: Vec<ResourceId> = vec![NAME.parse().unwrap()];
    let error = brokers.release("uuid-of-ada", &world.broker, &names).unwrap_err();
    assert!(matches!(error, KbsError::Quote(_)), "{error}");
    assert_eq!(brokers.release("uuid-of-ada", &world.broker, &names).unwrap(), [SECRET]);
    let error = brokers.release("uuid-of-ada", &world.broker, &["default/key/denied".parse().unwrap()]).unwrap_err();
    assert!(matches!(error, KbsError::Denied { .. }), "{error}");
}
