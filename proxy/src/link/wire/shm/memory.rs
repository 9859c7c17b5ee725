//! The memory of a wire: one sealed memfd with the words of both sides and both rings.
//!
//! The peer can write to it at any time, whatever it promised. So there is never a reference to it but to atomic words: words
//! are loaded and stored atomically, bytes are copied between it and memory of this process, and only the copies are looked
//! at. It cannot shrink, so that no access faults; where in it anything lies follows from the size that this side agreed
//! to, and from nothing that is written in it. On both sides of it lie pages that nobody may touch: should one byte outside
//! of it be read or written all the same, the system ends the process, and no other memory is told or changed.

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use tokio::runtime::Handle;

use super::{AttachFault, LEAST_RING_BYTES, MOST_RING_BYTES, memory_bytes};
use crate::link::wire::ring::{Memory, Side, Word};

/// The memory, mapped. It is unmapped when this is dropped.
#[derive(Debug)]
pub(super) struct Shared {
    mapping: Mapping,
    ring_bytes: usize,
    /// Where it is unmapped, if not where it is dropped: to give up all pages of a ring takes longer than a request.
    unmapped_at: Option<Handle>,
}

/// What was mapped, until it is unmapped. [`GUARD_BYTES`] before and behind it belong to it, and to nobody's use.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to one value alone and may be used from any thread; what the peer does to it at the same time
// is provided for.
unsafe impl Send for Mapping {}

impl Shared {
    /// Makes memory for two rings of `ring_bytes` each. The descriptor is what the peer gets.
    pub(super) fn make(ring_bytes: u32) -> Result<(Self, OwnedFd), AttachFault> {
        check_size(ring_bytes)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("lighter-link", flags)?;
        rustix::fs::ftruncate(&memory, memory_bytes(ring_bytes) as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Shared::map(&memory, ring_bytes)?, memory))
    }

    /// Maps what a peer made, if it is memory of exactly the agreed size that stays so. A file would fault when it shrinks, a
    /// device could do anything, and huge pages, which may be refused at the first touch, never have this size.
    pub(super) fn take(memory: &OwnedFd, ring_bytes: u32) -> Result<Self, AttachFault> {
        check_size(ring_bytes)?;
        // Nothing but a memfd has seals.
        let seals = rustix::fs::fcntl_get_seals(memory).map_err(|_| AttachFault::Memory)?;
        let stat = rustix::fs::fstat(memory)?;
        let sized = u64::try_from(stat.st_size).is_ok_and(|size| size == memory_bytes(ring_bytes) as u64);
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) || !sized || !regular {
            return Err(AttachFault::Memory);
        }
        Shared::map(memory, ring_bytes)
    }

    fn map(memory: impl AsFd, ring_bytes: u32) -> Result<Self, AttachFault> {
        let len = memory_bytes(ring_bytes);
        let (none, all) = (ProtFlags::empty(), len + 2 * GUARD_BYTES);
        let place = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the system chooses the place, so that nothing that exists is mapped over.
        let around = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), all, none, place)? };
        // SAFETY: within what was mapped just now.
        let base = unsafe { around.cast::<u8>().add(GUARD_BYTES) };
        let mapping = Mapping { base: NonNull::new(base).ok_or(AttachFault::Memory)?, len };
        let shared = Shared { mapping, ring_bytes: ring_bytes as usize, unmapped_at: None };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: it takes the place of what was mapped for it just now, which nobody else knows of, and leaves the guards.
        unsafe { rustix::mm::mmap(base.cast(), len, access, MapFlags::SHARED | MapFlags::FIXED, memory, 0)? };
        Ok(shared)
    }

    /// Has the pages that are used first, so that no request waits for them: the words, and the front of both rings. The
    /// others take memory once bytes lie in them.
    pub(super) fn touch(&self) {
        let front = self.ring_bytes.min(TOUCHED_BYTES);
        for (at, len) in [(0, HEADER_BYTES + front), (HEADER_BYTES + self.ring_bytes, front)] {
            // SAFETY: within the mapping, as a front is no longer than a ring; no byte changes. A kernel before 5.14 does not
            // know this, and makes the pages when they are used.
            let _ = unsafe {
                let from = self.mapping.base.as_ptr().add(at).cast();
                rustix::mm::madvise(from, len, Advice::LinuxPopulateWrite)
            };
        }
    }

    /// Is unmapped by a task of `runtime`, wherever this is dropped.
    pub(super) fn unmapped_at(self, runtime: Handle) -> Self {
        let mut shared = self;
        shared.unmapped_at = Some(runtime);
        shared
    }

    /// Word `at` of the slot in which `of` sends its probe and its echo.
    pub(super) fn slot(&self, of: Side, at: usize) -> &AtomicU64 {
        assert!(at < SLOT_WORDS);
        self.word_at(of as usize * SIDE_BYTES + SLOT_AT + at * size_of::<u64>())
    }

    fn word(&self, of: Side, word: Word) -> &AtomicU64 {
        self.word_at(of as usize * SIDE_BYTES + word as usize * LINE_BYTES)
    }

    fn word_at(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at + size_of::<u64>() <= HEADER_BYTES && at.is_multiple_of(size_of::<u64>()));
        // SAFETY: within the header, which is mapped as long as `self` lives, and aligned, since the mapping begins at a
        // page. This process uses it as an atomic word only. What the peer does with it is outside this program, and the
        // processor tears no aligned word.
        unsafe { AtomicU64::from_ptr(self.mapping.base.as_ptr().add(at).cast()) }
    }

    /// Where byte `at` of a ring lies, and `len` bytes from there on, all of them within it.
    fn bytes(&self, of: Side, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.ring_bytes && len <= self.ring_bytes - at, "outside the ring");
        // SAFETY: within the mapping, as the line before this one says.
        unsafe { self.mapping.base.as_ptr().add(HEADER_BYTES + of as usize * self.ring_bytes + at) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let unmaps = Unmaps(self.mapping);
        if let Some(runtime) = self.unmapped_at.take() {
            // One that is over drops the task at once, and what is in it.
            runtime.spawn(async move { drop(unmaps) });
        }
    }
}

