//! `teemate db export` and `import`: everything that is in a database as a plain RDB file, and back.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::json;
use teemate_rdb::Reader;

use super::connection::{Connection, Reply, password};
use super::{endpoint, known};
use crate::arguments::database::{Access, Export, Import};
use crate::commands::policy;
use crate::failure::Failure;
use crate::output::Output;

/// Bytes that are sent at a time.
const PIECE: usize = 256 << 10;
/// How long the database may take to keep what it was sent: all of it is written to a disk.
const KEEPING: Duration = Duration::from_secs(900);

fn connect(access: &Access) -> Result<(Connection, String), Failure> {
    let endpoint = endpoint(&access.endpoint)?;
    let password = password(&access.password_file)?;
    let connector = policy::connector(&access.judge, None)?;
    let mut connection = Connection::open(&connector, &endpoint, &known(access.accept_database)?)?;
    connection.authenticate(&access.user, &password)?;
    Ok((connection, endpoint.to_string()))
}

/// Carries out `db export`.
///
/// # Errors
/// Why there is no file.
pub fn export(arguments: &Export, output: &Output) -> Result<ExitCode, Failure> {
    let part = Part::beside(&arguments.file)?;
    let (mut connection, endpoint) = connect(&arguments.access)?;
    let waiting = output.progress("the database writes a snapshot");
    connection.expect_ok(&["replconf", "rdb-only", "1"])?;
    connection.send(&["sync"])?;
    let length = connection.snapshot();
    waiting.finish_and_clear();
    let length = length?;
    let bar = output.bytes("received", length);
    let received = receive(connection.bytes(length), length, &part.file, &bar);
    bar.finish_and_clear();
    let keys = received.map_err(|why| Failure::new(format!("{} was not written: {why}", arguments.file.display())))?;
    part.put_in_place()?;
    let document = json!({ "endpoint": endpoint, "file": arguments.file, "bytes": length, "keys": keys });
    output.result(&document, || {
        let file = arguments.file.display();
        format!("{keys} keys of {endpoint} are in {file}, {length} bytes of plain RDB: whoever can read that file reads them all")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes what comes, and reads it: that it is whole, and that its sum is right, its own end says. Keys.
fn receive(from: impl Read, length: u64, file: &File, bar: &ProgressBar) -> Result<u64, String> {
    let mut tee = Tee { from, into: BufWriter::with_capacity(PIECE, file), bar, count: 0 };
    let keys = count(&mut tee).map_err(|error| error.to_string())?;
    if tee.count != length {
        return Err(format!("{} bytes were announced, and {} are a snapshot", length, tee.count));
    }
    tee.into.flush().map_err(|error| error.to_string())?;
    Ok(keys)
}

/// Reads a snapshot to its end. Its keys.
fn count(from: impl Read) -> Result<u64, teemate_rdb::Error> {
    let mut reader = Reader::new(BufReader::with_capacity(PIECE, from))?;
    let mut keys = 0;
    while reader.next_entry()?.is_some() {
        keys += 1;
    }
    Ok(keys)
}

/// What is read from one is written into the other.
struct Tee<'a, R, W> {
    from: R,
    into: W,
    bar: &'a ProgressBar,
    count: u64,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.into.write_all(&into[..count])?;
        self.count += count as u64;
        self.bar.set_position(self.count);
        Ok(count)
    }
}

/// A file that is being written beside the one in whose place it is put when it is whole. Only its owner can read it.
struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    whole: bool,
}

impl Part {
    fn beside(target: &Path) -> Result<Part, Failure> {
        let name = target.file_name().filter(|_| !target.is_dir());
        let name = name.ok_or_else(|| Failure::usage(format!("{} names no file", target.display())))?;
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(part);
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = made.map_err(|error| Failure::new(format!("{} can't be written: {error}", path.display())))?;
        Ok(Part { file, path, target: target.to_owned(), whole: false })
    }

