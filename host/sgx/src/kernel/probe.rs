//! What this machine has of SGX: for `teemate doctor`.

use std::{arch::x86_64::__cpuid_count, io::ErrorKind, path::Path};

use super::enclave::{DEVICE, PROVISION_DEVICE};

/// One prerequisite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Is it there?
    pub found: bool,
    /// Can nothing run on SGX without it?
    pub required: bool,
    /// What was seen, or what to do.
    pub sentence: String,
}

/// What CPUID says of SGX (SDM vol. 3D, "Intel SGX Resource Enumeration Leaves").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// Leaf 7, EBX bit 2.
    pub sgx: bool,
    /// Leaf 7, ECX bit 30: launch control, which Linux's driver needs.
    pub flexible_launch_control: bool,
    /// Leaf 12H.0, EAX bit 0.
    pub sgx1: bool,
    /// Leaf 12H.0, EAX bit 1: dynamic memory.
    pub sgx2: bool,
    /// Leaf 12H.0, EBX bit 0: EXINFO.
    pub exinfo: bool,
    /// Leaf 12H.0, EDX bits 8-15: largest enclave, as a power of two.
    pub size_bits: u32,
    /// Leaf 12H.1, EDX:ECX: XFRM bits that an enclave may have.
    pub xfrm: u64,
    /// Leaf 12H.2 and on: EPC in bytes.
    pub epc: u64,
}

/// Asks the processor.
pub fn processor() -> Processor {
    let mut found = Processor::default();
    if __cpuid_count(0, 0).eax < 7 {
        return found;
    }
    let leaf7 = __cpuid_count(7, 0);
    found.sgx = leaf7.ebx >> 2 & 1 == 1;
    found.flexible_launch_control = leaf7.ecx >> 30 & 1 == 1;
    if !found.sgx || __cpuid_count(0, 0).eax < 0x12 {
        return found;
    }
    let zero = __cpuid_count(0x12, 0);
    (found.sgx1, found.sgx2, found.exinfo) = (zero.eax & 1 == 1, zero.eax >> 1 & 1 == 1, zero.ebx & 1 == 1);
    found.size_bits = zero.edx >> 8 & 0xff;
    let one = __cpuid_count(0x12, 1);
    found.xfrm = u64::from(one.ecx) | u64::from(one.edx) << 32;
    for leaf in 2..64 {
        let section = __cpuid_count(0x12, leaf);
        if section.eax & 0xf == 0 {
            break;
        }
        found.epc += u64::from(section.ecx & 0xffff_f000) | u64::from(section.edx & 0xf_ffff) << 32;
    }
    found
}

/// XFRM bits that an enclave on this machine may have: those that the system uses (XCR0), and SGX knows.
pub fn supported_xfrm() -> u64 {
    // OSXSAVE: XGETBV is allowed, and XCR0 is set.
    if __cpuid_count(1, 0).ecx >> 27 & 1 == 0 {
        return teemate_image::XFRM_LEGACY;
    }
    let (low, high): (u32, u32);
    // SAFETY: allowed by OSXSAVE.
    unsafe { std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    let xcr0 = u64::from(low) | u64::from(high) << 32;
    match processor().xfrm {
        0 => xcr0,
        xfrm => xcr0 & xfrm,
    }
}

/// Looks at everything.
pub fn probe() -> Vec<Finding> {
    let mut findings = of_processor(&processor());
    findings.push(kernel());
    findings.push(device("SGX driver", DEVICE, true));
    findings.push(device("provisioning device", PROVISION_DEVICE, false));
    findings
}

fn of_processor(processor: &Processor) -> Vec<Finding> {
    let finding =
        |name, found, required, yes: String, no: &str| Finding { name, found, required, sentence: if found { yes } else { no.to_owned() } };
    let mib = processor.epc >> 20;
    vec![
        finding(
            "SGX processor",
            processor.sgx && processor.sgx1,
            true,
            format!("the processor has SGX, with {mib} MiB of EPC and enclaves up to 2^{} bytes", processor.size_bits),
            if processor.sgx {
                "the processor has SGX, but it is off: enable it in the firmware"
            } else {
                "the processor reports no SGX (CPUID 7, EBX bit 2): an Intel Xeon of the third generation or later has it, if the firmware \
                 and the hypervisor enable it"
            },
        ),
        finding(
            "launch control",
            processor.flexible_launch_control,
            true,
            "the processor lets Linux launch enclaves of any signer (FLC)".to_owned(),
            "the processor has no flexible launch control (CPUID 7, ECX bit 30), or the firmware locked it: Linux's driver refuses to start",
        ),
        finding(
            "SGX2",
            processor.sgx2,
            true,
            "pages can be added and removed while an enclave runs (EDMM)".to_owned(),
            "the processor has no SGX2: an enclave can't grow, and this project's can't run",
        ),
        finding(
            "EXINFO",
            processor.exinfo,
            true,
            "the processor tells an enclave the address of its page faults".to_owned(),
            "the processor lacks EXINFO: an enclave can't deal with its page faults",
        ),
    ]
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let found = version(&release).is_some_and(|version| version >= (6, 0));
    let sentence = match version(&release) {
        Some(version) if version >= (6, 0) => {
            format!("Linux {release} has the driver with dynamic memory, if it was built with CONFIG_X86_SGX")
        }
        Some(version) if version >= (5, 11) => format!("Linux {release} has the driver without dynamic memory: 6.0 or later is needed"),
        _ => format!("Linux {release} has no SGX driver: 6.0 or later is needed"),
    };
    Finding { name: "kernel", found, required: true, sentence }
}

/// Major and minor of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn device(name: &'static str, path: &str, required: bool) -> Finding {
    let opened = std::fs::OpenOptions::new().read(true).write(required).open(Path::new(path));
    let sentence = match &opened {
        Ok(_) => format!("{path} is there and may be opened"),
        Err(error) if error.kind() == ErrorKind::NotFound => format!("{path} is missing: no SGX, or a kernel without CONFIG_X86_SGX"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let group = if required { "sgx" } else { "sgx_prv" };
            format!("{path} may not be opened: add the node's user to the group that owns it (`usermod -aG {group} USER`)")
        }
        Err(error) => format!("{path} can't be opened: {error}"),
    };
    Finding { name, found: opened.is_ok(), required, sentence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.11"), Some((5, 11)));
        assert_eq!(version("next"), None);
    }

    #[test]
    fn every_finding_has_a_sentence() {
        let findings = probe();
        assert_eq!(findings.len(), 7);
        for finding in findings {
            assert!(finding.sentence.len() > 20, "{finding:?}");
        }
        let all = Processor { sgx: true, flexible_launch_control: true, sgx1: true, sgx2: true, exinfo: true, ..Processor::default() };
        assert!(of_processor(&all).iter().all(|finding| finding.found));
        let off = Processor { sgx1: false, ..all };
        assert!(of_processor(&off)[0].sentence.contains("firmware"));
    }

    #[test]
    fn xfrm_has_x87_and_sse() {
        assert_eq!(supported_xfrm() & 3, 3);
    }
}
