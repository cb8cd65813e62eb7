//! Writes DER, as much as certificates need.

use crate::time::Civil;

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
#[cfg(feature = "simulation")]
pub(crate) const ENUMERATED: u8 = 0x0a;

/// ecdsa-with-SHA256.
pub(crate) const ECDSA_SHA256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// One value: tag, length, the parts one after the other.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = vec![tag];
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | bytes.len() as u8);
        der.extend(bytes);
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, parts)
}

/// A number that is not negative, from big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    match &bytes[zeros..] {
        [] => value(INTEGER, &[&[0]]),
        digits @ [0x80..=0xff, ..] => value(INTEGER, &[&[0], digits]),
        digits => value(INTEGER, &[digits]),
    }
}

pub(crate) fn object(oid: &[u8]) -> Vec<u8> {
    value(OBJECT_IDENTIFIER, &[oid])
}

/// Whole bytes as a BIT STRING.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], bytes])
}

/// Context-specific, constructed.
pub(crate) fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    value(0xa0 | number, &[content])
}

/// A time as RFC 5280 has it: UTCTime up to 2049, GeneralizedTime from then on.
pub(crate) fn time(seconds: u64) -> Vec<u8> {
    let Civil { year, month, day, hour, minute, second } = Civil::from_unix(seconds);
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if year < 2050 {
        value(0x17, &[format!("{:02}{rest}", year % 100).as_bytes()])
    } else {
        value(0x18, &[format!("{year:04}{rest}").as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_numbers_are_minimal() {
        assert_eq!(value(4, &[&[1; 127]])[..2], [4, 127]);
        assert_eq!(value(4, &[&[1; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(value(4, &[&[1; 200], &[2; 100]])[..4], [4, 0x82, 1, 44]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(unsigned(&[0, 0x80]), [2, 2, 0, 0x80]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        assert_eq!(time(0), b"\x17\x0d700101000000Z");
        assert_eq!(time(2_524_607_999), b"\x17\x0d491231235959Z");
        assert_eq!(time(2_524_608_000), b"\x18\x0f20500101000000Z");
    }
}
