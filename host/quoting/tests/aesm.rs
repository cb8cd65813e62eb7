//! The client of AESM against a fake one that answers, lies, breaks off and hangs. The fake reads and writes protobuf by itself.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use teemate_evidence::simulation::Platform;
use teemate_quoting::{Aesm, Error, QuotingService};

const REPORT: [u8; 432] = [0x42; 432];

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_le_bytes()[..], message].concat()
}

/// The question's field number and its own bytes.
fn question(stream: &mut UnixStream) -> (u64, Vec<u8>) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut message).unwrap();
    // Tags 15 to 17: one or two bytes; all three are messages.
    let (tag, rest) = if message[0] & 0x80 == 0 {
        (u64::from(message[0]), &message[1..])
    } else {
        (u64::from(message[0] & 0x7f) | u64::from(message[1]) << 7, &message[2..])
    };
    assert_eq!(tag & 7, 2);
    let skip = rest.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    (tag >> 3, rest[skip..].to_vec())
}

/// A service that answers each connection with what `answer` makes of the question; it keeps connections open for a while when told to hang.
fn service(answer: impl Fn(u64, &[u8]) -> Vec<u8> + Send + 'static, hang: bool) -> (tempfile::TempDir, Aesm) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("aesm.socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (field, body) = question(&mut stream);
            let _ = stream.write_all(&answer(field, &body));
            if hang {
                kept.push(stream);
            }
        }
    });
    let time = if hang { Duration::from_millis(100) } else { Duration::from_secs(30) };
    (directory, Aesm::new(path).with_timeout(time))
}

fn good_quote() -> Vec<u8> {
    Platform::new(&[1; 32]).quote(REPORT.first_chunk().unwrap())
}

fn honest(field: u64, body: &[u8]) -> Vec<u8> {
    let padded = [good_quote(), vec![0; 500]].concat();
    let answer = match field {
        15 => {
            assert!(body.windows(2).any(|pair| pair == [0x18, 1]), "b_pub_key_id");
            [number(1, 0), bytes(2, &[7; 512]), number(3, 32), bytes(4, &[0; 32])].concat()
        }
        16 => [number(1, 0), number(2, padded.len() as u64)].concat(),
        17 => {
            assert!(body.starts_with(&bytes(1, &REPORT)), "the report comes first");
            assert!(body.windows(8).any(|part| part == [0x8c, 0x4f, 0x57, 0x75, 0xd7, 0x96, 0x50, 0x3e]), "Intel's quoting enclave");
            [number(1, 0), bytes(2, &padded), bytes(3, &[0; 10])].concat()
        }
        other => panic!("question {other}"),
    };
    framed(&bytes(field, &answer))
}

#[test]
fn target_and_quote_come_without_padding() {
    let (_directory, aesm) = service(honest, false);
    assert_eq!(aesm.target().unwrap(), [7; 512]);
    assert_eq!(aesm.quote(&REPORT).unwrap(), good_quote());
    assert!(!aesm.is_simulation());
}

#[test]
fn refusals_say_what_to_do() {
    for (code, hint) in [(44, "PCCS"), (38, "ecdsa-plugin"), (2, "device"), (18, "try again"), (999, "aesm_error.h")] {
        let (_directory, aesm) = service(move |field, _| framed(&bytes(field, &number(1, code))), false);
        for error in [aesm.target().unwrap_err(), aesm.quote(&REPORT).unwrap_err()] {
            assert!(matches!(error, Error::Refused { code: found, .. } if u64::from(found) == code));
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
    // Without a code it is not taken for success.
    let (_directory, aesm) = service(|field, _| framed(&bytes(field, &bytes(2, &[7; 512]))), false);
    assert!(matches!(aesm.target(), Err(Error::Refused { code: 1, .. })));
}

#[test]
fn lies_are_nonsense() {
    type Answer = fn(u64, &[u8]) -> Vec<u8>;
    let lies: [Answer; 11] = [
        |_, _| framed(&[]),
        |_, _| framed(&[0xff; 20]),
        |_, _| u32::MAX.to_le_bytes().to_vec(),
        // The answer to another question.
        |field, _| framed(&bytes(if field == 15 { 17 } else { 15 }, &number(1, 0))),
        |field, _| framed(&bytes(field, &number(1, 0))),
        |field, _| framed(&bytes(field, &[number(1, 0), bytes(2, &[7; 511])].concat())),
        |field, _| framed(&bytes(field, &[number(1, 0), number(2, u64::from(u32::MAX))].concat())),
        // A quote that is cut, one that claims to be longer, one of another report, one that is none.
        |field, body| quoted(field, body, |quote| quote.truncate(1000)),
        |field, body| quoted(field, body, |quote| quote[435] = 1),
        |field, body| quoted(field, body, |quote| quote[48 + 64] ^= 1),
        |field, body| quoted(field, body, |quote| quote[0] = 4),
    ];
    for (index, lie) in lies.into_iter().enumerate() {
        let (_directory, aesm) = service(lie, false);
        let error = aesm.quote(&REPORT).unwrap_err();
        assert!(matches!(error, Error::Nonsense(_)), "lie {index}: {error}");
        if index < 6 {
            let error = aesm.target().unwrap_err();
            assert!(matches!(error, Error::Nonsense(_)), "lie {index}: {error}");
        }
    }
}

/// An honest answer but for the quote.
fn quoted(field: u64, body: &[u8], change: fn(&mut Vec<u8>)) -> Vec<u8> {
    if field != 17 {
        return honest(field, body);
    }
    let mut quote = good_quote();
    change(&mut quote);
    framed(&bytes(17, &[number(1, 0), bytes(2, &quote)].concat()))
}

#[test]
fn every_cut_is_an_error() {
    let whole = honest(15, &[0x18, 1]);
    for length in [0, 1, 3, 4, 5, 20, whole.len() - 1] {
        let cut = whole[..length].to_vec();
        let (_directory, aesm) = service(move |_, _| cut.clone(), false);
        assert!(matches!(aesm.target(), Err(Error::Broken { .. })), "cut to {length}");
    }
}

#[test]
fn a_service_that_hangs_is_late() {
    for length in [0, 3, 4, 50] {
        let part = honest(15, &[0x18, 1])[..length].to_vec();
        let (_directory, aesm) = service(move |_, _| part.clone(), true);
        let error = aesm.target().unwrap_err();
        assert!(matches!(error, Error::Late { .. }), "{error}");
        assert!(error.to_string().contains("PCCS"), "{error}");
    }
}

#[test]
fn a_service_that_dribbles_is_late() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("aesm.socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = question(&mut stream);
        let _ = stream.write_all(&1000u32.to_le_bytes());
        while stream.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let aesm = Aesm::new(path).with_timeout(Duration::from_millis(150));
    assert!(matches!(aesm.target(), Err(Error::Late { .. })));
}

#[test]
fn a_service_that_does_not_accept_is_late_and_none_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("aesm.socket");
    let listener = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    // One connection waits to be accepted, and no more have a place.
    let aesm = Aesm::new(&path).with_timeout(Duration::from_millis(100));
    assert!(matches!(aesm.target(), Err(Error::Late { .. })));
    let error = Aesm::new(directory.path().join("none")).target().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }));
    assert!(error.to_string().contains("aesmd"), "{error}");
}
