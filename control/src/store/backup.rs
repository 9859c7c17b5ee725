//! The whole store in one file, and back.

use std::sync::Arc;

use lighter_config::manifest::Manifest;
use serde::{Deserialize, Serialize};

use super::change::{Changes, Plan};
use super::{Store, StoreError, Stored, disk};

/// What a restored resource's errors call the place it comes from.
const ORIGIN: &str = "the backup";

/// The last generation that a backup can be of.
const MOST_GENERATION: u64 = u64::MAX / 2;

/// Every resource of a store. What else is in it, such as leases, is of the moment and not kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backup {
    /// The form of this file: [`disk::SCHEMA`].
    lighter_store: u64,
    /// The store's generation when it was made.
    generation: u64,
    resources: Vec<Stored>,
}

impl Backup {
    /// Reads a backup.
    pub fn read(bytes: &[u8]) -> Result<Backup, StoreError> {
        let backup: Backup =
            serde_json::from_slice(bytes).map_err(|error| StoreError::Backup(error.to_string()))?;
        // No store gets there by itself, and from the last ones there would be no way on.
        if backup.generation > MOST_GENERATION {
            return Err(StoreError::Backup(format!("{} is no generation of a store", backup.generation)));
        }
        match backup.lighter_store {
            disk::SCHEMA => Ok(backup),
            other => Err(StoreError::Backup(format!(
                "it has schema {other}, and this version of Lighter knows {}",
                disk::SCHEMA
            ))),
        }
    }
}

impl Store {
    /// A copy of every resource at this moment.
    pub fn backup(&self) -> Backup {
        let view = self.view();
        let resources = view.resources.values().map(|stored| (**stored).clone()).collect();
        Backup { lighter_store: disk::SCHEMA, generation: view.generation, resources }
    }

    /// Replaces every resource by those of a backup, whole or not at all. What is the same in both stays as it is.
    pub fn restore(&self, backup: Backup, dry_run: bool) -> Result<Changes, StoreError> {
        let mesh = self.lock();
        let view = self.view();
        let origin = Arc::from(ORIGIN);
        let (mut plan, mut manifests) = (Plan::new(&view), Vec::new());
        // Nobody may take a generation of before for one of after.
        plan.after(backup.generation);
        for stored in backup.resources {
            let manifest = Manifest::of_value(&origin, stored.document.clone())?;
            if *manifest.key() != stored.key {
                let said = format!("a document of {} stands under the name {}", manifest.key(), stored.key);
                return Err(StoreError::Backup(said));
            }
            manifests.push(manifest);
            plan.put(Stored { generation: plan.generation(), ..stored });
        }
        plan.judge(manifests);
        plan.remove_rest();
        self.carry_out(plan, mesh, dry_run)
    }
}
