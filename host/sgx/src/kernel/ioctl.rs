//! The driver's ioctls: numbers, structures, and what its errors mean (Linux, `arch/x86/include/uapi/asm/sgx.h`).

use std::os::fd::{AsRawFd, OwnedFd};

/// Magic of the driver's ioctls.
const SGX_MAGIC: u32 = 0xA4;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC` of `asm-generic/ioctl.h`: direction in bits 30-31, size from bit 16, magic from bit 8, number.
const fn ioc(direction: u32, number: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | (SGX_MAGIC << 8) | number
}

/// CREATE: ECREATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Create {
    /// Address of the SECS.
    pub src: u64,
}

/// ADD_PAGES: EADD, and EEXTEND if `flags` has [`MEASURE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AddPages {
    /// Address of the content; page-aligned.
    pub src: u64,
    /// From the enclave's base.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Address of the SECINFO, for all these pages.
    pub secinfo: u64,
    /// [`MEASURE`].
    pub flags: u64,
    /// Out: bytes added.
    pub count: u64,
}

/// INIT: EINIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Init {
    /// Address of the SIGSTRUCT.
    pub sigstruct: u64,
}

/// PROVISION: allows ATTRIBUTES.PROVISIONKEY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Provision {
    /// Descriptor of `/dev/sgx_provision`.
    pub fd: u64,
}

/// RESTRICT_PERMISSIONS: EMODPR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RestrictPermissions {
    /// From the enclave's base.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// SECINFO's R, W and X.
    pub permissions: u64,
    /// Out: the leaf's error code. 0 when it is called.
    pub result: u64,
    /// Out: bytes changed. 0 when it is called.
    pub count: u64,
}

/// MODIFY_TYPES: EMODT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ModifyTypes {
    /// From the enclave's base.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// [`TYPE_TCS`] or [`TYPE_TRIM`].
    pub page_type: u64,
    /// Out: the leaf's error code. 0 when it is called.
    pub result: u64,
    /// Out: bytes changed. 0 when it is called.
    pub count: u64,
}

/// REMOVE_PAGES: EREMOVE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RemovePages {
    /// From the enclave's base.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Out: bytes removed. 0 when it is called.
    pub count: u64,
}

/// Flag of [`AddPages`].
pub const MEASURE: u64 = 1;
/// PT_TCS.
pub const TYPE_TCS: u64 = 1;
/// PT_TRIM.
pub const TYPE_TRIM: u64 = 4;

/// Request of [`Create`].
pub const CREATE: u32 = ioc(WRITE, 0, size_of::<Create>());
/// Request of [`AddPages`].
pub const ADD_PAGES: u32 = ioc(READ | WRITE, 1, size_of::<AddPages>());
/// Request of [`Init`].
pub const INIT: u32 = ioc(WRITE, 2, size_of::<Init>());
/// Request of [`Provision`].
pub const PROVISION: u32 = ioc(WRITE, 3, size_of::<Provision>());
/// Request of [`RestrictPermissions`].
pub const RESTRICT_PERMISSIONS: u32 = ioc(READ | WRITE, 5, size_of::<RestrictPermissions>());
/// Request of [`ModifyTypes`].
pub const MODIFY_TYPES: u32 = ioc(READ | WRITE, 6, size_of::<ModifyTypes>());
/// Request of [`RemovePages`].
pub const REMOVE_PAGES: u32 = ioc(READ | WRITE, 7, size_of::<RemovePages>());

// Numbers 4 (vEPC) and what CREATE and INIT lack are the header's, not ours: these are the values that `strace` prints.
const _: () = assert!(CREATE == 0x4008_A400);
const _: () = assert!(ADD_PAGES == 0xC030_A401);
const _: () = assert!(INIT == 0x4008_A402);
const _: () = assert!(PROVISION == 0x4008_A403);
const _: () = assert!(RESTRICT_PERMISSIONS == 0xC028_A405);
const _: () = assert!(MODIFY_TYPES == 0xC028_A406);
const _: () = assert!(REMOVE_PAGES == 0xC018_A407);

