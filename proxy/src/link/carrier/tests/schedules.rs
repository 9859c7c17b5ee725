//! What moves the bytes, under schedules that are drawn: TCP and the wire take and give what they like and wake late and
//! in any order, wires are offered, proved, broken and left at any time. Who is not woken does not run.

mod wires;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::anchor::Anchor;
use super::super::outward::MOST_UNSENT;
use super::{is_full, verbs};
use crate::link::carrier::{Beneath, Cause, Counts, Event, Keys};
use crate::link::session::Side;
use crate::link::wire::Wire;

pub(super) use self::wires::wires;

/// All that one schedule shares: what is drawn, and who is to be woken.
pub(super) struct Script {
    rng: RefCell<Rng>,
    /// Nothing is drawn: wires give and take what they can.
    smooth: bool,
    wakes: RefCell<Vec<Waker>>,
    /// Wires lose what wakes the other side.
    mute: Cell<bool>,
}

/// One direction of TCP.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One side's end of TCP.
struct Tcp {
    script: Rc<Script>,
    inward: Rc<RefCell<Pipe>>,
    outward: Rc<RefCell<Pipe>>,
}

/// What lies between the two ends of a wire.
pub(super) trait Medium {
    /// Something may happen in it.
    fn step(&self) {}

    /// Whether nothing more happens in it by itself.
    fn is_still(&self) -> bool {
        true
    }

    /// Whether an end is gone, and the other may learn that only by what does not happen.
    fn hides_a_loss(&self) -> bool {
        false
    }

    /// It fails.
    fn fail(&self);
}

/// Both ends of a wire, and what lies between.
pub(super) type Laid = ([Box<dyn Wire>; 2], Rc<dyn Medium>);

/// One side, with what stands for TLS.
struct Party {
    beneath: Beneath,
    tcp: Tcp,
    side: usize,
    woken: Arc<Woken>,
    /// Records that are to be written, and what of the first has gone.
    records: VecDeque<Vec<u8>>,
    written: usize,
    received: Vec<u8>,
    ended: bool,
    finished: bool,
    failed: Option<io::Error>,
    left: bool,
    counts: Counts,
}

struct Woken(AtomicBool);

impl Script {
    /// One in which wires give and take what they can.
    pub(super) fn smooth() -> Self {
        Script { smooth: true, ..Script::drawn(Rng::with_seed(0)) }
    }

    fn drawn(rng: Rng) -> Self {
        Script { rng: RefCell::new(rng), smooth: false, wakes: RefCell::default(), mute: Cell::new(false) }
    }

