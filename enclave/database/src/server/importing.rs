//! An import goes on, and who sends it is answered.

use super::Server;
use crate::commands;
use crate::persistence::import;
use crate::resp::Reply;

impl Server {
    /// Goes on with the import under way. Whether there is more soon.
    pub(super) fn import(&mut self) -> bool {
        if let Some((id, answer)) = import::step(&mut self.store, &mut self.shared)
            && let Some(slot) = self.shared.slots.get(&id).copied()
            && let Some(mut session) = self.shared.sessions.get_mut(slot).and_then(Option::take)
        {
            if let Some(waiting) = session.waiting.take() {
                self.connections().forget(id, &waiting);
                let mut reply = Reply { bytes: std::mem::take(&mut self.shared.wires.buffers[slot].output), version: session.version };
                commands::answer_import(&mut reply, &answer);
                self.shared.wires.buffers[slot].output = reply.bytes;
                self.shared.wires.dirty.push(slot);
                self.shared.wires.again.push(slot);
            }
            self.shared.sessions[slot] = Some(session);
        }
        self.shared.import.as_ref().is_some_and(import::Import::is_owed)
    }
}
