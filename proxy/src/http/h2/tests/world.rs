//! A worker with one Service, callers, and endpoints that do as they are told.

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::SidecarConfig;
use lighter_config::snapshot::{
    Backend, EndpointSpec, Port, Protocol, RouteTable, Service, Snapshot, TrafficPolicy, VirtualIps,
};
use tokio::net::{TcpListener, TcpStream};

use crate::authorize::Guard;
use crate::dial::SocketFactory;
use crate::http::{Context, Scope};
use crate::io::Io;
use crate::link::accept::Caller;
use crate::mesh::{Destination, Mesh, Target};
use crate::worker::{Shared, Worker};

/// Runs `test` as a worker would.
pub(super) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
    })
}

/// The same by a clock that jumps to the next timer whenever everyone waits.
pub(super) fn run_paused<F: Future>(test: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(1 << 20), test).await.expect("the test hangs")
    })
}

/// One worker and one Service, `default/echo:80`.
pub(super) struct World {
    pub(super) worker: Rc<Worker>,
    pub(super) upstream: Option<Protocol>,
    pub(super) target: Target,
    /// Who calls.
    pub(super) caller: Option<Rc<Caller>>,
}

impl World {
    /// A world whose Service has these endpoints.
    pub(super) fn new(endpoints: &[SocketAddr]) -> Self {
        Self::with(endpoints, TrafficPolicy::default())
    }

    /// A world whose Service has these endpoints and this policy.
    pub(super) fn with(endpoints: &[SocketAddr], policy: TrafficPolicy) -> Self {
        let (key, mesh) = (key(), Mesh::build(Arc::new(snapshot(endpoints, policy)), &Mesh::default()));
        let target = Target::of(mesh.destination(&key).unwrap().clone());
        World::of(mesh, target)
    }

    /// The world of an instance of the Service, whose application is at `app`.
    pub(super) fn of_instance(app: SocketAddr, mesh: Mesh) -> Self {
        let (key, port) = (key(), mesh.config.port(&key()).unwrap().clone());
        let mut target = Target::of(Arc::new(Destination::inbound(&port, app, None, &mesh)));
        target.guard = Guard::of(&mesh.config, &key, None);
        World::of(mesh, target)
    }

    fn of(mesh: Mesh, target: Target) -> Self {
        World::of_config(config(), mesh, target)
    }

    /// The world of a sidecar with this file.
    pub(super) fn of_config(config: SidecarConfig, mesh: Mesh, target: Target) -> Self {
        let shared = Shared::new(config, Arc::new(Loopback), Arc::new(Loopback));
        shared.mesh.store(Arc::new(mesh));
        World { worker: Worker::new(0, Arc::new(shared)), target, upstream: None, caller: None }
    }

    /// A socket behind which the sidecar serves HTTP/2.
    pub(super) async fn socket(&self) -> TcpStream {
        let (client, io, context) = self.accept().await;
        tokio::task::spawn_local(crate::http::h2::serve(io, context));
        client
    }

    /// A socket behind which the sidecar serves HTTP/1.
    pub(super) async fn socket_http1(&self) -> TcpStream {
        let (client, io, context) = self.accept().await;
        tokio::task::spawn_local(crate::http::serve_http1(io, context));
        client
    }

    async fn accept(&self) -> (TcpStream, Io, Context) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        let context = Context {
            worker: self.worker.clone(),
            direction: self.target.destination.direction,
            scope: Scope::Fixed(self.target.clone()),
            caller: self.caller.clone(),
            caller_text: None,
            peer,
            ticket: self.worker.connections.enter(),
            upstream: self.upstream,
        };
        (client, Io::new(server), context)
    }

    /// A caller with the windows that `h2` has by itself.
    pub(super) async fn caller(&self) -> SendRequest<Bytes> {
        // By itself `h2` takes some hundred small frames at once for an attack.
        self.caller_with(h2::client::Builder::new().initial_max_send_streams(2000).data_frame_budget(1 << 24))
            .await
    }

    /// A caller of this making.
    pub(super) async fn caller_with(&self, builder: &h2::client::Builder) -> SendRequest<Bytes> {
        let (send, connection) = builder.handshake(self.socket().await).await.unwrap();
        tokio::task::spawn_local(connection);
        send
    }
}

/// What a mesh with the one Service is made of.
pub(super) fn snapshot(endpoints: &[SocketAddr], policy: TrafficPolicy) -> Snapshot {
    let key = key();
    let port = Port {
        key: key.clone(),
        name: None,
        protocol: Protocol::Auto,
        target_port: 80,
        routes: RouteTable::single(&key),
        tcp: vec![Backend { target: key.clone(), weight: 1, exists: true }],
        tcp_route: "default".into(),
        endpoints: endpoints
            .iter()
            .map(|address| EndpointSpec {
                address: *address,
                weight: 1,
                priority: 0,
                locality: Default::default(),
                secure: None,
                wires: None,
            })
            .collect(),
        policy,
        mtls: lighter_config::snapshot::Mtls::default(),
        guards: Vec::new(),
    };
    let service = Service {
        name: key.service.clone(),
        virtual_ips: VirtualIps { v4: Ipv4Addr::new(198, 19, 0, 1), v6: Ipv6Addr::LOCALHOST },
        ports: vec![Arc::new(port)],
        probe: None,
        links: lighter_config::snapshot::LinkPolicy::default(),
        state: None,
    };
    let services = [(key.service.clone(), Arc::new(service))].into();
    Snapshot { services, ..Snapshot::default() }
}

