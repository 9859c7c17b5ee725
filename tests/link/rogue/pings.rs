//! Bulk both ways over a ring that holds little of it, and PINGs between. This end reads nothing while it waits for the
//! sidecar to take a PING: if that read only when it can write, neither would ever go on.

use lighter_proxy::link::head::{Opening, Protocol};

use super::*;

const RING: u32 = 64 * 1024;

const TUNNELS: usize = 8;

/// So often a PING is taken while the sidecar cannot write, and answered ahead of the bulk that waits.
const HELD: usize = 5;

/// This end reads again before the sidecar leaves a wire on which it finds no room.
const LONGEST: Duration = Duration::from_millis(400);

/// A sidecar takes no more than ten PINGs in a second.
const BETWEEN: Duration = Duration::from_millis(150);

/// Bytes that come before the turn that brings a PONG: what is in the ring, what is sealed for it, what was gathered to be
/// sealed next, and the record in which the PONG goes first. Behind all that waits it would be twice as many or more. More come
/// where a busy sidecar has taken the PING out of the ring, but has yet to look at it.
const AHEAD: u64 = 4 * RING as u64;

/// Opaque bytes that come back.
struct Tunnel {
    stream: StreamId,
    sent: u64,
    came: u64,
}

fn pattern(from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(|at| (at * 31 + at / 253) as u8).collect()
}

pub fn during_bulk() {
    // Where this end gets no processor for so long that the sidecar leaves the ring, nothing is shown.
    let is_shown = (0..5).any(|_| pings_are_answered());
    assert!(is_shown, "the sidecar left the ring each time");
}

/// Returns whether the ring was there all the time.
fn pings_are_answered() -> bool {
    let app = Upstream::start(|peer, _| peer.echo());
    let world = World::under("tcp", app.address, &should());
    let folder = door(world.reviews.program.pid()).parent().unwrap().to_owned();
    let mut rogue = Rogue::call(&world);
    let (memory, _bell) = rogue.asks_for_a_wire(&folder, RING);
    let endpoint = world.endpoint.to_string();
    let mut tunnels: Vec<_> = (0..TUNNELS).map(|_| rogue.tunnel(&endpoint)).collect();
    let began = Instant::now();
    let (mut pinged, mut held, mut behind) = (began, 0, 0);
    while held < HELD {
        assert!(
            began.elapsed() < PATIENCE,
            "{held} PINGs were taken by a sidecar that could not write, {behind} late"
        );
        rogue.goes_on(&mut tunnels);
        if pinged.elapsed() < BETWEEN {
            continue;
        }
        if stalls(&world) > 0.0 {
            return false;
        }
        let (before, is_taken) = (rogue.session.round_trip(), rogue.holds(&memory, &mut tunnels));
        let came_before = rogue.carrier.counts().ring_in;
        let mut ahead = 0;
        rogue.session.send_ping(Instant::now());
        while rogue.session.round_trip() == before {
            assert!(began.elapsed() < PATIENCE, "no PONG");
            ahead = rogue.carrier.counts().ring_in - came_before;
            rogue.goes_on(&mut tunnels);
        }
        pinged = Instant::now();
        match is_taken {
            true if ahead <= AHEAD => held += 1,
            true => behind += 1,
            false => {}
        }
    }
    while tunnels.iter().any(|tunnel| tunnel.came < tunnel.sent) {
        assert!(began.elapsed() < 2 * PATIENCE, "all comes back");
        rogue.turn();
        rogue.takes(&mut tunnels);
    }
    let carried: u64 = tunnels.iter().map(|tunnel| tunnel.came).sum();
    assert!(carried > u64::from(RING));
    if stalls(&world) > 0.0 {
        return false;
    }
    wait_until("the ring carried it both ways", || bytes(&world.reviews, "shm") > 2.0 * carried as f64);
    assert_eq!(world.reviews.metrics().sum("lighter_link_fallbacks_total", &[]), 0.0);
    world.is_whole();
    true
}

fn stalls(world: &World) -> f64 {
    world.reviews.metrics().sum("lighter_link_fallbacks_total", &[("cause", "stall")])
}

impl Rogue {
    fn tunnel(&mut self, endpoint: &str) -> Tunnel {
        let authority = endpoint.as_bytes();
        let opening = Opening { protocol: Protocol::Tunnel, method: b"", authority, path: b"", ..PLAIN };
        let to = [(&b"x-lighter-endpoint"[..], endpoint.as_bytes())];
        let (stream, _) = self.session.open(Instant::now(), &opening, to, b"", false).unwrap();
        Tunnel { stream, sent: 0, came: 0 }
    }

    /// Sends and reads.
    fn goes_on(&mut self, tunnels: &mut [Tunnel]) {
        self.feeds(tunnels);
        self.turn();
        self.takes(tunnels);
    }

    /// Sends on all tunnels what there is credit for, as long as little waits to go out.
    fn feeds(&mut self, tunnels: &mut [Tunnel]) {
        tunnels.rotate_left(1);
        for tunnel in tunnels {
            self.send();
            if self.sealed.len() >= RING as usize / 2 {
                return;
            }
            let room = self.session.can_send(tunnel.stream).min(16 * 1024);
            let part = pattern(tunnel.sent, room);
            tunnel.sent += self.session.send_slice(tunnel.stream, &part, false).unwrap() as u64;
        }
        self.send();
    }

    fn takes(&mut self, tunnels: &mut [Tunnel]) {
        self.events.clear();
        for tunnel in tunnels {
            while let Some(part) = self.session.read(tunnel.stream) {
                match part {
                    Read::Head(head) => assert_eq!(head.status, 200),
                    Read::Data(data) => {
                        assert!(pattern(tunnel.came, data.len()) == data);
                        tunnel.came += data.len() as u64;
                        self.session.release(tunnel.stream, data.len());
                    }
                    other => panic!("it goes on: {other:?}"),
                }
            }
        }
    }

    /// Reads nothing, but sends, until the ring from the sidecar is full, and then a PING. Returns whether the sidecar took that
    /// while it could not write.
    fn holds(&mut self, memory: &RingMemory, tunnels: &mut [Tunnel]) -> bool {
        let began = Instant::now();
        let is_full = || memory.word(MAKER + WRITTEN) - memory.word(TAKER + CONSUMED) == u64::from(RING);
        let mut behind_ping = None;
        while began.elapsed() < LONGEST {
            if behind_ping.is_none() && is_full() {
                self.session.send_ping(Instant::now());
                self.send();
                behind_ping = Some(memory.word(TAKER + WRITTEN) + self.sealed.len() as u64);
            }
            if behind_ping.is_some_and(|end| memory.word(MAKER + CONSUMED) >= end) {
                return is_full();
            }
            // What was consumed is told when it is some of a ring: so more comes behind the PING.
            self.feeds(tunnels);
            std::thread::sleep(Duration::from_micros(50));
        }
        false
    }
}
