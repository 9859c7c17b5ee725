//! RDMA wires: one side whose peer says anything in its numbers, and whose device completes anything.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::link::wire::rdma::{Core, Ended, Message, Provider, QUEUE};
use crate::link::wire::{Wire, WireFault};

/// What cannot be is found before it is used, and for good: no message goes out for which the peer said no request, nothing
/// is written over that it did not consume, and nothing is read that did not come.
pub(super) fn hostile(choices: &[u8]) {
    let Some((size, mut choices)) = choices.split_first() else { return };
    let size = 1u64 << (size % 12);
    let device = Device(Rc::new(RefCell::new(State::new(size as usize))));
    let mut core = Core::new(Device(device.0.clone()));
    let (mut written, mut read, mut consumed) = (0, 0, 0);
    while let [what, a, b, c, d, behind @ ..] = choices {
        choices = behind;
        let many = usize::from(*b);
        let fault = match what % 8 {
            0 => core.write(&vec![7; many]).map(|took| written += took as u64).err(),
            1 => core.read(&mut vec![0; many]).map(|got| read += got as u64).err(),
            2 => {
                consumed += (read - consumed).min(many as u64);
                core.consume(consumed);
                None
            }
            3 => {
                let told = core.consumed();
                if let Ok(told) = told {
                    assert!(told <= written && written - told <= size);
                    let mut stored = Vec::new();
                    core.stored(told, written, &mut stored);
                    assert!(stored.len() as u64 == written - told && stored.iter().all(|byte| *byte == 7));
                }
                told.err()
            }
            4 => match core.poll_changed(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(changed) => changed.err(),
                Poll::Pending => None,
            },
            5 => {
                if a % 2 == 0 {
                    core.await_consumed()
                } else {
                    core.ask()
                }
                None
            }
            6 => {
                // Near to what can be, or anything.
                let number = match a % 4 {
                    0 => u32::from_be_bytes([*what, *b, *c, *d]),
                    _ => u32::from(*b) | u32::from(*c % 64) << 25 | u32::from(*a >> 7) << 31,
                };
                let bytes = u32::from(*d) >> (a >> 4 & 7);
                device.0.borrow_mut().comes(bytes, (a % 16 != 15).then_some(number));
                None
            }
            _ => {
                device.0.borrow_mut().completes(a % 16 != 15, u64::from(*b));
                None
            }
        };
        let state = device.0.borrow();
        assert!(state.sent <= QUEUE as u64 + state.posted_by_peer, "a message for which there is no request");
        assert!(read <= state.came && consumed <= read);
        if let Some(fault) = fault {
            drop(state);
            assert!(matches!(fault, WireFault::Hostile | WireFault::Failed));
            assert_eq!(core.read(&mut [0; 8]), Err(fault));
            assert_eq!(core.write(&[0; 8]), Err(fault));
            return;
        }
    }
}

struct Device(Rc<RefCell<State>>);

/// What the device holds, and the most that the peer can have meant.
struct State {
    out: Vec<u8>,
    told: VecDeque<Ended>,
    /// Messages that are to complete.
    signalled: VecDeque<u64>,
    sent: u64,
    came: u64,
    posted_by_peer: u64,
    last_posted: u32,
}

impl State {
    fn new(size: usize) -> Self {
        State {
            out: vec![0; size],
            told: VecDeque::new(),
            signalled: VecDeque::new(),
            sent: 0,
            came: 0,
            posted_by_peer: 0,
            last_posted: 0,
        }
    }

    fn comes(&mut self, bytes: u32, number: Option<u32>) {
        self.came += u64::from(bytes);
        let posted = number.map_or(self.last_posted, |number| number >> 25 & 63);
        self.posted_by_peer += u64::from(posted.wrapping_sub(self.last_posted) & 63);
        self.last_posted = posted;
        self.told.push_back(Ended::Came(bytes, number));
    }

    fn completes(&mut self, in_order: bool, id: u64) {
        let next = self.signalled.pop_front();
        self.told.extend(if in_order { next.map(Ended::Sent) } else { Some(Ended::Sent(id)) });
    }
}

impl Provider for Device {
    fn size(&self) -> usize {
        self.0.borrow().out.len()
    }

    fn put(&mut self, at: usize, from: &[u8]) {
        self.0.borrow_mut().out[at..at + from.len()].copy_from_slice(from);
    }

    fn stored(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow().out[at..at + to.len()]);
    }

    fn get(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= self.size());
        to.fill(9);
    }

    fn send(&mut self, messages: &[Message]) -> Result<(), WireFault> {
        let mut state = self.0.borrow_mut();
        state.sent += messages.len() as u64;
        state.signalled.extend(messages.iter().filter(|message| message.signalled).map(|message| message.id));
        Ok(())
    }

    fn receive(&mut self, _: usize) -> Result<(), WireFault> {
        Ok(())
    }

    fn poll(&mut self, to: &mut Vec<Ended>) -> Result<usize, WireFault> {
        let told = &mut self.0.borrow_mut().told;
        let number = told.len();
        to.extend(told.drain(..));
        Ok(number)
    }

    fn ask(&mut self) -> Result<(), WireFault> {
        Ok(())
    }

    fn poll_notice(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        Poll::Pending
    }

    fn silence(&mut self) {}
}
