//! gRPC over connections that were accepted: which service a call is for, and an end in good order.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lighter_config::identity::{Peer, Refusal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use super::ads;
use super::certificates::{self, Certificates};
use crate::ca::Tls;
use crate::registry;
use crate::state::{State, Stopping};

/// Who calls. Every request has it among its extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it connected from.
    pub address: SocketAddr,
    /// Who it proved to be. None: it showed no certificate.
    pub peer: Option<Arc<Peer>>,
}

/// The services of one port. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Aggregated discovery.
    pub ads: ads::Server<ads::Ads>,
    /// Certificates. Where they are served, whoever has none can call nothing else.
    pub certificates: Option<certificates::Server<Certificates>>,
    /// Registration.
    pub registry: Option<registry::Server<registry::Reports>>,
}

/// Accepts connections until the control plane stops, with TLS or in plain text.
pub async fn serve(state: Arc<State>, listener: TcpListener, services: Services, tls: Option<Arc<Tls>>) {
    let mut stopping = state.stopping();
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut unproven = VecDeque::<(AbortHandle, Proven)>::new();
    loop {
        let accepted = tokio::select! {
            () = stopping.asked() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                // Answers are small and waited for. Fails where the client is gone already.
                let _ = socket.set_nodelay(true);
                let (services, stopping) = (services.clone(), state.stopping());
                let Some(tls) = &tls else {
                    // Of this machine. Nobody proves anything here.
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        tracing::warn!(%address, "a connection too many is closed");
                        continue;
                    };
                    let caller = Caller { address, peer: None };
                    let connection = connection(socket, caller, services, stopping, std::future::pending());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                    continue;
                };
                unproven.retain(|(task, proven)| !task.is_finished() && !proven.load(Relaxed));
                if unproven.len() >= MOST_UNPROVEN
                    && let Some((oldest, _)) = unproven.pop_front()
                {
                    oldest.abort();
                }
                let proven = Proven::default();
                let room = Room { places: places.clone(), proven: proven.clone() };
                let task = connections.spawn(secure(socket, address, tls.clone(), services, stopping, room));
                unproven.push_back((task, proven));
            }
            Err(error) => {
                // No descriptor is left, most likely: some come free.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether a caller has shown a certificate.
type Proven = Arc<AtomicBool>;

/// What a caller gets once it has shown a certificate.
struct Room {
    /// A place that nobody pushes it out of.
    places: Arc<Semaphore>,
    /// To say that it has one.
    proven: Proven,
}

/// Serves one connection within TLS.
async fn secure(
    socket: TcpStream,
    address: SocketAddr,
    tls: Arc<Tls>,
    services: Services,
    mut stopping: Stopping,
    room: Room,
) {
    let accepted = Instant::now();
    // From before the handshake on: no change is missed.
    let changes = tls.changes();
    let handshake = TlsAcceptor::from(tls.config()).accept(socket);
    let stream = tokio::select! {
        () = stopping.asked() => return,
        stream = tokio::time::timeout(LONGEST_HANDSHAKE, handshake) => match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::info!(%address, %error, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::info!(%address, "a TLS handshake took too long");
                return;
            }
        },
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = match Peer::of(chain) {
        Ok(peer) => Some(Arc::new(peer)),
        Err(Refusal::NoCertificate) => None,
        Err(refusal) => {
            tracing::warn!(%address, reason = refusal.label(), "a certificate was refused: {refusal}");
            return;
        }
    };
    let _place = match room.places.try_acquire_owned() {
        _ if peer.is_none() => None,
        Ok(place) => {
            room.proven.store(true, Relaxed);
            Some(place)
        }
        Err(_) => {
            tracing::warn!(%address, "a connection too many is closed");
            return;
        }
    };
    let over = outlived(tls, changes, peer.clone(), accepted);
    connection(stream, Caller { address, peer }, services, stopping, over).await;
}

/// Waits until what a peer showed proves nothing any more, and says why. One that showed nothing has little time.
async fn outlived(
    tls: Arc<Tls>,
    mut changes: watch::Receiver<u64>,
    peer: Option<Arc<Peer>>,
    accepted: Instant,
) -> Refusal {
    let Some(peer) = peer else {
        tokio::time::sleep_until(accepted + LONGEST_UNPROVEN).await;
        return Refusal::NoCertificate;
    };
    loop {
        let left = peer.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        if left.is_zero() {
            return Refusal::Expired;
        }
        tokio::select! {
            // Not all of it at once: the clock may be set meanwhile.
            () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                if let Err(refusal) = tls.verify(&peer, SystemTime::now()) {
                    return refusal;
                }
            }
        }
    }
}

/// Serves one connection until either side ends it, or it is `over`.
async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    services: Services,
    mut stopping: Stopping,
    over: impl Future<Output = Refusal>,
) {
    let address = caller.address;
    let asked = Arc::new(AtomicBool::new(false));
    let silent = silent(asked.clone());
    let serve = service_fn(move |mut request: Request<Incoming>| {
        asked.store(true, Relaxed);
        request.extensions_mut().insert(caller.clone());
        services.clone().call(request)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // A client that is gone without a word is found out.
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), serve);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping.asked() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        refusal = over => {
            tracing::info!(%address, reason = refusal.label(), "a connection is ended: {refusal}");
            connection.as_mut().graceful_shutdown();
            // Discovery streams have no end of their own.
            tokio::time::timeout(LONGEST_GOODBYE, connection).await.unwrap_or(Ok(()))
        }
        () = silent => {
            tracing::info!(%address, "a connection is ended: nothing is asked on it");
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LONGEST_GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection broke");
    }
}

/// Waits until a connection has had its time for a first call and made none. It may not even speak HTTP/2.
async fn silent(asked: Arc<AtomicBool>) {
    tokio::time::sleep(LONGEST_SILENCE).await;
    if asked.load(Relaxed) {
        std::future::pending().await
    }
}

impl Services {
    async fn call(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        if let Some(certificates) = &mut self.certificates {
            if service == "lighter.identity.v1.Certificates" {
                return certificates.call(request).await;
            }
            let caller = request.extensions().get::<Caller>();
            if caller.is_none_or(|caller| caller.peer.is_none()) {
                return Ok(Status::unauthenticated("a certificate is needed").into_http());
            }
        }
        match service {
            "lighter.registry.v1.Registry" if let Some(registry) = &mut self.registry => {
                registry.call(request).await
            }
            "envoy.service.discovery.v3.AggregatedDiscoveryService" => self.ads.call(request).await,
            _ => Ok(Status::unimplemented("there is no such service here").into_http()),
        }
    }
}

/// Most connections of a port whose callers have shown a certificate, or need none.
const MOST_CONNECTIONS: usize = 8192;

/// Most connections whose callers have not shown a certificate. One more pushes out the oldest, so that nobody who shows
/// nothing keeps others away.
const MOST_UNPROVEN: usize = 256;

/// How long a connection may live whose caller shows no certificate: for one that joins, enough.
const LONGEST_UNPROVEN: Duration = Duration::from_secs(30);

/// How long a connection may be there without a call.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// How long it rests at most before it looks at the clock again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How long the calls of a connection may take to end once it is over.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

/// How long a TLS handshake may take.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a connection is silent before it is asked whether it is there, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Most calls on one connection at a time. A client needs three.
const MAX_STREAMS: u32 = 16;

/// Largest head of a call, in bytes.
const MAX_HEAD: u32 = 16 << 10;

/// How long accepting rests after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
