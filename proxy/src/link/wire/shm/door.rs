//! Where the two sides of a wire meet: one takes the other in at its door, and gives it the memory.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::directory::{Directory, is_door};
use super::memory::Shared;
use super::probe::prove;
use super::{ATTACH_LIMIT, AttachFault, ShmWire, Token, Tokens, same};
use crate::link::wire::ring::Side;
use crate::telemetry;

/// Where this process takes in whoever it awaits, for all of its links. Its name goes when it is dropped.
pub(crate) struct Door {
    directory: Arc<Directory>,
    /// Where everything about a wire is done that takes longer than a request may wait.
    runtime: Handle,
    name: String,
    listener: std::os::unix::net::UnixListener,
    awaited: Mutex<Vec<Awaited>>,
}

/// Why whoever came to the door was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// Nobody awaits the token that it showed.
    Token,
    /// It showed none in time.
    TimedOut,
    /// It went without showing one, as one does who only looks whether somebody is there.
    Gone,
    /// Too many others came after it.
    Crowd,
}

/// Who is awaited: whoever shows the token. Whoever awaits it may be on another worker.
struct Awaited {
    token: Token,
    hand_over: oneshot::Sender<StdUnixStream>,
}

impl Door {
    /// Opens a door in `directory`, or in the usual one. Fails where others could put one there. In the runtime that it is
    /// called in, memory is made, mapped and unmapped for all links, one after the other.
    pub(crate) fn open(directory: Option<&Path>) -> io::Result<Arc<Self>> {
        let directory = Arc::new(Directory::open(directory)?);
        directory.sweep()?;
        let (listener, name) = directory.bind()?;
        let door = Door { directory, runtime: Handle::current(), name, listener, awaited: Mutex::default() };
        door.listener.set_nonblocking(true)?;
        Ok(Arc::new(door))
    }

