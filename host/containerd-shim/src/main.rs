//! `containerd-shim-teemate-v1`: the runtime `io.containerd.teemate.v1` of containerd, for ctr, CRI and Docker.
//!
//! One process serves all containers of a containerd namespace. A container whose image holds a function runs as a task of the node: a
//! process of its own that shares the node's enclave. Any other container (a pod's pause, a sidecar) is run by the machine's runc.
//!
//! Untrusted, as all of `host/`.
#![forbid(unsafe_code)]

mod bundle;
mod entry;
mod error;
mod events;
mod function;
mod image;
mod input;
mod mounts;
mod node;
mod ordinary;
mod resources;
mod service;
mod stdio;

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim::asynchronous::{ExitSignal, Shim, run, spawn};
use containerd_shim::publisher::RemotePublisher;
use containerd_shim::util::write_str_to_file;
use containerd_shim::{Config, DeleteResponse, Error, Flags, StartOpts};

use crate::events::Events;
use crate::service::Service;

/// Name of the runtime.
const RUNTIME: &str = "io.containerd.teemate.v1";
/// All containers of a containerd namespace have one shim process.
const GROUPING: &str = "teemate";

struct Shimmed {
    exit: Arc<ExitSignal>,
    namespace: String,
    id: String,
    bundle: String,
    socket: String,
    /// containerd's own.
    address: String,
}

#[async_trait]
impl Shim for Shimmed {
    type T = Service;

    async fn new(_runtime: &str, flags: &Flags, _config: &mut Config) -> Self {
        Shimmed {
            exit: Arc::default(),
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            bundle: flags.bundle.clone(),
            socket: flags.socket.clone(),
            address: flags.address.clone(),
        }
    }

    async fn start_shim(&mut self, options: StartOpts) -> Result<String, Error> {
        let address = spawn(options, GROUPING, Vec::new()).await?;
        // In the bundle, which is the working directory: where a containerd that starts anew looks for the shim of each container.
        write_str_to_file("address", &address).await?;
        Ok(address)
    }

    async fn delete_shim(&mut self) -> Result<DeleteResponse, Error> {
        Ok(service::clean_up(&self.namespace, &self.id, &self.bundle).await)
    }

    async fn wait(&mut self) {
        self.exit.wait().await;
        // The library looks for the address in the bundle of the first container, which may be gone.
        if let Some(path) = self.socket.strip_prefix("unix://") {
            let _ = std::fs::remove_file(path);
        }
    }

    async fn create_task_service(&self, publisher: RemotePublisher) -> Service {
        let events = Events::new(publisher, self.namespace.clone());
        Service::new(self.namespace.clone(), self.address.clone(), Arc::clone(&self.exit), events).await
    }
}

#[tokio::main]
async fn main() {
    run::<Shimmed>(RUNTIME, None).await;
}
