//! Keys and reports (SDM vol. 3D, 40.4 EGETKEY and EREPORT), derived by AES-CMAC from a secret that stands in for the fuses.

use aes::Aes128;
use cmac::{Cmac, Mac};

use super::shared::Identity;

/// Bytes of a REPORT.
pub const REPORT_SIZE: usize = 432;
/// Bytes of a REPORT that its MAC covers.
pub const REPORT_BODY: usize = 384;
/// Bytes of a TARGETINFO.
pub const TARGETINFO_SIZE: usize = 512;
/// Bytes of a KEYREQUEST.
pub const KEYREQUEST_SIZE: usize = 512;

/// CPUSVN of the simulator: the same on all machines, and no processor's.
pub const CPUSVN: [u8; 16] = *b"teemate sim. 01\0";

const KEYNAME_EINITTOKEN: u16 = 0;
const KEYNAME_PROVISION: u16 = 1;
const KEYNAME_PROVISION_SEAL: u16 = 2;
const KEYNAME_REPORT: u16 = 3;
const KEYNAME_SEAL: u16 = 4;

const POLICY_MRENCLAVE: u16 = 1;
const POLICY_MRSIGNER: u16 = 2;

/// Codes in RAX when EGETKEY refuses.
pub mod code {
    #![allow(missing_docs)]
    pub const INVALID_ATTRIBUTE: u64 = 2;
    pub const INVALID_CPUSVN: u64 = 32;
    pub const INVALID_ISVSVN: u64 = 64;
    pub const INVALID_KEYNAME: u64 = 256;
}

/// FLAGS that every key depends on, whatever the mask says: INIT, DEBUG, and the reserved bits.
const FLAGS_ALWAYS: u64 = 0b11;
const FLAG_PROVISION_KEY: u64 = 1 << 4;
const FLAG_EINITTOKEN_KEY: u64 = 1 << 5;

/// What a key depends on; fields that a kind of key leaves out are zero.
#[derive(Default)]
struct Dependencies {
    name: u16,
    policy: u16,
    isv_prod_id: u16,
    isv_svn: u16,
    cpu_svn: [u8; 16],
    flags: u64,
    xfrm: u64,
    miscselect: u32,
    flags_mask: u64,
    xfrm_mask: u64,
    misc_mask: u32,
    mrenclave: [u8; 32],
    mrsigner: [u8; 32],
    key_id: [u8; 32],
}

impl Dependencies {
    fn derive(&self, fuses: &[u8; 32]) -> [u8; 16] {
        let mut mac = <Cmac<Aes128> as Mac>::new(fuses[..16].into());
        mac.update(b"teemate simulator key\0");
        mac.update(&fuses[16..]);
        for short in [self.name, self.policy, self.isv_prod_id, self.isv_svn] {
            mac.update(&short.to_le_bytes());
        }
        mac.update(&self.cpu_svn);
        for long in [self.flags, self.xfrm, self.flags_mask, self.xfrm_mask] {
            mac.update(&long.to_le_bytes());
        }
        mac.update(&self.miscselect.to_le_bytes());
        mac.update(&self.misc_mask.to_le_bytes());
        mac.update(&self.mrenclave);
        mac.update(&self.mrsigner);
        mac.update(&self.key_id);
        mac.finalize().into_bytes().into()
    }
}

