//! As much CBOR (RFC 8949) as tagged evidence needs, in its deterministic form: definite lengths, each number in its shortest spelling.

use crate::Error;

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;

/// Writes items one after the other.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    fn head(mut self, major: u8, value: u64) -> Self {
        let major = major << 5;
        match value {
            0..24 => self.0.push(major | value as u8),
            24..0x100 => self.0.extend([major | 24, value as u8]),
            0x100..0x1_0000 => {
                self.0.push(major | 25);
                self.0.extend((value as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(major | 26);
                self.0.extend((value as u32).to_be_bytes());
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend(value.to_be_bytes());
            }
        }
        self
    }

    pub(crate) fn unsigned(self, value: u64) -> Self {
        self.head(UNSIGNED, value)
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let mut writer = self.head(BYTES, bytes.len() as u64);
        writer.0.extend(bytes);
        writer
    }

    pub(crate) fn text(self, text: &str) -> Self {
        let mut writer = self.head(TEXT, text.len() as u64);
        writer.0.extend(text.as_bytes());
        writer
    }

    pub(crate) fn array(self, items: u64) -> Self {
        self.head(ARRAY, items)
    }

    pub(crate) fn map(self, pairs: u64) -> Self {
        self.head(MAP, pairs)
    }

    pub(crate) fn tag(self, number: u64) -> Self {
        self.head(TAG, number)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads items one after the other; any other item than the one asked for is an error.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// `what`: for errors.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Reader { rest: bytes, what }
    }

    fn wrong(&self, why: &str) -> Error {
        Error::malformed(self.what, why)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Error> {
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = split.ok_or_else(|| self.wrong("it ends in the middle"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn head(&mut self, major: u8) -> Result<u64, Error> {
        let first = self.take(1)?[0];
        if first >> 5 != major {
            const NAMES: [&str; 8] = ["a number", "a negative number", "bytes", "text", "an array", "a map", "a tag", "a simple value"];
            return Err(self.wrong(&format!("{} where {} belongs", NAMES[usize::from(first >> 5)], NAMES[usize::from(major)])));
        }
        let (length, least) = match first & 31 {
            small @ 0..24 => return Ok(u64::from(small)),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            _ => return Err(self.wrong("a length that is not definite")),
        };
        let value = self.take(length)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if value < least { Err(self.wrong("a number that is not in its shortest form")) } else { Ok(value) }
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, Error> {
        self.head(UNSIGNED)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let length = self.head(BYTES)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Error> {
        let length = self.head(TEXT)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| self.wrong("text that is not UTF-8"))
    }

    pub(crate) fn array(&mut self, items: u64) -> Result<(), Error> {
        if self.head(ARRAY)? == items { Ok(()) } else { Err(self.wrong(&format!("an array that does not have {items} items"))) }
    }

    /// Number of pairs that follow.
    pub(crate) fn map(&mut self) -> Result<u64, Error> {
        self.head(MAP)
    }

    pub(crate) fn tag(&mut self) -> Result<u64, Error> {
        self.head(TAG)
    }

    pub(crate) fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("something follows its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_8949() {
        for (value, hex) in [
            (0u64, "00"),
            (23, "17"),
            (24, "1818"),
            (100, "1864"),
            (1000, "1903e8"),
            (1_000_000, "1a000f4240"),
            (u64::MAX, "1bffffffffffffffff"),
        ] {
            assert_eq!(crate::encoding::hex(&Writer::default().unsigned(value).finish()), hex);
        }
        let bytes = Writer::default().tag(1).array(2).bytes(&[1, 2, 3, 4]).map(1).text("IETF").unsigned(7).finish();
        assert_eq!(crate::encoding::hex(&bytes), "c1824401020304a1644945544607");
    }

    #[test]
    fn other_spellings_are_refused() {
        for wrong in [
            &b"\x18\x17"[..],
            b"\x19\x00\xff",
            b"\x1a\x00\x00\xff\xff",
            b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff",
            b"\x1f",
            b"\x1c",
            b"\x20",
            b"",
            b"\x19\x01",
        ] {
            assert!(Reader::new(wrong, "test").unsigned().is_err(), "{wrong:?}");
        }
        assert!(Reader::new(b"\x5f\x41a\xff", "test").bytes().is_err(), "bytes in pieces");
        assert!(Reader::new(b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff", "test").bytes().is_err(), "longer than memory");
        assert!(Reader::new(b"\x61\xff", "test").text().is_err(), "not UTF-8");
    }

    proptest! {
        #[test]
        fn items_go_there_and_back(number: u64, bytes: Vec<u8>, text: String, tag: u64) {
            let written = Writer::default().tag(tag).array(3).unsigned(number).bytes(&bytes).text(&text).finish();
            let mut reader = Reader::new(&written, "test");
            prop_assert_eq!(reader.tag().unwrap(), tag);
            reader.array(3).unwrap();
            prop_assert_eq!(reader.unsigned().unwrap(), number);
            prop_assert_eq!(reader.bytes().unwrap(), &bytes[..]);
            prop_assert_eq!(reader.text().unwrap(), &text);
            reader.end().unwrap();
        }
    }
}
