//! Small facts that have to outlive the process and are no resources: leases, tokens that were used.

use std::time::SystemTime;

use super::{Store, StoreError, time};

impl Store {
    /// The facts of one kind, by name.
    pub fn facts(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.disk.facts(kind)
    }

    /// Changes facts of one kind in one step: those with bytes are put, the others removed.
    pub fn set_facts(&self, kind: &str, facts: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        self.disk.set_facts(kind, facts)
    }

    /// Takes a name for good: true for the first who asks, false for all others until the time `until`, by when the
    /// name must have lost its worth by itself. The answer is on the disk before it is given.
    pub fn claim(
        &self,
        kind: &str,
        name: &str,
        until: SystemTime,
        now: SystemTime,
    ) -> Result<bool, StoreError> {
        // Looking and writing are one step for all who claim.
        let _claiming = self.lock();
        let now = time::seconds(now);
        let is_over = |until: &[u8]| until.try_into().is_ok_and(|until| u64::from_be_bytes(until) < now);
        let mut facts = Vec::new();
        for (taken, until) in self.disk.facts(kind)? {
            if is_over(&until) {
                facts.push((taken, None));
            } else if taken == name {
                return Ok(false);
            }
        }
        facts.push((name.to_string(), Some(time::seconds(until).to_be_bytes().to_vec())));
        self.disk.set_facts(kind, &facts)?;
        Ok(true)
    }
}
