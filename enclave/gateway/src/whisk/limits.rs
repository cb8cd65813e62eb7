//! OpenWhisk's limits: those of the system, and those of each action.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use teemate_vault::OwnerLimits;

/// Largest code, as it stands in the request.
pub const MAX_CODE: usize = 48 << 20;
/// Largest parameters or annotations of an entity.
pub const MAX_PARAMETERS: usize = 1 << 20;
/// Largest body of an invocation.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Longest wait for a blocking invocation.
pub const MAX_WAIT_MS: u64 = 60_000;
/// Entities or activations in one list.
pub const MAX_LIST: usize = 200;
/// Entities or activations in one list when nobody says how many.
pub const DEFAULT_LIST: usize = 30;

const MIN_TIMEOUT: u64 = 100;
const MIN_MEMORY: u64 = 128;
const MAX_CONCURRENCY: u64 = 1;

/// Limits of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionLimits {
    /// Milliseconds.
    pub timeout: u64,
    /// Megabytes.
    pub memory: u64,
    /// Megabytes.
    pub logs: u64,
    /// Calls of one container at one time.
    pub concurrency: u64,
}

impl Default for ActionLimits {
    fn default() -> Self {
        ActionLimits { timeout: 60_000, memory: 256, logs: 10, concurrency: 1 }
    }
}

/// What a request says of limits; what it does not say stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsPut {
    timeout: Option<u64>,
    memory: Option<u64>,
    logs: Option<u64>,
    concurrency: Option<u64>,
}

impl LimitsPut {
    /// Reads an object.
    ///
    /// # Errors
    /// OpenWhisk's sentence for what is no whole number.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let fields = value.as_object().ok_or("no valid json object passed")?;
        Ok(LimitsPut {
            timeout: number(fields, "timeout", "time limit")?,
            memory: number(fields, "memory", "memory limit")?,
            logs: number(fields, "logs", "log limit")?,
            concurrency: number(fields, "concurrency", "intra concurrency limit")?,
        })
    }

    /// Checks what is there against what the owner may have.
    ///
    /// # Errors
    /// OpenWhisk's sentence for the first that is out of its range.
    pub fn check(&self, allowed: &OwnerLimits) -> Result<(), String> {
        if let Some(is) = self.memory {
            megabytes("memory", is, MIN_MEMORY, allowed.memory >> 20)?;
        }
        if let Some(is) = self.timeout {
            let most = allowed.timeout_ms;
            if is > most {
                return Err(format!("duration {is} milliseconds exceeds allowed threshold of {most} milliseconds"));
            }
            if is < MIN_TIMEOUT {
                return Err(format!("duration {is} milliseconds below allowed threshold of {MIN_TIMEOUT} milliseconds"));
            }
        }
        if let Some(is) = self.logs {
            megabytes("log", is, 0, allowed.log >> 20)?;
        }
        match self.concurrency {
            Some(is) if is > MAX_CONCURRENCY => Err(format!("concurrency {is} exceeds allowed threshold of {MAX_CONCURRENCY}")),
            Some(0) => Err("concurrency 0 below allowed threshold of 1".to_owned()),
            _ => Ok(()),
        }
    }

    /// These limits where they say something, else those.
    pub fn over(&self, those: ActionLimits) -> ActionLimits {
        ActionLimits {
            timeout: self.timeout.unwrap_or(those.timeout),
            memory: self.memory.unwrap_or(those.memory),
            logs: self.logs.unwrap_or(those.logs),
            concurrency: self.concurrency.unwrap_or(those.concurrency),
        }
    }
}

fn number(fields: &Map<String, Value>, key: &str, what: &str) -> Result<Option<u64>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(number), _) => Ok(Some(number)),
            // Negative: below whatever is the least, and that is what the check says.
            (None, Some(float)) if float < 0.0 && float.fract() == 0.0 => Ok(Some(0)),
            (None, Some(float)) if float.fract() == 0.0 => Ok(Some(float as u64)),
            _ => Err(format!("{what} must be whole number")),
        },
        Some(_) => Err(format!("{what} malformed")),
    }
}

