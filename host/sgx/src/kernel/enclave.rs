//! Building an enclave, sharing it, and changing its pages.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use sgx_isa::{Attributes, AttributesFlags, Miscselect, Secinfo, SecinfoFlags, Secs, Sigstruct};
use teemate_abi::{
    host_area,
    layout::{ELRANGE_BASE, PAGE_SIZE, SSA_FRAME_PAGES, TCS_MAX},
    ocall::edmm,
};
use teemate_image::{Content, Image, PageKind, PageRun};

use super::{
    entry,
    ioctl::{AddPages, Call, Create, Driver, Init, Ioctl, MEASURE, ModifyTypes, Provision, RemovePages, RestrictPermissions, TYPE_TRIM},
    probe,
    process::{Range, Slot, Table},
};
use crate::device::{BuildOptions, Counters, Device, DeviceKind, Enclave, EpcUsage, Error};

/// Where the driver is.
pub const DEVICE: &str = "/dev/sgx_enclave";
/// Where the right to the provisioning key is.
pub const PROVISION_DEVICE: &str = "/dev/sgx_provision";
/// Calls in a row that bring nothing before an ioctl is given up. With [`pause`] that is about two seconds.
const RETRIES: u32 = 1000;
/// Pages that one ADD_PAGES adds: a signal, or another process, need not wait for more.
const BATCH: u64 = 256;

/// The kernel's device.
#[derive(Clone, Debug)]
pub struct KernelDevice {
    path: PathBuf,
    provision: bool,
}

impl Default for KernelDevice {
    fn default() -> Self {
        KernelDevice { path: DEVICE.into(), provision: false }
    }
}

impl KernelDevice {
    /// The device at its usual place.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows enclaves with ATTRIBUTES.PROVISIONKEY. Only a quoting enclave wants it.
    pub fn with_provision_key(self) -> Self {
        KernelDevice { provision: true, ..self }
    }

    fn open(path: &Path, hint: &'static str) -> Result<OwnedFd, Error> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
        file.map(OwnedFd::from).map_err(|source| Error::System { what: "opening the SGX device", source, hint })
    }
}

impl Device for KernelDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Sgx
    }

    fn build(&self, image: &Image, options: &BuildOptions) -> Result<Box<dyn Enclave>, Error> {
        let hint = "run `teemate doctor`; the device belongs to group sgx or sgx_prv on most distributions";
        let fd = Self::open(&self.path, hint)?;
        let share = fd.try_clone().map_err(|source| Error::System { what: "dup", source, hint: "raise `ulimit -n`" })?;
        let provision = match self.provision {
            true => Some(Self::open(Path::new(PROVISION_DEVICE), "only members of group sgx_prv may give out the provisioning key")?),
            false => None,
        };
        let mut enclave = KernelEnclave::build(Box::new(Driver(fd)), share, provision.as_ref(), image, probe::supported_xfrm())?;
        enclave.limit(options.epc_limit_pages);
        Ok(Box::new(enclave))
    }
}

/// An enclave in the kernel's driver.
pub struct KernelEnclave {
    ioctl: Box<dyn Ioctl>,
    /// Device, table, host area, entry code: what [`super::Attachment::attach`] wants, in this order.
    fds: [OwnedFd; 4],
    host: HostArea,
    mrenclave: [u8; 32],
    tcs_count: u32,
    elrange_size: u64,
    /// Pages that were added before EINIT, and the SECS.
    pages: u64,
    /// The most that it may have; 0: no limit.
    epc_limit: u64,
    removed: AtomicU64,
}

impl KernelEnclave {
    /// ECREATE, EADD and EEXTEND of every page, EINIT.
    pub(crate) fn build(
        ioctl: Box<dyn Ioctl>,
        device: OwnedFd,
        provision: Option<&OwnedFd>,
        image: &Image,
        xfrm: u64,
    ) -> Result<KernelEnclave, Error> {
        let refused = |error: teemate_image::Error| Error::Image(error.to_string());
        image.check().map_err(refused)?;
        let sigstruct = image.sigstruct.as_ref().and_then(|bytes| Sigstruct::try_copy_from(bytes));
        let sigstruct = sigstruct.ok_or_else(|| Error::Image("it is not signed: `teemate image sign` makes its SIGSTRUCT".to_owned()))?;
        let verified = image.verify().map_err(refused)?;
        create(&*ioctl, image, image.attributes.xfrm_for(xfrm))?;
        for run in &image.pages {
            add(&*ioctl, run)?;
        }
        if let Some(fd) = provision {
            let mut argument = Provision { fd: fd.as_raw_fd() as u64 };
            // SAFETY: no address in it.
            repeat(|| unsafe { ioctl.call(Call::Provision(&mut argument)) })
                .map_err(|errno| system("SGX_IOC_ENCLAVE_PROVISION", errno, "the descriptor must be of /dev/sgx_provision"))?;
        }
        let mut argument = Init { sigstruct: (&raw const sigstruct) as u64 };
        // SAFETY: the SIGSTRUCT lives until the end of this function.
        repeat(|| unsafe { ioctl.call(Call::Init(&mut argument)) }).map_err(init_error)?;

        Self::shareable(ioctl, device, image, verified.mrenclave)
    }

