//! Links of one worker to the sidecars of endpoints.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::snapshot::Secure;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connection::{Link, Nothing};
use super::exchange::Exchange;
use super::frame::Cut;
use super::head::{Opening, Protocol, Scheme};
use super::session::{Read, Side};
use super::{dial, send, stream};
use crate::error::{Cause, ProxyError};
use crate::identity::ALPN_LINK;
use crate::io::Io;
use crate::telemetry::Direction;
use crate::worker::Worker;

/// Links of one worker, by where they lead and who has to be there.
#[derive(Default)]
pub(crate) struct Links {
    known: RefCell<HashMap<Key, Rc<Place>>>,
}

type Key = (SocketAddr, Arc<str>);

/// Where a sidecar accepts links.
#[derive(Default)]
struct Place {
    links: RefCell<Vec<Rc<Link>>>,
    /// Held by whoever dials, so that a hundred who ask at once make one link.
    dialling: Mutex<()>,
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
        let until = Instant::now() + limit;
        let late = || ProxyError::new(Cause::ConnectTimeout, "no link in time").at(address).safe();
        let _dials = timeout_at(until, place.dialling.lock()).await.map_err(|_elapsed| late())?;
        if let Some(link) = place.room() {
            return Ok(link);
        }
        if place.links.borrow().len() >= MOST_LINKS {
            return Err(ProxyError::new(Cause::Overloaded, "no link to this endpoint takes more streams")
                .at(address)
                .safe());
        }
        let left = until.saturating_duration_since(Instant::now());
        let dialled =
            dial::connect(&worker.shared, Direction::Outbound, address, Some(secure), ALPN_LINK, left);
        let io = dialled.await?;
        // Jittered, so that links made together do not all end together.
        let link = Link::aging(Side::Opener, MAX_AGE.mul_f64(0.75 + fastrand::f64() / 4.0));
        tokio::task::spawn_local(link.clone().drive(io, None, Some(REST), Nothing));
        place.links.borrow_mut().push(link.clone());
        Ok(link)
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
    /// A link that takes another stream.
    fn room(&self) -> Option<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| !link.is_over());
        links.iter().find(|link| link.has_room()).cloned()
    }

    fn is_left(&self) -> bool {
        self.links.borrow().iter().all(|link| link.is_over())
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
const REST: Duration = Duration::from_secs(60);

/// How old a link becomes, before jitter: what is proved is proved again, and load moves on to new instances.
const MAX_AGE: Duration = Duration::from_secs(20 * 60);

/// Most links of one worker to one place.
const MOST_LINKS: usize = 8;

/// So many places are known before those that are left are looked for.
const MOST_PLACES: usize = 256;
