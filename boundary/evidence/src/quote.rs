//! The layout of a DCAP quote of version 3 for an SGX enclave, signed with ECDSA P-256.
//!
//! ```text
//!    0   48  header: version 3, key type 2, .., QE SVN, PCE SVN, QE vendor, user data
//!   48  384  report body of the quoted enclave
//!  432    4  length of what follows
//!  436   64  signature of the first 432 bytes, by the attestation key
//!  500   64  attestation key
//!  564  384  report body of the quoting enclave; its REPORT_DATA begins with SHA-256(attestation key, authentication data)
//!  948   64  signature of that, by the platform's PCK key
//! 1012       2 + n bytes of authentication data; then kind (2), length (4) and bytes of certification data (5: a PEM chain)
//! ```
//!
//! This reads the structure. Nothing here says that a quote is genuine.

use crate::Error;
use crate::api::MAX_QUOTE;

/// Bytes of a report body.
pub const BODY: usize = 384;
/// Bytes that the attestation key signs.
pub const SIGNED: usize = 48 + BODY;
/// Certification data of this kind is the PEM chain of the PCK certificate.
pub const PCK_CHAIN: u16 = 5;
/// How the user data in the header of a *simulated* quote begins.
pub const SIMULATION_MARK: &[u8; 16] = b"TeeMate INSECURE";

const WHAT: &str = "quote";
const KEY_ECDSA_P256: u16 = 2;

/// A report body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Body<'a>(&'a [u8; BODY]);

impl<'a> Body<'a> {
    /// Reads it.
    pub fn new(bytes: &'a [u8; BODY]) -> Self {
        Body(bytes)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        // Offsets are this module's constants, all within the array.
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8; BODY] {
        self.0
    }

    /// CPUSVN.
    pub fn cpu_svn(&self) -> [u8; 16] {
        self.field(0)
    }

    /// MISCSELECT.
    pub fn misc_select(&self) -> u32 {
        u32::from_le_bytes(self.field(16))
    }

    /// ATTRIBUTES.FLAGS.
    pub fn flags(&self) -> u64 {
        u64::from_le_bytes(self.field(48))
    }

    /// ATTRIBUTES.XFRM.
    pub fn xfrm(&self) -> u64 {
        u64::from_le_bytes(self.field(56))
    }

    /// Whether the host can read the enclave's memory with debug instructions.
    pub fn is_debug(&self) -> bool {
        self.flags() & 2 != 0
    }

    /// MRENCLAVE.
    pub fn mrenclave(&self) -> [u8; 32] {
        self.field(64)
    }

    /// MRSIGNER.
    pub fn mrsigner(&self) -> [u8; 32] {
        self.field(128)
    }

    /// ISVPRODID.
    pub fn isv_prod_id(&self) -> u16 {
        u16::from_le_bytes(self.field(256))
    }

    /// ISVSVN.
    pub fn isv_svn(&self) -> u16 {
        u16::from_le_bytes(self.field(258))
    }

    /// REPORT_DATA.
    pub fn report_data(&self) -> [u8; 64] {
        self.field(320)
    }
}

impl std::fmt::Debug for Body<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Body(MRENCLAVE {})", crate::encoding::hex(&self.mrenclave()))
    }
}

/// A quote, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<'a> {
    /// The first 432 bytes: what the attestation key signs.
    pub signed: &'a [u8],
    /// SVN of the quoting enclave.
    pub qe_svn: u16,
    /// SVN of the provisioning certification enclave.
    pub pce_svn: u16,
    /// Who made the quoting enclave.
    pub qe_vendor: &'a [u8],
    /// 20 bytes that the quoting enclave fills as it likes.
    pub user_data: &'a [u8],
    /// The quoted enclave.
    pub body: Body<'a>,
    /// Signature of `signed`: r, s.
    pub signature: &'a [u8],
    /// The attestation key: x, y.
    pub attestation_key: &'a [u8],
    /// The quoting enclave.
    pub qe_body: Body<'a>,
    /// Signature of the quoting enclave's report body, by the PCK key.
    pub qe_signature: &'a [u8],
    /// What the quoting enclave hashed with its attestation key.
    pub qe_authentication: &'a [u8],
    /// Kind of the certification data.
    pub certification_kind: u16,
    /// Certification data.
    pub certification: &'a [u8],
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| Error::malformed(WHAT, "it ends in the middle"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| Error::malformed(WHAT, "it ends in the middle"))
    }

    fn short(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(*self.array()?))
    }

    fn length(&mut self) -> Result<usize, Error> {
        let length = u32::from_le_bytes(*self.array()?);
        usize::try_from(length).map_err(|_| Error::malformed(WHAT, "a length is beyond memory"))
    }
}

/// Length of the quote that `bytes` begin with, by its own header: quoting services pad with zeros. `None`: it is not there in full.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let signature = u32::from_le_bytes(*bytes.get(SIGNED..)?.first_chunk()?);
    let length = usize::try_from(signature).ok()?.checked_add(SIGNED + 4)?;
    (length <= bytes.len()).then_some(length)
}

