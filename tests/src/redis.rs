//! A database as its clients use it: through `teemate proxy`, which verifies the enclave for them, or a plain server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::artifacts::Artifacts;
use crate::owner::{Owner, Run};
use crate::running::Node;

/// A reply of the protocol, version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status.
    Status(String),
    /// An error.
    Error(String),
    /// An integer.
    Integer(i64),
    /// A string.
    Bulk(Vec<u8>),
    /// Nothing.
    Null,
    /// Several.
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a status, string or error.
    pub fn text(&self) -> String {
        match self {
            Reply::Status(text) | Reply::Error(text) => text.clone(),
            Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// A connection that speaks the protocol, over TCP or what is over that.
pub struct Redis<S = TcpStream> {
    stream: BufReader<S>,
}

impl Redis {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(address: SocketAddr) -> std::io::Result<Redis> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Redis::over(stream))
    }
}

impl<S: Read + Write> Redis<S> {
    /// Over a connection that stands.
    pub fn over(stream: S) -> Redis<S> {
        Redis { stream: BufReader::new(stream) }
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> std::io::Result<Reply> {
        self.send(words)?;
        self.receive()
    }

    /// Sends a command.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send<A: AsRef<[u8]>>(&mut self, words: &[A]) -> std::io::Result<()> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&bytes)?;
        self.stream.get_mut().flush()
    }

    /// A field of INFO. `None`: there is none of this name.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn info(&mut self, field: &str) -> std::io::Result<Option<String>> {
        let text = self.call(&["info"])?.text();
        Ok(text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(|value| value.trim().to_owned()))
    }

    /// Waits for a reply.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn receive(&mut self) -> std::io::Result<Reply> {
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(broken());
        }
        let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(broken)?;
        let number = || rest.parse::<i64>().map_err(|_| broken());
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "$" | "*" if number()? < 0 => Reply::Null,
            "$" => {
                let mut bytes = vec![0; number()? as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(bytes)
            }
            "*" => Reply::Array((0..number()?).map(|_| self.receive()).collect::<Result<_, _>>()?),
            _ => return Err(broken()),
        })
    }
}

/// A proxy before a node's database.
pub struct Proxy {
    child: Child,
    address: SocketAddr,
    policy: PathBuf,
    owner: Owner,
}

impl Proxy {
    /// Starts one that accepts this node's enclave alone, reached at `endpoint`.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(artifacts: &Artifacts, node: &Node, endpoint: SocketAddr) -> Result<Proxy, String> {
        let owner = Owner::new(artifacts)?;
        let mrenclave = node.status().map_err(|error| error.to_string())?.mrenclave;
        let policy = owner.policy("policy.toml", &format!("mrenclave = \"{mrenclave}\""))?;
        let mut command = Command::new(artifacts.program("teemate"));
        command.args([
            "--json",
            "proxy",
            "--endpoint",
            &format!("https://{endpoint}"),
            "--protocol",
            "redis",
            "--listen",
            "127.0.0.1:0",
            "--policy",
        ]);
        command.arg(&policy).env("HOME", owner.home()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let out = child.stdout.take().ok_or("the proxy has no output")?;
        let told = serde_json::Deserializer::from_reader(out).into_iter::<serde_json::Value>().next();
        let address = told.as_ref().and_then(|told| told.as_ref().ok()?["listen"].as_str()?.parse().ok());
        match address {
            Some(address) => Ok(Proxy { child, address, policy, owner }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("the proxy did not start: {told:?}"))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its policy.
    pub fn policy(&self) -> &PathBuf {
        &self.policy
    }

    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Becomes the owner of the database at `endpoint`, with this password: `teemate db claim`.
    ///
    /// # Errors
    /// When the command can't be run. What it said is in what it gives.
    pub fn claim(&self, endpoint: SocketAddr, password: &str) -> Result<Run, String> {
        let file = self.owner.home().join("password");
        std::fs::write(&file, format!("{password}\n")).map_err(|error| format!("{}: {error}", file.display()))?;
        let (file, policy) = (file.display().to_string(), self.policy.display().to_string());
        self.owner.run(&["db", "claim", &format!("https://{endpoint}"), "--password-file", &file, "--policy", &policy])
    }

    /// A connection through it.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(&self) -> std::io::Result<Redis> {
        Redis::connect(self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs Redis's own client; `None` if it is not installed.
pub fn cli(address: SocketAddr, arguments: &[&str]) -> Option<String> {
    let port = address.port().to_string();
    let output = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(arguments).output().ok()?;
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim_end().to_owned())
}
