//! Memory that a device reaches.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys as ffi;
use ibverbs_sys::{ibv_access_flags, ibv_mr, ibv_pd};
use rustix::process::Resource;

use crate::{Context, Error};

/// A protection domain: queue pairs reach regions of their own domain only. Clones are the same one.
#[derive(Clone)]
pub struct Domain {
    inner: Arc<DomainHandle>,
}

/// Who writes into a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// This process and its own device.
    Local,
    /// The peer of any queue pair in the domain as well, wherever it knows the key.
    RemoteWrite,
}

/// Memory that stays where it is, and that the device reads and writes by itself.
///
/// The peer may write at any time, and a write half done may be seen: what is read here counts only where a completion
/// covers it. Nothing else of the process lies in the same pages.
pub struct Region {
    handle: NonNull<ibv_mr>,
    memory: NonNull<u8>,
    len: usize,
    /// Keeps the domain until the region is gone.
    _domain: Domain,
}

impl Domain {
    /// Makes one.
    ///
    /// # Errors
    /// The device has no more.
    pub fn new(context: &Context) -> Result<Self, Error> {
        // SAFETY: the context is open, and kept by what is made here.
        let handle = unsafe { ffi::ibv_alloc_pd(context.handle().as_ptr()) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_alloc_pd"))?;
        Ok(Domain { inner: Arc::new(DomainHandle { handle, context: context.clone() }) })
    }

    /// The device that it belongs to.
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    pub(crate) fn handle(&self) -> NonNull<ibv_pd> {
        self.inner.handle
    }
}

impl Region {
    /// Makes a region of zeroes, in whole pages.
    ///
    /// # Errors
    /// RLIMIT_MEMLOCK, or memory itself, is too small.
    pub fn new(domain: &Domain, len: usize, access: Access) -> Result<Self, Error> {
        let memory = map(len).map_err(|source| Error::Verb { verb: "mmap", source })?;
        let flags = match access {
            Access::Local => ibv_access_flags::IBV_ACCESS_LOCAL_WRITE,
            Access::RemoteWrite => {
                ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            }
        };
        // SAFETY: the memory was mapped with this length, and stays until the region is deregistered.
        let handle = unsafe {
            ffi::ibv_reg_mr(domain.handle().as_ptr(), memory.as_ptr().cast(), len, flags.0.cast_signed())
        };
        match NonNull::new(handle) {
            Some(handle) => Ok(Region { handle, memory, len, _domain: domain.clone() }),
            None => {
                let error = refused(len, io::Error::last_os_error());
                unmap(memory, len);
                Err(error)
            }
        }
    }

    /// Where it lies, for a peer that writes to it.
    pub fn address(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    /// What a peer needs to write to it.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: the handle is valid until it is dropped.
        unsafe { self.handle.as_ref() }.rkey
    }

    /// Copies bytes out, from `at` on.
    ///
    /// # Panics
    /// They do not all lie in the region.
    pub fn read(&self, at: usize, to: &mut [u8]) {
        let from = self.part(&(at..at + to.len()));
        // SAFETY: the range lies in the mapping, and `to` is no part of it, as nobody else has a reference to that.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    /// Copies bytes in, from `at` on.
    ///
    /// # Panics
    /// They do not all lie in the region.
    pub fn write(&self, at: usize, from: &[u8]) {
        let to = self.part(&(at..at + from.len()));
        // SAFETY: as for reading.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }

    /// A part of it in a request's list.
    pub(crate) fn element(&self, range: &Range<usize>) -> ffi::ibv_sge {
        let address = self.part(range);
        // SAFETY: the handle is valid until it is dropped.
        let key = unsafe { self.handle.as_ref() }.lkey;
        // A region of 4 GiB is more than any device takes.
        let length = u32::try_from(range.len()).unwrap_or(u32::MAX);
        ffi::ibv_sge { addr: address as u64, length, lkey: key }
    }

    fn part(&self, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} bytes", self.len);
        // SAFETY: the place lies in the mapping.
        unsafe { self.memory.as_ptr().add(range.start) }
    }
}

// SAFETY: the memory belongs to the value; it is read and written by copying, and no reference to it is ever made.
unsafe impl Send for Region {}
// SAFETY: as above. Two threads that copy at once see mixed bytes, as with the peer's writes.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and used no more. From here on the device does not touch the memory: requests that
        // still name it fail.
        let number = unsafe { ffi::ibv_dereg_mr(self.handle.as_ptr()) };
        if number == 0 {
            unmap(self.memory, self.len);
        }
    }
}

struct DomainHandle {
    handle: NonNull<ibv_pd>,
    context: Context,
}

// SAFETY: libibverbs may be called from all threads with the same handle.
unsafe impl Send for DomainHandle {}
// SAFETY: as above.
unsafe impl Sync for DomainHandle {}

impl Drop for DomainHandle {
    fn drop(&mut self) {
        // SAFETY: what was made of the handle held it, so it is gone.
        unsafe { ffi::ibv_dealloc_pd(self.handle.as_ptr()) };
    }
}

/// Why a region was refused: the kernel says only that memory does not suffice.
fn refused(wanted: usize, source: io::Error) -> Error {
    let limit = rustix::process::getrlimit(Resource::Memlock).current;
    match limit {
        Some(limit) if source.raw_os_error() == Some(libc::ENOMEM) => Error::Memlock { limit, wanted },
        _ => Error::Verb { verb: "ibv_reg_mr", source },
    }
}

/// Pages of their own, which a child does not get: copying on write would move them away from under the device.
fn map(len: usize) -> io::Result<NonNull<u8>> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    // SAFETY: a new mapping at a place that the kernel picks touches nothing that exists.
    let memory = unsafe {
        mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
    };
    // SAFETY: the mapping is the one just made.
    let kept = unsafe { madvise(memory, len, Advice::LinuxDontFork) };
    let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    if let Err(error) = kept {
        unmap(memory, len);
        return Err(error.into());
    }
    Ok(memory)
}

fn unmap(memory: NonNull<u8>, len: usize) {
    // SAFETY: the mapping was made by `map` with this length, and nobody uses it any more. It cannot fail then.
    let _ = unsafe { rustix::mm::munmap(memory.as_ptr().cast(), len) };
}
