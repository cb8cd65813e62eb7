//! SGX's processor and driver, in user space.
//!
//! **It protects nothing.** It runs the same image, the same LibOS and the same host code as hardware does, and enforces the same rules,
//! so that what works here is built right; whoever can read the host's memory reads the enclave's.
//!
//! # How it works
//!
//! * The EPC is a memfd; its offset is the address less ELRANGE's base. EPCM, SECS and the threads' part of each TCS are a second one
//!   ([`shared`]); the host area is a third. Passing descriptors is passing the enclave ([`memory`], [`process`]).
//! * [`load`](Simulator::build_enclave) does ECREATE, EADD, EEXTEND and EINIT: MRENCLAVE by the real algorithm, SIGSTRUCT really checked.
//! * The rules of EPCM words are pure functions ([`epcm`]). A process's page tables never allow more than the EPCM: they are mended on a
//!   fault, and rights that were taken away are shot down by a signal before EMODPR, EMODT and EREMOVE are done (which is what ETRACK is for:
//!   until then EACCEPT says SGX_NOT_TRACKED).
//! * EENTER and ERESUME are code at a fixed address ([`transition`]); neither needs a system call, let alone a signal.
//! * An exception inside is a signal ([`signals`]); its handler writes the SSA frame ([`ssa`]) and returns to the AEP. `syscall` is caught
//!   by Syscall User Dispatch and becomes the #UD that it is inside an enclave.
//! * ENCLU raises #UD on a processor without SGX, and #GP or #PF on one where it is switched off or hidden, so the handler can carry out any leaf, anywhere
//!   ([`leaves`]).
//! * **The gate.** A trapped ENCLU costs 7 us here, and 20 us under the guard. So, after EINIT, the loader overwrites the one ENCLU that
//!   the image names (`teemate_abi::layout::symbol::ENCLU_GATE`, 16 bytes that it checks first) with a jump to the transition code. What was
//!   measured is the image as it was; what runs differs in these 16 bytes. The gate takes the TCS from GS, so code that changed GS goes the
//!   slow way. [`SimulatorOptions::gate`] turns it off.
//! * A SIGKILL is an AEX ([`guard`]): whatever kills a guarded process, at whatever instruction, the state of its threads inside is in
//!   their SSA frames afterwards, and another process may resume them.
//! * Reports and keys are really derived, from a secret in a file ([`keys`]).
//!
//! # What it can't show
//!
//! * Memory encryption, integrity and replay protection; that the host can't read or write enclave memory: here it can. Accesses of the
//!   host to ELRANGE meet the process's page tables, not abort-page semantics.
//! * A real root of trust: reports and keys come from a file.
//! * Side channels, their mitigations, microcode, timing: the costs are this machine's, not SGX's. EPC paging (EWB, ELDU) does not exist.
//! * `cpuid`, `rdpmc`, `sgdt`, `int n`, `iret`, far jumps, and `rdtsc` without SGX2 work inside, though hardware forbids them: this
//!   processor can't be made to trap them all (CPUID faulting exists on some machines only, and is not used).
//! * A jump of the enclave to host code that is mapped is not noticed at once; a jump to where nothing is, is.
//! * SYSCALL clobbers RCX and R11 before its #UD is noticed. Segment limits of FS and GS are not enforced. RFLAGS.TF is dropped.
//! * XSTATE at EENTER is the host's, and after an AEX by a kill nobody looks at it; after other AEXs it is the initial one.
//! * TCSs can't be added after EINIT (EMODT to PT_TCS). CONFIGID, KSS, CET, AEX-Notify and EDECCSSA are not there.
//! * A limit on EPC pages may be exceeded for a moment by one page for each thread that grows at that instant.
//! * A process that the node did not have guarded drops revoked rights only at its next entry: nobody knows its pid to shoot at.

pub mod enclave;
pub mod epcm;
pub mod guard;
pub mod keys;
pub mod leaves;
mod load;
pub mod memory;
pub mod process;
pub mod shared;
pub mod signals;
pub mod ssa;
pub mod transition;
mod warm;

use std::{
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
};

