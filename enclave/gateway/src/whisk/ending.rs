//! From what the service says of a call to what OpenWhisk says of an activation.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use teemate_control::function::{Failure, FailureKind, Outcome};

use super::activation::{Ended, Status};
use super::limits::ActionLimits;

/// Key under which `entry.js` packs an array, and expects one: the engines take and give objects only.
pub const ARRAY: &str = "\u{1e}array";
/// What `entry.js` puts before an error that OpenWhisk's runtime would have had when it was initialised.
const INIT_ERROR: &str = "Error: \u{1e}";

/// What of a failure else is said in a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// It ran out of time.
    pub timed_out: bool,
    /// It wrote more than the log takes.
    pub log_cut: bool,
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", rename = "\u{1e}array")]
    array: Option<&'a RawValue>,
}

/// `null` is there, too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What came of a call.
pub fn ended(outcome: &Outcome, limits: &ActionLimits, most: u64) -> (Ended, Notes) {
    match &outcome.result {
        Ok(bytes) => (result(bytes, most), Notes::default()),
        Err(failure) => failed(failure, limits, most),
    }
}

fn result(bytes: &[u8], most: u64) -> Ended {
    let size = Some(bytes.len());
    let invalid =
        || Ended { size, ..Ended::error(Status::DeveloperError, "The action did not produce a valid JSON or JSON Array response.") };
    if bytes.len() as u64 > most {
        let sentence = format!("The action produced a response that exceeded the allowed length: {} > {most} bytes.", bytes.len());
        return Ended { size, ..Ended::error(Status::ApplicationError, &sentence) };
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return invalid() };
    // A derived struct would take an array as its fields.
    if !text.trim_start().starts_with('{') {
        return invalid();
    }
    let Ok(probe) = serde_json::from_str::<Probe>(text) else { return invalid() };
    if let Some(array) = probe.array {
        return Ended { status: Status::Success, result: Some(array.to_owned()), size: Some(array.get().len()) };
    }
    match probe.error {
        Some(error) => Ended { size, ..Ended::error_value(Status::ApplicationError, &error) },
        None => match RawValue::from_string(text.to_owned()) {
            Ok(result) => Ended { status: Status::Success, result: Some(result), size },
            Err(_) => invalid(),
        },
    }
}

/// What came of a call that gave no result.
pub fn failed(failure: &Failure, limits: &ActionLimits, most: u64) -> (Ended, Notes) {
    let Failure { kind, message } = failure;
    let developer = |sentence: &str| (Ended::error(Status::DeveloperError, sentence), Notes::default());
    match kind {
        FailureKind::Application => match message.split_once(INIT_ERROR) {
            Some((_, why)) => developer(&format!("Initialization has failed due to: {why}")),
            None => developer(message),
        },
        FailureKind::Limit if message.starts_with("time") => {
            let sentence = format!("The action exceeded its time limits of {} milliseconds.", limits.timeout);
            (Ended::error(Status::DeveloperError, &sentence), Notes { timed_out: true, log_cut: false })
        }
        FailureKind::Limit if message.starts_with("memory") => developer("The action exhausted its memory and was aborted."),
        FailureKind::Limit if message.starts_with("result") => {
            let sentence = format!("The action produced a response that exceeded the allowed length: more than {most} bytes.");
            (Ended::error(Status::ApplicationError, &sentence), Notes::default())
        }
        FailureKind::Limit if message.starts_with("log") => {
            let sentence = format!("The action wrote more than its log limit of {} MB.", limits.logs);
            (Ended::error(Status::DeveloperError, &sentence), Notes { timed_out: false, log_cut: true })
        }
        FailureKind::Limit | FailureKind::Denied | FailureKind::Integrity => developer(message),
        FailureKind::ContainerLost if message.contains("memory") => developer("The action exhausted its memory and was aborted."),
        // Whoever killed the container, it was not the action: OpenWhisk blames it all the same.
        FailureKind::ContainerLost => (
            Ended::error(Status::WhiskError, &format!("The action did not produce a valid response and exited unexpectedly: {message}")),
            Notes::default(),
        ),
        FailureKind::Busy => (Ended::error(Status::WhiskError, "System is overloaded, try again later."), Notes::default()),
        FailureKind::Invalid | FailureKind::Internal => {
            (Ended::error(Status::WhiskError, &format!("Failed to provision resources to run the action: {message}")), Notes::default())
        }
    }
}

