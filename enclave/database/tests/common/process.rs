//! The program as a process, and a client of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_teemate-database"));
        command.args(["--port", "0", "--dir"]).arg(directory).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server { child, port: line.trim().parse().expect("it told no port") }
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

    pub fn read(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        if line.is_empty() {
            // The server has ended.
            return line;
        }
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "$" if rest == "-1" => "nil".to_owned(),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned()
            }
            "*" if rest == "-1" => "nil".to_owned(),
            "*" => (0..rest.parse::<usize>().unwrap()).map(|_| self.read()).collect::<Vec<_>>().join(" "),
            _ => rest.to_owned(),
        }
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
