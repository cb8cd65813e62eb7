//! One value by itself, as DUMP gives it and RESTORE takes it: type, value, version (2 bytes), CRC-64 of what is before.

use std::io;

use crate::{Crc64, Error, Reader, Value, Writer};

/// Version that is written: Redis 7.0's.
const VERSION: u16 = 10;
/// The newest that is read.
const NEWEST: u16 = 11;
const FOOTER: usize = 10;

/// What DUMP gives for the one value that `write` writes. Database, key and expiry that it names are left out.
///
/// # Errors
/// Those of `write`.
pub fn dump(write: impl FnOnce(&mut Writer<Vec<u8>>) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut writer = Writer::bare();
    write(&mut writer)?;
    let mut bytes = writer.into_bare()?;
    bytes.extend(VERSION.to_le_bytes());
    let mut crc = Crc64::default();
    crc.update(&bytes);
    bytes.extend(crc.value().to_le_bytes());
    Ok(bytes)
}

/// The value that a payload of DUMP's has.
///
/// # Errors
/// [`Error::Payload`] when it was changed, or is of a newer version; the others when its content is wrong.
pub fn restore(payload: &[u8]) -> Result<Value, Error> {
    let (value, footer) = payload.split_at_checked(payload.len().wrapping_sub(FOOTER)).ok_or(Error::Payload)?;
    let (version, sum) = footer.split_first_chunk::<2>().ok_or(Error::Payload)?;
    let mut crc = Crc64::default();
    crc.update(value);
    crc.update(version);
    if u16::from_le_bytes(*version) > NEWEST || sum != crc.value().to_le_bytes() {
        return Err(Error::Payload);
    }
    let mut reader = Reader::bare(value);
    let read = reader.bare_value()?;
    if reader.at() == value.len() as u64 { Ok(read) } else { Err(Error::Payload) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_comes_back_and_every_change_is_noticed() {
        let payload = dump(|writer| writer.list(3, b"key", Some(7), [b"a", b"b"].iter())).unwrap();
        assert_eq!(restore(&payload).unwrap(), Value::List(vec![b"a".to_vec(), b"b".to_vec()]));
        for bit in 0..payload.len() * 8 {
            let mut changed = payload.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(restore(&changed).is_err());
        }
        for cut in 0..payload.len() {
            assert!(restore(&payload[..cut]).is_err());
        }
    }

    #[test]
    fn what_redis_7_0_dumps_for_ten() {
        // DUMP of a key that was SET to 10, from Redis's documentation, whose version is 9.
        let payload = b"\x00\xc0\n\t\x00\xbem\x06\x89Z(\x00\n";
        assert_eq!(restore(payload).unwrap(), Value::Text(b"10".to_vec()));
    }
}