    /// What the processes will need of an enclave that is initialized.
    fn shareable(ioctl: Box<dyn Ioctl>, device: OwnedFd, image: &Image, mrenclave: [u8; 32]) -> Result<KernelEnclave, Error> {
        let size = host_area::size(image.tcs_count);
        let host = memfd(c"teemate-host", size)?;
        let table = Table::of(image).to_bytes();
        let table_fd = memfd(c"teemate-map", table.len() as u64)?;
        write_all(&table_fd, &table)?;
        let code = memfd(c"teemate-entry", entry::SIZE)?;
        write_all(&code, &entry::page())?;
        seal(&host, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
        for fd in [&table_fd, &code] {
            seal(fd, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE)?;
        }
        let enclave = KernelEnclave {
            host: HostArea::new(&host, size)?,
            ioctl,
            fds: [device, table_fd, host, code],
            mrenclave,
            tcs_count: image.tcs_count,
            elrange_size: image.elrange_size,
            pages: image.page_count() + 1,
            epc_limit: 0,
            removed: AtomicU64::new(0),
        };
        enclave.host.write_header(image.tcs_count);
        Ok(enclave)
    }
}

impl KernelEnclave {
    /// Tells the enclave how many pages it may have. Nobody enforces it: the driver knows no such limit, and pages out what is too much.
    fn limit(&mut self, pages: u64) {
        self.epc_limit = pages;
        self.host.header().acceptable_pages.store(pages.saturating_sub(self.pages), Relaxed);
    }
}

impl Enclave for KernelEnclave {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Sgx
    }

    fn mrenclave(&self) -> [u8; 32] {
        self.mrenclave
    }

    fn tcs_count(&self) -> u32 {
        self.tcs_count
    }

    fn share(&self) -> Result<Vec<OwnedFd>, Error> {
        let copies = self.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        copies.map_err(|source| Error::System { what: "dup", source, hint: "raise `ulimit -n`" })
    }

    /// What was added before EINIT is known; the driver tells nobody how many pages came by EAUG, but the enclave does.
    fn epc(&self) -> EpcUsage {
        let grown = self.host.header().accepted_pages.load(Relaxed);
        EpcUsage { pages: self.pages.saturating_add(grown), limit: self.epc_limit }
    }

    fn charged_pages(&self, tcs: u32) -> u64 {
        if tcs < self.tcs_count { self.host.charged_pages(tcs) } else { 0 }
    }

    fn counters(&self) -> Counters {
        let mut sum = Counters { eremove: self.removed.load(Relaxed), ..Counters::default() };
        for index in 0..self.tcs_count {
            let slot = self.host.slot(index);
            sum.eenter += slot.eenter.load(Relaxed);
            sum.eexit += slot.eexit.load(Relaxed);
            sum.aex += slot.aex.load(Relaxed);
            sum.eresume += slot.eresume.load(Relaxed);
            sum.killed_inside += slot.killed_inside.load(Relaxed);
        }
        sum
    }

    fn edmm(&self, operation: u64, address: u64, length: u64, permissions: u64) -> Result<u64, Error> {
        let (leaf, range) = (leaf_name(operation), ELRANGE_BASE..=ELRANGE_BASE + self.elrange_size);
        let bad = |why| Err(Error::Leaf { leaf, address, why });
        let end = address.checked_add(length);
        if !range.contains(&address) || end.is_none_or(|end| !range.contains(&end)) {
            return bad("the pages are not in ELRANGE");
        }
        if !address.is_multiple_of(PAGE_SIZE) || !length.is_multiple_of(PAGE_SIZE) || length == 0 {
            return bad("address and length must be multiples of the page size, and length not 0");
        }
        if operation == edmm::RESTRICT && (permissions & !7 != 0 || permissions & 3 == 2) {
            return bad("such permissions are impossible: R = 1, W = 2, X = 4, and W needs R");
        }
        let done = change(&*self.ioctl, operation, address - ELRANGE_BASE, length, permissions)?;
        if operation == edmm::REMOVE {
            self.removed.fetch_add(done / PAGE_SIZE, Relaxed);
        }
        Ok(done)
    }

