//! Web actions: actions that anybody may call by HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::actions::{Started, with_activation};
use super::activation::Status;
use super::clock::now_ms;
use super::limits::MAX_WAIT_MS;
use super::names::{self, Fqn};
use super::rejection::{Answer, Rejection};
use super::resolve::Found;
use super::run::Input;
use super::throttle::Rate;
use super::web_response::{self, Extension};
use super::{Context, Whisk, text};
use crate::router::Response;

/// Properties that say how an action was called. No caller may set them.
const RESERVED: [&str; 6] = ["__ow_method", "__ow_headers", "__ow_path", "__ow_user", "__ow_query", "__ow_body"];

/// What a path under `/web` names.
pub struct Target {
    /// The action.
    pub at: Fqn,
    /// What of its result is wanted.
    pub extension: Extension,
    /// The rest of the path, as it came.
    pub rest: String,
}

impl Target {
    /// Reads the segments after `/web` and what follows them.
    pub fn read(namespace: &str, package: &str, action: &str, rest: &str) -> Option<Target> {
        let (name, extension) = Extension::split(action);
        if ![namespace, package, name].into_iter().all(names::is_name) {
            return None;
        }
        let package = (package != "default").then(|| package.to_owned());
        let at = Fqn { namespace: namespace.to_owned(), package, name: name.to_owned() };
        Some(Target { at, extension, rest: rest.to_owned() })
    }
}

impl Whisk {
    /// Any method of a path under `/web`.
    pub(super) async fn web(self: &Arc<Self>, context: &Context, target: Target) -> Response {
        let found = match self.web_action(&target).await {
            Ok(found) => found,
            Err(rejection) => return rejection.response(&context.transaction),
        };
        let own_options = found.action.head.annotations.is_true("web-custom-options");
        let response = match (&context.method, own_options) {
            (&Method::OPTIONS, false) => Response::empty(StatusCode::OK),
            _ => match self.web_call(context, &target, found, own_options).await {
                Ok(response) => response,
                Err(rejection) => rejection.response(&context.transaction),
            },
        };
        if own_options { response } else { with_cors(response, &context.headers) }
    }

    /// The action, if it is there for everybody. Whatever else is the matter, there is none.
    async fn web_action(&self, target: &Target) -> Result<Found, Rejection> {
        let found = self.action(&target.at.namespace, &target.at).await.map_err(|_| Rejection::not_found())?;
        if found.action.head.annotations.is_true("web-export") { Ok(found) } else { Err(Rejection::not_found()) }
    }

    async fn web_call(self: &Arc<Self>, context: &Context, target: &Target, found: Found, own_options: bool) -> Answer {
        let asks_options = own_options && context.method == Method::OPTIONS;
        if !asks_options && !is_admitted(&found, context) {
            return Err(Rejection::unauthorized());
        }
        let owner = self.space(&target.at.namespace, &target.at.full()).await.map_err(|_| Rejection::not_found())?;
        owner.throttle.count(Rate::Actions, now_ms(), owner.limits().calls_per_minute)?;
        context.bounded(&owner)?;
        let raw = found.action.head.annotations.is_true("raw-http");
        let arguments = arguments(context, target, &found, raw)?;
        let wait = Some(Duration::from_millis(MAX_WAIT_MS));
        let activation = match self.start(context, &owner, found, Input::Object(arguments), wait, Vec::new()).await? {
            Started::Later(id) => {
                let rejection = Rejection::new(StatusCode::ACCEPTED, "Response not yet ready.");
                return Ok(with_activation(rejection.response(&context.transaction), &id));
            }
            Started::Ended(activation) => activation,
        };
        let result: Option<Value> = serde_json::from_str(activation.response.text()).ok();
        let wanted = match activation.response.status {
            Status::Success => result,
            Status::ApplicationError => result.and_then(|mut result| result.get_mut("error").map(Value::take)),
            Status::DeveloperError | Status::WhiskError => {
                let rejection = Rejection::bad_request("There was an error processing your request.");
                return Ok(with_activation(rejection.response(&context.transaction), &activation.id));
            }
        };
        let response = match wanted {
            Some(wanted) => web_response::of(target.extension, wanted),
            None => Err(Rejection::new(StatusCode::NOT_FOUND, "Response does not include requested property.")),
        };
        let response = response.unwrap_or_else(|rejection| rejection.response(&context.transaction));
        Ok(with_activation(response, &activation.id))
    }
}

/// Whether the action's `require-whisk-auth` lets the caller in.
fn is_admitted(found: &Found, context: &Context) -> bool {
    let has = |secret: &str| {
        let given = context.headers.get("x-require-whisk-auth").map(HeaderValue::as_bytes).unwrap_or_default();
        // Digests, so that the time that it takes to compare tells nothing of the secret.
        Sha256::digest(given) == Sha256::digest(secret)
    };
    match found.action.head.annotations.get("require-whisk-auth") {
        None | Some(Value::Bool(false)) => true,
        Some(Value::Bool(true)) => !context.owner.is_empty(),
        Some(Value::String(secret)) => has(secret),
        Some(Value::Number(secret)) => has(&secret.to_string()),
        Some(_) => false,
    }
}