impl<'a> Quote<'a> {
    /// Takes a quote apart. Every byte must belong to it.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Unsupported`] for other versions and keys, [`Error::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_QUOTE {
            return Err(Error::TooLarge { what: WHAT, length: bytes.len(), limit: MAX_QUOTE });
        }
        let mut reader = Reader(bytes);
        let version = reader.short()?;
        if version != 3 {
            return Err(Error::unsupported(WHAT, format!("version {version}; SGX enclaves have version 3")));
        }
        let key_type = reader.short()?;
        if key_type != KEY_ECDSA_P256 {
            return Err(Error::unsupported(WHAT, format!("attestation key type {key_type}; ECDSA P-256 is {KEY_ECDSA_P256}")));
        }
        if *reader.array()? != [0; 4] {
            return Err(Error::unsupported(WHAT, "it is not of an SGX enclave"));
        }
        let (qe_svn, pce_svn) = (reader.short()?, reader.short()?);
        let (qe_vendor, user_data) = (reader.take(16)?, reader.take(20)?);
        let body = Body(reader.array()?);
        if reader.length()? != reader.0.len() {
            return Err(Error::malformed(WHAT, "it does not have the length that it states"));
        }
        let (signature, attestation_key) = (reader.take(64)?, reader.take(64)?);
        let qe_body = Body(reader.array()?);
        let qe_signature = reader.take(64)?;
        let authentication = usize::from(reader.short()?);
        let qe_authentication = reader.take(authentication)?;
        let certification_kind = reader.short()?;
        let certification = reader.length()?;
        let certification = reader.take(certification)?;
        if !reader.0.is_empty() {
            return Err(Error::malformed(WHAT, "something follows its end"));
        }
        Ok(Quote {
            signed: bytes.get(..SIGNED).unwrap_or_default(),
            qe_svn,
            pce_svn,
            qe_vendor,
            user_data,
            body,
            signature,
            attestation_key,
            qe_body,
            qe_signature,
            qe_authentication,
            certification_kind,
            certification,
        })
    }

    /// Whether it says that it comes from the simulated quoting enclave. That is true of each that this project makes; one that hides it
    /// does not verify, because its chain ends elsewhere than where quotes without the mark must end.
    pub fn is_marked_as_simulation(&self) -> bool {
        self.user_data.starts_with(SIMULATION_MARK)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A quote of the right form; nothing in it is signed.
    pub(crate) fn unsigned(body: &[u8; BODY], authentication: &[u8], certification: &[u8]) -> Vec<u8> {
        let mut quote = vec![3, 0, 2, 0, 0, 0, 0, 0, 10, 0, 15, 0];
        quote.extend([7; 16]);
        quote.extend([8; 20]);
        quote.extend(body);
        quote.extend((584 + authentication.len() as u32 + certification.len() as u32).to_le_bytes());
        quote.extend([1; 64]);
        quote.extend([2; 64]);
        quote.extend([3; BODY]);
        quote.extend([4; 64]);
        quote.extend((authentication.len() as u16).to_le_bytes());
        quote.extend(authentication);
        quote.extend([5, 0]);
        quote.extend((certification.len() as u32).to_le_bytes());
        quote.extend(certification);
        quote
    }

    #[test]
    fn fields_are_where_sgx_isa_has_them() {
        let bytes: Vec<u8> = (0..432u32).map(|index| (index * 7 % 251) as u8).collect();
        let report = sgx_isa::Report::try_copy_from(&bytes).unwrap();
        let body = Body::new(bytes.first_chunk().unwrap());
        assert_eq!(body.cpu_svn(), report.cpusvn);
        assert_eq!(body.misc_select(), report.miscselect.bits());
        assert_eq!(body.flags(), report.attributes.flags.bits());
        assert_eq!(body.xfrm(), report.attributes.xfrm);
        assert_eq!(body.mrenclave(), report.mrenclave);
        assert_eq!(body.mrsigner(), report.mrsigner);
        assert_eq!((body.isv_prod_id(), body.isv_svn()), (report.isvprodid, report.isvsvn));
        assert_eq!(body.report_data(), report.reportdata);
    }

    #[test]
    fn cuts_and_additions_are_refused() {
        let quote = unsigned(&[9; BODY], &[1; 32], b"chain");
        assert!(Quote::parse(&quote).is_ok());
        assert_eq!(length(&quote), Some(quote.len()));
        for cut in 0..quote.len() {
            assert!(Quote::parse(&quote[..cut]).is_err(), "cut to {cut}");
            assert_eq!(length(&quote[..cut]), None);
        }
        let padded = [&quote[..], &[0; 9]].concat();
        assert!(Quote::parse(&padded).is_err());
        assert_eq!(length(&padded), Some(quote.len()));
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        for (at, value) in [(0, 4), (2, 3), (4, 0x81)] {
            let mut quote = unsigned(&[9; BODY], &[1; 32], b"chain");
            quote[at] = value;
            assert!(matches!(Quote::parse(&quote), Err(Error::Unsupported { .. })), "{at}");
        }
        assert!(matches!(Quote::parse(&vec![3; MAX_QUOTE + 1]), Err(Error::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, at in 0usize..1100, value: u8) {
            let _ = (Quote::parse(&bytes), length(&bytes));
            let mut quote = unsigned(&[9; BODY], &[1; 32], b"chain");
            if let Some(byte) = quote.get_mut(at) {
                *byte = value;
            }
            let _ = (Quote::parse(&quote), length(&quote));
        }

        #[test]
        fn parts_are_found_again(authentication in proptest::collection::vec(any::<u8>(), 0..100), certification: Vec<u8>) {
            let bytes = unsigned(&[9; BODY], &authentication, &certification);
            let quote = Quote::parse(&bytes).unwrap();
            prop_assert_eq!(quote.qe_authentication, &authentication[..]);
            prop_assert_eq!(quote.certification, &certification[..]);
            prop_assert_eq!((quote.qe_svn, quote.pce_svn, quote.certification_kind), (10, 15, 5));
            prop_assert_eq!((quote.signature[0], quote.attestation_key[0], quote.qe_body.bytes()[0], quote.qe_signature[0]), (1, 2, 3, 4));
        }
    }
}
