//! Callers who want all that functions can do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::device::get;
use crate::support::raw::{Body, Peer};

/// Clients that ask one thing after the other until they are told to stop. They take any answer.
pub struct Clients {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(at: SocketAddr, target: &str, clients: usize, pause: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (over, request) = (over.clone(), get(target));
            std::thread::spawn(move || {
                let mut peer = Peer::connect(at);
                while !over.load(Relaxed) {
                    if let (_, Body::Cut(_)) = peer.exchange(&request) {
                        peer = Peer::connect(at);
                    }
                    std::thread::sleep(pause);
                }
            })
        };
        let threads = (0..clients).map(client).collect();
        Clients { over, threads }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // One whose function rested for longer than a client waits has given up.
            let _ = thread.join();
        }
    }
}

/// Rows that keep a function busy for a while.
pub fn rows() -> String {
    "id,amount\n".to_owned()
        + &(0..50_000).map(|id| format!("{id},{}\n", id * 577 % 1000)).collect::<String>()
}

/// What asks for all of them, and gives a row.
pub const BUSY: &str = "/aggregate/a?compute=count,sum(amount)&by=amount";
