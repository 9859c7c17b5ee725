//! How every open link stands, for operators: told by each link's own task, read by others.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
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
    /// Which wires it sends and receives over now: their numbers.
    goes_out: AtomicU8,
    comes_in: AtomicU8,
    /// What each wire carried out and in.
    bytes: [[AtomicU64; 2]; LinkWire::ALL.len()],
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
            goes_out: AtomicU8::default(),
            comes_in: AtomicU8::default(),
            bytes: Default::default(),
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
    /// What its carrier carried since it was counted last, on TCP and on `wire`, and how many streams are open on it.
    pub(super) fn carried(&self, counts: Counts, wire: LinkWire, streams: usize) {
        self.streams.store(streams as u32, Relaxed);
        let [tcp, ring] = [LinkWire::Tcp, wire].map(|wire| &self.bytes[wire as usize]);
        tcp[0].store(counts.tcp_out, Relaxed);
        tcp[1].store(counts.tcp_in, Relaxed);
        // Of the wires beside TCP there is one at a time: what the others carried is known.
        let others = |way: usize| -> u64 {
            let others = LinkWire::ALL.into_iter().filter(|other| ![LinkWire::Tcp, wire].contains(other));
            others.map(|other| self.bytes[other as usize][way].load(Relaxed)).sum()
        };
        ring[0].store(counts.ring_out - others(0), Relaxed);
        ring[1].store(counts.ring_in - others(1), Relaxed);
    }

    /// It goes over QUIC, which carried so much until now.
    pub(super) fn over_quic(&self, sent: u64, received: u64, streams: usize) {
        self.streams.store(streams as u32, Relaxed);
        for (way, bytes) in self.bytes[LinkWire::Quic as usize].iter().zip([sent, received]) {
            way.store(bytes, Relaxed);
        }
        self.goes_out.store(LinkWire::Quic as u8, Relaxed);
        self.comes_in.store(LinkWire::Quic as u8, Relaxed);
    }

    /// Over which wires it goes, of which one is `wire`.
    pub(super) fn goes(&self, carrier: &Beneath, wire: LinkWire) {
        let (out, inward) = carrier.ways();
        let over = |is_wire: bool| if is_wire { wire as u8 } else { LinkWire::Tcp as u8 };
        self.goes_out.store(over(out == Out::Ring), Relaxed);
        self.comes_in.store(over(inward == In::Ring), Relaxed);
    }

    /// It was agreed on a wire of this number.
    pub(super) fn agreed(&self, generation: u32) {
        self.generation.store(generation, Relaxed);
    }

    fn read(&self) -> wire::Link {
        let bytes = |wire: LinkWire| {
            let [sent, received] = self.bytes[wire as usize].each_ref().map(|bytes| bytes.load(Relaxed));
            wire::LinkBytes { wire: wire.label().to_owned(), sent, received }
        };
        let wire = |number: &AtomicU8| LinkWire::ALL[usize::from(number.load(Relaxed))].label().to_owned();
        wire::Link {
            identity: self.identity.to_string(),
            address: self.address.to_string(),
            opened: self.side == Side::Opener,
            streams: self.streams.load(Relaxed),
            generation: self.generation.load(Relaxed),
            sends_over: wire(&self.goes_out),
            receives_over: wire(&self.comes_in),
            bytes: LinkWire::ALL.map(bytes).into(),
        }
    }
}
