//! Whether a device can be used for links, found out by using it.

use crate::{Access, CompletionQueue, Context, Domain, Error, Gid, QueuePair, Region, Requests};

impl Context {
    /// Makes all that a link needs of this device, gives it back, and says the device's addresses. Within a tokio runtime.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn try_out(&self) -> Result<Vec<Gid>, Error> {
        let gids = self.gids()?;
        if gids.is_empty() {
            return Err(Error::NoAddress(self.device().to_owned()));
        }
        let domain = Domain::new(self)?;
        let _region = Region::new(&domain, REGION, Access::RemoteWrite)?;
        let completions = CompletionQueue::new(self, 2 * REQUESTS)?;
        QueuePair::new(&domain, &completions, Requests { send: REQUESTS, receive: REQUESTS })?;
        Ok(gids)
    }
}

/// As much as the rings of a few links, in bytes.
const REGION: usize = 1 << 20;

const REQUESTS: u32 = 64;
