//! What the one who builds an image decides.

use serde::{Deserialize, Serialize};
use teemate_abi::layout;

use crate::Error;

/// An image's configuration: a TOML file, or made in code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// Size of ELRANGE in bytes, a power of two. Address space, not memory.
    pub elrange_size: u64,
    /// TCSs: how many threads may be inside at one time.
    pub tcs_count: u32,
    /// The payload's arguments, `argv[0]` included.
    pub args: Vec<String>,
    /// The payload's environment. Measured, as the arguments are.
    pub env: Vec<(String, String)>,
    /// A debug enclave: the host can read all of it (ATTRIBUTES.DEBUG). Never for users' data.
    pub debug: bool,
    /// ISVPRODID of the signature.
    pub isv_prod_id: u16,
    /// ISVSVN of the signature.
    pub isv_svn: u16,
    /// Rewrite the payload's syscall sites to direct calls. Without it each one traps.
    pub rewrite: bool,
}

impl Default for ImageConfig {
    fn default() -> Self {
        ImageConfig {
            elrange_size: layout::ELRANGE_SIZE,
            tcs_count: 160,
            args: vec!["payload".to_owned()],
            env: Vec::new(),
            debug: false,
            isv_prod_id: 0,
            isv_svn: 0,
            rewrite: true,
        }
    }
}

impl ImageConfig {
    /// From TOML; an unknown key is an error. [`ImageConfig::check`] is included.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let config: ImageConfig = toml::from_str(text).map_err(|error| Error::Config(error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Whether an image can be built from it at all.
    pub fn check(&self) -> Result<(), Error> {
        check_size(self.elrange_size).map_err(Error::Config)?;
        check_tcs_count(self.tcs_count).map_err(Error::Config)?;
        self.strings()?;
        Ok(())
    }

    /// Arguments, then the environment, each with a NUL, as `EnclaveInfo::strings` holds them.
    pub(crate) fn strings(&self) -> Result<[u8; 2048], Error> {
        let mut text = Vec::new();
        let envs = self.env.iter().map(|(name, value)| {
            if name.is_empty() || name.contains('=') {
                return Err(Error::Config(format!("{name:?} can't be the name of an environment variable")));
            }
            Ok(format!("{name}={value}"))
        });
        for string in self.args.iter().cloned().map(Ok).chain(envs) {
            let string = string?;
            if string.contains('\0') {
                return Err(Error::Config(format!("{string:?} contains a NUL")));
            }
            text.extend_from_slice(string.as_bytes());
            text.push(0);
        }
        let mut strings = [0; 2048];
        strings
            .get_mut(..text.len())
            .ok_or_else(|| Error::Config(format!("arguments and environment take {} bytes; there is room for 2048", text.len())))?
            .copy_from_slice(&text);
        Ok(strings)
    }
}

/// The rules for the size of ELRANGE: a power of two (SDM vol. 3D, ECREATE), large enough for an image, small enough for the layout.
pub(crate) fn check_size(size: u64) -> Result<(), String> {
    if !size.is_power_of_two() || !((1 << 24)..=layout::ELRANGE_SIZE_MAX).contains(&size) {
        return Err(format!("elrange_size is {size:#x}; it must be a power of two from 0x1000000 to {:#x}", layout::ELRANGE_SIZE_MAX));
    }
    Ok(())
}

/// The rule for the number of TCSs.
pub(crate) fn check_tcs_count(count: u32) -> Result<(), String> {
    if !(1..=layout::TCS_MAX).contains(&count) {
        return Err(format!("tcs_count is {count}; it must be from 1 to {}", layout::TCS_MAX));
    }
    Ok(())
}
