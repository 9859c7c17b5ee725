//! The task of a link over QUIC: moves frames between its session and the streams of a QUIC connection.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::hash::BuildHasherDefault;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::{AcceptBi, Connection, ConnectionError, OpenBi, RecvStream, SendStream};

use super::beside::OverQuic;
use super::choice::Sent;
use super::lane::{Lane, Woken};
use super::pulse::{Health, Pulse};
use super::{STREAM_WINDOW, code};
use crate::drain::{Phase, Ticket};
use crate::link::connection::{Link, Takes};
use crate::link::frame::{Fault, MAX_STREAM};
use crate::link::session::{IdHasher, Limits, Side, Slices, Work};
use crate::telemetry::{self, LinkWire};

/// Moves frames between the session of `link` and `connection` until the link ends, as [`Link::drive`] does for one over
/// TCP.
pub(crate) async fn drive(
    link: Rc<Link>,
    connection: Connection,
    ticket: Option<Ticket>,
    rest: Option<Duration>,
    mut takes: impl Takes,
) {
    let Some(quic) = &link.quic else { return };
    let mut drive = Drive::new(&link, quic, &connection);
    let mut told = ticket.as_ref().map_or(Phase::Serving, Ticket::phase).min(Phase::Lame);
    let mut timer = Box::pin(tokio::time::sleep(Duration::from_secs(3600)));
    let mut used = Instant::now();
    let mut accepting = pin!(connection.accept_bi());
    let mut opening = pin!(connection.open_bi());
    let mut closed = pin!(connection.closed());
    let fault = poll_fn(|cx| {
        link.remember(cx);
        drive.woken.tell(cx.waker());
        takes.poll(cx);
        if let Some(ticket) = &ticket {
            ticket.watch(cx.waker());
            link.follow(ticket, &mut told);
        }
        let over = closed.as_mut().poll(cx);
        let now = Instant::now();
        let came = drive.take_in(now, accepting.as_mut(), over.is_ready(), cx);
        link.dispatch_all(&mut takes);
        if let Err(fault) = came.and_then(|()| drive.send_out(now, opening.as_mut(), cx)) {
            return Poll::Ready(fault);
        }
        link.dispatch_all(&mut takes);
        if let Poll::Ready(error) = over {
            return Poll::Ready(fault_of(&error, &link));
        }
        drive.tell_that_it_stands();
        if let Some(fault) = drive.tick(now) {
            return Poll::Ready(fault);
        }
        if told == Phase::Closed || drive.is_left(now) {
            return Poll::Ready(Fault::Closed);
        }
        if link.open_streams() > 0 {
            used = now;
        }
        let rested = rest.map(|rest| used + rest);
        link.poll_time(timer.as_mut(), rested, drive.is_full, cx)
    })
    .await;
    link.session.borrow_mut().close(fault);
    let lost = link.dispatch_all(&mut takes);
    link.note(fault, lost, connection.remote_address());
    if fault == Fault::Closed && link.side() == Side::Opener {
        drive.farewell().await;
    }
    drive.count();
    connection.close(code::of_fault(fault), fault.label().as_bytes());
}

struct Drive<'l> {
    link: &'l Rc<Link>,
    quic: &'l OverQuic,
    connection: &'l Connection,
    /// The first stream: frames of the link itself.
    control: Option<(SendStream, RecvStream)>,
    lanes: HashMap<u32, Lane, BuildHasherDefault<IdHasher>>,
    woken: Arc<Woken>,
    /// Streams that were opened here and that QUIC has none for yet, in order.
    unopened: VecDeque<u32>,
    /// The number of the next stream that QUIC opens, or opened.
    next: u32,
    /// The last stream that was given a lane here.
    made: u32,
    /// Lanes that are to have their turn.
    due: Vec<u32>,
    /// How many lanes are held back,
    held: usize,
    /// and how many could not get rid of anything when that was last looked at.
    full: usize,
    /// The control stream takes no more at the moment.
    is_full: bool,
    counted: Counted,
    /// Where the other side was when that was counted.
    peer: SocketAddr,
    pulse: Pulse,
    /// When it is counted again, if something happened since.
    counts: Instant,
    /// Since when nothing was left to do on a link that is left.
    done: Option<Instant>,
}

