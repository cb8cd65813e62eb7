//! One value by itself, as DUMP gives it and RESTORE takes it: type, value, version (2 bytes), CRC-64 of what is before. As in files, a sum of
//! zero says that none was made.

use std::io;

use crate::{Crc64, Error, Reader, Value, Writer};

/// Version that is written: Redis 7.0's.
const VERSION: u16 = 10;
/// The newest that is read: Redis 7.4's.
const NEWEST: u16 = 12;
const FOOTER: usize = 10;

/// What DUMP gives for the one value that `write` writes. Database, key and expiry that it names are left out.
///
/// # Errors
/// Those of `write`.
pub fn dump(write: impl FnOnce(&mut Writer<Vec<u8>>) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut writer = Writer::bare();
    write(&mut writer)?;
    let mut bytes = writer.into_bare()?;
    sign(&mut bytes);
    Ok(bytes)
}

fn sign(bytes: &mut Vec<u8>) {
    bytes.extend(VERSION.to_le_bytes());
    let mut crc = Crc64::default();
    crc.update(bytes);
    bytes.extend(crc.value().to_le_bytes());
}

/// What is before the version and the sum, if both are right.
fn signed(payload: &[u8]) -> Result<&[u8], Error> {
    let (value, footer) = payload.split_at_checked(payload.len().wrapping_sub(FOOTER)).ok_or(Error::Payload)?;
    let (version, sum) = footer.split_first_chunk::<2>().ok_or(Error::Payload)?;
    let mut crc = Crc64::default();
    crc.update(value);
    crc.update(version);
    if u16::from_le_bytes(*version) > NEWEST || sum != [0; 8] && sum != crc.value().to_le_bytes() {
        return Err(Error::Payload);
    }
    Ok(value)
}

/// What FUNCTION DUMP gives for these libraries.
pub fn dump_functions(libraries: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::bare();
    // Writing into memory does not fail.
    let written = libraries.iter().try_for_each(|code| writer.function(code));
    let mut bytes = written.and_then(|()| writer.into_bare()).unwrap_or_default();
    sign(&mut bytes);
    bytes
}

/// The libraries that a payload of FUNCTION DUMP's has.
///
/// # Errors
/// As [`restore`].
pub fn restore_functions(payload: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let all = signed(payload)?;
    let mut reader = Reader::bare(all);
    let mut libraries = Vec::new();
    while reader.at() < all.len() as u64 {
        libraries.push(reader.bare_function()?);
    }
    Ok(libraries)
}

/// The value that a payload of DUMP's has.
///
/// # Errors
/// [`Error::Payload`] when it was changed, or is of a newer version; the others when its content is wrong.
pub fn restore(payload: &[u8]) -> Result<Value, Error> {
    let value = signed(payload)?;
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
    fn libraries_come_back_too() {
        let libraries = [b"#!lua name=a\n".to_vec(), vec![7; 100]];
        let payload = dump_functions(&libraries);
        assert_eq!(restore_functions(&payload).unwrap(), libraries);
        assert!(restore_functions(&payload[1..]).is_err() && restore(&payload).is_err());
        assert!(restore_functions(&dump_functions(&[])).unwrap().is_empty());
        let value = dump(|writer| writer.list(0, b"", None, [b"a"].iter())).unwrap();
        assert!(restore_functions(&value).is_err());
    }

    #[test]
    fn what_was_not_summed_is_judged_by_its_content() {
        let mut payload = dump(|writer| writer.list(3, b"key", None, [b"a"].iter())).unwrap();
        let end = payload.len();
        payload[end - 8..].fill(0);
        assert_eq!(restore(&payload).unwrap(), Value::List(vec![b"a".to_vec()]));
        // Of a text that says it has 2^64 - 9 bytes.
        let payload = b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xf7\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        assert!(restore(payload).is_err_and(|error| !matches!(error, Error::Payload)));
    }

    #[test]
    fn what_redis_7_0_dumps_for_ten() {
        // DUMP of a key that was SET to 10, from Redis's documentation, whose version is 9.
        let payload = b"\x00\xc0\n\t\x00\xbem\x06\x89Z(\x00\n";
        assert_eq!(restore(payload).unwrap(), Value::Text(b"10".to_vec()));
    }
}
