//! The file in which what is in force outlives the process.
//!
//! Who reads it knows which services a workload calls.

use std::io;
use std::path::{Path, PathBuf};

use lighter_config::xds::client::Kept;

use crate::kept;

/// Where the file is within the folder `state`.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join("discovery")
}

/// Reads it. `None`: there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Kept>> {
    let Some(content) = kept::read(path, HEADER)? else { return Ok(None) };
    Kept::from_bytes(&content).map(Some).map_err(|error| kept::faulty(&error.to_string()))
}

/// Writes it: whole or not at all, and only its owner can read it.
pub(super) fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    kept::write(path, HEADER, &kept.to_bytes())
}

const HEADER: &[u8] = b"lighter discovery 1\n";

#[cfg(test)]
mod tests {
    use std::fs;
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
