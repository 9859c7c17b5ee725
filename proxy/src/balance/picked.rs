//! An endpoint that was picked, from the pick to what came of it.

use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lighter_migrate::Epoch;
use lighter_place::Setback;

use super::Cluster;
use super::circuit::Pass;
use super::endpoint::Endpoint;
use super::group::{HAS_STATE, MOVES};
use super::outlier::Fault;
use super::report;
use crate::error::Cause;
use crate::http::h2::fields::Fields;
use crate::offload::{self, Placed};
use crate::overload::Admitted;
use crate::retry;
use crate::stateful::entry::Came;
use crate::stateful::gate::LetIn;
use crate::stateful::held::Awaits;
use crate::telemetry::Direction;
use crate::telemetry::histogram::nanos;
use crate::worker::Shared;

/// An endpoint that was picked, counted as in flight until this is dropped.
pub struct Picked {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    pub(super) at: u64,
    pub(super) probe: bool,
    /// Dropped by hand, so that nobody pays for what he does not hold.
    pub(super) held: ManuallyDrop<Held>,
}

/// What a request holds of the limits of its port. Callers' sidecars keep those of one kind, a workload's own sidecar those
/// of the other.
#[derive(Default)]
pub(crate) enum Held {
    #[default]
    Nothing,
    Pass(Pass),
    Admitted(Admitted),
    /// The Service has state: boxed, as few have.
    LetIn(Box<LetIn>),
    /// Its Service moves, and it waits: boxed, as few do.
    Awaits(Box<Awaits>),
    /// Its route has its requests placed, which few have: so it is boxed, with what it holds beside.
    Placed(Box<(Placed, Held)>),
}

impl Held {
    #[inline]
    fn pass(&mut self) -> Option<&mut Pass> {
        match self {
            Held::Pass(pass) => Some(pass),
            Held::Placed(both) => both.1.pass(),
            Held::Nothing | Held::Admitted(_) | Held::LetIn(_) | Held::Awaits(_) => None,
        }
    }

    #[inline]
    fn placed(&mut self) -> Option<&mut Placed> {
        if let Held::Placed(both) = self { Some(&mut both.0) } else { None }
    }
}

/// An endpoint at which a try failed: the next one goes elsewhere if it can.
pub struct Avoid {
    endpoint: Arc<Endpoint>,
    /// Nobody was there. Otherwise there was a connection, and another one may do.
    pub(super) gone: bool,
    /// What came of the try says nothing of the endpoint.
    innocent: bool,
    /// It is on a device, which failed the request so.
    setback: Option<Setback>,
}

/// How an exchange with an endpoint ended, as the balancer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came, with no status that says that the endpoint failed.
    Answered,
    /// An answer came, with a status from 500 to 599.
    Erred,
    /// An answer came, with a status by which a gateway says that it has none: 502, 503, 504.
    Gateway,
    /// The connection failed or broke: it counts towards ejection.
    Failed,
    /// The caller went away: says nothing of the endpoint.
    Abandoned,
}

impl Outcome {
    /// An answer with this status came.
    #[inline]
    pub fn of(status: u16) -> Self {
        match status {
            502..=504 => Outcome::Gateway,
            500..=599 => Outcome::Erred,
            _ => Outcome::Answered,
        }
    }

    /// The same of an answer without a body, which ends in this gRPC status; as in Envoy.
    pub fn of_grpc(status: u8) -> Self {
        match status {
            // DEADLINE_EXCEEDED, UNAVAILABLE.
            4 | 14 => Outcome::Gateway,
            // UNKNOWN, INTERNAL, DATA_LOSS.
            2 | 13 | 15 => Outcome::Erred,
            _ => Outcome::Answered,
        }
    }

    pub(super) fn faults(self) -> &'static [Fault] {
        match self {
            Outcome::Answered | Outcome::Abandoned => &[],
            Outcome::Erred => &[Fault::Error],
            Outcome::Gateway => &[Fault::Gateway, Fault::Error],
            Outcome::Failed => &[Fault::Connection],
        }
    }
}

