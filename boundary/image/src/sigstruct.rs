//! SIGSTRUCT: who signed an enclave, and for which attributes (SDM vol. 3D, "Enclave Signature Structure"; its checks are
//! those of EINIT).

use std::ops::Range;

use num_bigint::BigUint;
use sha2::{Digest, Sha256};

use crate::{Attributes, Error, FLAG_DEBUG, SIGSTRUCT_SIZE};

/// HEADER.
pub const HEADER: [u8; 16] = sgx_isa::SIGSTRUCT_HEADER1;
/// HEADER2.
pub const HEADER2: [u8; 16] = sgx_isa::SIGSTRUCT_HEADER2;
/// Bytes of an RSA-3072 number.
pub(crate) const NUMBER: usize = 384;
/// Mask over ATTRIBUTES.FLAGS: all must be as signed, except INIT, which EINIT itself sets.
pub const FLAGS_MASK: u64 = !1;

/// Mask over XFRM for an image that allows `xfrm`: x87 and SSE must be there, what it allows beyond them may be, all else may not.
/// So one signature fits machines with and without AVX-512, and none gets state for which the SSA frame has no room.
pub const fn xfrm_mask(xfrm: u64) -> u64 {
    !(xfrm & !crate::XFRM_LEGACY)
}

/// Where each field is.
pub(crate) mod field {
    use super::Range;
    pub const HEADER: Range<usize> = 0..16;
    pub const VENDOR: usize = 16;
    pub const DATE: usize = 20;
    pub const HEADER2: Range<usize> = 24..40;
    pub const RESERVED1: Range<usize> = 44..128;
    pub const MODULUS: Range<usize> = 128..512;
    pub const EXPONENT: usize = 512;
    pub const SIGNATURE: Range<usize> = 516..900;
    pub const MISCSELECT: usize = 900;
    pub const MISCMASK: usize = 904;
    pub const CET: Range<usize> = 908..912;
    pub const ATTRIBUTES: usize = 928;
    pub const ATTRIBUTE_MASK: usize = 944;
    pub const ENCLAVE_HASH: Range<usize> = 960..992;
    pub const RESERVED3: Range<usize> = 992..1008;
    /// ISVSVN follows it.
    pub const ISV_PROD_ID: usize = 1024;
    pub const RESERVED4: Range<usize> = 1028..1040;
    pub const Q1: Range<usize> = 1040..1424;
    pub const Q2: Range<usize> = 1424..1808;
    /// The signature is over these two, one after the other.
    pub const SIGNED: [Range<usize>; 2] = [0..128, 900..1028];
}

/// What a SIGSTRUCT says, once its signature is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// SHA-256 of the modulus, little-endian: the identity of the signer.
    pub mrsigner: [u8; 32],
    /// ENCLAVEHASH: the enclave it is for.
    pub mrenclave: [u8; 32],
    /// ATTRIBUTES.
    pub attributes: Attributes,
    /// Which bits of FLAGS and XFRM must be so.
    pub attribute_mask: Attributes,
    /// MISCSELECT.
    pub miscselect: u32,
    /// Which of its bits must be so.
    pub miscmask: u32,
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// DATE as `0xYYYYMMDD`.
    pub date: u32,
    /// VENDOR: 0x8086 is Intel.
    pub vendor: u32,
}

impl Verified {
    /// Whether EINIT would take it for an enclave with this MRENCLAVE, ATTRIBUTES and MISCSELECT.
    pub fn permits(&self, mrenclave: &[u8; 32], attributes: Attributes, miscselect: u32) -> Result<(), Error> {
        let bad = |why: &str| Err(Error::Sigstruct(why.to_owned()));
        if *mrenclave != self.mrenclave {
            return bad("it is for another enclave: ENCLAVEHASH is not the measurement of these pages; sign the image again");
        }
        let mask = self.attribute_mask;
        if attributes.flags & mask.flags != self.attributes.flags & mask.flags {
            let (is, signed) = (attributes.flags & FLAG_DEBUG != 0, self.attributes.flags & FLAG_DEBUG != 0);
            return bad(match (is, signed) {
                (true, false) => "it is not for a debug enclave, and this is one",
                (false, true) => "it is for a debug enclave, and this is none",
                _ => "it does not allow the enclave's attributes",
            });
        }
        if attributes.xfrm & mask.xfrm != self.attributes.xfrm & mask.xfrm {
            return bad("it does not allow the enclave's XFRM");
        }
        if miscselect & self.miscmask != self.miscselect & self.miscmask {
            return bad("it does not allow the enclave's MISCSELECT");
        }
        Ok(())
    }
}

/// Checks every field that EINIT checks, and the signature.
pub fn verify_sigstruct(bytes: &[u8; SIGSTRUCT_SIZE]) -> Result<Verified, Error> {
    verify(bytes).map_err(|why| Error::Sigstruct(why.to_owned()))
}

