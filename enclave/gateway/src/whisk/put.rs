//! Bodies of PUT requests, which a client may fill as it likes.

use serde_json::{Map, Value};
use teemate_vault::OwnerLimits;

use super::exec::ExecPut;
use super::limits::{LimitsPut, MAX_CODE, MAX_PARAMETERS};
use super::names::{Fqn, SemVer, is_name};
use super::parameters::Parameters;
use super::rejection::Rejection;

/// What a body says; what it does not say stays as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Put {
    /// Actions: what it executes.
    pub exec: Option<ExecPut>,
    /// Default parameters.
    pub parameters: Option<Parameters>,
    /// Actions: limits.
    pub limits: LimitsPut,
    /// Version.
    pub version: Option<SemVer>,
    /// Whether others may use it.
    pub publish: Option<bool>,
    /// Annotations.
    pub annotations: Option<Parameters>,
    /// Annotations to remove.
    pub del_annotations: Option<Vec<String>>,
    /// Packages: what it stands for. `Some(None)`: nothing.
    pub binding: Option<Option<Fqn>>,
    /// Rules: what starts it.
    pub trigger: Option<Fqn>,
    /// Rules: what it starts.
    pub action: Option<Fqn>,
}

/// Reads a body as one JSON value. Nesting beyond 127 levels is refused, so that nothing here recurses further.
///
/// # Errors
/// 400.
pub fn json(body: &[u8]) -> Result<Value, Rejection> {
    serde_json::from_slice(body).map_err(Rejection::malformed)
}

/// Reads a body as an object; an empty one is an empty object.
///
/// # Errors
/// 400.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Rejection> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match json(body)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Rejection::malformed("Object expected")),
    }
}

impl Put {
    /// Reads the body of a PUT to one of these collections.
    ///
    /// # Errors
    /// 400, or 413 for what is larger than OpenWhisk allows.
    pub fn read(body: &[u8], own: &str, allowed: &OwnerLimits) -> Result<Put, Rejection> {
        Put::from_fields(object(body)?, own, allowed)
    }

    fn from_fields(mut fields: Map<String, Value>, own: &str, allowed: &OwnerLimits) -> Result<Put, Rejection> {
        // `null` is as good as nothing.
        fields.retain(|_, value| !value.is_null());
        let bad = |why: String| Rejection::malformed(why);
        let mut put = Put::default();
        if let Some(exec) = fields.remove("exec") {
            let exec = ExecPut::from_json(exec, own).map_err(bad)?;
            bounded("exec", exec.size(), MAX_CODE.min(usize::try_from(allowed.code).unwrap_or(usize::MAX)))?;
            put.exec = Some(exec);
        }
        put.parameters = list(&fields, "parameters")?;
        put.annotations = list(&fields, "annotations")?;
        if let Some(limits) = fields.get("limits") {
            put.limits = LimitsPut::from_json(limits).map_err(bad)?;
            put.limits.check(allowed).map_err(Rejection::bad_request)?;
        }
        if let Some(version) = fields.get("version") {
            let version = version.as_str().and_then(SemVer::parse);
            put.version = Some(version.ok_or_else(|| bad("semantic version malformed".to_owned()))?);
        }
        if let Some(publish) = fields.get("publish") {
            put.publish = Some(publish.as_bool().ok_or_else(|| bad(format!("Expected JsBoolean, but got {}", kind_of(publish))))?);
        }
        if let Some(names) = fields.get("delAnnotations") {
            let names = names.as_array().and_then(|names| names.iter().map(|it| it.as_str().map(str::to_owned)).collect());
            put.del_annotations = Some(names.ok_or_else(|| bad("delAnnotations must be an array of strings".to_owned()))?);
        }
        if let Some(binding) = fields.get("binding") {
            put.binding = Some(read_binding(binding, own).map_err(bad)?);
        }
        for (key, place) in [("trigger", &mut put.trigger), ("action", &mut put.action)] {
            if let Some(name) = fields.get(key) {
                *place = Some(Fqn::from_json(name, own).map_err(bad)?);
            }
        }
        Ok(put)
    }
}

fn list(fields: &Map<String, Value>, key: &str) -> Result<Option<Parameters>, Rejection> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    let list = Parameters::from_json(value).map_err(Rejection::malformed)?;
    bounded(key, list.size(), MAX_PARAMETERS)?;
    Ok(Some(list))
}

