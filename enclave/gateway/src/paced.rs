//! The socket of a peer that must keep pace.
//!
//! Lies under TLS, so that it sees what really leaves. Two rules: a write that gets nowhere for too long ends the connection; and a
//! connection that is closed reads on for a moment, for a socket closed over unread bytes is reset, and with it goes the answer that the
//! peer has not read yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that are read and thrown away after the close.
const MAX_DISCARDED: usize = 4 << 20;

/// A stream with these rules.
pub struct Paced<S> {
    inner: S,
    patience: Duration,
    farewell: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    closing: Option<Closing>,
}

struct Closing {
    until: Pin<Box<Sleep>>,
    discarded: usize,
}

impl<S> Paced<S> {
    /// `patience`: how long a write may get nowhere. `farewell`: how long the close may take.
    pub fn new(inner: S, patience: Duration, farewell: Duration) -> Self {
        Paced { inner, patience, farewell, stalled: None, closing: None }
    }

    /// Passes on what a write gave, unless nothing has been written for too long.
    fn pace<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        self.stalled = None;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.pace(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.pace(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.pace(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
            this.closing = Some(Closing { until: Box::pin(sleep(this.farewell)), discarded: 0 });
        }
        let Some(closing) = this.closing.as_mut() else { return Poll::Ready(Ok(())) };
        let mut scratch = [0u8; 4096];
        loop {
            if closing.discarded > MAX_DISCARDED || closing.until.deadline() <= Instant::now() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.inner).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => closing.discarded += buffer.filled().len(),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(closing.until.as_mut().poll(context));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        run(async {
            let (ours, _theirs) = duplex(16);
            let mut paced = Paced::new(ours, Duration::from_secs(20), Duration::from_secs(1));
            let start = Instant::now();
            let error = paced.write_all(&[0; 100]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(start.elapsed().as_secs(), 20);
        });
    }

    #[test]
    fn a_slow_peer_is_not() {
        run(async {
            let (ours, mut theirs) = duplex(16);
            let mut paced = Paced::new(ours, Duration::from_secs(20), Duration::from_secs(1));
            let reader = tokio::spawn(async move {
                let mut all = Vec::new();
                let mut piece = [0; 10];
                while let Ok(n @ 1..) = theirs.read(&mut piece).await {
                    all.extend_from_slice(&piece[..n]);
                    sleep(Duration::from_secs(15)).await;
                }
                all.len()
            });
            paced.write_all(&[7; 100]).await.unwrap();
            paced.shutdown().await.unwrap();
            drop(paced);
            assert_eq!(reader.await.unwrap(), 100);
        });
    }

    #[test]
    fn closing_reads_on_until_the_peer_has_closed_too_or_time_is_up() {
        run(async {
            let (ours, mut theirs) = duplex(16);
            let mut paced = Paced::new(ours, Duration::from_secs(20), Duration::from_secs(3));
            let writer = tokio::spawn(async move {
                theirs.write_all(&[1; 1000]).await.unwrap();
            });
            let start = Instant::now();
            paced.shutdown().await.unwrap();
            writer.await.unwrap();
            assert_eq!(start.elapsed().as_secs(), 0);

            let (ours, _theirs) = duplex(16);
            let mut paced = Paced::new(ours, Duration::from_secs(20), Duration::from_secs(3));
            let start = Instant::now();
            paced.shutdown().await.unwrap();
            assert_eq!(start.elapsed().as_secs(), 3);
        });
    }
}
