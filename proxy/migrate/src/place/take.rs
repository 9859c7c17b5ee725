//! How a place takes a service over.

use super::{Action, Place};
use crate::cell::Digest;
use crate::id::Epoch;
use crate::message::{Copy, Stand, Why};
use crate::planted::Planted;

/// What there is only while a place takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Taking {
    /// What is being fetched, and how much of it is here.
    fetching: Option<(Copy, u64)>,
    /// The last one that is here.
    round: u32,
    /// How it begins its epoch once what ran before has ended.
    pub(super) begins: Option<Action>,
}

impl Taking {
    /// Another migration begins, or there is nothing left of this one.
    pub(super) fn begin(&mut self) {
        *self = Taking { begins: self.begins, ..Taking::default() };
    }
}

impl Place {
    /// Begins if nothing runs any more that belongs to what was before.
    pub(super) fn check_begun(&mut self, out: &mut Vec<Action>) {
        if self.running.unary + self.running.streams == 0
            && let Some(how) = self.taking.begins.take()
        {
            out.push(how);
        }
    }

    pub(super) fn prepare(&mut self, epoch: Epoch, out: &mut Vec<Action>) {
        // Of an earlier migration it may have drained, and not heard of anything since. What was sent on ends elsewhere.
        if matches!(self.stand, Stand::Empty | Stand::Moved | Stand::Drained { .. } | Stand::Void { .. })
            && self.running.unary + self.running.streams == 0
        {
            // Whoever comes meanwhile is sent on to where the service went when it left here, if it is there still. Where it is not,
            // its caller, who is refused, takes it where it is.
            self.moved = self.moved.filter(|(_, known)| *known >= epoch);
            self.stand = Stand::Empty;
            out.push(Action::Reserve);
        }
    }

    /// There is room, or not.
    pub fn reserved(&mut self, is_room: bool, out: &mut Vec<Action>) {
        if self.stand == Stand::Empty {
            self.stand = if is_room { Stand::Reserved } else { Stand::Void { why: Why::NoRoom } };
            self.report(false, out);
        }
    }

    pub(super) fn warm(&mut self, out: &mut Vec<Action>) {
        if self.stand == Stand::Reserved {
            out.push(Action::Warm);
        }
    }

    /// It is healthy, or does not become so.
    pub fn warmed(&mut self, is_healthy: bool, out: &mut Vec<Action>) {
        if self.stand == Stand::Reserved {
            self.stand = if is_healthy { Stand::Warm } else { Stand::Void { why: Why::Unhealthy } };
            self.report(false, out);
        }
    }

    /// Fetches a copy, or goes on with it where it was.
    pub(super) fn restore(&mut self, copy: Copy, out: &mut Vec<Action>) {
        let builds = copy.base == 0 || copy.base == self.taking.round;
        let takes = matches!(self.stand, Stand::Warm | Stand::Copied { .. });
        if !takes || !builds || copy.round <= self.taking.round {
            return;
        }
        let have = match self.taking.fetching {
            Some((fetching, have)) if fetching == copy => have,
            _ => 0,
        };
        self.taking.fetching = Some((copy, have));
        if self.faults.has(Planted::NoDigest) && copy.last && self.taking.round > 0 {
            self.restored(copy, copy.digest, out);
            return;
        }
        out.push(Action::Fetch(copy, have));
    }

    /// So many bytes of a copy came, from `offset` on. What does not follow what is here is of no use. Returns whether it does.
    pub fn fetched(&mut self, copy: Copy, offset: u64, bytes: u64) -> bool {
        match &mut self.taking.fetching {
            Some((fetching, have))
                if *fetching == copy && *have == offset && bytes <= copy.bytes - offset =>
            {
                *have += bytes;
                true
            }
            _ => false,
        }
    }

    /// All of a copy that is being fetched is here.
    pub fn is_whole(&self) -> bool {
        self.taking.fetching.is_some_and(|(copy, have)| copy.bytes == have)
    }

    /// How much is here of what is being fetched, and how much there is.
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.taking.fetching.map(|(copy, have)| (have, copy.bytes))
    }

    /// All of a copy is applied, and this is the digest of what came of it.
    pub fn restored(&mut self, copy: Copy, digest: Digest, out: &mut Vec<Action>) {
        let takes = matches!(self.stand, Stand::Warm | Stand::Copied { .. });
        if !takes || self.taking.fetching.is_none_or(|(fetching, _)| fetching != copy) {
            return;
        }
        self.taking.fetching = None;
        if digest != copy.digest {
            self.stand = Stand::Void { why: Why::Digest };
        } else {
            self.taking.round = copy.round;
            self.stand =
                if copy.last { Stand::Ready { digest } } else { Stand::Copied { round: copy.round } };
        }
        self.report(false, out);
    }

    /// A copy is larger than what may be kept here.
    pub fn too_large(&mut self, copy: Copy, out: &mut Vec<Action>) {
        self.refuse_copy(copy, Why::NoRoom, out);
    }

    /// The service does not take a copy that is here.
    pub fn not_restored(&mut self, copy: Copy, out: &mut Vec<Action>) {
        self.refuse_copy(copy, Why::Activation, out);
    }

    fn refuse_copy(&mut self, copy: Copy, why: Why, out: &mut Vec<Action>) {
        let takes = matches!(self.stand, Stand::Warm | Stand::Copied { .. });
        if takes && self.taking.fetching.is_some_and(|(fetching, _)| fetching == copy) {
            self.taking.fetching = None;
            self.stand = Stand::Void { why };
            self.report(false, out);
        }
    }
}
