//! Hosts of one's own: network namespaces on a bridge, and a balancer before what listens in them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a host may take to accept a connection before the next one is tried.
const CONNECT: Duration = Duration::from_millis(500);

/// A bridge with hosts on it, each a network namespace. All goes with the value.
pub struct Network {
    name: String,
    hosts: usize,
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().map_err(|error| format!("`ip` can't be run: {error}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("`ip {}`: {}", words.join(" "), said())) }
}

impl Network {
    /// With so many hosts.
    ///
    /// # Errors
    /// Why it can't be had here, in a sentence.
    pub fn new(hosts: usize) -> Result<Network, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root makes network namespaces".to_owned());
        }
        let name = format!("tm{}", std::process::id() % 100_000);
        ip(&["link", "add", &name, "type", "bridge"])?;
        let network = Network { name: name.clone(), hosts };
        ip(&["address", "add", &format!("{}/24", network.outside()), "dev", &name])?;
        ip(&["link", "set", &name, "up"])?;
        for host in 0..hosts {
            let (space, here, there) = (network.space(host), format!("{name}h{host}"), format!("{name}n{host}"));
            ip(&["netns", "add", &space])?;
            ip(&["link", "add", &here, "type", "veth", "peer", "name", &there])?;
            ip(&["link", "set", &there, "netns", &space])?;
            ip(&["link", "set", &here, "master", &name, "up"])?;
            ip(&["-n", &space, "address", "add", &format!("{}/24", network.address(host)), "dev", &there])?;
            ip(&["-n", &space, "link", "set", &there, "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    fn space(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    /// The third byte of its addresses: tests that run at one time have others.
    fn subnet(&self) -> u8 {
        (std::process::id() % 250) as u8
    }

    /// Of a host.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, self.subnet(), 1 + host as u8)
    }

    /// Where this process is in it.
    pub fn outside(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, self.subnet(), 254)
    }

    /// A program that runs another one on a host.
    ///
    /// # Errors
    /// When it can't be written there.
    pub fn on_host(&self, host: usize, program: &Path, directory: &Path) -> Result<PathBuf, String> {
        let path = directory.join(format!("on-{}", self.space(host)));
        let text = format!("#!/bin/sh\nexec ip netns exec {} {} \"$@\"\n", self.space(host), program.display());
        let written = std::fs::write(&path, text).and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
        written.map(|()| path).map_err(|error| error.to_string())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            let _ = ip(&["netns", "delete", &self.space(host)]);
            let _ = ip(&["link", "delete", &format!("{}h{host}", self.name)]);
        }
        let _ = ip(&["link", "delete", &self.name]);
    }
}

/// Takes connections and gives each to the next of several servers; one that does not answer is passed over. It reads nothing of what it carries,
/// and keeps a copy, as a network could.
pub struct Balancer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    ending: Arc<AtomicBool>,
}

impl Balancer {
    /// Before these, at a free port of this address.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn before(servers: Vec<SocketAddr>, at: Ipv4Addr) -> std::io::Result<Balancer> {
        let listener = TcpListener::bind((at, 0))?;
        let balancer = Balancer { address: listener.local_addr()?, seen: Arc::default(), ending: Arc::default() };
        let (seen, ending, next) = (balancer.seen.clone(), balancer.ending.clone(), AtomicUsize::new(0));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ending.load(SeqCst) {
                    return;
                }
                let first = next.fetch_add(1, SeqCst);
                let order = (0..servers.len()).map(|at| servers[(first + at) % servers.len()]);
                let seen = seen.clone();
                let order: Vec<_> = order.collect();
                std::thread::spawn(move || {
                    let server = order.iter().find_map(|server| TcpStream::connect_timeout(server, CONNECT).ok());
                    // With none the client is cut off.
                    let Some(server) = server else { return };
                    for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
                        let (Ok(from), Ok(to)) = (from, to) else { return };
                        let seen = seen.clone();
                        std::thread::spawn(move || pass(from, to, &seen));
                    }
                });
            }
        });
        Ok(balancer)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every byte so far, of both directions.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.ending.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
