//! One side of a connection: device, memory, completions and queue pair, and what the other side must know of it.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use lighter_verbs::{
    Access, Completion, CompletionQueue, Context, Domain, Endpoint, Event, Gid, Path, QueuePair, Region,
    Remote, Requests, Write,
};

use super::DEVICE;
use crate::support::PATIENCE;

pub struct Side {
    pub pair: QueuePair,
    pub completions: CompletionQueue,
    pub region: Region,
    pub domain: Domain,
    pub context: Context,
    /// Completions that nobody asked for yet.
    early: Vec<Completion>,
    gid: Gid,
    first_packet: u32,
}

/// What one side tells the other, as one line of text.
#[derive(Clone, Copy)]
pub struct Card {
    pub endpoint: Endpoint,
    pub memory: Remote,
}

impl Side {
    pub fn new() -> Self {
        Side::on(DEVICE, Ipv4Addr::LOCALHOST)
    }

    /// On a device, at one of its addresses.
    pub fn on(device: &str, address: Ipv4Addr) -> Self {
        let context = Context::open(device).unwrap();
        let domain = Domain::new(&context).unwrap();
        let completions = CompletionQueue::new(&context, 2 * REQUESTS).unwrap();
        let requests = Requests { send: REQUESTS, receive: REQUESTS };
        Side {
            pair: QueuePair::new(&domain, &completions, requests).unwrap(),
            completions,
            region: Region::new(&domain, MEMORY, Access::RemoteWrite).unwrap(),
            gid: context.gid_of(IpAddr::V4(address)).unwrap(),
            first_packet: fastrand::u32(..1 << 24),
            early: Vec::new(),
            domain,
            context,
        }
    }

    pub fn card(&self) -> Card {
        Card {
            endpoint: Endpoint {
                pair: self.pair.number(),
                first_packet: self.first_packet,
                address: self.gid.address,
            },
            memory: memory(&self.region),
        }
    }

    pub fn connect(&mut self, to: &Card) {
        let mtu = self.context.mtu().unwrap();
        let path = Path { from: self.gid, first_packet: self.first_packet, to: to.endpoint, mtu };
        self.pair.connect(&path).unwrap();
    }

    /// Writes a part of the region into the peer's, and completes.
    pub fn write(&self, id: u64, part: Range<usize>, to: Remote, immediate: u32) {
        let write = Write { id, part, region: &self.region, to, immediate, signalled: true };
        self.pair.write(&[write]).unwrap();
    }

    /// Waits for so many completions.
    pub async fn completed(&mut self, number: usize) -> Vec<Completion> {
        while self.early.len() < number {
            patiently("a completion", self.completions.completed(&mut self.early)).await.unwrap();
        }
        self.early.drain(..number).collect()
    }
}

impl Card {
    pub fn to_line(self) -> String {
        let Card { endpoint, memory } = self;
        format!(
            "{} {} {} {} {}",
            endpoint.pair, endpoint.first_packet, endpoint.address, memory.address, memory.key
        )
    }

    pub fn from_line(line: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        let [pair, first_packet, address, place, key] = words[..] else { panic!("not a card: {line}") };
        Card {
            endpoint: Endpoint {
                pair: pair.parse().unwrap(),
                first_packet: first_packet.parse().unwrap(),
                address: address.parse().unwrap(),
            },
            memory: Remote { address: place.parse().unwrap(), key: key.parse().unwrap() },
        }
    }
}

/// A region as a peer knows it.
pub fn memory(of: &Region) -> Remote {
    Remote { address: of.address(), key: of.remote_key() }
}

/// Waits until this happens to the device.
pub async fn hears(context: &Context, event: Event) {
    while patiently("an event", context.event()).await.unwrap() != event {}
}

/// Waits, but not for ever.
pub async fn patiently<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, happens).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub const MEMORY: usize = 64 << 10;

pub const REQUESTS: u32 = 64;
