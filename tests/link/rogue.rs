//! A peer that has proved who it is and speaks as a sidecar does, and does with shared memory what none would. Each test
//! reads at the sidecar's end what it makes of that.

mod memory;
mod pings;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libtest_mimic::Trial;
use lighter_config::xds::wire::lighter::link::v1::{Accept, Offer};
use lighter_proxy::identity::ALPN_LINK;
use lighter_proxy::link::carrier::{In, Keys, Kind, Machine, Out, PROOF_BYTES, Prove};
use lighter_proxy::link::session::{Event, Limits, Read, Session, Side, Slices, StreamId};
use lighter_proxy::link::wire::{Wire, WireFault};
use prost::Message;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use crate::hostile::{PLAIN, identity};
use crate::links::{World, resources};
use crate::outside::{ASLEEP, CONSUMED, HEADER_BYTES, MAKER, RingMemory, SLOT, TAKER, WRITTEN, door};
use crate::shm::{bytes, on_shm, policy};
use crate::shm_hostile::{PART, part, take_in};
use crate::support::process::{cpu, free_address};
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, at_rest, metrics, test, wait_until};
use crate::world::{REVIEWS, Root, WEB, caller_file};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_peer_that_never_hears_its_doorbell_holds_nobody_up", never_hears_its_doorbell),
        test("memory_that_is_not_as_agreed_is_not_taken", memory::wrong_memory),
        test("what_a_carrier_does_not_survive_is_named", named_faults),
        test("pings_are_answered_while_bulk_goes_both_ways_over_a_small_ring", pings::during_bulk),
    ]
}

/// Less than a sidecar wants, and no less than it takes.
const RING_BYTES: u32 = 16 * 1024;

fn should() -> String {
    policy("wires: {shm: should}, backOff: 10ms")
}

/// Its end of a link.
struct Rogue {
    side: Side,
    tcp: TcpStream,
    tls: Connection,
    /// What TLS has sealed and is to go out.
    sealed: Vec<u8>,
    carrier: Machine<Memory, Keys>,
    session: Session,
    events: VecDeque<Event>,
}

/// Its end of a ring. It moves the bytes as it should.
struct Memory {
    memory: RingMemory,
    ours: u64,
    theirs: u64,
    written: u64,
    read: u64,
    bell: UnixStream,
    is_silent: bool,
}

impl Wire for Memory {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        let free = self.memory.ring_bytes - (self.written - self.consumed()?);
        let fitting = from.len().min(free as usize);
        self.memory.put(self.ours, self.written, &from[..fitting]);
        self.written += fitting as u64;
        self.memory.set_word(self.ours + WRITTEN, self.written);
        ring(&self.bell);
        Ok(fitting)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        let there = self.memory.word(self.theirs + WRITTEN) - self.read;
        let fitting = to.len().min(there as usize);
        self.memory.get(self.theirs, self.read, &mut to[..fitting]);
        self.read += fitting as u64;
        Ok(fitting)
    }

    fn consume(&mut self, count: u64) {
        self.memory.set_word(self.ours + CONSUMED, count);
        ring(&self.bell);
    }

    fn consumed(&mut self) -> Result<u64, WireFault> {
        Ok(if self.is_silent { self.written } else { self.memory.word(self.theirs + CONSUMED) })
    }

    fn await_consumed(&mut self) {}

    fn ask(&mut self) {}

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        let mut bytes = vec![0; (to - from) as usize];
        self.memory.get(self.ours, from, &mut bytes);
        out.append(&mut bytes);
    }

    fn poll_changed(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        Poll::Pending
    }

    fn silence(&mut self) {
        self.is_silent = true;
    }
}