    /// The name, for the peer. It looks for it where its own door is.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes in whoever is awaited, until this future is dropped. Each gets a moment to show its token; where too many
    /// come at once, the ones who came first go.
    pub(crate) async fn serve(self: Arc<Self>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let mut guests = JoinSet::new();
        let mut order = VecDeque::<AbortHandle>::new();
        loop {
            let guest = match listener.accept().await {
                Ok((guest, _)) => guest,
                Err(error) => {
                    // There is no descriptor: then a pause gives others time to close.
                    tracing::warn!(%error, "the door for shared memory cannot accept");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            while guests.try_join_next().is_some() {}
            order.retain(|guest| !guest.is_finished());
            if order.len() >= MOST_GUESTS
                && let Some(oldest) = order.pop_front()
            {
                oldest.abort();
                telemetry::links().turned_away(Stranger::Crowd);
            }
            let door = self.clone();
            order.push_back(guests.spawn(async move {
                // What goes wrong here is the guest's affair: whoever awaits it waits no longer than it would anyway.
                let taken = timeout(TOKEN_LIMIT, door.take_in(guest)).await;
                if let Err(stranger) = taken.unwrap_or(Err(Stranger::TimedOut)) {
                    telemetry::links().turned_away(stranger);
                }
            }));
        }
    }

    /// Awaits the peer of a wire, from this call on: the peer may be told of it before the future is first polled. Makes the
    /// memory, and ends when the wire is proved. The wire is of the runtime that polls the future.
    pub(crate) fn expect(
        &self,
        tokens: &Tokens,
        ring_bytes: u32,
    ) -> impl Future<Output = Result<ShmWire, AttachFault>> + Send + use<> {
        let (hand_over, handed) = oneshot::channel();
        self.awaited().push(Awaited { token: tokens.theirs, hand_over });
        let (ours, runtime) = (tokens.ours, self.runtime.clone());
        let unmapped_at = runtime.clone();
        let given = async move {
            let socket = handed.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            pause().await;
            let (memory, descriptor) = Shared::make(ring_bytes)?;
            let memory = memory.unmapped_at(unmapped_at);
            memory.touch();
            pause().await;
            give(&socket, &ours, &descriptor)?;
            Ok((memory, socket))
        };
        in_time(meet(runtime, given, Side::Maker))
    }

    /// Goes to the door that a peer named, takes the memory, and ends when the wire is proved. The wire is of the runtime
    /// that polls the future. It looks nowhere but in its own directory, whatever the name.
    pub(crate) async fn attach(
        &self,
        name: &str,
        tokens: &Tokens,
        ring_bytes: u32,
    ) -> Result<ShmWire, AttachFault> {
        if !is_door(name) {
            return Err(AttachFault::Name);
        }
        let (path, directory) = (self.directory.reach(name), self.directory.clone());
        let (Tokens { ours, theirs }, unmapped_at) = (tokens.clone(), self.runtime.clone());
        let taken = async move {
            let mut socket = UnixStream::connect(path).await?;
            drop(directory);
            socket.write_all(&ours).await?;
            let descriptor = take(&socket, &theirs).await?;
            pause().await;
            let memory = Shared::take(&descriptor, ring_bytes)?.unmapped_at(unmapped_at);
            memory.touch();
            Ok((memory, socket.into_std()?))
        };
        in_time(meet(self.runtime.clone(), taken, Side::Taker)).await
    }

    /// Reads a guest's token, and hands the guest to whoever awaits it. A token is good for one guest.
    async fn take_in(&self, mut guest: UnixStream) -> Result<(), Stranger> {
        let mut shown = [0; size_of::<Token>()];
        guest.read_exact(&mut shown).await.map_err(|_| Stranger::Gone)?;
        let hand_over = self.claim(&shown).ok_or(Stranger::Token)?;
        let guest = guest.into_std().map_err(|_| Stranger::Gone)?;
        // Whoever awaited it may have given up just now: then the guest finds the door closed.
        hand_over.send(guest).map_err(|_| Stranger::Token)
    }

    fn claim(&self, shown: &Token) -> Option<oneshot::Sender<StdUnixStream>> {
        let mut awaited = self.awaited();
        awaited.retain(|one| !one.hand_over.is_closed());
        let mut found = None;
        // All of them are compared, each in constant time: how long it takes says nothing of any.
        for (at, one) in awaited.iter().enumerate() {
            if same(&one.token, shown) {
                found = Some(at);
            }
        }
        found.map(|at| awaited.swap_remove(at).hand_over)
    }

    fn awaited(&self) -> MutexGuard<'_, Vec<Awaited>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// All of them.
    pub(crate) const ALL: [Stranger; 4] =
        [Stranger::Token, Stranger::TimedOut, Stranger::Gone, Stranger::Crowd];

    /// The label, in metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Stranger::Token => "token",
            Stranger::TimedOut => "timed_out",
            Stranger::Gone => "gone",
            Stranger::Crowd => "crowd",
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.directory.remove(&self.name);
    }
}

/// Comes by the memory and the socket in a task of `runtime`, and proves them here: whoever was echoed may go over at once,
/// and what it writes is not to wait for another thread.
async fn meet(
    runtime: Handle,
    come_by: impl Future<Output = Result<(Shared, StdUnixStream), AttachFault>> + Send + 'static,
    side: Side,
) -> Result<ShmWire, AttachFault> {
    // A set ends with whoever waits for it.
    let mut task = JoinSet::new();
    task.spawn_on(come_by, &runtime);
    let done = task.join_next().await.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
    let (mut memory, socket) = done.map_err(io::Error::other)??;
    let socket = UnixStream::from_std(socket)?;
    prove(&mut memory, &socket, side).await?;
    Ok(ShmWire::new(memory, socket, side))
}

/// Shows the token, and gives the descriptor with it. Both fit into an empty socket, so that nothing is waited for.
fn give(socket: &StdUnixStream, token: &Token, descriptor: &OwnedFd) -> Result<(), AttachFault> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(token)], &mut control, flags)?;
    Ok(())
}

/// Waits for the token and the one descriptor that comes with it. Whatever else came is closed.
pub(super) async fn take(socket: &UnixStream, token: &Token) -> Result<OwnedFd, AttachFault> {
    let mut shown = [0; size_of::<Token>()];
    let (bytes, whole, mut descriptors) = socket
        .async_io(Interest::READABLE, || {
            // Room for a second one shows that there was one.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut shown)], &mut control, flags)?;
            let descriptors: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                })
                .flatten()
                .collect();
            Ok((got.bytes, !got.flags.contains(ReturnFlags::CTRUNC), descriptors))
        })
        .await?;
    if bytes != shown.len() || !same(&shown, token) {
        return Err(AttachFault::Token);
    }
    match descriptors.pop() {
        Some(descriptor) if descriptors.is_empty() && whole => Ok(descriptor),
        _ => Err(AttachFault::Memory),
    }
}

/// Between two pieces of what a meeting takes, each some ten microseconds: requests in flight, which use both workers several
/// times, wait for one of them and not for all. So they do where all threads share one processor.
pub(super) async fn pause() {
    sleep(PAUSE).await;
}

async fn in_time<T>(attached: impl Future<Output = Result<T, AttachFault>>) -> Result<T, AttachFault> {
    timeout(ATTACH_LIMIT, attached).await.unwrap_or(Err(AttachFault::TimedOut))
}

/// How long requests have a worker to themselves: several times what one takes.
const PAUSE: Duration = Duration::from_millis(1);

/// Guests whose tokens are awaited at the same time.
const MOST_GUESTS: usize = 64;

/// How long a guest may take to show its token.
const TOKEN_LIMIT: Duration = Duration::from_secs(1);
