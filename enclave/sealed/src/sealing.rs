//! Where the store's key comes from.

use std::io;

/// Gives the key that everything else hangs on.
pub trait Sealing: Send + Sync {
    /// The sealing key for these security versions, which the store's header names, and this random number.
    ///
    /// # Errors
    /// When a version is higher than the enclave's or the processor's own: what a newer one sealed is not for an older one.
    fn key(&self, isv_svn: u16, cpu_svn: [u8; 16], key_id: [u8; 32]) -> io::Result<[u8; 16]>;

    /// The versions to seal with now: the enclave's ISVSVN and the processor's CPUSVN.
    fn current(&self) -> (u16, [u8; 16]);

    /// Whether the key is kept from the host.
    fn is_protected(&self) -> bool {
        true
    }
}

/// EGETKEY's seal key, by the enclave's signer and product (policy MRSIGNER, with ISVPRODID): the next release by the same signer derives
/// the same one. On the simulator it derives from a file of the host, and protects as much as the simulator does: nothing.
#[derive(Debug)]
pub struct EnclaveSealing {
    isv_svn: u16,
    cpu_svn: [u8; 16],
}

impl EnclaveSealing {
    /// Asks the processor for the enclave's own versions.
    ///
    /// # Errors
    /// `ENOSYS` outside an enclave.
    pub fn new() -> io::Result<EnclaveSealing> {
        let report = teemate_containers::report(None, &[0; 64])?;
        let mut cpu_svn = [0; 16];
        cpu_svn.copy_from_slice(&report[..16]);
        Ok(EnclaveSealing { isv_svn: u16::from_le_bytes([report[258], report[259]]), cpu_svn })
    }
}

impl Sealing for EnclaveSealing {
    fn key(&self, isv_svn: u16, cpu_svn: [u8; 16], key_id: [u8; 32]) -> io::Result<[u8; 16]> {
        teemate_containers::key(&seal_request(isv_svn, cpu_svn, key_id))
    }

    fn current(&self) -> (u16, [u8; 16]) {
        (self.isv_svn, self.cpu_svn)
    }
}

/// KEYREQUEST (SDM vol. 3D, 38.18) for the seal key by signer.
fn seal_request(isv_svn: u16, cpu_svn: [u8; 16], key_id: [u8; 32]) -> [u8; 512] {
    const KEYNAME_SEAL: u16 = 4;
    const POLICY_MRSIGNER: u16 = 2;
    // INIT, DEBUG and the reserved flags count, so that a debug enclave never derives the key of a production one. The provisioning rights
    // and the state components of XSAVE do not: a release may have others.
    const FLAGS_MASK: u64 = 0xff00_0000_0000_000b;
    const MISC_MASK: u32 = 0xf000_0000;
    let mut request = [0; 512];
    request[0..2].copy_from_slice(&KEYNAME_SEAL.to_le_bytes());
    request[2..4].copy_from_slice(&POLICY_MRSIGNER.to_le_bytes());
    request[4..6].copy_from_slice(&isv_svn.to_le_bytes());
    request[8..24].copy_from_slice(&cpu_svn);
    request[24..32].copy_from_slice(&FLAGS_MASK.to_le_bytes());
    request[40..72].copy_from_slice(&key_id);
    request[72..76].copy_from_slice(&MISC_MASK.to_le_bytes());
    request
}

/// A key that the caller gives: for native runs and tests. It protects nothing, for the host has it too.
#[derive(Clone, Debug)]
pub struct FixedSealing {
    key: [u8; 16],
    isv_svn: u16,
}

impl FixedSealing {
    /// Seals with this key, as ISVSVN 0.
    pub fn new(key: [u8; 16]) -> FixedSealing {
        FixedSealing { key, isv_svn: 0 }
    }

    /// The same key for another security version.
    pub fn at(self, isv_svn: u16) -> FixedSealing {
        FixedSealing { isv_svn, ..self }
    }
}

impl Sealing for FixedSealing {
    fn key(&self, isv_svn: u16, cpu_svn: [u8; 16], key_id: [u8; 32]) -> io::Result<[u8; 16]> {
        if isv_svn > self.isv_svn || cpu_svn != [0; 16] {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut message = Vec::with_capacity(50);
        message.extend_from_slice(&isv_svn.to_le_bytes());
        message.extend_from_slice(&cpu_svn);
        message.extend_from_slice(&key_id);
        let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.key), &message);
        let mut key = [0; 16];
        key.copy_from_slice(&tag.as_ref()[..16]);
        Ok(key)
    }

    fn current(&self) -> (u16, [u8; 16]) {
        (self.isv_svn, [0; 16])
    }

    fn is_protected(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_what_the_processor_reads() {
        let request = seal_request(0x0203, [7; 16], [9; 32]);
        let read = sgx_isa::Keyrequest::try_copy_from(&request).unwrap();
        assert_eq!((read.keyname, read.isvsvn, read.cpusvn, read.keyid), (sgx_isa::Keyname::Seal as u16, 0x0203, [7; 16], [9; 32]));
        assert_eq!(read.keypolicy, sgx_isa::Keypolicy::MRSIGNER);
        assert_eq!((read.attributemask, read.miscmask), ([0xff00_0000_0000_000b, 0], 0xf000_0000));
        assert!(request[6..8].iter().chain(&request[76..]).all(|byte| *byte == 0), "reserved bytes are zero");
    }

    #[test]
    fn a_fixed_key_depends_on_the_version_and_refuses_a_newer_one() {
        let (old, new) = (FixedSealing::new([1; 16]), FixedSealing::new([1; 16]).at(2));
        assert_eq!(old.key(0, [0; 16], [3; 32]).unwrap(), new.key(0, [0; 16], [3; 32]).unwrap());
        assert_ne!(new.key(0, [0; 16], [3; 32]).unwrap(), new.key(1, [0; 16], [3; 32]).unwrap());
        assert_ne!(new.key(0, [0; 16], [3; 32]).unwrap(), new.key(0, [0; 16], [4; 32]).unwrap());
        assert!(old.key(1, [0; 16], [3; 32]).is_err());
        assert!(!old.is_protected());
    }

    #[test]
    fn outside_an_enclave_there_is_no_sealing_key() {
        if teemate_containers::in_enclave() {
            println!("SKIPPED: this process runs in an enclave");
            return;
        }
        assert_eq!(EnclaveSealing::new().unwrap_err().raw_os_error(), Some(38));
    }
}
