//! Redis's own test suite, of Debian's source package, against a server that it did not start. The suite is fetched, never kept here.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::redis::Proxy;
use crate::running::Node;

/// The release whose suite it is: what the database says that it is.
const RELEASE: &str = "7.0.";
/// Longest that a unit may take.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a server may take to answer.
const START: Duration = Duration::from_secs(60);
/// What the suite calls, and where it looks for it.
const TOOLS: [&str; 4] = ["redis-cli", "redis-benchmark", "redis-check-rdb", "redis-check-aof"];

/// Units that use what both a native server and one behind the proxy have.
pub const CORE: [&str; 13] = [
    "unit/type/string",
    "unit/type/incr",
    "unit/type/hash",
    "unit/type/list",
    "unit/type/list-3",
    "unit/type/set",
    "unit/type/zset",
    "unit/expire",
    "unit/keyspace",
    "unit/scan",
    "unit/multi",
    "unit/pubsub",
    "unit/dump",
];

/// The others that need neither replicas nor a cluster, nor a server that the suite starts itself.
pub const FURTHER: [&str; 19] = [
    "unit/protocol",
    "unit/introspection",
    "unit/introspection-2",
    "unit/type/stream",
    "unit/type/stream-cgroups",
    "unit/sort",
    "unit/other",
    "unit/quit",
    "unit/latency-monitor",
    "unit/slowlog",
    "unit/scripting",
    "unit/functions",
    "unit/bitops",
    "unit/bitfield",
    "unit/geo",
    "unit/hyperloglog",
    "unit/lazyfree",
    "unit/pause",
    "unit/tracking",
];

/// The suite, unpacked.
#[derive(Clone, Debug)]
pub struct Suite {
    directory: PathBuf,
}

/// What came of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tests that passed.
    pub passed: usize,
    /// Those that did not, and what is said of each. That the unit ended early is one of them.
    pub failed: Vec<(String, String)>,
    /// Tests, or groups of tests, that are not for a server that the suite did not start, or that were left out by their tags.
    pub skipped: usize,
}

fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name} can't be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} failed: {}", why.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing")))
}

impl Suite {
    /// Fetches it into this directory, unless it is there: by apt-get, with lists of its own, from where the machine's packages come from.
    ///
    /// # Errors
    /// Why it can't be had here, in a sentence.
    pub fn fetch(directory: &Path) -> Result<Suite, String> {
        said(Command::new("tclsh").arg("/dev/null")).map_err(|_| "there is no tclsh (Debian's package tcl)".to_owned())?;
        for tool in TOOLS {
            said(Command::new("which").arg(tool)).map_err(|_| format!("there is no {tool} (Debian's package redis-tools)"))?;
        }
        let suite = Suite { directory: directory.join("redis") };
        if !suite.directory.join("runtest").is_file() {
            suite.unpack(directory)?;
        }
        Ok(suite)
    }

    fn unpack(&self, directory: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).map_err(failed)?;
        }
        let places = Command::new("apt-get")
            .args(["indextargets", "--format", "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
            .output()
            .map_err(|error| format!("apt-get can't be run: {error}"))?;
        let mut places: Vec<String> = String::from_utf8_lossy(&places.stdout).lines().map(str::to_owned).collect();
        places.sort();
        places.dedup();
        if places.is_empty() {
            return Err("apt-get knows no place that packages come from; `apt-get update` may help".to_owned());
        }
        let sources = directory.join("sources.list");
        fs::write(&sources, places.join("\n") + "\n").map_err(failed)?;
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.current_dir(directory).arg("-qq");
            for (name, value) in [
                ("Dir::Etc::sourcelist", sources.clone()),
                ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
                ("Dir::State::lists", directory.join("lists")),
                ("Dir::Cache", directory.join("cache")),
            ] {
                command.arg("-o").arg(format!("{name}={}", value.display()));
            }
            said(command.args(arguments))
        };
        apt(&["update"]).map_err(|why| format!("Debian's lists of sources can't be had: {why}"))?;
        apt(&["source", "--download-only", "redis"]).map_err(|why| format!("redis's source can't be had: {why}"))?;
        let files = fs::read_dir(directory).map_err(failed)?.filter_map(|entry| Some(entry.ok()?.path()));
        let described = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "dsc"));
        let described = described.ok_or("redis's source came without its description")?;
        let name = described.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.starts_with(&format!("redis_{RELEASE}")) {
            return Err(format!("this machine's source of redis is {name}, and the suite of {RELEASE}x is wanted"));
        }
        said(Command::new("dpkg-source").current_dir(directory).arg("-x").arg(&described).arg(&self.directory))
            .map_err(|why| format!("redis's source can't be unpacked (Debian's package dpkg-dev): {why}"))?;
        for tool in TOOLS {
            let place = said(Command::new("which").arg(tool))?;
            symlink(place.trim(), self.directory.join("src").join(tool)).map_err(failed)?;
        }
        Ok(())
    }

    /// Runs a unit against a native server of its own, this program. All that it says goes into `output`.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn run_native(&self, program: &Path, unit: &str, output: &Path) -> Result<Outcome, String> {
        let server = Native::start(program)?;
        answers(server.port)?;
        self.run(unit, server.port, output)
    }

    /// The same against a node of its own: the database in the shared enclave, claimed, through `teemate proxy`.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn run_enclave(&self, artifacts: &Artifacts, unit: &str, output: &Path) -> Result<Outcome, String> {
        const PASSWORD: &str = "the suite's";
        let mut node = Node::start_database(artifacts)?;
        let proxy = Proxy::start(artifacts, &node, node.endpoint())?;
        let claimed = proxy.claim(node.endpoint(), PASSWORD)?;
        if claimed.code != 0 {
            return Err(format!("the database can't be claimed: {}", claimed.err));
        }
        let port = relay(proxy.address(), PASSWORD)?;
        answers(port)?;
        let outcome = self.run(unit, port, output);
        node.stop()?;
        outcome
    }

    /// Runs a unit against the server at this port of this machine, without what is slow and what needs a replica. All that it says goes into
    /// `output`.
    ///
    /// # Errors
    /// When it can't be run.
    fn run(&self, unit: &str, port: u16, output: &Path) -> Result<Outcome, String> {
        if !self.directory.join("tests").join(format!("{unit}.tcl")).is_file() {
            return Err(format!("the suite has no unit {unit}"));
        }
        let mut command = Command::new("timeout");
        command.arg(LIMIT.as_secs().to_string()).arg("./runtest").args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--single", unit, "--tags", "-slow -needs:repl", "--durable"]).args(["--baseport", &free_port()?.to_string()]);
        let mut child = command
            .current_dir(&self.directory)
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("the suite can't be started: {error}"))?;
        let out = child.stdout.take().ok_or("the suite has no output")?;
        let mut text = String::new();
        BufReader::new(out).read_to_string(&mut text).map_err(|error| error.to_string())?;
        let status = child.wait().map_err(|error| error.to_string())?;
        fs::write(output, &text).map_err(|error| format!("{}: {error}", output.display()))?;
        let mut outcome = outcome(&text);
        if status.code() == Some(124) {
            outcome.failed.push(("the unit".to_owned(), format!("did not end within {} s", LIMIT.as_secs())));
        } else if !text.contains("The End") {
            outcome.failed.push(("the unit".to_owned(), "ended early".to_owned()));
        }
        Ok(outcome)
    }
}

