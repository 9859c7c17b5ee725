//! The store: every resource that was pushed, kept in one file of this process.
//!
//! A push is judged together with everything else there is, stored or read from files, and is taken whole or not at
//! all. What readers see is one immutable [`View`]; it is replaced after the disk has the change. A change costs what it
//! concerns, however much else there is: views share what is the same in them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use lighter_config::build::{DeviceInForce, Mesh, Origin, RegisteredDevice};
use lighter_config::error::ConfigErrors;
use lighter_config::load::Resources;
use lighter_config::manifest::{Key, Manifest};
use lighter_config::name::ServiceName;
use lighter_config::shared::SharedMap;
use lighter_config::snapshot::{Migration, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

mod backup;
mod change;
mod disk;
// The registry keeps its leases there.
mod facts;
mod time;

pub use backup::Backup;
pub use change::{Author, Change, Changes, Effect, Push};
pub use time::{parse_rfc3339, rfc3339, seconds};

/// What errors call the place where stored resources are kept.
const ORIGIN: &str = "the store";

/// All resources of the mesh, and the one writer of them.
pub struct Store {
    disk: disk::Disk,
    /// What the resources of files and those that are stored say together. Held while anything changes.
    mesh: Mutex<Mesh>,
    view: ArcSwap<View>,
    changed: watch::Sender<u64>,
}

/// Everything there is at one moment.
#[derive(Debug, Default)]
pub struct View {
    /// Grows by one with each change of the store.
    pub generation: u64,
    /// What is stored.
    pub resources: SharedMap<Key, Arc<Stored>>,
    /// What the stored resources and those of files say together.
    pub snapshot: Arc<Snapshot>,
}

/// One resource of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Which it is.
    #[serde(flatten)]
    pub key: Key,
    /// What was pushed, less what others' controllers write, with its namespace and the time it was made.
    pub document: Value,
    /// The store's generation that wrote it.
    pub generation: u64,
    /// The set of resources that it was pushed with, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Who pushed it.
    pub written_by: String,
    /// When it was written last, in seconds since 1970.
    pub at: u64,
}

/// Why the store could not be opened, or did not take a change. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file belongs to another process.
    #[error("the store {} is in use by another process: one control plane has it alone", .0.display())]
    InUse(PathBuf),
    /// It was written by a version of Lighter that is newer than this one.
    #[error("the store {} has schema {}, and this version of Lighter knows {}", .0.display(), .1, disk::SCHEMA)]
    Schema(PathBuf, u64),
    /// The file cannot be read or written.
    #[error("the store {}: {}", .0.display(), .1)]
    Disk(PathBuf, String),
    /// What is asked for contradicts itself, or what there is.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// Someone else has changed a resource since it was read.
    #[error("{0}")]
    Conflict(ConfigErrors),
    /// There are no such resources.
    #[error("not found: {}", .0.iter().map(Key::to_string).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<Key>),
    /// A file is no backup of a store.
    #[error("this is no backup that can be read: {0}")]
    Backup(String),
}

impl Store {
    /// Opens the store in the file at `path`, which is made if there is none, readable by its owner alone. `files` are
    /// the resources that are read from files.
    pub fn open(path: &Path, files: Resources) -> Result<Store, StoreError> {
        let (disk, generation, stored) = disk::Disk::open(path)?;
        let resources: SharedMap<Key, Arc<Stored>> =
            stored.into_iter().map(|stored| (stored.key.clone(), Arc::new(stored))).collect();
        let origin = Arc::from(ORIGIN);
        let manifests = resources.values().map(|stored| Manifest::of_value(&origin, stored.document.clone()));
        let stored = Resources::of(manifests.collect::<Result<Vec<_>, _>>()?)?;
        let mut mesh = Mesh::default();
        mesh.put(&files, Origin::Files);
        mesh.put(&stored, Origin::Store);
        let snapshot = mesh.judge()?;
        let view = View { generation, resources, snapshot };
        Ok(Store {
            disk,
            mesh: Mutex::new(mesh),
            view: ArcSwap::from_pointee(view),
            changed: watch::Sender::new(0),
        })
    }

    /// Everything there is now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// What the stored resources and those of files say together.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.view.load().snapshot.clone()
    }

    /// Counts the views: whoever waits on it looks at [`Store::view`] again.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes what the files say now. Where that contradicts itself or the store, what was taken before stays.
    pub fn set_files(&self, files: Resources) -> Result<(), ConfigErrors> {
        let mut mesh = self.lock();
        let mut next = mesh.clone();
        next.remove_files();
        next.put(&files, Origin::Files);
        let snapshot = next.judge()?;
        *mesh = next;
        let view = self.view();
        self.publish(View { generation: view.generation, resources: view.resources.clone(), snapshot });
        Ok(())
    }

    /// Takes over what instances register of their functions, by Service. Returns whether that is something else than before.
    pub fn set_registered(
        &self,
        devices: &[(ServiceName, Option<RegisteredDevice>)],
    ) -> Result<bool, ConfigErrors> {
        let mut mesh = self.lock();
        let mut next = mesh.clone();
        let mut is_other = false;
        for (service, device) in devices {
            is_other |= next.set_registered(service, device.clone());
        }
        if is_other {
            let snapshot = next.judge()?;
            *mesh = next;
            let view = self.view();
            self.publish(View { generation: view.generation, resources: view.resources.clone(), snapshot });
        }
        Ok(is_other)
    }

    /// The Migrations that are asked for, by namespace and name.
    pub fn migrations(&self) -> Vec<(Key, Migration)> {
        self.lock().migrations()
    }

    /// The Devices in force, written or registered, by namespace and name.
    pub fn devices(&self) -> Vec<DeviceInForce> {
        self.lock().devices()
    }

    fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
        self.changed.send_modify(|views| *views += 1);
    }

    /// The right to change something. A panic of another writer has left nothing half done: what there is, is replaced
    /// whole.
    fn lock(&self) -> MutexGuard<'_, Mesh> {
        self.mesh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
