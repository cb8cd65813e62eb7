//! An owner as the vault keeps it.

use serde::{Deserialize, Serialize};

use crate::VaultError;

/// What an owner may use. The defaults are OpenWhisk's. The vault only keeps them; the gateway holds calls to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnerLimits {
    /// Calls in a minute.
    pub calls_per_minute: u32,
    /// Triggers fired in a minute.
    pub triggers_per_minute: u32,
    /// Calls under way at once.
    pub concurrent: u32,
    /// Most memory of a function, bytes.
    pub memory: u64,
    /// Longest time of a call, milliseconds.
    pub timeout_ms: u64,
    /// Longest log of a call, bytes.
    pub log: u64,
    /// Longest parameters of a call, bytes.
    pub parameters: u64,
    /// Longest result of a call, bytes.
    pub result: u64,
    /// Longest code of a function, bytes.
    pub code: u64,
    /// Most actions in a sequence.
    pub sequence: u32,
}

impl Default for OwnerLimits {
    /// 60 calls and triggers a minute, 30 at once, 512 MB, 5 minutes, 10 MB of log, 1 MB of parameters and of result, 48 MB of code, 50
    /// actions in a sequence.
    fn default() -> Self {
        OwnerLimits {
            calls_per_minute: 60,
            triggers_per_minute: 60,
            concurrent: 30,
            memory: 512 << 20,
            timeout_ms: 300_000,
            log: 10 << 20,
            parameters: 1 << 20,
            result: 1 << 20,
            code: 48 << 20,
            sequence: 50,
        }
    }
}

/// How far an owner has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerState {
    /// The token is not used yet.
    Invited {
        /// Until when it is valid, seconds since 1970.
        expires: u64,
    },
    /// Somebody has claimed the namespace.
    Active {
        /// When, seconds since 1970.
        since: u64,
    },
    /// What the owner kept is being deleted.
    Leaving,
}

/// What the administrator may know of an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerInfo {
    /// Namespace.
    pub namespace: String,
    /// How far it has come.
    pub state: OwnerState,
    /// Public half of the credentials, once claimed.
    pub uuid: Option<String>,
    /// What the owner may use.
    pub limits: OwnerLimits,
}

/// JSON, so that a later release can add to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// How far.
    pub stage: Stage,
    /// What the owner may use.
    #[serde(default)]
    pub limits: OwnerLimits,
}

/// [`OwnerState`] with its secrets' hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waits for whoever has the token.
    Invited {
        /// Hash.
        token: [u8; 32],
        /// Seconds since 1970.
        expires: u64,
    },
    /// Has a key.
    Active {
        /// Public half.
        uuid: String,
        /// Hash of the secret half.
        key: [u8; 32],
        /// Hash of the token, to tell one who comes second that he does.
        token: [u8; 32],
        /// Seconds since 1970.
        since: u64,
    },
    /// Goes.
    Leaving {
        /// Where what he kept lies.
        uuid: String,
    },
}

impl Stored {
    /// Reads one.
    pub fn read(bytes: &[u8]) -> Result<Stored, VaultError> {
        serde_json::from_slice(bytes).map_err(|error| VaultError::damaged(format!("the record of an owner cannot be read ({error})")))
    }

    /// Writes it.
    pub fn write(&self) -> Result<Vec<u8>, VaultError> {
        serde_json::to_vec(self).map_err(|_| VaultError::Closed)
    }

    /// The token that made the owner, or will.
    pub fn token(&self) -> Option<&[u8; 32]> {
        match &self.stage {
            Stage::Invited { token, .. } | Stage::Active { token, .. } => Some(token),
            Stage::Leaving { .. } => None,
        }
    }

    /// The owner's number, once there is one.
    pub fn uuid(&self) -> Option<&str> {
        match &self.stage {
            Stage::Active { uuid, .. } | Stage::Leaving { uuid } => Some(uuid),
            Stage::Invited { .. } => None,
        }
    }

    /// What may be known of it.
    pub fn info(&self, namespace: &str) -> OwnerInfo {
        let state = match self.stage {
            Stage::Invited { expires, .. } => OwnerState::Invited { expires },
            Stage::Active { since, .. } => OwnerState::Active { since },
            Stage::Leaving { .. } => OwnerState::Leaving,
        };
        OwnerInfo { namespace: namespace.to_owned(), state, uuid: self.uuid().map(str::to_owned), limits: self.limits.clone() }
    }
}
