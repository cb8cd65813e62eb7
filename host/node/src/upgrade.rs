//! Another image takes over: no call is lost, and no connection refused.
//!
//! 1. the new enclave is built beside the old one, and gets the operator's functions;
//! 2. the old gateway answers what it has accepted and closes the sealed store; who connects meanwhile waits in the listening socket;
//! 3. the new gateway opens the store, which the same signer's key opens, and accepts;
//! 4. the old enclave goes when its last call has been answered.
//!
//! When a step fails, the old enclave goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use teemate_control::function::{Failure, FailureKind};
use teemate_image::Image;

use crate::error::Error;
use crate::gateway;
use crate::locks::Lock;
use crate::node::{Node, give};
use crate::shared::SharedEnclave;
use crate::text::hex;

/// How long calls on the operator's socket may go on in an enclave that was replaced: the longest time limit of a function, and a margin.
const LAST_CALL: Duration = Duration::from_secs(660);

impl Node {
    /// Replaces the shared enclave by one of this image. Gives its MRENCLAVE.
    ///
    /// # Errors
    /// When the image can't be used, or its enclave does not come up or can't open the store. The old one goes on then.
    pub fn upgrade(&self, path: &Path) -> Result<String, Failure> {
        let failed = |error: Error| error.failure();
        let _running = self.enter().map_err(failed)?;
        let image = Image::load(path).map_err(|error| failed(Error::Image { path: path.to_owned(), reason: error.to_string() }))?;
        let old = self.shared_enclave().map_err(failed)?;
        let _one_builder = self.building.locked();
        let before = self.shop().replace_image(image).map_err(failed)?;
        let begun = Instant::now();
        let new = self.take_over(&old).inspect_err(|failure| {
            tracing::error!(reason = failure.message, "the upgrade failed; the enclave before it goes on");
            let _ = self.shop().replace_image_shared(before);
        })?;
        let mrenclave = hex(&new.enclave.mrenclave());
        tracing::info!(mrenclave, ms = begun.elapsed().as_millis() as u64, "another image has taken over");
        let retired = std::thread::Builder::new().name("retire".to_owned()).spawn(move || {
            let end = Instant::now() + LAST_CALL;
            while old.under_way() > 0 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
            old.down();
        });
        if let Err(error) = retired {
            tracing::warn!(%error, "no thread to wait for the last calls of the enclave before; they are cut when the node ends");
        }
        Ok(mrenclave)
    }

    fn take_over(&self, old: &SharedEnclave) -> Result<Arc<SharedEnclave>, Failure> {
        let new = SharedEnclave::start(self.shop()).map_err(|error| error.failure())?;
        let _no_deployment = self.deploying.locked();
        let moved = self.shop().store.all().iter().try_for_each(|function| give(&new, function)).and_then(|()| {
            if self.shop().listener.is_some() {
                let limit = Duration::from_millis(2 * gateway::DRAIN_MS);
                gateway::expect_done(old.channel().administer(gateway::drain(), limit)?)?;
            }
            self.open_gateway(&new).inspect_err(|_| {
                // It had the store open until now, and can open it again.
                if let Err(failure) = self.open_gateway(old) {
                    tracing::error!(reason = failure.message, "the gateway before the upgrade can't be opened again");
                    old.fail("its gateway could not be opened again after a failed upgrade");
                }
            })
        });
        if let Err(failure) = moved {
            new.down();
            let text = format!("the new image was not taken: {}", failure.message);
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        *self.shared.locked() = Some(Arc::clone(&new));
        Ok(new)
    }
}
