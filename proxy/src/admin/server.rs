//! The HTTP server behind both ports: small limits, and nobody waits for a slow client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::Request;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::Answer;

/// Open connections. One more pushes out the oldest, so that idle or stuck clients never keep a probe away.
const MOST_CONNECTIONS: usize = 64;

/// How long a request's head may take, and the rest between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may live, but for one by which somebody taps. Long enough for any scrape.
const LIFETIME: Duration = Duration::from_secs(300);

/// Bytes of a request's head.
const MOST_HEAD_BYTES: usize = 16 * 1024;

/// Answers requests on `listener` until this future is dropped, which ends every connection.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    page: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let page = Arc::new(page);
    let mut tasks = JoinSet::new();
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The peer is gone already, or there is no descriptor: then a pause gives others time to close.
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|task| !task.is_finished());
        if open.len() >= MOST_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tasks.spawn(connection(stream, page.clone())));
    }
}

async fn connection(
    stream: TcpStream,
    page: Arc<impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static>,
) {
    let taps = Arc::new(AtomicBool::new(false));
    let has_tapped = taps.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        // No page reads a body: hyper drops what is sent of it.
        let answer = page(&request);
        taps.store(matches!(answer.body(), Either::Right(_)), Relaxed);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MOST_HEAD_BYTES)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    // What goes wrong here is the client's affair.
    let ended = tokio::time::timeout(LIFETIME, serving.as_mut()).await;
    if ended.is_err() && has_tapped.load(Relaxed) {
        let _ = serving.await;
    }
}
