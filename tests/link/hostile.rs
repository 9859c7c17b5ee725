//! A caller that has proved who it is, and says by its link what no sidecar would say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use libtest_mimic::Trial;
use lighter_proxy::error::Cause;
use lighter_proxy::identity::{ALPN_LINK, Identity, Svid};
use lighter_proxy::link::frame::{Code, Cut};
use lighter_proxy::link::head::{Opening, Protocol, Scheme};
use lighter_proxy::link::session::{Event, Limits, Read as Part, Session, Side, Slices, StreamId};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, StreamOwned};

use crate::lanes::Lanes;
use crate::links::World;
use crate::over::{is_over_quic, over_quic};
use crate::support::process::free_address;
use crate::support::raw::Upstream;
use crate::support::{PATIENCE, test, wait_until};
use crate::world::{REVIEWS, Root, WEB};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_head_that_would_smuggle_is_refused_where_it_arrives", smuggling_heads),
        test("a_body_that_is_longer_than_it_says_is_not_passed_on", a_body_too_long),
        test("a_stream_leads_nowhere_but_to_declared_ports", nowhere_else),
        over_quic("a_head_that_would_smuggle_is_refused_where_it_arrives", smuggling_heads),
        over_quic("a_body_that_is_longer_than_it_says_is_not_passed_on", a_body_too_long),
        over_quic("a_stream_leads_nowhere_but_to_declared_ports", nowhere_else),
    ]
}

/// A link that says whatever it is told to.
struct Link {
    session: Session,
    io: Io,
}

/// What is beneath it.
enum Io {
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Quic(Lanes),
}

impl Link {
    fn to(address: SocketAddr, root: &Root) -> Self {
        let config = identity(root, WEB).client_config(&REVIEWS.parse().unwrap(), &[ALPN_LINK]);
        let io = match is_over_quic() {
            true => Io::Quic(Lanes::to(address, config)),
            false => {
                let tcp = TcpStream::connect(address).unwrap();
                tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                let name = ServerName::IpAddress(address.ip().into());
                Io::Tls(Box::new(StreamOwned::new(ClientConnection::new(config, name).unwrap(), tcp)))
            }
        };
        Link { session: Session::new(Side::Opener, Limits::default(), Instant::now()), io }
    }

    fn open(&mut self, head: &Opening<'_>, fields: &[(&str, &str)], body: &[u8], end: bool) -> StreamId {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let (stream, taken) = self.session.open(Instant::now(), head, fields, body, end).unwrap();
        assert_eq!(taken, body.len());
        stream
    }

    /// What becomes of `stream`: the status of its answer, or how it is cut off.
    fn outcome(&mut self, stream: StreamId) -> Result<u16, Cut> {
        loop {
            self.send();
            match self.session.read(stream) {
                Some(Part::Head(head)) => return Ok(head.status),
                Some(Part::Cut(cut)) => return Err(cut),
                Some(_) => continue,
                None => {}
            }
            while let Some(event) = self.session.event() {
                if let Event::Cut(cut_off, cut) = event
                    && cut_off == stream
                {
                    return Err(cut);
                }
            }
            let came = match &mut self.io {
                Io::Tls(tls) => {
                    let mut part = [0; 4096];
                    let count = tls.read(&mut part).expect("the link stands");
                    assert!(count > 0, "the link stands");
                    Bytes::copy_from_slice(&part[..count])
                }
                Io::Quic(lanes) => lanes.frame(stream.number()),
            };
            self.session.recv(Instant::now(), came).unwrap();
        }
    }

    fn send(&mut self) {
        loop {
            let outbox = self.session.transmit();
            if outbox.is_empty() {
                return;
            }
            let mut slices = Slices::new();
            outbox.slices(&mut slices);
            let written = match &mut self.io {
                Io::Tls(tls) => {
                    let written = tls.write_vectored(&slices).unwrap();
                    tls.flush().unwrap();
                    written
                }
                Io::Quic(lanes) => {
                    let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    lanes.send(&all);
                    all.len()
                }
            };
            drop(slices);
            outbox.advance(written);
        }
    }
}

/// Who has proved to be `id`.
pub fn identity(root: &Root, id: &str) -> Arc<Identity> {
    let (certificate, key) = root.issue(id);
    identity_of(certificate, key, root.bundle())
}

/// Who shows a certificate, and trusts those whom `bundle` vouches for.
pub fn identity_of(
    certificate: impl AsRef<Path>,
    key: impl AsRef<Path>,
    bundle: impl AsRef<Path>,
) -> Arc<Identity> {
    let certificates =
        |path: &Path| CertificateDer::pem_file_iter(path).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let (chain, roots) = (certificates(certificate.as_ref()), certificates(bundle.as_ref()));
    Identity::new(Svid::new(chain, key, roots, SystemTime::now()).unwrap())
}

pub const PLAIN: Opening<'static> = Opening {
    protocol: Protocol::Http1,
    scheme: Scheme::Http,
    method: b"POST",
    authority: b"reviews",
    path: b"/",
    deadline: None,
};

