//! Copies of a state on their way from one place's sidecar to another's: HTTP/1.1 within TLS, at the link port, by a protocol
//! name of its own.
//!
//! Who asks proves to be this very workload, and shows what the control plane has given to the two places of the migration and
//! to nobody else. A connection that is lost costs what was on its way: the rest is asked for by its offset.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_RANGE, HOST, RANGE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lighter_config::hex;
use lighter_config::identity::Spiffe;
use lighter_config::snapshot::Secure;
use lighter_migrate::Copy;
use metrics::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::copies::{Copies, Gathering, Reading, TooLarge, Withheld};
use super::counts::{self, Fetch, Given};
use super::{Hosted, journal};
use crate::error::ProxyError;
use crate::identity::ALPN_STATE;
use crate::io::Io;
use crate::link;
use crate::telemetry::Direction;
use crate::worker::Shared;

/// What other places' sidecars fetch here.
pub(crate) struct Door {
    copies: Copies,
    /// Answers that may be on their way at once.
    room: Arc<Semaphore>,
}

/// Where a copy is, and what has to be shown for it.
#[derive(Clone, Debug)]
pub(crate) struct From {
    /// Where the sidecar that has it accepts links.
    pub(crate) at: SocketAddr,
    /// Of which migration it is.
    pub(crate) migration: u64,
    /// Which one it is.
    pub(crate) copy: Copy,
    /// What the control plane has given to the two places.
    pub(crate) token: Vec<u8>,
}

/// A connection to another place's sidecar, over which copies may be asked for one after the other.
pub(crate) struct Line {
    at: SocketAddr,
    sender: SendRequest<Empty<Bytes>>,
    /// Carries it; ended when this is dropped.
    _carries: Carries,
}

/// Ends what it has when it is dropped.
struct Carries(JoinHandle<()>);

