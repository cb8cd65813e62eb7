//! What the processor does for a link: reports, and the key by which one's own are checked.

use std::io;

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};

/// Bytes of a REPORT (SDM vol. 3D, 38.16).
pub const REPORT: usize = 432;
/// Bytes of a TARGETINFO (SDM vol. 3D, 38.17).
pub const TARGETINFO: usize = 512;
/// Where REPORTDATA begins: what stands before it says who made the report.
pub const REPORTDATA: usize = 320;
/// Bytes that the MAC covers; then KEYID (32 bytes) and the MAC (16).
const BODY: usize = 384;

/// The processor, as an enclave sees it.
pub trait Platform: Send + Sync {
    /// EREPORT with this REPORTDATA, for a target, or for the enclave itself.
    ///
    /// # Errors
    /// When there is no enclave, or the target is malformed.
    fn report(&self, target: Option<&[u8; TARGETINFO]>, data: &[u8; 64]) -> io::Result<[u8; REPORT]>;

    /// EGETKEY's report key with this KEYID.
    ///
    /// # Errors
    /// When there is no enclave.
    fn report_key(&self, key_id: &[u8; 32]) -> io::Result<[u8; 16]>;
}

/// The enclave that this program runs in.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnclavePlatform;

impl Platform for EnclavePlatform {
    fn report(&self, target: Option<&[u8; TARGETINFO]>, data: &[u8; 64]) -> io::Result<[u8; REPORT]> {
        teemate_containers::report(target, data)
    }

    fn report_key(&self, key_id: &[u8; 32]) -> io::Result<[u8; 16]> {
        teemate_containers::key(&key_request(key_id))
    }
}

/// KEYREQUEST (SDM vol. 3D, 38.18) for the report key. All else in it is for other keys.
fn key_request(key_id: &[u8; 32]) -> [u8; 512] {
    const KEYNAME_REPORT: u16 = 3;
    let mut request = [0; 512];
    request[0..2].copy_from_slice(&KEYNAME_REPORT.to_le_bytes());
    request[40..72].copy_from_slice(key_id);
    request
}

/// TARGETINFO of the enclave that this REPORT is of.
pub(crate) fn target_of(report: &[u8; REPORT]) -> [u8; TARGETINFO] {
    let mut target = [0; TARGETINFO];
    // MRENCLAVE, ATTRIBUTES, CETATTRIBUTES, CONFIGSVN, MISCSELECT, CONFIGID.
    for (to, from, length) in [(0, 64, 32), (32, 48, 16), (48, 20, 1), (50, 260, 2), (52, 16, 4), (64, 192, 64)] {
        target[to..to + length].copy_from_slice(&report[from..from + length]);
    }
    target
}

/// Whether a REPORT was made on this machine for this enclave.
pub(crate) fn is_for_us(platform: &dyn Platform, report: &[u8; REPORT]) -> io::Result<bool> {
    let mut key_id = [0; 32];
    key_id.copy_from_slice(&report[BODY..BODY + 32]);
    let key = platform.report_key(&key_id)?;
    let mut mac = Cmac::<Aes128>::new(&key.into());
    mac.update(&report[..BODY]);
    // Compares in constant time.
    Ok(mac.verify_slice(&report[BODY + 32..]).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_and_the_target_are_what_the_processor_reads() {
        let request = key_request(&[7; 32]);
        assert_eq!((&request[..2], &request[40..72]), (&[3, 0][..], &[7; 32][..]));
        assert!(request[2..40].iter().chain(&request[72..]).all(|byte| *byte == 0));
        let mut report = [0; REPORT];
        (0..REPORT).for_each(|at| report[at] = (at % 251) as u8);
        let target = target_of(&report);
        assert_eq!(target[..32], report[64..96]);
        assert_eq!(target[32..48], report[48..64]);
        assert_eq!(target[52..56], report[16..20]);
        assert!(target[56..64].iter().chain(&target[128..]).all(|byte| *byte == 0));
    }

    #[test]
    fn without_an_enclave_there_is_no_report() {
        assert!(EnclavePlatform.report(None, &[0; 64]).is_err() && EnclavePlatform.report_key(&[0; 32]).is_err());
    }
}
