//! One request: where it goes, who asks, its body, its answer.
//!
//! In this order: the route, then the credentials, then the body. So what nobody may ask costs no more than its head.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body;
use tokio::time::{Instant, timeout};

use crate::activity::Activity;
use crate::api::Api;
use crate::auth::Authenticator;
use crate::body::{self, Payload, Refusal};
use crate::budget::Budget;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::padding;
use crate::router::{BodyLimit, Request, Response, Routes};

const NOT_FOUND: &str = "The requested resource could not be found.";
const NOT_ALLOWED: &str = "HTTP method not allowed here.";

/// Answers requests of all connections.
pub struct Service {
    limits: Limits,
    metrics: Arc<Metrics>,
    bodies: Budget,
    authenticator: Arc<Authenticator>,
    api: Arc<Api>,
    routes: Arc<dyn Routes>,
    padding: bool,
}

/// What answers a request.
enum Target {
    OpenWhisk,
    Own,
}

impl Service {
    /// A service that answers by `api` and `routes`.
    pub fn new(
        limits: Limits,
        metrics: Arc<Metrics>,
        authenticator: Arc<Authenticator>,
        api: Arc<Api>,
        routes: Arc<dyn Routes>,
        padding: bool,
    ) -> Arc<Self> {
        let bodies = Budget::new(limits.bodies);
        Arc::new(Service { limits, metrics, bodies, authenticator, api, routes, padding })
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Answers one request of a connection.
    pub async fn answer<B>(&self, request: http::Request<B>, activity: &Arc<Activity>) -> http::Response<Payload>
    where
        B: Body<Data = Bytes> + Unpin + Send,
    {
        let mut under_way = activity.begin(&self.metrics);
        let head = request.method() == Method::HEAD;
        let padded = self.padding || padding::is_wanted(request.headers());
        let mut response = match Caught(Box::pin(self.respond(request, activity.channel()))).await {
            Ok(response) => response,
            // What panicked has said so already, on standard error; it is no business of the peer's.
            Err(_) => Response::error(StatusCode::INTERNAL_SERVER_ERROR, "There was an internal server error."),
        };
        match response.status.as_u16() {
            0..400 => self.metrics.answered_well.add(),
            400..500 => self.metrics.answered_client_error.add(),
            _ => self.metrics.answered_server_error.add(),
        }
        if padded {
            padding::pad(&mut response);
        }
        if head {
            response.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(response.body.len()));
            response.body = Bytes::new();
        }
        let length = response.body.len();
        under_way.answer(Instant::now() + self.limits.transfer(length), length > body::PIECE);
        let mut answer = http::Response::new(Payload::new(response.body, Some(under_way)));
        *answer.status_mut() = response.status;
        *answer.headers_mut() = response.headers;
        answer
    }

    async fn respond<B>(&self, request: http::Request<B>, channel: Option<[u8; 32]>) -> Response
    where
        B: Body<Data = Bytes> + Unpin + Send,
    {
        let (parts, body) = request.into_parts();
        if parts.uri.path() == "/" && matches!(parts.method, Method::GET | Method::HEAD) {
            return self.routes.root();
        }
        let Some((target, path)) = target(parts.uri.path()) else {
            return Response::error(StatusCode::NOT_FOUND, NOT_FOUND);
        };
        let limit = match target {
            Target::OpenWhisk => self.routes.limits(&parts.method, path),
            Target::Own => match self.api.limits(&parts.method, path) {
                Ok(limit) => limit,
                Err(StatusCode::METHOD_NOT_ALLOWED) => return Response::error(StatusCode::METHOD_NOT_ALLOWED, NOT_ALLOWED),
                Err(status) => return Response::error(status, NOT_FOUND),
            },
        };
        let owner = match self.authenticator.owner(&parts.headers).await {
            Ok(owner) => Some(owner),
            // As with OpenWhisk: what lies in the header is then for the web action to read.
            Err(_) if limit.anonymous => None,
            Err(nobody) => {
                self.metrics.refused_credentials.add();
                return nobody.response();
            }
        };
        let (body, _held) = match body::read(body, limit.bytes, &self.limits, &self.bodies).await {
            Ok(read) => read,
            Err(refusal) => return self.refuse(refusal, limit),
        };
        let mut headers = parts.headers;
        if owner.is_some() {
            headers.remove(header::AUTHORIZATION);
        }
        let request = Request { path: path.to_owned(), query: query(parts.uri.query()), method: parts.method, headers, body, owner };
        let handled = match target {
            Target::OpenWhisk => timeout(self.limits.answer, self.routes.clone().handle(request)).await,
            Target::Own => {
                let answer = async {
                    if let (Some(activation), Some(owner)) = (Api::receipt_asked_for(&request.path), &request.owner) {
                        self.routes.kept(&owner.namespace, activation).await;
                    }
                    self.api.handle(request, channel).await
                };
                timeout(self.limits.answer, answer).await
            }
        };
        handled.unwrap_or_else(|_| {
            self.metrics.refused_time.add();
            Response::error(StatusCode::SERVICE_UNAVAILABLE, "The server was not able to produce a timely response to your request.")
        })
    }

    fn refuse(&self, refusal: Refusal, limit: BodyLimit) -> Response {
        let mut response = match refusal {
            Refusal::Large(bytes) => {
                self.metrics.refused_large.add();
                let message = format!("Request larger than allowed: {bytes} > {} bytes.", limit.bytes);
                Response::error(StatusCode::PAYLOAD_TOO_LARGE, &message)
            }
            Refusal::Late => {
                self.metrics.refused_late.add();
                Response::error(StatusCode::REQUEST_TIMEOUT, "The body of the request came too slowly.")
            }
            Refusal::Room => {
                self.metrics.refused_room.add();
                Response::error(StatusCode::SERVICE_UNAVAILABLE, "There is no room for the body of the request now; try again later.")
            }
            Refusal::Broken => Response::error(StatusCode::BAD_REQUEST, "The body of the request is malformed or incomplete."),
        };
        if refusal == Refusal::Room {
            response.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// What answers this path, and the rest of it.
fn target(path: &str) -> Option<(Target, &str)> {
    let below = |prefix| path.strip_prefix(prefix).filter(|rest: &&str| rest.is_empty() || rest.starts_with('/'));
    below("/api/v1").map(|rest| (Target::OpenWhisk, rest)).or_else(|| below("/teemate/v1").map(|rest| (Target::Own, rest)))
}

/// The pairs of a query.
fn query(query: Option<&str>) -> Vec<(String, String)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// A future whose panic is an error. What panics is dropped, and what it shares with others is guarded by locks that survive a panic.
struct Caught<'a, T>(Pin<Box<dyn Future<Output = T> + Send + 'a>>);

impl<T> Future for Caught<'_, T> {
    type Output = Result<T, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_one_of_two() {
        let rest = |path| target(path).map(|(_, rest)| rest);
        assert_eq!(rest("/api/v1"), Some(""));
        assert_eq!(rest("/api/v1/namespaces/_/actions"), Some("/namespaces/_/actions"));
        assert_eq!(rest("/teemate/v1/info"), Some("/info"));
        for nowhere in ["/", "", "*", "/api/v10", "/api", "//api/v1", "/API/v1", "/teemate/v2/info"] {
            assert_eq!(rest(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn queries_are_decoded_in_their_order() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(query(Some("b=1+2&a=%C3%A9&b&=x")), [pair("b", "1 2"), pair("a", "é"), pair("b", ""), pair("", "x")]);
        assert_eq!(query(Some("a=%ff%zz")), [pair("a", "\u{fffd}%zz")]);
        assert!(query(None).is_empty());
    }
}
