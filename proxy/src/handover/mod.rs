//! The hand-over of a sidecar's place to another process: a new binary or another configuration, and no connection refused.
//!
//! The process that serves awaits a successor in a folder of its own ([`offer`]). A successor asks for the listening
//! sockets ([`Taken::ask`]), gets ready behind them, and says so; then its predecessor accepts nothing more and drains.
//! Sockets are the same in both processes, so that whoever was about to be accepted by one is by the other. A successor
//! that does not get ready changes nothing: its predecessor has not stopped serving.
//!
//! Who may ask is said twice: the folder is this user's alone, and the kernel says that whoever comes is that user or root.

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::intercept::listen;

pub mod offer;
mod taken;

pub use taken::{HandoverError, Taken};

/// What a successor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Asks {
    /// It wants the sockets.
    Sockets {
        /// By which version of this conversation.
        version: u32,
    },
    /// It serves.
    Ready,
}

/// What its predecessor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Says {
    /// Some sockets, one descriptor each. More follow.
    Sockets(Vec<Named>),
    /// That was all of them.
    All {
        /// Hand-overs before, and one.
        generation: u64,
        /// By what the rules of interception were made that stand.
        rules: Option<String>,
    },
    /// The successor serves now, and its predecessor leaves.
    Yours,
    /// There is no hand-over, and why.
    Refused(String),
}

/// A socket by what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    /// Its purpose and its address.
    key: String,
    /// It is one of as many as were made for so many workers.
    workers: usize,
}

/// Sockets of one purpose.
#[derive(Debug, Default)]
pub(crate) struct Group {
    workers: usize,
    sockets: Vec<OwnedFd>,
}

/// The sockets on which this process listens, by what they are for: those that it took over, and all for its successor.
#[derive(Debug, Default)]
pub(crate) struct Book {
    taken: HashMap<String, Group>,
    /// Copies. `None`: nobody is awaited.
    kept: Option<Vec<(Named, OwnedFd)>>,
}

impl Book {
    /// Of sockets that were `taken` over. `keeps`: a successor is awaited.
    pub(crate) fn new(taken: HashMap<String, Group>, keeps: bool) -> Self {
        Book { taken, kept: keeps.then(Vec::new) }
    }

    /// Listeners for `key`, of which socket `i` is for worker `i % workers`: taken over, or else made.
    pub(crate) fn listeners<E: From<io::Error>>(
        &mut self,
        key: &str,
        workers: usize,
        make: impl FnOnce() -> Result<Vec<TcpListener>, E>,
    ) -> Result<Vec<TcpListener>, E> {
        let Some(group) = self.taken.remove(key) else {
            let made = make()?;
            self.keep(key, workers, &made)?;
            return Ok(made);
        };
        self.keep(key, group.workers, &group.sockets)?;
        Ok(group.dealt(workers)?.into_iter().map(TcpListener::from).collect())
    }

    /// Pairs for DNS.
    pub(crate) fn pairs<E: From<io::Error>>(
        &mut self,
        key: &str,
        make: impl FnOnce() -> Result<Vec<(UdpSocket, TcpListener)>, E>,
    ) -> Result<Vec<(UdpSocket, TcpListener)>, E> {
        let Some(group) = self.taken.remove(key) else {
            let made = make()?;
            for (udp, tcp) in &made {
                self.keep(key, 1, &[udp.as_fd(), tcp.as_fd()])?;
            }
            return Ok(made);
        };
        self.keep(key, 1, &group.sockets)?;
        let mut sockets = group.sockets.into_iter();
        let pairs = std::iter::from_fn(|| Some((sockets.next()?.into(), sockets.next()?.into())));
        Ok(pairs.collect())
    }

    /// Callers get through by every listener, whatever the process did that had it before: it may have begun to close its doors.
    pub(crate) fn let_all_in(&self) {
        for (_, socket) in self.kept.iter().flatten() {
            // Most have nothing to be undone.
            let _ = listen::lets_all_begin(socket);
        }
    }

    /// What a successor gets. `None`: nobody is awaited.
    fn into_kept(self) -> Option<Vec<(Named, OwnedFd)>> {
        self.kept
    }

    fn keep(&mut self, key: &str, workers: usize, sockets: &[impl AsFd]) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        for socket in sockets {
            let named = Named { key: key.to_owned(), workers };
            kept.push((named, socket.as_fd().try_clone_to_owned()?));
        }
        Ok(())
    }
}

impl Group {
    /// As many as are needed, so that each of `workers` accepts: where there were more or fewer before, everyone accepts
    /// from every socket, as what waits to be accepted at one must not be left there.
    fn dealt(self, workers: usize) -> io::Result<Vec<OwnedFd>> {
        if self.workers == workers {
            return Ok(self.sockets);
        }
        let copies = |socket: &OwnedFd| (0..workers).map(|_| socket.try_clone()).collect::<Vec<_>>();
        self.sockets.iter().flat_map(copies).collect()
    }
}

/// The socket's name in the folder.
const NAME: &str = "successor";

/// The version of the conversation.
const VERSION: u32 = 1;

/// So many sockets a message.
const AT_ONCE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn every_worker_accepts_from_every_socket_where_there_were_more_or_fewer() {
        for (before, now, expected) in [(2, 2, 2), (1, 3, 3), (3, 1, 3), (2, 3, 6)] {
            let group = Group { workers: before, sockets: (0..before).map(|_| listener()).collect() };
            assert_eq!(group.dealt(now).unwrap().len(), expected, "{before} {now}");
        }
    }

    #[test]
    fn what_was_taken_over_is_handed_on_and_not_made_anew() {
        let group = Group { workers: 1, sockets: vec![listener()] };
        let mut book = Book::new(HashMap::from([("admin".to_owned(), group)]), true);
        let fails = || Err::<Vec<TcpListener>, _>(io::Error::other("made anew"));
        assert_eq!(book.listeners("admin", 2, fails).unwrap().len(), 2);
        assert!(book.listeners("other", 2, fails).is_err());
        let kept = book.into_kept().unwrap();
        let [(named, _)] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!(*named, Named { key: "admin".into(), workers: 1 });
    }
}
