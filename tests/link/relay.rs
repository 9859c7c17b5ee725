//! A relay in front of a link port: what passes between two sidecars is in a test's hand.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes on what comes to `address`, over TCP and UDP.
pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Where callers send to.
    front: UdpSocket,
    /// From where the other side is sent to.
    back: Mutex<Arc<UdpSocket>>,
    link: SocketAddr,
    /// Who sent last. There is one.
    caller: Mutex<Option<SocketAddr>>,
    blocked: AtomicBool,
    over: AtomicBool,
}

impl Relay {
    /// To the link port at `link`.
    pub fn to(link: SocketAddr) -> Self {
        Relay::between(link, link)
    }

    /// To one link port over TCP, and over UDP to another.
    pub fn between(tcp: SocketAddr, link: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            front: timed(UdpSocket::bind(address).unwrap()),
            back: Mutex::new(back(link)),
            link,
            caller: Mutex::default(),
            blocked: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let (told, said, stops) = (shared.clone(), shared.clone(), shared.clone());
        std::thread::spawn(move || told.forth());
        std::thread::spawn(move || said.back_from(&said.back()));
        std::thread::spawn(move || {
            while let Ok((caller, _)) = listener.accept() {
                if stops.over.load(SeqCst) {
                    return;
                }
                let Ok(called) = TcpStream::connect(tcp) else { continue };
                for (from, to) in [(&caller, &called), (&called, &caller)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        Relay { address, shared }
    }

    /// From now on UDP does not pass, or does again.
    pub fn block(&self, blocked: bool) {
        self.shared.blocked.store(blocked, SeqCst);
    }

    /// From now on what is passed on comes from another address.
    pub fn change_address(&self) {
        let new = back(self.shared.link);
        *self.shared.back.lock().unwrap() = new.clone();
        let shared = self.shared.clone();
        std::thread::spawn(move || shared.back_from(&new));
    }
}

impl Shared {
    fn forth(&self) {
        let mut room = [0; 65536];
        while !self.over.load(SeqCst) {
            let Ok((length, caller)) = self.front.recv_from(&mut room) else { continue };
            *self.caller.lock().unwrap() = Some(caller);
            if !self.blocked.load(SeqCst) {
                // A port where nobody listens yet says so.
                let _ = self.back().send(&room[..length]);
            }
        }
    }

    /// What comes to `back`, as long as it is the one.
    fn back_from(&self, back: &Arc<UdpSocket>) {
        let mut room = [0; 65536];
        while !self.over.load(SeqCst) && Arc::ptr_eq(back, &self.back()) {
            let Ok(length) = back.recv(&mut room) else { continue };
            let caller = *self.caller.lock().unwrap();
            if let Some(caller) = caller
                && !self.blocked.load(SeqCst)
            {
                let _ = self.front.send_to(&room[..length], caller);
            }
        }
    }

    fn back(&self) -> Arc<UdpSocket> {
        self.back.lock().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        // It waits for a caller.
        let _ = TcpStream::connect(self.address);
    }
}

fn back(link: SocketAddr) -> Arc<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(link).unwrap();
    Arc::new(timed(socket))
}

fn timed(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}