fn megabytes(field: &str, is: u64, least: u64, most: u64) -> Result<(), String> {
    if is > most {
        return Err(format!("{field} size {is} MB exceeds allowed threshold of {most} MB"));
    }
    if is < least {
        return Err(format!("{field} size {is} MB below allowed threshold of {least} MB"));
    }
    Ok(())
}

/// Limits of an owner of whom nothing else is said, as `GET /` shows them.
pub fn of_system() -> Value {
    let megabyte = 1u64 << 20;
    let limits = OwnerLimits::default();
    json!({
        "actions_per_minute": limits.calls_per_minute,
        "triggers_per_minute": limits.triggers_per_minute,
        "concurrent_actions": limits.concurrent,
        "sequence_length": limits.sequence,
        "default_min_action_duration": MIN_TIMEOUT,
        "default_max_action_duration": limits.timeout_ms,
        "default_min_action_memory": MIN_MEMORY * megabyte,
        "default_max_action_memory": limits.memory,
        "default_min_action_logs": 0,
        "default_max_action_logs": limits.log,
        "min_action_duration": MIN_TIMEOUT,
        "max_action_duration": limits.timeout_ms,
        "min_action_memory": MIN_MEMORY * megabyte,
        "max_action_memory": limits.memory,
        "min_action_logs": 0,
        "max_action_logs": limits.log,
    })
}

/// Limits of an owner, as `GET /namespaces/_/limits` shows them.
pub fn of_owner(limits: &OwnerLimits) -> Value {
    json!({
        "invocationsPerMinute": limits.calls_per_minute,
        "concurrentInvocations": limits.concurrent,
        "firesPerMinute": limits.triggers_per_minute,
        "minActionMemory": MIN_MEMORY,
        "maxActionMemory": limits.memory >> 20,
        "minActionLogs": 0,
        "maxActionLogs": limits.log >> 20,
        "minActionTimeout": MIN_TIMEOUT,
        "maxActionTimeout": limits.timeout_ms,
        "minActionConcurrency": 1,
        "maxActionConcurrency": MAX_CONCURRENCY,
        "maxParameterSize": format!("{MAX_PARAMETERS} B"),
        "maxActionInstances": limits.concurrent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_has_openwhisks_sentence() {
        let cases = [
            (json!({ "timeout": 99 }), "duration 99 milliseconds below allowed threshold of 100 milliseconds"),
            (json!({ "timeout": 300_001 }), "duration 300001 milliseconds exceeds allowed threshold of 300000 milliseconds"),
            (json!({ "memory": 127 }), "memory size 127 MB below allowed threshold of 128 MB"),
            (json!({ "memory": 513 }), "memory size 513 MB exceeds allowed threshold of 512 MB"),
            (json!({ "logs": 11 }), "log size 11 MB exceeds allowed threshold of 10 MB"),
            (json!({ "concurrency": 2 }), "concurrency 2 exceeds allowed threshold of 1"),
            (json!({ "concurrency": -1 }), "concurrency 0 below allowed threshold of 1"),
        ];
        for (limits, sentence) in cases {
            assert_eq!(LimitsPut::from_json(&limits).unwrap().check(&OwnerLimits::default()).unwrap_err(), sentence);
        }
        for good in [json!({}), json!({ "timeout": 100, "memory": 512, "logs": 0, "concurrency": 1 }), json!({ "timeout": null })] {
            LimitsPut::from_json(&good).unwrap().check(&OwnerLimits::default()).unwrap();
        }
        for bad in [json!([]), json!({ "timeout": 1.5 }), json!({ "memory": "256" }), json!({ "logs": {} })] {
            LimitsPut::from_json(&bad).unwrap_err();
        }
        assert!(LimitsPut::from_json(&json!({ "memory": 1e300 })).unwrap().check(&OwnerLimits::default()).is_err());
    }

    #[test]
    fn what_is_not_said_stays() {
        let put = LimitsPut::from_json(&json!({ "memory": 128 })).unwrap();
        assert_eq!(put.over(ActionLimits::default()), ActionLimits { memory: 128, ..ActionLimits::default() });
    }
}