/// What was counted of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    sent: (u64, u64),
    received: (u64, u64),
    lost: u64,
}

impl<'l> Drive<'l> {
    fn new(link: &'l Rc<Link>, quic: &'l OverQuic, connection: &'l Connection) -> Self {
        if link.side() == Side::Opener {
            // The answer says that the other side takes streams.
            link.session.borrow_mut().send_ping(Instant::now());
        }
        Drive {
            link,
            quic,
            connection,
            control: None,
            lanes: HashMap::default(),
            woken: Arc::default(),
            unopened: VecDeque::new(),
            next: 0,
            made: 0,
            due: Vec::new(),
            held: 0,
            full: 0,
            is_full: false,
            counted: Counted::default(),
            peer: connection.remote_address(),
            pulse: Pulse::default(),
            counts: Instant::now(),
            done: None,
        }
    }

    /// Takes in what came. `all`: nothing more will.
    fn take_in(
        &mut self,
        now: Instant,
        mut accepting: Pin<&mut AcceptBi<'l>>,
        all: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        if self.link.side() == Side::Acceptor {
            while let Poll::Ready(Ok(streams)) = accepting.as_mut().poll(cx) {
                accepting.set(self.connection.accept_bi());
                self.accepted(streams)?;
            }
        }
        self.read_control(now, cx)?;
        let mut woken = Vec::new();
        self.woken.take(&mut woken);
        woken.append(&mut self.due);
        if all {
            woken.extend(self.lanes.keys());
        }
        woken.into_iter().try_for_each(|id| self.turn(id, now, all))
    }

    fn accepted(&mut self, streams: (SendStream, RecvStream)) -> Result<(), Fault> {
        let id = number(&mut self.next)?;
        if id == 0 {
            self.control = Some(streams);
        } else {
            let mut lane = Lane::unopened(Side::Acceptor, id, &self.woken);
            lane.opened(streams);
            self.lanes.insert(id, lane);
            self.is_due(id);
        }
        Ok(())
    }

    fn read_control(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<(), Fault> {
        let Some((_, recv)) = &mut self.control else { return Ok(()) };
        loop {
            match pin!(recv.read_chunk(CONTROL, true)).poll(cx) {
                Poll::Ready(Ok(Some(chunk))) => self.link.session.borrow_mut().recv(now, chunk.bytes)?,
                // Without it there is no link; one that ends says so by the end of its connection.
                Poll::Ready(Ok(None)) if self.link.session.borrow().is_leaving() => return Ok(()),
                Poll::Ready(Ok(None)) => return Err(Fault::Lost),
                Poll::Ready(Err(_)) | Poll::Pending => return Ok(()),
            }
        }
    }

    /// Sends what is to go out.
    fn send_out(
        &mut self,
        now: Instant,
        mut opening: Pin<&mut OpenBi<'l>>,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        loop {
            self.distribute();
            if self.link.side() == Side::Opener {
                self.open(opening.as_mut(), cx)?;
            }
            if self.due.is_empty() {
                break;
            }
            for id in std::mem::take(&mut self.due) {
                self.turn(id, now, false)?;
            }
        }
        // A stream that is opened now is to get on.
        let crowded = self.held.max(self.full) >= MOST_HELD
            || !self.unopened.is_empty()
            || self.lanes.len() >= MOST_LANES;
        self.quic.crowded.set(crowded);
        self.write_control(cx);
        Ok(())
    }

