//! Packets between node and service, in any order and of any content: each two bytes say how long the next packet is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teemate_control::packet::{Joiner, cut};
use teemate_control::service::{FromService, ToService};

fuzz_target!(|bytes: &[u8]| {
    let (mut to, mut from) = (Joiner::default(), Joiner::default());
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (packet, tail) = tail.split_at(length);
        rest = tail;
        if let Ok(Some(message)) = to.take::<ToService>(packet) {
            let packets = cut(1, &message).expect("a message that came can be sent");
            let mut again = Joiner::default();
            let last = packets.iter().map(|packet| again.take::<ToService>(packet).expect("own packets fit")).next_back();
            assert_eq!(last, Some(Some(message)));
        }
        let _ = from.take::<FromService>(packet);
    }
});
