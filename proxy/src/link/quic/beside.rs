//! What a link over QUIC has that others have not.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::PING_WAIT;
use super::choice::Sent;
use crate::link::connection::Link;
use crate::link::life::Life;
use crate::link::session::{Limits, Session, Side};
use crate::link::upgrade::Far;
use crate::telemetry::LinkWire;
use crate::worker::Shared;

impl Link {
    /// A link to `peer` over QUIC, where each stream has one of its own beneath it, on which nothing has happened yet.
    /// [`drive`](super::drive) is what moves it.
    pub(crate) fn over_quic(side: Side, life: Life, shared: &Arc<Shared>, peer: Far) -> Rc<Self> {
        let limits = Limits { ping_wait: PING_WAIT, ..Limits::default() };
        let session = Session::with_lanes(side, limits, Instant::now());
        let mut link = Link::with(session, side, life, shared, peer);
        link.quic = true;
        link.counted.goes_over(LinkWire::Quic);
        Rc::new(link)
    }

    /// The other side may be gone: one over QUIC asks it, and takes no stream until it answers. TCP knows by itself.
    pub(in crate::link) fn suspect(&self) {
        if self.quic && !self.is_over() {
            self.suspected.set(true);
            self.stalled.set(true);
            self.session.borrow_mut().send_ping(Instant::now());
            self.wake();
        }
    }

    /// What it sent over QUIC until it was last counted.
    pub(in crate::link) fn sent_over_quic(&self) -> Sent {
        self.over_quic.get()
    }

    /// So many bytes were carried both ways over QUIC until now.
    pub(in crate::link) fn carried_over_quic(&self, sent: u64, received: u64) {
        self.upgrade.borrow().carried_over_quic(sent, received, self.open_streams());
    }
}
