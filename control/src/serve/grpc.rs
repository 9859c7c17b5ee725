//! gRPC over connections that were accepted: which service a call is for, and an end in good order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lighter_config::identity::{Peer, Refusal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
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
                match &tls {
                    Some(tls) => connections.spawn(secure(socket, address, tls.clone(), services, stopping)),
                    None => {
                        let caller = Caller { address, peer: None };
                        let over = std::future::pending();
                        connections.spawn(connection(socket, caller, services, stopping, over))
                    }
                };
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

/// Serves one connection within TLS.
async fn secure(
    socket: TcpStream,
    address: SocketAddr,
    tls: Arc<Tls>,
    services: Services,
    mut stopping: Stopping,
) {
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
    let over = outlived(tls, changes, peer.clone());
    connection(stream, Caller { address, peer }, services, stopping, over).await;
}

/// Waits until what a peer showed proves nothing any more, and says why.
async fn outlived(tls: Arc<Tls>, mut changes: watch::Receiver<u64>, peer: Option<Arc<Peer>>) -> Refusal {
    let Some(peer) = peer else { return std::future::pending().await };
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
    let serve = service_fn(move |mut request: Request<Incoming>| {
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
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection broke");
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
