//! Sockets of the application's network namespace for a sidecar outside of it. A socket belongs for life to the
//! namespace in which it was made, so the process inside makes them ahead of need.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lighter_proxy::dial::SocketFactory;
use lighter_proxy::listeners::{self, Kernel};
use rustix::process::Pid;
use socket2::Socket;

use super::channel::{Channel, Made, Wanted};

/// Hands out sockets that were made inside.
pub(super) struct Inside {
    shared: Arc<Shared>,
    pid: Pid,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Ready sockets: IPv4, IPv6.
    ready: [Vec<Socket>; 2],
    /// Which are to be made. Nothing is made of a family before somebody asks.
    wanted: [bool; 2],
    /// Why the last attempt made none; told to one who waits.
    failed: [Option<i32>; 2],
    /// By which the kernel is asked who listens.
    kernel: Asked,
    /// The process inside is gone.
    gone: bool,
}

/// A socket of which one is enough.
#[derive(Default)]
enum Asked {
    /// Nobody has needed it.
    #[default]
    Unneeded,
    /// It is to be made.
    Wanted,
    /// It is here.
    Here(Kernel),
    /// There is none: the process inside is of a version that makes none, or the kernel does not answer.
    None,
}

impl Inside {
    /// Starts the thread that asks process `pid`, which is inside, for sockets.
    pub(super) fn new(channel: Channel, pid: Pid) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let refilled = shared.clone();
        std::thread::Builder::new()
            .name("inside-sockets".into())
            .spawn(move || refill(&refilled, &channel))?;
        Ok(Inside { shared, pid })
    }

    /// Takes one that is ready, or waits for up to `patience`.
    pub(super) fn take(&self, address: SocketAddr, patience: Duration) -> io::Result<Socket> {
        let family = usize::from(address.is_ipv6());
        let until = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if state.ready[family].len() <= LOW && !state.wanted[family] {
                state.wanted[family] = true;
                self.shared.changed.notify_all();
            }
            if let Some(socket) = state.ready[family].pop() {
                return Ok(socket);
            }
            if state.gone {
                return Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the application's namespace is gone",
                ));
            }
            if let Some(errno) = state.failed[family].take() {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl SocketFactory for Inside {
    /// Waits only when connections are made faster than sockets, and not for long: everything else on the thread
    /// waits too.
    fn tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        self.take(address, PATIENCE)
    }

    /// Told by the kernel's table of sockets, so that the application does not see a connection that says nothing.
    fn listens(&self, address: SocketAddr) -> bool {
        // Unreadable: the process inside is gone, and this sidecar is about to be.
        self.listeners(address).is_some_and(|listeners| !listeners.is_empty())
    }

    fn listeners(&self, address: SocketAddr) -> Option<Vec<u64>> {
        let mut state = self.shared.lock();
        match &state.kernel {
            Asked::Here(kernel) => match kernel.listeners(address) {
                Ok(listeners) => return Some(listeners),
                Err(_) => state.kernel = Asked::None,
            },
            Asked::Unneeded => {
                state.kernel = Asked::Wanted;
                self.shared.changed.notify_all();
            }
            Asked::Wanted | Asked::None => {}
        }
        drop(state);
        listeners::at(Path::new(&format!("/proc/{}/net", self.pid.as_raw_nonzero())), address)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.shared.lock().gone = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refill(shared: &Shared, channel: &Channel) {
    let mut state = shared.lock();
    while !state.gone {
        if matches!(state.kernel, Asked::Wanted) {
            drop(state);
            let kernel = ask_for_kernel(channel);
            state = shared.lock();
            state.kernel = kernel.map_or(Asked::None, Asked::Here);
            continue;
        }
        let Some(family) = state.wanted.iter().position(|wanted| *wanted) else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let made = ask(channel, Wanted { ipv6: family == 1, count: BATCH, listeners: false });
        state = shared.lock();
        state.wanted[family] = false;
        match made {
            Ok(Some(sockets)) => state.ready[family].extend(sockets.into_iter().map(Socket::from)),
            Ok(None) => state.gone = true,
            Err(error) => state.failed[family] = Some(error.raw_os_error().unwrap_or(libc::EIO)),
        }
        shared.changed.notify_all();
    }
}

/// The socket by which the kernel is asked who listens, if the process inside makes one.
fn ask_for_kernel(channel: &Channel) -> Option<Kernel> {
    // One of an older version makes another socket.
    let made = ask(channel, Wanted { ipv6: false, count: 1, listeners: true }).ok()??;
    Kernel::from_fd(made.into_iter().next()?).ok()
}

/// The sockets, or `None` when the process inside is gone.
fn ask(channel: &Channel, wanted: Wanted) -> io::Result<Option<Vec<OwnedFd>>> {
    if let Err(error) = channel.send(&wanted, &[]) {
        return if error.kind() == io::ErrorKind::BrokenPipe { Ok(None) } else { Err(error) };
    }
    match channel.receive::<Made>()? {
        None => Ok(None),
        Some((Made { errno: Some(errno) }, _)) => Err(io::Error::from_raw_os_error(errno)),
        Some((Made { errno: None }, sockets)) => Ok(Some(sockets)),
    }
}

/// Fewer than these are left: time for the next batch.
const LOW: usize = 64;

/// A message's worth.
const BATCH: usize = 64;

/// Longest wait of a thread that carries traffic. Making a batch takes the process inside a fraction of it.
const PATIENCE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn who_listens_is_told_whether_the_process_inside_makes_a_socket_for_that_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let known = listeners::here(address).unwrap();
        assert_eq!(known.len(), 1);
        for is_older in [false, true] {
            let (own, other) = Channel::pair().unwrap();
            let inside = Inside::new(own, rustix::process::getpid()).unwrap();
            assert_eq!(inside.listeners(address).as_ref(), Some(&known), "before there is one");
            let (wanted, _) = other.receive::<Wanted>().unwrap().unwrap();
            assert!(wanted.listeners && wanted.count == 1);
            let made: OwnedFd = match is_older {
                true => Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap().into(),
                false => Kernel::open().unwrap().into_fd(),
            };
            other.send(&Made { errno: None }, &[made.as_fd()]).unwrap();
            for _ in 0..3 {
                assert_eq!(inside.listeners(address).as_ref(), Some(&known));
            }
        }
    }

    #[test]
    fn nobody_waits_for_ever_for_a_process_inside_that_says_nothing() {
        let (own, other) = Channel::pair().unwrap();
        let inside = Inside::new(own, rustix::process::getpid()).unwrap();
        let address = "198.18.0.1:80".parse().unwrap();
        assert_eq!(inside.tcp(address).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        // It is late, not lost.
        let (wanted, _) = other.receive::<Wanted>().unwrap().unwrap();
        let sockets: Vec<OwnedFd> = (0..wanted.count)
            .map(|_| Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap().into())
            .collect();
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        other.send(&Made { errno: None }, &descriptors).unwrap();
        for _ in 0..wanted.count {
            inside.take(address, Duration::from_secs(20)).unwrap();
        }
        assert!(inside.tcp(address).is_err());
    }
}
