//! Snapshot containers: the node makes one for each snapshot; the writer waits for it inside the enclave.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use teemate_control::service::FromService;
use teemate_service::{clock, lock, thread};

use super::Node;
use crate::runner::{Job, Runner};

/// Threads that wait for a container. There is one snapshot at a time; but the thread of one that was killed may still be on its way back.
const WRITERS: usize = 2;
/// How long a snapshot may take. The node kills what takes longer.
const TIMEOUT_MS: u64 = 600_000;

/// Jobs, and the threads that do them.
pub struct Containers {
    node: Arc<Node>,
    /// Jobs whose container has not come yet, by its id.
    waiting: Mutex<HashMap<u64, Job>>,
    next: AtomicU64,
    idle: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Containers {
    /// Starts the threads.
    pub(super) fn start(node: &Arc<Node>) -> io::Result<Arc<Containers>> {
        let containers = Arc::new(Containers {
            node: node.clone(),
            waiting: Mutex::default(),
            next: AtomicU64::new(clock::first_container()),
            idle: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        });
        for _ in 0..WRITERS {
            let containers = containers.clone();
            thread("writer", 1 << 20, move || containers.work())?;
        }
        Ok(containers)
    }

    /// A writer: in one container after the other.
    fn work(&self) {
        loop {
            self.idle.fetch_add(1, SeqCst);
            let container = match teemate_containers::next_container() {
                Ok(container) => container,
                Err(error) => {
                    eprintln!("teemate-database: there are no containers here: {error}");
                    return;
                }
            };
            self.idle.fetch_sub(1, SeqCst);
            // A container that nobody waits for leaves again.
            let job = lock(&self.waiting).remove(&container);
            if let Some(job) = job {
                self.begun.fetch_add(1, SeqCst);
                (job.run)();
                self.ended.fetch_add(1, SeqCst);
            }
        }
    }

    /// The node says that a container is gone, or never came to be. A writer that is in it already goes on in another process, where its
    /// files fail it.
    pub(super) fn lost(&self, container: u64, reason: String) {
        let job = lock(&self.waiting).remove(&container);
        if let Some(job) = job {
            (job.lost)(reason);
        }
    }

    /// Jobs under way, threads that wait, jobs done.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let ended = self.ended.load(SeqCst);
        (self.begun.load(SeqCst).saturating_sub(ended), self.idle.load(SeqCst), ended)
    }
}

impl fmt::Debug for Containers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Containers")
    }
}

impl Runner for Arc<Containers> {
    fn start(&self, job: Job) -> io::Result<()> {
        let container = self.next.fetch_add(1, SeqCst);
        lock(&self.waiting).insert(container, job);
        self.node.outbox.post(FromService::NeedContainer {
            container,
            // What a container that was made ahead has.
            memory: teemate_control::function::Limits::default().memory,
            cpu_milli: 0,
            egress: Vec::new(),
            data: true,
            function: "snapshot".to_owned(),
            timeout_ms: TIMEOUT_MS,
            keep_ms: 0,
            // What is in memory is in this enclave.
            here: true,
        });
        Ok(())
    }
}
