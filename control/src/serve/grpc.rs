//! gRPC over connections that were accepted: which service a call is for, and an end in good order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use super::ads;
use crate::state::{State, Stopping};

/// Who calls. Every request has it among its extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it connected from.
    pub address: SocketAddr,
}

/// The services of one port. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Aggregated discovery.
    pub ads: ads::Server<ads::Ads>,
}

/// Accepts connections in plain text until the control plane stops.
pub async fn serve(state: Arc<State>, listener: TcpListener, services: Services) {
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
                let caller = Caller { address };
                connections.spawn(connection(socket, caller, services.clone(), state.stopping()));
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

/// Serves one connection until either side ends it.
pub async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    services: Services,
    mut stopping: Stopping,
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
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection broke");
    }
}

impl Services {
    async fn call(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        match service {
            "envoy.service.discovery.v3.AggregatedDiscoveryService" => self.ads.call(request).await,
            _ => Ok(Status::unimplemented("there is no such service here").into_http()),
        }
    }
}

/// How long a connection is silent before it is asked whether it is there, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Most calls on one connection at a time. A client needs three.
const MAX_STREAMS: u32 = 16;

/// Largest head of a call, in bytes.
const MAX_HEAD: u32 = 16 << 10;

/// How long accepting rests after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