impl Picked {
    /// Tells how it ended. `latency` is from sending the request to the answer's head.
    #[inline]
    pub fn finish(self, outcome: Outcome, latency: Duration, now: Instant) {
        let at = self.endpoint.group.clock(now);
        self.finish_at(outcome, latency, at);
    }

    /// The same for one who knows how long ago it was picked.
    #[inline]
    pub fn finish_after(self, outcome: Outcome, latency: Duration, held: Duration) {
        let at = self.at + nanos(held);
        self.finish_at(outcome, latency, at);
    }

    /// Asks for a connection of its own as well, where the port's connections are limited.
    #[inline]
    pub(crate) fn needs_connection(&mut self) -> Result<(), Cause> {
        self.held.pass().map_or(Ok(()), Pass::needs_connection)
    }

    /// Takes along that the request is let through to the workload.
    #[inline]
    pub(crate) fn hold(&mut self, held: Held) {
        match held {
            Held::Nothing => {}
            Held::LetIn(let_in) => self.let_in(let_in),
            held => *self.held = held,
        }
    }

    #[cold]
    #[inline(never)]
    fn let_in(&mut self, let_in: Box<LetIn>) {
        let there = let_in.sent().map(|(endpoint, _)| endpoint.clone());
        *self.held = Held::LetIn(let_in);
        if let Some(there) = there {
            self.go_to(&there);
        }
    }

    /// It goes to this endpoint instead, with what it holds.
    fn go_to(&mut self, endpoint: &Arc<Endpoint>) {
        let mut there = Cluster::take(endpoint, Instant::now());
        there.held = ManuallyDrop::new(std::mem::take(&mut *self.held));
        *self = there;
    }

    /// Gives out what the next try of the same request is to have: meanwhile it runs on for whoever counts that.
    pub(crate) fn keep(&mut self) -> Option<Box<LetIn>> {
        match std::mem::take(&mut *self.held) {
            Held::LetIn(let_in) => Some(let_in),
            held => {
                *self.held = held;
                None
            }
        }
    }

    /// Leaves the endpoint, of which this says nothing, and gives out what is held of the limits of its port.
    #[cold]
    pub(crate) fn leave(mut self, now: Instant) -> (Arc<Endpoint>, Held) {
        let held = match std::mem::take(&mut *self.held) {
            pass @ Held::Pass(_) => pass,
            held => {
                *self.held = held;
                Held::Nothing
            }
        };
        let from = self.endpoint.clone();
        self.finish(Outcome::Abandoned, Duration::ZERO, now);
        (from, held)
    }

    /// Whether its Service has state, so that of what may have run there it matters whether it did.
    #[inline]
    pub(crate) fn has_state(&self) -> bool {
        self.endpoint.group.state() & HAS_STATE != 0 || self.is_let_in()
    }

    /// Whether it came to a Service with state.
    pub(crate) fn is_let_in(&self) -> bool {
        matches!(*self.held, Held::LetIn(_))
    }

