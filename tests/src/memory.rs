//! What processes have in memory, with shared pages counted once.

use std::collections::HashMap;
use std::fs;

/// Memory of a set of processes, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Proportional set size: each page counted by the share that each of its users has. Pages shared only among these processes are
    /// counted once; the sum over all users of a page is the page.
    pub pss_kib: u64,
    /// Of which anonymous, that is, of one process alone.
    pub anonymous_kib: u64,
    /// Of which mapped shared memory: a simulated EPC is that, as far as somebody has touched it.
    pub shared_kib: u64,
    /// Processes that were read.
    pub processes: u64,
}

/// Memory of these processes. One that ends meanwhile counts nothing.
pub fn of(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        sum.pss_kib += field(&text, "Pss:");
        sum.anonymous_kib += field(&text, "Pss_Anon:");
        sum.shared_kib += field(&text, "Pss_Shmem:");
        sum.processes += 1;
    }
    sum
}

/// A process and all its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(parent) = parent(child) else { continue };
        children.entry(parent).or_default().push(child);
    }
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    all
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, blanks and parentheses too.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_child_is_of_the_family() {
        let own = std::process::id();
        assert!(of(&[own]).pss_kib > 0);
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        assert!(family(own).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of(&[u32::MAX]), Memory::default());
    }
}
