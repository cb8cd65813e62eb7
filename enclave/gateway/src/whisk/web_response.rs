//! From the result of a web action to an answer by HTTP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;

use super::rejection::{Answer, Rejection};
use super::respond;
use super::web::{is_json, typed};
use crate::router::Response;

/// Most headers that an action may set.
const MAX_HEADERS: usize = 100;

/// What of a result the answer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Status, headers and body that the action chose.
    Http,
    /// All of it.
    Json,
    /// `html` or `body`.
    Html,
    /// `svg` or `body`.
    Svg,
    /// `text` or `body`.
    Text,
}

impl Extension {
    /// The name of the action, and what the end of the segment says.
    pub fn split(segment: &str) -> (&str, Extension) {
        let all = [
            (".http", Extension::Http),
            (".json", Extension::Json),
            (".html", Extension::Html),
            (".svg", Extension::Svg),
            (".text", Extension::Text),
        ];
        let found = all.into_iter().find_map(|(end, extension)| Some((segment.strip_suffix(end)?, extension)));
        found.unwrap_or((segment, Extension::Http))
    }
}

/// The answer for a result.
///
/// # Errors
/// 400 or 404 for a result that is not what the extension needs.
pub fn of(extension: Extension, result: Value) -> Answer {
    match extension {
        Extension::Http => http(result),
        Extension::Json if result.is_object() || result.is_array() => Ok(respond(StatusCode::OK, result.to_string())),
        Extension::Json => Err(invalid("application/json")),
        Extension::Html => text_of(result, "html", "text/html; charset=UTF-8", "text/html"),
        Extension::Svg => text_of(result, "svg", "image/svg+xml", "image/svg+xml"),
        Extension::Text => {
            let text = match field(result, "text") {
                None => return Err(Rejection::new(StatusCode::NOT_FOUND, "Response does not include requested property.")),
                Some(Value::String(text)) => text,
                Some(other @ (Value::Object(_) | Value::Array(_))) => serde_json::to_string_pretty(&other).unwrap_or_default(),
                Some(other) => other.to_string(),
            };
            Ok(typed(StatusCode::OK, "text/plain; charset=UTF-8", text))
        }
    }
}

fn invalid(kind: &str) -> Rejection {
    Rejection::bad_request(format!("Response is not valid '{kind}'."))
}

/// `body` of an object, or the field of the extension's name, or what is no object itself.
fn field(result: Value, name: &str) -> Option<Value> {
    match result {
        Value::Object(mut fields) => fields.remove("body").or_else(|| fields.remove(name)),
        other => Some(other),
    }
}

fn text_of(result: Value, name: &str, kind: &'static str, media: &str) -> Answer {
    match field(result, name) {
        Some(Value::String(text)) => Ok(typed(StatusCode::OK, kind, text)),
        _ => Err(invalid(media)),
    }
}

fn http(result: Value) -> Answer {
    let bad = || invalid("message/http");
    let Value::Object(mut fields) = result else { return Err(bad()) };
    let mut headers = HeaderMap::new();
    match fields.remove("headers") {
        None => {}
        Some(Value::Object(given)) => {
            for (name, value) in given {
                add(&mut headers, &name, &value).ok_or_else(bad)?;
            }
        }
        Some(_) => return Err(bad()),
    }
    let code = match fields.remove("statusCode") {
        None => None,
        Some(Value::Number(code)) => {
            Some(code.as_u64().or_else(|| code.as_f64().filter(|code| code.fract() == 0.0).map(|code| code as u64)).ok_or_else(bad)?)
        }
        Some(Value::String(code)) => Some(code.trim().parse().map_err(|_| bad())?),
        Some(_) => return Err(bad()),
    };
    // The engine answers what is on its way (1xx); an action cannot.
    let code = code.map(|code| u16::try_from(code).ok().filter(|code| (200..=599).contains(code)).ok_or_else(bad)).transpose()?;
    let code = code.map(|code| StatusCode::from_u16(code).map_err(|_| bad())).transpose()?;
    let kind = headers.remove(header::CONTENT_TYPE);
    match fields.remove("body") {
        None | Some(Value::Null) => Ok(Response { status: code.unwrap_or(StatusCode::NO_CONTENT), headers, body: bytes::Bytes::new() }),
        Some(Value::String(text)) if text.is_empty() => {
            Ok(Response { status: code.unwrap_or(StatusCode::NO_CONTENT), headers, body: bytes::Bytes::new() })
        }
        Some(Value::String(text)) => {
            let (kind, body) = body_of_text(kind, text)?;
            headers.insert(header::CONTENT_TYPE, kind);
            Ok(Response { status: code.unwrap_or(StatusCode::OK), headers, body })
        }
        Some(other) => {
            let kind = kind.unwrap_or(HeaderValue::from_static("application/json"));
            if !is_json(&media(&kind).ok_or_else(unknown)?) {
                return Err(Rejection::bad_request("Response type in header did not match generated content type."));
            }
            headers.insert(header::CONTENT_TYPE, kind);
            Ok(Response { status: code.unwrap_or(StatusCode::OK), headers, body: other.to_string().into() })
        }
    }
}

fn unknown() -> Rejection {
    Rejection::bad_request("Response did not specify a known content-type.")
}

fn add(headers: &mut HeaderMap, name: &str, value: &Value) -> Option<()> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(values) => return values.iter().try_for_each(|value| add(headers, name, value)),
        Value::Null | Value::Object(_) => return None,
    };
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    // How the connection is used is the transport's matter.
    let transport = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::TRAILER];
    if transport.contains(&name) {
        return Some(());
    }
    if headers.len() >= MAX_HEADERS {
        return None;
    }
    headers.append(name, HeaderValue::from_bytes(text.as_bytes()).ok()?);
    Some(())
}