    /// Whether its answer, which is there, may go on, where what it acknowledges is to be journaled first.
    #[inline]
    pub(crate) fn poll_journaled(&self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        match &*self.held {
            Held::LetIn(let_in) => let_in.poll_journaled(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Whether its answer waits for the journal of a state.
    #[inline]
    pub(crate) fn is_journaled(&self) -> bool {
        matches!(&*self.held, Held::LetIn(let_in) if let_in.is_journaled())
    }

    /// Whether its answer, which is there, waits for something, or does not go on.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        matches!(&*self.held, Held::LetIn(let_in) if let_in.is_held())
    }

    /// Resolves once it is to be cut, where that can come: for what does not end by itself.
    pub(crate) fn cut(&self) -> Option<Pin<Box<dyn Future<Output = ()> + '_>>> {
        match &*self.held {
            Held::LetIn(let_in) => Some(Box::pin(let_in.cut())),
            _ => None,
        }
    }

    /// The epoch that the Service has where the request was sent on to.
    #[inline]
    pub(crate) fn sent(&self) -> Option<Epoch> {
        match &*self.held {
            Held::LetIn(let_in) => let_in.sent().map(|(_, epoch)| epoch),
            _ => None,
        }
    }

    /// Which way it goes, if its caller's request goes that one.
    #[inline]
    pub(crate) fn direction(&self, asked: Direction) -> Direction {
        if self.sent().is_some() { Direction::Outbound } else { asked }
    }

    /// Has the request wait if its Service moves, and says whether it is to be kept, as that has state: this asks for no more
    /// than a flag beside what was picked by. `came` is asked only if that matters; `connects`: it needs a connection of its
    /// own.
    #[inline]
    pub(crate) fn wait_out<'a>(
        &mut self,
        connects: bool,
        came: impl FnOnce() -> (&'a Arc<Shared>, Came),
    ) -> bool {
        let state = self.endpoint.group.state();
        if state & MOVES != 0 {
            let (shared, came) = came();
            self.wait_at(connects, shared, came);
        }
        state & HAS_STATE != 0
    }

    #[cold]
    #[inline(never)]
    fn wait_at(&mut self, connects: bool, shared: &Arc<Shared>, came: Came) {
        let group = &self.endpoint.group;
        // What runs on a device beside has its own place to wait.
        if let Held::Nothing | Held::Pass(_) = *self.held
            && let Some(holding) = group.holding()
            && let Some(waits) = holding.ask(came, self.endpoint.address)
        {
            *self.held = Held::Awaits(Box::new(Awaits::new(waits, shared, &group.key, connects)));
        }
    }

    /// Takes along that the request was placed. Only callers' sidecars place, and only a workload's own lets through.
    pub(crate) fn place(&mut self, placed: Placed) {
        *self.held = Held::Placed(Box::new((placed, std::mem::take(&mut *self.held))));
    }

    /// Whether its route has its requests placed.
    #[inline]
    pub(crate) fn is_placed(&self) -> bool {
        matches!(*self.held, Held::Placed(_))
    }

    /// Only now does it begin.
    pub(crate) fn begins(&mut self, now: Instant) {
        if let Some(placed) = self.held.placed() {
            placed.begins(now);
        }
    }

    /// Whether it is on a device, beside the route's own backends.
    #[inline]
    pub(crate) fn is_on_device(&self) -> bool {
        matches!(&*self.held, Held::Placed(both) if both.0.is_on_device())
    }

    /// How long its device has until it answers. None: it is on none.
    #[inline]
    pub(crate) fn device_timeout(&self) -> Option<Duration> {
        match &*self.held {
            Held::Placed(both) => both.0.device_timeout(),
            _ => None,
        }
    }

    /// Whether what an answer reports of the load there is heard.
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        self.endpoint.is_heard() || self.is_placed()
    }

    /// Takes in what the fields of an answer's head report of the load there, where that is heard, and takes away what callers are
    /// not to see.
    #[inline]
    pub(crate) fn hear_all(&self, fields: &mut Fields) {
        if self.is_heard() {
            fields.retain(|field| !self.hear(field.name, field.value));
        }
    }

    /// Takes in a field of an answer's head, where that is such a report. Returns whether callers are not to see it.
    #[cold]
    pub(crate) fn hear(&self, name: &[u8], value: &[u8]) -> bool {
        let is_taken = self.endpoint.hear(name, value);
        match &*self.held {
            Held::Placed(both) if report::is_report(name) => {
                both.0.hear(report::of_device(name, value), Instant::now());
                // What a host says may be its callers' business as well.
                is_taken || both.0.is_on_device()
            }
            _ => is_taken,
        }
    }

    /// The bodies were so long, in bytes: the request's and the answer's.
    #[inline]
    pub(crate) fn carried(&mut self, bytes: (u64, u64)) {
        if let Some(placed) = self.held.placed() {
            placed.carried(bytes);
        }
    }

    /// The try failed by `came`: what whoever is asked next is to know of it.
    pub(crate) fn set_back(&mut self, came: retry::Came) -> Option<Setback> {
        self.held.placed()?.set_back(offload::setback(came)?)
    }

