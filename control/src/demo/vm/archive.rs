//! The machine's files at its start: an archive in the format that the kernel unpacks (cpio, "newc").

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;

/// An archive that is being written.
pub struct Archive {
    to: BufWriter<File>,
    /// Files and folders that it has.
    names: BTreeSet<String>,
}

impl Archive {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Archive { to: BufWriter::new(File::create(path)?), names: BTreeSet::new() })
    }

    /// A folder, and those that it is in.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        for (end, _) in name.match_indices('/').chain([(name.len(), "")]) {
            let part = &name[..end];
            if !part.is_empty() && self.names.insert(part.to_owned()) {
                self.entry(part, FOLDER, b"")?;
            }
        }
        Ok(())
    }

    /// A file that may be run.
    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder)?;
        }
        if self.names.insert(name.to_owned()) { self.entry(name, PROGRAM, content) } else { Ok(()) }
    }

    /// A file of this host or of a package.
    pub fn copy(&mut self, name: &str, from: &Path) -> io::Result<()> {
        let content =
            std::fs::read(from).map_err(|error| io::Error::other(format!("{}: {error}", from.display())))?;
        self.file(name, &content)
    }

    /// A program of this host with every library that it is linked to, at their own paths.
    pub fn program(&mut self, name: &str, from: &Path) -> io::Result<()> {
        let libraries = Command::new("ldd").arg(from).output()?;
        for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace() {
            if let Some(library) = word.strip_prefix('/') {
                self.copy(library, Path::new(word))?;
            }
        }
        self.copy(name, from)
    }

    /// Ends it.
    pub fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, b"")?;
        self.to.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let number = self.names.len() as u32;
        let links = if mode == FOLDER { 2 } else { 1 };
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        write!(self.to, "070701")?;
        // Inode, mode, user, group, links, time, size, four device numbers, the name's size, a checksum that is none.
        for field in [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            write!(self.to, "{field:08x}")?;
        }
        write!(self.to, "{name}\0")?;
        self.pad(HEADER + name.len() + 1)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    /// Everything begins at a multiple of four.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

const HEADER: usize = 110;
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
