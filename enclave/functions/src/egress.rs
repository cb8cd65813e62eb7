//! Outgoing HTTP/1.1 of a function, to the addresses that its owner allowed. The allow-list is enforced here, inside; the host could
//! connect us elsewhere, as it could any traffic, so what comes back is untrusted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use teemate_control::function::{Failure, FailureKind, FunctionSpec};

use crate::control::Control;

/// Largest response, headers included.
const MAX_RESPONSE: usize = 64 << 20;
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 128;

/// What prelude.js sends.
#[derive(serde::Deserialize)]
struct Request {
    protocol: String,
    host: String,
    port: u32,
    target: String,
    method: String,
    headers: Vec<(String, String)>,
}

/// What goes back to it, before the body.
#[derive(serde::Serialize)]
struct Response {
    status: u16,
    #[serde(rename = "statusText")]
    reason: String,
    headers: Vec<(String, String)>,
}

/// Carries out one request. The reply is the length of the head as a little-endian word, the head as JSON, the body.
///
/// # Errors
/// Denied when the address is not allowed, Limit when the call's time is up or the response too large, Application for the rest.
pub fn fetch(spec: &FunctionSpec, control: &Control, head: &[u8], body: &[u8]) -> Result<Vec<u8>, Failure> {
    let request: Request = serde_json::from_slice(head).map_err(|e| application(format!("fetch: the request is malformed: {e}")))?;
    let address = format!("{}:{}", request.host, request.port);
    if request.protocol != "http:" {
        return Err(application(format!("fetch: {}//{address} cannot be reached: only http is here yet", request.protocol)));
    }
    if !spec.egress.iter().any(|allowed| allowed.eq_ignore_ascii_case(&address)) {
        let allowed =
            if spec.egress.is_empty() { "connect nowhere".to_owned() } else { format!("connect to {} only", spec.egress.join(", ")) };
        return Err(Failure::new(
            FailureKind::Denied,
            format!(
                "the connection to {} is denied: '{}' may {allowed}; its owner can add it to egress",
                crate::spec::shorten(&address),
                spec.name
            ),
        ));
    }
    let bytes = compose(&request, &address, body)?;
    let failed = |what: &str, error: std::io::Error| match control.check() {
        Err(failure) => failure,
        Ok(()) => application(format!("fetch: {what} {address}: {error}")),
    };
    control.check()?;
    let mut stream = teemate_containers::connect(&address).map_err(|e| failed("cannot connect to", e))?;
    // Without timeouts a silent server is stopped by the node's cancel instead.
    let patience = Some(control.left().clamp(Duration::from_millis(1), Duration::from_secs(600)));
    let _ = stream.set_read_timeout(patience);
    let _ = stream.set_write_timeout(patience);
    stream.write_all(&bytes).map_err(|e| failed("cannot send to", e))?;
    let response = receive(&mut stream, &request.method, control, &address)?;
    Ok(response)
}

fn application(message: String) -> Failure {
    Failure::new(FailureKind::Application, message)
}

