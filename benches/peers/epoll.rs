//! A thin loop over edge-triggered epoll: generator and upstream must cost less than what they measure.

use std::net::TcpStream;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

/// Watches sockets by number.
pub struct Poller {
    fd: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub fn new() -> Self {
        Poller { fd: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), events: Vec::with_capacity(256) }
    }

    /// Tells of every change of `socket` from now on, as `token`.
    pub fn add(&self, socket: impl rustix::fd::AsFd, token: u64) {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.fd, socket, epoll::EventData::new_u64(token), flags).unwrap();
    }

    /// The sockets that changed; none when `wait` passed first.
    pub fn wait(&mut self, wait: Duration) -> impl Iterator<Item = u64> + '_ {
        self.events.clear();
        let mut timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        // An interrupted wait is an empty one.
        if wait < Duration::from_millis(10) {
            // epoll_wait counts in milliseconds, too coarse for a pace; ppoll counts in nanoseconds.
            let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout));
            timeout = Timespec::default();
        }
        let _ = epoll::wait(&self.fd, spare_capacity(&mut self.events), Some(&timeout));
        self.events.iter().map(|event| event.data.u64())
    }
}

/// A connection to a port on this machine that never blocks.
pub fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
