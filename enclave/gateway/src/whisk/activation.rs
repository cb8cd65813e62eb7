//! The record of an activation.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::names::SemVer;
use super::parameters::Parameters;

/// How an activation ended: OpenWhisk's four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// With a result.
    Success,
    /// With a result that has `error`.
    ApplicationError,
    /// By the action's fault: it threw, passed a limit, or does not compile.
    DeveloperError,
    /// By the system's fault.
    WhiskError,
}

impl Status {
    /// OpenWhisk's number.
    pub fn code(self) -> u8 {
        match self {
            Status::Success => 0,
            Status::ApplicationError => 1,
            Status::DeveloperError => 2,
            Status::WhiskError => 3,
        }
    }

    /// OpenWhisk's words.
    pub fn words(self) -> &'static str {
        match self {
            Status::Success => "success",
            Status::ApplicationError => "application error",
            Status::DeveloperError => "action developer error",
            Status::WhiskError => "whisk internal error",
        }
    }
}

/// What came of an activation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub status: Status,
    /// The result, byte for byte as the function returned it; for errors an object with `error`.
    pub result: Option<Box<RawValue>>,
    /// Bytes that the function returned.
    pub size: Option<usize>,
}

impl Ended {
    /// By an error with this sentence.
    pub fn error(status: Status, message: &str) -> Self {
        Ended::error_value(status, &Value::from(message))
    }

    /// By an error with this value.
    pub fn error_value(status: Status, value: &impl Serialize) -> Self {
        let result = serde_json::value::to_raw_value(&Error { error: value }).ok();
        Ended { status, result, size: None }
    }

    /// The result as it stands; an empty object when there is none.
    pub fn text(&self) -> &str {
        self.result.as_ref().map_or("{}", |result| result.get())
    }
}

#[derive(Serialize)]
struct Error<'a, T> {
    error: &'a T,
}

/// One activation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Activation {
    /// Whose.
    pub namespace: String,
    /// Name of the action or trigger.
    pub name: String,
    /// Version of it.
    pub version: SemVer,
    /// 32 hexadecimal digits.
    pub id: String,
    /// Milliseconds since 1970.
    pub start: u64,
    /// Milliseconds since 1970. Triggers have none.
    pub end: Option<u64>,
    /// Milliseconds. For a sequence, those of its components.
    pub duration: Option<u64>,
    /// The sequence that it is part of.
    pub cause: Option<String>,
    /// What came of it.
    pub response: Ended,
    /// Lines, or for sequences and triggers what they started.
    pub logs: Vec<String>,
    /// What OpenWhisk notes: path, kind, limits, times.
    pub annotations: Parameters,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    namespace: &'a str,
    name: &'a str,
    version: SemVer,
    subject: &'a str,
    activation_id: &'a str,
    start: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<ResponseView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<&'a [String]>,
    publish: bool,
    annotations: &'a Parameters,
}

#[derive(Serialize)]
struct ResponseView<'a> {
    status: &'static str,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
}

impl Activation {
    fn response_view(&self) -> ResponseView<'_> {
        let Ended { status, result, size } = &self.response;
        ResponseView { status: status.words(), success: *status == Status::Success, result: result.as_deref(), size: *size }
    }

    fn view(&self, whole: bool) -> View<'_> {
        View {
            namespace: &self.namespace,
            name: &self.name,
            version: self.version,
            subject: &self.namespace,
            activation_id: &self.id,
            start: self.start,
            end: self.end,
            duration: self.duration,
            cause: self.cause.as_deref(),
            status_code: self.end.filter(|_| !whole).map(|_| self.response.status.code()),
            response: whole.then(|| self.response_view()),
            logs: whole.then_some(&self.logs[..]),
            publish: false,
            annotations: &self.annotations,
        }
    }

    /// As a client sees it.
    pub fn to_json(&self) -> String {
        text(&self.view(true))
    }

    /// As lists show it.
    pub fn summary(&self) -> String {
        text(&self.view(false))
    }

    /// Status and result, as `/result` shows them.
    pub fn result_json(&self) -> String {
        text(&self.response_view())
    }

    /// The log, as `/logs` shows it.
    pub fn logs_json(&self) -> String {
        json!({ "logs": self.logs }).to_string()
    }

    /// The name by which lists are filtered: with its package, as the caller named it.
    pub fn filter_name(&self) -> String {
        let annotation = |key: &str| self.annotations.get(key).and_then(Value::as_str);
        let package = match (annotation("binding"), annotation("path")) {
            (Some(binding), _) => binding.split('/').nth(1),
            (None, Some(path)) if path.split('/').count() == 3 => path.split('/').nth(1),
            _ => None,
        };
        super::names::key(package, &self.name)
    }
}

fn text(value: &impl Serialize) -> String {
    // Only maps with other keys than strings fail, and there are none.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activation() -> Activation {
        Activation {
            namespace: "ada".into(),
            name: "hello".into(),
            version: SemVer::default(),
            id: "0".repeat(32),
            start: 5,
            end: Some(9),
            duration: Some(4),
            cause: None,
            response: Ended {
                status: Status::Success,
                result: Some(RawValue::from_string(r#"{"z":1,"a":0.10}"#.into()).unwrap()),
                size: Some(16),
            },
            logs: vec!["line".into()],
            annotations: Parameters::default().with("path", "ada/tools/hello"),
        }
    }

    #[test]
    fn clients_see_what_openwhisk_shows() {
        let shown: Value = serde_json::from_str(&activation().to_json()).unwrap();
        assert_eq!(
            shown,
            json!({
                "namespace": "ada", "name": "hello", "version": "0.0.1", "subject": "ada", "activationId": "0".repeat(32), "start": 5, "end": 9,
                "duration": 4, "response": { "status": "success", "success": true, "result": { "z": 1, "a": 0.1 }, "size": 16 },
                "logs": ["line"], "publish": false, "annotations": [{ "key": "path", "value": "ada/tools/hello" }],
            })
        );
        let summary: Value = serde_json::from_str(&activation().summary()).unwrap();
        assert_eq!(summary["statusCode"], 0);
        assert!(summary.get("response").is_none() && summary.get("logs").is_none());
        // Byte for byte: order and digits are the function's.
        assert!(activation().result_json().contains(r#""result":{"z":1,"a":0.10}"#));
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let kept = serde_json::to_vec(&activation()).unwrap();
        let read: Activation = serde_json::from_slice(&kept).unwrap();
        assert_eq!(read.to_json(), activation().to_json());
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let mut deep_one = activation();
        deep_one.response.result = Some(RawValue::from_string(format!("{{\"a\":{deep}}}")).unwrap());
        let read: Activation = serde_json::from_slice(&serde_json::to_vec(&deep_one).unwrap()).unwrap();
        assert_eq!(read.response.text(), deep_one.response.text());
    }

    #[test]
    fn a_trigger_has_no_end() {
        let shown: Value = serde_json::from_str(&Activation { end: None, duration: None, ..activation() }.summary()).unwrap();
        assert!(shown.get("end").is_none() && shown.get("duration").is_none() && shown.get("statusCode").is_none());
    }

    #[test]
    fn the_filter_knows_packages() {
        assert_eq!(activation().filter_name(), "tools/hello");
        let bound = Activation { annotations: activation().annotations.with("binding", "ada/mine"), ..activation() };
        assert_eq!(bound.filter_name(), "mine/hello");
        let plain = Activation { annotations: Parameters::default().with("path", "ada/hello"), ..activation() };
        assert_eq!(plain.filter_name(), "hello");
    }
}
