//! The provider that runs: a queue pair of a device.

use std::task::{Context, Poll, ready};

use lighter_verbs::{Completion, CompletionQueue, QueuePair, Region, Remote, Status, Write};

use super::super::WireFault;
use super::provider::{Ended, Message, Provider};
use crate::telemetry::{self, Registered};

/// One side of a wire. What was made of the device goes in the order of the fields.
pub(crate) struct Verbs {
    pub(super) pair: QueuePair,
    pub(super) completions: CompletionQueue,
    /// The way out, and the way in, each with the slot behind it.
    pub(super) out: Region,
    pub(super) inward: Region,
    /// The peer's way in.
    pub(super) to: Remote,
    /// Bytes of a ring.
    pub(super) size: usize,
    /// What completed and was not passed on.
    pub(super) ended: Vec<Completion>,
    pub(super) _registered: Registered,
}

impl Provider for Verbs {
    fn size(&self) -> usize {
        self.size
    }

    fn put(&mut self, at: usize, from: &[u8]) {
        self.out.write(at, from);
    }

    fn stored(&self, at: usize, to: &mut [u8]) {
        self.out.read(at, to);
    }

    fn get(&self, at: usize, to: &mut [u8]) {
        self.inward.read(at, to);
    }

    fn send(&mut self, messages: &[Message]) -> Result<(), WireFault> {
        let write = |message: &Message| {
            telemetry::rdma().sent(message.part.is_empty());
            Write {
                id: message.id,
                part: message.part.clone(),
                region: &self.out,
                to: self.to.at(message.part.start),
                immediate: message.immediate,
                signalled: message.signalled,
            }
        };
        // There are two where bytes wrap, and no more.
        let posted = match messages {
            [one] => self.pair.write(&[write(one)]),
            [one, other] => self.pair.write(&[write(one), write(other)]),
            _ => messages.iter().try_for_each(|message| self.pair.write(&[write(message)])),
        };
        posted.map_err(failed)
    }

    fn receive(&mut self, number: usize) -> Result<(), WireFault> {
        self.pair.receive(RECEIVE, number).map_err(failed)
    }

    fn poll(&mut self, to: &mut Vec<Ended>) -> Result<usize, WireFault> {
        if self.ended.is_empty() {
            self.completions.poll(&mut self.ended).map_err(failed)?;
        }
        let number = self.ended.len();
        to.extend(self.ended.drain(..).filter_map(|completion| ended(&completion)));
        Ok(number)
    }

    fn ask(&mut self) -> Result<(), WireFault> {
        self.completions.ask_for_notice().map_err(failed)
    }

    fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        Poll::Ready(ready!(self.completions.poll_notice(cx)).map_err(failed))
    }

    fn silence(&mut self) {
        if let Err(error) = self.pair.fail() {
            // Then it is gone with its device.
            tracing::debug!(%error, "a queue pair cannot be ended");
        }
    }
}

/// What a completion says, if it is about the wire.
fn ended(completion: &Completion) -> Option<Ended> {
    match completion.status {
        Status::Success if completion.received => {
            telemetry::rdma().received(completion.len == 0);
            Some(Ended::Came(completion.len, completion.immediate))
        }
        Status::Success if completion.id == PROBE => None,
        Status::Success => Some(Ended::Sent(completion.id)),
        status => {
            telemetry::rdma().ended(status);
            tracing::debug!(?status, "a request to an RDMA device ended badly");
            Some(Ended::Failed(match status {
                Status::RetriesExceeded | Status::ReceiverNotReady => WireFault::Gone,
                _ => WireFault::Failed,
            }))
        }
    }
}

fn failed(error: lighter_verbs::Error) -> WireFault {
    tracing::debug!(%error, "an RDMA device refuses");
    WireFault::Failed
}

/// What all requests to receive are called,
pub(super) const RECEIVE: u64 = u64::MAX;

/// and what is written for the proof.
pub(super) const PROBE: u64 = u64::MAX - 1;
