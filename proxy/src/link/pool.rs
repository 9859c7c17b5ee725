//! Links of one worker to the sidecars of endpoints.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use lighter_config::identity::Spiffe;
use lighter_config::snapshot::Secure;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connection::{Link, Nothing};
use super::exchange::Exchange;
use super::frame::Cut;
use super::head::{Opening, Protocol, Scheme};
use super::life::Life;
use super::quic::Choice;
use super::session::{Leave, Read, Side};
use super::upgrade::Far;
use super::{dial, quic, send, stream};
use crate::error::{Cause, ProxyError};
use crate::identity::ALPN_LINK;
use crate::io::Io;
use crate::telemetry::Direction;
use crate::worker::Worker;

/// Links of one worker, by where they lead and who has to be there.
#[derive(Default)]
pub(crate) struct Links {
    known: RefCell<HashMap<Key, Rc<Place>>>,
    /// All that are open, those that others opened among them.
    open: RefCell<Vec<Weak<Link>>>,
    /// A task looks after them when this sidecar's identity changes.
    followed: Cell<bool>,
}

type Key = (SocketAddr, Arc<str>);

/// Where a sidecar accepts links.
#[derive(Default)]
pub(super) struct Place {
    /// The one that new streams go by first is the first.
    links: RefCell<Vec<Rc<Link>>>,
    /// A task looks whether they are to go over QUIC.
    watched: Cell<bool>,
    /// What it knows of that.
    pub(super) choice: RefCell<Choice>,
    /// Held by whoever dials, so that a hundred who ask at once make one link.
    dialling: Mutex<()>,
    failed: Cell<Option<Failed>>,
}

/// How the last dial failed.
#[derive(Clone, Copy)]
struct Failed {
    cause: Cause,
    detail: &'static str,
    at: Instant,
    /// Nobody tries again before.
    until: Instant,
    /// So often in a row.
    times: u32,
}

