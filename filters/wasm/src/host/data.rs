//! `lighter:device`: the datasets of the component's tenant, and what it remembers.

use std::fs::File;
use std::os::unix::fs::FileExt;

use lighter_functions::keys::{Frozen, NotKept};
use lighter_functions::{Dataset, Fault, Format};
use wasmtime::component::Resource;

use super::State;
use super::lighter::device::{datasets, keyvalue};

/// Most bytes that are read by one call.
const MOST_READ: u32 = 1 << 20;

/// A dataset that was opened.
pub struct Opened {
    file: File,
    size: u64,
    version: String,
    format: Format,
}

type Answered<T> = wasmtime::Result<Result<T, datasets::Error>>;

impl datasets::Host for State {}

impl datasets::HostDataset for State {
    fn open(&mut self, name: String, version: Option<String>) -> Answered<Resource<Opened>> {
        let all = self.setup.as_ref().map_or(&[][..], |setup| &setup.datasets);
        let found = all.iter().find(|dataset| dataset.name == name);
        // What others have looks like what nobody has.
        let Some(dataset) = found.filter(|dataset| *dataset.tenant == *self.tenant) else {
            if found.is_some() {
                self.meter.deny();
            }
            return Ok(Err(datasets::Error::NoSuchDataset));
        };
        if version.is_some_and(|version| version != dataset.version) {
            return Ok(Err(datasets::Error::OtherVersion(dataset.version.clone())));
        }
        match opened(dataset) {
            Ok(opened) => Ok(Ok(self.push(opened)?)),
            // Where the file lies is nothing that a component has to know.
            Err(error) => Ok(Err(datasets::Error::Unreadable(error.kind().to_string()))),
        }
    }

    fn version(&mut self, dataset: Resource<Opened>) -> wasmtime::Result<String> {
        Ok(self.table.get(&dataset)?.version.clone())
    }

    fn format(&mut self, dataset: Resource<Opened>) -> wasmtime::Result<datasets::Format> {
        Ok(match self.table.get(&dataset)?.format {
            Format::Csv => datasets::Format::Csv,
            Format::Jsonl => datasets::Format::Jsonl,
            Format::Parquet => datasets::Format::Parquet,
        })
    }

    fn size(&mut self, dataset: Resource<Opened>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&dataset)?.size)
    }

    fn read(&mut self, dataset: Resource<Opened>, offset: u64, length: u32) -> Answered<Vec<u8>> {
        let opened = self.table.get(&dataset)?;
        // A file that has grown since ends where it ended.
        let length = u64::from(length.min(MOST_READ)).min(opened.size.saturating_sub(offset));
        self.meter.hold(length)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = opened.file.read_exact_at(&mut bytes, offset);
        self.meter.release(length);
        if let Err(error) = read {
            return Ok(Err(datasets::Error::Unreadable(error.kind().to_string())));
        }
        self.meter.read(length)?;
        Ok(Ok(bytes))
    }

    fn drop(&mut self, dataset: Resource<Opened>) -> wasmtime::Result<()> {
        self.take(dataset).map(drop)
    }
}

fn opened(dataset: &Dataset) -> std::io::Result<Opened> {
    let file = File::open(&dataset.path)?;
    let size = file.metadata()?.len();
    Ok(Opened { file, size, version: dataset.version.clone(), format: dataset.format })
}

impl keyvalue::Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.keys.get(&self.tenant, &key))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), keyvalue::Error>> {
        told(self.keys.set(&self.tenant, key, value))
    }

    fn swap(
        &mut self,
        key: String,
        before: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, keyvalue::Error>> {
        told(self.keys.swap(&self.tenant, key, before.as_deref(), value))
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<bool> {
        Ok(self.keys.delete(&self.tenant, &key).map_err(Fault::from)?)
    }

    fn keys(&mut self, prefix: String, after: String) -> wasmtime::Result<Vec<String>> {
        Ok(self.keys.list(&self.tenant, &prefix, &after))
    }
}

/// What a component is told of what it wanted to have kept. None of it where that is about to move: the run ends.
fn told<T>(kept: Result<T, NotKept>) -> wasmtime::Result<Result<T, keyvalue::Error>> {
    Ok(match kept {
        Ok(kept) => Ok(kept),
        Err(NotKept::NoRoom(quota)) => Err(keyvalue::Error::NoRoom(quota)),
        Err(NotKept::LongKey) => Err(keyvalue::Error::LongKey),
        Err(NotKept::Frozen) => return Err(Fault::from(Frozen).into()),
    })
}