/// What the action is given: how it was called, the query, the body; of one key, the later.
fn arguments(context: &Context, target: &Target, found: &Found, raw: bool) -> Result<Map<String, Value>, Rejection> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &context.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers.entry(name.as_str().to_owned()).and_modify(|it| it.push_str(&format!(", {value}"))).or_insert_with(|| value.into_owned());
    }
    let mut arguments = Map::new();
    arguments.insert("__ow_method".into(), context.method.as_str().to_ascii_lowercase().into());
    arguments.insert("__ow_headers".into(), headers.into_iter().map(|(name, value)| (name, value.into())).collect::<Map<_, _>>().into());
    arguments.insert("__ow_path".into(), target.rest.as_str().into());
    if !context.owner.is_empty() {
        arguments.insert("__ow_user".into(), context.owner.as_str().into());
    }
    let body = body(context, raw)?;
    if raw {
        arguments.insert("__ow_query".into(), encoded(&context.query).into());
        arguments.insert("__ow_body".into(), body.unwrap_or_else(|| "".into()));
        return Ok(arguments);
    }
    let allowed = |key: &str| !RESERVED.contains(&key) && !found.is_final(key);
    let refused = || Rejection::bad_request("Request defines parameters that are not allowed (e.g., reserved properties).");
    for (key, value) in &context.query {
        if !allowed(key) {
            return Err(refused());
        }
        arguments.insert(key.clone(), value.as_str().into());
    }
    match body {
        None => {}
        Some(Value::Object(fields)) => {
            if !fields.keys().all(|key| allowed(key)) {
                return Err(refused());
            }
            arguments.extend(fields);
        }
        Some(other) => {
            arguments.insert("__ow_body".into(), other);
        }
    }
    Ok(arguments)
}

fn body(context: &Context, raw: bool) -> Result<Option<Value>, Rejection> {
    if context.body.is_empty() {
        return Ok(None);
    }
    let kind = context.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/octet-stream");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !raw && is_json(&kind) {
        return super::put::json(&context.body).map(Some);
    }
    if !raw && kind == "application/x-www-form-urlencoded" {
        let fields = decoded(&context.body).ok_or_else(|| Rejection::malformed("the form is not UTF-8"))?;
        return Ok(Some(Value::Object(fields.into_iter().map(|(key, value)| (key, value.into())).collect())));
    }
    let text =
        kind.starts_with("text/") || kind == "application/x-www-form-urlencoded" || kind.ends_with("+xml") || kind == "application/xml";
    let text = text || kind == "application/javascript" || (kind.ends_with("+json"));
    Ok(Some(if text { String::from_utf8_lossy(&context.body).into_owned() } else { STANDARD.encode(&context.body) }.into()))
}

/// Whether a media type is JSON.
pub fn is_json(kind: &str) -> bool {
    kind == "application/json" || kind.ends_with("+json")
}

/// A form as pairs.
fn decoded(form: &[u8]) -> Option<Vec<(String, String)>> {
    let form = std::str::from_utf8(form).ok()?;
    let part = |text: &str| String::from_utf8(super::path::decoded(&text.replace('+', " "))?).ok();
    let pairs = form.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            pair.split_once('=').map_or_else(|| Some((part(pair)?, String::new())), |(key, value)| Some((part(key)?, part(value)?)))
        })
        .collect()
}

/// Pairs as a query.
fn encoded(pairs: &[(String, String)]) -> String {
    let part = |text: &str| -> String {
        let letter = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        };
        text.bytes().map(letter).collect()
    };
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{}={}", part(key), part(value))).collect();
    pairs.join("&")
}

fn with_cors(mut response: Response, asked: &HeaderMap) -> Response {
    let allowed = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    super::cors(&mut response.headers, "OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH");
    if let Some(allowed) = allowed {
        response.headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

/// An answer of this type.
pub fn typed(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Response {
    let mut response = text(status, "");
    response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.body = body.into();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_queries() {
        let pairs = decoded(b"a=1&b=x+y%20z&c&=d").unwrap();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y z"), ("c", ""), ("", "d")]);
        assert_eq!(decoded(b"a=%ff"), None);
        assert_eq!(decoded(b"a=%f"), None);
        assert_eq!(encoded(&[("a b".into(), "ä&=".into())]), "a%20b=%C3%A4%26%3D");
    }

    #[test]
    fn targets() {
        let target = Target::read("ada", "default", "page.html", "/x").unwrap();
        assert_eq!((target.at.full().as_str(), target.extension), ("ada/page", Extension::Html));
        assert_eq!(Target::read("ada", "tools", "page", "").unwrap().at.full(), "ada/tools/page");
        assert!(Target::read("ada", "tools", ".json", "").is_none());
        assert!(Target::read("a$", "tools", "x", "").is_none());
    }
}