/// AES-128-CMAC.
pub fn aes_cmac(key: &[u8; 16], message: &[u8]) -> [u8; 16] {
    let mut mac = <Cmac<Aes128> as Mac>::new(key.into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The key by which a REPORT for this target is authenticated.
fn report_key(fuses: &[u8; 32], mrenclave: &[u8; 32], flags: u64, xfrm: u64, miscselect: u32, key_id: [u8; 32]) -> [u8; 16] {
    let dependencies = Dependencies {
        name: KEYNAME_REPORT,
        cpu_svn: CPUSVN,
        flags,
        xfrm,
        miscselect,
        mrenclave: *mrenclave,
        key_id,
        ..Default::default()
    };
    dependencies.derive(fuses)
}

/// CR_REPORT_KEYID: one value for each machine here; a processor draws it at reset.
fn report_key_id(fuses: &[u8; 32]) -> [u8; 32] {
    let mut key = [0; 16];
    key.copy_from_slice(&fuses[..16]);
    let mut id = [0; 32];
    id[..16].copy_from_slice(&aes_cmac(&key, b"report key id"));
    id
}

/// EREPORT. `None`: #GP (a reserved field of the TARGETINFO is not zero).
pub fn report(own: &Identity, target: &[u8; TARGETINFO_SIZE], data: &[u8; 64]) -> Option<[u8; REPORT_SIZE]> {
    // CET, CONFIGSVN and CONFIGID belong to features that this enclave does not have.
    if target[48..52].iter().chain(&target[56..]).any(|byte| *byte != 0) {
        return None;
    }
    let mut report = [0; REPORT_SIZE];
    report[..16].copy_from_slice(&CPUSVN);
    report[16..20].copy_from_slice(&(own.miscselect as u32).to_le_bytes());
    report[48..56].copy_from_slice(&own.flags.to_le_bytes());
    report[56..64].copy_from_slice(&own.xfrm.to_le_bytes());
    report[64..96].copy_from_slice(&own.mrenclave);
    report[128..160].copy_from_slice(&own.mrsigner);
    report[256..258].copy_from_slice(&(own.isv_prod_id as u16).to_le_bytes());
    report[258..260].copy_from_slice(&(own.isv_svn as u16).to_le_bytes());
    report[320..384].copy_from_slice(data);
    let key_id = report_key_id(&own.fuses);
    report[384..416].copy_from_slice(&key_id);
    let mut mrenclave = [0; 32];
    mrenclave.copy_from_slice(&target[..32]);
    let key = report_key(&own.fuses, &mrenclave, long(target, 32), long(target, 40), long(target, 52) as u32, key_id);
    let mac = aes_cmac(&key, &report[..REPORT_BODY]);
    report[416..].copy_from_slice(&mac);
    Some(report)
}

/// Whether the MAC of a REPORT is that of the target's report key.
pub(super) fn is_genuine(fuses: &[u8; 32], report: &[u8; REPORT_SIZE], target: &[u8; TARGETINFO_SIZE]) -> bool {
    let (mut mrenclave, mut key_id) = ([0; 32], [0; 32]);
    mrenclave.copy_from_slice(&target[..32]);
    key_id.copy_from_slice(&report[REPORT_BODY..416]);
    let key = report_key(fuses, &mrenclave, long(target, 32), long(target, 40), long(target, 52) as u32, key_id);
    aes_cmac(&key, &report[..REPORT_BODY]) == report[416..]
}

/// Bytes of this machine for a purpose that is no key of EGETKEY's.
pub(super) fn derive(fuses: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    let mut key = [0; 16];
    key.copy_from_slice(&fuses[..16]);
    let mut derived = [0; 32];
    for (counter, half) in (0u8..).zip(derived.chunks_exact_mut(16)) {
        half.copy_from_slice(&aes_cmac(&key, &[b"teemate simulator secret", &fuses[16..], &[counter], purpose].concat()));
    }
    derived
}

/// What EGETKEY says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyReply {
    /// The key.
    Key([u8; 16]),
    /// ZF and this code in RAX.
    Refused(u64),
    /// #GP.
    GeneralProtection,
}

/// EGETKEY.
pub fn key(own: &Identity, request: &[u8; KEYREQUEST_SIZE]) -> KeyReply {
    let name = short(request, 0);
    let policy = short(request, 2);
    let isv_svn = short(request, 4);
    let mut cpu_svn = [0; 16];
    cpu_svn.copy_from_slice(&request[8..24]);
    let flags_mask = long(request, 24) | FLAGS_ALWAYS;
    let xfrm_mask = long(request, 32);
    let mut key_id = [0; 32];
    key_id.copy_from_slice(&request[40..72]);
    let misc_mask = long(request, 72) as u32;
    if policy & !(POLICY_MRENCLAVE | POLICY_MRSIGNER) != 0 || request[6..8].iter().chain(&request[76..]).any(|byte| *byte != 0) {
        return KeyReply::GeneralProtection;
    }
    let svn_checked = |dependencies: Dependencies| {
        if cpu_svn > CPUSVN {
            KeyReply::Refused(code::INVALID_CPUSVN)
        } else if u64::from(isv_svn) > own.isv_svn {
            KeyReply::Refused(code::INVALID_ISVSVN)
        } else {
            KeyReply::Key(dependencies.derive(&own.fuses))
        }
    };
    match name {
        KEYNAME_REPORT => KeyReply::Key(report_key(&own.fuses, &own.mrenclave, own.flags, own.xfrm, own.miscselect as u32, key_id)),
        KEYNAME_SEAL => {
            let by = |bit: u16, measurement: [u8; 32]| if policy & bit != 0 { measurement } else { [0; 32] };
            svn_checked(Dependencies {
                name,
                policy,
                isv_prod_id: own.isv_prod_id as u16,
                isv_svn,
                cpu_svn,
                flags: own.flags & flags_mask,
                xfrm: own.xfrm & xfrm_mask,
                miscselect: own.miscselect as u32 & misc_mask,
                flags_mask,
                xfrm_mask,
                misc_mask,
                mrenclave: by(POLICY_MRENCLAVE, own.mrenclave),
                mrsigner: by(POLICY_MRSIGNER, own.mrsigner),
                key_id,
            })
        }
        KEYNAME_PROVISION | KEYNAME_PROVISION_SEAL if own.flags & FLAG_PROVISION_KEY == 0 => KeyReply::Refused(code::INVALID_ATTRIBUTE),
        KEYNAME_PROVISION | KEYNAME_PROVISION_SEAL => svn_checked(Dependencies {
            name,
            isv_prod_id: own.isv_prod_id as u16,
            isv_svn,
            cpu_svn,
            flags: own.flags & flags_mask,
            xfrm: own.xfrm & xfrm_mask,
            miscselect: own.miscselect as u32 & misc_mask,
            flags_mask,
            xfrm_mask,
            misc_mask,
            mrsigner: own.mrsigner,
            ..Default::default()
        }),
        KEYNAME_EINITTOKEN if own.flags & FLAG_EINITTOKEN_KEY == 0 => KeyReply::Refused(code::INVALID_ATTRIBUTE),
        // There is no launch control to have a key for.
        KEYNAME_EINITTOKEN => KeyReply::Refused(code::INVALID_ATTRIBUTE),
        _ => KeyReply::Refused(code::INVALID_KEYNAME),
    }
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |two| u16::from_le_bytes(*two))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |eight| u64::from_le_bytes(*eight))
}
