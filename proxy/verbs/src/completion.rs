//! What became of requests.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};

use ibverbs_sys as ffi;
use ibverbs_sys::{ibv_comp_channel, ibv_cq, ibv_wc, ibv_wc_opcode, ibv_wc_status};
use tokio::io::unix::AsyncFd;

use crate::context::watch;
use crate::{Context, Error};

/// Where requests of any number of queue pairs end. Clones are the same one.
#[derive(Clone)]
pub struct CompletionQueue {
    inner: Arc<Queue>,
}

/// One request's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What the request was called.
    pub id: u64,
    /// The queue pair's number.
    pub pair: u32,
    /// How it ended. If badly, nothing below means anything.
    pub status: Status,
    /// Whether this was a request to receive: something came from the peer.
    pub received: bool,
    /// How many bytes came or went.
    pub len: u32,
    /// The number that the peer gave with what came.
    pub immediate: Option<u32>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should: a write is in the peer's memory.
    Success,
    /// The queue pair was in error before its turn came.
    Flushed,
    /// The peer does not let us write there.
    RemoteAccess,
    /// The peer acknowledged nothing.
    RetriesExceeded,
    /// The peer had no request to receive, for too long.
    ReceiverNotReady,
    /// Something else, by its number in `verbs.h`.
    Other(u32),
}

impl Status {
    /// The labels of all that is not success.
    pub const LABELS: [&'static str; 5] =
        ["flushed", "remote_access", "retries_exceeded", "receiver_not_ready", "other"];

    /// Where its label stands among [`LABELS`](Self::LABELS). None: it is success.
    pub const fn index(self) -> Option<usize> {
        Some(match self {
            Status::Success => return None,
            Status::Flushed => 0,
            Status::RemoteAccess => 1,
            Status::RetriesExceeded => 2,
            Status::ReceiverNotReady => 3,
            Status::Other(_) => 4,
        })
    }
}

impl CompletionQueue {
    /// Makes one with room for so many completions. Its users never have more requests under way: one that overflows is
    /// lost. Within a tokio runtime.
    ///
    /// # Errors
    /// The device has no more, or none so large.
    pub fn new(context: &Context, entries: u32) -> Result<Self, Error> {
        let channel = Channel::new(context)?;
        let entries = i32::try_from(entries).unwrap_or(i32::MAX);
        // SAFETY: context and channel are open, and kept by what is made here.
        let handle = unsafe {
            ffi::ibv_create_cq(context.handle().as_ptr(), entries, null_mut(), channel.handle.as_ptr(), 0)
        };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_create_cq"))?;
        Ok(CompletionQueue { inner: Arc::new(Queue { handle, channel }) })
    }

    /// Appends what has completed, and says how many that were: a batch at most.
    ///
    /// # Errors
    /// The queue is broken, for instance by an overflow.
    pub fn poll(&self, to: &mut Vec<Completion>) -> Result<usize, Error> {
        let mut batch = [ibv_wc::default(); BATCH];
        let queue = self.handle().as_ptr();
        let number = match self.operations().poll_cq {
            // SAFETY: the queue is valid, and the batch is there to be written.
            Some(poll) => unsafe { poll(queue, BATCH as i32, batch.as_mut_ptr()) },
            None => -1,
        };
        let number = usize::try_from(number)
            .map_err(|_| Error::Verb { verb: "ibv_poll_cq", source: io::ErrorKind::Other.into() })?;
        to.extend(batch.iter().take(number).map(Completion::of));
        Ok(number)
    }

    /// Waits until something has completed, and appends it.
    ///
    /// # Errors
    /// The queue is broken.
    pub async fn completed(&self, to: &mut Vec<Completion>) -> Result<usize, Error> {
        loop {
            let number = self.poll(to)?;
            if number > 0 {
                return Ok(number);
            }
            self.ask_for_notice()?;
            // What came before the asking is not told.
            let number = self.poll(to)?;
            if number > 0 {
                return Ok(number);
            }
            std::future::poll_fn(|cx| self.poll_notice(cx)).await?;
        }
    }

    /// Ready once there is the notice that was asked for. Wakes the last task that waited.
    ///
    /// # Errors
    /// The channel is broken.
    pub fn poll_notice(&self, cx: &mut Task<'_>) -> Poll<Result<(), Error>> {
        let noticed = ready!(self.inner.poll_notice(cx));
        Poll::Ready(noticed.map_err(|source| Error::Verb { verb: "ibv_get_cq_event", source }))
    }

