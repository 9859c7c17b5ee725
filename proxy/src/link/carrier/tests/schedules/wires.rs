//! Wires of two rings that give and take what the script says, wake late, and can fail.

use super::*;
use crate::link::wire::WireFault;

/// Both ends of a wire that holds `room` bytes each way.
pub(in super::super) fn wires(script: &Rc<Script>, room: usize) -> Laid {
    let rings: Rc<RefCell<Rings>> = Rc::default();
    let ends = [0, 1].map(|side| -> Box<dyn Wire> {
        Box::new(End { script: script.clone(), rings: rings.clone(), side, room, silent: false })
    });
    (ends, Rc::new(Torn(script.clone(), rings)))
}

/// Both directions of a wire.
#[derive(Default)]
struct Rings {
    /// From each side.
    rings: [Ring; 2],
    wakers: [Option<Waker>; 2],
    /// Something happened that the side has not looked at.
    news: [bool; 2],
    /// A side waits for room, or for the end.
    waits: [bool; 2],
    gone: [bool; 2],
    fault: Option<WireFault>,
}

/// One direction of a wire.
#[derive(Default)]
struct Ring {
    bytes: Vec<u8>,
    read: usize,
    consumed: u64,
}

/// One end of a wire.
struct End {
    script: Rc<Script>,
    rings: Rc<RefCell<Rings>>,
    side: usize,
    room: usize,
    silent: bool,
}

/// Rings that can fail.
struct Torn(Rc<Script>, Rc<RefCell<Rings>>);

impl Medium for Torn {
    fn fail(&self) {
        let mut rings = self.1.borrow_mut();
        rings.fault = Some(WireFault::Failed);
        rings.wakers.iter_mut().for_each(|waker| self.0.later(waker.take()));
    }
}

impl End {
    fn check(&self) -> Result<(), WireFault> {
        let rings = self.rings.borrow();
        match rings.fault {
            _ if self.silent => Err(WireFault::Silent),
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// The other side has something to look at.
    fn tell(&self, rings: &mut Rings) {
        let peer = 1 - self.side;
        rings.news[peer] = true;
        if !self.script.mute.get() {
            self.script.later(rings.wakers[peer].take());
        }
    }
}

impl Wire for End {
    fn write(&mut self, from: &[u8]) -> Result<usize, WireFault> {
        self.check()?;
        let mut rings = self.rings.borrow_mut();
        if rings.gone[1 - self.side] {
            return Err(WireFault::Gone);
        }
        let ring = &mut rings.rings[self.side];
        let free = self.room - (ring.bytes.len() - ring.consumed as usize);
        let taken = match from.len().min(free) {
            0 => 0,
            most => self.script.upto(most),
        };
        ring.bytes.extend_from_slice(&from[..taken]);
        rings.waits[self.side] = taken < from.len();
        if taken > 0 {
            self.tell(&mut rings);
            // Less was taken than there was room for: that is news at once.
            let there = taken < from.len().min(free);
            rings.news[self.side] |= there;
        }
        Ok(taken)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, WireFault> {
        self.check()?;
        let mut rings = self.rings.borrow_mut();
        let gone = rings.gone[1 - self.side];
        let ring = &mut rings.rings[1 - self.side];
        let there = to.len().min(ring.bytes.len() - ring.read);
        if there == 0 {
            return if gone { Err(WireFault::Gone) } else { Ok(0) };
        }
        let taken = self.script.upto(there);
        to[..taken].copy_from_slice(&ring.bytes[ring.read..ring.read + taken]);
        ring.read += taken;
        let left = ring.read < ring.bytes.len();
        rings.news[self.side] |= left;
        Ok(taken)
    }

    fn consume(&mut self, count: u64) {
        let mut rings = self.rings.borrow_mut();
        let ring = &mut rings.rings[1 - self.side];
        assert!(ring.consumed <= count && count <= ring.read as u64, "no more is consumed than was read");
        ring.consumed = count;
        if rings.waits[1 - self.side] {
            self.tell(&mut rings);
        }
    }

    fn consumed(&mut self) -> Result<u64, WireFault> {
        Ok(self.rings.borrow().rings[self.side].consumed)
    }

    fn await_consumed(&mut self) {
        self.rings.borrow_mut().waits[self.side] = true;
    }

    fn ask(&mut self) {}

    fn stored(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        let rings = self.rings.borrow();
        let ring = &rings.rings[self.side];
        assert!(from >= ring.bytes.len().saturating_sub(self.room) as u64, "that is overwritten");
        out.extend_from_slice(&ring.bytes[from as usize..to as usize]);
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        self.check()?;
        let mut rings = self.rings.borrow_mut();
        if std::mem::take(&mut rings.news[self.side]) && !self.script.mute.get() {
            return Poll::Ready(Ok(()));
        }
        if rings.gone[1 - self.side] {
            return Poll::Ready(Err(WireFault::Gone));
        }
        rings.wakers[self.side] = Some(cx.waker().clone());
        Poll::Pending
    }

    fn silence(&mut self) {
        self.silent = true;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut rings = self.rings.borrow_mut();
        rings.gone[self.side] = true;
        self.script.later(rings.wakers[1 - self.side].take());
    }
}
