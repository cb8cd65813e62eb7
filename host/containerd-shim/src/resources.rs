//! What a container may use (`linux.resources` of the OCI runtime specification), as far as the node limits it: when the container is
//! created, and when somebody changes it.

use serde::Deserialize;
use teemate_control::task::TaskLimits;

use crate::error::{Error, Result};

/// The part of it that matters here. Numbers below zero mean: no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    memory: Memory,
    cpu: Cpu,
    pids: Pids,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    quota: Option<i64>,
    period: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pids {
    limit: Option<i64>,
}

impl Resources {
    /// What it limits. Zero is what callers send that say nothing of a limit.
    pub fn limits(&self) -> TaskLimits {
        let given = |number: Option<i64>| number.filter(|number| *number != 0).map(|number| u64::try_from(number).unwrap_or(0));
        let period = self.cpu.period.filter(|period| *period > 0).unwrap_or(100_000);
        let milli = |quota: u64| if quota == 0 { 0 } else { u32::try_from(quota.saturating_mul(1000) / period).unwrap_or(u32::MAX).max(1) };
        TaskLimits { memory: given(self.memory.limit), cpu_milli: given(self.cpu.quota).map(milli), pids: given(self.pids.limit) }
    }

    /// A change of limits, as containerd sends it (JSON).
    ///
    /// # Errors
    /// When it is none that a function's container can have.
    pub fn change(text: &[u8]) -> Result<TaskLimits> {
        let resources: Resources =
            serde_json::from_slice(text).map_err(|error| Error::Refused(format!("the new limits can't be understood: {error}")))?;
        let limits = resources.limits();
        if limits == TaskLimits::default() {
            let text = "of a function's container memory, CPU quota and number of processes can be changed, and nothing else";
            return Err(Error::Unsupported(text.to_owned()));
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_it_changes() {
        let change = |text: &str| Resources::change(text.as_bytes());
        let all =
            r#"{"memory":{"limit":1048576,"swap":1},"cpu":{"shares":5,"quota":50000,"period":100000},"pids":{"limit":7},"devices":[]}"#;
        assert_eq!(change(all).unwrap(), TaskLimits { memory: Some(1 << 20), cpu_milli: Some(500), pids: Some(7) });
        let none = r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#;
        assert_eq!(change(none).unwrap(), TaskLimits { memory: Some(0), cpu_milli: Some(0), pids: Some(0) });
        let only_cpu = r#"{"memory":{"limit":0},"cpu":{"quota":1},"pids":{"limit":0}}"#;
        assert_eq!(change(only_cpu).unwrap(), TaskLimits { memory: None, cpu_milli: Some(1), pids: None });
        assert!(matches!(change(r#"{"cpu":{"shares":512,"cpus":"0-1"}}"#), Err(Error::Unsupported(_))));
        assert!(matches!(change("x"), Err(Error::Refused(_))));
    }
}