fn verify(bytes: &[u8; SIGSTRUCT_SIZE]) -> Result<Verified, &'static str> {
    if bytes[field::HEADER] != HEADER || bytes[field::HEADER2] != HEADER2 {
        return Err("its headers are not those of a SIGSTRUCT");
    }
    let vendor = u32_at(bytes, field::VENDOR);
    if vendor != 0 && vendor != 0x8086 {
        return Err("its vendor is neither 0 nor Intel (0x8086)");
    }
    if u32_at(bytes, field::EXPONENT) != 3 {
        return Err("its exponent is not 3");
    }
    let reserved = [field::RESERVED1, field::CET, field::RESERVED3, field::RESERVED4];
    if reserved.into_iter().any(|range| bytes[range].iter().any(|&byte| byte != 0)) {
        return Err("a reserved field is not zero");
    }

    let modulus = BigUint::from_bytes_le(&bytes[field::MODULUS]);
    let signature = BigUint::from_bytes_le(&bytes[field::SIGNATURE]);
    if modulus.bits() != 3072 || !modulus.bit(0) {
        return Err("its modulus is not an RSA modulus of 3072 bits");
    }
    if signature >= modulus {
        return Err("its signature is not smaller than its modulus");
    }
    let (q1, q2) = quotients(&modulus, &signature);
    if q1 != BigUint::from_bytes_le(&bytes[field::Q1]) || q2 != BigUint::from_bytes_le(&bytes[field::Q2]) {
        return Err("its Q1 or Q2 is wrong: they are not the quotients of its signature and modulus");
    }
    if signature.modpow(&BigUint::from(3u32), &modulus) != BigUint::from_bytes_be(&padded(&digest(bytes))) {
        return Err("its signature is wrong: it was changed after it was signed, or not signed by this key");
    }

    Ok(Verified {
        mrsigner: Sha256::digest(&bytes[field::MODULUS]).into(),
        mrenclave: array(&bytes[field::ENCLAVE_HASH]),
        attributes: Attributes { flags: u64_at(bytes, field::ATTRIBUTES), xfrm: u64_at(bytes, field::ATTRIBUTES + 8) },
        attribute_mask: Attributes { flags: u64_at(bytes, field::ATTRIBUTE_MASK), xfrm: u64_at(bytes, field::ATTRIBUTE_MASK + 8) },
        miscselect: u32_at(bytes, field::MISCSELECT),
        miscmask: u32_at(bytes, field::MISCMASK),
        isv_prod_id: u32_at(bytes, field::ISV_PROD_ID) as u16,
        isv_svn: (u32_at(bytes, field::ISV_PROD_ID) >> 16) as u16,
        date: u32_at(bytes, field::DATE),
        vendor,
    })
}

/// Q1 = ⌊s² / n⌋ and Q2 = ⌊(s³ - Q1·s·n) / n⌋, with which the processor needs no division.
pub(crate) fn quotients(modulus: &BigUint, signature: &BigUint) -> (BigUint, BigUint) {
    let square = signature * signature;
    let q1 = &square / modulus;
    let q2 = (signature * (square - &q1 * modulus)) / modulus;
    (q1, q2)
}

/// SHA-256 of the signed fields.
pub(crate) fn digest(bytes: &[u8; SIGSTRUCT_SIZE]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for range in field::SIGNED {
        hash.update(&bytes[range]);
    }
    hash.finalize().into()
}

/// EMSA-PKCS1-v1_5 of a SHA-256 digest (RFC 8017, 9.2), big-endian.
fn padded(digest: &[u8; 32]) -> [u8; NUMBER] {
    /// DER of DigestInfo for SHA-256, without the digest.
    const PREFIX: [u8; 19] =
        [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];
    let mut message = [0xff; NUMBER];
    let start = NUMBER - PREFIX.len() - digest.len();
    message[0] = 0;
    message[1] = 1;
    message[start - 1] = 0;
    message[start..start + PREFIX.len()].copy_from_slice(&PREFIX);
    message[start + PREFIX.len()..].copy_from_slice(digest);
    message
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

fn u32_at(bytes: &[u8; SIGSTRUCT_SIZE], at: usize) -> u32 {
    u32::from_le_bytes(array(&bytes[at..]))
}

fn u64_at(bytes: &[u8; SIGSTRUCT_SIZE], at: usize) -> u64 {
    u64::from_le_bytes(array(&bytes[at..]))
}

/// A SIGSTRUCT without key and signature for an image with this measurement.
#[cfg(feature = "sign")]
pub(crate) fn unsigned(image: &crate::Image, mrenclave: &[u8; 32], date: u32) -> [u8; SIGSTRUCT_SIZE] {
    let mut bytes = [0; SIGSTRUCT_SIZE];
    bytes[field::HEADER].copy_from_slice(&HEADER);
    bytes[field::DATE..][..4].copy_from_slice(&date.to_le_bytes());
    bytes[field::HEADER2].copy_from_slice(&HEADER2);
    bytes[field::MISCSELECT..][..4].copy_from_slice(&image.miscselect.to_le_bytes());
    bytes[field::MISCMASK..][..4].copy_from_slice(&(!crate::MISC_EXINFO).to_le_bytes());
    bytes[field::ATTRIBUTES..][..8].copy_from_slice(&image.attributes.flags.to_le_bytes());
    bytes[field::ATTRIBUTES + 8..][..8].copy_from_slice(&image.attributes.xfrm.to_le_bytes());
    bytes[field::ATTRIBUTE_MASK..][..8].copy_from_slice(&FLAGS_MASK.to_le_bytes());
    bytes[field::ATTRIBUTE_MASK + 8..][..8].copy_from_slice(&xfrm_mask(image.attributes.xfrm).to_le_bytes());
    bytes[field::ENCLAVE_HASH].copy_from_slice(mrenclave);
    bytes[field::ISV_PROD_ID..][..2].copy_from_slice(&image.isv_prod_id.to_le_bytes());
    bytes[field::ISV_PROD_ID + 2..][..2].copy_from_slice(&image.isv_svn.to_le_bytes());
    bytes[field::EXPONENT..][..4].copy_from_slice(&3u32.to_le_bytes());
    bytes
}