    pub(crate) fn handle(&self) -> NonNull<ibv_cq> {
        self.inner.handle
    }

    /// Asks for a notice of the next completion. What came before is not told: whoever asks polls once more.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn ask_for_notice(&self) -> Result<(), Error> {
        let queue = self.handle().as_ptr();
        let number = match self.operations().req_notify_cq {
            // SAFETY: the queue is valid.
            Some(ask) => unsafe { ask(queue, 0) },
            None => libc::ENOSYS,
        };
        Error::check("ibv_req_notify_cq", number)
    }

    fn operations(&self) -> &ffi::ibv_context_ops {
        // SAFETY: the queue is valid, and so is the context that it was made of.
        unsafe { &(*self.handle().as_ref().context).ops }
    }
}

/// How many completions are taken at once.
const BATCH: usize = 16;

impl Completion {
    fn of(completion: &ibv_wc) -> Self {
        let received = matches!(
            completion.opcode,
            ibv_wc_opcode::IBV_WC_RECV | ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM
        );
        let told = completion.wc_flags & ffi::ibv_wc_flags::IBV_WC_WITH_IMM;
        Completion {
            id: completion.wr_id,
            pair: completion.qp_num,
            status: Status::of(completion.status),
            received,
            len: completion.byte_len,
            // Numbers go over the wire as they lie in memory; ours are big endian.
            immediate: (received && told.0 != 0).then(|| u32::from_be(completion.imm_data)),
        }
    }
}

impl Status {
    fn of(status: ibv_wc_status::Type) -> Self {
        match status {
            ibv_wc_status::IBV_WC_SUCCESS => Status::Success,
            ibv_wc_status::IBV_WC_WR_FLUSH_ERR => Status::Flushed,
            ibv_wc_status::IBV_WC_REM_ACCESS_ERR => Status::RemoteAccess,
            ibv_wc_status::IBV_WC_RETRY_EXC_ERR => Status::RetriesExceeded,
            ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR => Status::ReceiverNotReady,
            other => Status::Other(other),
        }
    }
}

struct Queue {
    handle: NonNull<ibv_cq>,
    /// Dropped after the queue is destroyed.
    channel: Channel,
}

// SAFETY: libibverbs may be called from all threads with the same handle.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Takes a notice of the channel, and acknowledges it: the queue cannot be destroyed before.
    fn poll_notice(&self, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        let take = || {
            let (mut queue, mut user) = (null_mut(), null_mut());
            // SAFETY: the channel is open, and both are there to be written.
            match unsafe { ffi::ibv_get_cq_event(self.channel.handle.as_ptr(), &mut queue, &mut user) } {
                0 => {
                    // SAFETY: one notice of this queue was taken; the channel has no other queue.
                    unsafe { ffi::ibv_ack_cq_events(queue, 1) };
                    Ok(())
                }
                _ => Err(io::Error::last_os_error()),
            }
        };
        loop {
            let mut ready = ready!(self.channel.notices.poll_read_ready(cx))?;
            if let Ok(taken) = ready.try_io(|_| take()) {
                return Poll::Ready(taken);
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue pairs that used it held it, so they are gone, and every notice taken is acknowledged.
        unsafe { ffi::ibv_destroy_cq(self.handle.as_ptr()) };
    }
}

/// The descriptor that wakes.
struct Channel {
    handle: NonNull<ibv_comp_channel>,
    notices: AsyncFd<OwnedFd>,
    /// Keeps the device until the channel is gone.
    _context: Context,
}

impl Channel {
    fn new(context: &Context) -> Result<Self, Error> {
        // SAFETY: the context is open, and kept by what is made here.
        let handle = unsafe { ffi::ibv_create_comp_channel(context.handle().as_ptr()) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_create_comp_channel"))?;
        // SAFETY: the handle is valid.
        match watch(unsafe { handle.as_ref() }.fd) {
            Ok(notices) => Ok(Channel { handle, notices, _context: context.clone() }),
            Err(source) => {
                // SAFETY: the handle was made above and is used no more.
                unsafe { ffi::ibv_destroy_comp_channel(handle.as_ptr()) };
                Err(Error::Verb { verb: "ibv_create_comp_channel", source })
            }
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: its queue is gone.
        unsafe { ffi::ibv_destroy_comp_channel(self.handle.as_ptr()) };
    }
}
