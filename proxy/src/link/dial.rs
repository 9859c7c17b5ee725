//! Connections to endpoints, whose sidecars prove who they are where that is asked of them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lighter_config::identity::{Spiffe, Usage};
use lighter_config::snapshot::Secure;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::carrier::Keys;
use super::exchange::Exchange;
use super::records::keys::catch;
use super::session::Side;
use crate::balance::Endpoint;
use crate::dial;
use crate::error::{Cause, ProxyError};
use crate::http::h1::pool::Upstream;
use crate::identity::{ALPN_HTTP1, ALPN_LINK};
use crate::io::{Carrier, Io};
use crate::telemetry::Direction;
use crate::worker::{Shared, Worker};

/// Connects to `address` within `timeout`. Where `secure` says who is there, both sides prove who they are, and
/// `protocol`, an ALPN name, is what is spoken within TLS; never does it become plain text.
///
/// Fails as [`dial::connect`] does, and as `no_identity`, `tls_identity` or `tls_failed`. All are marked safe to retry:
/// the endpoint never read a byte of a request.
pub(crate) async fn connect(
    shared: &Shared,
    direction: Direction,
    address: SocketAddr,
    secure: Option<&Secure>,
    protocol: &'static [u8],
    timeout: Duration,
) -> Result<Io, ProxyError> {
    let factory = match direction {
        Direction::Outbound => &*shared.outside,
        Direction::Inbound => &*shared.inside,
    };
    let Some(secure) = secure else {
        return Ok(Io::new(dial::connect(factory, address, timeout).await?));
    };
    let until = Instant::now() + timeout;
    let tcp = dial::connect(factory, address, timeout).await?;
    let proved = match tokio::time::timeout_at(until, prove(shared, tcp, secure, protocol)).await {
        Ok(proved) => proved,
        Err(_elapsed) => Err(ProxyError::new(Cause::ConnectTimeout, "no end to the TLS handshake in time")),
    };
    proved.map_err(|error| error.at(address).safe())
}

/// A connection for one HTTP/1 exchange, or more, with `endpoint`: a stream of a link where its sidecar accepts links.
/// A connection that had to be dialled is counted.
///
/// Fails as [`connect`] does.
pub(crate) async fn exchange(
    worker: &Rc<Worker>,
    direction: Direction,
    endpoint: &Endpoint,
    timeout: Duration,
) -> Result<Upstream, ProxyError> {
    let now = tokio::time::Instant::now;
    if let Some((secure, link)) = endpoint.link() {
        let link = worker.links.link(worker, secure, link, timeout).await?;
        return Ok(Upstream::stream(Io::over_link(Exchange::calling(link, endpoint.name.clone())), now()));
    }
    let secure = endpoint.secure.as_ref();
    let dialled = connect(&worker.shared, direction, endpoint.address, secure, ALPN_HTTP1, timeout).await;
    endpoint.metrics.dialled(dialled.is_ok());
    dialled.map(|io| Upstream::new(io, now()))
}

/// The TLS handshake. Boxed: it is large, and most connections have none.
fn prove<'a>(
    shared: &'a Shared,
    tcp: TcpStream,
    secure: &'a Secure,
    protocol: &'static [u8],
) -> Pin<Box<dyn Future<Output = Result<Io, ProxyError>> + 'a>> {
    Box::pin(async move {
        let Some(identity) = shared.identity.get() else {
            return Err(ProxyError::new(
                Cause::NoIdentity,
                "the endpoint asks who calls, and this sidecar has no identity",
            ));
        };
        let Ok(expected) = Spiffe::parse(&secure.identity) else {
            return Err(ProxyError::new(Cause::TlsIdentity, "what the endpoint is to prove is no SPIFFE ID"));
        };
        let peer = tcp.peer_addr().map_err(failed)?;
        let own = identity.current();
        let connector = TlsConnector::from(own.client_config(&expected, &[protocol]));
        // Who is there is told by the SPIFFE ID; no name is asked for.
        let name = ServerName::IpAddress(peer.ip().into());
        let carrier = match protocol {
            ALPN_LINK => Carrier::of_link(tcp, Bytes::new(), Side::Opener),
            _ => Carrier::new(tcp, Bytes::new()),
        };
        let (connected, ways) = catch(connector.connect(name, carrier)).await;
        let mut tls = connected.map_err(failed)?;
        if tls.get_ref().1.alpn_protocol() != Some(protocol) {
            return Err(ProxyError::new(
                Cause::TlsFailed,
                "the endpoint does not speak this protocol within TLS",
            ));
        }
        if protocol == ALPN_LINK {
            // A link looks after itself.
            let (carrier, connection) = tls.get_mut();
            let keys = Keys::of(connection)
                .ok_or_else(|| ProxyError::new(Cause::TlsFailed, "a link is within TLS 1.3"))?;
            carrier.establish(keys);
            return Ok(Io::linked(tls, ways));
        }
        let held = identity.hold(tls.get_ref().1, Usage::Server, &own);
        let (_, hold) =
            held.map_err(|_| ProxyError::new(Cause::TlsIdentity, "the endpoint is not who it is to be"))?;
        Ok(Io::held(tls, hold))
    })
}

/// What a failed handshake says of the endpoint.
fn failed(error: io::Error) -> ProxyError {
    let said = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (cause, detail) = match said {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            (Cause::TlsIdentity, "the endpoint is not who it is to be")
        }
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
            (Cause::TlsFailed, "the endpoint does not speak this protocol within TLS")
        }
        Some(rustls::Error::AlertReceived(_)) => (Cause::TlsFailed, "the endpoint refused the TLS handshake"),
        Some(_) => (Cause::TlsFailed, "the endpoint does not speak TLS as it should"),
        None => (Cause::TlsFailed, "the connection was lost within the TLS handshake"),
    };
    ProxyError::new(cause, detail).with_source(error)
}
