//! A small object store: HTTP/1.1 PUT and GET of whole objects, in memory, on a loopback address.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Largest object.
const MAX_OBJECT: usize = 64 << 20;
/// Longest request line or header.
const MAX_LINE: u64 = 8 << 10;
/// Headers of a request.
const MAX_HEADERS: usize = 100;

type Objects = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A store that lives as long as the process.
pub struct ObjectStore {
    address: SocketAddr,
    objects: Objects,
}

impl ObjectStore {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let objects = Objects::default();
        let shared = Arc::clone(&objects);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &objects));
            }
        });
        Ok(ObjectStore { address, objects })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// SHA-256 of each object, in hexadecimal, by path.
    pub fn digests(&self) -> Vec<(String, String)> {
        lock(&self.objects).iter().map(|(path, bytes)| (path.clone(), digest(bytes))).collect()
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        lock(&self.objects).get(path).cloned()
    }

    /// Forgets all objects.
    pub fn clear(&self) {
        lock(&self.objects).clear();
    }
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(objects: &Objects) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, objects: &Objects) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut stream = BufReader::new(stream);
    while let Ok(Some(keep)) = exchange(&mut stream, objects) {
        if !keep {
            break;
        }
    }
}

/// One request and its answer. `None`: the client is done.
fn exchange(stream: &mut BufReader<TcpStream>, objects: &Objects) -> std::io::Result<Option<bool>> {
    let request = read_line(stream)?;
    if request.is_empty() {
        return Ok(None);
    }
    let mut length = Some(0usize);
    let mut chunked = false;
    let mut keep = true;
    for count in 0.. {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        if count == MAX_HEADERS {
            answer(stream, 431, b"too many headers", false)?;
            return Ok(Some(false));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok().filter(|length| *length <= MAX_OBJECT),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => keep = !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let body = match length {
        _ if chunked => read_chunks(stream)?,
        Some(length) => {
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            Some(body)
        }
        None => None,
    };
    let Some(body) = body else {
        answer(stream, 413, b"too large", false)?;
        return Ok(Some(false));
    };
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
    match method {
        "PUT" => {
            let digest = digest(&body);
            lock(objects).insert(path, body);
            answer(stream, 201, digest.as_bytes(), keep)?;
        }
        "GET" => {
            let object = lock(objects).get(&path).cloned();
            match object {
                Some(object) => answer(stream, 200, &object, keep)?,
                None => answer(stream, 404, b"there is no such object", keep)?,
            }
        }
        _ => answer(stream, 405, b"only PUT and GET", keep)?,
    }
    Ok(Some(keep))
}

fn read_line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    stream.by_ref().take(MAX_LINE).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream)?;
        let Ok(length) = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16) else { return Ok(None) };
        if length > MAX_OBJECT - body.len() {
            return Ok(None);
        }
        let begin = body.len();
        body.resize(begin + length, 0);
        stream.read_exact(&mut body[begin..])?;
        read_line(stream)?;
        if length == 0 {
            return Ok(Some(body));
        }
    }
}

fn answer(stream: &mut BufReader<TcpStream>, code: u16, body: &[u8], keep: bool) -> std::io::Result<()> {
    let connection = if keep { "keep-alive" } else { "close" };
    let head = format!("HTTP/1.1 {code} -\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n", body.len());
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(store: &ObjectStore, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(store.address()).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_is_put_can_be_got() {
        let store = ObjectStore::start().unwrap();
        let both = b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /a HTTP/1.1\r\n\r\n";
        let text = ask(&store, both);
        assert!(text.starts_with("HTTP/1.1 201") && text.ends_with("abc"), "{text}");
        assert_eq!(store.digests(), [("/a".to_owned(), digest(b"abc"))]);
    }

    #[test]
    fn chunks_are_joined() {
        let store = ObjectStore::start().unwrap();
        ask(&store, b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
        assert_eq!(store.get("/c"), Some(b"abc".to_vec()));
    }

    #[test]
    fn nonsense_is_refused() {
        let store = ObjectStore::start().unwrap();
        for (request, code) in [
            (&b"GET /none HTTP/1.1\r\n\r\n"[..], "404"),
            (b"POST / HTTP/1.1\r\n\r\n", "405"),
            (b"PUT /x HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", "413"),
            (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "413"),
        ] {
            assert!(ask(&store, request).contains(code));
        }
    }
}
