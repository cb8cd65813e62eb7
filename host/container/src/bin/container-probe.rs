//! A zygote for this crate's own tests: its containers look around, and do as their payload says.

use std::io::Write;
use std::os::fd::AsRawFd;

use teemate_container::zygote::{self, Body, Start};

/// Where an enclave would be.
const SHARED: usize = 0x1000_0000_0000;

struct Probe {
    inherited: Vec<String>,
    configured: Vec<u8>,
}

impl Body for Probe {
    fn inherit(&mut self, descriptors: Vec<(String, std::os::fd::OwnedFd)>) -> Result<(), String> {
        self.inherited = descriptors.into_iter().map(|(name, _)| name).collect();
        Ok(())
    }

    fn configure(&mut self, message: &[u8], descriptors: Vec<std::os::fd::OwnedFd>) -> Result<Vec<u8>, String> {
        if message == b"fail" {
            return Err("asked to fail".into());
        }
        if message == b"map" {
            let memory = descriptors.first().ok_or("no memory to map")?;
            // SAFETY: nothing else of this program lies at this address, which no mapping of the kernel's own choice reaches.
            unsafe {
                use rustix::mm::{MapFlags, ProtFlags, mmap};
                mmap(SHARED as *mut _, 1 << 20, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED_NOREPLACE, memory, 0)
            }
            .map_err(|error| error.to_string())?;
            return Ok(Vec::new());
        }
        self.configured = message.to_vec();
        Ok(format!("{} with {}, inherited {}", String::from_utf8_lossy(message), descriptors.len(), self.inherited.join(",")).into_bytes())
    }

    fn run(&mut self, mut start: Start) -> i32 {
        let payload = start.payload.clone();
        let text = String::from_utf8_lossy(&payload);
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let result = match verb {
            "exit" => return rest.parse().unwrap_or(0),
            "sleep" => {
                std::thread::sleep(std::time::Duration::from_millis(rest.parse().unwrap_or(0)));
                return 0;
            }
            "spin" => loop {
                std::hint::spin_loop();
            },
            "increment" => {
                // SAFETY: `configure` mapped it, in the zygote: tests send "increment" only after "map".
                let counter = unsafe { &*(SHARED as *const std::sync::atomic::AtomicU32) };
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                return 0;
            }
            "panic" => panic!("asked to panic"),
            "report" => report(&mut start),
            "configured" => answer(&mut start, &String::from_utf8_lossy(&self.configured)),
            "allocate" => allocate(rest.parse().unwrap_or(0)),
            "threads" => threads(&mut start, rest.parse().unwrap_or(0)),
            "write" => std::fs::write(rest, "x"),
            "read" => std::fs::read_to_string(rest).and_then(|text| answer(&mut start, &text)),
            "forbidden" => std::os::unix::net::UnixDatagram::unbound().map(drop),
            "connect" => std::net::TcpStream::connect(rest).map(drop),
            "listen" => listen(),
            _ => return zygote_command(start),
        };
        match result {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(99),
        }
    }
}

fn zygote_command(start: Start) -> i32 {
    teemate_container::command::Command::execute(start)
}

fn answer(start: &mut Start, text: &str) -> std::io::Result<()> {
    match start.descriptors.pop() {
        Some(fd) => std::fs::File::from(fd).write_all(text.as_bytes()),
        None => Ok(()),
    }
}

fn report(start: &mut Start) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for kind in ["pid", "mnt", "uts", "ipc", "net", "user", "cgroup"] {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        lines.push(format!("{kind} {}", link.display()));
    }
    lines.push(format!("self {}", std::process::id()));
    lines.push(format!("hostname {}", std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim()));
    let mine = start.descriptors.last().map_or(-1, AsRawFd::as_raw_fd);
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if !target.starts_with("/proc") {
            open.push(format!("{}={}", entry.file_name().to_string_lossy(), target.display()));
        }
    }
    lines.push(format!("fds {}", open.join(" ")));
    lines.push(format!("mine {mine}"));
    for line in std::fs::read_to_string("/proc/self/status")?.lines() {
        if ["Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Threads:"]
            .iter()
            .any(|name| line.starts_with(name))
        {
            lines.push(line.replace('\t', " "));
        }
    }
    for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines() {
        lines.push(format!("mount {line}"));
    }
    for line in std::fs::read_to_string("/proc/self/limits")?.lines() {
        lines.push(format!("limit {line}"));
    }
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        lines.push(format!("map {line}"));
    }
    let mut root: Vec<String> = std::fs::read_dir("/")?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    root.sort();
    lines.push(format!("root {}", root.join(" ")));
    answer(start, &lines.join("\n"))
}

/// Touch so many megabytes.
fn allocate(megabytes: usize) -> std::io::Result<()> {
    let mut kept = Vec::new();
    for _ in 0..megabytes {
        kept.push(vec![1_u8; 1 << 20]);
    }
    std::hint::black_box(&kept);
    Ok(())
}

/// How many of so many threads could be started?
fn threads(start: &mut Start, count: usize) -> std::io::Result<()> {
    let mut started = Vec::new();
    for _ in 0..count {
        match std::thread::Builder::new().stack_size(64 << 10).spawn(|| std::thread::sleep(std::time::Duration::from_millis(300))) {
            Ok(thread) => started.push(thread),
            Err(_) => break,
        }
    }
    answer(start, &started.len().to_string())
}

fn listen() -> std::io::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:7777")?;
    let client = std::net::TcpStream::connect("127.0.0.1:7777")?;
    let (server, _) = listener.accept()?;
    // The server closes first: its end stays in TIME_WAIT.
    drop(server);
    drop(client);
    Ok(())
}

fn main() -> std::process::ExitCode {
    let served =
        zygote::control_socket().and_then(|control| zygote::serve(control, Probe { inherited: Vec::new(), configured: Vec::new() }));
    match served {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
