//! Sockets of the application's network namespace for a sidecar outside of it. A socket belongs for life to the
//! namespace in which it was made, so the process inside makes them ahead of need.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lighter_proxy::dial::SocketFactory;
use socket2::Socket;

use super::channel::{Channel, Made, Wanted};

/// Hands out sockets that were made inside.
pub(super) struct Inside {
    shared: Arc<Shared>,
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
    /// The process inside is gone.
    gone: bool,
}

impl Inside {
    /// Starts the thread that asks the process inside for sockets.
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let refilled = shared.clone();
        std::thread::Builder::new()
            .name("inside-sockets".into())
            .spawn(move || refill(&refilled, &channel))?;
        Ok(Inside { shared })
    }
}

impl SocketFactory for Inside {
    /// Takes one that is ready. Waits only when connections are made faster than sockets.
    fn tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        let family = usize::from(address.is_ipv6());
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
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
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
        let Some(family) = state.wanted.iter().position(|wanted| *wanted) else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let made = ask(channel, family == 1);
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

/// A batch of sockets, or `None` when the process inside is gone.
fn ask(channel: &Channel, ipv6: bool) -> io::Result<Option<Vec<OwnedFd>>> {
    if let Err(error) = channel.send(&Wanted { ipv6, count: BATCH }, &[]) {
        return if error.kind() == io::ErrorKind::BrokenPipe { Ok(None) } else { Err(error) };
    }
    match channel.receive::<Made>()? {
        None => Ok(None),
        Some((Made { errno: Some(errno) }, _)) => Err(io::Error::from_raw_os_error(errno)),
        Some((Made { errno: None }, sockets)) => Ok(Some(sockets)),
    }
}

/// Fewer than these are left: time for the next batch.
const LOW: usize = 8;

/// A message's worth.
const BATCH: usize = 32;
