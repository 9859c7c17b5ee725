//! Sessions: the answer to a first request says a value, and requests that bring it go to the endpoint that gave the answer,
//! as long as that takes requests.
//!
//! A value is the client's to say, so nothing in it is believed. It names an endpoint by a hash, which leads to one of those
//! of the route or to nobody; and it says when the session began and was last used. Who forges the times keeps a session
//! longer, and no more. Values are the same in every sidecar: a session outlives the one that began it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lighter_config::hex;
use lighter_config::snapshot::session::Carrier;
use lighter_config::snapshot::{Persistence, RequestParts};
use sha2::{Digest, Sha256};

use crate::balance::{Avoid, Cluster, Endpoint, Picked};
use crate::error::Cause;
use crate::http::cookie;
use crate::mesh::RouteState;
use crate::offload::Chosen::{OnDevice, OnHost};
use crate::offload::{OfRoute, Placing};
use crate::telemetry::RouteMetrics;

/// The sessions of one route.
pub(crate) struct Sessions {
    said: Arc<Persistence>,
    /// Other than that of other routes, whose values mean nothing here.
    route: Arc<str>,
    /// Every endpoint that the route leads to.
    places: HashMap<Place, (Arc<Cluster>, Arc<Endpoint>)>,
    metrics: Arc<RouteMetrics>,
}

/// The session of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Where it belongs. None: nowhere yet.
    place: Option<Place>,
    began: Seconds,
    used: Seconds,
}

/// What became of a request's session when an endpoint was picked: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The request brought none.
    New,
    /// It went to the endpoint of its session.
    Kept,
    /// It went to another one, as that takes no requests now, or the request failed there.
    Moved,
    /// The endpoint is none of the route's any more, or never was.
    Gone,
    /// The session was too old, or not used for too long.
    Expired,
    /// What it brought is no value of a session.
    Invalid,
}

impl Joined {
    /// Every one, in the order of its number.
    pub const ALL: [Joined; 6] =
        [Joined::New, Joined::Kept, Joined::Moved, Joined::Gone, Joined::Expired, Joined::Invalid];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Joined::New => "new",
            Joined::Kept => "kept",
            Joined::Moved => "moved",
            Joined::Gone => "gone",
            Joined::Expired => "expired",
            Joined::Invalid => "invalid",
        }
    }
}

impl RouteState {
    /// The session of a request, where the route has sessions.
    #[inline]
    pub(crate) fn session<R: RequestParts + ?Sized>(&self, request: &R) -> Option<Session> {
        self.sessions.as_ref().map(|sessions| sessions.of(request, SystemTime::now()))
    }

    /// Picks an endpoint: on a device if what is known of the request for its `placing` says so; that of the `session` if it takes
    /// the request; or another one than `avoid` if there is one. `hash` gives what [`Cluster::hash`] says of the request.
    /// `is_first`: it was not tried before. Beside `placing`: whether each try has a connection of its own.
    #[inline]
    pub(crate) fn pick(
        &self,
        placing: Option<(&Placing, bool)>,
        session: Option<Session>,
        mut hash: impl FnMut(&Cluster) -> Option<u64>,
        (is_first, avoid): (bool, Option<&Avoid>),
        now: Instant,
    ) -> Result<Picked, Cause> {
        match (&self.offload, placing) {
            (Some(offload), Some(placing)) => {
                self.pick_placed(offload, placing, session, &mut hash, (is_first, avoid), now)
            }
            _ => self.pick_on_host(session, hash, (is_first, avoid), now),
        }
    }

    /// The same where its requests are placed. Apart, so that the others pay for a question alone.
    #[cold]
    #[inline(never)]
    fn pick_placed(
        &self,
        offload: &OfRoute,
        placing: (&Placing, bool),
        session: Option<Session>,
        hash: &mut dyn FnMut(&Cluster) -> Option<u64>,
        (is_first, avoid): (bool, Option<&Avoid>),
        now: Instant,
    ) -> Result<Picked, Cause> {
        let placed = match offload.pick(placing, hash, (is_first, avoid), now) {
            OnDevice(picked) => return Ok(picked),
            OnHost(placed) => placed,
        };
        let mut picked = self.pick_on_host(session, hash, (is_first, avoid), now)?;
        if let Some(placed) = placed {
            picked.place(placed);
        }
        Ok(picked)
    }

