//! What a payload can ask of the enclave it runs in: the next container, verified files, a connection, a report, a key.
//!
//! A payload is an ordinary Linux program. What Linux has no call for, it asks by the syscall numbers of [`number`], which the LibOS
//! answers and which Linux refuses with ENOSYS: so [`in_enclave`] needs no configuration, and natively each function here does what a
//! normal process would.

use std::io;

use teemate_abi::own_calls as number;

/// Syscall through libc, so that the site is one that the image builder rewrites.
fn call(number: i64, a: u64, b: u64, c: u64, d: u64) -> io::Result<i64> {
    // SAFETY: the LibOS checks every pointer against the payload's memory; Linux answers ENOSYS without looking at them.
    let value = unsafe { libc::syscall(number, a, b, c, d) };
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Whether this process runs in an enclave.
pub fn in_enclave() -> bool {
    call(number::PRESENT, 0, 0, 0, 0).is_ok()
}

/// Gives back the container that this thread runs in, if any, and waits for the next one. Returns its id.
///
/// # Errors
/// `ENOSYS` without an enclave.
pub fn next_container() -> io::Result<u64> {
    let mut id = 0u64;
    call(number::NEXT_CONTAINER, &raw mut id as u64, 0, 0, 0)?;
    Ok(id)
}

/// The content of a file of this container, which must have this length and SHA-256. Natively the file is read relative to the
/// process's root and checked by the caller.
///
/// # Errors
/// `EBADMSG` when the content differs, and the errors of open(2) and read(2).
pub fn verified_file(path: &str, sha256: &[u8; 32], length: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::fd::FromRawFd;
    if !in_enclave() {
        return std::fs::read(path);
    }
    let fd = call(number::VERIFIED_FILE, path.as_ptr() as u64, path.len() as u64, sha256.as_ptr() as u64, length)?;
    // SAFETY: the LibOS made this descriptor for us alone.
    let mut file = unsafe { std::fs::File::from_raw_fd(fd as i32) };
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// A TCP connection to `host:port`. In an enclave the node makes it, for a container has no network of its own; what comes
/// through it is untrusted either way.
///
/// # Errors
/// Those of connect(2); `EACCES` when the node's allow-list does not have it.
pub fn connect(address: &str) -> io::Result<std::net::TcpStream> {
    use std::os::fd::FromRawFd;
    if !in_enclave() {
        return match std::env::var("TEEMATE_BROKER_FD").ok().and_then(|fd| fd.parse().ok()) {
            Some(broker) => ask(broker, address),
            None => std::net::TcpStream::connect(address),
        };
    }
    let fd = call(number::CONNECT, address.as_ptr() as u64, address.len() as u64, 0, 0)?;
    // SAFETY: the LibOS made this descriptor for us alone.
    Ok(unsafe { std::net::TcpStream::from_raw_fd(fd as i32) })
}

/// Natively in a container of the node: what the host's runner does for an enclave. One question at a time.
fn ask(broker: i32, address: &str) -> io::Result<std::net::TcpStream> {
    use std::os::fd::FromRawFd;
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut errno, mut control) = ([0u8; 4], [0u64; 4]);
    let mut piece = libc::iovec { iov_base: errno.as_mut_ptr().cast(), iov_len: errno.len() };
    // SAFETY: the structure is plain data for which zero is a value; its pointers are set to buffers that outlive the calls, with their
    // lengths. CMSG_FIRSTHDR looks only at the control buffer, whose first message has room for the one descriptor that is read.
    unsafe {
        if libc::send(broker, address.as_ptr().cast(), address.len(), libc::MSG_NOSIGNAL) < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        if libc::recvmsg(broker, &raw mut message, libc::MSG_CMSG_CLOEXEC) != 4 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        match i32::from_le_bytes(errno) {
            0 if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS => {
                Ok(std::net::TcpStream::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()))
            }
            number if number > 0 => Err(io::Error::from_raw_os_error(number)),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

/// EREPORT with this report data, for the target whose TARGETINFO (512 bytes) is given, or for the enclave itself.
///
/// # Errors
/// `ENOSYS` without an enclave.
pub fn report(target: Option<&[u8; 512]>, data: &[u8; 64]) -> io::Result<[u8; 432]> {
    let mut report = [0u8; 432];
    call(number::REPORT, target.map_or(0, |t| t.as_ptr() as u64), data.as_ptr() as u64, report.as_mut_ptr() as u64, 0)?;
    Ok(report)
}

/// EGETKEY with this KEYREQUEST (512 bytes).
///
/// # Errors
/// `ENOSYS` without an enclave, `EINVAL` when the processor refuses the request.
pub fn key(request: &[u8; 512]) -> io::Result<[u8; 16]> {
    let mut key = [0u8; 16];
    call(number::KEY, request.as_ptr() as u64, key.as_mut_ptr() as u64, 0, 0)?;
    Ok(key)
}

/// Makes writable memory part of the enclave before it is touched, and has the host map it in one go: at the first touch it would be too late
/// to learn that there is no EPC left. Does nothing without an enclave.
///
/// # Errors
/// `ENOMEM` when no EPC page is left, `EFAULT` when the range is not mapped for writing.
pub fn prefault(start: *const u8, length: usize) -> io::Result<()> {
    match call(number::PREFAULT, start as u64, length as u64, 0, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        done => done.map(drop),
    }
}

/// What one [`turn`] brings at most.
pub type Turned = [u8; teemate_abi::host_area::MAILBOX_DATA];

/// A turn of input and output for many connections, with one exit: carries out the records ([`teemate_abi::turn`]) of `request`, waits at
/// most so long (forever if negative), and stores the records that came. Gives how many bytes of them.
///
/// # Errors
/// `ENOSYS` without an enclave, `EIO` when the host's answer makes no sense.
pub fn turn(request: &[u8], timeout_ms: i64, reply: &mut Turned) -> io::Result<usize> {
    let (from, to) = (request.as_ptr() as u64, reply.as_mut_ptr() as u64);
    call(number::TURN, from, request.len() as u64, timeout_ms as u64, to).map(|got| got as usize)
}

/// EPC pages charged to this thread's container; 0 without an enclave.
pub fn charged_pages() -> u64 {
    call(number::CHARGED_PAGES, 0, 0, 0, 0).map_or(0, |pages| pages as u64)
}

/// Sets the quota of EPC pages of this thread's container.
///
/// # Errors
/// `ENOSYS` without an enclave.
pub fn set_quota(pages: u64) -> io::Result<()> {
    call(number::SET_QUOTA, pages, 0, 0, 0).map(|_| ())
}