    /// Wakes all who are to be woken.
    pub(super) fn wake_all(&self) {
        self.wakes.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn chance(&self, percent: u8) -> bool {
        self.rng.borrow_mut().u8(..100) < percent
    }

    pub(super) fn upto(&self, most: usize) -> usize {
        if self.smooth { most } else { self.rng.borrow_mut().usize(1..=most) }
    }

    /// Whether wires lose what wakes the other side.
    pub(super) fn is_mute(&self) -> bool {
        self.mute.get()
    }

    /// Wakes `waker`, at some time.
    pub(super) fn later(&self, waker: Option<Waker>) {
        self.wakes.borrow_mut().extend(waker);
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (script, mut pipe) = (&self.script, self.inward.borrow_mut());
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.bytes.is_empty() && pipe.ended {
            return Poll::Ready(Ok(()));
        }
        if pipe.bytes.is_empty() || script.chance(10) {
            if !pipe.bytes.is_empty() {
                script.later(Some(cx.waker().clone()));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = script.upto(pipe.bytes.len()).min(buf.remaining());
        buf.put_slice(&pipe.bytes.drain(..taken).collect::<Vec<u8>>());
        script.later(pipe.writer.take());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (script, mut pipe) = (&self.script, self.outward.borrow_mut());
        if pipe.broken || pipe.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let free = TCP_ROOM - pipe.bytes.len();
        if free == 0 || script.chance(10) {
            if free > 0 {
                script.later(Some(cx.waker().clone()));
            }
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = script.upto(bytes.len().min(free));
        pipe.bytes.extend(&bytes[..taken]);
        script.later(pipe.reader.take());
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outward.borrow_mut();
        pipe.ended = true;
        self.script.later(pipe.reader.take());
        Poll::Ready(Ok(()))
    }
}

impl Anchor for Tcp {
    fn unsent(&self) -> usize {
        // As if it held as much as a socket does: half of that is too much.
        self.outward.borrow().bytes.len() * 2 * MOST_UNSENT / TCP_ROOM
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Party {
    /// Closes the connection.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.counts = self.beneath.counts();
            // The wire goes with it.
            self.beneath = Beneath::new(Side::Opener, Bytes::new());
            let mut pipe = self.tcp.outward.borrow_mut();
            pipe.ended = true;
            self.tcp.script.later(pipe.reader.take());
        }
    }

    /// A turn, as a link's task takes one: all is read, then written, then ended.
    fn turn(&mut self, script: &Script) -> io::Result<()> {
        let waker = Waker::from(self.woken.clone());
        let cx = &mut Context::from_waker(&waker);
        while !self.ended {
            let mut bytes = [0; 64];
            let room = script.upto(bytes.len());
            let mut buf = ReadBuf::new(&mut bytes[..room]);
            if self.beneath.poll_read(&mut self.tcp, cx, &mut buf)?.is_pending() {
                break;
            }
            self.ended = buf.filled().is_empty();
            self.received.extend_from_slice(buf.filled());
        }
        while let Some(first) = self.records.front() {
            let next = self.records.get(1).map_or(&[][..], Vec::as_slice);
            let slices = [IoSlice::new(&first[self.written..]), IoSlice::new(next)];
            let Poll::Ready(written) = self.beneath.poll_write(&mut self.tcp, cx, &slices)? else { break };
            self.written += written;
            while let Some(first) = self.records.front()
                && self.written >= first.len()
            {
                self.written -= first.len();
                self.records.pop_front();
            }
        }
        let _ = self.beneath.poll_flush(&mut self.tcp, cx)?;
        if self.records.is_empty() && !self.finished {
            self.finished = self.beneath.poll_shutdown(&mut self.tcp, cx)?.is_ready();
        }
        Ok(())
    }
}

/// Records of TLS, and what they are in one.
fn records(rng: &mut Rng) -> (VecDeque<Vec<u8>>, Vec<u8>) {
    let records: VecDeque<Vec<u8>> = (0..rng.usize(1..80))
        .map(|_| {
            let body = rng.usize(0..90);
            let mut record = vec![23, 3, 3, 0, body as u8];
            // Many that look like the carrier's.
            record.extend((0..body).map(|_| if rng.bool() { 0x4C } else { rng.u8(..) }));
            record
        })
        .collect();
    let whole = records.iter().flatten().copied().collect();
    (records, whole)
}

/// What came of a schedule.
#[derive(Default)]
struct Outcome {
    counts: [Counts; 2],
    frozen: usize,
    closed: usize,
    lost: bool,
}

/// Plays the schedule that `seed` says over wires as they are laid, and checks that TLS sees nothing of it.
async fn play(seed: u64, lay: fn(&Rc<Script>, usize) -> Laid) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let script = Rc::new(Script::drawn(rng.fork()));
    let pipes: [Rc<RefCell<Pipe>>; 2] = Default::default();
    let mut wholes = Vec::new();
    let mut parties = [Side::Opener, Side::Acceptor].map(|of| {
        let side = usize::from(of == Side::Acceptor);
        let (records, whole) = records(&mut rng);
        wholes.push(whole);
        let mut beneath = Beneath::new(of, Bytes::new());
        let suite = TLS13_AES_128_GCM_SHA256.tls13();
        beneath.establish(Keys::new(suite.unwrap_or_else(|| unreachable!()), &[7; 32]));
        let (inward, outward) = (pipes[1 - side].clone(), pipes[side].clone());
        let tcp = Tcp { script: script.clone(), inward, outward };
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let (written, received) = (0, Vec::new());
        Party {
            beneath,
            tcp,
            side,
            woken,
            records,
            written,
            received,
            ended: false,
            finished: false,
            failed: None,
            left: false,
            counts: Counts::default(),
        }
    });
    // What may go wrong in this one.
    let (cuts, breaks, stalls) = (rng.u8(..100) < 10, rng.u8(..100) < 50, rng.u8(..100) < 10);
    let room = rng.usize(1..200);
    let mut proving: [Option<(u32, Box<dyn Wire>)>; 2] = [None, None];
    let mut medium: Option<Rc<dyn Medium>> = None;
    let (mut offered, mut agreed) = (None, 0);
    let (mut outcome, mut idle) = (Outcome::default(), Duration::ZERO);
    loop {
        match rng.u8(..100) {
            0..15 if offered.is_none() => {
                if let Some(number) = parties[0].beneath.next().filter(|number| *number <= 5) {
                    assert!(parties[0].beneath.open(number));
                    let ([near, far], between) = lay(&script, room);
                    medium = Some(between);
                    proving = [Some((number, near)), None];
                    offered = Some((number, Some(far)));
                    parties[0].woken.clone().wake();
                }
            }
            15..30 => {
                if let Some((number, end)) = &mut offered {
                    if let Some(end) = end.take()
                        && parties[1].beneath.open(*number)
                    {
                        proving[1] = Some((*number, end));
                        agreed = *number;
                    }
                    offered = None;
                    parties[1].woken.clone().wake();
                }
            }
            30..45 => {
                let side = rng.usize(..2);
                if let Some((number, _)) = &proving[side]
                    && *number == agreed
                    && let Some((number, end)) = proving[side].take()
                {
                    parties[side].beneath.switch(number, end);
                    parties[side].woken.clone().wake();
                }
            }
            45 if breaks => {
                let side = rng.usize(..2);
                parties[side].beneath.freeze(agreed, Cause::Policy);
                parties[side].woken.clone().wake();
            }
            46 if breaks => {
                if let Some(medium) = &medium {
                    medium.fail();
                }
            }
            47 if stalls => script.mute.set(true),
            48 if cuts => {
                outcome.lost = true;
                for pipe in &pipes {
                    let mut pipe = pipe.borrow_mut();
                    pipe.broken = true;
                    script.later(pipe.reader.take());
                    script.later(pipe.writer.take());
                }
            }
            49..75 => {
                let mut wakes = script.wakes.borrow_mut();
                if !wakes.is_empty() {
                    let which = rng.usize(..wakes.len());
                    let waker = wakes.swap_remove(which);
                    drop(wakes);
                    waker.wake();
                }
            }
            _ => {}
        }
        if let Some(medium) = &medium {
            medium.step();
        }
        let which = rng.usize(..2);
        let done = [0, 1].map(|side: usize| parties[side].left && parties[side].received == wholes[1 - side]);
        let party = &mut parties[which];
        let runs = party.failed.is_none() && !party.left && party.woken.0.swap(false, Ordering::Relaxed);
        if runs {
            let turn = tokio::task::coop::unconstrained(async { party.turn(&script) }).await;
            if let Err(error) = turn {
                // A peer that has all, and has given all, may be gone.
                let over = done[1 - which] && party.received == wholes[1 - which];
                assert!(outcome.lost || over, "seed {seed}: side {which} gave the link up: {error}");
                party.failed = Some(error);
            }
            while let Some(event) = party.beneath.event() {
                match event {
                    Event::Frozen(_, cause) => {
                        outcome.frozen += 1;
                        let hidden = medium.as_ref().is_some_and(|medium| medium.hides_a_loss());
                        assert!(
                            cause != Cause::Stall || stalls || hidden,
                            "seed {seed}: nobody told of room"
                        );
                    }
                    Event::Closed(_) => outcome.closed += 1,
                    _ => {}
                }
            }
            let sent = &wholes[1 - party.side];
            assert!(sent.starts_with(&party.received), "seed {seed}: side {which} got something else");
            assert!(
                !party.ended || outcome.lost || party.received == *sent,
                "seed {seed}: cut off, and looks whole"
            );
            idle = Duration::ZERO;
        }
        if party.finished && party.ended {
            party.leave();
        }
        if parties.iter().all(|party| party.failed.is_some() || party.left) {
            break;
        }
        let asleep =
            |party: &Party| party.failed.is_some() || party.left || !party.woken.0.load(Ordering::Relaxed);
        let still = medium.as_ref().is_none_or(|medium| medium.is_still());
        if still && script.wakes.borrow().is_empty() && parties.iter().all(asleep) {
            idle += STEP;
            assert!(idle < Duration::from_secs(40), "seed {seed}: nothing goes on");
            if idle > 2 * STEP {
                tokio::time::advance(STEP).await;
            }
        }
        if outcome.lost && parties.iter().any(|party| party.failed.is_some()) {
            break;
        }
    }
    for party in &parties {
        let sent = &wholes[1 - party.side];
        assert!(outcome.lost || party.received == *sent, "seed {seed}: something is missing");
    }
    outcome.counts = parties.map(|party| party.counts);
    outcome
}

/// Nobody who is woken at the end of a step takes himself for one that did not run.
const STEP: Duration = Duration::from_millis(100);

/// What TCP holds on its way.
const TCP_ROOM: usize = 300;

#[tokio::test(start_paused = true)]
async fn what_tls_reads_is_what_tls_wrote_under_any_schedule() {
    play_all(wires).await;
}

#[tokio::test(start_paused = true)]
async fn what_tls_reads_is_what_tls_wrote_whatever_the_device_does_and_when() {
    play_all(verbs::wires).await;
}

/// What the many found once, and few do not come to: a side that ends saw the wire fail as it waited, and said nothing of it.
const FOUND: [u64; 1] = [2287];

/// Plays many schedules over wires as they are laid.
async fn play_all(lay: fn(&Rc<Script>, usize) -> Laid) {
    let schedules = if is_full() { 100_000 } else { 2_000 };
    let (mut ring, mut replayed, mut frozen, mut closed, mut lost) = (0, 0, 0, 0, 0);
    for seed in (0..schedules).chain(FOUND) {
        let Outcome { counts, frozen: froze, closed: shut, lost: cut } = play(seed, lay).await;
        for counts in counts {
            ring += counts.ring_in;
            replayed += counts.replayed;
        }
        (frozen, closed, lost) = (frozen + froze, closed + shut, lost + usize::from(cut));
    }
    println!(
        "{schedules} schedules: {ring} bytes by wires, {replayed} replayed, {frozen} freezes, {closed} generations \
         closed, {lost} times TCP lost"
    );
    assert!(ring > 0 && replayed > 0 && frozen > 0 && closed > 0 && lost > 0, "the schedules try everything");
}
