//! What a process of the zygote shall be. Carried in the payload of its container's specification.

use serde::{Deserialize, Serialize};

/// Exit status of a runner: its thread is out and its TCS idle.
pub const EXIT_IDLE: i32 = 0;
/// The role could not be read, or what it needs is missing.
pub const EXIT_SETUP: i32 = 64;
/// The node's leave to enter did not come.
pub const EXIT_NO_LEAVE: i32 = 65;
/// The device refused the entry, or failed.
pub const EXIT_DEVICE: i32 = 66;
/// The payload ended.
pub const EXIT_PAYLOAD: i32 = 67;
/// The LibOS or the payload hit an error from which nothing can go on.
pub const EXIT_PANIC: i32 = 68;
/// Plus one of `teemate_abi::transition::refused`: the LibOS refused the entry; the TCS is as it was.
pub const EXIT_REFUSED: i32 = 80;

/// Names of descriptors that the node gives at the start of the zygote, or beside a `Configure`.
pub mod descriptor {
    /// The board.
    pub const BOARD: &str = "board";
    /// Those of the enclave: `enclave-0`, `enclave-1`, ...
    pub const ENCLAVE: &str = "enclave-";
}

/// Which device the enclave's descriptors belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceName {
    /// The kernel's driver.
    Sgx,
    /// The simulator.
    Simulator,
}

/// A process's role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Run one worker of the enclave, then end. For which call, the node says when it lets it in ([`crate::board::Guest`]). The
    /// descriptors beside it: what wakes the payload's waiting threads ([`crate::descriptors::new_kick`]); then, if there is one, the
    /// broker's socket.
    Function {
        /// TCS leased to it.
        tcs: u32,
        /// The number with which the node lets it in.
        number: u32,
        /// Made ahead of its call: it waits for that as long as it must.
        ahead: bool,
    },
    /// Run the payload's own threads. The descriptors beside it: the service's channel; the listening socket if `listener`; then, if
    /// `attach`, the board and the enclave's, else what wakes its waiting threads.
    Service {
        /// TCSs for them; the first boots the payload.
        tcs: Vec<u32>,
        /// An enclave of its own, unless the zygote is attached already.
        attach: Option<DeviceName>,
        /// Whether it may ask for connections or data files: the last descriptor is the broker's socket.
        broker: bool,
        /// Whether it has a listening socket.
        listener: bool,
        /// How many processes had this role for this enclave before.
        life: u32,
    },
    /// Adopt the threads of killed processes. The descriptors beside it: commands ([`crate::reaper`]), and what wakes the payload's waiting
    /// threads.
    Reaper,
    /// No enclave: become this program. The descriptors beside it: the service's channel, the listening socket if `listener`, the board,
    /// the program.
    Native {
        /// Slot of the board for its time stamps.
        slot: u32,
        /// Arguments.
        args: Vec<String>,
        /// Environment, `NAME=value`.
        env: Vec<String>,
        /// Whether it may ask for connections: the last descriptor is the broker's socket.
        broker: bool,
        /// Whether it has a listening socket.
        listener: bool,
    },
}

impl Role {
    /// For `ContainerSpec::payload`.
    pub fn encode(&self) -> Vec<u8> {
        // A vector cannot fail to take bytes, and the types have no case that postcard refuses: so an empty payload never happens.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// From `ContainerSpec::payload`.
    pub fn decode(bytes: &[u8]) -> Option<Role> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_role_survives(tcs: u32, number: u32, ahead: bool, broker: bool, list: Vec<u32>) {
            for role in [
                Role::Function { tcs, number, ahead },
                Role::Service { tcs: list.clone(), attach: Some(DeviceName::Simulator), broker, listener: broker, life: number },
                Role::Reaper,
                Role::Native { slot: tcs, args: vec!["a".to_owned()], env: vec![], broker, listener: broker },
            ] {
                prop_assert_eq!(Role::decode(&role.encode()), Some(role));
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = Role::decode(&bytes);
        }
    }
}
