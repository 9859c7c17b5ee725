//! Small facts that have to outlive the process and are no resources, such as leases.

use super::{Store, StoreError};

impl Store {
    /// The facts of one kind, by name.
    pub fn facts(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.disk.facts(kind)
    }

    /// Changes facts of one kind in one step: those with bytes are put, the others removed.
    pub fn set_facts(&self, kind: &str, facts: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        if facts.is_empty() {
            // An empty transaction would wait for the disk too.
            return Ok(());
        }
        self.disk.set_facts(kind, facts)
    }
}
