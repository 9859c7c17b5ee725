//! A link whose socket is blocked, in virtual time.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::super::anchor::Anchor;
use super::super::outward::MOST_UNSENT;
use super::schedules::{Script, wires};
use crate::link::carrier::{Beneath, Event, Keys, Out, RECORD_BYTES};
use crate::link::session::Side;

/// TCP that takes everything and holds `unsent` of it.
#[derive(Default)]
struct Tcp {
    written: Vec<u8>,
    unsent: usize,
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Anchor for Tcp {
    fn unsent(&self) -> usize {
        self.unsent
    }
}

/// Two records of TLS.
const RECORDS: [u8; 12] = [23, 3, 3, 0, 1, 9, 23, 3, 3, 0, 1, 9];

/// Writes within `limit`, or does not.
async fn write(beneath: &mut Beneath, tcp: &mut Tcp, limit: Duration) -> Option<usize> {
    let writing = poll_fn(|cx| beneath.poll_write(tcp, cx, &[IoSlice::new(&RECORDS)]));
    timeout(limit, writing).await.ok().map(|written| written.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_link_with_a_blocked_socket_goes_over_once_that_has_drained() {
    let mut beneath = Beneath::new(Side::Opener, Bytes::new());
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    beneath.establish(Keys::new(suite, &[7; 32]));
    let mut tcp = Tcp { unsent: 8 * MOST_UNSENT, ..Tcp::default() };
    let script = Rc::new(Script::smooth());
    let ([wire, _peer], _) = wires(&script, 1024);
    assert!(beneath.open(1) && beneath.switch(1, wire));
    assert_eq!(write(&mut beneath, &mut tcp, Duration::from_secs(2)).await, None, "nothing is added to it");
    assert_eq!((tcp.written.len(), beneath.event(), beneath.ways().0), (0, None, Out::Tcp));
    tcp.unsent = MOST_UNSENT;
    let soon = Duration::from_millis(2);
    assert_eq!(write(&mut beneath, &mut tcp, soon).await, Some(RECORDS.len()), "nobody is woken but by time");
    assert_eq!((beneath.event(), beneath.ways().0), (Some(Event::SwitchedOut(1)), Out::Ring));
    assert_eq!((tcp.written.len(), beneath.counts().ring_out), (RECORD_BYTES, RECORDS.len() as u64));
}
