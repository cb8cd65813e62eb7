//! A processor that is none: reports as SGX lays them out, with keys that derive from a secret of the machine. For tests.

use std::io;

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};

use crate::platform::{Platform, REPORT, TARGETINFO};

/// An enclave on such a machine.
#[derive(Clone, Copy, Debug)]
pub struct FakePlatform {
    /// The machine's secret.
    pub fuses: [u8; 16],
    /// Program.
    pub mrenclave: [u8; 32],
    /// Signer.
    pub mrsigner: [u8; 32],
    /// Security version.
    pub isv_svn: u16,
    /// Whether it is a debug enclave.
    pub debug: bool,
}

impl Default for FakePlatform {
    fn default() -> Self {
        FakePlatform { fuses: [1; 16], mrenclave: [2; 32], mrsigner: [3; 32], isv_svn: 4, debug: false }
    }
}

impl FakePlatform {
    fn flags(&self) -> u64 {
        0b101 | u64::from(self.debug) << 1
    }

    fn key(&self, mrenclave: &[u8], attributes: &[u8], key_id: &[u8]) -> [u8; 16] {
        cmac(&self.fuses, &[mrenclave, attributes, key_id].concat())
    }
}

impl Platform for FakePlatform {
    fn report(&self, target: Option<&[u8; TARGETINFO]>, data: &[u8; 64]) -> io::Result<[u8; REPORT]> {
        let mut report = [0; REPORT];
        report[48..56].copy_from_slice(&self.flags().to_le_bytes());
        report[64..96].copy_from_slice(&self.mrenclave);
        report[128..160].copy_from_slice(&self.mrsigner);
        report[258..260].copy_from_slice(&self.isv_svn.to_le_bytes());
        report[320..384].copy_from_slice(data);
        report[384..416].fill(9);
        let own = crate::platform::target_of(&report);
        let target = target.unwrap_or(&own);
        let key = self.key(&target[..32], &target[32..48], &report[384..416]);
        let mac = cmac(&key, &report[..384]);
        report[416..].copy_from_slice(&mac);
        Ok(report)
    }

    fn report_key(&self, key_id: &[u8; 32]) -> io::Result<[u8; 16]> {
        let attributes = [self.flags().to_le_bytes(), [0; 8]].concat();
        Ok(self.key(&self.mrenclave, &attributes, key_id))
    }
}

fn cmac(key: &[u8; 16], message: &[u8]) -> [u8; 16] {
    let mut mac = Cmac::<Aes128>::new(key.into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}