    #[inline]
    fn pick_on_host(
        &self,
        session: Option<Session>,
        hash: impl FnOnce(&Cluster) -> Option<u64>,
        (is_first, avoid): (bool, Option<&Avoid>),
        now: Instant,
    ) -> Result<Picked, Cause> {
        if let (Some(sessions), Some(session)) = (&self.sessions, session)
            && let Some(picked) = sessions.join(session, (is_first, avoid), now)?
        {
            return Ok(picked);
        }
        let cluster = self.backends.pick()?;
        cluster.pick(avoid, hash(cluster), now)
    }

    /// What the answer of the endpoint at `address` says of a session that the client does not know yet: see
    /// [`Sessions::say`].
    #[inline]
    pub(crate) fn say_session(
        &self,
        session: Option<Session>,
        address: SocketAddr,
    ) -> Option<(&[u8], String)> {
        self.sessions.as_ref()?.say(session?, address, SystemTime::now())
    }
}

impl Sessions {
    /// The sessions of the route called `route`, which leads to `clusters`.
    pub(crate) fn new<'c>(
        said: &Arc<Persistence>,
        route: &Arc<str>,
        clusters: impl Iterator<Item = &'c Arc<Cluster>>,
        metrics: &Arc<RouteMetrics>,
    ) -> Self {
        let mut places = HashMap::new();
        for cluster in clusters {
            for endpoint in cluster.endpoints() {
                let place = place(route, endpoint.address);
                places.entry(place).or_insert_with(|| (cluster.clone(), endpoint.clone()));
            }
        }
        Sessions { said: said.clone(), route: route.clone(), places, metrics: metrics.clone() }
    }

    /// The session of a request that came at `now`. Counted where it has none.
    #[inline(never)] // So that the question whether a route has sessions is a part of whoever asks.
    pub(crate) fn of<R: RequestParts + ?Sized>(&self, request: &R, now: SystemTime) -> Session {
        let found = self.find(request, seconds(now));
        if let Err(joined) = found {
            self.metrics.joined(joined);
        }
        found.unwrap_or_default()
    }

    /// The endpoint of `session`, if it takes the request. `is_first`: this is the first try; `avoid`: where another one failed.
    fn join(
        &self,
        session: Session,
        (is_first, avoid): (bool, Option<&Avoid>),
        now: Instant,
    ) -> Result<Option<Picked>, Cause> {
        let Some((cluster, endpoint)) = session.place.and_then(|place| self.places.get(&place)) else {
            return Ok(None);
        };
        let failed = avoid.is_some_and(|avoid| avoid.failed_at(endpoint));
        let picked = if failed { None } else { cluster.rejoin(endpoint, now)? };
        // Of tries after the first one only those count that leave it.
        match &picked {
            Some(_) if is_first => self.metrics.joined(Joined::Kept),
            None if is_first || failed => self.metrics.joined(Joined::Moved),
            _ => {}
        }
        Ok(picked)
    }

    /// What the answer of the endpoint at `address` to a request of `session` says, at `now`: the name of a field and its
    /// value. None: the client knows it already.
    #[inline(never)] // Likewise.
    pub(crate) fn say(
        &self,
        session: Session,
        address: SocketAddr,
        now: SystemTime,
    ) -> Option<(&[u8], String)> {
        let now = seconds(now);
        let is_here =
            |place: Place| self.places.get(&place).is_some_and(|(_, known)| known.address == address);
        let stays = session.place.is_some_and(is_here);
        if stays && (self.said.idle.is_none() || session.used == now) {
            return None;
        }
        // One that answers beside the route's own endpoints, such as a device, is not where a session belongs.
        let place = Some(place(&self.route, address)).filter(|place| self.places.contains_key(place))?;
        let began = if stays { session.began } else { now };
        let value = value(place, self.is_timed().then_some((began, now)));
        let name = &*self.said.name;
        let Carrier::Cookie { path, permanent } = &self.said.carrier else {
            return Some((name.as_bytes(), value));
        };
        let mut cookie = format!("{name}={value}");
        if !path.is_empty() {
            cookie.extend(["; Path=", path]);
        }
        if let Some(absolute) = self.said.absolute.filter(|_| *permanent) {
            let left = absolute.as_secs().saturating_sub(u64::from(now.saturating_sub(began)));
            cookie.extend(["; Max-Age=", itoa::Buffer::new().format(left)]);
        }
        cookie.push_str("; HttpOnly");
        Some((b"set-cookie", cookie))
    }

    fn find<R: RequestParts + ?Sized>(&self, request: &R, now: Seconds) -> Result<Session, Joined> {
        let read = |value: &[u8]| self::read(value, self.is_timed());
        let read = match self.said.carrier {
            Carrier::Cookie { .. } => cookie::read(&self.said.name, request, read),
            Carrier::Header => request.header(&self.said.name).map(read),
        };
        let session = read.ok_or(Joined::New)?.ok_or(Joined::Invalid)?;
        if session.used < session.began || session.used > now.saturating_add(SKEW) {
            return Err(Joined::Invalid);
        }
        let is_over = |limit: Option<Duration>, since: Seconds| {
            limit.is_some_and(|limit| u64::from(now.saturating_sub(since)) >= limit.as_secs())
        };
        if is_over(self.said.absolute, session.began) || is_over(self.said.idle, session.used) {
            return Err(Joined::Expired);
        }
        match session.place.is_some_and(|place| self.places.contains_key(&place)) {
            true => Ok(session),
            false => Err(Joined::Gone),
        }
    }

    fn is_timed(&self) -> bool {
        self.said.absolute.is_some() || self.said.idle.is_some()
    }
}