fn smuggling_heads() {
    let app = Upstream::answering("five stars");
    let world = World::before("http", app.address);
    let endpoint = world.endpoint.to_string();
    let to = ("x-lighter-endpoint", &*endpoint);
    let mut link = Link::to(world.link, &world.root);
    let other = "GET /smuggled HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let hidden = format!("0\r\n\r\n{other}");
    let heads: &[(Opening<'_>, &[(&str, &str)])] = &[
        (PLAIN, &[("transfer-encoding", "chunked")]),
        (PLAIN, &[("content-length", "5"), ("content-length", "6")]),
        (PLAIN, &[("content-length", "5, 5")]),
        (PLAIN, &[("content-length", "+5")]),
        (PLAIN, &[("x", "y\r\ntransfer-encoding: chunked")]),
        (PLAIN, &[("x", "y\ncontent-length: 0")]),
        (PLAIN, &[("x\r\nhost", "evil")]),
        (PLAIN, &[("x: y\r\ncontent-length", "0")]),
        (PLAIN, &[("transfer-encoding ", "chunked")]),
        (PLAIN, &[("", "y")]),
        (PLAIN, &[("host", "evil")]),
        (PLAIN, &[("connection", "content-length")]),
        (PLAIN, &[("x", "y\0")]),
        (Opening { path: b"/ HTTP/1.1\r\nHost: evil\r\n\r\nGET /smuggled", ..PLAIN }, &[]),
        (Opening { path: b"/a b", ..PLAIN }, &[]),
        (Opening { path: b"http://evil/", ..PLAIN }, &[]),
        (Opening { method: b"GET /smuggled HTTP/1.1\r\n\r\nPOST", ..PLAIN }, &[]),
        (Opening { method: b"", ..PLAIN }, &[]),
        (Opening { authority: b"reviews\r\ncontent-length: 0", ..PLAIN }, &[]),
        (Opening { authority: b"reviews/..", ..PLAIN }, &[]),
    ];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (opening, fields) in heads {
            let fields: Vec<_> = fields.iter().copied().chain([to]).collect();
            let stream = link.open(&Opening { protocol, ..*opening }, &fields, hidden.as_bytes(), true);
            let cut = link.outcome(stream).expect_err("it is refused");
            assert_eq!(cut.code, Code::Protocol, "{opening:?} {fields:?}");
        }
    }
    // Nothing of all that came through, and the link itself is as good as before.
    assert_eq!((app.connections(), app.received()), (0, String::new()));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let opening = Opening { protocol, ..PLAIN };
        let stream = link.open(&opening, &[to, ("content-length", "2")], b"hi", true);
        assert_eq!(link.outcome(stream), Ok(200));
    }
    assert!(!app.received().contains("smuggled"));
    assert_eq!(app.connections(), 1);
    // What was refused for its head alone was no stream yet.
    assert_eq!(world.streams().1, 2.0);
}

fn a_body_too_long() {
    let app = Upstream::answering("five stars");
    let world = World::before("http", app.address);
    let endpoint = world.endpoint.to_string();
    let mut link = Link::to(world.link, &world.root);
    let fields = [("x-lighter-endpoint", &*endpoint), ("content-length", "3")];
    let stream = link.open(&PLAIN, &fields, b"abcGET /smuggled HTTP/1.1\r\nHost: reviews\r\n\r\n", true);
    let cut = link.outcome(stream).expect_err("it is refused");
    assert_eq!(cut, Cut::new(Code::Protocol, Cause::AmbiguousMessage));
    // One that says where it goes twice, or not at all, goes nowhere.
    for fields in [&[][..], &[("x-lighter-endpoint", &*endpoint); 2]] {
        let stream = link.open(&PLAIN, fields, b"", true);
        assert_eq!(link.outcome(stream).expect_err("it is refused").code, Code::Refused);
    }
    assert_eq!(app.connections(), 0);
}

/// A tunnel to `endpoint`.
fn tunnel_to(endpoint: &str) -> Opening<'_> {
    Opening { protocol: Protocol::Tunnel, method: b"", authority: endpoint.as_bytes(), path: b"", ..PLAIN }
}

fn nowhere_else() {
    let app = Upstream::answering("five stars");
    let secret = Upstream::answering("secret");
    for protocol in ["http", "tcp"] {
        let world = World::before(protocol, app.address);
        let before = app.connections();
        let mut link = Link::to(world.link, &world.root);
        // Another port of the host, the admin port, the link's own, the application's own, and one that nobody has.
        let elsewhere = [secret.address, world.reviews.admin, world.link, app.address, free_address()];
        for address in elsewhere {
            for ip in ["127.0.0.1", "0.0.0.0", "[::1]", "198.18.0.1"] {
                let meant = format!("{ip}:{}", address.port());
                let stream = link.open(&tunnel_to(&meant), &[], b"", false);
                let cut = Cut::new(Code::Refused, Cause::NotInRegistry);
                assert_eq!(link.outcome(stream), Err(cut), "{meant}");
                let stream = link.open(&PLAIN, &[("x-lighter-endpoint", &meant)], b"", true);
                assert_eq!(link.outcome(stream), Err(cut), "{meant}");
            }
        }
        // What is looked into is not carried past its reader, and the other way round.
        let meant = world.endpoint.to_string();
        let stream = link.open(&tunnel_to(&meant), &[], b"", false);
        let request = link.open(&PLAIN, &[("x-lighter-endpoint", &meant)], b"", true);
        let unsupported = Err(Cut::new(Code::Refused, Cause::Unsupported));
        let (as_tunnel, as_request) = (link.outcome(stream), link.outcome(request));
        match protocol {
            "http" => assert_eq!((as_tunnel, as_request), (unsupported, Ok(200))),
            _ => assert_eq!((as_tunnel, as_request), (Ok(200), unsupported)),
        }
        wait_until("one of them came", || app.connections() == before + 1);
        assert_eq!(secret.connections(), 0);
    }
}
