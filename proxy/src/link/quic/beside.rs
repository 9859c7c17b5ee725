//! What a link over QUIC has that others have not.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::choice::Sent;
use super::{PING_AFTER, PING_WAIT};
use crate::link::connection::Link;
use crate::link::life::Life;
use crate::link::session::{Limits, Session, Side};
use crate::link::upgrade::Far;
use crate::telemetry::LinkWire;
use crate::worker::Shared;

/// What a link over QUIC and its task tell each other.
#[derive(Default)]
pub(in crate::link) struct OverQuic {
    /// What it sent, until that was last counted.
    pub(super) sent: Cell<Sent>,
    /// When its task looks after it again.
    pub(in crate::link) tick: Cell<Option<Instant>>,
    /// Nothing comes back: no stream is opened on it.
    pub(super) stalled: Cell<bool>,
    /// So much lies unread on its streams that another might not get on.
    pub(super) crowded: Cell<bool>,
    /// The other side may be gone.
    pub(super) suspected: Cell<bool>,
    /// Who waits until the other side has answered once.
    pub(super) stands: Cell<Option<oneshot::Sender<()>>>,
}

impl OverQuic {
    /// Whether a stream opened now would get on.
    pub(in crate::link) fn has_room(&self) -> bool {
        !self.stalled.get() && !self.crowded.get()
    }
}

impl Link {
    /// A link to `peer` over QUIC, where each stream has one of its own beneath it, on which nothing has happened yet.
    /// [`drive`](super::drive) is what moves it.
    pub(crate) fn over_quic(side: Side, life: Life, shared: &Arc<Shared>, peer: Far) -> Rc<Self> {
        let mut limits = Limits { ping_wait: PING_WAIT, ..Limits::default() };
        if side == Side::Opener {
            limits.ping_after = PING_AFTER;
        }
        let session = Session::with_lanes(side, limits, Instant::now());
        let mut link = Link::with(session, side, life, shared, peer);
        link.quic = Some(Box::default());
        link.counted.goes_over(LinkWire::Quic);
        Rc::new(link)
    }

    /// The other side may be gone: one over QUIC asks it, and takes no stream until it answers. TCP knows by itself.
    pub(in crate::link) fn suspect(&self) {
        if let Some(quic) = &self.quic
            && !self.is_over()
        {
            quic.suspected.set(true);
            quic.stalled.set(true);
            self.session.borrow_mut().send_ping(Instant::now());
            self.wake();
        }
    }

    /// What it sent over QUIC until it was last counted, and whether nothing comes back.
    pub(super) fn over_quic_is(&self) -> (Sent, bool) {
        self.quic.as_ref().map_or_else(Default::default, |quic| (quic.sent.get(), quic.stalled.get()))
    }

    /// So many bytes were carried both ways over QUIC until now.
    pub(in crate::link) fn carried_over_quic(&self, sent: u64, received: u64) {
        self.upgrade.borrow().carried_over_quic(sent, received, self.open_streams());
    }
}
