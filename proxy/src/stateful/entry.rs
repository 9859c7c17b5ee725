//! What becomes of a request that comes to a place.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lighter_migrate::{Refusal, RefusalCause, RequestId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::count::What;
use super::hosted::Hosted;

/// A request whose head has come, and nothing of whose body was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    /// Its caller's connection: between those, places that wait are shared fairly.
    pub(crate) source: u64,
    /// How much memory it takes while it waits.
    pub(crate) bytes: usize,
    /// When its caller gives up, if that is known.
    pub(crate) deadline: Option<Instant>,
    /// Whether it may go on for long.
    pub(crate) is_stream: bool,
    /// Whether it can wait.
    pub(crate) waits: bool,
    /// Its caller's sidecar keeps it until it is answered, and takes it elsewhere where it is given back.
    pub(crate) is_kept: bool,
    /// Another place has sent it on.
    pub(crate) is_forwarded: bool,
}

/// What becomes of a request.
#[must_use]
pub(crate) enum Entry {
    /// It runs.
    Run(Inside),
    /// It waits.
    Park(Parked),
    /// It goes to the place where the service is now.
    Forward(Inside),
    /// It was not executed, and its caller's sidecar, which keeps it, takes it to where the service is now.
    Return,
    /// It is answered as not executed.
    Refuse(Refusal),
}

/// What a request counts as until it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// It runs here.
    Here(What),
    /// It was sent on.
    Forwarded,
}

/// A request that runs, or was sent on, until this is dropped.
#[must_use]
pub(crate) struct Inside {
    hosted: Arc<Hosted>,
    counted: Counted,
    /// How often what ran had been cut when it came.
    since: u64,
}

impl Inside {
    /// One that is counted already.
    #[inline]
    pub(super) fn new(hosted: Arc<Hosted>, counted: Counted, since: u64) -> Self {
        Inside { hosted, counted, since }
    }

    /// Whether it was to be cut since it came. What it has done here is not where the service is by now.
    #[inline]
    pub(super) fn is_cut(&self) -> bool {
        self.hosted.cuts() != self.since
    }

    /// Resolves once it is to be cut, if it is something that does not end by itself.
    pub(super) async fn cut(&self) {
        self.hosted.cut(self.since).await;
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        self.hosted.ended(self.counted);
    }
}

/// A request that waits until it is known who serves. Dropped before that, it never runs.
#[must_use]
pub(crate) struct Parked {
    hosted: Arc<Hosted>,
    id: RequestId,
    what: What,
    /// Gone once it has said what becomes of the request.
    verdict: Option<oneshot::Receiver<Told>>,
}

/// What is said to one who waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// After so many cuts.
    Run(u64),
    /// The same.
    Forward(u64),
    Return,
    Refuse(Refusal),
}

impl Parked {
    pub(super) fn new(
        hosted: Arc<Hosted>,
        id: RequestId,
        what: What,
        verdict: oneshot::Receiver<Told>,
    ) -> Self {
        Parked { hosted, id, what, verdict: Some(verdict) }
    }

    fn entry(&self, told: Told) -> Entry {
        let inside = |counted, since| Inside::new(self.hosted.clone(), counted, since);
        match told {
            Told::Run(since) => Entry::Run(inside(Counted::Here(self.what), since)),
            Told::Forward(since) => Entry::Forward(inside(Counted::Forwarded, since)),
            Told::Return => Entry::Return,
            Told::Refuse(refusal) => Entry::Refuse(refusal),
        }
    }
}

impl Future for Parked {
    type Output = Entry;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Entry> {
        let nobody = Told::Refuse(Refusal { cause: RefusalCause::NotHere, hint: None });
        let told = match &mut self.verdict {
            Some(verdict) => ready!(Pin::new(verdict).poll(cx)).unwrap_or(nobody),
            None => nobody,
        };
        self.verdict = None;
        Poll::Ready(self.entry(told))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let Some(mut verdict) = self.verdict.take() else { return };
        verdict.close();
        match verdict.try_recv() {
            // It was let in, and did not hear of it: so it ends.
            Ok(told) => drop(self.entry(told)),
            Err(_) => self.hosted.withdrawn(self.id),
        }
    }
}
