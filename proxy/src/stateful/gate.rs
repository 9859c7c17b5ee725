//! Where requests to this workload meet its place: each is let in, has to wait, goes on to where the Service is now, or is
//! refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use lighter_config::identity::Spiffe;
use lighter_config::name::ServicePort;
use lighter_migrate::{Epoch, RefusalCause};
use tokio::time::{Instant, timeout_at};

use super::Hosted;
use super::entry::{Came, Entry, Inside};
use super::journal::Waits;
use crate::balance::Endpoint;
use crate::error::Cause;
use crate::overload::{Admission, Admitted};
use crate::worker::Shared;

/// What requests of one port meet.
pub(crate) struct Gate {
    hosted: Arc<Hosted>,
    key: ServicePort,
    /// What keeps the workload from more than it can work on.
    admission: Option<Admission>,
}

/// A request that came through a gate, or waits there; until this is dropped.
pub(crate) struct LetIn {
    stands: Stands,
    /// Of the workload's own limit.
    admitted: Option<Admitted>,
    /// What its answer waits for, where the state is journaled.
    journal: Option<Waits>,
}

enum Stands {
    /// It runs here.
    Here(Inside),
    /// What becomes of it is not known yet, or where it goes.
    Waits(Entry, Arc<Gate>, Arc<Shared>),
    /// It runs at this endpoint, where the Service is now in that epoch.
    Sent { inside: Inside, endpoint: Arc<Endpoint>, epoch: Epoch },
    /// It was refused.
    Nowhere,
}

impl Gate {
    pub(crate) fn new(hosted: &Arc<Hosted>, key: &ServicePort, admission: Option<&Admission>) -> Arc<Self> {
        Arc::new(Gate { hosted: hosted.clone(), key: key.clone(), admission: admission.cloned() })
    }

    /// Whether it leads to this place.
    pub(crate) fn leads_to(&self, hosted: &Arc<Hosted>) -> bool {
        Arc::ptr_eq(&self.hosted, hosted)
    }

    /// A request comes. `admit` lets it in as far as the workload can work on it: what waits is asked for that later.
    #[inline(never)]
    pub(crate) fn ask(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        came: Came,
        admit: impl FnOnce() -> Result<Option<Admitted>, Cause>,
    ) -> Result<LetIn, Cause> {
        let journal = self.hosted.journal();
        let waits = || journal.is_on().then(|| Waits::new(journal));
        if journal.is_on() && !came.waits {
            // Of what is opaque nobody knows what it acknowledges.
            return Err(Cause::Unsupported);
        }
        match self.hosted.arrive(came) {
            Entry::Run(_) if journal.is_on() && !journal.admits() => Err(Cause::NoStandby),
            Entry::Run(inside) => {
                Ok(LetIn { admitted: admit()?, stands: Stands::Here(inside), journal: waits() })
            }
            Entry::Return => Err(Cause::Moved),
            Entry::Refuse(refusal) => Err(cause(refusal.cause)),
            entry => {
                let stands = Stands::Waits(entry, self.clone(), shared.clone());
                Ok(LetIn { stands, admitted: None, journal: waits() })
            }
        }
    }

    /// The endpoint where the Service is now. What the control plane says of that may come a little later than that it is
    /// there.
    async fn there(&self, shared: &Shared) -> Result<Arc<Endpoint>, Cause> {
        let until = Instant::now() + self.hosted.stateful().park.wait;
        loop {
            let changed = shared.mesh.changed();
            if let Some(address) = self.hosted.address(self.key.port)
                && let Some(known) = shared.mesh.load().destination(&self.key)
                && let Some(found) =
                    known.cluster.endpoints().iter().find(|endpoint| endpoint.address == address)
            {
                return Ok(found.clone());
            }
            timeout_at(until, changed).await.map_err(|_| Cause::NotServing)?;
        }
    }
}