/// What came of an action that could not be made ready.
pub fn not_ready(failure: &Failure, limits: &ActionLimits, most: u64) -> (Ended, Notes) {
    match failure.kind {
        FailureKind::Invalid => {
            (Ended::error(Status::DeveloperError, &format!("Initialization has failed due to: {}", failure.message)), Notes::default())
        }
        _ => failed(failure, limits, most),
    }
}

#[cfg(test)]
mod tests {
    use teemate_control::function::Usage;

    use super::*;

    fn of(result: Result<&str, Failure>) -> (Ended, Notes) {
        let outcome = Outcome {
            result: result.map(|text| text.as_bytes().to_vec()),
            logs: String::new(),
            usage: Usage::default(),
            container: 1,
            marks: vec![],
        };
        ended(&outcome, &ActionLimits::default(), 1 << 20)
    }

    fn failure(kind: FailureKind, message: &str) -> (Ended, Notes) {
        of(Err(Failure::new(kind, message)))
    }

    #[test]
    fn results_stay_as_they_are() {
        let (ended, _) = of(Ok(r#"{"b": 1, "a": 60.08994194659945}"#));
        assert_eq!((ended.status, ended.text(), ended.size), (Status::Success, r#"{"b": 1, "a": 60.08994194659945}"#, Some(32)));
        let (ended, _) = of(Ok(r#"{"\u001earray":[1,2]}"#));
        assert_eq!((ended.status, ended.text()), (Status::Success, "[1,2]"));
    }

    #[test]
    fn an_error_in_the_result_is_the_applications() {
        for (text, kept) in [(r#"{"error":null}"#, r#"{"error":null}"#), (r#"{"x":1,"error": {"code":5}}"#, r#"{"error":{"code":5}}"#)] {
            let (ended, _) = of(Ok(text));
            assert_eq!((ended.status, ended.text()), (Status::ApplicationError, kept));
        }
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
        let (ended, _) = of(Ok(&large));
        assert_eq!(ended.status, Status::ApplicationError);
        assert!(ended.text().contains("exceeded the allowed length: 1048584 > 1048576 bytes."));
    }

    #[test]
    fn what_is_no_object_is_the_developers() {
        for bad in ["", "[]", "1", "{", "{\"a\":1}x"] {
            assert_eq!(of(Ok(bad)).0.status, Status::DeveloperError, "{bad}");
        }
    }

    #[test]
    fn failures_have_openwhisks_words() {
        let cases = [
            (FailureKind::Application, "An error has occurred: Error: boom", Status::DeveloperError, "An error has occurred: Error: boom"),
            (
                FailureKind::Application,
                "An error has occurred: Error: \u{1e}Action entrypoint 'x' is not a function.",
                Status::DeveloperError,
                "Initialization has failed due to: Action entrypoint 'x' is not a function.",
            ),
            (
                FailureKind::Limit,
                "time: the call ran longer",
                Status::DeveloperError,
                "The action exceeded its time limits of 60000 milliseconds.",
            ),
            (FailureKind::Limit, "memory: the call wanted", Status::DeveloperError, "The action exhausted its memory and was aborted."),
            (FailureKind::Limit, "result: it is larger", Status::ApplicationError, "exceeded the allowed length"),
            (FailureKind::Limit, "log: the call wrote", Status::DeveloperError, "log limit of 10 MB"),
            (FailureKind::Limit, "stack: the call recursed", Status::DeveloperError, "stack: the call recursed"),
            (FailureKind::Denied, "no connection", Status::DeveloperError, "no connection"),
            (FailureKind::ContainerLost, "killed", Status::WhiskError, "exited unexpectedly"),
            (FailureKind::Busy, "no room", Status::WhiskError, "System is overloaded, try again later."),
            (FailureKind::Internal, "oh", Status::WhiskError, "Failed to provision resources"),
        ];
        for (kind, message, status, sentence) in cases {
            let (ended, notes) = failure(kind, message);
            assert_eq!(ended.status, status, "{message}");
            assert!(ended.text().contains(sentence), "{message}: {}", ended.text());
            assert_eq!((notes.timed_out, notes.log_cut), (message.starts_with("time"), message.starts_with("log")));
        }
    }
}