    fn put_in_place(mut self) -> Result<(), Failure> {
        let directory = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let done = (|| {
            self.file.sync_all()?;
            std::fs::rename(&self.path, &self.target)?;
            File::open(directory)?.sync_all()
        })();
        self.whole = done.is_ok();
        done.map_err(|error| Failure::new(format!("{} can't be written: {error}", self.target.display())))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Carries out `db import`.
///
/// # Errors
/// Why nothing was changed.
pub fn import(arguments: &Import, output: &Output) -> Result<ExitCode, Failure> {
    let shown = arguments.file.display();
    let unreadable = |error: &dyn std::fmt::Display| Failure::new(format!("{shown} can't be read: {error}"));
    let mut file = File::open(&arguments.file).map_err(|error| unreadable(&error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(Failure::usage(format!("{shown} is no file")));
    }
    // A broken one is found here, before anything of it is sent. The database looks again.
    count(&file).map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    io::Seek::rewind(&mut file).map_err(|error| unreadable(&error))?;
    let (mut connection, endpoint) = connect(&arguments.access)?;
    let begin: &[&str] = if arguments.replace { &["teemate.import", "begin", "replace"] } else { &["teemate.import", "begin"] };
    connection.expect_ok(begin)?;
    let bar = output.bytes("sent", metadata.len());
    let (mut piece, mut sent, mut owed) = (vec![0; PIECE], 0, false);
    loop {
        let length = fill(&mut file, &mut piece).map_err(|error| unreadable(&error))?;
        if length == 0 {
            break;
        }
        connection.send(&[b"teemate.import", &b"data"[..], &piece[..length]])?;
        // One is on its way while the one before is answered.
        if std::mem::replace(&mut owed, true) {
            connection.receive_ok()?;
        }
        sent += length as u64;
        bar.set_position(sent);
    }
    if owed {
        connection.receive_ok()?;
    }
    bar.finish_and_clear();
    let waiting = output.progress("the database takes and keeps it");
    connection.set_patience(KEEPING);
    connection.send(&["teemate.import", "commit"])?;
    let report = connection.receive();
    waiting.finish_and_clear();
    let report = report?;
    let number = |name: &str| match part(&report, name) {
        Some(Reply::Integer(number)) => *number,
        _ => 0,
    };
    let kept = match part(&report, "kept") {
        Some(Reply::Text(kept)) => kept.as_str(),
        _ => "memory",
    };
    let (keys, expired, functions) = (number("keys"), number("expired"), number("functions"));
    let document = json!({
        "endpoint": endpoint, "file": arguments.file, "bytes": sent, "keys": keys, "expired": expired, "functions": functions, "kept": kept,
    });
    output.result(&document, || {
        let mut text = format!("{keys} keys of {shown} are in {endpoint}, ");
        text += match kept {
            "log" => "and in its log",
            "snapshot" => "and in its snapshot",
            _ => "in memory alone: it keeps neither a log nor snapshots of itself",
        };
        if expired > 0 {
            text += &format!("\n{expired} keys were left out: their time is over");
        }
        if functions > 0 {
            text += &format!("\n{functions} libraries of functions came with them");
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The value behind a name.
fn part<'a>(report: &'a Reply, name: &str) -> Option<&'a Reply> {
    let Reply::Parts(parts) = report else { return None };
    parts.chunks_exact(2).find(|pair| matches!(&pair[0], Reply::Text(text) if text == name)).map(|pair| &pair[1])
}

/// As many bytes as there is room for, or there are.
fn fill(from: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match from.read(&mut into[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rdb() -> Vec<u8> {
        let mut writer = teemate_rdb::Writer::new(Vec::new()).unwrap();
        writer.text(0, b"a", None, b"1").unwrap();
        writer.text(3, b"b", Some(7), &[b'x'; 1000]).unwrap();
        writer.finish().unwrap().1
    }

    #[test]
    fn what_is_not_whole_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let (target, rdb) = (directory.path().join("out.rdb"), rdb());
        std::fs::write(&target, "before").unwrap();
        let hidden = ProgressBar::hidden();
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        for cut in 0..rdb.len() {
            let part = Part::beside(&target).unwrap();
            assert!(receive(&rdb[..cut], rdb.len() as u64, &part.file, &hidden).is_err(), "{cut}");
            drop(part);
            let mut changed = rdb.clone();
            changed[cut] ^= 1;
            let part = Part::beside(&target).unwrap();
            assert!(receive(&changed[..], rdb.len() as u64, &part.file, &hidden).is_err(), "{cut}");
        }
        // More than a snapshot.
        let part = Part::beside(&target).unwrap();
        let more = [&rdb[..], b"more"].concat();
        assert!(receive(&more[..], more.len() as u64 + 1, &part.file, &hidden).is_err());
        drop(part);
        assert_eq!((names(), std::fs::read(&target).unwrap()), (1, b"before".to_vec()));
        let part = Part::beside(&target).unwrap();
        assert_eq!(receive(&rdb[..], rdb.len() as u64, &part.file, &hidden), Ok(2));
        part.put_in_place().unwrap();
        assert_eq!((names(), std::fs::read(&target).unwrap()), (1, rdb));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&target).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
