//! A server on the listening socket, as a gateway has it: tokio on epoll, with blocking work beside. Its clients are the test's.
//!
//! A connection carries requests of nine bytes, a letter and a number: `e` echo so many bytes, `d` send so many, `b` do so many pieces of
//! blocking work (each wakes the runtime), `t` wait so many milliseconds, `q` end the server. Each but `q` is answered; `b` and `t` by a
//! number.

use std::io::{IoSlice, Read, Write};
use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::{Check, ensure};

/// Byte `at` of what `d` sends.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// The socket that the host gave, if it gave one.
fn listener() -> Option<TcpListener> {
    let given = std::env::var("TEEMATE_LISTEN_FD").ok().and_then(|text| text.parse().ok());
    let fd = match given {
        Some(fd) => fd,
        None if teemate_containers::in_enclave() => teemate_control::service::LISTEN_FD,
        None => return None,
    };
    // SAFETY: the number is the node's, and nothing else in this program uses it.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    match listener.local_addr() {
        Ok(_) => Some(listener),
        Err(_) => {
            std::mem::forget(listener);
            None
        }
    }
}

/// Serves until a client asks it to end.
pub fn check() -> Check {
    let text = |error: std::io::Error| error.to_string();
    let Some(listener) = listener() else { return Ok(()) };
    blocking(&listener)?;
    listener.set_nonblocking(true).map_err(text)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build().map_err(text)?;
    runtime
        .block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let end = Arc::new(Notify::new());
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted?;
                        stream.set_nodelay(true)?;
                        let end = end.clone();
                        tokio::spawn(async move {
                            if let Err(error) = serve(stream, &end).await {
                                println!("a connection ended: {error}");
                            }
                        });
                    }
                    () = end.notified() => return Ok(()),
                }
            }
        })
        .map_err(text)
}

/// The first client is served without a runtime: accept, read and write that wait.
fn blocking(listener: &TcpListener) -> Check {
    let text = |error: std::io::Error| error.to_string();
    let (mut stream, peer) = listener.accept().map_err(text)?;
    let (own, seen) = (stream.local_addr().map_err(text)?, stream.peer_addr().map_err(text)?);
    ensure(peer.port() != 0 && peer == seen && own == listener.local_addr().unwrap_or(peer), || format!("{peer}, {seen}, {own}"))?;
    ensure(stream.take_error().map_err(text)?.is_none(), || "a new connection has an error".to_owned())?;
    let mut name = [0; 5];
    stream.read_exact(&mut name).map_err(text)?;
    let mut copy = stream.try_clone().map_err(text)?;
    let written = copy.write_vectored(&[IoSlice::new(b"hello, "), IoSlice::new(&name)]).map_err(text)?;
    drop(copy);
    stream.shutdown(std::net::Shutdown::Write).map_err(text)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map_err(text)?;
    ensure(written == 12 && rest == b"bye", || format!("{written} bytes written, then {rest:?}"))
}

async fn serve(mut stream: TcpStream, end: &Notify) -> std::io::Result<()> {
    let mut buffer = vec![0; 300_000];
    loop {
        let mut request = [0; 9];
        match stream.read_exact(&mut request).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let [letter, number @ ..] = request;
        let number = u64::from_le_bytes(number);
        match letter {
            b'e' => {
                let mut left = number;
                while left > 0 {
                    let most = buffer.len().min(left as usize);
                    let got = stream.read(&mut buffer[..most]).await?;
                    if got == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    stream.write_all(&buffer[..got]).await?;
                    left -= got as u64;
                }
            }
            b'd' => {
                let mut sent = 0;
                while sent < number {
                    let most = buffer.len().min((number - sent) as usize);
                    (0..most).for_each(|at| buffer[at] = pattern(sent + at as u64));
                    let (a, rest) = buffer[..most].split_at(most / 3);
                    let (b, c) = rest.split_at(rest.len() / 2);
                    sent += stream.write_vectored(&[IoSlice::new(a), IoSlice::new(b), IoSlice::new(c)]).await? as u64;
                }
            }
            b'b' => {
                let mut sum = 0u64;
                for i in 0..number {
                    sum += tokio::task::spawn_blocking(move || i).await?;
                }
                stream.write_all(&sum.to_le_bytes()).await?;
            }
            b't' => {
                let begun = Instant::now();
                tokio::time::sleep(Duration::from_millis(number)).await;
                stream.write_all(&(begun.elapsed().as_millis() as u64).to_le_bytes()).await?;
            }
            b'q' => {
                end.notify_one();
                return Ok(());
            }
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
}
