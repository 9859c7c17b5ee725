//! Files in which this sidecar keeps what outlives the process.
//!
//! The first line names the format and its version; a SHA-256 of the rest follows, then the rest. They are written whole
//! or not at all, and nobody but their owner may read them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Reads one whose first line is `header`. `None`: there is none.
pub(crate) fn read(path: &Path, header: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let rest = bytes.strip_prefix(header).ok_or_else(|| faulty("it is not of this format and version"))?;
    let (digest, content) = rest.split_at_checked(DIGEST).ok_or_else(|| faulty("it is cut short"))?;
    if Sha256::digest(content)[..] != *digest {
        return Err(faulty("its checksum is wrong"));
    }
    Ok(Some(content.to_vec()))
}

/// Writes one, and its folder where there is none.
pub(crate) fn write(path: &Path, header: &[u8], content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    // What a process of this number left when it died.
    let _ = fs::remove_file(&new);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(header)?;
        file.write_all(&Sha256::digest(content))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&new)))
}

/// What is kept is not usable.
pub(crate) fn faulty(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

const DIGEST: usize = 32;
/// More is none of ours.
const MAX_BYTES: u64 = 256 << 20;