use teemate_image::Image;

pub use enclave::SimulatedEnclave;
pub use guard::{KillCounts, Rule};

use crate::device::{BuildOptions, Device, DeviceKind, Enclave, Error};

/// What whoever starts it should print.
pub const BANNER: &str = "\
**********************************************************************
*  SGX SIMULATOR: this enclave PROTECTS NOTHING. Its memory is plain *
*  memory, its keys come from a file, its reports prove nothing.     *
*  For development and measurements on machines without SGX.         *
**********************************************************************";

/// How the simulator runs.
#[derive(Clone, Debug)]
pub struct SimulatorOptions {
    /// Directory of the secret that stands in for the processor's fuses; made if it is not there.
    pub state_dir: PathBuf,
    /// Divert the image's ENCLU gate, so that leaves need no trap.
    pub gate: bool,
    /// Take images without a SIGSTRUCT. For tests.
    pub allow_unsigned: bool,
}

impl SimulatorOptions {
    /// The usual ones.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        SimulatorOptions { state_dir: state_dir.into(), gate: true, allow_unsigned: false }
    }
}

/// The simulated device.
pub struct Simulator {
    options: SimulatorOptions,
    fuses: [u8; 32],
    guard: Arc<guard::Guard>,
}

impl Simulator {
    /// Reads or makes the machine's secret, and starts the guard.
    pub fn new(options: SimulatorOptions) -> Result<Simulator, Error> {
        let fuses = fuses(&options)?;
        Ok(Simulator { options, fuses, guard: guard::Guard::start()? })
    }

    /// [`Device::build`], with the concrete type.
    pub fn build_enclave(&self, image: &Image, options: &BuildOptions) -> Result<SimulatedEnclave, Error> {
        let memory = load::load(image, options, &self.options, self.fuses)?;
        SimulatedEnclave::new(Arc::new(memory), self.guard.clone())
    }
}

impl Device for Simulator {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Simulator
    }

    fn build(&self, image: &Image, options: &BuildOptions) -> Result<Box<dyn Enclave>, Error> {
        Ok(Box::new(self.build_enclave(image, options)?))
    }
}

/// The simulated machine, as its architectural enclaves see it: for the simulated quoting enclave, which is no enclave here.
pub struct Machine {
    fuses: [u8; 32],
}

impl Machine {
    /// The one whose secret is in this directory; made if it is not there.
    pub fn open(state_dir: impl Into<PathBuf>) -> Result<Machine, Error> {
        Ok(Machine { fuses: fuses(&SimulatorOptions::new(state_dir))? })
    }

    /// Whether an enclave of this machine made this REPORT by EREPORT for this target: what the target finds out with EGETKEY.
    pub fn is_genuine(&self, report: &[u8; keys::REPORT_SIZE], target: &[u8; keys::TARGETINFO_SIZE]) -> bool {
        keys::is_genuine(&self.fuses, report, target)
    }

    /// 32 bytes that are this machine's, for a purpose.
    pub fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        keys::derive(&self.fuses, purpose)
    }
}

/// The secret of this machine: 32 random bytes in a file that only its owner reads.
fn fuses(options: &SimulatorOptions) -> Result<[u8; 32], Error> {
    let system = |what, source| Error::System { what, source, hint: "check the simulator's state directory and its owner" };
    std::fs::create_dir_all(&options.state_dir).map_err(|source| system("create the simulator's state directory", source))?;
    let path = options.state_dir.join("simulator-fuses");
    let mut secret = [0; 32];
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let mut random = std::fs::File::open("/dev/urandom").map_err(|source| system("open /dev/urandom", source))?;
            random.read_exact(&mut secret).map_err(|source| system("read /dev/urandom", source))?;
            file.write_all(&secret).map_err(|source| system("write the simulator's secret", source))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mut file = std::fs::File::open(&path).map_err(|source| system("open the simulator's secret", source))?;
            file.read_exact(&mut secret).map_err(|source| system("read the simulator's secret", source))?;
        }
        Err(source) => return Err(system("create the simulator's secret", source)),
    }
    Ok(secret)
}
