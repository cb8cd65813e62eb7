//! Each request is answered once, in its order, whatever the bytes are and however they are cut. Without sockets: the service sits at one
//! end of a pipe.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use proptest::prelude::*;
use teemate_gateway::Limits;
use teemate_gateway::activity::Activity;
use teemate_gateway::connection::{Version, serve};
use teemate_gateway::testing::{Echo, service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What comes back for these pieces, and what was counted.
fn talk(version: Version, pieces: &[Vec<u8>], limits: Limits) -> (Vec<u8>, Counted) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (service, echo) = service(limits).unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 12);
        let activity = Activity::new();
        let serving = tokio::spawn(serve(theirs, version, service.clone(), activity.clone()));
        let (mut reader, mut writer) = tokio::io::split(ours);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = reader.read_to_end(&mut all).await;
            all
        });
        for piece in pieces {
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Answered in full before the end of the stream, which would break off what is under way.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _ = writer.shutdown().await;
        serving.await.expect("the connection panicked");
        // Streams of HTTP/2 notice a moment later that their connection is gone.
        tokio::time::sleep(Duration::from_secs(1)).await;
        (reading.await.unwrap(), Counted::of(&service.metrics().counts(), &echo))
    })
}

#[derive(Debug)]
struct Counted {
    requests: u64,
    answered: u64,
    abandoned: u64,
    echoed: usize,
}

impl Counted {
    fn of(counts: &teemate_gateway::Counts, echo: &Arc<Echo>) -> Self {
        let answered = counts.answered_well + counts.answered_client_error + counts.answered_server_error;
        Counted { requests: counts.requests, answered, abandoned: counts.abandoned, echoed: echo.asked.load(SeqCst) }
    }
}

fn cut(bytes: &[u8], at: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

fn framed(number: usize, body: &[u8], chunked: bool) -> Vec<u8> {
    let mut text = format!("POST /api/v1/web/echo?n={number} HTTP/1.1\r\nhost: x\r\n").into_bytes();
    if chunked {
        text.extend(b"transfer-encoding: chunked\r\n\r\n");
        for piece in body.chunks(7) {
            text.extend(format!("{:x}\r\n", piece.len()).into_bytes());
            text.extend(piece);
            text.extend(b"\r\n");
        }
        text.extend(b"0\r\n\r\n");
    } else {
        text.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
        text.extend(body);
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_in_a_pipe_are_answered_in_order(
        bodies in prop::collection::vec(("[a-z]{1,100}", any::<bool>()), 1..12),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes: Vec<u8> =
            bodies.iter().enumerate().flat_map(|(number, (body, chunked))| framed(number, body.as_bytes(), *chunked)).collect();
        let (answers, counted) = talk(Version::Http1, &cut(&bytes, &at), Limits::default());
        let text = String::from_utf8(answers).unwrap();
        let mut rest = text.as_str();
        for (body, _) in &bodies {
            let (head, after) = rest.split_once("\r\n\r\n").expect("an answer is missing");
            let length = format!("content-length: {}", body.len());
            prop_assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains(&length), "{}", head);
            prop_assert_eq!(&after[..body.len()], body);
            rest = &after[body.len()..];
        }
        prop_assert_eq!(rest, "");
        prop_assert_eq!((counted.requests, counted.answered, counted.echoed), (bodies.len() as u64, bodies.len() as u64, bodies.len()));
    }

    #[test]
    fn any_bytes_are_answered_once_or_not_at_all(
        // Half of the time something that begins well.
        head in prop::sample::select(vec!["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "POST /api/v1/web/echo HTTP/1.1\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        two in any::<bool>(),
    ) {
        let version = if two { Version::Http2 } else { Version::Http1 };
        let (_, counted) = talk(version, &cut(&[head.as_bytes(), &bytes].concat(), &at), Limits::default());
        prop_assert_eq!(counted.requests, counted.answered + counted.abandoned);
    }

    #[test]
    fn changed_requests_are_answered_once_or_not_at_all(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        chunked in any::<bool>(),
    ) {
        let mut bytes: Vec<u8> = (0..3).flat_map(|number| framed(number, b"some body", chunked)).collect();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let (answers, counted) = talk(Version::Http1, &[bytes], Limits::default());
        prop_assert_eq!(counted.requests, counted.answered + counted.abandoned);
        // Malformed heads are answered by hyper, before they are requests: at most one, for the connection ends with it.
        // A changed length makes the next request a part of the body, which is echoed: its first line ends with the version.
        let is_head = |rest: &&str| rest.as_bytes().get(1..5).is_some_and(|bytes| bytes[0] == b' ' && bytes[1..].iter().all(u8::is_ascii_digit));
        let heads = String::from_utf8_lossy(&answers).split("HTTP/1.").skip(1).filter(is_head).count() as u64;
        prop_assert!(heads <= counted.answered + 1, "{} for {:?}", heads, counted);
    }
}

#[test]
fn smuggling_does_not_work() {
    // Two lengths, a length beside chunks, a length that is no number, spaces before the colon, a bare line feed in a name.
    for head in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "content-length: 5, 6\r\n",
        "content-length : 5\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
    ] {
        let text = format!("POST /api/v1/web/echo HTTP/1.1\r\nhost: x\r\n{head}\r\nhelloGET /api/v1/web/who HTTP/1.1\r\nhost: x\r\n\r\n");
        let (answers, counted) = talk(Version::Http1, &[text.into_bytes()], Limits::default());
        assert_eq!(counted.echoed, 0, "{head:?}");
        let text = String::from_utf8_lossy(&answers);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{head:?}: {text}");
    }
    // A length beside chunks: the chunks count (RFC 9112, 6.1), and the connection ends.
    let text = "POST /api/v1/web/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
                GET /api/v1/web/who HTTP/1.1\r\nhost: x\r\n\r\n";
    let (answers, _) = talk(Version::Http1, &[text.into()], Limits::default());
    let text = String::from_utf8_lossy(&answers);
    assert!(text.starts_with("HTTP/1.1 400 ") || text.contains("\r\n\r\nhello"), "{text}");
}
