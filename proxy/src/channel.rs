//! Connections to the control plane: gRPC over TLS, or in plain text where the sidecar's file says so.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lighter_config::sidecar::{ControlConfig, ControlSecurity};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::dial::{self, SocketFactory};
use crate::worker::Shared;

/// A connection that stands.
pub(crate) struct Opened {
    /// For calls.
    pub(crate) channel: Channel,
    /// This host's address on it: where others may reach this host, for all that it knows itself.
    pub(crate) local: IpAddr,
}

/// Connects to the control plane of this sidecar's file, as who this sidecar is. An error says what failed, for people.
pub(crate) async fn open(shared: &Shared, control: &ControlConfig) -> Result<Opened, String> {
    let tls = match control.security {
        ControlSecurity::Plaintext => None,
        ControlSecurity::Files | ControlSecurity::Joined { .. } => {
            let identity = shared.identity.get().ok_or("this sidecar has no identity yet")?;
            Some(identity.control_config())
        }
    };
    connect(&control.address, shared.outside.clone(), tls).await
}

/// Connects to `address`, `host:port`, over TLS if it is said how.
pub(crate) async fn connect(
    address: &str,
    sockets: Arc<dyn SocketFactory>,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Opened, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| chain(&error))?
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWERED_WITHIN)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECT_TIMEOUT);
    let local = Arc::new(OnceLock::new());
    let address: Arc<str> = address.into();
    let connector = tower::service_fn({
        let local = local.clone();
        move |_| {
            let (address, sockets, tls, local) =
                (address.clone(), sockets.clone(), tls.clone(), local.clone());
            async move {
                let (stream, peer) = dial(&address, &*sockets).await?;
                local.get_or_init(|| stream.local_addr().map(|own| own.ip()));
                let wire: Box<dyn Wire> = match tls {
                    None => Box::new(stream),
                    // The server is known by its SPIFFE ID: the name here is none that anybody looks at.
                    Some(tls) => {
                        Box::new(TlsConnector::from(tls).connect(ServerName::from(peer.ip()), stream).await?)
                    }
                };
                Ok::<_, io::Error>(TokioIo::new(wire))
            }
        }
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| chain(&error))?;
    let local = local.get().and_then(|local| local.as_ref().ok().copied());
    Ok(Opened { channel, local: local.unwrap_or(Ipv4Addr::LOCALHOST.into()) })
}

/// What a call or a stream ended with.
pub(crate) fn say(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => format!("{}: {message}", status.code()),
    }
}

/// What a connection runs over.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn dial(address: &str, sockets: &dyn SocketFactory) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    for address in found {
        match dial::connect(sockets, address, CONNECT_TIMEOUT).await {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => last = io::Error::other(error.to_string()),
        }
    }
    Err(last)
}

/// An error with what caused it: the outermost alone says only that transport failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// A server that is gone without a word is noticed after this and the next.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_ANSWERED_WITHIN: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
