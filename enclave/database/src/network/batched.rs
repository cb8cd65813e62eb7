//! The network of an enclave: a turn is one exit, however many connections have something ([`teemate_abi::turn`]).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use teemate_abi::host_area::MAILBOX_DATA;
use teemate_abi::turn::{CLOSE, DATA, HEADER, HUNG_UP, OPENED, Records, SEND, SENT, WRITABLE, header};

use teemate_containers::Turned;

use super::{Buffers, Network, READ, Turn};

/// What one connection may fill of a turn's request.
const SHARE: usize = 64 << 10;

/// Carries one turn out: records of the request, milliseconds to wait, records of the reply and their length.
pub type Exit = fn(&[u8], i64, &mut Turned) -> io::Result<usize>;

/// Connections, by the host's numbers.
pub struct Batched {
    exit: Exit,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_number: HashMap<i32, usize>,
    /// Slots with more to send than the last request had room for, or that can take more again.
    waiting: Vec<usize>,
    /// Connections that the next turn closes.
    closing: Vec<i32>,
    request: Vec<u8>,
    /// Here between turns.
    reply: Option<Box<Turned>>,
    /// Slots and lengths of the request's sends.
    sends: Vec<(usize, usize)>,
}

struct Connection {
    number: i32,
    /// Its other end takes nothing for now.
    blocked: bool,
}

impl Batched {
    /// Connections of the listener that the node gave, by this way out.
    pub fn new(exit: Exit) -> Batched {
        Batched {
            exit,
            slots: Vec::new(),
            free: Vec::new(),
            by_number: HashMap::new(),
            waiting: Vec::new(),
            closing: Vec::new(),
            request: Vec::new(),
            reply: None,
            sends: Vec::new(),
        }
    }

    /// Writes the request: what is closed, and as much as there is room for of what is to be sent.
    fn ask(&mut self, buffers: &[Buffers], dirty: &[usize]) {
        self.request.clear();
        self.sends.clear();
        for number in self.closing.drain(..) {
            self.request.extend(header(CLOSE, number, 0));
        }
        let mut slots = std::mem::take(&mut self.waiting);
        slots.extend_from_slice(dirty);
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            let (Some(Some(connection)), Some(buffers)) = (self.slots.get(slot), buffers.get(slot)) else { continue };
            let output = buffers.output.get(buffers.sent..).unwrap_or_default();
            if connection.blocked || output.is_empty() {
                continue;
            }
            let room = MAILBOX_DATA.saturating_sub(self.request.len() + HEADER);
            let piece = &output[..output.len().min(SHARE).min(room)];
            if !piece.is_empty() {
                self.request.extend(header(SEND, connection.number, piece.len() as u32));
                self.request.extend(piece);
                self.sends.push((slot, piece.len()));
            }
            if piece.len() < output.len() {
                self.waiting.push(slot);
            }
        }
    }

    fn open(&mut self, number: i32, address: &[u8], buffers: &mut Vec<Buffers>, turn: &mut Turn) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if buffers.len() <= slot {
            buffers.resize_with(slot + 1, Buffers::default);
        }
        buffers[slot] = Buffers::default();
        self.slots[slot] = Some(Connection { number, blocked: false });
        self.by_number.insert(number, slot);
        turn.opened.push((slot, shown(address), String::new()));
    }

    fn sent(&mut self, count: usize, at: usize, buffers: &mut [Buffers], turn: &mut Turn) {
        let Some((slot, length)) = self.sends.get(at).copied() else { return };
        let buffers = &mut buffers[slot];
        buffers.sent += count.min(length);
        turn.bytes.1 += count as u64;
        if buffers.sent == buffers.output.len() {
            buffers.sent = 0;
            buffers.output.clear();
            // What a large reply needed is given back.
            buffers.output.shrink_to(READ);
        }
        if count < length
            && let Some(Some(connection)) = self.slots.get_mut(slot)
        {
            connection.blocked = true;
        }
    }
}

impl Network for Batched {
    fn turn(&mut self, buffers: &mut Vec<Buffers>, dirty: &[usize], wait: Duration, turn: &mut Turn) -> io::Result<()> {
        self.ask(buffers, dirty);
        let more = self.waiting.iter().any(|slot| self.slots[*slot].as_ref().is_some_and(|connection| !connection.blocked));
        // Rounded up: who waits for a time would otherwise spin through its last millisecond.
        let wait = if more { 0 } else { i64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i64::MAX) };
        let mut reply = self.reply.take().unwrap_or_else(|| Box::new([0; MAILBOX_DATA]));
        let length = (self.exit)(&self.request, wait, &mut reply)?;
        let mut answered = 0;
        for record in Records::new(reply.get(..length).unwrap_or_default()) {
            if record.kind == OPENED {
                self.open(record.fd, record.bytes, buffers, turn);
                continue;
            }
            // One that was closed meanwhile has nothing to say any more.
            let Some(slot) = self.by_number.get(&record.fd).copied() else {
                answered += usize::from(record.kind == SENT);
                continue;
            };
            match record.kind {
                SENT => {
                    self.sent(record.length as usize, answered, buffers, turn);
                    answered += 1;
                }
                DATA => {
                    buffers[slot].input.extend_from_slice(record.bytes);
                    turn.bytes.0 += record.bytes.len() as u64;
                    turn.ready.push(slot);
                }
                HUNG_UP => turn.closed.push(slot),
                WRITABLE => {
                    if let Some(connection) = &mut self.slots[slot] {
                        connection.blocked = false;
                    }
                    self.waiting.push(slot);
                }
                _ => {}
            }
        }
        self.reply = Some(reply);
        Ok(())
    }

    fn close(&mut self, slot: usize) {
        if let Some(connection) = self.slots.get_mut(slot).and_then(Option::take) {
            self.by_number.remove(&connection.number);
            self.closing.push(connection.number);
            self.waiting.retain(|waiting| *waiting != slot);
            self.free.push(slot);
        }
    }
}