impl LetIn {
    /// Whether it waits.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.stands, Stands::Waits(..))
    }

    /// Waits until it is known what becomes of it. Returns where it goes if that is elsewhere.
    pub(crate) async fn settled(&mut self) -> Result<Option<Arc<Endpoint>>, Cause> {
        let stands = std::mem::replace(&mut self.stands, Stands::Nowhere);
        let Stands::Waits(entry, gate, shared) = stands else {
            self.stands = stands;
            return Ok(None);
        };
        let entry = match entry {
            Entry::Park(parked) => parked.await,
            entry => entry,
        };
        match entry {
            Entry::Run(inside) => {
                // It was promised to run: as many as that are bounded by how many may wait.
                self.admitted = gate.admission.as_ref().map(Admission::again);
                self.stands = Stands::Here(inside);
                Ok(None)
            }
            Entry::Forward(inside) => {
                let endpoint = gate.there(&shared).await?;
                gate.hosted.sent_on();
                let epoch = gate.hosted.moved_epoch();
                self.stands = Stands::Sent { inside, endpoint: endpoint.clone(), epoch };
                Ok(Some(endpoint))
            }
            Entry::Return => Err(Cause::Moved),
            Entry::Refuse(refusal) => Err(cause(refusal.cause)),
            Entry::Park(_) => Err(Cause::Internal),
        }
    }

    /// Whether its answer, which is there, may go on: what it acknowledges is journaled, where that is promised, and is of the epoch
    /// that is served here. What was sent on is journaled there.
    pub(crate) fn poll_journaled(&self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        match &self.stands {
            Stands::Here(inside) => goes_on(inside, self.journal.as_ref(), cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Whether its answer waits for something, or does not go on.
    pub(crate) fn is_held(&self) -> bool {
        matches!(&self.stands, Stands::Here(inside) if self.journal.is_some() || inside.is_cut())
    }

    /// Whether its answer waits for the journal.
    pub(crate) fn is_journaled(&self) -> bool {
        self.journal.is_some() && matches!(self.stands, Stands::Here(_))
    }

    /// Where it was sent on to, and in which epoch the Service is there.
    pub(crate) fn sent(&self) -> Option<(&Arc<Endpoint>, Epoch)> {
        match &self.stands {
            Stands::Sent { endpoint, epoch, .. } => Some((endpoint, *epoch)),
            _ => None,
        }
    }

    /// Resolves once it is to be cut, for what does not end by itself.
    pub(crate) async fn cut(&self) {
        match &self.stands {
            Stands::Here(inside) | Stands::Sent { inside, .. } => inside.cut().await,
            Stands::Waits(..) | Stands::Nowhere => {}
        }
    }

    /// What it holds of the workload's own limit.
    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        self.admitted.as_ref()
    }

    /// It goes on as something that this limit does not count.
    pub(crate) fn is_unlimited(&mut self) {
        self.admitted = None;
    }
}

/// Whether a request was sent on by another instance of this very Service, whose sidecar has judged it already. `said`: the value of
/// [`FORWARDED_FIELD`](crate::http::hop::FORWARDED_FIELD), which counts for nothing from anybody else.
#[cold]
#[inline(never)]
pub(crate) fn is_forwarded(shared: &Shared, caller: Option<&Spiffe>, said: Option<&[u8]>) -> bool {
    said.is_some()
        && caller
            .zip(shared.identity.get())
            .is_some_and(|(caller, identity)| *caller == *identity.current().id())
}

/// The caller that another instance's sidecar vouches for by this `x-forwarded-client-cert`.
#[cold]
pub(crate) fn vouched_for(field: Option<&[u8]>) -> &str {
    let caller = field.and_then(|field| std::str::from_utf8(field.strip_prefix(b"URI=")?).ok());
    caller.unwrap_or_default()
}

/// Whether what ran here may be answered. Once it was to be cut the journal has no say: where it is served alone, it would let go
/// what whoever serves by now does not have.
pub(super) fn goes_on(
    inside: &Inside,
    journal: Option<&Waits>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Cause>> {
    if inside.is_cut() {
        return Poll::Ready(Err(Cause::OutcomeUnknown));
    }
    journal.map_or(Poll::Ready(Ok(())), |waits| waits.poll(cx))
}

/// A caller's connection as a number.
pub(crate) fn source(peer: SocketAddr) -> u64 {
    let address = match peer.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() ^ (ip.to_bits() >> 64)) as u64,
    };
    address.rotate_left(16) ^ u64::from(peer.port())
}

/// Why it is answered so.
const fn cause(refusal: RefusalCause) -> Cause {
    match refusal {
        RefusalCause::Moved | RefusalCause::NotHere => Cause::NotServing,
        RefusalCause::Full => Cause::ParkOverflow,
        RefusalCause::Waited => Cause::ParkTimeout,
        RefusalCause::Late => Cause::RequestTimeout,
    }
}