fn ring(bell: &UnixStream) {
    let _ = rustix::net::send(bell, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

impl Rogue {
    /// Calls the sidecar of `reviews` as `web`.
    fn call(world: &World) -> Self {
        let config = identity(&world.root, WEB).client_config(&REVIEWS.parse().unwrap(), &[ALPN_LINK]);
        let name = ServerName::IpAddress(world.link.ip().into());
        let tls = ClientConnection::new(config, name).unwrap();
        Rogue::over(TcpStream::connect(world.link).unwrap(), Connection::Client(tls), Side::Opener)
    }

    /// Is called as `reviews`.
    fn answer(listener: &TcpListener, root: &Root) -> Self {
        let config = identity(root, REVIEWS).server_config();
        let (tcp, _) = listener.accept().unwrap();
        Rogue::over(tcp, Connection::Server(ServerConnection::new(config).unwrap()), Side::Acceptor)
    }

    fn over(tcp: TcpStream, tls: Connection, side: Side) -> Self {
        tcp.set_nodelay(true).unwrap();
        let session = Session::new(side, Limits::default(), Instant::now());
        let (carrier, events) = (Machine::new(side), VecDeque::new());
        let mut rogue = Rogue { side, tcp, tls, sealed: Vec::new(), carrier, session, events };
        let began = Instant::now();
        while rogue.tls.is_handshaking() {
            assert!(began.elapsed() < PATIENCE, "no handshake");
            rogue.turn();
        }
        rogue.carrier.establish(rogue.keys());
        rogue
    }

    fn keys(&self) -> Keys {
        match &self.tls {
            Connection::Client(tls) => Keys::of(tls).unwrap(),
            Connection::Server(tls) => Keys::of(tls).unwrap(),
        }
    }

    /// Sends what is to be sent, and takes what has come.
    fn turn(&mut self) {
        self.send();
        let mut came = vec![0; 64 * 1024];
        let mut count = self.carrier.read(&mut came).unwrap();
        if count == 0 {
            count = match rustix::net::recv(&self.tcp, &mut came[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => panic!("the link stands"),
                Ok((count, _)) => self.carrier.recv(&mut came[..count]).unwrap(),
                Err(Errno::AGAIN) => 0,
                Err(error) => panic!("the link stands: {error}"),
            };
        }
        if count == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
        let mut came = &came[..count];
        while !came.is_empty() {
            self.tls.read_tls(&mut came).unwrap();
            let state = self.tls.process_new_packets().unwrap();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain).unwrap();
            self.session.recv(Instant::now(), Bytes::from(plain)).unwrap();
        }
        self.events.extend(std::iter::from_fn(|| self.session.event()));
        while self.carrier.event().is_some() {}
        self.send();
    }

    fn send(&mut self) {
        loop {
            let outbox = self.session.transmit();
            if outbox.is_empty() {
                break;
            }
            let mut slices = Slices::new();
            outbox.slices(&mut slices);
            let written = self.tls.writer().write_vectored(&slices).unwrap();
            drop(slices);
            outbox.advance(written);
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.sealed).unwrap();
            }
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.sealed).unwrap();
        }
        loop {
            self.carrier.learn_unsent(0);
            let said = self.carrier.transmit().to_vec();
            self.tcp.write_all(&said).unwrap();
            self.carrier.transmitted(said.len());
            let written = match self.carrier.way_out() {
                Out::Tcp => {
                    let most = self.carrier.allowance(&self.sealed).unwrap_or(self.sealed.len());
                    self.tcp.write_all(&self.sealed[..most]).unwrap();
                    self.carrier.sent([&self.sealed[..most]]).unwrap();
                    most
                }
                Out::Ring => self.carrier.write(&self.sealed).unwrap(),
                Out::Frozen => 0,
            };
            self.sealed.drain(..written);
            if written == 0 && self.carrier.transmit().is_empty() {
                return;
            }
        }
    }

    /// Turns until something has come of it.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
            self.turn();
        }
    }

    /// What `role` shows for a wire.
    fn token(&self, role: Side, generation: u32, nonces: [&[u8]; 2]) -> [u8; 32] {
        let context = [&[role as u8], &b"shm"[..], &generation.to_be_bytes(), nonces[0], nonces[1]].concat();
        let label = b"EXPERIMENTAL lighter wire 1";
        match &self.tls {
            Connection::Client(tls) => tls.export_keying_material([0; 32], label, Some(&context)),
            Connection::Server(tls) => tls.export_keying_material([0; 32], label, Some(&context)),
        }
        .unwrap()
    }

    /// Goes over to `memory`. Returns once both sides are on it.
    fn goes_over(&mut self, generation: u32, memory: RingMemory, bell: UnixStream) {
        let (ours, theirs) = match self.side {
            Side::Acceptor => (MAKER, TAKER),
            Side::Opener => (TAKER, MAKER),
        };
        prove(&memory, &bell, ours, theirs);
        let memory = Memory { memory, ours, theirs, written: 0, read: 0, bell, is_silent: false };
        assert!(self.carrier.switch(generation, memory));
        self.until("both are on the wire", |rogue| {
            (rogue.carrier.way_out() == Out::Ring && rogue.carrier.way_in() == In::Ring).then_some(())
        });
    }

    /// Asks for a wire with rings of so many bytes, and goes over to it. Returns the memory, and the socket on which the other
    /// side rings.
    fn asks_for_a_wire(&mut self, folder: &Path, ring_bytes: u32) -> (RingMemory, UnixStream) {
        let generation = self.carrier.next().unwrap();
        let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
        let nonce = vec![7; 16];
        let offer = Offer {
            generation,
            wire: "shm".into(),
            nonce: nonce.clone(),
            host,
            ring_bytes,
            rdma: None,
            round: 0,
        };
        assert!(self.carrier.open(generation));
        self.session.send_control(1, &offer.encode_to_vec());
        let accept = self.until("it is accepted", |rogue| match rogue.events.pop_front()? {
            Event::Control { kind: 2, bytes } => Some(Accept::decode(bytes).unwrap()),
            _ => None,
        });
        let nonces = [&nonce[..], &accept.nonce];
        let mut bell = UnixStream::connect(folder.join(&accept.door)).unwrap();
        bell.write_all(&self.token(Side::Opener, generation, nonces)).unwrap();
        let (shown, memory) = receive(&bell);
        assert_eq!(shown, self.token(Side::Acceptor, generation, nonces));
        let memory = File::from(memory);
        let (copy, bell_copy) = (memory.try_clone().unwrap(), bell.try_clone().unwrap());
        self.goes_over(generation, RingMemory::over(memory), bell);
        (RingMemory::over(copy), bell_copy)
    }

    /// Asks for a path, and returns the body.
    fn get(&mut self, endpoint: &str, path: &str) -> Vec<u8> {
        let stream = self.asks(endpoint, path);
        self.body(stream)
    }

    fn asks(&mut self, endpoint: &str, path: &str) -> StreamId {
        let opening = lighter_proxy::link::head::Opening { method: b"GET", path: path.as_bytes(), ..PLAIN };
        let to = [(&b"x-lighter-endpoint"[..], endpoint.as_bytes())];
        let (stream, _) = self.session.open(Instant::now(), &opening, to, b"", true).unwrap();
        self.send();
        stream
    }

    fn body(&mut self, stream: StreamId) -> Vec<u8> {
        let mut body = Vec::new();
        self.until("the answer is there", |rogue| {
            while let Some(part) = rogue.session.read(stream) {
                match part {
                    Read::Head(head) => assert_eq!(head.status, 200),
                    Read::Data(data) => {
                        body.extend_from_slice(&data);
                        rogue.session.release(stream, data.len());
                    }
                    Read::Trailers(_) => {}
                    Read::End => return Some(()),
                    Read::Cut(cut) => panic!("it was cut: {cut:?}"),
                }
            }
            None
        });
        body
    }
}

