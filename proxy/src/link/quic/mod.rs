//! A second kind of link: over QUIC, a stream of it for each of the session's. What one request lost waits for no other.
//!
//! The UDP port has the number of the link port. It is opened beside it, by whichever process of a hand-over is left
//! alone with it; until then, and wherever UDP does not pass, links go over TCP. "Links over QUIC" in PROTOCOL.md is what
//! goes over the wire.

mod beside;
mod choice;
mod code;
mod drive;
mod id;
mod lane;
mod pulse;
mod serve;
mod socket;
mod watch;

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::identity::{Peer, Spiffe};
use lighter_config::snapshot::{Congestion, Secure};
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{
    ConnectError, Connecting, Connection, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::sync::watch::Sender;

pub(super) use self::beside::OverQuic;
pub(super) use self::choice::{Choice, Sent};
pub(super) use self::drive::drive;
use self::id::{Ids, Key};
pub(crate) use self::serve::serve;
use self::socket::{Mail, Socket};
pub(super) use self::watch::watch;
use super::session::{Limits, Side};
use crate::dial::SocketFactory;
use crate::identity::{self, ALPN_LINK};
use crate::telemetry::{self, QuicHandshake};
use crate::worker::{Shared, Worker};

/// The UDP port of a process's links.
#[derive(Debug, Default)]
pub(crate) struct Port {
    key: Arc<Key>,
    open: Sender<Option<Arc<Bound>>>,
}

/// Its sockets, one a worker.
#[derive(Debug)]
struct Bound {
    sockets: Vec<UdpSocket>,
    mail: Arc<Mail>,
}

impl Port {
    /// Whether it is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open.borrow().is_some()
    }
}

/// Opens the UDP port of `shared`, once nobody else has it. For the control thread.
pub(crate) async fn open(shared: Arc<Shared>) {
    let Some(address) = shared.config.link.filter(|address| address.port() != 0) else { return };
    let workers = shared.config.workers.max(1);
    let mut told = false;
    loop {
        match bind(address, workers) {
            Ok(sockets) => {
                shared.quic.open.send_replace(Some(Arc::new(Bound { sockets, mail: Mail::among(workers) })));
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, %address, "no links over QUIC: the UDP port cannot be opened yet");
                }
            }
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// A socket for each worker on the same address, which nobody else has.
fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let bound = |shared| {
        let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_port(shared)?;
        roomy(&socket);
        socket.bind(&address.into())?;
        Ok(UdpSocket::from(socket))
    };
    // Sockets that share an address share it with those of another process too: what comes for one would reach the other.
    let alone = bound(false)?;
    if workers == 1 {
        return Ok(vec![alone]);
    }
    drop(alone);
    (0..workers).map(|_| bound(true)).collect()
}

/// Asks for more room than the system gives by itself: a burst is not to be lost here. What it does not give is done
/// without.
fn roomy(socket: &RawSocket) {
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
}

/// From where one worker dials: one socket for each family.
#[derive(Default)]
pub(crate) struct Dials([RefCell<Option<Endpoint>>; 2]);

impl Dials {
    /// Begins a connection to `address`. An endpoint that has ended takes none any more: another one takes its place.
    fn connect(
        &self,
        factory: &dyn SocketFactory,
        config: quinn::ClientConfig,
        address: SocketAddr,
    ) -> io::Result<Connecting> {
        // Who is there is told by the SPIFFE ID; no name is asked for.
        let name = address.ip().to_string();
        let mut place = self.0[usize::from(address.is_ipv6())].borrow_mut();
        if let Some(endpoint) = &*place {
            match endpoint.connect_with(config.clone(), address, &name) {
                Err(ConnectError::EndpointStopping) => {
                    tracing::warn!(
                        "the endpoint from which links over QUIC are dialled ended: it is made anew"
                    );
                    telemetry::quic().endpoint_ended(Side::Opener);
                }
                connecting => return connecting.map_err(io::Error::other),
            }
        }
        *place = None;
        let endpoint = place.insert(from_here(factory, address)?);
        endpoint.connect_with(config, address, &name).map_err(io::Error::other)
    }
}

/// An endpoint that dials where `address` is.
fn from_here(factory: &dyn SocketFactory, address: SocketAddr) -> io::Result<Endpoint> {
    let socket = factory.udp(address)?;
    roomy(&socket);
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    socket.bind(&any.into())?;
    Endpoint::new(EndpointConfig::default(), None, socket.into(), Arc::new(TokioRuntime))
}

/// Connects to the sidecar at `address`, which has to be who `secure` says. What came of it is counted where it did not
/// come about; otherwise whoever asked counts it, once the other side has answered.
pub(super) async fn dial(
    worker: &Rc<Worker>,
    secure: &Secure,
    address: SocketAddr,
    congestion: Congestion,
) -> Result<(Connection, Peer), QuicHandshake> {
    let dialled = tokio::time::timeout(CONNECT, Box::pin(connect(worker, secure, address, congestion))).await;
    let dialled = dialled.unwrap_or(Err(QuicHandshake::Late));
    if let Err(how) = dialled {
        telemetry::quic().handshake(Side::Opener, how);
    }
    dialled
}

