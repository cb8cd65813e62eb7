//! An action that is made ready before its first call, for who starts a container for one action, as OpenWhisk's invoker does.
//!
//! With the header [`READY`] a PUT compiles the action and runs the top of its script, and says what is wrong with it. With
//! [`ENVIRONMENT`] a call tells the variables that OpenWhisk's invoker would have told.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::{Map, Value};
use teemate_control::function::Kind;

use super::activation::Status;
use super::clock::random_hex;
use super::entity::Action;
use super::receipt::Wanted;
use super::rejection::Rejection;
use super::resolve::Found;
use super::run::{Input, Run};
use super::throttle::Rate;
use super::{Context, Whisk};

/// Header of a PUT: make the action ready before the answer.
pub const READY: HeaderName = HeaderName::from_static("x-teemate-ready");
/// Header of a POST: an object of strings; each member becomes a variable `__OW_` and its name.
pub const ENVIRONMENT: HeaderName = HeaderName::from_static("x-teemate-environment");
/// Parameter by which `entry.js` knows that it shall find the entry point and not call it.
const ONLY_FIND: &str = "\u{1e}ready";
/// Most variables of a call.
const VARIABLES: usize = 64;

impl Whisk {
    /// Compiles the action and evaluates its script, as its first call would.
    ///
    /// # Errors
    /// 502 with what is wrong with the code; 500 when there was no room for it.
    pub(super) async fn make_ready(self: &Arc<Self>, context: &Context, action: Arc<Action>) -> Result<(), Rejection> {
        let caller = self.space(&context.owner, &context.owner).await?;
        caller.throttle.count(Rate::Actions, context.received, caller.limits().calls_per_minute)?;
        let _permit = (caller.throttle.enter(caller.limits().concurrent)?, self.overall.enter(self.config.concurrent_overall)?);
        let calls = action.exec.engine() == Kind::JavaScript;
        let run = Run {
            caller,
            found: Found { parameters: action.parameters.clone(), action, binding: None },
            input: Input::Object(Map::from_iter([(ONLY_FIND.to_owned(), Value::Bool(true))])),
            cause: None,
            id: random_hex()?,
            transaction: context.transaction.clone(),
            received: context.received,
            wanted: Wanted::default(),
            environment: Vec::new(),
            first: None,
        };
        let ended = self.prepare(&run, calls).await;
        let text = |ended: &super::activation::Ended| {
            let value: Value = serde_json::from_str(ended.text()).unwrap_or_default();
            value["error"].as_str().unwrap_or("the action cannot be made ready").to_owned()
        };
        match ended.status {
            Status::Success => Ok(()),
            Status::ApplicationError | Status::DeveloperError => Err(Rejection::new(StatusCode::BAD_GATEWAY, text(&ended))),
            Status::WhiskError => Err(Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, text(&ended))),
        }
    }
}

/// Whether a PUT asks for an action that is ready.
pub fn wanted(headers: &HeaderMap) -> bool {
    headers.get(READY).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// The variables of a call, without their prefix.
///
/// # Errors
/// 400 for anything but an object of strings.
pub fn environment(headers: &HeaderMap) -> Result<Vec<(String, String)>, Rejection> {
    let Some(value) = headers.get(ENVIRONMENT) else { return Ok(Vec::new()) };
    let wrong = || Rejection::bad_request(format!("the header '{ENVIRONMENT}' must be an object of at most {VARIABLES} strings"));
    let map: Map<String, Value> = serde_json::from_slice(value.as_bytes()).map_err(|_| wrong())?;
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let pair = |(name, value): (String, Value)| match value {
        Value::String(text) if is_name(&name) && !text.contains('\0') => Ok((name, text)),
        _ => Err(wrong()),
    };
    if map.len() > VARIABLES {
        return Err(wrong());
    }
    map.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn variables_are_strings_with_plain_names() {
        let read = |text: &'static str| environment(&HeaderMap::from_iter([(ENVIRONMENT, HeaderValue::from_static(text))]));
        assert_eq!(environment(&HeaderMap::new()), Ok(Vec::new()));
        assert_eq!(read(r#"{"ACTIVATION_ID":"x","DEADLINE":"1"}"#).unwrap()[0], ("ACTIVATION_ID".to_owned(), "x".to_owned()));
        for bad in ["", "[]", r#"{"A":1}"#, r#"{"a":"x"}"#, r#"{"A=B":"x"}"#, r#"{"":"x"}"#, r#"{"A":"\u0000"}"#] {
            assert_eq!(read(bad).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