/// A port that was free just now, with some free ones before it, as the suite wants it for itself.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port().max(2000)).map_err(|error| error.to_string())
}

/// Counts what the suite says.
fn outcome(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut lines = text.lines().map(plain).peekable();
    while let Some(line) = lines.next() {
        let Some((mark, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("]: ")) else { continue };
        match mark {
            "ok" => outcome.passed += 1,
            "ignore" | "skip" => outcome.skipped += 1,
            "err" | "exception" => {
                let name = rest.rsplit_once(" in tests/").map_or(rest, |(name, _)| name).to_owned();
                let said = lines.next_if(|line| !line.starts_with('[')).unwrap_or_default();
                outcome.failed.push((name, said));
            }
            _ => {}
        }
    }
    outcome
}

/// A line without its colours.
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// A native server, in a directory that goes with it.
struct Native {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Native {
    fn start(program: &Path) -> Result<Native, String> {
        let directory = tempfile::Builder::new().prefix("teemate-suite-").tempdir().map_err(|error| error.to_string())?;
        // With a key there can be a log.
        let key = directory.path().join("key");
        fs::write(&key, "00112233445566778899aabbccddeeff").map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["--port", "0", "--dir"]).arg(directory.path()).arg("--sealing-key").arg(&key);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} can't be started: {error}", program.display()))?;
        let mut line = String::new();
        let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        match (read, line.trim().parse()) {
            (Some(Ok(_)), Ok(port)) => Ok(Native { child, port, _directory: directory }),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("{} told no port", program.display()))
            }
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Listens for clients that do not know the password of the server at this address, and says it first on each of their connections. The port; it
/// is there until this process ends.
fn relay(server: SocketAddr, password: &str) -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let password = password.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let password = password.clone();
            // Who is refused there is closed here.
            thread::spawn(move || carry(client, server, &password).ok());
        }
    });
    Ok(address.port())
}

fn carry(client: TcpStream, server: SocketAddr, password: &str) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    write!(server, "*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len())?;
    let mut answer = [0; 5];
    server.read_exact(&mut answer)?;
    if &answer != b"+OK\r\n" {
        return Err(std::io::Error::other("the password is wrong"));
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let forth = thread::spawn(move || {
        let _ = copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let _ = copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = forth.join();
    Ok(())
}

/// Waits until a server answers PING.
fn answers(port: u16) -> Result<(), String> {
    let begin = Instant::now();
    while begin.elapsed() < START {
        let answered = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG\r\n")
        });
        if answered.is_ok_and(|answered| answered) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(format!("nothing answers at port {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_suite_says_is_counted() {
        let text = "Testing unit/type/incr\n\u{1b}[0;32m[ok]\u{1b}[0m: one (1 ms)\n[\u{1b}[0;32mok\u{1b}[0m]: two (0 ms)\n\
                    [err]: three in tests/unit/type/incr.tcl\nExpected '1' to be '2'\n[ignore]: Tag: slow denied\n[testing]: x\n\
                    [exception]: Executing test client: broken\n                   The End\n";
        let outcome = outcome(text);
        assert_eq!((outcome.passed, outcome.skipped), (2, 1));
        assert_eq!(
            outcome.failed,
            [
                ("three".to_owned(), "Expected '1' to be '2'".to_owned()),
                ("Executing test client: broken".to_owned(), "                   The End".to_owned())
            ]
        );
    }
}