    /// Gives each lane what the session has for it.
    fn distribute(&mut self) {
        loop {
            let mut session = self.link.session.borrow_mut();
            let Some(work) = session.work() else {
                let Some(id) = session.with_body() else { return };
                drop(session);
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.has_body();
                    self.is_due(id);
                }
                continue;
            };
            drop(session);
            let id = match work {
                Work::Frame { stream, bytes, ends } => {
                    match self.lane(stream) {
                        Some(lane) => lane.frame(bytes, ends),
                        None => self.link.session.borrow_mut().lane_took(bytes.len()),
                    }
                    stream
                }
                Work::Reset(stream, cut) => {
                    if let Some(lane) = self.lanes.get_mut(&stream) {
                        lane.give_up(cut);
                    }
                    stream
                }
                Work::Read(stream) => stream,
            };
            self.is_due(id);
        }
    }

    /// The lane of a stream. One that was opened here just now gets one.
    fn lane(&mut self, id: u32) -> Option<&mut Lane> {
        // Numbers are counted.
        if self.link.side() == Side::Opener && id > self.made {
            self.made = id;
            self.lanes.insert(id, Lane::unopened(Side::Opener, id, &self.woken));
            self.unopened.push_back(id);
        }
        self.lanes.get_mut(&id)
    }

    /// Opens the control stream, and one for each stream of the session, in order.
    fn open(&mut self, mut opening: Pin<&mut OpenBi<'l>>, cx: &mut Context<'_>) -> Result<(), Fault> {
        while self.next == 0 || !self.unopened.is_empty() {
            let Poll::Ready(Ok(streams)) = opening.as_mut().poll(cx) else { return Ok(()) };
            opening.set(self.connection.open_bi());
            if self.next == 0 {
                self.control = Some(streams);
            } else if let Some(id) = self.unopened.pop_front() {
                debug_assert_eq!((u64::from(id), id), (streams.0.id().index(), self.next));
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.opened(streams);
                    self.is_due(id);
                }
            }
            self.next += 1;
        }
        Ok(())
    }

    /// A lane is to have its turn.
    fn is_due(&mut self, id: u32) {
        if let Some(lane) = self.lanes.get_mut(&id)
            && !std::mem::replace(&mut lane.is_due, true)
        {
            self.due.push(id);
        }
    }

    fn turn(&mut self, id: u32, now: Instant, all: bool) -> Result<(), Fault> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Ok(()) };
        lane.is_due = false;
        self.held -= usize::from(lane.is_held);
        lane.turn(&self.link.session, now, all)?;
        self.held += usize::from(lane.is_held);
        if lane.is_over() {
            self.link.session.borrow_mut().lane_over(&lane.inbox);
            self.lanes.remove(&id);
        }
        Ok(())
    }

    fn write_control(&mut self, cx: &mut Context<'_>) {
        // Until there is one, it is waited for.
        self.is_full = true;
        let Some((send, _)) = &mut self.control else { return };
        let mut session = self.link.session.borrow_mut();
        loop {
            let outbox = session.transmit();
            if outbox.is_empty() {
                self.is_full = false;
                return;
            }
            let mut slices = Slices::new();
            outbox.slices(&mut slices);
            let Some(first) = slices.first() else { return };
            match Pin::new(&mut *send).poll_write(cx, first) {
                Poll::Ready(Ok(written)) => {
                    drop(slices);
                    outbox.advance(written);
                }
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    fn tell_that_it_stands(&self) {
        if let Some(stands) = self.quic.stands.take() {
            match self.link.session.borrow().round_trip() {
                Some(_) => drop(stands.send(())),
                None => self.quic.stands.set(Some(stands)),
            }
        }
    }

    /// Counts what the connection carried, and looks whether anything comes back.
    fn tick(&mut self, now: Instant) -> Option<Fault> {
        let streams = self.link.open_streams();
        if self.quic.suspected.take() {
            let _ = self.count_at(now);
            self.pulse.suspect(now);
            self.counts = now;
        }
        if now >= self.counts {
            let before = self.counted;
            let health = self.count_at(now);
            let was_stalled = self.quic.stalled.replace(health != Health::Well);
            if health != Health::Well && !was_stalled {
                let peer = self.connection.remote_address();
                tracing::warn!(%peer, streams, "nothing comes back over QUIC: new requests go elsewhere");
            }
            if health == Health::Gone && (streams > 0 || self.pulse.suspected) {
                return Some(if streams > 0 { Fault::Silent } else { Fault::Lost });
            }
            self.full = self.lanes.values().filter(|lane| lane.is_full(now)).count();
            self.counts = now + if streams > 0 { BUSY } else { SOON };
            let is_quiet = streams == 0 && self.full == 0 && before == self.counted && health == Health::Well;
            self.quic.tick.set((!is_quiet).then_some(self.counts));
        } else {
            self.quic.tick.set(Some(self.counts));
        }
        None
    }

    fn count(&mut self) {
        let _ = self.count_at(Instant::now());
    }

    fn count_at(&mut self, now: Instant) -> Health {
        let stats = self.connection.stats();
        let counted = Counted {
            sent: (stats.udp_tx.bytes, stats.udp_tx.datagrams),
            received: (stats.udp_rx.bytes, stats.udp_rx.datagrams),
            // Those too that were given up and arrived all the same.
            lost: stats.path.lost_packets.max(self.counted.lost),
        };
        let before = std::mem::replace(&mut self.counted, counted);
        let metrics = telemetry::links();
        metrics.sent(LinkWire::Quic, counted.sent.0 - before.sent.0);
        metrics.received(LinkWire::Quic, counted.received.0 - before.received.0);
        telemetry::quic().carried(
            counted.sent.1 - before.sent.1,
            counted.received.1 - before.received.1,
            counted.lost - before.lost,
        );
        let peer = self.connection.remote_address();
        if std::mem::replace(&mut self.peer, peer) != peer {
            telemetry::quic().moved();
        }
        self.quic.sent.set(Sent { packets: stats.path.sent_packets, lost: stats.path.lost_packets });
        self.link.carried_over_quic(counted.sent.0, counted.received.0);
        if counted.received.1 > before.received.1 {
            self.link.session.borrow_mut().heard_on_lanes(now);
        }
        self.pulse.feel(now, counted.sent.1, counted.received.1)
    }

    /// Whether all is done on a link that one of the sides has left. Whoever opened it closes it, when all that it was
    /// answered has arrived; the other side cannot know that.
    fn is_left(&mut self, now: Instant) -> bool {
        let is_done = self.link.is_left() && self.lanes.is_empty() && self.unopened.is_empty();
        if !is_done || self.link.side() == Side::Opener {
            self.done = None;
            return is_done;
        }
        let until = *self.done.get_or_insert(now) + UNCLOSED;
        self.quic.tick.set(Some(until.min(self.quic.tick.get().unwrap_or(until))));
        now >= until
    }

    /// Waits until the other side has all that it was told.
    async fn farewell(&mut self) {
        if let Some((mut send, _)) = self.control.take() {
            let _ = send.finish();
            let _ = tokio::time::timeout(FAREWELL, send.stopped()).await;
        }
    }
}

/// The number of the stream that was accepted now.
fn number(next: &mut u32) -> Result<u32, Fault> {
    let id = *next;
    if id > MAX_STREAM {
        return Err(Fault::TooManyStreams);
    }
    *next += 1;
    Ok(id)
}

/// What the end of a connection is to its link.
fn fault_of(error: &ConnectionError, link: &Link) -> Fault {
    match error {
        ConnectionError::LocallyClosed => Fault::Closed,
        ConnectionError::TimedOut if link.open_streams() > 0 => Fault::Silent,
        _ => Fault::Lost,
    }
}

/// From so many lanes on that are held back, new streams go by another link: what lies on them unread may be half of what
/// QUIC lets all have together.
const MOST_HELD: usize = (Limits::SESSION_WINDOW / STREAM_WINDOW / 2) as usize;

/// So many lanes are kept at most on the side that opens them: the other side may end all that it sends, and never say so
/// to QUIC. Those of streams that are over are few otherwise.
const MOST_LANES: usize = 2000;

/// Most bytes of control frames that one read gives.
const CONTROL: usize = 16 * 1024;

/// How often a link with streams is counted, and how soon one after its last.
const BUSY: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_millis(50);

/// How long whoever opened a link may take to close it when all is done.
const UNCLOSED: Duration = Duration::from_secs(5);

/// Longest wait for the other side to have all.
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stream_of_a_link_is_taken_like_any_other() {
        let mut next = MAX_STREAM - 1;
        assert_eq!(number(&mut next), Ok(MAX_STREAM - 1));
        assert_eq!(number(&mut next), Ok(MAX_STREAM));
        assert_eq!(number(&mut next), Err(Fault::TooManyStreams));
    }
}
