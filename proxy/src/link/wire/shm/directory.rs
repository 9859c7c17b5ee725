//! Where the doors are: a directory in which nobody else can put anything.
//!
//! It is opened once and checked as it was opened, and everything after that goes through the descriptor, so that no change
//! of its path matters. Its mode says who may come to a door; who may come in, the tokens say.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The directory, open.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
}

impl Directory {
    /// Opens `path`, or where this user's doors are. What does not exist is made, for this user alone.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Self> {
        if let Some(path) = path {
            return Directory::open_at(path);
        }
        let mut opened = Err(io::ErrorKind::NotFound.into());
        for path in by_default() {
            opened = opened.or_else(|_| Directory::open_at(&path));
        }
        opened
    }

    fn open_at(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        let alone =
            stat.st_uid == rustix::process::geteuid().as_raw() && !mode.intersects(Mode::RWXG | Mode::RWXO);
        let by_root = stat.st_uid == 0 && !mode.intersects(Mode::WGRP | Mode::WOTH);
        if !alone && !by_root {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} is neither this user's alone nor root's", path.display()),
            ));
        }
        Ok(Directory { fd })
    }

    /// Makes a door, and says its name. It has it only once it is open: what has a name and is not open was left behind.
    pub(super) fn bind(&self) -> io::Result<(UnixListener, String)> {
        let name = format!("{}-{:016x}{DOOR}", std::process::id(), fastrand::u64(..));
        let new = format!("{name}.new");
        let listener = UnixListener::bind(self.reach(&new))?;
        // The directory's mode says who may come.
        let opened = rustix::fs::chmodat(&self.fd, &new, Mode::from_raw_mode(0o666), AtFlags::empty())
            .and_then(|()| rustix::fs::renameat(&self.fd, &new, &self.fd, &name));
        if let Err(error) = opened {
            self.remove(&new);
            return Err(error.into());
        }
        Ok((listener, name))
    }

    /// Removes the doors of processes that ended without doing so themselves.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let listed = rustix::fs::openat(
            &self.fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        for entry in rustix::fs::Dir::new(listed)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && is_door(name)
                && self.is_left(name)
            {
                self.remove(name);
            }
        }
        Ok(())
    }

    /// The path of door `name` as a system call takes it: short, and through the descriptor.
    pub(crate) fn reach(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_fd().as_raw_fd()))
    }

    pub(crate) fn remove(&self, name: &str) {
        // What is not there any more need not be removed.
        let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
    }

    /// Whether nobody listens at door `name`.
    fn is_left(&self, name: &str) -> bool {
        let knock = || {
            let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
                return Ok(());
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(self.reach(name))?)
        };
        matches!(knock(), Err(Errno::CONNREFUSED))
    }
}

/// Whether `name`, which a peer may have sent, is that of a door: a file in this directory and in no other.
pub(super) fn is_door(name: &str) -> bool {
    let stem = name.strip_suffix(DOOR);
    stem.is_some_and(|stem| {
        (1..=MOST_STEM_BYTES).contains(&stem.len())
            && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// Where this user's doors are, best first. Who is root only in a user namespace of its own cannot write to `/run`.
fn by_default() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid();
    let for_root = uid.is_root().then(|| PathBuf::from("/run/lighter/links"));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|own| own.is_absolute());
    let temporary = std::env::temp_dir().join(format!("lighter-{}", uid.as_raw()));
    for_root.into_iter().chain(runtime.map(|own| own.join("lighter"))).chain([temporary]).collect()
}

/// How a door's name ends.
const DOOR: &str = ".link";

/// Bytes of a door's name before that.
const MOST_STEM_BYTES: usize = 64;