/// The media type of a header, without its parameters.
fn media(kind: &HeaderValue) -> Option<String> {
    let text = kind.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
    let (main, sub) = text.split_once('/')?;
    (!main.is_empty() && !sub.is_empty() && !sub.contains('/')).then_some(text)
}

fn body_of_text(kind: Option<HeaderValue>, text: String) -> Result<(HeaderValue, bytes::Bytes), Rejection> {
    let Some(kind) = kind else { return Ok((HeaderValue::from_static("text/html; charset=UTF-8"), text.into())) };
    let media = media(&kind).ok_or_else(unknown)?;
    let mismatch = |_| Rejection::bad_request("Response type in header did not match generated content type.");
    let is_text = media.starts_with("text/")
        || matches!(&*media, "application/xml" | "application/javascript" | "application/x-www-form-urlencoded" | "image/svg+xml")
        || media.ends_with("+xml");
    if is_json(&media) {
        // Actions of long ago give the base64 of JSON; OpenWhisk decides by looking, and so do we.
        let decoded = STANDARD.decode(text.trim()).ok().filter(|_| text.trim().len().is_multiple_of(4));
        return Ok((kind, decoded.map_or_else(|| text.into(), bytes::Bytes::from)));
    }
    if is_text {
        return Ok((kind, text.into()));
    }
    Ok((kind, STANDARD.decode(text.trim()).map_err(mismatch)?.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn http_of(result: Value) -> Response {
        of(Extension::Http, result).unwrap()
    }

    fn kind(response: &Response) -> &str {
        response.headers[header::CONTENT_TYPE].to_str().unwrap()
    }

    #[test]
    fn extensions() {
        assert_eq!(Extension::split("a.json"), ("a", Extension::Json));
        assert_eq!(Extension::split("a.b"), ("a.b", Extension::Http));
        assert_eq!(of(Extension::Html, json!({ "html": "<p>" })).unwrap().body, "<p>");
        assert_eq!(of(Extension::Html, json!({ "html": "<p>", "body": "b" })).unwrap().body, "b");
        assert_eq!(of(Extension::Html, json!({ "x": 1 })).unwrap_err().message, "Response is not valid 'text/html'.");
        assert_eq!(kind(&of(Extension::Svg, json!({ "svg": "<svg/>" })).unwrap()), "image/svg+xml");
        assert_eq!(of(Extension::Text, json!({ "text": 5 })).unwrap().body, "5");
        assert_eq!(of(Extension::Text, json!({ "x": 5 })).unwrap_err().status, StatusCode::NOT_FOUND);
        assert_eq!(of(Extension::Json, json!([1])).unwrap().body, "[1]");
        assert_eq!(of(Extension::Json, json!(1)).unwrap_err().message, "Response is not valid 'application/json'.");
    }

    #[test]
    fn an_action_chooses_status_headers_and_body() {
        let response =
            http_of(json!({ "statusCode": 302, "headers": { "location": "/x", "set-cookie": ["a=1", "b=2"], "x-n": 5, "x-b": true } }));
        assert_eq!((response.status, response.headers["location"].to_str().unwrap()), (StatusCode::FOUND, "/x"));
        assert_eq!(response.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(http_of(json!({})).status, StatusCode::NO_CONTENT);
        assert_eq!(http_of(json!({ "body": "" })).status, StatusCode::NO_CONTENT);
        let html = http_of(json!({ "body": "<p>", "statusCode": "201" }));
        assert_eq!((html.status, kind(&html), &html.body[..]), (StatusCode::CREATED, "text/html; charset=UTF-8", &b"<p>"[..]));
        let object = http_of(json!({ "body": { "a": 1 } }));
        assert_eq!((kind(&object), &object.body[..]), ("application/json", &br#"{"a":1}"#[..]));
        let image = http_of(json!({ "headers": { "Content-Type": "image/png" }, "body": "AAEC" }));
        assert_eq!(&image.body[..], [0, 1, 2]);
        let text = http_of(json!({ "headers": { "content-type": "text/plain" }, "body": "AAEC" }));
        assert_eq!(&text.body[..], b"AAEC");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bad in [
            json!([]),
            json!("x"),
            json!({ "statusCode": 99 }),
            json!({ "statusCode": 1e9 }),
            json!({ "statusCode": 200.5 }),
            json!({ "statusCode": "x" }),
            json!({ "statusCode": 100 }),
            json!({ "statusCode": -200 }),
            json!({ "headers": [] }),
            json!({ "headers": { "x": {} } }),
            json!({ "headers": { "a b": "c" } }),
            json!({ "headers": { "x": "a\r\nset-cookie: b" } }),
            json!({ "headers": { "content-type": "image/png" }, "body": "not base64!" }),
            json!({ "headers": { "content-type": "text/html" }, "body": {} }),
            json!({ "headers": { "content-type": "?" }, "body": "x" }),
            json!({ "headers": { "x": vec!["y"; 101] } }),
        ] {
            assert_eq!(of(Extension::Http, bad.clone()).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
        // The connection is not the action's.
        let response =
            http_of(json!({ "headers": { "content-length": "999", "Transfer-Encoding": "chunked", "connection": "close" }, "body": "x" }));
        assert_eq!(response.headers.len(), 1);
    }
}
