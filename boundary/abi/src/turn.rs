//! Records of [`crate::ocall::TURN`]: what one exit of the enclave does for many connections.
//!
//! A record is a header of [`HEADER`] bytes, kind, descriptor and length (each 4, little-endian), and then so many bytes; [`SENT`] has none,
//! its length is a count.

/// Bytes of a record's header.
pub const HEADER: usize = 12;

/// To the host: send these bytes. It answers each with [`SENT`], in their order.
pub const SEND: u32 = 1;
/// To the host: close the connection.
pub const CLOSE: u32 = 2;
/// From the host: so many bytes of a [`SEND`] are on their way. If not all, [`WRITABLE`] comes when there is room again.
pub const SENT: u32 = 3;
/// From the host: a new connection, with the other end's address ([`crate::ocall::ADDRESS`] bytes).
pub const OPENED: u32 = 4;
/// From the host: these bytes came.
pub const DATA: u32 = 5;
/// From the host: the connection is broken, or the other end has closed it.
pub const HUNG_UP: u32 = 6;
/// From the host: more can be sent.
pub const WRITABLE: u32 = 7;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// One of the kinds above.
    pub kind: u32,
    /// Descriptor of the connection, as the host numbers it.
    pub fd: i32,
    /// Of [`SENT`] the count, else the number of bytes.
    pub length: u32,
    /// What goes with it.
    pub bytes: &'a [u8],
}

/// A header.
pub fn header(kind: u32, fd: i32, length: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[4..8].copy_from_slice(&fd.to_le_bytes());
    header[8..].copy_from_slice(&length.to_le_bytes());
    header
}

/// Records one after the other; ends at the first that is cut.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// In these bytes.
    pub fn new(bytes: &'a [u8]) -> Records<'a> {
        Records { rest: bytes }
    }

    /// Whether all of the bytes were records.
    pub fn is_at_the_end(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (header, rest) = self.rest.split_first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (kind, fd, length) = (word(0), word(4) as i32, word(8));
        let (bytes, rest) = rest.split_at_checked(if kind == SENT { 0 } else { length as usize })?;
        self.rest = rest;
        Some(Record { kind, fd, length, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_a_cut_one_ends_them() {
        let mut bytes = [0; 3 * HEADER + 5];
        bytes[..HEADER].copy_from_slice(&header(DATA, 70, 5));
        bytes[HEADER..HEADER + 5].copy_from_slice(b"hello");
        bytes[HEADER + 5..2 * HEADER + 5].copy_from_slice(&header(SENT, 71, 1000));
        bytes[2 * HEADER + 5..].copy_from_slice(&header(HUNG_UP, -1, 0));
        let mut records = Records::new(&bytes);
        assert_eq!(records.next(), Some(Record { kind: DATA, fd: 70, length: 5, bytes: b"hello" }));
        assert_eq!(records.next(), Some(Record { kind: SENT, fd: 71, length: 1000, bytes: b"" }));
        assert_eq!(records.next(), Some(Record { kind: HUNG_UP, fd: -1, length: 0, bytes: b"" }));
        assert!(records.next().is_none() && records.is_at_the_end());
        for cut in 0..bytes.len() {
            let mut records = Records::new(&bytes[..cut]);
            let count = records.by_ref().count();
            assert!(count < 3 && records.is_at_the_end() == [0, HEADER + 5, 2 * HEADER + 5].contains(&cut), "{cut}");
        }
        let mut lie = Records::new(&[5, 0, 0, 0, 70, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(lie.next().is_none() && !lie.is_at_the_end());
    }
}