/// The hash of an endpoint, cut short.
type Place = [u8; 12];

/// Since 1970.
type Seconds = u32;

/// By how much the clock of another sidecar may be ahead.
const SKEW: Seconds = 60;

fn place(route: &str, address: SocketAddr) -> Place {
    let hash =
        Sha256::new().chain_update(route).chain_update(b" ").chain_update(address.to_string()).finalize();
    let mut place = Place::default();
    place.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    place
}

/// The place, and where sessions end by themselves when this one began and was last used.
fn value(place: Place, times: Option<(Seconds, Seconds)>) -> String {
    let mut value = hex::encode(&place);
    if let Some((began, used)) = times {
        value += &hex::encode(&[began.to_be_bytes(), used.to_be_bytes()].concat());
    }
    value
}

fn read(value: &[u8], timed: bool) -> Option<Session> {
    let (place, times) = value.split_at_checked(2 * size_of::<Place>())?;
    let place = Some(hex::decode_array(place)?);
    if !timed {
        // What a rule said before that is another one now.
        return Some(Session { place, ..Session::default() });
    }
    let (began, used) = times.split_at_checked(2 * size_of::<Seconds>())?;
    let time = |digits| hex::decode_array(digits).map(Seconds::from_be_bytes);
    Some(Session { place, began: time(began)?, used: time(used)? })
}

/// For the fuzzer: what a client sends back is read as what it says, or not at all.
pub(crate) fn reread(bytes: &[u8]) {
    for timed in [false, true] {
        if let Some(Session { place: Some(place), began, used }) = read(bytes, timed) {
            let said = value(place, timed.then_some((began, used)));
            assert!(bytes.get(..said.len()).is_some_and(|front| front.eq_ignore_ascii_case(said.as_bytes())));
        }
    }
}

fn seconds(now: SystemTime) -> Seconds {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Seconds::try_from(since.as_secs()).unwrap_or(Seconds::MAX)
}

#[cfg(test)]
mod tests;