/// Proves the memory, as both sides do.
fn prove(memory: &RingMemory, bell: &UnixStream, ours: u64, theirs: u64) {
    let post = |at: u64, value: [u64; 2]| {
        memory.set_word(ours + SLOT + at, value[0]);
        memory.set_word(ours + SLOT + at + 8, value[1]);
        memory.set_word(ours + SLOT + at + 16, 1);
        ring(bell);
    };
    let posted = |at: u64| {
        let is_there = memory.word(theirs + SLOT + at + 16) == 1;
        is_there.then(|| [at, at + 8].map(|at| memory.word(theirs + SLOT + at)))
    };
    const ECHO: u64 = 32;
    let probe = [fastrand::u64(..), fastrand::u64(..)];
    post(0, probe);
    wait_until("the other side sends its probe", || posted(0).is_some());
    post(ECHO, posted(0).unwrap());
    wait_until("the other side sends this one's back", || posted(ECHO) == Some(probe));
}

/// A token, and what came with it.
fn receive(socket: &UnixStream) -> ([u8; 32], OwnedFd) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut token = [0; 32];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut token)];
    rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    (token, descriptor.expect("memory comes with it"))
}

fn give(socket: &UnixStream, token: &[u8; 32], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(token)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// It uses little of the processor while nothing is asked of it: one that spins uses all of it.
fn does_not_spin(sidecar: &Sidecar) {
    let before = cpu(sidecar.program.pid());
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu(sidecar.program.pid()) - before;
    assert!(used < Duration::from_millis(400), "{used:?} in a second");
}

/// Bells that wait in a socket.
fn bells(socket: &UnixStream) -> u64 {
    rustix::io::ioctl_fionread(socket).unwrap()
}

fn fallbacks(sidecar: &Sidecar, cause: &str) -> f64 {
    sidecar.metrics().sum("lighter_link_fallbacks_total", &[("cause", cause)])
}

fn never_hears_its_doorbell() {
    let app = Upstream::start(|mut peer, _| {
        while peer.head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {PART}\r\n\r\n")).send(part());
        }
    });
    let world = World::under("http", app.address, &should());
    let folder = door(world.reviews.program.pid()).parent().unwrap().to_owned();
    let endpoint = world.endpoint.to_string();
    let whole = part();
    let mut rogue = Rogue::call(&world);
    let (memory, bell) = rogue.asks_for_a_wire(&folder, RING_BYTES);
    let memory_before = world.reviews.program.resident();
    // It always sleeps, and is to be rung for whatever is written or consumed.
    let done = Arc::new(AtomicBool::new(false));
    let sleeping = {
        let done = done.clone();
        std::thread::spawn(move || {
            while !done.load(Relaxed) {
                memory.set_word(TAKER + ASLEEP, 3);
                std::thread::sleep(Duration::from_micros(20));
            }
        })
    };
    wait_until("the socket is full of bells", || {
        let before = bells(&bell);
        assert!(rogue.get(&endpoint, "/") == whole);
        before > 100 && bells(&bell) == before
    });
    assert!(rogue.get(&endpoint, "/") == whole);
    assert_eq!(world.reviews.metrics().sum("lighter_link_fallbacks_total", &[]), 0.0);
    assert!(bytes(&world.reviews, "shm") > 1.5 * PART as f64);
    does_not_spin(&world.reviews);
    // Then it does not read at all. What it lacks goes over TCP.
    let stream = rogue.asks(&endpoint, "/");
    wait_until("the wire is left", || fallbacks(&world.reviews, "stall") == 1.0);
    assert!(rogue.body(stream) == whole);
    assert_eq!(rogue.carrier.next(), Some(2), "both are done with it");
    done.store(true, Relaxed);
    sleeping.join().unwrap();
    let grown = world.reviews.program.resident().saturating_sub(memory_before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    assert!(!world.reviews.metrics().has("lighter_link_faults_total", &[]));
    does_not_spin(&world.reviews);
}

/// A record of the carrier.
fn record(kind: Kind, generation: u32, offset: u64, proof: [u8; PROOF_BYTES]) -> Vec<u8> {
    let head = [0x4C, 3, 3, 0, 40, kind as u8, 0, 0, 0];
    [&head[..], &generation.to_be_bytes(), &offset.to_be_bytes(), &[0; 8], &proof].concat()
}

fn named_faults() {
    const FAR: u64 = 1 << 40;
    let app = Upstream::answering("here");
    let world = World::under("http", app.address, &should());
    let faults = |cause: &str| world.reviews.metrics().sum("lighter_link_faults_total", &[("cause", cause)]);
    // What is said, given what proves it and how much was sent before.
    type Says = fn(&dyn Fn(Kind, u32) -> [u8; PROOF_BYTES], u64) -> Vec<u8>;
    let attacks: [(&str, Says); 6] = [
        ("malformed", |_, _| [&[0x4C, 3, 3, 0, 40, 9][..], &[0; 39]].concat()),
        ("proof", |_, _| record(Kind::Resume, 1, 0, [0; PROOF_BYTES])),
        ("generation", |proof, _| record(Kind::Resume, 7, 0, proof(Kind::Resume, 7))),
        ("order", |proof, _| record(Kind::Fin, 0, FAR, proof(Kind::Fin, 0)).repeat(2)),
        ("offset", |proof, _| record(Kind::Resume, 1, FAR, proof(Kind::Resume, 1))),
        ("stray", |proof, sent| [record(Kind::Fin, 0, sent, proof(Kind::Fin, 0)), vec![23, 3, 3]].concat()),
    ];
    for (cause, says) in attacks {
        let mut rogue = Rogue::call(&world);
        assert_eq!(rogue.get(&world.endpoint.to_string(), "/"), b"here");
        let keys = rogue.keys();
        let said = says(
            &|kind, generation| keys.proof(Side::Opener, kind, generation),
            rogue.carrier.counts().tcp_out,
        );
        rogue.tcp.write_all(&said).unwrap();
        wait_until(cause, || faults(&format!("carrier_{cause}")) == 1.0);
    }
    // Who does not answer that a wire is given up.
    let folder = door(world.reviews.program.pid()).parent().unwrap().to_owned();
    let mut rogue = Rogue::call(&world);
    rogue.asks_for_a_wire(&folder, RING_BYTES);
    assert_eq!(metrics::ask(world.reviews.admin, "POST", "/links/freeze").0, 200);
    wait_until("it was waited for", || faults("carrier_unanswered") == 1.0);
    assert_eq!(world.reviews.metrics().sum("lighter_link_faults_total", &[]), 7.0, "and nothing else");
    does_not_spin(&world.reviews);
}