    fn guard(&self, _pid: i32) -> Result<(), Error> {
        Ok(())
    }

    fn wait_saved(&self, _pid: i32) -> Result<(), Error> {
        Ok(())
    }
}

/// ECREATE.
fn create(ioctl: &dyn Ioctl, image: &Image, xfrm: u64) -> Result<(), Error> {
    let secs = Secs {
        size: image.elrange_size,
        baseaddr: ELRANGE_BASE,
        ssaframesize: SSA_FRAME_PAGES,
        miscselect: Miscselect::from_bits_truncate(image.miscselect),
        attributes: Attributes { flags: AttributesFlags::from_bits_truncate(image.attributes.flags), xfrm },
        ..Secs::default()
    };
    let mut argument = Create { src: (&raw const secs) as u64 };
    // SAFETY: the SECS lives until the end of this function; it has a whole page.
    repeat(|| unsafe { ioctl.call(Call::Create(&mut argument)) }).map_err(|errno| {
        let hint = match errno {
            libc::EIO => "the processor refused the SECS: it may not support EXINFO, this ELRANGE size, or these attributes",
            libc::ENOMEM => "no EPC page is left: end other enclaves",
            _ => "run `teemate doctor`",
        };
        system("SGX_IOC_ENCLAVE_CREATE", errno, hint)
    })
}

/// Page-aligned content for ADD_PAGES.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Source([u8; PAGE_SIZE as usize]);

/// EADD and EEXTEND of a run.
fn add(ioctl: &dyn Ioctl, run: &PageRun) -> Result<(), Error> {
    let secinfo = Secinfo { flags: SecinfoFlags::from_bits_truncate(run.kind.secinfo_flags()), ..Secinfo::default() };
    let mut source = vec![Source([0; PAGE_SIZE as usize]); BATCH.min(run.count) as usize];
    let mut first = 0;
    while first < run.count {
        let count = BATCH.min(run.count - first);
        if let Content::Bytes(bytes) = &run.content {
            let pages = bytes.as_chunks::<{ PAGE_SIZE as usize }>().0.iter().skip(first as usize);
            for (place, page) in source.iter_mut().zip(pages) {
                place.0 = *page;
            }
        }
        let (mut done, length) = (0, count * PAGE_SIZE);
        let mut idle = 0;
        while done < length {
            let mut argument = AddPages {
                src: source.as_ptr() as u64 + done,
                offset: run.offset + first * PAGE_SIZE + done,
                length: length - done,
                secinfo: (&raw const secinfo) as u64,
                flags: MEASURE,
                count: 0,
            };
            // SAFETY: `source` has `length` bytes from its start, and lives, as does the SECINFO.
            let result = unsafe { ioctl.call(Call::AddPages(&mut argument)) };
            let added = progress(argument.count, length - done);
            done += added;
            idle = if added > 0 { 0 } else { idle + 1 };
            match result {
                Ok(()) if idle <= RETRIES => {}
                Err(libc::EINTR | libc::EBUSY | libc::EAGAIN) if idle <= RETRIES => pause(idle),
                Ok(()) => return Err(system("SGX_IOC_ENCLAVE_ADD_PAGES", libc::EAGAIN, "the driver adds nothing; see `dmesg`")),
                Err(errno) => return Err(add_error(errno)),
            }
        }
        first += count;
    }
    Ok(())
}

fn add_error(errno: i32) -> Error {
    let hint = match errno {
        libc::ENOMEM => "no EPC page is left: end other enclaves, or give SGX more memory in the firmware (PRMRR)",
        libc::EACCES => "the content was in memory that may not be executed: a noexec mount?",
        libc::EIO => "EADD or EEXTEND failed: the machine was suspended, and the EPC is lost; build again",
        libc::EINVAL => "the driver refuses the page's type or rights, or the enclave is initialized already",
        _ => "see `dmesg`",
    };
    system("SGX_IOC_ENCLAVE_ADD_PAGES", errno, hint)
}

fn init_error(errno: i32) -> Error {
    let hint = match errno {
        libc::EPERM => "EINIT refused the SIGSTRUCT: sign the image again with `teemate image sign`",
        libc::EACCES => "the enclave asks for the provisioning key, which needs /dev/sgx_provision",
        libc::EINVAL => "the SIGSTRUCT wants attributes, XFRM or MISCSELECT that this processor lacks",
        libc::EIO => "EINIT faulted: the machine was suspended, and the EPC is lost; build again",
        _ => "see `dmesg`",
    };
    system("SGX_IOC_ENCLAVE_INIT", errno, hint)
}

