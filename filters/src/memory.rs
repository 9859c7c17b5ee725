//! What filters remember from one configuration to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use lighter_config::snapshot::filter::RateLimit;

use crate::bucket::Buckets;

/// The buckets of all limits that are in force. A chain that is made anew finds those of the chain before it here, and
/// all workers find the same ones. Looked at when a chain is made, never by a request.
pub struct Memory {
    base: Instant,
    buckets: Mutex<HashMap<Key, Weak<Buckets>>>,
}

/// What is limited, and how.
type Key = (Box<str>, RateLimit);

impl Default for Memory {
    fn default() -> Self {
        Memory { base: Instant::now(), buckets: Mutex::default() }
    }
}

impl Memory {
    /// The buckets of a limit of what `scope` names. Another limit has its own.
    pub(crate) fn buckets(&self, scope: &str, limit: &RateLimit) -> Arc<Buckets> {
        let mut known = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (scope.into(), limit.clone());
        if let Some(buckets) = known.get(&key).and_then(Weak::upgrade) {
            return buckets;
        }
        known.retain(|_, buckets| buckets.strong_count() > 0);
        let buckets = Arc::new(Buckets::new(limit, self.base));
        known.insert(key, Arc::downgrade(&buckets));
        buckets
    }
}
