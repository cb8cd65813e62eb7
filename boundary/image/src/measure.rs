//! MRENCLAVE: SHA-256 over a record for each ECREATE, EADD and EEXTEND (SDM vol. 3D, "Enclave Measurement"; the
//! records are in the pseudocode of ECREATE, EADD and EEXTEND).

use sha2::{Digest, Sha256};
use teemate_abi::layout::PAGE_SIZE;

use crate::{Image, Page};

/// The measurement while pages are being added.
#[derive(Clone)]
pub struct Measurement(Sha256);

impl Measurement {
    /// ECREATE.
    pub fn ecreate(ssa_frame_pages: u32, elrange_size: u64) -> Self {
        let mut record = [0; 64];
        record[..8].copy_from_slice(b"ECREATE\0");
        record[8..12].copy_from_slice(&ssa_frame_pages.to_le_bytes());
        record[12..20].copy_from_slice(&elrange_size.to_le_bytes());
        let mut hash = Sha256::new();
        hash.update(record);
        Measurement(hash)
    }

    /// EADD, then EEXTEND of all 16 chunks of the page.
    pub fn add(&mut self, page: &Page<'_>) {
        self.eadd(page.offset, page.secinfo);
        for (index, chunk) in page.data.as_chunks::<256>().0.iter().enumerate() {
            self.eextend(page.offset + index as u64 * 256, chunk);
        }
    }

    /// EADD of a page at `offset` from the base. The record holds SECINFO's first 48 bytes, of which all but the flags are zero.
    pub fn eadd(&mut self, offset: u64, secinfo_flags: u64) {
        let mut record = [0; 64];
        record[..8].copy_from_slice(b"EADD\0\0\0\0");
        record[8..16].copy_from_slice(&offset.to_le_bytes());
        record[16..24].copy_from_slice(&secinfo_flags.to_le_bytes());
        self.0.update(record);
    }

    /// EEXTEND of 256 bytes at `offset` from the base.
    pub fn eextend(&mut self, offset: u64, chunk: &[u8; 256]) {
        let mut record = [0; 64];
        record[..8].copy_from_slice(b"EEXTEND\0");
        record[8..16].copy_from_slice(&offset.to_le_bytes());
        self.0.update(record);
        self.0.update(chunk);
    }

    /// EINIT: MRENCLAVE.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

const _: () = assert!(PAGE_SIZE == 16 * 256);

impl Image {
    /// MRENCLAVE of an enclave with exactly these pages, all of them measured.
    pub fn measure(&self) -> [u8; 32] {
        let mut measurement = Measurement::ecreate(self.ssa_frame_pages, self.elrange_size);
        for page in self.pages() {
            measurement.add(&page);
        }
        measurement.finish()
    }
}
