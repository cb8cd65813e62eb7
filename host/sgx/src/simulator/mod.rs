//! SGX's processor and driver, in user space.
//!
//! **It protects nothing.** It runs the same image, the same LibOS and the same host code as hardware does, and enforces the same rules,
//! so that what works here is built right; whoever can read the host's memory reads the enclave's.

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
