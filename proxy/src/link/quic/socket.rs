//! The UDP sockets of the link port: one a worker, among which the kernel deals out datagrams by their addresses.
//!
//! A connection stays with its worker when its peer's address changes, while the kernel may lead what comes from the new
//! address to another one: such strays are handed on by what their connection ID says.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::sync::mpsc;

use super::id::{self, Key};
use crate::telemetry;

/// A datagram that came to another worker than the one whose connection it is of.
#[derive(Debug)]
struct Stray {
    from: SocketAddr,
    to: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    bytes: Box<[u8]>,
}

/// Where workers hand each other strays.
#[derive(Debug)]
pub(super) struct Mail {
    boxes: Vec<mpsc::Sender<Stray>>,
    inboxes: Mutex<Vec<Option<mpsc::Receiver<Stray>>>>,
}

impl Mail {
    /// Among so many workers.
    pub(super) fn among(workers: usize) -> Arc<Self> {
        let (boxes, inboxes) =
            (0..workers).map(|_| mpsc::channel(WAITING)).map(|(to, from)| (to, Some(from))).unzip();
        Arc::new(Mail { boxes, inboxes: Mutex::new(inboxes) })
    }
}

/// One worker's socket.
#[derive(Debug)]
pub(super) struct Socket {
    socket: Arc<dyn AsyncUdpSocket>,
    worker: usize,
    key: Arc<Key>,
    mail: Arc<Mail>,
    /// Asked by the one task that receives only: nobody waits for this lock.
    inbox: Mutex<Option<mpsc::Receiver<Stray>>>,
}

impl Socket {
    /// The socket of `worker`.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        worker: usize,
        key: Arc<Key>,
        mail: Arc<Mail>,
    ) -> io::Result<Self> {
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        let mut inboxes = mail.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = Mutex::new(inboxes.get_mut(worker).and_then(Option::take));
        drop(inboxes);
        Ok(Socket { socket, worker, key, mail, inbox })
    }

    /// What others handed on.
    fn poll_strays(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(inbox) = &mut *inbox else { return 0 };
        let mut taken = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Poll::Ready(Some(Stray { from, to, ecn, bytes })) = inbox.poll_recv(cx) else { break };
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            meta.addr = from;
            meta.len = len;
            meta.stride = len;
            meta.ecn = ecn;
            meta.dst_ip = to;
            taken += 1;
        }
        taken
    }

    /// Hands on what is another worker's of the datagrams in `buf`, and moves the others together.
    fn sort(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let (mut at, mut kept) = (0, 0);
        while at < meta.len {
            let end = meta.len.min(at + stride);
            match self.owner(&buf[at..end]) {
                Some(owner) => self.hand_on(owner, &buf[at..end], meta),
                None => {
                    if kept < at {
                        buf.copy_within(at..end, kept);
                    }
                    kept += end - at;
                }
            }
            at = end;
        }
        meta.len = kept;
    }

    /// Whose `datagram` is, if it is another worker's.
    fn owner(&self, datagram: &[u8]) -> Option<usize> {
        let owner = usize::from(self.key.open(id::destination(datagram)?)?);
        (owner != self.worker && owner < self.mail.boxes.len()).then_some(owner)
    }

    fn hand_on(&self, owner: usize, datagram: &[u8], meta: &RecvMeta) {
        let stray = Stray { from: meta.addr, to: meta.dst_ip, ecn: meta.ecn, bytes: datagram.into() };
        // What finds no room is lost, as any datagram can be.
        let handed_on = self.mail.boxes[owner].try_send(stray).is_ok();
        telemetry::quic().stray(handed_on);
    }
}

impl Drop for Socket {
    /// Whoever comes after it finds the strays where it did.
    fn drop(&mut self) {
        let inbox = self.inbox.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let mut inboxes = self.mail.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = inboxes.get_mut(self.worker)
            && inbox.is_some()
        {
            *place = inbox;
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let strays = self.poll_strays(cx, bufs, meta);
        if strays > 0 {
            return Poll::Ready(Ok(strays));
        }
        let received = self.socket.poll_recv(cx, bufs, meta);
        if let (Poll::Ready(Ok(count)), true) = (&received, self.mail.boxes.len() > 1) {
            for (buf, meta) in bufs.iter_mut().zip(meta).take(*count) {
                self.sort(buf, meta);
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// Strays that wait for one worker.
const WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use quinn::ConnectionIdGenerator;

    use super::super::id::Ids;
    use super::*;

    fn datagram(key: &Arc<Key>, worker: u8, length: usize) -> Vec<u8> {
        let id = Ids { key: key.clone(), worker }.generate_cid();
        let mut datagram = vec![0x40];
        datagram.extend_from_slice(&id);
        datagram.resize(length, worker);
        datagram
    }

    #[tokio::test]
    async fn strays_come_to_their_worker_and_the_others_stay_in_order() {
        let (key, mail) = (Arc::new(Key::default()), Mail::among(2));
        let sockets = [0, 1].map(|worker| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            Socket::new(socket, worker, key.clone(), mail.clone()).unwrap()
        });
        // Four datagrams that the kernel joined: the last is shorter than the others.
        let came =
            [(0, 50), (1, 50), (0, 50), (1, 20)].map(|(worker, length)| datagram(&key, worker, length));
        let mut buf = came.concat();
        let mut meta = RecvMeta { len: buf.len(), stride: 50, ..RecvMeta::default() };
        sockets[0].sort(&mut buf, &mut meta);
        assert_eq!(buf[..meta.len], [&came[0][..], &came[2]].concat());
        let mut room = [[0; 100]; 3];
        let mut bufs: Vec<_> = room.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let mut metas = [RecvMeta::default(); 3];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(sockets[1].poll_strays(&mut cx, &mut bufs, &mut metas), 2);
        assert_eq!((&bufs[0][..50], &bufs[1][..20]), (&came[1][..], &came[3][..]));
        assert_eq!(sockets[0].poll_strays(&mut cx, &mut bufs, &mut metas), 0);
        // They come to whoever takes its place.
        sockets[0].sort(&mut came[1].clone(), &mut RecvMeta { len: 50, stride: 50, ..RecvMeta::default() });
        let [_, second] = sockets;
        drop(second);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let second = Socket::new(socket, 1, key, mail).unwrap();
        assert_eq!(second.poll_strays(&mut cx, &mut bufs, &mut metas), 1);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_come_round_costs_no_memory() {
        let (key, mail) = (Arc::new(Key::default()), Mail::among(2));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = Socket::new(socket, 0, key.clone(), mail.clone()).unwrap();
        for _ in 0..2 * WAITING {
            let mut buf = datagram(&key, 1, 100);
            let mut meta = RecvMeta { len: 100, stride: 100, ..RecvMeta::default() };
            socket.sort(&mut buf, &mut meta);
            assert_eq!(meta.len, 0);
        }
        assert_eq!(mail.boxes[1].capacity(), 0);
    }
}
