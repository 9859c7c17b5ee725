//! Carriers: one whose peer says anything, on TCP and on the wire, with proofs that hold.

use std::task::{Context, Poll};
use std::time::Instant;

use crate::link::carrier::{Cause, In, Kind, Machine, Out, PROOF_BYTES, Prove, RECORD_BYTES};
use crate::link::session::Side;
use crate::link::wire::{Wire, WireFault};

/// A carrier whose peer does what `bytes` say: it takes that or gives the link up for good, passes on each byte once, and
/// replays nothing that is not stored.
pub(super) fn hostile(bytes: &[u8]) {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let side = if choice & 1 == 0 { Side::Acceptor } else { Side::Opener };
    let mut machine = Machine::new(side);
    if choice & 2 == 0 {
        machine.establish(Known);
    }
    let (mut now, mut taken, mut given, mut opened) = (Instant::now(), 0, 0, 0);
    while let [what, which, behind @ ..] = rest {
        let (part, next) = behind.split_at(behind.len().min(usize::from(which % 64)));
        rest = next;
        let before = machine.fatal();
        let was_ended = machine.is_ended();
        let passed = match what % 16 {
            0 | 1 => machine.recv(&mut part.to_vec()),
            2..=5 => {
                let offset = match which % 4 {
                    0 => taken,
                    1 => given,
                    2 => u64::MAX - u64::from(*what),
                    _ => u64::from(*which),
                };
                let kind = [Kind::Switch, Kind::Resume, Kind::Fin][usize::from(what / 16 % 3)];
                machine.recv(&mut record(side, kind, opened + u32::from(*which > 250), offset))
            }
            6 => {
                let offered = machine.next();
                opened = offered.filter(|offered| machine.open(*offered)).unwrap_or(opened);
                Ok(0)
            }
            7 => {
                machine.switch(opened, Hostile::new(part));
                Ok(0)
            }
            8 => machine.freeze(opened, Cause::Policy).map(|()| 0),
            9 if machine.transmit().is_empty() && machine.way_out() == Out::Tcp && before.is_none() => {
                given += part.len() as u64;
                machine.sent([part]).map(|()| 0)
            }
            10 => machine.write(part).map(|written| {
                given += written as u64;
                0
            }),
            11 | 12 => machine.read(&mut [0; 16]),
            13 => machine.finish().map(|_| 0),
            14 => {
                now = machine.timeout(|| now).unwrap_or(now);
                machine.on_timeout(now).map(|()| 0)
            }
            _ if *which > 250 => machine.recv_end().map(|()| 0),
            _ if *which > 240 => machine.lose().map(|()| 0),
            _ => {
                let said = machine.transmit().len();
                machine.transmitted(said.min(usize::from(*which)));
                Ok(0)
            }
        };
        match (before, &passed) {
            (Some(_), Ok(bytes)) => assert_eq!(*bytes, 0, "what is given up passes nothing on"),
            (_, Err(fatal)) => assert_eq!(machine.fatal(), Some(*fatal), "once fatal, always fatal"),
            (None, Ok(bytes)) => assert!(*bytes == 0 || !was_ended, "bytes behind the end"),
        }
        taken += passed.unwrap_or(0) as u64;
        let counts = machine.counts();
        assert_eq!(counts.tcp_out + counts.ring_out, given);
        if machine.fatal().is_none() {
            assert_eq!(counts.tcp_in + counts.ring_in, taken, "each byte is passed on once");
        }
        assert!(machine.way_in() != In::Ring || machine.fatal().is_none());
        while machine.event().is_some() {}
    }
}

/// A record as the peer of `side` may write it.
fn record(side: Side, kind: Kind, generation: u32, offset: u64) -> [u8; RECORD_BYTES] {
    let peer = if side == Side::Opener { Side::Acceptor } else { Side::Opener };
    let mut record = [0; RECORD_BYTES];
    record[..6].copy_from_slice(&[0x4C, 3, 3, 0, 40, kind as u8]);
    record[9..13].copy_from_slice(&generation.to_be_bytes());
    record[13..21].copy_from_slice(&offset.to_be_bytes());
    record[RECORD_BYTES - PROOF_BYTES..].copy_from_slice(&Known.proof(peer, kind, generation));
    record
}

/// Proofs that everyone can make.
struct Known;

impl Prove for Known {
    fn proof(&self, sender: Side, kind: Kind, generation: u32) -> [u8; PROOF_BYTES] {
        let mut proof = [kind as u8; PROOF_BYTES];
        proof[0] = u8::from(sender == Side::Opener);
        proof[1..5].copy_from_slice(&generation.to_be_bytes());
        proof
    }
}

/// A wire whose other end gives what it was made with, and says anything of what it has consumed.
struct Hostile {
    arrived: Vec<u8>,
    read: usize,
    written: u64,
    silent: bool,
}

impl Hostile {
    fn new(arrived: &[u8]) -> Self {
        Hostile { arrived: arrived.to_vec(), read: 0, written: 0, silent: false }
    }
}

impl Wire for Hostile {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        assert!(!self.silent, "written to after it was left");
        let taken = from.len().min(7);
        self.written += taken as u64;
        Ok(taken)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        assert!(!self.silent, "read after it was left");
        let taken = to.len().min(self.arrived.len() - self.read);
        to[..taken].copy_from_slice(&self.arrived[self.read..self.read + taken]);
        self.read += taken;
        Ok(taken)
    }

    fn consume(&mut self, count: u64) {
        assert_eq!(count, self.read as u64);
    }

    fn consumed(&mut self) -> Result<u64, WireFault> {
        // What it was made with chooses.
        match self.arrived.first() {
            Some(200..) => Err(WireFault::Hostile),
            Some(150..) => Ok(u64::MAX),
            Some(100..) => Ok(self.written),
            _ => Ok(self.written / 2),
        }
    }

    fn await_consumed(&mut self) {}

    fn ask(&mut self) {}

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        assert!(from <= to && to <= self.written, "what is not stored cannot be replayed");
        out.extend((from..to).map(|_| 0));
    }

    fn poll_changed(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        Poll::Pending
    }

    fn silence(&mut self) {
        self.silent = true;
    }
}
