//! How every open link stands, for operators: told by each link's own task, read by others.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lighter_config::xds::wire::lighter::registry::v1 as wire;

use super::carrier::{Beneath, Counts, In, Out};
use super::session::Side;
use crate::telemetry::LinkWire;

/// Every link of this process.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<Vec<Weak<Standing>>>);

/// How one link stands. It is listed until this is dropped.
#[derive(Debug)]
pub(crate) struct Standing {
    side: Side,
    identity: Arc<str>,
    address: SocketAddr,
    streams: AtomicU32,
    generation: AtomicU32,
    out_shm: AtomicBool,
    in_shm: AtomicBool,
    tcp_out: AtomicU64,
    tcp_in: AtomicU64,
    ring_out: AtomicU64,
    ring_in: AtomicU64,
}

impl Links {
    /// Lists a link to `identity` at `address`.
    pub(crate) fn enter(&self, side: Side, identity: Arc<str>, address: SocketAddr) -> Arc<Standing> {
        let standing = Arc::new(Standing {
            side,
            identity,
            address,
            streams: AtomicU32::default(),
            generation: AtomicU32::default(),
            out_shm: AtomicBool::default(),
            in_shm: AtomicBool::default(),
            tcp_out: AtomicU64::default(),
            tcp_in: AtomicU64::default(),
            ring_out: AtomicU64::default(),
            ring_in: AtomicU64::default(),
        });
        let mut all = self.lock();
        if all.len() == all.capacity() {
            all.retain(|link| link.strong_count() > 0);
        }
        all.push(Arc::downgrade(&standing));
        standing
    }

    /// How they stand, `most` of them.
    pub(crate) fn read(&self, most: usize) -> Vec<wire::Link> {
        self.lock().iter().filter_map(Weak::upgrade).take(most).map(|link| link.read()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Standing>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// What its carrier carried, and how many streams are open on it.
    pub(super) fn carried(&self, counts: Counts, streams: usize) {
        self.streams.store(streams as u32, Relaxed);
        self.tcp_out.store(counts.tcp_out, Relaxed);
        self.tcp_in.store(counts.tcp_in, Relaxed);
        self.ring_out.store(counts.ring_out, Relaxed);
        self.ring_in.store(counts.ring_in, Relaxed);
    }

    /// Over which wires it goes.
    pub(super) fn goes(&self, carrier: &Beneath) {
        let (out, inward) = carrier.ways();
        self.out_shm.store(out == Out::Ring, Relaxed);
        self.in_shm.store(inward == In::Ring, Relaxed);
    }

    /// It was agreed on a wire of this number.
    pub(super) fn agreed(&self, generation: u32) {
        self.generation.store(generation, Relaxed);
    }

    fn read(&self) -> wire::Link {
        let bytes = |wire: LinkWire, sent: &AtomicU64, received: &AtomicU64| wire::LinkBytes {
            wire: wire.label().to_owned(),
            sent: sent.load(Relaxed),
            received: received.load(Relaxed),
        };
        let wire = |is_shm: &AtomicBool| {
            let wire = if is_shm.load(Relaxed) { LinkWire::Shm } else { LinkWire::Tcp };
            wire.label().to_owned()
        };
        wire::Link {
            identity: self.identity.to_string(),
            address: self.address.to_string(),
            opened: self.side == Side::Opener,
            streams: self.streams.load(Relaxed),
            generation: self.generation.load(Relaxed),
            sends_over: wire(&self.out_shm),
            receives_over: wire(&self.in_shm),
            bytes: vec![
                bytes(LinkWire::Tcp, &self.tcp_out, &self.tcp_in),
                bytes(LinkWire::Shm, &self.ring_out, &self.ring_in),
            ],
        }
    }
}
