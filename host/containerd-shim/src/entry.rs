//! A container's process, or one more that was executed in it, as this shim remembers it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::watch;

use crate::stdio::Stdio;

/// What runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// A task of the node.
    Function,
    /// runc.
    Ordinary,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Stopped(Ended),
}

/// How and when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Status; 128 + n for signal n.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

impl Ended {
    /// Now.
    pub fn now(status: u32) -> Ended {
        Ended { status, at: SystemTime::now() }
    }

    /// As containerd takes it.
    pub fn timestamp(&self) -> Timestamp {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32, ..Default::default() }
    }
}

/// One process.
pub struct Entry {
    /// Of its container.
    pub id: String,
    /// Empty for a container's own process.
    pub exec_id: String,
    /// What runs it.
    pub runner: Runner,
    /// Its container's bundle.
    pub bundle: PathBuf,
    /// Its output.
    pub stdio: Stdio,
    /// Of an executed process: what it is (JSON).
    pub process: Option<Vec<u8>>,
    /// Whether its input has parameters of a function.
    pub input_is_params: bool,
    /// Keeps its input open, though nobody may write to it yet, until containerd closes it.
    input: Mutex<Option<std::fs::File>>,
    pid: AtomicU32,
    stage: watch::Sender<Stage>,
}

impl Entry {
    /// One that was just created.
    pub fn new(id: &str, exec_id: &str, runner: Runner, bundle: PathBuf, stdio: Stdio) -> Entry {
        Entry {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            runner,
            bundle,
            stdio,
            process: None,
            input_is_params: false,
            input: Mutex::new(None),
            pid: AtomicU32::new(0),
            stage: watch::Sender::new(Stage::Created),
        }
    }

    /// On the host; 0: none yet.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Acquire)
    }

    /// Notes it.
    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Release);
    }

    /// Keeps its input open by this, or lets it end.
    pub fn keep_input(&self, keeper: Option<std::fs::File>) {
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = keeper;
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Notes how far it is. False, and nothing done, if it has ended.
    pub fn advance(&self, to: Stage) -> bool {
        self.stage.send_if_modified(|stage| {
            let lives = !matches!(stage, Stage::Stopped(_));
            if lives {
                *stage = to;
            }
            lives
        })
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        match self.stage() {
            Stage::Stopped(ended) => Some(ended),
            _ => None,
        }
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut stage = self.stage.subscribe();
        loop {
            if let Stage::Stopped(ended) = *stage.borrow_and_update() {
                return ended;
            }
            if stage.changed().await.is_err() {
                return Ended::now(255);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_final_and_wakes_who_waits() {
        let entry = std::sync::Arc::new(Entry::new("c", "", Runner::Function, PathBuf::new(), Stdio::default()));
        let waiting = tokio::spawn({
            let entry = entry.clone();
            async move { entry.wait().await }
        });
        assert!(entry.advance(Stage::Running));
        let ended = Ended { status: 137, at: UNIX_EPOCH + std::time::Duration::from_millis(1500) };
        assert!(entry.advance(Stage::Stopped(ended)));
        assert!(!entry.advance(Stage::Running), "nothing comes after the end");
        assert_eq!(waiting.await.unwrap(), ended);
        assert_eq!((ended.timestamp().seconds, ended.timestamp().nanos), (1, 500_000_000));
    }
}
