//! Why a request is not carried out, in OpenWhisk's words: programs compare them.

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::router::Response;

/// A request that is not carried out: a status and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Rejection {
    /// HTTP status.
    pub status: StatusCode,
    /// What the caller reads.
    pub message: String,
}

/// The answer of a handler.
pub type Answer = Result<Response, Rejection>;

/// Name of the header that carries the transaction id, in both directions.
pub const TRANSACTION: HeaderName = HeaderName::from_static("x-request-id");

impl Rejection {
    /// A rejection of this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Rejection { status, message: message.into() }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Rejection::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: the body is not what it should be.
    pub fn malformed(why: impl std::fmt::Display) -> Self {
        Rejection::bad_request(format!("The request content was malformed:\n{why}"))
    }

    /// 400: a parameter of the query is not what it should be.
    pub fn malformed_query(name: &str, why: impl std::fmt::Display) -> Self {
        Rejection::bad_request(format!("The query parameter '{name}' was malformed:\n{why}"))
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Rejection::new(StatusCode::UNAUTHORIZED, "The resource requires authentication, which was not supplied with the request")
    }

    /// 403: another owner's.
    pub fn forbidden(resource: impl std::fmt::Display) -> Self {
        Rejection::new(StatusCode::FORBIDDEN, format!("The supplied authentication is not authorized to access '{resource}'."))
    }

    /// 404.
    pub fn not_found() -> Self {
        Rejection::new(StatusCode::NOT_FOUND, "The requested resource does not exist.")
    }

    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Rejection::new(StatusCode::CONFLICT, message)
    }

    /// 409: there is something else of this name.
    pub fn another_collection() -> Self {
        Rejection::conflict("Resource by this name exists but is not in this collection.")
    }

    /// 413.
    pub fn too_large(field: &str, is: usize, allowed: usize) -> Self {
        Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, format!("{field} larger than allowed: {is} > {allowed} bytes."))
    }

    /// 500. The reason is for the log of the enclave, which its host reads: it names no data.
    pub fn internal() -> Self {
        Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "There was an internal server error.")
    }

    /// 405.
    pub fn method(allowed: &str) -> Self {
        Rejection::new(StatusCode::METHOD_NOT_ALLOWED, format!("HTTP method not allowed, supported methods: {allowed}"))
    }

    /// As OpenWhisk says it: the sentence, and the transaction as its code.
    pub fn response(&self, transaction: &str) -> Response {
        let body = json!({ "error": self.message, "code": transaction });
        let mut response = Response::json(self.status, body.to_string());
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"OpenWhisk secure realm\""));
        }
        response
    }
}

impl From<super::store::StoreError> for Rejection {
    fn from(error: super::store::StoreError) -> Self {
        eprintln!("teemate-gateway: {error}");
        Rejection::internal()
    }
}
