//! Exemplars: for each bucket of a histogram the last request that was traced, so that who looks at a slow bucket finds a
//! trace of it (OpenMetrics 1.0, "Exemplars").

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::histogram::Buckets;

/// The exemplars of one histogram. Takes no memory until a request is traced.
#[derive(Default)]
pub(super) struct Exemplars(OnceLock<Mutex<Box<[Option<Exemplar>]>>>);

/// One request.
#[derive(Clone, Debug)]
pub struct Exemplar {
    /// Its trace, in hexadecimal.
    pub(super) trace: String,
    /// What was measured, in the unit of the histogram's bounds.
    pub(super) value: u64,
    /// When, in milliseconds since 1970.
    pub(super) at: u64,
}

impl Exemplars {
    /// Notes a value of `buckets`.
    pub(super) fn put(&self, buckets: &Buckets, value: u64, trace: String) {
        let all = self.0.get_or_init(|| Mutex::new(vec![None; buckets.bounds.len() + 1].into()));
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all[buckets.bucket(value)] = Some(Exemplar { trace, value, at });
    }

    /// One for each bucket; empty where no request was traced.
    pub(super) fn read(&self) -> Box<[Option<Exemplar>]> {
        let all = self.0.get().map(|all| all.lock().unwrap_or_else(PoisonError::into_inner).clone());
        all.unwrap_or_default()
    }
}
