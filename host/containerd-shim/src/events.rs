//! What containerd is told without asking.

use containerd_shim::Context;
use containerd_shim::protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim::protos::protobuf::MessageDyn;
use containerd_shim::publisher::RemotePublisher;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Sends events, in the order in which they happened.
#[derive(Clone)]
pub struct Events {
    sender: UnboundedSender<(&'static str, Box<dyn MessageDyn>)>,
}

impl Events {
    /// By this publisher.
    pub fn new(publisher: RemotePublisher, namespace: String) -> Events {
        let (sender, mut receiver) = unbounded_channel::<(&'static str, Box<dyn MessageDyn>)>();
        tokio::spawn(async move {
            while let Some((topic, event)) = receiver.recv().await {
                if let Err(error) = publisher.publish(Context::default(), topic, &namespace, event).await {
                    log::warn!("the event {topic} could not be sent: {error}");
                }
            }
        });
        Events { sender }
    }

    /// Sends one.
    pub fn send<E: Topic + MessageDyn>(&self, event: E) {
        let _ = self.sender.send((E::TOPIC, Box::new(event)));
    }
}

/// The topic of an event.
pub trait Topic {
    /// As containerd names it.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:ident $topic:literal),* $(,)?) => { $(impl Topic for $event { const TOPIC: &'static str = $topic; })* };
}

topics! {
    TaskCreate "/tasks/create", TaskStart "/tasks/start", TaskExit "/tasks/exit", TaskDelete "/tasks/delete", TaskOOM "/tasks/oom",
    TaskPaused "/tasks/paused", TaskResumed "/tasks/resumed", TaskExecAdded "/tasks/exec-added", TaskExecStarted "/tasks/exec-started",
}

/// Where a container's output goes, as an event says it.
pub fn io(stdio: &crate::stdio::Stdio) -> TaskIO {
    TaskIO { stdin: stdio.stdin.clone(), stdout: stdio.stdout.clone(), stderr: stdio.stderr.clone(), ..Default::default() }
}