/// An address as CLIENT LIST shows it. By the host's word.
fn shown(address: &[u8]) -> String {
    let port = address.get(2..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
    let family = address.get(..2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes);
    let four = address.get(4..8).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let sixteen = address.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let ip: Option<IpAddr> = match family {
        2 => four.map(|bytes| Ipv4Addr::from(bytes).into()),
        10 => sixteen.map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    };
    ip.map_or_else(|| "?:0".to_owned(), |ip| SocketAddr::new(ip, port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    type Packets = Vec<Vec<u8>>;

    thread_local! {
        /// Requests as they came, and replies to give.
        static HOST: RefCell<(Packets, Packets)> = const { RefCell::new((Vec::new(), Vec::new())) };
    }

    fn exit(request: &[u8], _: i64, reply: &mut Turned) -> io::Result<usize> {
        HOST.with_borrow_mut(|(requests, replies)| {
            requests.push(request.to_vec());
            let bytes = if replies.is_empty() { Vec::new() } else { replies.remove(0) };
            reply[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        })
    }

    fn record(kind: u32, number: i32, bytes: &[u8]) -> Vec<u8> {
        [&header(kind, number, bytes.len() as u32)[..], bytes].concat()
    }

    fn asked() -> Vec<(u32, i32, usize)> {
        let request = HOST.with_borrow_mut(|(requests, _)| requests.pop().unwrap());
        Records::new(&request).map(|record| (record.kind, record.fd, record.bytes.len())).collect()
    }

    fn take_turn(network: &mut Batched, buffers: &mut Vec<Buffers>, dirty: &[usize], reply: Vec<u8>) -> Turn {
        HOST.with_borrow_mut(|(_, replies)| replies.push(reply));
        let mut turn = Turn::default();
        network.turn(buffers, dirty, Duration::from_millis(5), &mut turn).unwrap();
        turn
    }

    #[test]
    fn bytes_go_both_ways_and_a_slow_reader_holds_up_nobody() {
        let (mut network, mut buffers) = (Batched::new(exit), Vec::new());
        let mut address = [0; teemate_abi::ocall::ADDRESS];
        address[..8].copy_from_slice(&[2, 0, 0x1f, 0x90, 127, 0, 0, 1]);
        let opened = [record(OPENED, 70, &address), record(OPENED, 71, &address), record(DATA, 71, b"ping")].concat();
        let turn = take_turn(&mut network, &mut buffers, &[], opened);
        assert_eq!(
            turn.opened.iter().map(|(slot, peer, _)| (*slot, peer.as_str())).collect::<Vec<_>>(),
            [(0, "127.0.0.1:8080"), (1, "127.0.0.1:8080")]
        );
        assert_eq!((turn.ready, buffers[1].input.as_slice()), (vec![1], &b"ping"[..]));
        asked();
        // The first takes a part of a large reply, and then nothing.
        buffers[0].output = vec![7; 300_000];
        buffers[1].output = b"pong".to_vec();
        let reply = [header(SENT, 70, 10_000), header(SENT, 71, 4)].concat();
        take_turn(&mut network, &mut buffers, &[0, 1], reply);
        assert_eq!(asked(), [(SEND, 70, SHARE), (SEND, 71, 4)]);
        assert_eq!((buffers[0].unsent(), buffers[1].unsent()), (290_000, 0));
        take_turn(&mut network, &mut buffers, &[0], Vec::new());
        assert_eq!(asked(), [], "it is blocked");
        // There is room again: it goes on by itself, turn by turn, and loses nothing.
        take_turn(&mut network, &mut buffers, &[], record(WRITABLE, 70, b""));
        assert_eq!(asked(), []);
        let mut left = 290_000;
        while left > 0 {
            let piece = left.min(SHARE);
            take_turn(&mut network, &mut buffers, &[], header(SENT, 70, piece as u32).to_vec());
            assert_eq!(asked(), [(SEND, 70, piece)]);
            left -= piece;
        }
        assert_eq!(buffers[0].unsent(), 0);
        // One hangs up while the other is closed here.
        let turn = take_turn(&mut network, &mut buffers, &[], record(HUNG_UP, 70, b""));
        assert_eq!(turn.closed, [0]);
        asked();
        network.close(0);
        network.close(1);
        take_turn(&mut network, &mut buffers, &[], record(DATA, 71, b"late"));
        assert_eq!(asked(), [(CLOSE, 70, 0), (CLOSE, 71, 0)]);
        let turn = take_turn(&mut network, &mut buffers, &[], record(OPENED, 72, &address));
        assert_eq!(turn.opened[0].0, 1, "slots are used again");
    }
}