/// The one port.
pub(super) fn key() -> ServicePort {
    ServicePort { service: ServiceName::new("default", "echo"), port: 80 }
}

/// An endpoint that speaks HTTP/2.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// Connections accepted.
    pub(super) connections: Rc<Cell<usize>>,
}

/// A request that an endpoint got.
pub(super) type Got = (Request<RecvStream>, SendResponse<Bytes>);

/// An endpoint that hands every request to `serve`.
pub(super) async fn endpoint<F: Future<Output = ()> + 'static>(
    builder: h2::server::Builder,
    serve: impl Fn(Got) -> F + 'static,
) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Rc::new(Cell::new(0));
    let count = connections.clone();
    let serve = Rc::new(serve);
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            count.set(count.get() + 1);
            let (builder, serve) = (builder.clone(), serve.clone());
            tokio::task::spawn_local(async move {
                let Ok(mut connection) = builder.handshake(tcp).await else { return };
                while let Some(Ok(got)) = connection.accept().await {
                    tokio::task::spawn_local(serve(got));
                }
            });
        }
    });
    Endpoint { address, connections }
}

/// An endpoint that is a bare socket.
pub(super) async fn raw<F: Future<Output = ()> + 'static>(
    serve: impl Fn(TcpStream) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(tcp));
        }
    });
    address
}

/// Answers with interim answers only, `count` of them, and then waits.
pub(super) async fn interims((_request, mut respond): Got, count: usize) {
    for _ in 0..count {
        let mut hints = Response::new(());
        *hints.status_mut() = http::StatusCode::EARLY_HINTS;
        if respond.send_informational(hints).is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    std::future::pending::<()>().await;
}

/// Sends the request's body and trailers back.
pub(super) async fn echo((request, mut respond): Got) {
    let mut body = request.into_body();
    let Ok(mut to) = respond.send_response(Response::new(()), false) else { return };
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
        if send_all(&mut to, bytes).await.is_err() {
            return;
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => drop(to.send_trailers(trailers)),
        Ok(None) => drop(to.send_data(Bytes::new(), true)),
        Err(_) => to.send_reset(h2::Reason::CANCEL),
    }
}

/// Sends `bytes` as the window allows.
pub(super) async fn send_all(to: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let granted = match to.capacity() {
            0 => std::future::poll_fn(|cx| to.poll_capacity(cx))
                .await
                .ok_or(h2::Error::from(h2::Reason::CANCEL))??,
            granted => granted,
        };
        to.send_data(bytes.split_to(granted.min(bytes.len())), false)?;
    }
    Ok(())
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

/// Sends a request with a body and reads the answer to its end.
pub(super) async fn call(
    send: &SendRequest<Bytes>,
    request: Request<()>,
    body: &'static [u8],
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let mut send = send.clone().ready().await?;
    let bare = body.is_empty() && trailers.is_none();
    let (response, mut to) = send.send_request(request, bare)?;
    let upload = async move {
        if !bare {
            let _ = send_all(&mut to, Bytes::from_static(body)).await;
            let _ = match trailers {
                Some(trailers) => to.send_trailers(trailers),
                None => to.send_data(Bytes::new(), true),
            };
        }
        to
    };
    let download = async { read(response.await?).await };
    let (answer, _to) = tokio::join!(download, upload);
    answer
}

/// Reads an answer to its end.
pub(super) async fn read(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut from) = response.into_parts();
    let mut body = Vec::new();
    while let Some(bytes) = from.data().await {
        let bytes = bytes?;
        body.extend_from_slice(&bytes);
        from.flow_control().release_capacity(bytes.len())?;
    }
    let trailers = from.trailers().await?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}

/// `GET http://echo/PATH`.
pub(super) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://echo{path}")).version(http::Version::HTTP_2).body(()).unwrap()
}

/// A gRPC request.
pub(super) fn grpc() -> Request<()> {
    Request::post("http://echo/service/Method")
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

struct Loopback;

impl SocketFactory for Loopback {
    fn tcp(&self, address: SocketAddr) -> std::io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.nonblocking(),
            None,
        )?;
        Ok(socket)
    }
}

pub(super) fn config() -> SidecarConfig {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    SidecarConfig {
        service: None,
        namespace: "default".into(),
        workers: 1,
        resources: Vec::<PathBuf>::new(),
        listeners: Vec::new(),
        inbound: Vec::new(),
        intercept: None,
        outbound_port: 0,
        inbound_port: 0,
        admin: nowhere,
        probe: None,
        dns: None,
        connect: None,
        drain_deadline: Duration::from_secs(1),
        access_log: None,
        tracing: None,
        detect_timeout: Duration::from_millis(10),
        max_head_bytes: 60 * 1024,
        max_connections: Some(1000),
        max_ring_bytes: 0,
        ..SidecarConfig::default()
    }
}
