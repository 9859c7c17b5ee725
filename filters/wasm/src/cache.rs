//! Machine code of components that were compiled before, by what they are and by what compiled them.
//!
//! What lies here is run. So the folder belongs to this user alone, and a file says what its bytes have to sum up to: one
//! that was cut or changed is compiled anew.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

/// Bytes of the sum that a file begins with.
const SUM: usize = 32;

/// A folder of machine code.
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In this folder, which is made where there is none. One that others may write in, or read, is refused.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(folder)?;
        let own = found.uid() == rustix::process::geteuid().as_raw();
        if !found.is_dir() || !own || found.mode() & 0o077 != 0 {
            let why = "what lies there is run: it has to be a folder of this user, of mode 0700";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Cache { folder: folder.to_owned() })
    }

    /// What was compiled of the component with this digest, if it is there and whole.
    pub(crate) fn load(&self, engine: &Engine, digest: &str) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.path(engine, digest), flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).ok()?;
        let (sum, code) = bytes.split_at_checked(SUM)?;
        (Sha256::digest(code).as_slice() == sum).then(|| code.to_vec())
    }

    /// Keeps what was compiled. Whoever reads finds it whole or not at all.
    pub(crate) fn store(&self, engine: &Engine, digest: &str, code: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        file.persist(self.path(engine, digest)).map_err(|error| error.error)?;
        Ok(())
    }

    fn path(&self, engine: &Engine, digest: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder.join(format!("{digest}-{:016x}", hasher.finish()))
    }
}