/// One call, with its argument.
#[derive(Debug)]
pub enum Call<'a> {
    /// ECREATE.
    Create(&'a mut Create),
    /// EADD.
    AddPages(&'a mut AddPages),
    /// EINIT.
    Init(&'a mut Init),
    /// Allow the provisioning key.
    Provision(&'a mut Provision),
    /// EMODPR.
    RestrictPermissions(&'a mut RestrictPermissions),
    /// EMODT.
    ModifyTypes(&'a mut ModifyTypes),
    /// EREMOVE.
    RemovePages(&'a mut RemovePages),
}

/// The driver, or what stands in for it in a test.
pub trait Ioctl: Send + Sync {
    /// Carries out a call; an errno on error. The argument's outputs are valid in both cases.
    ///
    /// # Safety
    /// Addresses in the argument are of memory that stays readable, and large enough, during the call.
    unsafe fn call(&self, call: Call<'_>) -> Result<(), i32>;
}

/// `/dev/sgx_enclave`, opened: one enclave.
#[derive(Debug)]
pub struct Driver(pub OwnedFd);

impl Ioctl for Driver {
    unsafe fn call(&self, call: Call<'_>) -> Result<(), i32> {
        let (request, argument): (u32, *mut libc::c_void) = match call {
            Call::Create(argument) => (CREATE, (&raw mut *argument).cast()),
            Call::AddPages(argument) => (ADD_PAGES, (&raw mut *argument).cast()),
            Call::Init(argument) => (INIT, (&raw mut *argument).cast()),
            Call::Provision(argument) => (PROVISION, (&raw mut *argument).cast()),
            Call::RestrictPermissions(argument) => (RESTRICT_PERMISSIONS, (&raw mut *argument).cast()),
            Call::ModifyTypes(argument) => (MODIFY_TYPES, (&raw mut *argument).cast()),
            Call::RemovePages(argument) => (REMOVE_PAGES, (&raw mut *argument).cast()),
        };
        // SAFETY: the argument is the structure that the request names, and alive; what it points to is the caller's promise.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), libc::c_ulong::from(request), argument) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_have_the_headers_layout() {
        assert_eq!(size_of::<Create>(), 8);
        assert_eq!(size_of::<AddPages>(), 48);
        assert_eq!(size_of::<Init>(), 8);
        assert_eq!(size_of::<Provision>(), 8);
        assert_eq!(size_of::<RestrictPermissions>(), 40);
        assert_eq!(size_of::<ModifyTypes>(), 40);
        assert_eq!(size_of::<RemovePages>(), 24);
        assert_eq!((offset_of!(AddPages, secinfo), offset_of!(AddPages, flags), offset_of!(AddPages, count)), (24, 32, 40));
        assert_eq!((offset_of!(RestrictPermissions, permissions), offset_of!(RestrictPermissions, result)), (16, 24));
        assert_eq!((offset_of!(ModifyTypes, page_type), offset_of!(ModifyTypes, count)), (16, 32));
        assert_eq!(offset_of!(RemovePages, count), 16);
    }

    #[test]
    fn numbers_follow_from_the_rule() {
        // Number 4 is SGX_IOC_VEPC_REMOVE_ALL of another device: _IO, no direction, no size.
        assert_eq!(ioc(0, 4, 0), 0xA404);
        for (request, direction, number) in [(CREATE, 1, 0), (ADD_PAGES, 3, 1), (INIT, 1, 2), (PROVISION, 1, 3), (REMOVE_PAGES, 3, 7)] {
            assert_eq!((request >> 30, request >> 8 & 0xff, request & 0xff), (direction, SGX_MAGIC, number));
        }
    }

    #[test]
    fn a_file_that_is_no_driver_says_so() {
        let driver = Driver(std::fs::File::open("/dev/null").unwrap().into());
        // SAFETY: nothing is read.
        let error = unsafe { driver.call(Call::RemovePages(&mut RemovePages::default())) }.unwrap_err();
        assert_eq!(error, libc::ENOTTY);
    }
}
