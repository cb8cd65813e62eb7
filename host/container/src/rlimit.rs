//! Limits of a process by the names of getrlimit(2), as the OCI runtime specification (`process.rlimits`) uses them.

use libc::c_int;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys;

/// Every limit that Linux has.
const NAMES: [(&str, c_int); 16] = [
    ("RLIMIT_AS", libc::RLIMIT_AS as c_int),
    ("RLIMIT_CORE", libc::RLIMIT_CORE as c_int),
    ("RLIMIT_CPU", libc::RLIMIT_CPU as c_int),
    ("RLIMIT_DATA", libc::RLIMIT_DATA as c_int),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE as c_int),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS as c_int),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK as c_int),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE as c_int),
    ("RLIMIT_NICE", libc::RLIMIT_NICE as c_int),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE as c_int),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC as c_int),
    ("RLIMIT_RSS", libc::RLIMIT_RSS as c_int),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO as c_int),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME as c_int),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING as c_int),
    ("RLIMIT_STACK", libc::RLIMIT_STACK as c_int),
];

/// One limit of a container's process, in the unit that getrlimit(2) gives it. [`u64::MAX`]: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub(crate) resource: c_int,
    /// What holds.
    pub(crate) soft: u64,
    /// How far the process may raise that.
    pub(crate) hard: u64,
}

impl Rlimit {
    /// The limit of this name.
    ///
    /// # Errors
    /// If there is none, if `soft` is above `hard`, or if this process, from which a container has its limits, may not have so much itself.
    pub fn new(name: &str, soft: u64, hard: u64) -> Result<Self> {
        let invalid = |text: String| Err(Error::Invalid(text));
        let Some((_, resource)) = NAMES.into_iter().find(|(known, _)| *known == name) else {
            return invalid(format!("{name:?} is no limit of a process; getrlimit(2) lists those that there are"));
        };
        if soft > hard {
            return invalid(format!("{name}: the soft limit {soft} is above the hard limit {hard}"));
        }
        if resource == libc::RLIMIT_CORE as c_int && hard > 0 {
            return invalid(format!("{name} must be 0: what an enclave's runner holds must not reach a disk"));
        }
        let allowed = sys::hard_limit(resource);
        if hard > allowed {
            return invalid(format!("{name}: {hard} is more than the node itself may have ({allowed}); lower it, or raise the node's"));
        }
        Ok(Self { resource, soft, hard })
    }

    /// The limits of these names.
    ///
    /// # Errors
    /// As [`Rlimit::new`], and if a name comes twice.
    pub fn all<'a>(limits: impl IntoIterator<Item = (&'a str, u64, u64)>) -> Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for (name, soft, hard) in limits {
            let limit = Self::new(name, soft, hard)?;
            if all.iter().any(|other| other.resource == limit.resource) {
                return Err(Error::Invalid(format!("{name} is given twice")));
            }
            all.push(limit);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_a_sentence() {
        let refused = |limits: &[(&str, u64, u64)], why: &str| {
            let said = Rlimit::all(limits.iter().copied()).unwrap_err().to_string();
            assert!(said.contains(why), "{limits:?}: {said}");
        };
        refused(&[("RLIMIT_FILES", 1, 1)], "no limit of a process");
        refused(&[("RLIMIT_NOFILE", 2, 1)], "above the hard limit");
        refused(&[("RLIMIT_CORE", 0, 1)], "must not reach a disk");
        refused(&[("RLIMIT_STACK", 1, 1), ("RLIMIT_STACK", 1, 1)], "twice");
        // The kernel gives nobody an unlimited number of descriptors.
        refused(&[("RLIMIT_NOFILE", 1, u64::MAX)], "the node itself");
        let good = Rlimit::all([("RLIMIT_NOFILE", 8, 16), ("RLIMIT_CORE", 0, 0)]).unwrap();
        assert_eq!(good[0], Rlimit { resource: libc::RLIMIT_NOFILE as c_int, soft: 8, hard: 16 });
    }
}
