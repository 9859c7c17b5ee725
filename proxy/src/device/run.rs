//! One run, on a thread of its own, and what it says to the connection that asked for it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::busy::Busy;
use super::counts::Counts;
use super::hold::{Hold, Used};
use super::planned::InUse;
use super::priority;
use super::relay;
use super::waits::Waits;
use super::{Asked, Ended, FunctionHost, NotRelayed, NotTaken, Relayed, Results, Took};

/// Pieces of a result that wait for the caller, each of some ten kilobytes. With them a run fills one while another goes out.
const PIECES: usize = 2;

/// What a result is of which nobody said it.
const UNSAID: &str = "application/octet-stream";

/// What a run says.
pub(super) enum Said {
    /// Some bytes of the result. The first of them come with what it is.
    Piece(Option<Head>, Bytes),
    /// The last of them, likewise. The end follows at once.
    Last(Option<Head>, Bytes),
    /// It has ended. What it would have been, if nothing came of it.
    End(Head, Ended),
}

/// What an answer is.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) media_type: Cow<'static, str>,
    /// All fields, where a program of its own said them.
    pub(super) fields: Option<Box<HeaderMap>>,
}

impl Head {
    fn of(status: u16, media_type: impl Into<Cow<'static, str>>) -> Self {
        Head { status, media_type: media_type.into(), fields: None }
    }
}

impl Default for Head {
    fn default() -> Self {
        Head::of(200, UNSAID)
    }
}

/// What a request wants.
pub(super) struct Wanted {
    pub(super) function: String,
    pub(super) dataset: String,
    pub(super) parameters: String,
    pub(super) sent: Sent,
}

/// What is known of a request beside its target.
pub(super) enum Sent {
    /// Its body, which is all there.
    Body(Option<Bytes>),
    /// All of it, as it comes: for a program of its own.
    Whole(Box<Request<Incoming>>),
}

/// What is to be run.
pub(super) struct Run {
    pub(super) host: Arc<dyn FunctionHost>,
    pub(super) counts: Arc<Counts>,
    pub(super) busy: Arc<Busy>,
    /// Held for as long as it is under way.
    pub(super) under_way: Arc<()>,
    pub(super) hold: Arc<Hold>,
    pub(super) wanted: Wanted,
    /// Its place among those that may run at once.
    pub(super) place: OwnedSemaphorePermit,
    /// What keeps its function active, where that is planned. Dropped after its place, which is then looked at.
    pub(super) in_use: Option<InUse>,
}

impl Run {
    /// Begins it. What is not heard any more ends it.
    pub(super) fn start(self) -> std::io::Result<mpsc::Receiver<Said>> {
        let (says, hears) = mpsc::channel(PIECES);
        let handle = Handle::current();
        std::thread::Builder::new().name("function".into()).spawn(move || self.run(says, handle))?;
        Ok(hears)
    }

    fn run(self, says: mpsc::Sender<Said>, handle: Handle) {
        let Run { host, counts, busy, under_way, hold, wanted, place, in_use } = self;
        let Wanted { function, dataset, parameters, sent } = wanted;
        let (body, request) = match sent {
            Sent::Body(body) => (body, None),
            Sent::Whole(request) => (None, Some(*request)),
        };
        let asked =
            Asked { function: &function, dataset: &dataset, parameters: &parameters, body: body.as_deref() };
        let has = priority::take(hold.priority);
        counts.begin(has);
        busy.begin();
        let began = Instant::now();
        let used = Arc::new(Used::none(hold));
        let head = Some(Head::default());
        let mut result = Result { says, handle, head, ends: false, waits: Waits::default(), used, request };
        let ran = catch_unwind(AssertUnwindSafe(|| host.run(&asked, &mut result)));
        let mut ended = ran.unwrap_or_else(|_| Ended {
            status: "CS_FATAL_ERROR",
            http: 500,
            message: "a fault of the sidecar".into(),
            took: Took::default(),
        });
        ended.took.busy = result.used.end();
        tracing::debug!(function, dataset, status = ended.status, why = ended.message, took = ?ended.took, "run");
        // Whoever hears of the end finds it counted, and its place free.
        counts.end(&asked, &ended, has);
        let took = began.elapsed().saturating_sub(result.waits.took());
        busy.end(took);
        // What fails at once says nothing of how much there is to do.
        if let Some(in_use) = in_use.as_ref().filter(|_| ended.http == 200) {
            in_use.ran(took);
        }
        drop(under_way);
        drop(place);
        drop(in_use);
        // One who has left does not want to know.
        let _ = result.says.blocking_send(Said::End(result.head.unwrap_or_default(), ended));
    }
}

/// The connection, as a run sees it.
struct Result {
    says: mpsc::Sender<Said>,
    /// Of the thread on which the connection is served.
    handle: Handle,
    /// What was said of the answer, until its first bytes go out.
    head: Option<Head>,
    ends: bool,
    /// For the caller.
    waits: Waits,
    used: Arc<Used>,
    /// What a program of its own is to answer.
    request: Option<Request<Incoming>>,
}

impl Results for Result {
    fn begin(&mut self, media_type: &'static str) {
        self.head = Some(Head::of(200, media_type));
    }

    fn answer(&mut self, status: u16, media_type: String) {
        self.head = Some(Head::of(status, media_type));
    }

    fn relay(
        &mut self,
        to: SocketAddr,
        until: Instant,
        takes: &mut dyn FnMut(u64) -> bool,
    ) -> std::result::Result<Relayed, NotRelayed> {
        let Some(request) = self.request.take() else {
            return Err(NotRelayed::Lost("there is nothing that could be passed on".into()));
        };
        let Result { says, handle, head, waits, .. } = self;
        // Nothing that was said before holds: the program says it all.
        *head = None;
        handle.block_on(async {
            tokio::select! {
                biased;
                passed = relay::pass(request, to, takes, says, waits) => passed,
                () = says.closed() => Err(NotRelayed::Gone),
                () = tokio::time::sleep_until(until.into()) => Err(NotRelayed::Late),
            }
        })
    }

    fn ends(&mut self) {
        self.ends = true;
    }

    fn write(&mut self, bytes: Bytes, until: Instant) -> std::result::Result<(), NotTaken> {
        // To make it took something as well.
        self.used.pay(|| self.says.is_closed() || Instant::now() >= until);
        let piece = if self.ends { Said::Last } else { Said::Piece }(self.head.take(), bytes);
        let wait = self.waits.begin();
        let sent = self
            .handle
            .block_on(async { tokio::time::timeout_at(until.into(), self.says.send(piece)).await });
        drop(wait);
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(NotTaken::Gone),
            Err(_) => Err(NotTaken::Late),
        }
    }

    fn watch(&self) -> Arc<dyn Fn() -> bool + Send + Sync> {
        let (says, used) = (self.says.downgrade(), self.used.clone());
        Arc::new(move || {
            let is_gone = || says.upgrade().is_none_or(|says| says.is_closed());
            used.pay(is_gone);
            is_gone()
        })
    }
}
