//! The file in which what is in force outlives the process.
//!
//! Its first line names the format and its version; a SHA-256 of the rest follows, then the rest. Who reads it knows
//! which services a workload calls, so that nobody but its owner may.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lighter_config::xds::client::Kept;
use sha2::{Digest, Sha256};

/// Where the file is within the folder `state`.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join("discovery")
}

/// Reads it. `None`: there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Kept>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let faulty = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let rest = bytes.strip_prefix(HEADER).ok_or_else(|| faulty("it is not of this format and version"))?;
    let (digest, content) = rest.split_at_checked(DIGEST).ok_or_else(|| faulty("it is cut short"))?;
    if Sha256::digest(content)[..] != *digest {
        return Err(faulty("its checksum is wrong"));
    }
    Kept::from_bytes(content).map(Some).map_err(|error| faulty(&error.to_string()))
}

/// Writes it: whole or not at all, and only its owner can read it.
pub(super) fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let content = kept.to_bytes();
    let new = path.with_extension(format!("new-{}", std::process::id()));
    // What a process of this number left when it died.
    let _ = fs::remove_file(&new);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(HEADER)?;
        file.write_all(&Sha256::digest(&content))?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&new)))
}

const HEADER: &[u8] = b"lighter discovery 1\n";
const DIGEST: usize = 32;
/// More is none of ours.
const MAX_BYTES: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_only_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder.path().join("deep/state"));
        assert_eq!(read(&path).unwrap(), None);
        write(&path, &Kept::default()).unwrap();
        write(&path, &Kept::default()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(Kept::default()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_whole_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        write(&path, &Kept::default()).unwrap();
        let good = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read(&path).unwrap_err().to_string()
        };
        assert_eq!(refused(&good[..good.len() - 1]), "it is cut short");
        assert_eq!(refused(&[&good[..], b"x"].concat()), "its checksum is wrong");
        assert_eq!(refused(b"lighter discovery 2\n"), "it is not of this format and version");
        assert_eq!(refused(b""), "it is not of this format and version");
    }
}