impl Drop for Carries {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Line {
    /// Connects to the sidecar that accepts links at `at`, which proves to be this very workload's.
    pub(crate) async fn open(shared: &Shared, at: SocketAddr) -> Result<Line, FetchError> {
        let own = shared.identity.get().ok_or(FetchError::Nobody)?.current();
        let secure = Secure { identity: own.id().as_str().into(), link: None };
        let dialled =
            link::dial::connect(shared, Direction::Outbound, at, Some(&secure), ALPN_STATE, CONNECT_TIMEOUT);
        let io = dialled.await.map_err(|error| match knows_no_protocol(&error) {
            true => FetchError::Older,
            false => FetchError::Unreached(error),
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
        let (sender, connection) = handshake.map_err(FetchError::Lost)?;
        let carries = tokio::task::spawn_local(async move {
            // What was wrong with it whoever asks over it is told.
            let _ = connection.await;
        });
        Ok(Line { at, sender, _carries: Carries(carries) })
    }

    fn leads_to(&self, at: SocketAddr) -> bool {
        self.at == at && !self.sender.is_closed()
    }
}

/// A copy does not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// This sidecar has no identity, and can prove nothing.
    #[error("this sidecar has no identity")]
    Nobody,
    /// The other sidecar cannot be connected to, or does not prove to be who it is to be.
    #[error("the sidecar that has it cannot be reached: {0}")]
    Unreached(#[source] ProxyError),
    /// The other sidecar knows nothing of copies.
    #[error("the sidecar that has it is of a version that does not hand over state")]
    Older,
    /// It does not give it.
    #[error("the sidecar that has it answers {0}")]
    Refused(StatusCode),
    /// It gives something else.
    #[error("the sidecar that has it gives something else than was asked for: {0}")]
    Other(&'static str),
    /// The connection was lost, or what came is no HTTP.
    #[error("the connection was lost: {0}")]
    Lost(#[source] hyper::Error),
    /// It ended before its end.
    #[error("the connection ended after {0} bytes")]
    Short(u64),
    /// Nothing came for a while.
    #[error("nothing came for {0:?}")]
    Stalled(Duration),
    /// It gives more than the copy has.
    #[error("it gives {0}, which is what the copy has")]
    TooLarge(TooLarge),
    /// Nobody wants it any more.
    #[error("it is not wanted any more")]
    Unwanted,
}

impl Default for Door {
    fn default() -> Self {
        Door { copies: Copies::default(), room: Arc::new(Semaphore::new(MOST_AT_ONCE)) }
    }
}

impl Door {
    /// What can be fetched.
    pub(crate) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Answers what `peer` asks within `io`, if that is who this sidecar is itself: `own`. Once `leaves` resolves, what is being
    /// answered is the last.
    pub(crate) async fn serve(
        &self,
        io: Io,
        (peer, own): (&Spiffe, &Spiffe),
        hosted: impl Fn() -> Option<Arc<Hosted>>,
        leaves: impl Future<Output = ()>,
    ) {
        if peer != own {
            tracing::warn!(%peer, "somebody else asks for this workload's state");
            counts::given(Given::Identity);
            return io.reset_on_close();
        }
        let service = service_fn(async |request: Request<Incoming>| {
            if request.uri().path() != journal::PATH {
                return Ok::<_, Infallible>(self.answer(&request));
            }
            let mut answer = Response::new(Either::Left(Empty::new()));
            // It may be another one than when this connection began.
            let journal = hosted().map(|hosted| hosted.journal().clone());
            *answer.status_mut() = journal::answer(journal.as_deref(), request).await;
            Ok(answer)
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MOST_HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service);
        let (mut serving, mut leaves) = (pin!(serving), pin!(leaves));
        let all = async {
            tokio::select! {
                done = &mut serving => return done,
                () = &mut leaves => serving.as_mut().graceful_shutdown(),
            }
            serving.await
        };
        // Whoever is cut asks again, and goes on where it was.
        let _ = timeout(LIFETIME, all).await;
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Either<Empty<Bytes>, Sent>> {
        let (given, answer) = match self.find(request) {
            Ok(answer) => (Given::Whole, answer.map(Either::Right)),
            Err((given, status)) => {
                tracing::info!(%status, "a copy of the state is not given");
                let mut answer = Response::new(Either::Left(Empty::new()));
                *answer.status_mut() = status;
                (given, answer)
            }
        };
        counts::given(given);
        answer
    }

    fn find(&self, request: &Request<Incoming>) -> Result<Response<Sent>, (Given, StatusCode)> {
        let malformed = |status| (Given::Malformed, status);
        if request.uri().path() != PATH {
            return Err(malformed(StatusCode::NOT_FOUND));
        }
        if request.method() != Method::GET {
            return Err(malformed(StatusCode::METHOD_NOT_ALLOWED));
        }
        let (migration, round) = named(request.uri().query()).ok_or(malformed(StatusCode::BAD_REQUEST))?;
        let token = token(request.headers()).ok_or((Given::Token, StatusCode::UNAUTHORIZED))?;
        let offset = offset(request.headers()).ok_or(malformed(StatusCode::BAD_REQUEST))?;
        let state = self.copies.find(migration, round, &token).map_err(|withheld| match withheld {
            Withheld::Absent => (Given::Absent, StatusCode::NOT_FOUND),
            Withheld::Token => (Given::Token, StatusCode::UNAUTHORIZED),
        })?;
        let bytes = state.bytes();
        if offset.is_some_and(|offset| offset >= bytes) {
            return Err(malformed(StatusCode::RANGE_NOT_SATISFIABLE));
        }
        let room = self.room.clone().try_acquire_owned();
        let room = room.map_err(|_| (Given::Busy, StatusCode::SERVICE_UNAVAILABLE))?;
        let reading = state.read(offset.unwrap_or(0));
        let mut answer = Response::new(Sent { reading, counter: counts::sent(), _room: room });
        if let Some(offset) = offset {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = HeaderValue::try_from(format!("bytes {offset}-{}/{bytes}", bytes - 1));
            let range = range.map_err(|_| malformed(StatusCode::INTERNAL_SERVER_ERROR))?;
            answer.headers_mut().insert(CONTENT_RANGE, range);
        }
        Ok(answer)
    }
}

/// Fetches what `into` does not have yet of a copy, however many connections that takes, for as long as it is wanted: `took` is
/// told of what came, from which offset on and how much, and says whether it is. `line`: an open one, and then the one by which the
/// next copy may be asked for.
pub(crate) async fn fetch(
    shared: &Shared,
    from: &From,
    line: &mut Option<Line>,
    into: &mut Gathering,
    mut took: impl FnMut(u64, u64) -> bool,
) -> Result<(), FetchError> {
    let mut pause = PAUSE.0;
    let mut said = None;
    while into.bytes() < from.copy.bytes {
        let had = into.bytes();
        // The other end of one that was kept may have been gone for long, and is tried anew at once.
        let was_kept = line.as_ref().is_some_and(|line| line.leads_to(from.at));
        match attempt(shared, from, line, into, &mut took).await {
            Ok(()) => {
                counts::fetched(Fetch::Whole);
                return Ok(());
            }
            Err(FetchError::Unwanted) => return Err(FetchError::Unwanted),
            Err(FetchError::Lost(_)) if was_kept && into.bytes() == had => {
                counts::fetched(Fetch::Lost);
                continue;
            }
            Err(fault) => {
                counts::fetched(match fault {
                    FetchError::Refused(_) | FetchError::Older => Fetch::Refused,
                    _ => Fetch::Lost,
                });
                // Said once, not at every try.
                let fault = fault.to_string();
                if said.as_ref() != Some(&fault) {
                    let (have, bytes) = (into.bytes(), from.copy.bytes);
                    tracing::warn!(from = %from.at, have, bytes, fault, "a copy of the state is asked for again");
                    said = Some(fault);
                }
            }
        }
        pause = if into.bytes() > had { PAUSE.0 } else { (pause * 2).min(PAUSE.1) };
        sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        if !took(into.bytes(), 0) {
            return Err(FetchError::Unwanted);
        }
    }
    Ok(())
}

/// Fetches what is missing over one connection: over `line`, if it leads there. What went wrong leaves none.
pub(super) async fn attempt(
    shared: &Shared,
    from: &From,
    line: &mut Option<Line>,
    into: &mut Gathering,
    took: &mut impl FnMut(u64, u64) -> bool,
) -> Result<(), FetchError> {
    let mut to = match line.take().filter(|line| line.leads_to(from.at)) {
        Some(line) => line,
        None => Line::open(shared, from.at).await?,
    };
    let request = request(from, into.bytes())?;
    let received = counts::received();
    let answer = timeout(STALL, to.sender.send_request(request)).await;
    let answer = answer.map_err(|_| FetchError::Stalled(STALL))?.map_err(FetchError::Lost)?;
    follows(&answer, into.bytes(), from.copy.bytes)?;
    let mut body = answer.into_body();
    loop {
        let frame = timeout(STALL, body.frame()).await.map_err(|_| FetchError::Stalled(STALL))?;
        let Some(frame) = frame else { break };
        let Ok(bytes) = frame.map_err(FetchError::Lost)?.into_data() else { continue };
        let at = into.bytes();
        into.push(&bytes).map_err(FetchError::TooLarge)?;
        received.increment(bytes.len() as u64);
        if !took(at, bytes.len() as u64) {
            return Err(FetchError::Unwanted);
        }
    }
    if into.bytes() < from.copy.bytes {
        return Err(FetchError::Short(into.bytes()));
    }
    *line = Some(to);
    Ok(())
}

fn request(from: &From, offset: u64) -> Result<Request<Empty<Bytes>>, FetchError> {
    let From { at, migration, copy, token } = from;
    let token = format!("Bearer {}", hex::encode(token));
    let mut token = HeaderValue::try_from(token).map_err(|_| FetchError::Other("a token"))?;
    token.set_sensitive(true);
    let request = Request::builder()
        .uri(format!("{PATH}?migration={migration}&round={}", copy.round))
        .header(HOST, at.to_string())
        .header(RANGE, format!("bytes={offset}-"))
        .header(AUTHORIZATION, token);
    request.body(Empty::new()).map_err(|_| FetchError::Other("an address"))
}

/// Whether an answer gives what follows `offset` of a copy that has so many bytes.
fn follows(answer: &Response<Incoming>, offset: u64, bytes: u64) -> Result<(), FetchError> {
    match answer.status() {
        StatusCode::PARTIAL_CONTENT => {}
        // It does not heed that it was asked for a part.
        StatusCode::OK => return Err(FetchError::Other("all of it")),
        status => return Err(FetchError::Refused(status)),
    }
    let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let wanted = format!("bytes {offset}-{}/{bytes}", bytes.saturating_sub(1));
    if range == Some(&wanted) { Ok(()) } else { Err(FetchError::Other("another part")) }
}

/// Whether the handshake failed as the other side does not know the protocol.
fn knows_no_protocol(error: &ProxyError) -> bool {
    let said = error.source.as_ref().and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
    matches!(said, Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)))
}

/// Which copy a query asks for, by its migration and its round.
fn named(query: Option<&str>) -> Option<(u64, u32)> {
    let (mut migration, mut round) = (None, None);
    for pair in query?.split('&') {
        match pair.split_once('=')? {
            ("migration", value) => migration = Some(value.parse().ok()?),
            ("round", value) => round = Some(value.parse().ok()?),
            _ => {}
        }
    }
    Some((migration?, round?))
}

/// The token that is shown.
fn token(fields: &HeaderMap) -> Option<Vec<u8>> {
    hex::decode(fields.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")?)
}

/// From where on it is asked for, if not from its beginning. None: it is none that is understood.
fn offset(fields: &HeaderMap) -> Option<Option<u64>> {
    let Some(range) = fields.get(RANGE) else { return Some(None) };
    let from = range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?;
    from.parse().ok().map(Some)
}

/// What goes out of a copy, counted.
pub(crate) struct Sent {
    reading: Reading,
    counter: Counter,
    _room: OwnedSemaphorePermit,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.reading).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.counter.increment(frame.data_ref().map_or(0, |bytes| bytes.len() as u64));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.reading.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reading.size_hint()
    }
}

const PATH: &str = "/copy";

/// There are two places, and a connection that was lost may not be known to be.
const MOST_AT_ONCE: usize = 4;

/// How long who asks may take to say for what, at first and behind each answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

const MOST_HEAD_BYTES: usize = 16 * 1024;

/// How long one connection may take. What is longer goes over several.
const LIFETIME: Duration = Duration::from_secs(300);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing came for so long is given up.
const STALL: Duration = Duration::from_secs(5);

/// How long is waited before another try: after one that got on, and at most. Requests are parked meanwhile.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
