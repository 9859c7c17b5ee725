//! Connections to the API and to the webhook: TLS, small limits, and nobody waits for a slow client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lighter_config::identity::Peer;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::answer::Answer;
use crate::state::Stopping;

/// Open connections. One more pushes out the oldest of those that have not shown who they are, so that idle or stuck clients
/// neither keep an operator away nor cut one off.
const MOST_CONNECTIONS: usize = 128;
/// How long a handshake, or a request's head, may take; and the rest between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may live.
const LIFETIME: Duration = Duration::from_secs(300);
/// Bytes of a request's head.
const MOST_HEAD_BYTES: usize = 16 * 1024;

/// Who answers on a port.
pub trait Answers: Send + Sync + 'static {
    /// Answers one request.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Answer> + Send;

    /// Tells when to stop.
    fn stopping(&self) -> Stopping;

    /// Counts a connection that was closed early.
    fn closed_early(&self, why: Early);
}

/// Why a connection was closed early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// It never became TLS.
    Handshake,
    /// A newer one had its place.
    Shed,
}

/// Whether a connection has carried a request of an operator.
#[derive(Clone, Debug, Default)]
pub(super) struct Trusted(Arc<AtomicBool>);

/// What a client has shown of itself in the handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(pub(super) Option<Arc<Peer>>);

impl Trusted {
    /// It has.
    pub(super) fn set(&self) {
        self.0.store(true, Relaxed);
    }
}

/// Answers requests on `listener` until the control plane is to stop; requests that are there by then are answered. `tls` is
/// what a connection is accepted with now.
pub async fn serve<A: Answers>(listener: TcpListener, tls: impl Fn() -> Arc<ServerConfig>, answers: Arc<A>) {
    let mut tasks = JoinSet::new();
    let mut open = VecDeque::<(AbortHandle, Trusted)>::new();
    let mut stopping = answers.stopping();
    loop {
        let accepted = tokio::select! {
            () = stopping.asked() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The peer is gone already, or there is no descriptor: then a pause gives others time to close.
                tracing::warn!(%error, "a port over TLS cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|(task, _)| !task.is_finished());
        if open.len() >= MOST_CONNECTIONS {
            let oldest = open.iter().position(|(_, trusted)| !trusted.0.load(Relaxed)).unwrap_or(0);
            if let Some((oldest, _)) = open.remove(oldest) {
                oldest.abort();
                answers.closed_early(Early::Shed);
            }
        }
        let trusted = Trusted::default();
        let acceptor = TlsAcceptor::from(tls());
        let task = tasks.spawn(secured(stream, peer, acceptor, answers.clone(), trusted.clone()));
        open.push_back((task, trusted));
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn secured<A: Answers>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    answers: Arc<A>,
    trusted: Trusted,
) {
    let mut stopping = answers.stopping();
    let shaken = tokio::select! {
        () = stopping.asked() => return,
        shaken = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => {
            // Whoever shows something that cannot be read has not got here.
            let shown = Peer::of(stream.get_ref().1.peer_certificates().unwrap_or_default()).ok();
            connection(stream, peer, answers, trusted, Shown(shown.map(Arc::new))).await;
        }
        Ok(Err(error)) => {
            answers.closed_early(Early::Handshake);
            tracing::debug!(%peer, %error, "no TLS on a port that wants it");
        }
        Err(_) => answers.closed_early(Early::Handshake),
    }
}

/// Answers the requests of one connection.
pub(super) async fn connection<A: Answers>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    answers: Arc<A>,
    trusted: Trusted,
    shown: Shown,
) {
    let mut stopping = answers.stopping();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(trusted.clone());
        request.extensions_mut().insert(shown.clone());
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(request, peer).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MOST_HEAD_BYTES)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let serving = async {
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = stopping.asked() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    };
    // What goes wrong here is the client's affair.
    let _ = tokio::time::timeout(LIFETIME, serving).await;
}
