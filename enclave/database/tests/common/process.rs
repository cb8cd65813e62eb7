//! The program as a process, and a client of it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server of one's own.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    pub fn start(directory: &Path, arguments: &[&str]) -> Server {
        let server = Server::start_at(0, directory, arguments);
        assert!(server.port > 0, "it told no port");
        server
    }

    /// At this port; 0: any, which it tells.
    pub fn start_at(port: u16, directory: &Path, arguments: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_teemate-database"));
        command.args(["--port", &port.to_string(), "--dir"]).arg(directory).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        if port > 0 {
            let end = Instant::now() + Duration::from_secs(20);
            while TcpStream::connect(("127.0.0.1", port)).is_err() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            return Server { child, port };
        }
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server { child, port: line.trim().parse().unwrap_or(0) }
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(BufReader::new(stream))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One that reads replies as text: arrays with spaces between.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn send(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// The next reply; nothing if the server has ended.
    pub fn read(&mut self) -> String {
        match self.receive() {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => String::new(),
            reply => reply.unwrap(),
        }
    }

    /// The same, for who is prepared for the server's end.
    pub fn receive(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        Ok(match kind {
            "$" if rest == "-1" => "nil".to_owned(),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes)?;
                String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned()
            }
            "*" if rest == "-1" => "nil".to_owned(),
            "*" => (0..rest.parse::<usize>().unwrap()).map(|_| self.receive()).collect::<Result<Vec<_>, _>>()?.join(" "),
            _ => rest.to_owned(),
        })
    }

    /// A command of any bytes.
    pub fn call(&mut self, words: &[&[u8]]) -> String {
        let mut request = Vec::new();
        teemate_database::resp::write_request(&mut request, words);
        self.0.get_mut().write_all(&request).unwrap();
        self.read()
    }

    /// The next reply, which is a list of strings.
    pub fn list(&mut self) -> Vec<Vec<u8>> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let count = line.trim().strip_prefix('*').unwrap_or_else(|| panic!("no list: {line}")).parse().unwrap();
        let one = |_| {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let mut bytes = vec![0; line.trim().strip_prefix('$').unwrap().parse::<usize>().unwrap() + 2];
            self.0.read_exact(&mut bytes).unwrap();
            bytes.truncate(bytes.len() - 2);
            bytes
        };
        (0..count).map(one).collect()
    }

    /// Asks for a snapshot, by SYNC: all of it. An error is what the server says instead.
    pub fn sync(&mut self) -> Result<Vec<u8>, String> {
        self.send("SYNC");
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return Err("the end".to_owned());
            }
        }
        let length = line.trim().strip_prefix('$').ok_or_else(|| line.clone())?;
        let mut bytes = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.read()
    }

    /// Waits for the snapshot under way. Its status.
    pub fn saved(&mut self) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let info = self.ask("INFO persistence");
            if info.contains("rdb_bgsave_in_progress:0") {
                return info.lines().find_map(|line| line.strip_prefix("rdb_last_bgsave_status:")).unwrap().trim().to_owned();
            }
            assert!(Instant::now() < end, "it is never saved");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether a program is there; says so if it is not.
pub fn installed(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        println!("SKIPPED: {program} is not installed");
    }
    there
}

/// Redis itself.
pub struct Real {
    child: Child,
    pub port: u16,
    directory: tempfile::TempDir,
}

impl Real {
    /// `None`: it is not installed.
    pub fn start(arguments: &[&str]) -> Option<Real> {
        installed("redis-server").then(|| {
            let directory = tempfile::tempdir().unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes", "--dir"]);
            command.arg(directory.path()).arg("--logfile").arg(directory.path().join("log")).args(arguments);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let real = Real { child: command.spawn().unwrap(), port, directory };
            real.locked_client();
            real
        })
    }

    /// One that is answered: it may still load.
    pub fn client(&self) -> Client {
        let mut client = self.locked_client();
        assert_eq!(client.ask("PING"), "PONG");
        client
    }

    /// One that is answered, perhaps that it is to say who it is.
    pub fn locked_client(&self) -> Client {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                stream.set_nodelay(true).unwrap();
                let mut client = Client(BufReader::new(stream));
                let answer = client.ask("PING");
                if answer == "PONG" || answer.starts_with("NOAUTH") {
                    return client;
                }
            }
            assert!(Instant::now() < end, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The last of what it says of itself.
    pub fn said(&self) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Loads this file, in the place of what there is.
    pub fn load(&self, rdb: &[u8]) {
        std::fs::write(self.directory.path().join("dump.rdb"), rdb).unwrap();
        assert_eq!(self.client().ask("DEBUG RELOAD NOSAVE"), "OK", "Redis does not load it");
    }

    /// What it saves.
    pub fn save(&self) -> Vec<u8> {
        assert_eq!(self.client().ask("SAVE"), "OK");
        std::fs::read(self.directory.path().join("dump.rdb")).unwrap()
    }

    /// What it says of its keys, in these databases: database and key; type, digest, time, and of streams everything else but times.
    pub fn content(&self, databases: usize) -> BTreeMap<(usize, String), String> {
        Real::content_by(&mut self.client(), databases)
    }

    /// The same, by this client.
    pub fn content_by(client: &mut Client, databases: usize) -> BTreeMap<(usize, String), String> {
        let mut all = BTreeMap::new();
        for database in 0..databases {
            client.ask(&format!("SELECT {database}"));
            client.send("KEYS *");
            let keys = client.list();
            for key in &keys {
                let commands = [
                    &[&b"TYPE"[..], key][..],
                    &[b"DEBUG", b"DIGEST-VALUE", key],
                    &[b"PEXPIRETIME", key],
                    &[b"XINFO", b"STREAM", key, b"FULL"],
                ];
                let mut request = Vec::new();
                commands.iter().for_each(|words| teemate_database::resp::write_request(&mut request, words));
                client.0.get_mut().write_all(&request).unwrap();
            }
            for key in keys {
                let (kind, digest, expires, stream) = (client.read(), client.read(), client.read(), client.read());
                let stream = if kind == "stream" { without_times(&stream) } else { String::new() };
                all.insert((database, String::from_utf8_lossy(&key).into_owned()), format!("{kind} {digest} {expires} {stream}"));
            }
        }
        all
    }
}

/// Without what depends on when something was, and on how it is kept.
fn without_times(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_own = |at: usize| at > 0 && ["radix-tree-keys", "radix-tree-nodes", "seen-time"].contains(&words[at - 1]);
    let is_time = |word: &str| word.parse::<u64>().is_ok_and(|number| number > 1_000_000_000_000);
    let shown = words.iter().enumerate().filter(|(at, word)| !is_own(*at) && !is_time(word));
    shown.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