/// Unmaps what was mapped when it is dropped.
struct Unmaps(Mapping);

impl Drop for Unmaps {
    fn drop(&mut self) {
        let Mapping { base, len } = self.0;
        // SAFETY: whoever made this had mapped it, with this length and both guards, and every pointer into it was borrowed from
        // there. That it fails would mean that the address is wrong, and it is the one that was given.
        let _ = unsafe {
            let from = base.as_ptr().sub(GUARD_BYTES);
            rustix::mm::munmap(from.cast(), len + 2 * GUARD_BYTES)
        };
    }
}

impl Memory for Shared {
    #[inline]
    fn load(&self, of: Side, word: Word) -> u64 {
        self.word(of, word).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, of: Side, word: Word, value: u64) {
        self.word(of, word).store(value, Ordering::Release);
    }

    #[inline]
    fn swap(&self, of: Side, word: Word, value: u64) -> u64 {
        self.word(of, word).swap(value, Ordering::AcqRel)
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn size(&self) -> usize {
        self.ring_bytes
    }

    fn put(&self, of: Side, at: usize, from: &[u8]) {
        let to = self.bytes(of, at, from.len());
        // SAFETY: `to` is valid for as many bytes and cannot overlap with a slice of this process. A peer that keeps to the
        // cursors touches none of them now; one that does not changes what is in them, and no more: the compiler knows
        // nothing of this memory but that a copy goes there.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }

    fn get(&self, of: Side, at: usize, to: &mut [u8]) {
        let from = self.bytes(of, at, to.len());
        // SAFETY: as above. Any bytes are bytes: whatever a peer puts there during the copy, the copy is looked at only when
        // it is done and nobody else can reach it.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }
}

fn check_size(ring_bytes: u32) -> Result<(), AttachFault> {
    let allowed = (LEAST_RING_BYTES..=MOST_RING_BYTES).contains(&ring_bytes);
    if allowed && ring_bytes.is_power_of_two() { Ok(()) } else { Err(AttachFault::Size) }
}

/// Of each ring so much is there before it is used.
const TOUCHED_BYTES: usize = 64 * 1024;

/// Bytes before the rings: a page.
pub(super) const HEADER_BYTES: usize = 4096;

/// Bytes before and behind the memory that nobody may touch: a page, also where those are large.
const GUARD_BYTES: usize = 64 * 1024;

/// Words of a slot: 64 bytes.
const SLOT_WORDS: usize = 8;

/// A line of the cache, and the one that is fetched with it.
const LINE_BYTES: usize = 128;

/// Where in a side's part of the header its slot lies: behind its three words.
const SLOT_AT: usize = 3 * LINE_BYTES;

/// Bytes of a side's part of the header.
const SIDE_BYTES: usize = 4 * LINE_BYTES;
