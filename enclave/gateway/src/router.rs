//! What the transport hands to an API, and what it gets back.
//!
//! The transport has read the whole body, within the limit that the API named before, and knows who asks. It has refused bad credentials
//! itself, except where anybody may ask.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ring::rand::{SecureRandom, SystemRandom};

/// Who asks, after authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Namespace.
    pub namespace: String,
    /// First half of the credentials; no secret.
    pub uuid: String,
}

/// A request whose body has arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// What follows `/api/v1`, percent-encoded as it came: it begins with `/` or is empty.
    pub path: String,
    /// Pairs of the query, decoded, in the order given.
    pub query: Vec<(String, String)>,
    /// Headers, without the owner's credentials. When there is no owner, `authorization` is somebody else's and stays.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Who asks. `None` only on routes whose [`BodyLimit`] admits anybody.
    pub owner: Option<Owner>,
}

/// An answer. The transport adds `content-length`, `date` and what the connection needs.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Response {
    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Response { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// An error as OpenWhisk writes it: a sentence, and a code that names this one answer.
    pub fn error(status: StatusCode, message: &str) -> Self {
        let body = serde_json::json!({ "error": message, "code": transaction() });
        Response::json(status, body.to_string())
    }

    /// An answer whose body is this JSON text.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Response { status, headers, body: body.into() }
    }
}

/// A name for one request, at random: 32 hexadecimal digits.
pub fn transaction() -> String {
    let mut bytes = [0; 16];
    // Without random numbers there would have been no TLS; and this one is no secret.
    let _ = SystemRandom::new().fill(&mut bytes);
    teemate_evidence::encoding::hex(&bytes)
}

/// What a route takes, known before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit {
    /// Bytes of body; what has more is answered 413.
    pub bytes: usize,
    /// Whether it may be asked without credentials, or with those of nobody (web actions). Otherwise the transport answers 401 before it
    /// reads the body.
    pub anonymous: bool,
}

/// An API below `/api/v1`.
pub trait Routes: Send + Sync + 'static {
    /// What this route takes. Called before the body is read, and never blocks.
    fn limits(&self, method: &Method, path: &str) -> BodyLimit;

    /// Answers a request. The future is dropped when the client is gone or the time for a request is over; what must not be lost (a call
    /// that has begun) has to live elsewhere.
    fn handle(self: Arc<Self>, request: Request) -> Pin<Box<dyn Future<Output = Response> + Send>>;

    /// Waits until the record and the receipt of an activation whose caller was answered are kept.
    fn kept<'a>(&'a self, _namespace: &'a str, _activation: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }

    /// What `GET /` answers, for anybody: where the API is.
    fn root(&self) -> Response {
        Response::error(StatusCode::NOT_FOUND, "The requested resource does not exist.")
    }
}
