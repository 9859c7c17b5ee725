//! By HTTP/1.1: a GET that is answered with a status below 400.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Fault, through};

/// Asks on a fresh connection.
pub(crate) async fn ask<S>(stream: S, host: SocketAddr, path: &str) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, host.to_string())
        .header(USER_AGENT, "lighter-probe")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Fault::Unwell(format!("cannot be asked: {error}")))?;
    let status = through(sender.send_request(request), connection).await?.status();
    if (200..400).contains(&status.as_u16()) {
        Ok(())
    } else {
        Err(Fault::Unwell(format!("status {status}")))
    }
}
