//! The side of the process that serves.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::{AT_ONCE, Asks, Book, NAME, Named, Says, VERSION};
use crate::link::wire::shm::Directory;
use crate::messages::Channel;
use crate::worker::Shared;

/// What a successor gets, as long as there is something to hand over.
#[derive(Debug, Default)]
pub(crate) struct Offer(Mutex<Option<Arc<Held>>>);

/// Copies of the sockets. They listen as long as they are open, so they are closed when a drain begins.
#[derive(Debug)]
struct Held {
    sockets: Vec<(Named, OwnedFd)>,
    rules: Option<String>,
    generation: u64,
}

impl Offer {
    /// From now on there is something.
    pub(crate) fn make(&self, book: Book, rules: Option<String>, generation: u64) {
        let held = book.into_kept().map(|sockets| Arc::new(Held { sockets, rules, generation }));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// From now on there is nothing.
    pub(crate) fn withdraw(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn held(&self) -> Option<Arc<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where successors come. Its name goes when it is dropped, unless somebody else has it by then.
pub(crate) struct Door {
    directory: Directory,
    listener: UnixListener,
    inode: u64,
}

impl Door {
    /// Opens it in `folder`, in the place of whoever had it.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let directory = Directory::open(Some(folder))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let new = format!("{NAME}.{}", std::process::id());
        directory.remove(&new);
        rustix::net::bind(&listener, &SocketAddrUnix::new(directory.reach(&new))?)?;
        rustix::net::listen(&listener, 8)?;
        // It has the name only once it is open.
        if let Err(error) = std::fs::rename(directory.reach(&new), directory.reach(NAME)) {
            directory.remove(&new);
            return Err(error);
        }
        let inode = inode(&directory)?;
        // Whatever keeps messages apart or does not is accepted alike.
        let listener = UnixListener::from_std(listener.into())?;
        Ok(Door { directory, listener, inode })
    }

    /// Hands over to whoever comes first and gets ready, one at a time. Ends then.
    pub(crate) async fn serve(self, shared: Arc<Shared>) -> io::Result<()> {
        loop {
            let guest = self.listener.accept().await?.0.into_std()?;
            guest.set_nonblocking(false)?;
            if give_way(Channel::over(guest.into()), &shared).await? {
                return Ok(());
            }
        }
    }
}

/// Hands over to the process at the other end of `channel`, and says whether it serves now in this one's place.
pub(crate) async fn give_way(channel: Channel, shared: &Arc<Shared>) -> io::Result<bool> {
    let (done, ended) = oneshot::channel();
    let told = shared.clone();
    // A thread of its own, as a successor takes as long as it takes; and one that an end does not wait for.
    std::thread::Builder::new().name("handover".into()).spawn(move || {
        let _ = done.send(converse(&channel, &told));
    })?;
    let given = match ended.await {
        Ok(Ok(())) => true,
        Ok(Err(why)) => {
            tracing::warn!(why, "no hand-over: this sidecar goes on");
            false
        }
        Err(_) => false,
    };
    count(if given { "given" } else { "failed" });
    Ok(given)
}

impl Drop for Door {
    fn drop(&mut self) {
        if inode(&self.directory).is_ok_and(|inode| inode == self.inode) {
            self.directory.remove(NAME);
        }
    }
}

fn inode(directory: &Directory) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::symlink_metadata(directory.reach(NAME))?.ino())
}

/// One hand-over. An error says why there was none.
fn converse(channel: &Channel, shared: &Shared) -> Result<(), String> {
    let refuse = |why: &str| {
        let _ = channel.send(&Says::Refused(why.to_owned()), &[]);
        Err(why.to_owned())
    };
    let said = |error: io::Error| error.to_string();
    let user = sockopt::socket_peercred(channel).map_err(|error| said(error.into()))?.uid;
    if user != rustix::process::geteuid() && !user.is_root() {
        return refuse("another user may not take over");
    }
    channel.patience(ASKING).map_err(said)?;
    match channel.receive::<Asks>().map_err(said)? {
        Some((Asks::Sockets { version: VERSION }, _)) => {}
        Some((Asks::Sockets { .. }, _)) => return refuse("its version of hand-overs is another one"),
        Some((Asks::Ready, _)) => return refuse("nothing was asked for"),
        None => return Err("nothing was asked for".to_owned()),
    }
    let Some(held) = shared.offer.held() else { return refuse("it drains, or does not serve yet") };
    held.give(channel).map_err(said)?;
    // It would keep the doors open beyond a drain.
    drop(held);
    channel.patience(GETTING_READY).map_err(said)?;
    match channel.receive::<Asks>() {
        Ok(Some((Asks::Ready, _))) => {
            shared.hand_over();
            // Nobody who hears it is needed for it to be true.
            let _ = channel.send(&Says::Yours, &[]);
            Ok(())
        }
        Ok(Some(_)) => refuse("it was to say that it is ready"),
        Ok(None) => Err("the new process ended before it was ready".to_owned()),
        Err(_) => refuse("the new process was not ready in time"),
    }
}

impl Held {
    fn give(&self, channel: &Channel) -> io::Result<()> {
        for some in self.sockets.chunks(AT_ONCE) {
            let named = some.iter().map(|(named, _)| named.clone()).collect();
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
            channel.send(&Says::Sockets(named), &descriptors)?;
        }
        channel.send(&Says::All { generation: self.generation + 1, rules: self.rules.clone() }, &[])
    }
}

/// Counts a hand-over of this process: `taken` from another, `given` to another, or `failed`.
pub(crate) fn count(outcome: &'static str) {
    metrics::counter!("lighter_handovers_total", "outcome" => outcome).increment(1);
}

/// Says how many hand-overs led to this process since a sidecar was started here.
pub(crate) fn describe(generation: u64) {
    metrics::describe_counter!(
        "lighter_handovers_total",
        "Hand-overs of listening sockets: taken from another process, given to another one, or failed."
    );
    for outcome in ["taken", "given", "failed"] {
        metrics::counter!("lighter_handovers_total", "outcome" => outcome).increment(0);
    }
    metrics::describe_gauge!(
        "lighter_generation",
        "Hand-overs that led to this process since a sidecar was started here."
    );
    metrics::gauge!("lighter_generation").set(generation as f64);
}

/// How long a successor may take to say what it wants: one that `lighter run` starts is not even loaded yet.
const ASKING: Duration = Duration::from_secs(10);

/// How long it may take to get ready.
const GETTING_READY: Duration = Duration::from_secs(60);
