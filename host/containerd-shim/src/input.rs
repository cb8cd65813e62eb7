//! Standard input of a function's container: a JSON object, which is parameters.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Longest object: OpenWhisk's bound of a payload.
const LENGTH_MAX: usize = 1 << 20;
/// How long the object may take from the container's start on.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Reads parameters up to the end of the object.
///
/// An input without one is refused: a client that closes it before it is read here cannot be told from one that has not come yet, and a function
/// must not run without the parameters that somebody is about to write.
///
/// # Errors
/// When it is too long, takes too long, or is no JSON object.
pub fn params(mut input: File, limit: Duration) -> Result<Map<String, Value>> {
    let end = Instant::now() + limit;
    let mut text = Vec::new();
    loop {
        let over = more(&mut input, &mut text, end)?;
        if text.len() > LENGTH_MAX {
            return Err(Error::Refused(format!("the standard input has more than {LENGTH_MAX} bytes")));
        }
        match serde_json::from_slice(&text) {
            Ok(object) => return Ok(object),
            Err(error) if error.is_eof() && !over => {}
            Err(error) => return Err(Error::Refused(format!("the standard input must be a JSON object: {error}"))),
        }
    }
}

/// Waits for what is written next. True: the input has ended.
fn more(input: &mut File, text: &mut Vec<u8>, end: Instant) -> Result<bool> {
    let failed = |error: &dyn std::fmt::Display| Error::Refused(format!("the standard input can't be read: {error}"));
    let mut piece = vec![0; 64 << 10];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = LIMIT.as_secs();
            return Err(Error::Refused(format!(
                "no JSON object came on standard input within {seconds} s; write one, {{}} for no parameters"
            )));
        }
        let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(&*input, PollFlags::IN)];
        match poll(&mut polled, Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(failed(&error)),
        }
        // Before anybody has opened a FIFO to write there is neither.
        let ended = polled[0].revents().contains(PollFlags::HUP);
        match input.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                text.extend_from_slice(&piece[..count]);
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && ended => return Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(failed(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::stdio;

    /// A FIFO that is open for reading.
    fn fifo() -> (tempfile::TempDir, PathBuf, File) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let input = stdio::reading(path.to_str().unwrap()).unwrap().unwrap();
        (directory, path, input)
    }

    /// What is read while somebody writes these pieces, and then closes.
    fn read(pieces: &[&str]) -> Result<Value> {
        let (_directory, path, input) = fifo();
        let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let mut file = File::options().write(true).open(path).unwrap();
            for piece in pieces {
                // The reader may have had enough.
                let _ = file.write_all(piece.as_bytes());
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let read = params(input.try_clone().unwrap(), Duration::from_secs(20)).map(Value::Object);
        drop(input);
        writer.join().unwrap();
        read
    }

    #[test]
    fn an_object_is_read_in_any_pieces() {
        assert_eq!(read(&["{\"a\":", "1}\n"]).unwrap(), serde_json::json!({"a": 1}));
        assert_eq!(read(&[" {}"]).unwrap(), serde_json::json!({}));
    }

    #[test]
    fn what_is_no_object_is_a_sentence() {
        for pieces in [&["[1]"][..], &["{\"a\":"], &["{} x"], &["x"], &[" \n"], &[]] {
            assert!(matches!(read(pieces), Err(Error::Refused(text)) if text.contains("JSON object")), "{pieces:?}");
        }
        let long = format!("{{\"a\":\"{}", "x".repeat(LENGTH_MAX));
        assert!(matches!(read(&[&long]), Err(Error::Refused(text)) if text.contains("more than")));
    }

    #[test]
    fn nobody_is_waited_for_too_long() {
        let (_directory, _, input) = fifo();
        let begin = Instant::now();
        let said = params(input, Duration::from_millis(200)).unwrap_err().to_string();
        assert!(said.contains("no JSON object came") && begin.elapsed() >= Duration::from_millis(200), "{said}");
    }
}