    /// Whether it has to wait until others end.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        match &*self.held {
            Held::Pass(pass) => pass.waits(),
            Held::Placed(both) => matches!(&both.1, Held::Pass(pass) if pass.waits()),
            Held::LetIn(let_in) => let_in.waits(),
            Held::Awaits(_) => true,
            Held::Nothing | Held::Admitted(_) => false,
        }
    }

    /// Waits until others end, as long as the port's policy says, or until it is known where the state is. After that it may be on
    /// its way to another endpoint.
    pub(crate) async fn admitted(&mut self) -> Result<(), Cause> {
        if let Held::Awaits(_) = *self.held
            && let Held::Awaits(awaits) = std::mem::take(&mut *self.held)
        {
            *self = Box::pin(awaits.over()).await?;
        }
        if let Held::LetIn(let_in) = &mut *self.held {
            if let Some(there) = Box::pin(let_in.settled()).await? {
                self.go_to(&there);
            }
            return Ok(());
        }
        match self.held.pass() {
            Some(pass) if pass.waits() => pass.admitted().await,
            _ => Ok(()),
        }
    }

    #[inline]
    fn finish_at(mut self, outcome: Outcome, latency: Duration, at: u64) {
        if !matches!(*self.held, Held::Nothing) {
            self.ends(outcome, latency, at);
        }
        let endpoint = &*self.endpoint;
        match outcome {
            Outcome::Answered | Outcome::Erred | Outcome::Gateway => {
                let is_fault = endpoint.group.counts() && endpoint.judge(outcome, self.probe, latency, at);
                let health = &endpoint.health;
                if !is_fault && health.success(self.at, at, || endpoint.group.law.load().rules) {
                    endpoint.came_back(latency, at);
                } else if outcome == Outcome::Gateway {
                    endpoint.load.observe_inability(latency, at);
                } else {
                    endpoint.load.observe(latency, at);
                }
                self.probe = false;
            }
            Outcome::Failed => {
                endpoint.failed(self.probe, latency, at);
                self.probe = false;
            }
            Outcome::Abandoned => {}
        }
    }

    /// Lets go of what it holds.
    #[inline(never)]
    fn let_go(&mut self) {
        *self.held = Held::Nothing;
    }

    /// Tells what it holds how it ended.
    #[inline(never)]
    fn ends(&mut self, outcome: Outcome, latency: Duration, at: u64) {
        let group = &self.endpoint.group;
        let admitted = match &mut *self.held {
            Held::Admitted(admitted) => Some(&*admitted),
            Held::LetIn(let_in) => let_in.admitted(),
            Held::Placed(both) => return both.0.end(outcome, group.instant(at)),
            Held::Nothing | Held::Pass(_) | Held::Awaits(_) => None,
        };
        if let Some(admitted) = admitted.filter(|_| outcome == Outcome::Answered) {
            admitted.answered(group.instant(self.at), latency, group.instant(at));
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.load.end();
        if self.probe {
            self.endpoint.health.abandon_probe();
        }
        if !matches!(*self.held, Held::Nothing) {
            self.let_go();
        }
    }
}

impl Avoid {
    /// The one at which a try failed by `cause`.
    pub fn after(endpoint: Arc<Endpoint>, cause: Cause) -> Self {
        let gone = matches!(cause, Cause::ConnectRefused | Cause::ConnectTimeout | Cause::ConnectFailed);
        Avoid { endpoint, gone, innocent: false, setback: None }
    }

    /// The same, where the try had this outcome.
    pub(crate) fn with(self, outcome: Outcome) -> Self {
        Avoid { innocent: outcome == Outcome::Abandoned, ..self }
    }

    /// The same, where it is on a device that failed the request so.
    pub(crate) fn on_device(self, setback: Option<Setback>) -> Self {
        Avoid { setback, ..self }
    }

    /// Why a device did not answer the request, if it was there.
    pub(crate) fn setback(&self) -> Option<Setback> {
        self.setback
    }

    /// Whether this one failed, rather than a connection to it that had rested for too long.
    pub(crate) fn failed_at(&self, endpoint: &Endpoint) -> bool {
        self.is(endpoint) && !self.innocent
    }

    /// Whether it is this one.
    pub fn is(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.id == endpoint.id
    }
}
