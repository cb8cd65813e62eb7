//! One connection: HTTP/1.1 or HTTP/2 over a stream that is already decrypted, watched until it ends.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::activity::{Activity, Verdict};
use crate::body::Payload;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::service::Service;

/// Read buffer of an HTTP/1.1 connection.
const BUFFER: usize = 64 << 10;
/// Flow control windows of HTTP/2: what a peer may send before anybody reads it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of an answer that HTTP/2 keeps for a stream whose peer does not read.
const SEND_BUFFER: usize = 32 << 10;

/// Which HTTP the peer chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// By the protocol that TLS agreed on; without one it is HTTP/1.1.
    pub fn of(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") { Version::Http2 } else { Version::Http1 }
    }
}

/// Serves a connection to its end.
pub async fn serve<S>(stream: S, version: Version, service: Arc<Service>, activity: Arc<Activity>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, metrics) = (service.limits().clone(), service.metrics().clone());
    let stream = TokioIo::new(stream);
    let requests = activity.clone();
    let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (service, activity) = (service.clone(), requests.clone());
        async move { Ok::<http::Response<Payload>, Infallible>(service.answer(request, &activity).await) }
    });
    match version {
        Version::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_headers(limits.headers)
                .max_buf_size(BUFFER.max(limits.head_bytes))
                .max_header_size(limits.head_bytes)
                .half_close(false)
                .serve_connection(stream, answer);
            watch(connection, &activity, &limits, &metrics).await;
        }
        Version::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.streams)
                .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .max_local_error_reset_streams(limits.resets as usize)
                .serve_connection(stream, answer);
            watch(connection, &activity, &limits, &metrics).await;
        }
    }
}

/// What both versions' connections can do: finish what runs, and close.
trait Graceful: Future {
    fn finish(self: Pin<&mut Self>);
}

impl<I, S> Graceful for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Payload>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, E> Graceful for http2::Connection<I, S, E>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Payload>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, Payload>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// A connection that shall end stays open for this long: who has just been answered may have sent the next request already, and what is
/// closed before it is read leaves its sender without knowing what became of it.
const LINGER: Duration = Duration::from_millis(300);

/// Runs a connection until it ends or must end.
async fn watch<C: Graceful>(connection: C, activity: &Activity, limits: &Limits, metrics: &Metrics) {
    let mut connection = pin!(connection);
    let mut finishing = false;
    let mut told = None;
    loop {
        let now = Instant::now();
        let wake = match activity.verdict(now, limits) {
            Verdict::Cut => return,
            Verdict::Resets => {
                metrics.refused_resets.add();
                return;
            }
            Verdict::Slow => {
                metrics.refused_slow.add();
                return;
            }
            Verdict::Wait(until) => until,
            Verdict::Finish if *told.get_or_insert(now) + LINGER > now => told.unwrap_or(now) + LINGER,
            Verdict::Finish => {
                if !finishing {
                    finishing = true;
                    connection.as_mut().finish();
                }
                match activity.farewell(limits) {
                    Some(end) if end <= now => return,
                    Some(end) => end,
                    // Something runs still; each of its steps has a time limit of its own.
                    None => now + limits.farewell,
                }
            }
        };
        tokio::select! {
            _ = connection.as_mut() => return,
            () = activity.changed() => {}
            () = sleep_until(wake) => {}
        }
    }
}
