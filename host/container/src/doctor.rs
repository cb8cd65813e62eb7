//! What containers need of this machine: found, or not and what to do. For `teemate doctor`.

use std::fmt;

use crate::cgroup::{Controller, Detected};
use crate::sys;

/// One prerequisite.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Item {
    /// What it is.
    pub name: &'static str,
    /// Is it there?
    pub found: bool,
    /// Do containers work without it?
    pub required: bool,
    /// What was seen.
    pub detail: String,
    /// What to do about it, if it is not there.
    pub advice: String,
}

/// All prerequisites.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Runs with the privileges of root?
    pub privileged: bool,
    /// One by one.
    pub items: Vec<Item>,
}

impl Report {
    /// Look at this machine. Changes nothing but, on cgroup v2, which controllers are enabled for groups below ours.
    #[must_use]
    pub fn now() -> Self {
        let privileged =
            rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
        let mut items = vec![kernel(), privileges(privileged), user_namespaces(privileged)];
        for (name, file) in [("pid", "pid"), ("mount", "mnt"), ("uts", "uts"), ("ipc", "ipc"), ("network", "net"), ("cgroup", "cgroup")] {
            let found = std::fs::exists(format!("/proc/self/ns/{file}")).unwrap_or(false);
            items.push(Item {
                name: match name {
                    "pid" => "pid namespaces",
                    "mount" => "mount namespaces",
                    "uts" => "uts namespaces",
                    "ipc" => "ipc namespaces",
                    "network" => "network namespaces",
                    _ => "cgroup namespaces",
                },
                found,
                required: name != "cgroup",
                detail: format!("/proc/self/ns/{file}"),
                advice: advice(found, "use a kernel with this namespace (CONFIG_NAMESPACES)"),
            });
        }
        let seccomp = sys::seccomp_available();
        items.push(Item {
            name: "seccomp filters",
            found: seccomp,
            required: true,
            detail: "seccomp(2) with \"kill process\"".into(),
            advice: advice(seccomp, "use a kernel with CONFIG_SECCOMP_FILTER"),
        });
        let detected = Detected::now();
        for controller in Controller::ALL {
            let name = match controller {
                Controller::Cpu => "cgroup controller cpu",
                Controller::Memory => "cgroup controller memory",
                Controller::Pids => "cgroup controller pids",
            };
            let home = detected.hierarchies.iter().find(|h| h.controllers.contains(&controller));
            let missing = detected.missing.iter().find(|(c, _)| *c == controller).map(|(_, text)| text.clone());
            items.push(Item {
                name,
                found: home.is_some(),
                required: false,
                detail: home.map_or_else(
                    || "not usable: containers run without this limit".into(),
                    |h| format!("v{} at {}", h.version, h.base.display()),
                ),
                advice: missing.unwrap_or_default(),
            });
        }
        Self { privileged, items }
    }

    /// Can containers be started at all?
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.items.iter().all(|item| item.found || !item.required)
    }
}

fn advice(found: bool, text: &str) -> String {
    if found { String::new() } else { text.to_owned() }
}

fn kernel() -> Item {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // mount_setattr came last of what is used, in 5.12.
    let found = version >= (5, 12);
    Item { name: "kernel", found, required: true, detail: release, advice: advice(found, "use Linux 5.12 or later") }
}

fn privileges(privileged: bool) -> Item {
    Item {
        name: "root",
        found: privileged,
        required: false,
        detail: if privileged { "CAP_SYS_ADMIN".into() } else { "unprivileged: containers run in user namespaces of this user".into() },
        advice: advice(privileged, "run the node as root to give each container a host user and control groups of its own"),
    }
}

fn user_namespaces(privileged: bool) -> Item {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let max = read("/proc/sys/user/max_user_namespaces");
    let clone = read("/proc/sys/kernel/unprivileged_userns_clone");
    let apparmor = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let (mut found, mut detail, mut text) = (true, format!("user.max_user_namespaces is {}", max.as_deref().unwrap_or("unknown")), "");
    if max.as_deref().is_none_or(|max| max == "0") {
        (found, text) = (false, "sysctl user.max_user_namespaces=15000 (as root), or use a kernel with CONFIG_USER_NS");
    } else if !privileged && clone.as_deref() == Some("0") {
        (found, text) = (false, "sysctl kernel.unprivileged_userns_clone=1 (as root)");
    } else if !privileged && apparmor.as_deref() == Some("1") {
        detail.push_str(", AppArmor restricts unprivileged ones");
        (found, text) = (false, "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for the zygote (as root)");
    }
    Item { name: "user namespaces", found, required: true, detail, advice: text.to_owned() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            let mark = if item.found {
                "found  "
            } else if item.required {
                "MISSING"
            } else {
                "absent "
            };
            writeln!(f, "{mark}  {}: {}", item.name, item.detail)?;
            if !item.found && !item.advice.is_empty() {
                writeln!(f, "         -> {}", item.advice)?;
            }
        }
        Ok(())
    }
}
