//! Queue pairs that a schedule drives: messages are late, half written before they are told, and complete late; the ends of
//! what was sent and of what came are told in any order, each in their own. Asserts what a device relies on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::schedules::{Laid, Medium, Script};
use crate::link::wire::rdma::{Core, Ended, Message, Provider, QUEUE};
use crate::link::wire::{Wire, WireFault};

/// Two queue pairs that are connected.
struct Fabric {
    script: Rc<Script>,
    pairs: RefCell<[Pair; 2]>,
}

struct Pair {
    /// The way out, and the way in.
    out: Vec<u8>,
    inward: Vec<u8>,
    /// Messages that have not arrived.
    posted: VecDeque<Message>,
    /// Requests to receive.
    receives: usize,
    /// What is to complete, of what was sent and of what came.
    sent: VecDeque<Ended>,
    came: VecDeque<Ended>,
    /// The completion queue.
    told: VecDeque<Ended>,
    /// A notice was asked for; there is one.
    asked: bool,
    notice: bool,
    waker: Option<Waker>,
    /// In error, or gone.
    over: bool,
}

/// One side's view.
struct Device {
    fabric: Rc<Fabric>,
    side: usize,
}

/// Both ends of a wire between scripted devices. Its rings hold about `room`.
pub(super) fn wires(script: &Rc<Script>, room: usize) -> Laid {
    let size = room.next_power_of_two();
    let pair = || Pair {
        out: vec![0; size],
        inward: vec![0; size],
        posted: VecDeque::new(),
        receives: QUEUE,
        sent: VecDeque::new(),
        came: VecDeque::new(),
        told: VecDeque::new(),
        asked: false,
        notice: false,
        waker: None,
        over: false,
    };
    let fabric = Rc::new(Fabric { script: script.clone(), pairs: RefCell::new([pair(), pair()]) });
    let ends =
        [0, 1].map(|side| -> Box<dyn Wire> { Box::new(Core::new(Device { fabric: fabric.clone(), side })) });
    (ends, fabric)
}

impl Pair {
    /// Everything under way ends here.
    fn fail(&mut self, fault: WireFault) {
        self.over = true;
        self.posted.clear();
        self.sent.push_back(Ended::Failed(fault));
        // What came before came, and the rest is flushed.
        self.came.extend(std::iter::repeat_n(Ended::Failed(WireFault::Failed), self.receives));
        self.receives = 0;
    }

    fn is_still(&self) -> bool {
        self.posted.is_empty() && self.sent.is_empty() && self.came.is_empty()
    }
}

impl Medium for Fabric {
    fn step(&self) {
        let mut pairs = self.pairs.borrow_mut();
        if self.script.is_mute() {
            // Nothing is acknowledged: the device tries again for a while.
            for pair in pairs.iter_mut().filter(|pair| !pair.posted.is_empty()) {
                if self.script.chance(2) {
                    pair.fail(WireFault::Gone);
                }
            }
        }
        let which = usize::from(self.script.chance(50));
        let (near, far) = pairs.split_at_mut(1);
        let [near, far] = if which == 0 { [&mut near[0], &mut far[0]] } else { [&mut far[0], &mut near[0]] };
        match near.posted.pop_front() {
            Some(_) if far.over => near.fail(WireFault::Gone),
            Some(message) if self.script.chance(50) && !self.script.is_mute() => {
                assert!(far.receives > 0, "the peer has a request for each message");
                far.receives -= 1;
                let part = message.part.clone();
                far.inward[part.clone()].copy_from_slice(&near.out[part]);
                far.came.push_back(Ended::Came(message.part.len() as u32, Some(message.immediate)));
                if message.signalled {
                    near.sent.push_back(Ended::Sent(message.id));
                }
            }
            Some(message) => {
                // Half of it is there.
                let half = message.part.start..message.part.start + message.part.len() / 2;
                far.inward[half.clone()].copy_from_slice(&near.out[half.clone()]);
                far.inward[half.end..message.part.end].fill(0x4C);
                near.posted.push_front(message);
            }
            None => {}
        }
        let told = if self.script.chance(50) { near.sent.pop_front() } else { near.came.pop_front() };
        if let Some(told) = told {
            near.told.push_back(told);
            if std::mem::take(&mut near.asked) {
                near.notice = true;
                self.script.later(near.waker.take());
            }
        }
    }

    fn is_still(&self) -> bool {
        self.pairs.borrow().iter().all(Pair::is_still)
    }

    fn hides_a_loss(&self) -> bool {
        self.pairs.borrow().iter().any(|pair| pair.over)
    }

    fn fail(&self) {
        self.pairs.borrow_mut().iter_mut().for_each(|pair| pair.fail(WireFault::Failed));
    }
}

impl Provider for Device {
    fn size(&self) -> usize {
        self.fabric.pairs.borrow()[self.side].out.len()
    }

    fn put(&mut self, at: usize, from: &[u8]) {
        let pair = &mut self.fabric.pairs.borrow_mut()[self.side];
        let to = at..at + from.len();
        let is_free = |message: &Message| message.part.end <= to.start || to.end <= message.part.start;
        assert!(pair.posted.iter().all(is_free), "what is to be sent is not written over");
        pair.out[to].copy_from_slice(from);
    }

    fn stored(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.fabric.pairs.borrow()[self.side].out[at..at + to.len()]);
    }

    fn get(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.fabric.pairs.borrow()[self.side].inward[at..at + to.len()]);
    }

    fn send(&mut self, messages: &[Message]) -> Result<(), WireFault> {
        let pairs = &mut *self.fabric.pairs.borrow_mut();
        for message in messages {
            // Anything may lie there from now on.
            pairs[1 - self.side].inward[message.part.clone()].fill(0xA5);
        }
        let pair = &mut pairs[self.side];
        if pair.over {
            // It is taken none the less.
            pair.sent.push_back(Ended::Failed(WireFault::Failed));
        } else {
            pair.posted.extend(messages.iter().cloned());
        }
        Ok(())
    }

    fn receive(&mut self, number: usize) -> Result<(), WireFault> {
        let pair = &mut self.fabric.pairs.borrow_mut()[self.side];
        pair.receives += number;
        assert!(pair.receives <= QUEUE, "no more requests than there is room for");
        Ok(())
    }

    fn poll(&mut self, to: &mut Vec<Ended>) -> Result<usize, WireFault> {
        let told = &mut self.fabric.pairs.borrow_mut()[self.side].told;
        let number = if told.is_empty() { 0 } else { self.fabric.script.upto(told.len()) };
        to.extend(told.drain(..number));
        Ok(number)
    }

    fn ask(&mut self) -> Result<(), WireFault> {
        self.fabric.pairs.borrow_mut()[self.side].asked = true;
        Ok(())
    }

    fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        let pair = &mut self.fabric.pairs.borrow_mut()[self.side];
        if std::mem::take(&mut pair.notice) {
            return Poll::Ready(Ok(()));
        }
        pair.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn silence(&mut self) {
        let pair = &mut self.fabric.pairs.borrow_mut()[self.side];
        pair.over = true;
        pair.posted.clear();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.silence();
    }
}
