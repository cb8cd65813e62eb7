//! The compact encodings in which Redis writes small collections: one string that holds all the elements.
//!
//! Each reader takes the whole string and gives the elements, integers as text. `None`: it is not what it says. Nothing is allocated that
//! the string does not have.

use std::iter;

/// Elements of an intset (`intset.c`): width, count, then numbers, all little-endian.
pub fn intset(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (width, rest) = take_u32(bytes)?;
    let (count, rest) = take_u32(rest)?;
    let width = match width {
        2 | 4 | 8 => width as usize,
        _ => return None,
    };
    if rest.len() as u64 != u64::from(count) * width as u64 {
        return None;
    }
    Some(rest.chunks_exact(width).map(|number| text(integer(number))).collect())
}

/// Elements of a listpack (`listpack.c`): bytes of the whole, count (65535: not known), entries, 255.
pub fn listpack(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (total, rest) = take_u32(bytes)?;
    let (count, mut rest) = rest.split_first_chunk::<2>()?;
    if total as usize != bytes.len() {
        return None;
    }
    let mut all = Vec::new();
    loop {
        let (&first, tail) = rest.split_first()?;
        if first == 0xff {
            let count = u16::from_le_bytes(*count);
            return (tail.is_empty() && (count == u16::MAX || usize::from(count) == all.len())).then_some(all);
        }
        let (element, after) = match first {
            0..0x80 => (text(i64::from(first)), tail),
            0x80..0xc0 => string(tail, usize::from(first & 0x3f))?,
            0xc0..0xe0 => {
                let (&low, tail) = tail.split_first()?;
                // 13 bits with a sign.
                let number = i64::from(first & 0x1f) << 8 | i64::from(low);
                (text(if number >= 1 << 12 { number - (1 << 13) } else { number }), tail)
            }
            0xe0..0xf0 => {
                let (&low, tail) = tail.split_first()?;
                string(tail, usize::from(first & 0xf) << 8 | usize::from(low))?
            }
            0xf0 => {
                let (length, tail) = take_u32(tail)?;
                string(tail, length as usize)?
            }
            0xf1..=0xf4 => number(tail, [2, 3, 4, 8][usize::from(first - 0xf1)])?,
            _ => return None,
        };
        let length = rest.len() - after.len();
        rest = after.get(back_length(length)..)?;
        all.push(element);
    }
}

/// Bytes that say, behind a listpack's entry, how long it is. The odd limits are those of `lpEncodeBacklen`.
pub fn back_length(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

/// Elements of a ziplist (`ziplist.c`): bytes of the whole, place of the last entry, count (65535: not known), entries, 255.
pub fn ziplist(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (total, rest) = take_u32(bytes)?;
    let (_last, rest) = take_u32(rest)?;
    let (count, mut rest) = rest.split_first_chunk::<2>()?;
    if total as usize != bytes.len() {
        return None;
    }
    let mut all = Vec::new();
    loop {
        // First the length of the entry before.
        let (&before, tail) = rest.split_first()?;
        let tail = match before {
            0xff => {
                let count = u16::from_le_bytes(*count);
                return (tail.is_empty() && (count == u16::MAX || usize::from(count) == all.len())).then_some(all);
            }
            0xfe => take_u32(tail)?.1,
            _ => tail,
        };
        let (&first, tail) = tail.split_first()?;
        let (element, after) = match first {
            0..0x40 => string(tail, usize::from(first))?,
            0x40..0x80 => {
                let (&low, tail) = tail.split_first()?;
                string(tail, usize::from(first & 0x3f) << 8 | usize::from(low))?
            }
            0x80 => {
                let (length, tail) = tail.split_first_chunk::<4>()?;
                string(tail, u32::from_be_bytes(*length) as usize)?
            }
            0xc0 => number(tail, 2)?,
            0xd0 => number(tail, 4)?,
            0xe0 => number(tail, 8)?,
            0xf0 => number(tail, 3)?,
            0xfe => number(tail, 1)?,
            0xf1..=0xfd => (text(i64::from(first & 0xf) - 1), tail),
            _ => return None,
        };
        rest = after;
        all.push(element);
    }
}

/// Fields and values of a zipmap (`zipmap.c`), which Redis before 2.6 wrote: count, then lengths and strings, and unused bytes behind values.
pub fn zipmap(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (_count, mut rest) = bytes.split_first()?;
    let mut all = Vec::new();
    loop {
        if rest == [0xff] {
            return Some(all);
        }
        let (length, tail) = zipmap_length(rest)?;
        let (field, tail) = string(tail, length)?;
        let (length, tail) = zipmap_length(tail)?;
        let (&unused, tail) = tail.split_first()?;
        let (value, tail) = string(tail, length)?;
        rest = tail.get(usize::from(unused)..)?;
        all.extend([field, value]);
    }
}

fn zipmap_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes.split_first()? {
        (&length @ 0..254, rest) => Some((usize::from(length), rest)),
        (254, rest) => take_u32(rest).map(|(length, rest)| (length as usize, rest)),
        _ => None,
    }
}

