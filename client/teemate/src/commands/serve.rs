//! `teemate serve`: a web action on a port, as Knative wants a container. Its requests run in the shared enclave.
//!
//! What comes to the port goes on by attested TLS, a connection of its own for each of a client's, and bodies pass as they come. Source of the
//! contract: Knative's runtime contract (`$PORT`, HTTP/1.1, SIGTERM with time to finish).

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use teemate_attestation::proxy::{Protocol, connect};
use teemate_attestation::{Connector, Endpoint};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore, watch};

use super::policy;
use crate::arguments::attestation::Serve;
use crate::failure::Failure;
use crate::output::Output;

/// How long a client may take to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Headers of one connection, which are not the next one's (RFC 9110, 7.6.1).
const OF_A_CONNECTION: [HeaderName; 5] = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Carries out `serve`. It ends when a signal says so, after the requests that are under way.
pub fn run(arguments: &Serve, output: &Output) -> Result<ExitCode, Failure> {
    let endpoint: Endpoint =
        arguments.endpoint.parse().map_err(|why| Failure::usage(format!("{:?} is no endpoint: {why}", arguments.endpoint)))?;
    let way = Way { path: web_path(&arguments.action)?, connector: policy::connector(&arguments.judge, None)?, endpoint };
    let failed = |what: &str, error: std::io::Error| Failure::new(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("no thread can be started", error))?;
    runtime.block_on(async {
        // An enclave that the policy refuses is known before anybody sends anything.
        drop(connect(&way.connector, &way.endpoint, Protocol::Http).await.map_err(|error| Failure::new(error.to_string()))?);
        let at = (arguments.address, arguments.port);
        let listener = TcpListener::bind(at).await.map_err(|error| failed(&format!("can't listen on {}:{}", at.0, at.1), error))?;
        let address = listener.local_addr().map_err(|error| failed("no address", error))?;
        let document = json!({ "listen": address, "endpoint": way.endpoint.to_string(), "path": way.path });
        let told = output.result(&document, || format!("{} is verified; http://{address} leads to {}", way.endpoint, way.path));
        // A reader that has gone does not stop it.
        drop(told);
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("no signal can be awaited", error))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("no signal can be awaited", error))?;
        let (ending, ends) = watch::channel(());
        let places = Arc::new(Semaphore::new(usize::from(arguments.connections)));
        tokio::select! {
            () = serve(&listener, Arc::new(way), ends, &places) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        drop((listener, ending));
        // Each connection gives its place back when its last request is answered.
        let all = places.acquire_many(u32::from(arguments.connections));
        let _ = tokio::time::timeout(Duration::from_millis(arguments.grace), all).await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Where the enclave is, and the action in it.
struct Way {
    connector: Connector,
    endpoint: Endpoint,
    path: String,
}

/// The path of `NAMESPACE/ACTION` or `NAMESPACE/PACKAGE/ACTION`, perhaps with one of OpenWhisk's extensions.
fn web_path(action: &str) -> Result<String, Failure> {
    let parts: Vec<&str> = action.trim_start_matches('/').split('/').collect();
    let fits = |part: &&str| !part.is_empty() && *part != ".." && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.@".contains(&c));
    match parts[..] {
        [namespace, action] if parts.iter().all(fits) => Ok(format!("/api/v1/web/{namespace}/default/{action}")),
        [namespace, package, action] if parts.iter().all(fits) => Ok(format!("/api/v1/web/{namespace}/{package}/{action}")),
        _ => Err(Failure::usage(format!("{action:?} is no action: write NAMESPACE/ACTION or NAMESPACE/PACKAGE/ACTION"))),
    }
}

async fn serve(listener: &TcpListener, way: Arc<Way>, ends: watch::Receiver<()>, places: &Arc<Semaphore>) {
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (way, ends) = (way.clone(), ends.clone());
                tokio::spawn(async move {
                    converse(stream, way, ends).await;
                    drop(place);
                });
            }
            // Most likely no descriptors are left; others will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One client's connection, and the one to the enclave that goes with it.
async fn converse(stream: TcpStream, way: Arc<Way>, mut ends: watch::Receiver<()>) {
    let _ = stream.set_nodelay(true);
    let onward = Arc::new(Mutex::new(None));
    let answers = service_fn(move |request| {
        let (way, onward) = (way.clone(), onward.clone());
        async move { Ok::<_, Infallible>(forward(request, &way, &onward).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let connection = http.serve_connection(TokioIo::new(stream), answers);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A client that breaks off is nobody's concern.
        _ = connection.as_mut() => return,
        // The sender is dropped when all shall end.
        _ = ends.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

type Body = BoxBody<Bytes, hyper::Error>;

/// Passes a request on. What the connection to the enclave can't do is a 502 that says why.
async fn forward(request: Request<Incoming>, way: &Way, onward: &Mutex<Option<SendRequest<Incoming>>>) -> Response<Body> {
    match pass(request, way, onward).await {
        Ok(mut response) => {
            without_those_of_a_connection(response.headers_mut());
            response.map(BodyExt::boxed)
        }
        Err(why) => {
            let text = format!("502 Bad Gateway\n\n{why}\n");
            let mut response = Response::new(Full::from(text).map_err(|never: Infallible| match never {}).boxed());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

async fn pass(request: Request<Incoming>, way: &Way, onward: &Mutex<Option<SendRequest<Incoming>>>) -> Result<Response<Incoming>, String> {
    let (mut head, body) = request.into_parts();
    let asked = head.uri.path_and_query().map_or("/", |path| path.as_str());
    // The root is the action itself; what is below it the action finds as its path.
    let rest = asked.strip_prefix('/').unwrap_or(asked);
    let joint = if rest.is_empty() || rest.starts_with('?') { "" } else { "/" };
    head.uri = format!("{}{joint}{rest}", way.path).parse::<Uri>().map_err(|error| error.to_string())?;
    without_those_of_a_connection(&mut head.headers);
    let host = HeaderValue::from_str(&format!("{}:{}", way.endpoint.host, way.endpoint.port)).map_err(|error| error.to_string())?;
    head.headers.insert(HOST, host);
    let mut place = onward.lock().await;
    let usable = match place.take() {
        Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
        None => None,
    };
    let mut sender = match usable {
        Some(sender) => sender,
        None => open(way).await?,
    };
    let response =
        sender.send_request(Request::from_parts(head, body)).await.map_err(|error| format!("the enclave's connection: {error}"))?;
    *place = Some(sender);
    Ok(response)
}

async fn open(way: &Way) -> Result<SendRequest<Incoming>, String> {
    let (stream, _) = connect(&way.connector, &way.endpoint, Protocol::Http).await.map_err(|error| error.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

fn without_those_of_a_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_A_CONNECTION) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_a_path() {
        assert_eq!(web_path("ada/hello").unwrap(), "/api/v1/web/ada/default/hello");
        assert_eq!(web_path("/ada/tools/hello.http").unwrap(), "/api/v1/web/ada/tools/hello.http");
        for wrong in ["", "hello", "a/b/c/d", "ada/../x", "ada//x", "ada/he llo", "ada/x?y"] {
            assert!(web_path(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn headers_of_one_connection_do_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Mine"), ("x-mine", "1"), ("keep-alive", "5"), ("te", "trailers"), ("x-yours", "2")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        without_those_of_a_connection(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-yours"]);
    }
}
