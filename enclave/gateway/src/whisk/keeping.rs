//! Activations that have ended and are not kept yet. Their callers are answered first, for they wait for that; who asks for a record or a receipt
//! waits until it is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::lock;

/// Which there are.
#[derive(Default)]
pub struct Keeping {
    /// By id: whose they are.
    under_way: Mutex<HashMap<String, String>>,
    changed: Notify,
}

/// An activation that is being kept, until it is dropped.
pub struct Kept {
    keeping: Arc<Keeping>,
    id: String,
}

impl Keeping {
    /// From now on who asks for it waits.
    pub fn begin(self: &Arc<Self>, namespace: &str, id: &str) -> Kept {
        lock(&self.under_way).insert(id.to_owned(), namespace.to_owned());
        Kept { keeping: self.clone(), id: id.to_owned() }
    }

    /// Waits until this one is kept, or all of the namespace that are under way now.
    pub async fn settled(&self, namespace: &str, id: Option<&str>) {
        let mut awaited: Vec<String> = {
            let under_way = lock(&self.under_way);
            let asked = under_way.iter().filter(|(it, owner)| *owner == namespace && id.is_none_or(|id| id == *it));
            asked.map(|(it, _)| it.clone()).collect()
        };
        while !awaited.is_empty() {
            let mut changed = std::pin::pin!(self.changed.notified());
            // What ends between the look and the wait is not missed.
            changed.as_mut().enable();
            awaited.retain(|id| lock(&self.under_way).contains_key(id));
            if !awaited.is_empty() {
                changed.await;
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        lock(&self.keeping.under_way).remove(&self.id);
        self.keeping.changed.notify_waiters();
    }
}