impl Links {
    /// A link with room for a stream to the sidecar at `address`, which proves to be who `secure` says. Dialled where
    /// there is none, within `limit`.
    pub(crate) async fn link(
        &self,
        worker: &Rc<Worker>,
        secure: &Secure,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<Rc<Link>, ProxyError> {
        let place = self.place(address, &secure.identity);
        if let Some(link) = place.room() {
            return Ok(link);
        }
        let began = Instant::now();
        let until = began + limit;
        let late = || ProxyError::new(Cause::ConnectTimeout, "no link in time").at(address).safe();
        let _dials = timeout_at(until, place.dialling.lock()).await.map_err(|_elapsed| late())?;
        if let Some(link) = place.room() {
            return Ok(link);
        }
        if let Some(error) = place.failed_since(began) {
            return Err(error.at(address).safe());
        }
        if place.links.borrow().len() >= MOST_LINKS {
            return Err(ProxyError::new(Cause::Overloaded, "no link to this endpoint takes more streams")
                .at(address)
                .safe());
        }
        let left = until.saturating_duration_since(Instant::now());
        let dialled =
            dial::connect(&worker.shared, Direction::Outbound, address, Some(secure), ALPN_LINK, left);
        let io = match dialled.await {
            Ok(io) => io,
            Err(error) => {
                place.note(&error);
                return Err(error);
            }
        };
        place.failed.set(None);
        let life = worker.shared.identity.get().and_then(|identity| Life::of(&io, identity));
        let Some(life) = life else {
            return Err(ProxyError::new(Cause::TlsIdentity, "who is there is not known").at(address).safe());
        };
        let life = life.aging_as_all();
        let identity = secure.identity.clone();
        let service = Spiffe::parse(&identity).ok().and_then(|id| id.service_name());
        let link = Link::new(Side::Opener, life, &worker.shared, Far { address, identity, service });
        place.opened(worker, &link, address, secure);
        place.links.borrow_mut().push(link.clone());
        if !place.watched.replace(true) {
            let watched = quic::watch(Rc::downgrade(worker), Rc::downgrade(&place), address, secure.clone());
            tokio::task::spawn_local(Box::pin(watched));
        }
        let (driven, place) = (link.clone(), place.clone());
        tokio::task::spawn_local(async move {
            driven.clone().drive(io, None, Some(REST), Nothing).await;
            place.gone(&driven);
        });
        Ok(link)
    }

    /// `link` is open: it hears when this sidecar becomes somebody else or trusts others.
    pub(crate) fn follow(&self, worker: &Rc<Worker>, link: &Rc<Link>) {
        let mut open = self.open.borrow_mut();
        if open.len() == open.capacity() {
            open.retain(|link| link.strong_count() > 0);
        }
        open.push(Rc::downgrade(link));
        drop(open);
        if let Some(identity) = worker.shared.identity.get()
            && !self.followed.replace(true)
        {
            let (worker, identity) = (Rc::downgrade(worker), identity.clone());
            let mut changes = identity.changes();
            tokio::task::spawn_local(async move {
                while changes.changed().await.is_ok() {
                    let Some(worker) = worker.upgrade() else { return };
                    let svid = identity.current();
                    // Who was not believed, or did not believe, may by now.
                    worker.links.known.borrow().values().for_each(|place| place.failed.set(None));
                    worker.links.each(|link| link.identity_changed(&svid));
                }
            });
        }
    }

    /// Leaves them all: this side has nothing more to say. Resolves when they have ended.
    pub(crate) async fn close(&self) {
        self.each(|link| link.leave(Leave::Now, Cause::Draining.label()));
        self.known.borrow_mut().clear();
        let ended = || self.open.borrow().iter().all(|link| link.strong_count() == 0);
        while !ended() {
            // A few turns of their tasks; whoever calls has a limit.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn each(&self, what: impl Fn(&Link)) {
        let open: Vec<_> = self.open.borrow().iter().filter_map(Weak::upgrade).collect();
        open.iter().for_each(|link| what(link));
    }

    /// A tunnel to the endpoint at `address`, whose sidecar accepts links at `link`. Resolves when the other side says that
    /// it stands.
    pub(crate) async fn tunnel(
        &self,
        worker: &Rc<Worker>,
        secure: &Secure,
        link: SocketAddr,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<Io, ProxyError> {
        let until = Instant::now() + limit;
        let link = self.link(worker, secure, link, limit).await?;
        let authority = address.to_string();
        let opening = Opening {
            protocol: Protocol::Tunnel,
            scheme: Scheme::Http,
            method: b"",
            authority: authority.as_bytes(),
            path: b"",
            deadline: None,
        };
        let stands = async {
            let stream = send::open(&link, &opening, [], false)?;
            match poll_fn(|cx| stream.poll_read(cx)).await? {
                Read::Head(head) if head.status == 200 => Ok(stream),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        };
        match timeout_at(until, stands).await {
            Ok(Ok(stream)) => Ok(Io::over_link(Exchange::tunnel(stream))),
            Ok(Err(error)) => Err(no_tunnel(&error).at(address)),
            Err(_elapsed) => Err(ProxyError::new(Cause::ConnectTimeout, "no answer to the tunnel in time")
                .at(address)
                .safe()),
        }
    }

    fn place(&self, address: SocketAddr, identity: &Arc<str>) -> Rc<Place> {
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST_PLACES {
            known.retain(|_, place| Rc::strong_count(place) > 1 || !place.is_left());
        }
        known.entry((address, identity.clone())).or_default().clone()
    }
}

impl Place {
    /// All links there.
    pub(super) fn links(&self) -> Vec<Rc<Link>> {
        self.links.borrow().clone()
    }

    /// New streams go by `link` as long as it has room.
    pub(super) fn prefer(&self, link: Rc<Link>) {
        self.links.borrow_mut().insert(0, link);
    }

    /// `link` to the sidecar at `address` was opened.
    pub(super) fn opened(&self, worker: &Rc<Worker>, link: &Rc<Link>, address: SocketAddr, secure: &Secure) {
        worker.links.follow(worker, link);
        link.on_drain(leaving(worker, address, secure));
    }

    /// `link` has ended.
    pub(super) fn gone(&self, link: &Rc<Link>) {
        self.links.borrow_mut().retain(|known| !Rc::ptr_eq(known, link));
        if !link.ended_well() {
            // Whoever is gone says nothing over QUIC.
            self.links().iter().for_each(|other| other.suspect());
        }
    }

    /// No task looks after it any more.
    pub(super) fn unwatched(&self) {
        self.watched.set(false);
    }

    /// A link that takes another stream.
    fn room(&self) -> Option<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| !link.is_over());
        links.iter().find(|link| link.has_room()).cloned()
    }

    /// Why no link came about, if that was found out since `asked`, or so lately that nobody tries again yet.
    fn failed_since(&self, asked: Instant) -> Option<ProxyError> {
        let failed = self.failed.get()?;
        let fresh = failed.at >= asked || Instant::now() < failed.until;
        fresh.then(|| ProxyError::new(failed.cause, failed.detail))
    }

    /// A dial failed. Where nobody listens, the next try costs as little as this one. Handshakes that come to nothing cost
    /// both sides, so they are tried less and less often.
    fn note(&self, error: &ProxyError) {
        let handshakes = matches!(error.cause, Cause::TlsIdentity | Cause::TlsFailed);
        let times = self.failed.get().map_or(0, |failed| failed.times);
        let times = if handshakes { (times + 1).min(MOST_DOUBLED) } else { 0 };
        let pause = if handshakes { BACK_OFF * 2u32.pow(times - 1) } else { Duration::ZERO };
        let at = Instant::now();
        let until = at + pause.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.failed.set(Some(Failed { cause: error.cause, detail: error.detail, at, until, times }));
    }

    fn is_left(&self) -> bool {
        self.links.borrow().iter().all(|link| link.is_over())
    }
}

/// What is done when the sidecar at `link` says that it drains: its endpoints get nothing more, of any worker.
fn leaving(worker: &Worker, link: SocketAddr, secure: &Secure) -> impl FnOnce() + 'static {
    let (shared, identity) = (worker.shared.clone(), secure.identity.clone());
    move || {
        shared.mesh.load().leave(|endpoint| {
            let secure = endpoint.secure.as_ref();
            secure.is_some_and(|secure| secure.link == Some(link) && secure.identity == identity)
        });
    }
}

/// Why there is no tunnel. Nothing was said in it yet, so that another endpoint may be tried.
fn no_tunnel(error: &io::Error) -> ProxyError {
    let cause = match stream::cut_in(error) {
        Some(Cut { cause: Some(cause), .. }) => cause,
        Some(_) => Cause::UpstreamReset,
        None => Cause::UpstreamMalformed,
    };
    ProxyError::new(cause, "the sidecar of the endpoint opened no tunnel").safe()
}

/// How long a link without streams is kept.
pub(super) const REST: Duration = Duration::from_secs(60);

/// How long it is until the next try where handshakes come to nothing, at first. It doubles each time.
const BACK_OFF: Duration = Duration::from_millis(50);

/// So often: then it is some three seconds.
const MOST_DOUBLED: u32 = 7;

/// Most links of one worker to one place.
const MOST_LINKS: usize = 8;

/// So many places are known before those that are left are looked for.
const MOST_PLACES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(cause: Cause) -> ProxyError {
        ProxyError::new(cause, "so it is")
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_that_come_to_nothing_are_tried_less_and_less_often() {
        let place = Place::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            place.note(&failed(Cause::TlsIdentity));
            let before = Instant::now();
            tokio::time::advance(Duration::from_millis(1)).await;
            while let Some(error) = place.failed_since(Instant::now()) {
                assert_eq!(error.cause, Cause::TlsIdentity);
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            pauses.push(before.elapsed());
        }
        assert!(
            pauses[0] >= Duration::from_millis(37) && pauses[0] <= Duration::from_millis(64),
            "{pauses:?}"
        );
        assert!(pauses[3] > 2 * pauses[0], "{pauses:?}");
        assert!(pauses[9] <= Duration::from_millis(4100), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_for_a_dial_shares_its_failure_and_who_comes_later_does_not() {
        let place = Place::default();
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        place.note(&failed(Cause::ConnectRefused));
        assert_eq!(place.failed_since(asked).map(|error| error.cause), Some(Cause::ConnectRefused));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(place.failed_since(Instant::now()).is_none());
    }
}