fn compose(request: &Request, address: &str, body: &[u8]) -> Result<Vec<u8>, Failure> {
    let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b));
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !token(&request.method) || !request.target.starts_with('/') || !visible(&request.target) || !visible(address) {
        return Err(application(format!(
            "fetch: method or target is malformed: {} {}",
            request.method,
            crate::spec::shorten(&request.target)
        )));
    }
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !token(name) || value.bytes().any(|b| b < 32 && b != b'\t' || b == 127) {
            return Err(application(format!("fetch: the header {} is malformed", crate::spec::shorten(name))));
        }
        if !["host", "connection", "content-length", "transfer-encoding"].iter().any(|own| own.eq_ignore_ascii_case(name)) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if !body.is_empty() || ["POST", "PUT", "PATCH"].contains(&request.method.as_str()) {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// Reads one response.
fn receive(stream: &mut TcpStream, method: &str, control: &Control, address: &str) -> Result<Vec<u8>, Failure> {
    let mut read = Vec::new();
    let mut more = |read: &mut Vec<u8>| -> Result<bool, Failure> {
        control.check()?;
        if read.len() > MAX_RESPONSE {
            return Err(Failure::new(FailureKind::Limit, format!("response: {address} sent more than the limit of {MAX_RESPONSE} bytes")));
        }
        let mut piece = [0u8; 16 << 10];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(length) => {
                    read.extend_from_slice(&piece[..length]);
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    control.check()?;
                    return Err(application(format!("fetch: cannot read from {address}: {error}")));
                }
            }
        }
    };
    let malformed = || application(format!("fetch: {address} does not answer in HTTP/1.1"));
    let (response, length) = loop {
        match parse_head(&read) {
            Ok(Some((response, length))) if (100..200).contains(&response.status) && response.status != 101 => {
                read.drain(..length);
            }
            Ok(Some(head)) => break head,
            Ok(None) if read.len() > MAX_HEAD => return Err(malformed()),
            Ok(None) => {
                if !more(&mut read)? {
                    return Err(malformed());
                }
            }
            Err(()) => return Err(malformed()),
        }
    };
    let header = |name: &str| response.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    let cut = || application(format!("fetch: {address} closed the connection in the middle of its response"));
    let body = if method == "HEAD" || response.status == 204 || response.status == 304 {
        Vec::new()
    } else if header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
        loop {
            match unchunk(&read[length..]) {
                Ok(Some(body)) => break body,
                Ok(None) => {
                    if !more(&mut read)? {
                        return Err(cut());
                    }
                }
                Err(()) => return Err(malformed()),
            }
        }
    } else if let Some(value) = header("content-length") {
        let wanted: usize = value.parse().map_err(|_| malformed())?;
        if wanted > MAX_RESPONSE {
            return Err(Failure::new(
                FailureKind::Limit,
                format!("response: {address} announces {wanted} bytes, more than the limit of {MAX_RESPONSE}"),
            ));
        }
        while read.len() - length < wanted {
            if !more(&mut read)? {
                return Err(cut());
            }
        }
        read[length..length + wanted].to_vec()
    } else {
        while more(&mut read)? {}
        read.split_off(length)
    };
    let head = serde_json::to_vec(&response).map_err(|_| malformed())?;
    let mut reply = (head.len() as u32).to_le_bytes().to_vec();
    reply.extend_from_slice(&head);
    reply.extend_from_slice(&body);
    Ok(reply)
}

/// The head of a response and its length, if it is all there.
fn parse_head(bytes: &[u8]) -> Result<Option<(Response, usize)>, ()> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let headers = head.headers.iter().map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned())).collect();
            let response = Response { status: head.code.ok_or(())?, reason: head.reason.unwrap_or_default().to_owned(), headers };
            Ok(Some((response, length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(()),
    }
}

/// The body of a chunked response, if it is all there.
fn unchunk(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(()),
        };
        if size > MAX_RESPONSE as u64 {
            return Err(());
        }
        let size = size as usize;
        if size == 0 {
            return Ok(Some(body));
        }
        let Some(chunk) = bytes.get(start..start + size) else { return Ok(None) };
        match bytes.get(start + size..start + size + 2) {
            None => return Ok(None),
            Some(b"\r\n") => {}
            Some(_) => return Err(()),
        }
        body.extend_from_slice(chunk);
        bytes = &bytes[start + size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk(b"4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n"), Ok(Some(b"Wikipedia".to_vec())));
        assert_eq!(unchunk(b"4\r\nWi"), Ok(None));
        assert_eq!(unchunk(b"zz\r\n"), Err(()));
        assert_eq!(unchunk(b"4\r\nWikipedia"), Err(()));
    }

    proptest! {
        #[test]
        fn hostile_servers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unchunk(&bytes);
            let _ = parse_head(&bytes);
            let _ = unchunk(&[b"ffffffffffffffff\r\n", &bytes[..]].concat());
        }
    }

    #[test]
    fn headers_cannot_be_smuggled() {
        let request = |headers: Vec<(String, String)>| Request {
            protocol: "http:".into(),
            host: "h".into(),
            port: 80,
            target: "/".into(),
            method: "GET".into(),
            headers,
        };
        assert!(compose(&request(vec![("a".into(), "b\r\nc: d".into())]), "h:80", b"").is_err());
        assert!(compose(&request(vec![("a b".into(), "c".into())]), "h:80", b"").is_err());
        let text = String::from_utf8(
            compose(&request(vec![("Content-Length".into(), "99".into()), ("X".into(), "y".into())]), "h:80", b"").unwrap(),
        )
        .unwrap();
        assert_eq!(text, "GET / HTTP/1.1\r\nHost: h:80\r\nConnection: close\r\nX: y\r\n\r\n");
    }
}
