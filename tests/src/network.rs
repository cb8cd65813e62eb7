//! Hosts of one's own: network namespaces on a bridge.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
