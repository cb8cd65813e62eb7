//! The syscall TURN: input and output for many connections with one exit.
//!
//! Which connections there are is in here. What the host says of others, counts beyond what was sent, and bytes that are no records, are EIO;
//! what comes over a connection is the host's word anyway.

use alloc::collections::BTreeSet;

use teemate_abi::ocall::ADDRESS;
use teemate_abi::turn::{CLOSE, DATA, HEADER, HUNG_UP, OPENED, Records, SEND, SENT, WRITABLE, header};

use crate::lock::Spin;
use crate::{SysResult, container, files, ocall, user};

/// Whose process holds the connections: that of the payload's own threads.
const OWNER: u64 = 0;

static CONNECTIONS: Spin<BTreeSet<i32>> = Spin::new(BTreeSet::new());

/// A turn: carries out the records at `records`, and stores those that came at `reply`, where there is room for a mailbox's data.
pub fn turn(records: u64, length: u64, timeout_ms: i64, reply: u64) -> SysResult {
    if container::current() != OWNER {
        return Err(libc::EPERM);
    }
    if length > ocall::MAX_DATA as u64 {
        return Err(libc::E2BIG);
    }
    let request = user::bytes(records, length)?;
    let reply = user::bytes_mut(reply, ocall::MAX_DATA as u64)?;
    let one = {
        let mut connections = CONNECTIONS.lock();
        for fd in closes(request, &connections)? {
            connections.remove(&fd);
            files::release(OWNER, fd);
        }
        connections.first().copied()
    };
    let got = match ocall::turn(request, timeout_ms, one) {
        Ok(got) => got,
        // The process is another one: the connections went with the one before.
        Err(libc::ESTALE) => return Ok(all_hang_up(reply)),
        Err(error) => return Err(error),
    };
    ocall::take(0, &mut reply[..got]);
    // The copy is checked, and the payload reads the copy.
    let mut connections = CONNECTIONS.lock();
    check(request, &reply[..got], &mut connections, |fd| files::claim(OWNER, fd))?;
    Ok(got as u64)
}

/// Checks the payload's own records, for its mistakes; gives the connections that it closes.
fn closes(request: &[u8], connections: &BTreeSet<i32>) -> Result<alloc::vec::Vec<i32>, i32> {
    let mut closes = alloc::vec::Vec::new();
    let mut records = Records::new(request);
    for record in records.by_ref() {
        match record.kind {
            SEND if !connections.contains(&record.fd) => return Err(libc::EBADF),
            SEND => {}
            // One that went with its process is closed already.
            CLOSE if !connections.contains(&record.fd) => {}
            CLOSE => closes.push(record.fd),
            _ => return Err(libc::EINVAL),
        }
    }
    if records.is_at_the_end() { Ok(closes) } else { Err(libc::EINVAL) }
}

/// Checks what the host says to `request`.
fn check(request: &[u8], reply: &[u8], connections: &mut BTreeSet<i32>, mut claim: impl FnMut(i32) -> Result<(), i32>) -> Result<(), i32> {
    let mut sends = Records::new(request).filter(|record| record.kind == SEND);
    let mut records = Records::new(reply);
    for record in records.by_ref() {
        let fits = match record.kind {
            SENT => sends.next().is_some_and(|send| send.fd == record.fd && record.length <= send.length),
            OPENED => {
                record.bytes.len() == ADDRESS && !connections.contains(&record.fd) && {
                    // A number that is in use, or that the host may not give, is a lie; what came before it stands.
                    claim(record.fd)?;
                    connections.insert(record.fd)
                }
            }
            DATA => !record.bytes.is_empty() && connections.contains(&record.fd),
            HUNG_UP | WRITABLE => record.bytes.is_empty() && connections.contains(&record.fd),
            _ => false,
        };
        if !fits {
            return Err(libc::EIO);
        }
    }
    if records.is_at_the_end() && sends.next().is_none() { Ok(()) } else { Err(libc::EIO) }
}

/// Stores that all connections are gone: as many as there is room for, the others at the next turn.
fn all_hang_up(reply: &mut [u8]) -> u64 {
    let mut connections = CONNECTIONS.lock();
    let mut at = 0;
    while at + HEADER <= reply.len() {
        let Some(fd) = connections.pop_first() else { break };
        files::release(OWNER, fd);
        reply[at..at + HEADER].copy_from_slice(&header(HUNG_UP, fd, 0));
        at += HEADER;
    }
    at as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn record(kind: u32, fd: i32, bytes: &[u8]) -> Vec<u8> {
        [&header(kind, fd, bytes.len() as u32)[..], bytes].concat()
    }

    fn connections() -> BTreeSet<i32> {
        [70, 71, 72].into()
    }

    #[test]
    fn a_turn_of_an_honest_host_is_fine() {
        let request = [record(SEND, 70, b"hello"), record(CLOSE, 72, b""), record(SEND, 71, b"you")].concat();
        assert_eq!(closes(&request, &connections()), Ok([72].to_vec()));
        let reply = [
            header(SENT, 70, 5).to_vec(),
            header(SENT, 71, 0).to_vec(),
            record(HUNG_UP, 71, b""),
            record(OPENED, 80, &[0; ADDRESS]),
            record(DATA, 80, b"x"),
            record(WRITABLE, 70, b""),
        ]
        .concat();
        let mut there = connections();
        assert_eq!(check(&request, &reply, &mut there, |_| Ok(())), Ok(()));
        assert!(there.contains(&80));
    }

    #[test]
    fn a_lying_host_is_told_so() {
        let request = record(SEND, 70, b"hello");
        let sent = header(SENT, 70, 5).to_vec();
        let lies: [(&str, Vec<u8>); 12] = [
            ("no answer to a send", Vec::new()),
            ("two answers to a send", [sent.clone(), sent.clone()].concat()),
            ("more sent than there was", header(SENT, 70, 6).to_vec()),
            ("another connection's", header(SENT, 71, 5).to_vec()),
            ("data of no connection", [sent.clone(), record(DATA, 99, b"x")].concat()),
            ("no data", [sent.clone(), record(DATA, 70, b"")].concat()),
            ("end of no connection", [sent.clone(), record(HUNG_UP, 3, b"")].concat()),
            ("room on no connection", [sent.clone(), record(WRITABLE, -1, b"")].concat()),
            ("a new one that is there", [sent.clone(), record(OPENED, 70, &[0; ADDRESS])].concat()),
            ("a short address", [sent.clone(), record(OPENED, 80, &[0; 4])].concat()),
            ("something else", [sent.clone(), record(99, 70, b"")].concat()),
            ("a cut record", [sent.clone(), record(DATA, 70, b"xyz")[..14].to_vec()].concat()),
        ];
        for (lie, reply) in lies {
            assert_eq!(check(&request, &reply, &mut connections(), |_| Ok(())), Err(libc::EIO), "{lie}");
        }
        let given = [sent, record(OPENED, 80, &[0; ADDRESS])].concat();
        assert_eq!(check(&request, &given, &mut connections(), |_| Err(libc::EIO)), Err(libc::EIO), "a number in use");
    }

    #[test]
    fn the_payloads_mistakes_are_errors() {
        assert_eq!(closes(&record(SEND, 99, b"x"), &connections()), Err(libc::EBADF));
        assert_eq!(closes(&record(CLOSE, 99, b""), &connections()), Ok(Vec::new()), "gone already");
        assert_eq!(closes(&record(DATA, 70, b"x"), &connections()), Err(libc::EINVAL));
        assert_eq!(closes(b"noise", &connections()), Err(libc::EINVAL));
    }
}