/// EMODPR, EMODT(TRIM) or EREMOVE of a range. Gives the bytes done: all, unless the driver stays busy half-way.
fn change(ioctl: &dyn Ioctl, operation: u64, offset: u64, length: u64, permissions: u64) -> Result<u64, Error> {
    let (mut done, mut idle) = (0, 0);
    while done < length {
        let (offset, length) = (offset + done, length - done);
        let (result, count, code) = match operation {
            edmm::RESTRICT => {
                let mut argument = RestrictPermissions { offset, length, permissions, ..RestrictPermissions::default() };
                // SAFETY: no address in it.
                let result = unsafe { ioctl.call(Call::RestrictPermissions(&mut argument)) };
                (result, argument.count, argument.result)
            }
            edmm::TRIM => {
                let mut argument = ModifyTypes { offset, length, page_type: TYPE_TRIM, ..ModifyTypes::default() };
                // SAFETY: no address in it.
                let result = unsafe { ioctl.call(Call::ModifyTypes(&mut argument)) };
                (result, argument.count, argument.result)
            }
            edmm::REMOVE => {
                let mut argument = RemovePages { offset, length, ..RemovePages::default() };
                // SAFETY: no address in it.
                let result = unsafe { ioctl.call(Call::RemovePages(&mut argument)) };
                (result, argument.count, 0)
            }
            _ => return Err(Error::Leaf { leaf: leaf_name(operation), address: ELRANGE_BASE + offset, why: "there is no such operation" }),
        };
        let changed = progress(count, length);
        done += changed;
        idle = if changed > 0 { 0 } else { idle + 1 };
        match result {
            Ok(()) if idle <= RETRIES => {}
            Err(libc::EBUSY | libc::EAGAIN | libc::EINTR) if idle <= RETRIES => pause(idle),
            // Part of it is done; the enclave asks again for the rest.
            Ok(()) | Err(libc::EBUSY | libc::EAGAIN | libc::EINTR) if done > 0 => return Ok(done),
            Ok(()) => return Err(system(leaf_name(operation), libc::EAGAIN, "the driver changes nothing; see `dmesg`")),
            Err(errno) => return Err(change_error(operation, ELRANGE_BASE + offset + changed, errno, code)),
        }
    }
    Ok(done)
}

fn change_error(operation: u64, address: u64, errno: i32, code: u64) -> Error {
    let leaf = leaf_name(operation);
    let why = match (errno, code) {
        (libc::ENODEV, _) => {
            return Error::Unsupported(format!(
                "{leaf} needs a processor with SGX2 and Linux 6.0; without them an enclave can't give memory back: use the simulator, or other hardware"
            ));
        }
        (libc::ENOTTY, _) => return Error::Unsupported(format!("{leaf} needs Linux 6.0: this kernel's SGX driver has no dynamic memory")),
        (libc::EBUSY | libc::EAGAIN | libc::EINTR, _) => {
            return system(leaf, errno, "the driver stays busy: another process works on the same enclave; try again");
        }
        (libc::EPERM, _) => "the page is not trimmed, or the enclave has not accepted that yet (EACCEPT)",
        (libc::EINVAL, _) => "no regular page is there, or the driver refuses the operands",
        // SGX error codes: SDM vol. 3D, "Information and Error Codes"; numbers as in sgx_isa::ErrorCode.
        (libc::EFAULT, 6) => "the page is not valid (SGX_PG_INVLD)",
        (libc::EFAULT, 7) => "another leaf holds the page's lock (SGX_LOCKFAIL)",
        (libc::EFAULT, 20) => "the page has a change that is not accepted yet (SGX_PAGE_NOT_MODIFIABLE)",
        (libc::EFAULT, 0) => "there is no page, or the EPC was lost when the machine was suspended",
        (libc::EFAULT, _) => "the processor refused it; see `dmesg`",
        _ => return system(leaf, errno, "see `dmesg`"),
    };
    Error::Leaf { leaf, address, why }
}

fn leaf_name(operation: u64) -> &'static str {
    match operation {
        edmm::RESTRICT => "EMODPR",
        edmm::TRIM => "EMODT",
        edmm::REMOVE => "EREMOVE",
        _ => "ENCLS",
    }
}

/// What the driver says it has done, as far as that is possible.
fn progress(count: u64, most: u64) -> u64 {
    count.min(most) & !(PAGE_SIZE - 1)
}