/// Elements two by two. `None`: there is an odd number of them.
pub fn pairs(elements: Vec<Vec<u8>>) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut elements = elements.into_iter();
    let pairs = iter::from_fn(|| elements.next().map(|first| Some((first, elements.next()?))));
    pairs.collect()
}

/// Gathers the entries of a listpack.
pub struct ListpackWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl ListpackWriter {
    /// An empty one.
    pub fn new() -> Self {
        ListpackWriter { bytes: vec![0; 6], count: 0 }
    }

    /// Adds a string.
    pub fn string(&mut self, string: &[u8]) {
        let begin = self.bytes.len();
        match string.len() {
            length @ 0..0x40 => self.bytes.push(0x80 | length as u8),
            length @ 0x40..0x1000 => self.bytes.extend([0xe0 | (length >> 8) as u8, length as u8]),
            length => {
                self.bytes.push(0xf0);
                self.bytes.extend((length as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(string);
        self.end(begin);
    }

    /// Adds a number.
    pub fn integer(&mut self, number: i64) {
        let begin = self.bytes.len();
        match number {
            0..128 => self.bytes.push(number as u8),
            -4096..4096 => self.bytes.extend([0xc0 | (number >> 8) as u8 & 0x1f, number as u8]),
            _ => {
                let bytes = number.to_le_bytes();
                let (code, length) = match number {
                    -0x8000..0x8000 => (0xf1, 2),
                    -0x80_0000..0x80_0000 => (0xf2, 3),
                    -0x8000_0000..0x8000_0000 => (0xf3, 4),
                    _ => (0xf4, 8),
                };
                self.bytes.push(code);
                self.bytes.extend_from_slice(&bytes[..length]);
            }
        }
        self.end(begin);
    }

    /// Behind an entry its length, seven bits a byte, the first byte the highest, all but the first marked: it is read backwards.
    fn end(&mut self, begin: usize) {
        let length = self.bytes.len() - begin;
        for place in (0..back_length(length)).rev() {
            let more = if place + 1 == back_length(length) { 0 } else { 0x80 };
            self.bytes.push((length >> (7 * place)) as u8 & 0x7f | more);
        }
        self.count += 1;
    }

    /// The listpack.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0xff);
        let total = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&total.to_le_bytes());
        self.bytes[4..6].copy_from_slice(&u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes());
        self.bytes
    }
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk::<4>().map(|(number, rest)| (u32::from_le_bytes(*number), rest))
}

fn string(bytes: &[u8], length: usize) -> Option<(Vec<u8>, &[u8])> {
    bytes.split_at_checked(length).map(|(string, rest)| (string.to_vec(), rest))
}

fn number(bytes: &[u8], width: usize) -> Option<(Vec<u8>, &[u8])> {
    bytes.split_at_checked(width).map(|(number, rest)| (text(integer(number)), rest))
}

/// A little-endian number with a sign, of at most eight bytes.
fn integer(bytes: &[u8]) -> i64 {
    let mut all = [0; 8];
    all[8 - bytes.len()..].copy_from_slice(bytes);
    i64::from_le_bytes(all) >> (64 - 8 * bytes.len())
}

fn text(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Element {
        Number(i64),
        Text(Vec<u8>),
    }

    fn element() -> impl Strategy<Value = Element> {
        let near = (0u32..64, -2i64..3).prop_map(|(bits, off)| Element::Number((1i64 << bits).wrapping_add(off)));
        let length = prop_oneof![0usize..5, 60usize..70, 120usize..130, 4090usize..4100, 16_370usize..16_390];
        let string = length.prop_map(|length| Element::Text(vec![b'x'; length]));
        prop_oneof![any::<i64>().prop_map(Element::Number), near.clone(), near, string]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_listpack_is_read_as_it_was_written(elements in prop::collection::vec(element(), 0..30), cut in any::<prop::sample::Index>()) {
            let mut writer = ListpackWriter::new();
            let mut expected = Vec::new();
            for element in elements {
                match element {
                    Element::Number(number) => { writer.integer(number); expected.push(text(number)); }
                    Element::Text(string) => { writer.string(&string); expected.push(string); }
                }
            }
            let bytes = writer.finish();
            prop_assert_eq!(listpack(&bytes), Some(expected));
            prop_assert_eq!(listpack(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..80), honest in any::<bool>()) {
            if honest && bytes.len() > 4 {
                let total = bytes.len() as u32;
                bytes[..4].copy_from_slice(&total.to_le_bytes());
            }
            for read in [intset, listpack, ziplist, zipmap] {
                let _ = read(&bytes);
            }
        }
    }

    #[test]
    fn a_zipmap_with_unused_bytes() {
        assert_eq!(zipmap(b"\x02\x01a\x01\x02b??\x02cd\x00\x00\xff"), Some(vec![b"a".to_vec(), b"b".to_vec(), b"cd".to_vec(), Vec::new()]));
        assert_eq!(zipmap(b"\x01\x01a"), None);
    }
}
