//! The store's file: a redb database of one process.
//!
//! Resources are JSON documents under `kind/namespace/name`. Nothing here knows what they mean.

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lighter_config::manifest::Key;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};

use super::{StoreError, Stored};

/// The form of what is kept. It grows when older versions of Lighter would read it wrongly.
pub const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
const FACTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("facts");

/// The open file.
pub(super) struct Disk {
    path: PathBuf,
    database: Database,
}

/// What one commit changes.
pub(super) struct Batch<'b> {
    pub(super) generation: u64,
    pub(super) put: Vec<&'b Stored>,
    pub(super) remove: Vec<&'b Key>,
}

impl Disk {
    /// Opens or makes the file, and reads its generation and its resources.
    pub(super) fn open(path: &Path) -> Result<(Disk, u64, Vec<Stored>), StoreError> {
        let disk = Disk { database: database(path)?, path: path.to_path_buf() };
        let schema = disk.prepare()?;
        if schema != SCHEMA {
            return Err(StoreError::Schema(disk.path, schema));
        }
        let (generation, stored) = disk.read()?;
        Ok((disk, generation, stored))
    }

    /// Writes a batch, whole or not at all, and returns when the file system has it.
    pub(super) fn commit(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut resources = transaction.open_table(RESOURCES)?;
            for key in &batch.remove {
                resources.remove(&*name(key))?;
            }
            for stored in &batch.put {
                let bytes = serde_json::to_vec(stored).map_err(std::io::Error::from)?;
                resources.insert(&*name(&stored.key), &*bytes)?;
            }
            transaction.open_table(META)?.insert("generation", batch.generation)?;
            Ok(())
        })
    }

    /// The facts of one kind, by name.
    pub(super) fn facts(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(FACTS)?;
            let mut facts = Vec::new();
            for entry in table.range((kind, "")..)? {
                let (key, value) = entry?;
                let (of, name) = key.value();
                if of != kind {
                    break;
                }
                facts.push((name.to_string(), value.value().to_vec()));
            }
            Ok(facts)
        };
        read().map_err(|error| self.error(&error))
    }

    /// Changes facts of one kind: those with bytes are put, the others removed.
    pub(super) fn set_facts(
        &self,
        kind: &str,
        facts: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(FACTS)?;
            for (name, bytes) in facts {
                match bytes {
                    Some(bytes) => table.insert((kind, &**name), &**bytes)?,
                    None => table.remove((kind, &**name))?,
                };
            }
            Ok(())
        })
    }

    /// Makes the tables of a new file. Returns the schema of what is kept.
    fn prepare(&self) -> Result<u64, StoreError> {
        let read = || -> Result<Option<u64>, redb::Error> {
            match self.database.begin_read()?.open_table(META) {
                Ok(table) => Ok(table.get("schema")?.map(|schema| schema.value())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        if let Some(schema) = read().map_err(|error| self.error(&error))? {
            return Ok(schema);
        }
        self.write(|transaction| {
            transaction.open_table(RESOURCES)?;
            transaction.open_table(FACTS)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert("schema", SCHEMA)?;
            meta.insert("generation", 0)?;
            Ok(())
        })?;
        Ok(SCHEMA)
    }

    fn read(&self) -> Result<(u64, Vec<Stored>), StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let generation = transaction.open_table(META)?.get("generation")?.map_or(0, |g| g.value());
            let mut stored = Vec::new();
            for entry in transaction.open_table(RESOURCES)?.iter()? {
                stored.push(serde_json::from_slice(entry?.1.value()).map_err(std::io::Error::from)?);
            }
            Ok((generation, stored))
        };
        read().map_err(|error| self.error(&error))
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let write = || {
            let transaction = self.database.begin_write()?;
            change(&transaction)?;
            Ok(transaction.commit()?)
        };
        write().map_err(|error: redb::Error| self.error(&error))
    }

    fn error(&self, error: &redb::Error) -> StoreError {
        StoreError::Disk(self.path.clone(), error.to_string())
    }
}

/// The database in the file at `path`. Secrets may be in it: only its owner reads it.
fn database(path: &Path) -> Result<Database, StoreError> {
    let fault = |error: &dyn std::error::Error| StoreError::Disk(path.to_path_buf(), error.to_string());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| fault(&error))?;
    // Of a file that was there before, too.
    let owner_alone = std::fs::Permissions::from_mode(0o600);
    file.set_permissions(owner_alone).map_err(|error| fault(&error))?;
    FileBackend::new(file).and_then(|backend| Database::builder().create_with_backend(backend)).map_err(
        |error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_path_buf()),
            error => fault(&error),
        },
    )
}

fn name(key: &Key) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}