/// Repeats a call that changes nothing when it is interrupted or finds the enclave busy.
fn repeat(mut call: impl FnMut() -> Result<(), i32>) -> Result<(), i32> {
    for idle in 1..=RETRIES {
        match call() {
            Err(libc::EINTR | libc::EBUSY | libc::EAGAIN) => pause(idle),
            other => return other,
        }
    }
    Err(libc::EBUSY)
}

/// Waits: first hardly, at last two milliseconds.
fn pause(idle: u32) {
    if idle < 10 {
        std::thread::yield_now();
    } else {
        std::thread::sleep(Duration::from_micros(u64::from(idle).min(100) * 20));
    }
}

fn system(what: &'static str, errno: i32, hint: &'static str) -> Error {
    Error::System { what, source: io::Error::from_raw_os_error(errno), hint }
}

fn last_error(what: &'static str, hint: &'static str) -> Error {
    Error::System { what, source: io::Error::last_os_error(), hint }
}

/// The host area, as the node has it mapped.
struct HostArea {
    base: NonNull<u8>,
    size: u64,
}

// SAFETY: a mapping may be used and unmapped by any thread; what is read and written through it are atomics, but for the header, which
// is written before anybody else has the area.
unsafe impl Send for HostArea {}
// SAFETY: as above.
unsafe impl Sync for HostArea {}

impl HostArea {
    fn new(fd: &OwnedFd, size: u64) -> Result<HostArea, Error> {
        // SAFETY: the kernel chooses a free place.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), size as usize, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        match NonNull::new(base.cast::<u8>()) {
            Some(place) if base != libc::MAP_FAILED => Ok(HostArea { base: place, size }),
            _ => Err(last_error("map the host area", "check `ulimit -v`")),
        }
    }

    fn write_header(&self, tcs_count: u32) {
        let header = self.base.cast::<host_area::Header>().as_ptr();
        // SAFETY: mapped and large enough; no other process has the descriptor yet.
        unsafe {
            (&raw mut (*header).magic).write(host_area::MAGIC);
            (&raw mut (*header).abi_version).write(teemate_abi::ABI_VERSION);
            (&raw mut (*header).tcs_count).write(tcs_count);
        }
    }

    fn header(&self) -> &host_area::Header {
        // SAFETY: mapped for as long as `self`; a header has only atomics but for what `write_header` wrote before anybody else had it.
        unsafe { self.base.cast().as_ref() }
    }

    fn charged_pages(&self, index: u32) -> u64 {
        let at = host_area::slot(index.min(TCS_MAX)) - host_area::BASE + host_area::SLOT_MAILBOX;
        debug_assert!(at + size_of::<host_area::Mailbox>() as u64 <= self.size);
        // SAFETY: `index` is below the TCS count of the image, for which the area was sized; a volatile read of an integer.
        unsafe { (&raw const (*self.base.add(at as usize).cast::<host_area::Mailbox>().as_ptr()).charged_pages).read_volatile() }
    }

    fn slot(&self, index: u32) -> &Slot {
        let at = host_area::slot(index.min(TCS_MAX)) - host_area::BASE + host_area::SLOT_CONTROL;
        debug_assert!(at + size_of::<Slot>() as u64 <= self.size);
        // SAFETY: `index` is below the TCS count of the image, for which the area was sized; a Slot has only atomics, and is valid for
        // any bytes.
        unsafe { self.base.add(at as usize).cast().as_ref() }
    }
}

impl Drop for HostArea {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and references into it do not outlive self.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size as usize) };
    }
}

fn memfd(name: &CStr, size: u64) -> Result<OwnedFd, Error> {
    // SAFETY: a constant name.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(last_error("memfd_create", "raise `ulimit -n`"));
    }
    // SAFETY: new, and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no memory is passed.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), size as i64) } != 0 {
        return Err(last_error("ftruncate", "check `ulimit -f`"));
    }
    Ok(fd)
}

fn write_all(fd: &OwnedFd, bytes: &[u8]) -> Result<(), Error> {
    // SAFETY: reads `bytes`.
    let written = unsafe { libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if written == bytes.len() as isize { Ok(()) } else { Err(last_error("write a memfd", "is there memory left?")) }
}

fn seal(fd: &OwnedFd, seals: i32) -> Result<(), Error> {
    // SAFETY: no memory is passed.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(last_error("fcntl(F_ADD_SEALS)", "needs a memfd of its own")),
    }
}

