//! Signals as a descriptor that can be polled, instead of handlers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals that are held back from this process (and all its threads to come) and read from a descriptor.
pub(super) struct Signals {
    descriptor: OwnedFd,
}

/// What was done with signals before, to be restored in the application.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    held: libc::sigset_t,
    /// SIGCHLD was ignored, which a program inherits.
    children_ignored: bool,
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal {
    /// Its number.
    pub(super) number: i32,
    /// Sent by the kernel for a key of the terminal: then every process of the foreground has it already.
    pub(super) from_terminal: bool,
}

/// What is passed on to the application.
pub(super) const PASSED_ON: [i32; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

impl Signals {
    /// Holds `numbers` back. The mask is what it was before.
    ///
    /// Where whoever started this process ignores SIGCHLD, the kernel would reap its children by itself, and
    /// nobody would learn how they ended; so that is undone until [`Mask::restore`].
    pub(super) fn hold(numbers: &[i32]) -> io::Result<(Self, Mask)> {
        let mut set = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initialises the set; `sigaddset` is given that set and signal numbers from libc.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for number in numbers {
                libc::sigaddset(&mut set, *number);
            }
            set
        };
        // SAFETY: both sets live for the call, which initialises `before` when it succeeds.
        let before = unsafe {
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) {
                0 => before.assume_init(),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        };
        // SAFETY: the set lives for the call; the descriptor that it returns is owned here and nowhere else.
        let descriptor = unsafe {
            match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => return Err(io::Error::last_os_error()),
                descriptor => OwnedFd::from_raw_fd(descriptor),
            }
        };
        // SAFETY: no handler is given, only the kernel's default action.
        let children_ignored = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } == libc::SIG_IGN;
        Ok((Signals { descriptor }, Mask { held: before, children_ignored }))
    }

    /// The next signal that came, if any.
    pub(super) fn next(&self) -> Option<Signal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.descriptor, &mut info) {
            Ok(length) if length == info.len() => {
                // SAFETY: the kernel filled the buffer with one whole structure of plain numbers; the read is
                // unaligned because a buffer of bytes is.
                let info: libc::signalfd_siginfo = unsafe { std::ptr::read_unaligned(info.as_ptr().cast()) };
                let number = info.ssi_signo as i32;
                Some(Signal { number, from_terminal: info.ssi_code == SI_KERNEL })
            }
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Mask {
    /// Holds back in this thread what was held back before, and nothing else; ignores SIGCHLD if it was ignored.
    /// Async-signal-safe.
    pub(super) fn restore(&self) -> io::Result<()> {
        if self.children_ignored {
            // SAFETY: no handler is given.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        }
        // SAFETY: the set is initialised and lives for the call.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.held, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// From the kernel's include/uapi/asm-generic/siginfo.h.
const SI_KERNEL: i32 = 0x80;
