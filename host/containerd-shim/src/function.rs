//! Containers of functions: tasks of the node.

use std::fs::File;
use std::time::{Duration, UNIX_EPOCH};

use containerd_shim::protos::cgroups::metrics::{CPUStat, CPUUsage, MemoryEntry, MemoryStat, Metrics, PidsStat, Throttle};
use containerd_shim::protos::protobuf::MessageField;
use teemate_control::node::Request;
use teemate_control::task::{TaskExit, TaskInfo, TaskStats};

use crate::entry::Ended;
use crate::error::Result;
use crate::node::Node;
use crate::stdio;

/// How long one question for a task's end waits.
const WAIT_STEP_MS: u64 = 30_000;
/// Status of a task whose node has gone, and with it everything that is known of the end.
const UNKNOWN: u32 = 255;

/// Where a function's result and logs go.
pub struct Output {
    /// The result.
    pub stdout: Option<File>,
    /// What it wrote, and why it failed.
    pub stderr: Option<File>,
}

impl Output {
    /// Opens those of a container.
    pub fn open(stdio: &stdio::Stdio) -> Result<Output> {
        Ok(Output { stdout: stdio::output(&stdio.stdout)?, stderr: stdio::output(&stdio.stderr)? })
    }

    fn write(self, exit: &TaskExit) {
        let mut logs = exit.logs.clone().into_bytes();
        if let Some(reason) = &exit.reason {
            if logs.last().is_some_and(|last| *last != b'\n') {
                logs.push(b'\n');
            }
            logs.extend_from_slice(reason.as_bytes());
            logs.push(b'\n');
        }
        let result = exit.result.as_ref().map(|result| format!("{result}\n")).unwrap_or_default();
        stdio::write_out(self.stderr, &logs);
        stdio::write_out(self.stdout, result.as_bytes());
    }
}

/// Waits for a task's end and writes what it has to say. `before` is told whether it ran out of memory.
pub fn watch(node: &Node, task: &str, output: Output, before: impl FnOnce(bool)) -> Ended {
    let exit = loop {
        match node.task(&Request::TaskWait { id: task.to_owned(), within_ms: WAIT_STEP_MS }) {
            Ok(TaskInfo { exit: Some(exit), .. }) => break Some(exit),
            Ok(_) => {}
            Err(error) => {
                log::error!("the task {task} is lost: {error}");
                break None;
            }
        }
    };
    let ended = match &exit {
        Some(exit) => Ended { status: exit.status, at: UNIX_EPOCH + Duration::from_nanos(exit.at_ns) },
        None => Ended::now(UNKNOWN),
    };
    before(exit.as_ref().is_some_and(|exit| exit.out_of_memory));
    match exit {
        Some(exit) => output.write(&exit),
        None => stdio::write_out(output.stderr, b"the node that ran this function has gone\n"),
    }
    ended
}

/// What a task uses, as containerd takes it (`io.containerd.cgroups.v1.Metrics`).
pub fn metrics(stats: &TaskStats) -> Metrics {
    let usage = CPUUsage { total: stats.user_ns + stats.system_ns, user: stats.user_ns, kernel: stats.system_ns, ..Default::default() };
    let memory =
        MemoryEntry { usage: stats.memory_bytes, max: stats.memory_peak_bytes, limit: stats.memory_limit_bytes, ..Default::default() };
    Metrics {
        // Docker takes the throttling for granted.
        cpu: MessageField::some(CPUStat {
            usage: MessageField::some(usage),
            throttling: MessageField::some(Throttle::default()),
            ..Default::default()
        }),
        memory: MessageField::some(MemoryStat { usage: MessageField::some(memory), ..Default::default() }),
        pids: MessageField::some(PidsStat { current: stats.pids, limit: stats.pids_limit, ..Default::default() }),
        ..Default::default()
    }
}
