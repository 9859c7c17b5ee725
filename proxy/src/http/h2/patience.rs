//! How long a caller's connection is waited for: for its preface, for the rest of a head, and until it reads.

use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use super::deadline::{Deadline, Deadlines};
use super::wire::Wire;
use crate::guard::client::{self, Slow};
use crate::worker::Worker;

/// How long a caller may take for the connection preface.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a caller's connection is waited for with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Preface,
    /// A frame other than DATA has begun, or a header block.
    Head,
    /// The socket is full.
    Reader,
}

/// Watches one connection.
#[derive(Default)]
pub(super) struct Patience(Option<Watch>);

struct Watch {
    what: Awaited,
    end: Deadline,
    /// Bytes that it had read when the time was set.
    mark: u64,
}

impl Patience {
    /// Whether the caller took too long for what it is waited for now.
    pub(super) fn is_over(
        &mut self,
        worker: &Worker,
        wire: &Wire,
        deadlines: &Rc<Deadlines>,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(what) = Awaited::by(wire) else {
            self.0 = None;
            return false;
        };
        let guard = &worker.shared.config.guard;
        let time = match what {
            Awaited::Preface => HANDSHAKE,
            Awaited::Head => guard.head_timeout,
            Awaited::Reader => guard.client_timeout,
        };
        let until = || tokio::time::Instant::now().into_std() + time;
        let watch = match &mut self.0 {
            Some(watch) if watch.what == what => watch,
            place => {
                let end = deadlines.add(until(), cx.waker());
                place.insert(Watch { what, end, mark: wire.written() })
            }
        };
        if !watch.end.is_due() {
            return false;
        }
        match what {
            Awaited::Preface => tracing::debug!("no HTTP/2 preface in time"),
            Awaited::Head => Slow::Head.count(),
            Awaited::Reader => {
                let taken = wire.written() - std::mem::replace(&mut watch.mark, wire.written());
                if !client::is_too_little(guard, taken, time) {
                    watch.end.set(until());
                    return false;
                }
                Slow::Answer.count();
            }
        }
        true
    }
}

impl Awaited {
    fn by(wire: &Wire) -> Option<Self> {
        if wire.is_full() {
            return Some(Awaited::Reader);
        }
        wire.ask(|connection| match () {
            () if !connection.is_greeted() => Some(Awaited::Preface),
            () if connection.is_amid_frame() => Some(Awaited::Head),
            () => None,
        })
    }
}
