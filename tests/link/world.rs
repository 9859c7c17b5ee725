//! A caller and a workload with a sidecar each, and a root that says who is who.

use std::net::SocketAddr;

use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
pub use crate::support::root::Root;
use crate::support::sidecar::Sidecar;

pub const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";
pub const REVIEWS: &str = "spiffe://mesh.lighter/ns/default/sa/reviews";
pub const RATINGS: &str = "spiffe://mesh.lighter/ns/default/sa/ratings";

/// The Service `reviews` with one endpoint, which has to be `identity`.
pub fn reviews(protocol: &str, endpoint: SocketAddr, identity: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: reviews}}\nspec:\n  ports: [{{port: 80, \
         targetPort: 8080, appProtocol: {protocol}}}]\n  endpoints: [{{address: {}, port: {}, secure: {{identity: \
         '{identity}'}}}}]\n",
        endpoint.ip(),
        endpoint.port()
    )
}

/// Sends bodies, of a length and in chunks, on one connection to `listen`, where what is sent is to come back.
pub fn bodies_come_back(listen: SocketAddr) {
    const BYTES: usize = 5_000_011;
    let pattern: Vec<u8> = (0..BYTES).map(|at| (at * 7 + at / 251) as u8).collect();
    let mut peer = Peer::connect(listen);
    for _ in 0..2 {
        peer.send(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {BYTES}\r\n\r\n"))
            .send(&pattern);
        let head = peer.expect_head();
        assert!(peer.body(&head) == Body::Whole(pattern.clone()));
    }
    // In chunks, with a trailer's section behind them.
    peer.send("POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n");
    for part in pattern.chunks(100_003) {
        peer.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n");
    }
    peer.send("0\r\n\r\n");
    let head = peer.expect_head();
    assert!(peer.body(&head) == Body::Whole(pattern));
}

/// All that whoever asks at `listen` hears. Of what is refused that may be nothing, whenever it is.
pub fn heard(listen: SocketAddr) -> String {
    let Some(mut peer) = Peer::connect_where_taken(listen) else { return String::new() };
    peer.try_send("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n");
    String::from_utf8_lossy(&peer.rest()).into_owned()
}

/// An application whose answers are of so many bytes, but for `/small`.
pub fn large_answers(bytes: u64) -> Upstream {
    Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            if head.target() == "/small" {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                continue;
            }
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
            let part = vec![b'x'; 1 << 20];
            for _ in 0..bytes >> 20 {
                if !peer.try_send(&part) {
                    return;
                }
            }
        }
    })
}

/// A MeshPolicy that lets only callers in who prove who they are.
pub const STRICT: &str =
    "---\napiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {name: mesh}\nspec: {mtls: strict}\n";

/// The sidecar of `reviews` before `app`, and where callers reach it.
pub fn workload(root: &Root, protocol: &str, app: SocketAddr, more: &str) -> (Sidecar, SocketAddr) {
    workload_as(root, &root.identity(REVIEWS), protocol, app, more)
}

/// The same; `identity` is what its file says of that.
pub fn workload_as(
    root: &Root,
    identity: &str,
    protocol: &str,
    app: SocketAddr,
    more: &str,
) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let resources = reviews(protocol, listen, REVIEWS) + more;
    let log = root.folder().join("reviews.log");
    let own = format!(
        "service: reviews\nworkers: 1\ninbound: [{{listen: '{listen}', app: '{app}', port: 80}}]\naccessLog: {{path: \
         {}}}\n{identity}",
        log.display(),
    );
    (Sidecar::start(&resources, &own), listen)
}

/// The sidecar of `web`, which calls what `resources` say of `reviews`, and where it is reached. `identity` is what its
/// file says of that.
pub fn caller(resources: &str, identity: &str) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    (Sidecar::start(resources, &caller_file(listen, identity)), listen)
}

/// The own file of a sidecar that is reached at `listen` and calls reviews.
pub fn caller_file(listen: SocketAddr, identity: &str) -> String {
    format!("listeners: [{{listen: '{listen}', service: reviews, port: 80}}]\nworkers: 1\n{identity}")
}

/// Both, with everything as it should be: the caller's sidecar and its listener, and the workload's.
pub struct Pair {
    pub root: Root,
    pub web: Sidecar,
    pub listen: SocketAddr,
    pub reviews: Sidecar,
}

impl Pair {
    pub fn before(protocol: &str, app: SocketAddr) -> Self {
        let root = Root::new();
        let (sidecar, endpoint) = workload(&root, protocol, app, "");
        let (web, listen) = caller(&reviews(protocol, endpoint, REVIEWS), &root.identity(WEB));
        Pair { root, web, listen, reviews: sidecar }
    }

    /// Connections on which `web` proved who it is.
    pub fn proved(&self) -> f64 {
        let labels = [("security", "mtls"), ("caller", WEB), ("outcome", "served")];
        self.reviews.metrics().sum("lighter_inbound_connections_total", &labels)
    }

    /// Connections in plain text that the workload's sidecar served.
    pub fn plain(&self) -> f64 {
        let labels = [("security", "plaintext"), ("outcome", "served")];
        self.reviews.metrics().sum("lighter_inbound_connections_total", &labels)
    }
}