impl Table {
    /// What a process may map of an image's enclave: the measured pages with their rights, and the dynamic range with all.
    pub(crate) fn of(image: &Image) -> Table {
        let mut ranges: Vec<Range> = Vec::new();
        for run in &image.pages {
            let protection = match run.kind {
                PageKind::Tcs => libc::PROT_READ | libc::PROT_WRITE,
                PageKind::Regular { r, w, x } => {
                    (if r { libc::PROT_READ } else { 0 }) | (if w { libc::PROT_WRITE } else { 0 }) | (if x { libc::PROT_EXEC } else { 0 })
                }
            };
            let end = run.offset + run.count * PAGE_SIZE;
            match ranges.last_mut() {
                // Over a TCS block's guard page: a touch there is EAUG, but the page stays pending and the touch still faults.
                Some(last) if last.protection == protection && run.offset - (last.offset + last.length) <= PAGE_SIZE => {
                    last.length = end - last.offset;
                }
                _ => ranges.push(Range { offset: run.offset, length: end - run.offset, protection }),
            }
        }
        let heap = image.heap_start - ELRANGE_BASE;
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        ranges.push(Range { offset: heap, length: image.elrange_size - heap, protection });
        Table { elrange_size: image.elrange_size, tcs_start: image.tcs_start, tcs_count: image.tcs_count, ranges }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use teemate_image::measure::Measurement;

    use super::*;

    /// A driver that follows a script: for each call an errno (0: success), a result, and how many pages it does (as far as asked).
    #[derive(Default)]
    struct Mock {
        script: Mutex<VecDeque<(i32, u64, u64)>>,
        /// Offset, length, and the rest of the arguments.
        calls: Mutex<Vec<(u32, u64, u64, u64)>>,
        measurement: Mutex<Option<Measurement>>,
        /// Size, base, SSA frame size, flags, XFRM.
        secs: Mutex<Option<[u64; 5]>>,
    }

    impl Mock {
        fn new(script: &[(i32, u64, u64)]) -> Mock {
            Mock { script: Mutex::new(script.iter().copied().collect()), ..Mock::default() }
        }

        fn next(&self) -> (Result<(), i32>, u64, u64) {
            let (errno, result, pages) = self.script.lock().unwrap().pop_front().unwrap_or((0, 0, u64::MAX >> 12));
            (if errno == 0 { Ok(()) } else { Err(errno) }, result, pages * PAGE_SIZE)
        }
    }

    impl Ioctl for Mock {
        unsafe fn call(&self, call: Call<'_>) -> Result<(), i32> {
            let (outcome, result, bytes) = self.next();
            let log = |number, offset, length, other| self.calls.lock().unwrap().push((number, offset, length, other));
            match call {
                Call::Create(argument) => {
                    log(0, 0, 0, 0);
                    assert_eq!(argument.src % PAGE_SIZE, 0);
                    // SAFETY: the caller's promise: a SECS.
                    let secs = unsafe { &*(argument.src as *const Secs) };
                    let flags = secs.attributes.flags.bits();
                    *self.secs.lock().unwrap() = Some([secs.size, secs.baseaddr, secs.ssaframesize.into(), flags, secs.attributes.xfrm]);
                    *self.measurement.lock().unwrap() = Some(Measurement::ecreate(secs.ssaframesize, secs.size));
                }
                Call::AddPages(argument) => {
                    log(1, argument.offset, argument.length, argument.flags);
                    assert_eq!((argument.src % PAGE_SIZE, argument.count, argument.flags), (0, 0, MEASURE));
                    argument.count = bytes.min(argument.length);
                    // SAFETY: the caller's promise: a SECINFO, and so many pages.
                    let flags = unsafe { (*(argument.secinfo as *const Secinfo)).flags.bits() };
                    for at in (0..argument.count).step_by(PAGE_SIZE as usize) {
                        // SAFETY: as above.
                        let data = unsafe { &*((argument.src + at) as *const [u8; PAGE_SIZE as usize]) };
                        if let Some(measurement) = &mut *self.measurement.lock().unwrap() {
                            measurement.add(&teemate_image::Page { offset: argument.offset + at, secinfo: flags, data, zero: false });
                        }
                    }
                }
                Call::Init(_) => log(2, 0, 0, 0),
                Call::Provision(argument) => log(3, 0, 0, argument.fd),
                Call::RestrictPermissions(argument) => {
                    log(5, argument.offset, argument.length, argument.permissions);
                    assert_eq!((argument.result, argument.count), (0, 0));
                    (argument.result, argument.count) = (result, bytes.min(argument.length));
                }
                Call::ModifyTypes(argument) => {
                    log(6, argument.offset, argument.length, argument.page_type);
                    assert_eq!((argument.result, argument.count), (0, 0));
                    (argument.result, argument.count) = (result, bytes.min(argument.length));
                }
                Call::RemovePages(argument) => {
                    log(7, argument.offset, argument.length, 0);
                    assert_eq!(argument.count, 0);
                    argument.count = bytes.min(argument.length);
                }
            }
            outcome
        }
    }

    fn image() -> Image {
        let bytes = |pages: u64| Content::Bytes((0..pages * PAGE_SIZE).map(|index| (index / 77) as u8).collect());
        let run = |offset, count, kind, content| PageRun { offset: offset * PAGE_SIZE, count, kind, content };
        Image {
            elrange_size: 1 << 24,
            ssa_frame_pages: 1,
            pages: vec![
                run(0, 1, PageKind::READ, bytes(1)),
                run(8, 1, PageKind::Tcs, bytes(1)),
                run(9, 6, PageKind::READ_WRITE, Content::Zero),
                run(16, 1, PageKind::Tcs, bytes(1)),
                run(17, 6, PageKind::READ_WRITE, Content::Zero),
                run(32, 600, PageKind::READ_EXECUTE, bytes(600)),
                run(700, 300, PageKind::READ_WRITE, Content::Zero),
            ],
            gate: 0,
            tcs_start: ELRANGE_BASE + 8 * PAGE_SIZE,
            tcs_count: 2,
            heap_start: ELRANGE_BASE + 1024 * PAGE_SIZE,
            attributes: teemate_image::Attributes { flags: 4, xfrm: 0xe7 },
            miscselect: 1,
            isv_prod_id: 0,
            isv_svn: 0,
            report: Default::default(),
            sigstruct: None,
        }
    }

    #[test]
    fn pages_are_added_and_measured_whatever_interrupts() {
        // Busy; part after a signal; a signal before anything; the rest without trouble.
        let mock = Mock::new(&[(libc::EBUSY, 0, 0), (0, 0, 0), (0, 0, 1), (libc::EINTR, 0, 0), (0, 0, 1), (0, 0, 2), (libc::EAGAIN, 0, 1)]);
        let image = image();
        create(&mock, &image, image.attributes.xfrm_for(7)).unwrap();
        for run in &image.pages {
            add(&mock, run).unwrap();
        }
        assert_eq!(mock.secs.lock().unwrap().unwrap(), [1 << 24, ELRANGE_BASE, 1, 4, 7]);
        let measurement = mock.measurement.lock().unwrap().take().unwrap();
        assert_eq!(measurement.finish(), image.measure());
        assert!(mock.calls.lock().unwrap().iter().all(|call| call.2 <= BATCH * PAGE_SIZE));
    }

    #[test]
    fn edmm_goes_on_from_count() {
        let mock = Mock::new(&[(0, 0, 3), (libc::EAGAIN, 0, 2), (libc::EBUSY, 0, 0), (libc::EINTR, 0, 0), (0, 0, 9)]);
        assert_eq!(change(&mock, edmm::TRIM, 0x5000, 0x8000, 0).unwrap(), 0x8000);
        let calls: Vec<_> = mock.calls.lock().unwrap().iter().map(|call| (call.0, call.1, call.2, call.3)).collect();
        let expected = [(0x5000, 0x8000), (0x8000, 0x5000), (0xa000, 0x3000), (0xa000, 0x3000), (0xa000, 0x3000)];
        assert_eq!(calls, expected.map(|(offset, length)| (6, offset, length, TYPE_TRIM)));
        let mock = Mock::new(&[]);
        assert_eq!(change(&mock, edmm::RESTRICT, 0, 0x1000, 5).unwrap(), 0x1000);
        assert_eq!(change(&mock, edmm::REMOVE, 0, 0x1000, 0).unwrap(), 0x1000);
        assert_eq!(mock.calls.lock().unwrap()[..], [(5, 0, 0x1000, 5), (7, 0, 0x1000, 0)]);
    }

    #[test]
    fn a_driver_that_stays_busy_is_given_up() {
        let busy = vec![(libc::EBUSY, 0, 0); RETRIES as usize + 5];
        let error = change(&Mock::new(&busy), edmm::REMOVE, 0, 0x2000, 0).unwrap_err().to_string();
        assert!(error.contains("stays busy"), "{error}");
        // With something done, that is the answer.
        let mut script = vec![(0, 0, 1)];
        script.extend(busy);
        assert_eq!(change(&Mock::new(&script), edmm::REMOVE, 0, 0x2000, 0).unwrap(), 0x1000);
        let nothing = vec![(0, 0, 0); RETRIES as usize + 5];
        assert!(change(&Mock::new(&nothing), edmm::TRIM, 0, 0x2000, 0).is_err());
        // A driver that claims more than was asked is not believed.
        assert_eq!(progress(u64::MAX, 0x3000), 0x3000);
        assert_eq!(progress(0x1fff, 0x3000), 0x1000);
    }

    #[test]
    fn errors_are_sentences() {
        let said = |operation, errno, code, pages| {
            let mock = Mock::new(&[(errno, code, pages)]);
            change(&mock, operation, 0x1000, 0x4000, 0).unwrap_err().to_string()
        };
        assert!(said(edmm::REMOVE, libc::EPERM, 0, 1).contains("EREMOVE is refused at 0x100000002000: the page is not trimmed"));
        assert!(said(edmm::TRIM, libc::ENODEV, 0, 0).contains("SGX2"));
        assert!(said(edmm::TRIM, libc::ENOTTY, 0, 0).contains("Linux 6.0"));
        assert!(said(edmm::RESTRICT, libc::EFAULT, 20, 0).contains("SGX_PAGE_NOT_MODIFIABLE"));
        assert!(said(edmm::RESTRICT, libc::EINVAL, 0, 0).contains("EMODPR"));
        assert!(said(9, 0, 0, 0).contains("no such operation"));
        assert!(init_error(libc::EPERM).to_string().contains("teemate image sign"));
        assert!(init_error(libc::EACCES).to_string().contains("sgx_provision"));
        let mock = Mock::new(&[(libc::ENOMEM, 0, 0)]);
        assert!(add(&mock, &image().pages[0]).unwrap_err().to_string().contains("no EPC page is left"));
        let mock = Mock::new(&[(libc::EIO, 0, 0)]);
        assert!(create(&mock, &image(), 3).unwrap_err().to_string().contains("refused the SECS"));
        let device = KernelDevice { path: "/nonexistent/sgx".into(), provision: false };
        let error = device.build(&image(), &BuildOptions::default()).err().unwrap().to_string();
        assert!(error.contains("teemate doctor"), "{error}");
    }

    #[test]
    fn an_unsigned_image_is_refused_before_anything_is_built() {
        let mut image = image();
        image.sigstruct = Some([0; 1808]);
        let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let error = KernelEnclave::build(Box::new(Mock::default()), null, None, &image, 3).err().unwrap().to_string();
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn what_is_shared() {
        let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let enclave = KernelEnclave::shareable(Box::new(Mock::default()), null, &image(), [9; 32]).unwrap();
        assert_eq!((enclave.tcs_count(), enclave.mrenclave(), enclave.epc().pages), (2, [9; 32], 916));
        let fds = enclave.share().unwrap();
        let read = |fd: &OwnedFd, length: usize| {
            let mut bytes = vec![0; length];
            std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::from(fd.try_clone().unwrap()), &mut bytes, 0).unwrap();
            bytes
        };
        let table = Table::of(&image());
        assert_eq!(read(&fds[1], table.to_bytes().len()), table.to_bytes());
        assert!(read(&fds[2], 8).eq(&host_area::MAGIC.to_le_bytes()));
        assert_eq!(read(&fds[3], entry::SIZE as usize), entry::page());
        for fd in [&fds[1], &fds[3]] {
            // SAFETY: fails: the file is sealed.
            assert_eq!(unsafe { libc::pwrite(fd.as_raw_fd(), c"x".as_ptr().cast(), 1, 0) }, -1);
        }
        enclave.host.slot(1).eenter.fetch_add(5, Relaxed);
        assert_eq!(enclave.counters().eenter, 5);
        assert_eq!(enclave.edmm(edmm::REMOVE, ELRANGE_BASE + 0x1000, 0x2000, 0).unwrap(), 0x2000);
        assert_eq!(enclave.counters().eremove, 2);
        for (address, length) in [(0, 4096), (ELRANGE_BASE, 0), (ELRANGE_BASE + 1, 4096), (ELRANGE_BASE, 1 << 25), (u64::MAX - 4095, 4096)]
        {
            assert!(enclave.edmm(edmm::TRIM, address, length, 0).is_err());
        }
        assert!(enclave.edmm(edmm::RESTRICT, ELRANGE_BASE, 4096, 2).unwrap_err().to_string().contains("W needs R"));
    }

    #[test]
    fn the_map_has_a_range_for_each_right() {
        let table = Table::of(&image());
        let ranges: Vec<_> = table.ranges.iter().map(|range| (range.offset >> 12, range.length >> 12, range.protection)).collect();
        assert_eq!(ranges, [(0, 1, 1), (8, 15, 3), (32, 600, 5), (700, 300, 3), (1024, 3072, 7)]);
        assert_eq!(Table::from_bytes(&table.to_bytes()).unwrap(), table);
    }
}
