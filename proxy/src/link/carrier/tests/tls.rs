//! The carrier beneath real TLS over a real TCP connection, while a wire comes and goes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fastrand::Rng;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::schedules::{Laid, Medium, Script, wires};
use super::verbs;
use crate::io::{Carrier, Io, Stream};
use crate::link::carrier::{Beneath, Cause, Event, Keys};
use crate::link::records::keys;
use crate::link::session::Side;
use crate::loopback;

/// One side, and what it is to send.
struct Party {
    io: Io,
    sends: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    ended: bool,
    finished: bool,
    closed: u32,
}

impl Party {
    fn new(io: Io, rng: &mut Rng) -> Self {
        let mut sends = vec![0; BULK];
        rng.fill(&mut sends);
        Party { io, sends, sent: 0, got: Vec::new(), ended: false, finished: false, closed: 0 }
    }

    fn beneath(&mut self) -> &mut Beneath {
        self.io.carrier().unwrap()
    }

    /// Reads and writes what may be, as a link's task does.
    fn poll(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut bytes = vec![0; 32 * 1024];
        while !self.ended {
            let mut buf = ReadBuf::new(&mut bytes);
            if Pin::new(&mut self.io).poll_read(cx, &mut buf)?.is_pending() {
                break;
            }
            self.ended = buf.filled().is_empty();
            self.got.extend_from_slice(buf.filled());
        }
        while self.sent < self.sends.len() {
            let next = &self.sends[self.sent..(self.sent + 16 * 1024).min(BULK)];
            let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, next)? else { break };
            self.sent += written;
        }
        let _ = Pin::new(&mut self.io).poll_flush(cx)?;
        if self.sent == self.sends.len() && !self.finished {
            self.finished = Pin::new(&mut self.io).poll_shutdown(cx)?.is_ready();
        }
        while let Some(event) = self.beneath().event() {
            self.closed += u32::from(matches!(event, Event::Closed(_)));
        }
        Ok(())
    }
}

/// What the acceptor's TLS is.
#[derive(Clone, Copy)]
enum Theirs {
    /// Rustls alone, as of any peer.
    Rustls,
    /// The record layer of a link.
    Records,
}

/// Both ends of a link whose handshake is done.
async fn linked(theirs: Theirs) -> (Io, Io) {
    let own = rcgen::generate_simple_self_signed(vec!["link.test".into()]).unwrap();
    let chain = vec![own.cert.der().clone()];
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let provider = keys::provider();
    let versions = &[&rustls::version::TLS13];
    let client =
        ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let (one, other) = loopback::pair().await;
    for tcp in [&one, &other] {
        // What TCP holds goes over TCP.
        let socket = socket2::SockRef::from(tcp);
        socket.set_send_buffer_size(ROOM).unwrap();
        socket.set_recv_buffer_size(ROOM).unwrap();
    }
    let name = ServerName::try_from("link.test").unwrap();
    let connecting =
        TlsConnector::from(Arc::new(client)).connect(name, Carrier::of_link(one, Bytes::new(), Side::Opener));
    let accepting =
        TlsAcceptor::from(Arc::new(server)).accept(Carrier::of_link(other, Bytes::new(), Side::Acceptor));
    let ((opener, opener_ways), (acceptor, acceptor_ways)) =
        tokio::join!(keys::catch(connecting), keys::catch(accepting));
    let (mut opener, mut acceptor) = (opener.unwrap(), acceptor.unwrap());
    let (carrier, tls) = opener.get_mut();
    carrier.establish(Keys::of(tls).unwrap());
    let (carrier, tls) = acceptor.get_mut();
    carrier.establish(Keys::of(tls).unwrap());
    let acceptor = match theirs {
        Theirs::Rustls => Io::secure(acceptor),
        Theirs::Records => Io::linked(acceptor, acceptor_ways),
    };
    let opener = Io::linked(opener, opener_ways);
    assert!(matches!(opener.stream, Stream::Records(_)));
    (opener, acceptor)
}

/// Each side sends so much.
const BULK: usize = 8 * 1024 * 1024;

/// The wire, smaller than what TLS and TCP hold of it.
const ROOM: usize = 64 * 1024;

/// Bytes over the wire until it is left.
const TURN: usize = 512 * 1024;

#[tokio::test]
async fn tls_sees_nothing_of_a_wire_that_comes_and_goes_under_bulk_both_ways() {
    bulk_both_ways(Theirs::Records, wires).await;
}

#[tokio::test]
async fn tls_sees_nothing_of_devices_that_come_and_go_under_bulk_both_ways() {
    bulk_both_ways(Theirs::Rustls, verbs::wires).await;
}

async fn bulk_both_ways(theirs: Theirs, lay: fn(&Rc<Script>, usize) -> Laid) {
    let mut rng = Rng::with_seed(4);
    let (opener, acceptor) = linked(theirs).await;
    let mut parties = [opener, acceptor].map(|io| Party::new(io, &mut rng));
    let script = Rc::new(Script::smooth());
    let mut turns = 0;
    let mut medium: Option<Rc<dyn Medium>> = None;
    poll_fn(|cx| {
        for party in &mut parties {
            party.poll(cx).unwrap();
        }
        while let Some(medium) = medium.as_ref().filter(|medium| !medium.is_still()) {
            medium.step();
        }
        script.wake_all();
        let [one, other] = &mut parties;
        let ring = one.beneath().counts().ring_in.min(other.beneath().counts().ring_in) as usize;
        match (one.beneath().next(), other.beneath().next()) {
            (Some(number), Some(same)) if number == same => {
                let ([wire, its_end], between) = lay(&script, ROOM);
                medium = Some(between);
                assert!(one.beneath().open(number) && other.beneath().open(number));
                assert!(one.beneath().switch(number, wire) && other.beneath().switch(number, its_end));
                cx.waker().wake_by_ref();
            }
            _ if ring > (turns + 1) * TURN => {
                turns += 1;
                let number = other.closed + 1;
                other.beneath().freeze(number, Cause::Policy);
                cx.waker().wake_by_ref();
            }
            _ => {}
        }
        if parties.iter().all(|party| party.ended && party.finished) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    let [one, other] = &mut parties;
    assert!(one.got == other.sends && other.got == one.sends, "what was sent is what came");
    assert!(turns >= 2 && one.closed >= 2 && other.closed >= 2, "the wire came and went");
    for party in &mut parties {
        let counts = party.beneath().counts();
        let ring = counts.ring_in.min(counts.ring_out) as usize;
        assert!(ring > 2 * TURN && counts.tcp_out > 0, "both ways carried it: {counts:?}");
    }
}