fn bounded(field: &str, is: usize, allowed: usize) -> Result<(), Rejection> {
    if is > allowed { Err(Rejection::too_large(field, is, allowed)) } else { Ok(()) }
}

fn read_binding(value: &Value, own: &str) -> Result<Option<Fqn>, String> {
    let fields = value.as_object().ok_or("binding malformed")?;
    if fields.is_empty() {
        return Ok(None);
    }
    let part = |key: &str| {
        let text = fields.get(key).and_then(Value::as_str);
        text.filter(|text| is_name(text)).ok_or_else(|| "entity name malformed".to_owned())
    };
    let (namespace, name) = (part("namespace")?, part("name")?);
    Ok(Some(Fqn::plain(if namespace == "_" { own } else { namespace }, name)))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "JsNull",
        Value::Bool(_) => "JsBoolean",
        Value::Number(_) => "JsNumber",
        Value::String(_) => "JsString",
        Value::Array(_) => "JsArray",
        Value::Object(_) => "JsObject",
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Put, Rejection> {
        Put::read(body.to_string().as_bytes(), "ada", &OwnerLimits::default())
    }

    #[test]
    fn bodies_are_read() {
        assert_eq!(Put::read(b"", "ada", &OwnerLimits::default()).unwrap(), Put::default());
        let put = read(json!({
            "exec": { "kind": "nodejs:default", "code": "function main() {}" },
            "parameters": [{ "key": "a", "value": 1 }], "limits": { "memory": 128 }, "version": "1.2.3", "publish": true, "annotations": null,
        }))
        .unwrap();
        assert!(put.exec.is_some() && put.annotations.is_none() && put.publish == Some(true));
        assert_eq!(read(json!({ "binding": {} })).unwrap().binding, Some(None));
        let bound = read(json!({ "binding": { "namespace": "_", "name": "tools" } })).unwrap().binding;
        assert_eq!(bound, Some(Some(Fqn::plain("ada", "tools"))));
        let rule = read(json!({ "trigger": "/_/t", "action": { "path": "bob/tools", "name": "a" } })).unwrap();
        assert_eq!(rule.action.unwrap().full(), "bob/tools/a");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (json!([]), "Object expected"),
            (json!({ "exec": {} }), "'kind' must be a string defined in 'exec'"),
            (json!({ "parameters": {} }), "parameters malformed!"),
            (json!({ "version": 7 }), "semantic version malformed"),
            (json!({ "publish": "yes" }), "Expected JsBoolean, but got JsString"),
            (json!({ "binding": { "namespace": "a/b", "name": "x" } }), "entity name malformed"),
            (json!({ "action": "hello" }), "must contain at least the namespace and the name"),
            (json!({ "limits": { "timeout": "1" } }), "time limit malformed"),
        ];
        for (body, sentence) in cases {
            let rejection = read(body).unwrap_err();
            assert_eq!(rejection.status, StatusCode::BAD_REQUEST);
            assert!(
                rejection.message.starts_with("The request content was malformed:\n") && rejection.message.contains(sentence),
                "{rejection}"
            );
        }
        assert_eq!(
            read(json!({ "limits": { "timeout": 1 } })).unwrap_err().message,
            "duration 1 milliseconds below allowed threshold of 100 milliseconds"
        );
        let large = "x".repeat(MAX_PARAMETERS);
        let rejection = read(json!({ "parameters": [{ "key": "a", "value": large }] })).unwrap_err();
        assert_eq!(rejection.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(rejection.message, format!("parameters larger than allowed: {} > 1048576 bytes.", MAX_PARAMETERS + 3));
    }

    #[test]
    fn deep_nesting_ends_in_an_answer() {
        let deep = format!("{}1{}", "{\"a\":".repeat(1_000_000), "}".repeat(1_000_000));
        assert_eq!(Put::read(deep.as_bytes(), "ada", &OwnerLimits::default()).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(
            Put::read("[".repeat(1_000_000).as_bytes(), "ada", &OwnerLimits::default()).unwrap_err().status,
            StatusCode::BAD_REQUEST
        );
    }

    proptest! {
        #[test]
        fn no_body_breaks_it(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Put::read(&body, "ada", &OwnerLimits::default());
        }
    }
}
