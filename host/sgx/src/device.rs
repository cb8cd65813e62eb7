//! What the rest of the host may ask of an enclave device, whichever it is.

use std::os::fd::OwnedFd;

use teemate_image::Image;

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `/dev/sgx_enclave` and the processor.
    Sgx,
    /// Both in software. Protects nothing.
    Simulator,
}

/// How an enclave is built.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// The most EPC pages that it may have; 0: no limit. The simulator enforces it. Linux's driver does not: there it is what the enclave is
    /// told, and keeps its containers to.
    pub epc_limit_pages: u64,
}

/// Builds enclaves. The node's side.
pub trait Device: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> DeviceKind;
    /// ECREATE, EADD and EEXTEND of every page of the image, EINIT.
    fn build(&self, image: &Image, options: &BuildOptions) -> Result<Box<dyn Enclave>, Error>;
}

/// An enclave, as the node holds it. It lives as long as this or a mapping in any process.
pub trait Enclave: Send + Sync {
    /// Which device.
    fn kind(&self) -> DeviceKind;
    /// MRENCLAVE.
    fn mrenclave(&self) -> [u8; 32];
    /// TCSs in all.
    fn tcs_count(&self) -> u32;
    /// Descriptors that [`Attachment::attach`] needs in another process, duplicated, in the order in which it wants them.
    fn share(&self) -> Result<Vec<OwnedFd>, Error>;
    /// EPC pages in use, and the limit (0: none known).
    fn epc(&self) -> EpcUsage;
    /// EPC pages that the enclave says it charges to the container that runs on this TCS. Its word, and that of every process that maps the
    /// host area: for people to look at.
    fn charged_pages(&self, tcs: u32) -> u64;
    /// What was counted since it was built, over all processes.
    fn counters(&self) -> Counters;
    /// EMODPR, EMODT(TRIM) or EREMOVE (`teemate_abi::ocall::edmm`). Gives the bytes done; retries EBUSY and EAGAIN within bounds.
    fn edmm(&self, operation: u64, address: u64, length: u64, permissions: u64) -> Result<u64, Error>;
    /// Simulator: from now on, whatever kills this process, the state of its threads inside is saved as an AEX would
    /// (until it exits; see `simulator::guard`). Call it before the process enters. Hardware: nothing to do.
    fn guard(&self, pid: i32) -> Result<(), Error>;
    /// Waits until the guard has dealt with the end of this process, so that its TCS may be used again. Hardware: returns at once.
    fn wait_saved(&self, pid: i32) -> Result<(), Error>;
}

/// EPC in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpcUsage {
    /// Pages of this enclave, SECS included. On hardware those that came after EINIT are the enclave's word.
    pub pages: u64,
    /// The most there may be; 0: no limit, or unknown.
    pub limit: u64,
}

/// Counts of what happened to an enclave. On hardware only what the host can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// EENTER.
    pub eenter: u64,
    /// EEXIT.
    pub eexit: u64,
    /// Asynchronous exits, kills included.
    pub aex: u64,
    /// ERESUME.
    pub eresume: u64,
    /// Pages added after EINIT.
    pub eaug: u64,
    /// Pages removed.
    pub eremove: u64,
    /// Kills that hit a thread inside, whose state was saved.
    pub killed_inside: u64,
    /// Simulator: kills that hit a thread in EENTER or ERESUME, which was taken back.
    pub killed_entering: u64,
    /// Simulator: kills that hit a thread in another leaf, before or after its effect.
    pub killed_in_leaf: u64,
    /// Simulator: kills that hit a thread in its AEX.
    pub killed_in_exit: u64,
}

/// In [`Exit::Exception`]'s `error`, beside the processor's own bits: the fault was an EACCEPT or an access in the dynamic range for which
/// the host has no EPC page left.
pub const EPC_FULL: u32 = 1 << 31;

/// A TCS as its host sees it. On hardware CSSA is what the host has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcsState {
    /// A thread is inside.
    pub busy: bool,
    /// SSA frames in use.
    pub cssa: u32,
}

/// How a thread came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// EEXIT, with RDI and RSI.
    Exit {
        /// `teemate_abi::transition::exit`.
        reason: u64,
        /// RSI.
        argument: u64,
    },
    /// AEX by an exception that the enclave must look at: enter with `enter::EXCEPTION`, then resume.
    Exception {
        /// x86 vector.
        vector: u8,
        /// Error code of #PF or #GP.
        error: u32,
        /// Address of a #PF.
        address: u64,
    },
    /// AEX for a reason of the host's own (a signal was handled): resume.
    Interrupted,
}

/// Everything that can go wrong with a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{what} failed: {source}; {hint}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The errno.
        source: std::io::Error,
        /// What to try.
        hint: &'static str,
    },
    /// The image is refused.
    #[error("the enclave image is refused: {0}")]
    Image(String),
    /// No EPC left.
    #[error("no EPC page is left ({in_use} of {limit} in use): end containers, or start the node with a larger --epc-limit")]
    EpcFull {
        /// Pages in use.
        in_use: u64,
        /// The limit.
        limit: u64,
    },
    /// EENTER or ERESUME raised #GP.
    #[error("TCS {tcs} refuses the entry: {why}")]
    Entry {
        /// Index.
        tcs: u32,
        /// busy, CSSA = NSSA, not a TCS, ...
        why: &'static str,
    },
    /// An ENCLS leaf or ioctl refused its operands.
    #[error("{leaf} is refused at {address:#x}: {why}")]
    Leaf {
        /// Instruction or ioctl.
        leaf: &'static str,
        /// Operand.
        address: u64,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The machine lacks something.
    #[error("{0}")]
    Unsupported(String),
}