async fn connect(
    worker: &Rc<Worker>,
    secure: &Secure,
    address: SocketAddr,
    congestion: Congestion,
) -> Result<(Connection, Peer), QuicHandshake> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::debug!(%error, %address, "no link over QUIC");
        QuicHandshake::Failed
    };
    let identity = worker.shared.identity.get().ok_or(QuicHandshake::Failed)?;
    let expected = Spiffe::parse(&secure.identity).map_err(|error| failed(&error))?;
    let tls = identity.current().client_config(&expected, &[ALPN_LINK]);
    let tls = QuicClientConfig::try_from(tls).map_err(|error| failed(&error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport(Side::Opener, congestion));
    let connecting = worker.quic.connect(&*worker.shared.outside, config, address);
    let connecting = connecting.map_err(|error| failed(&error))?;
    match connecting.await {
        Ok(connection) => {
            let peer = proved(&connection).ok_or(QuicHandshake::Failed)?;
            Ok((connection, peer))
        }
        Err(quinn::ConnectionError::ConnectionClosed(close))
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            Err(QuicHandshake::Refused)
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Who is at the other end of `connection`, if it speaks the protocol of links.
fn proved(connection: &Connection) -> Option<Peer> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    (data.protocol.as_deref() == Some(ALPN_LINK)).then(|| identity::peer_by(&chain).ok())?
}

/// How a connection of which this is `side` behaves.
fn transport(side: Side, congestion: Congestion) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let streams = match side {
        // The other side opens none.
        Side::Opener => 0,
        // One for control; and of those that ended over there some may not have ended here.
        Side::Acceptor => 1 + 2 * Limits::default().open_streams,
    };
    config.max_concurrent_bidi_streams(VarInt::from_u32(streams as u32));
    config.max_concurrent_uni_streams(VarInt::from_u32(0));
    config.datagram_receive_buffer_size(None);
    config.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    config.receive_window(VarInt::from_u32(Limits::default().session_window));
    config.send_window(SEND_WINDOW);
    config.initial_rtt(ROUND_TRIP);
    config.max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE.as_millis() as u32))));
    if side == Side::Opener {
        config.keep_alive_interval(Some(KEEP_ALIVE));
    }
    let controller: Arc<dyn ControllerFactory + Send + Sync> = match congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
    };
    config.congestion_controller_factory(controller);
    Arc::new(config)
}

/// The endpoint of `worker` behind the UDP port.
fn endpoint(worker: &Worker, bound: &Bound, config: quinn::ServerConfig) -> io::Result<Endpoint> {
    let Some(socket) = bound.sockets.get(worker.index) else { return Err(io::ErrorKind::NotFound.into()) };
    let (index, key) = (worker.index, worker.shared.quic.key.clone());
    let socket = Socket::new(socket.try_clone()?, index, key.clone(), bound.mail.clone())?;
    let mut ids = EndpointConfig::default();
    ids.cid_generator(move || Box::new(Ids { key: key.clone(), worker: index as u8 }));
    Endpoint::new_with_abstract_socket(ids, Some(config), Arc::new(socket), Arc::new(TokioRuntime))
}

/// How soon it is tried again to open the port, or an endpoint behind it.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How long a handshake may take before it is taken for certain that UDP does not pass.
const CONNECT: Duration = Duration::from_secs(1);

/// What one stream may send before anything of it is read, bytes.
const STREAM_WINDOW: u32 = 512 * 1024;

/// What waits to be acknowledged, bytes.
const SEND_WINDOW: u64 = 4 * 1024 * 1024;

/// A round trip, until one is measured: sidecars are not far from each other.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// A connection on which nothing comes for so long is given up;
const IDLE: Duration = Duration::from_secs(30);

/// so something is said in time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long nothing may be heard while streams are open until whoever opened the link asks. If its address is another by
/// now, what it is sent goes astray, and only what it sends tells the other side, which gives up after
/// [five seconds](pulse) for which nothing came back.
const PING_AFTER: Duration = Duration::from_secs(2);

/// How long nothing may be heard behind a PING. While nobody reads what lies on the streams, its answer cannot come; what
/// keeps the connection alive does. That nothing comes at all the link's [pulse](pulse) notices before.
const PING_WAIT: Duration = Duration::from_secs(15);

/// Room of each socket, bytes.
const BUFFER: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::dial::Here;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn an_endpoint_that_ended_is_made_anew() {
        let dials = Dials::default();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let connect = || dials.connect(&Here::default(), config.clone(), "127.0.0.1:9".parse().unwrap());
        let from = || dials.0[0].borrow().as_ref().unwrap().local_addr().unwrap();
        let first = runtime();
        let before = first.block_on(async {
            drop(connect().unwrap());
            drop(connect().unwrap());
            from()
        });
        // What moves the endpoint ends, as it does when its socket fails.
        drop(first);
        let after = runtime().block_on(async {
            drop(connect().unwrap());
            from()
        });
        assert_ne!(before, after);
    }
}
