use std::future::poll_fn;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::memory::Shared;
use super::wire::ring_bell;
use super::*;
use crate::link::wire::ring::{BYTES, Memory, ROOM, Side, Word};
use crate::link::wire::{Wire, WireFault};

const RING: u32 = LEAST_RING_BYTES;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A door that is served, in a directory of its own.
fn door() -> (TempDir, Arc<Door>) {
    let directory = TempDir::new().unwrap();
    let door = Door::open(Some(directory.path())).unwrap();
    tokio::spawn(door.clone().serve());
    (directory, door)
}

/// The tokens of the two sides of one wire.
fn tokens(seed: u8) -> (Tokens, Tokens) {
    let (one, other) = ([seed; 32], [!seed; 32]);
    (Tokens { ours: one, theirs: other }, Tokens { ours: other, theirs: one })
}

async fn pair(ring_bytes: u32) -> (ShmWire, ShmWire) {
    // Beneath valgrind the first may take longer than any two sidecars.
    for _ in 0..10 {
        let (_directory, door) = door();
        let (maker, taker) = tokens(1);
        let expected = door.expect(&maker, ring_bytes);
        match tokio::join!(expected, door.attach(door.name(), &taker, ring_bytes)) {
            (Ok(made), Ok(taken)) => return (made, taken),
            (Err(AttachFault::TimedOut), _) | (_, Err(AttachFault::TimedOut)) => {}
            faults => panic!("{faults:?}"),
        }
    }
    panic!("the two ends do not meet in time");
}

async fn changed(wire: &mut ShmWire) -> Result<(), WireFault> {
    poll_fn(|cx| wire.poll_changed(cx)).await
}

fn poll(wire: &mut ShmWire) -> Poll<Result<(), WireFault>> {
    wire.poll_changed(&mut Context::from_waker(Waker::noop()))
}

fn byte(at: u64, seed: u64) -> u8 {
    (at * 31 + at / 253 + seed) as u8
}

/// Sends `total` bytes and takes as many at the same time, in steps of all sizes. Ends when the peer has consumed all.
async fn exchange(wire: &mut ShmWire, total: u64, own: u64, peers: u64) {
    let (mut sent, mut got) = (0, 0);
    let mut random = fastrand::Rng::with_seed(own);
    let mut room = vec![0; 10_000];
    wire.await_consumed();
    while sent < total || got < total || wire.consumed().unwrap() < total {
        let step = random.u64(1..9000).min(total - sent);
        let bytes: Vec<u8> = (sent..sent + step).map(|at| byte(at, own)).collect();
        let wrote = wire.write(&bytes).unwrap() as u64;
        sent += wrote;
        let upto = random.usize(1..room.len());
        let read = wire.read(&mut room[..upto]).unwrap();
        assert!((got..).zip(&room[..read]).all(|(at, there)| *there == byte(at, peers)), "after {got}");
        got += read as u64;
        wire.consume(got);
        if wrote < step.max(1) && read < upto && wire.consumed().unwrap() < total {
            match changed(wire).await {
                Ok(()) => {}
                Err(WireFault::Gone) if sent == total && got == total => return,
                Err(fault) => panic!("{fault} after {sent} and {got} bytes"),
            }
        }
    }
}

#[test]
fn bytes_go_both_ways_at_once_between_two_workers() {
    for ring_bytes in [RING, 64 * 1024] {
        let directory = TempDir::new().unwrap();
        let here = runtime();
        let door = here.block_on(async { Door::open(Some(directory.path())).unwrap() });
        let (maker, taker) = tokens(1);
        let expected = door.expect(&maker, ring_bytes);
        let guest = door.clone();
        let other = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut wire = guest.attach(guest.name(), &taker, ring_bytes).await.unwrap();
                exchange(&mut wire, 3_000_000, 2, 1).await;
            });
        });
        here.block_on(async {
            tokio::spawn(door.clone().serve());
            let mut wire = expected.await.unwrap();
            exchange(&mut wire, 3_000_000, 1, 2).await;
        });
        other.join().unwrap();
    }
}

/// One message at a time, each an answer to the one before: a wake that is lost is never made up for by the next message.
/// Either side rests before some, or not at all, so that the other sleeps, is about to, or does not.
async fn volley(wire: &mut ShmWire, messages: u32, begins: bool, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut room, mut got) = ([0; 8], 0);
    for at in 0..messages {
        if at > 0 || !begins {
            while wire.read(&mut room).unwrap() == 0 {
                let changed = tokio::time::timeout(Duration::from_secs(30), changed(wire)).await;
                changed.expect("the other side has answered by now").unwrap();
            }
            got += 1;
            wire.consume(got);
        }
        match random.u32(..8) {
            0 => tokio::time::sleep(Duration::from_micros(random.u64(..2000))).await,
            1..4 => (0..random.u32(..3000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
        assert_eq!(wire.write(b"."), Ok(1));
    }
}

#[test]
fn no_message_waits_for_the_next_one() {
    let messages = if std::env::var_os("LIGHTER_FULL").is_some() { 200_000 } else { 2_000 };
    let directory = TempDir::new().unwrap();
    let here = runtime();
    let door = here.block_on(async { Door::open(Some(directory.path())).unwrap() });
    let (maker, taker) = tokens(1);
    let (expected, guest) = (door.expect(&maker, RING), door.clone());
    let other = std::thread::spawn(move || {
        runtime().block_on(async {
            let mut wire = guest.attach(guest.name(), &taker, RING).await.unwrap();
            volley(&mut wire, messages, false, 2).await;
            // The last one is read before this side ends.
            let _ = changed(&mut wire).await;
        });
    });
    here.block_on(async {
        tokio::spawn(door.clone().serve());
        let mut wire = expected.await.unwrap();
        volley(&mut wire, messages, true, 1).await;
    });
    other.join().unwrap();
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn an_idle_wire_rests_until_something_comes() {
    let (mut one, mut other) = pair(RING).await;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    // What was left of the bells of the probe is heard first.
    while one.poll_changed(&mut Context::from_waker(&waker)).is_ready() {}
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(one.poll_changed(&mut Context::from_waker(&waker)).is_pending());
    let before = woken.0.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(woken.0.load(Ordering::Relaxed), before, "nothing came, and nobody was woken");
    assert_eq!(other.write(b"now"), Ok(3));
    changed(&mut one).await.unwrap();
    let mut room = [0; 8];
    assert_eq!(one.read(&mut room), Ok(3));
    assert_eq!(&room[..3], b"now");
}

#[tokio::test]
async fn what_a_peer_wrote_before_its_end_arrives_and_then_its_end() {
    let (mut one, mut other) = pair(RING).await;
    assert_eq!(other.write(b"last words"), Ok(10));
    drop(other);
    changed(&mut one).await.unwrap();
    assert_eq!(one.read(&mut [0; 64]), Ok(10));
    assert_eq!(changed(&mut one).await, Err(WireFault::Gone));
    assert_eq!(one.write(b"more"), Ok(4), "what is written is stored, whoever reads it");
    let mut stored = Vec::new();
    one.silence();
    one.stored(0, 4, &mut stored);
    assert_eq!(stored, b"more");
    assert_eq!(changed(&mut one).await, Err(WireFault::Silent));
}

#[tokio::test]
async fn a_peer_that_never_hears_its_bell_holds_up_nobody() {
    let (mut one, other) = pair(RING).await;
    let memory = other.memory();
    for at in 1..=4000 {
        memory.store(Side::Taker, Word::Asleep, BYTES | ROOM);
        assert_eq!(one.write(b"x"), Ok(1));
        memory.store(Side::Taker, Word::Consumed, at);
    }
    assert_eq!(one.consumed(), Ok(4000));
}

#[tokio::test]
async fn bells_for_nothing_are_heard_and_forgotten() {
    let (mut one, other) = pair(RING).await;
    for _ in 0..3 {
        for _ in 0..1000 {
            ring_bell(other.socket());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(poll(&mut one).is_pending());
    }
    assert_eq!(rustix::io::ioctl_fionread(one.socket()).unwrap(), 0, "all of them were heard");
}

#[tokio::test]
async fn descriptors_that_come_with_a_bell_are_closed() {
    let (mut one, other) = pair(RING).await;
    let (mut reader, writer) = std::io::pipe().unwrap();
    send(other.socket(), b"!", &[writer.as_fd()]);
    drop(writer);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(poll(&mut one).is_pending());
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "nobody holds the other end");
}

#[tokio::test]
async fn hostile_cursors_in_shared_memory_are_found() {
    for (word, claim) in [(Word::Written, 4097), (Word::Written, u64::MAX), (Word::Consumed, 5)] {
        let (mut one, other) = pair(RING).await;
        assert_eq!(one.write(b"four"), Ok(4));
        one.await_consumed();
        assert!(poll(&mut one).is_pending());
        other.memory().store(Side::Taker, word, claim);
        ring_bell(other.socket());
        assert_eq!(changed(&mut one).await, Err(WireFault::Hostile));
        assert_eq!(one.write(b"more"), Err(WireFault::Hostile));
    }
}

#[tokio::test]
async fn a_token_is_good_once_and_for_one_wire() {
    let (_directory, door) = door();
    let (maker, taker) = tokens(1);
    let expected = door.expect(&maker, RING);
    let wrong = Tokens { ours: tokens(2).1.ours, ..taker.clone() };
    assert_eq!(fault(door.attach(door.name(), &wrong, RING).await), "token");
    let (made, taken) = tokio::join!(expected, door.attach(door.name(), &taker, RING));
    assert!(made.is_ok() && taken.is_ok());
    assert_eq!(fault(door.attach(door.name(), &taker, RING).await), "token", "it was shown before");
}

#[tokio::test]
async fn guests_that_say_nothing_keep_nobody_out() {
    let (directory, door) = door();
    let silent: Vec<StdStream> =
        (0..100).map(|_| StdStream::connect(directory.path().join(door.name())).unwrap()).collect();
    let (maker, taker) = tokens(1);
    let expected = door.expect(&maker, RING);
    let (made, taken) = tokio::join!(expected, door.attach(door.name(), &taker, RING));
    assert!(made.is_ok() && taken.is_ok());
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    let (directory, door) = door();
    let (maker, taker) = tokens(1);
    assert_eq!(fault(door.expect(&maker, RING).await), "timed_out", "nobody came");
    // A listener that accepts and says nothing.
    let _silent = StdListener::bind(directory.path().join("silent.link")).unwrap();
    assert_eq!(fault(door.attach("silent.link", &taker, RING).await), "timed_out");
    // A guest that shows the token and never echoes.
    let expected = door.expect(&maker, RING);
    let mut guest = UnixStream::connect(directory.path().join(door.name())).await.unwrap();
    guest.write_all(&taker.ours).await.unwrap();
    assert_eq!(fault(expected.await), "timed_out");
}

#[tokio::test]
async fn what_does_not_echo_the_probe_is_no_wire() {
    let (directory, door) = door();
    let (maker, taker) = tokens(1);
    let expected = tokio::spawn(door.expect(&maker, RING));
    let mut guest = UnixStream::connect(directory.path().join(door.name())).await.unwrap();
    guest.write_all(&taker.ours).await.unwrap();
    let memory = Shared::take(&receive(&guest).await, RING).unwrap();
    memory.slot(Side::Taker, 4).store(7, Ordering::Relaxed);
    memory.slot(Side::Taker, 6).store(1, Ordering::Release);
    ring_bell(&guest);
    assert_eq!(fault(expected.await.unwrap()), "probe");
}

#[tokio::test]
async fn only_sealed_memory_of_the_agreed_size_is_mapped() {
    let memory = |len: usize, seals| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&memory, len as u64).unwrap();
        rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
        memory
    };
    let (both, right) = (SealFlags::SHRINK | SealFlags::GROW, memory_bytes(RING));
    let file = tempfile::tempfile().unwrap();
    file.set_len(right as u64).unwrap();
    for (descriptor, taken) in [
        (memory(right, both), true),
        (memory(right, SealFlags::empty()), false),
        (memory(right, SealFlags::SHRINK), false),
        (memory(right, SealFlags::GROW), false),
        (memory(right - 1, both), false),
        (memory(right + 4096, both), false),
        (memory(0, both), false),
        (file.into(), false),
        (std::fs::File::open("/dev/zero").unwrap().into(), false),
        (StdStream::pair().unwrap().0.into(), false),
    ] {
        let outcome = Shared::take(&descriptor, RING);
        assert_eq!(outcome.is_ok(), taken, "{descriptor:?}");
        assert!(taken || matches!(outcome, Err(AttachFault::Memory)));
    }
    for size in [0, 2048, 4097, 3 * 4096, MOST_RING_BYTES * 2, u32::MAX] {
        assert!(matches!(Shared::make(size), Err(AttachFault::Size)), "{size}");
        assert!(matches!(Shared::take(&memory(right, both), size), Err(AttachFault::Size)), "{size}");
    }
}

#[tokio::test]
async fn what_else_a_door_gives_is_refused_and_closed() {
    let (directory, door) = door();
    let (_, taker) = tokens(1);
    let listener = tokio::net::UnixListener::bind(directory.path().join("squatted.link")).unwrap();
    for (token, descriptors, fault_is) in [
        (taker.theirs, 1, "memory"),
        (taker.theirs, 0, "memory"),
        (taker.theirs, 2, "memory"),
        (taker.theirs, 9, "memory"),
        ([9; 32], 1, "token"),
    ] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let squatter = async {
            let (mut guest, _) = listener.accept().await.unwrap();
            let mut shown = [0; 32];
            guest.read_exact(&mut shown).await.unwrap();
            assert_eq!(shown, taker.ours);
            send(&guest, &token, &vec![writer.as_fd(); descriptors]);
            guest
        };
        let (_guest, outcome) = tokio::join!(squatter, door.attach("squatted.link", &taker, RING));
        assert_eq!(fault(outcome), fault_is, "{descriptors} descriptors");
        drop(writer);
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "nobody holds what came");
    }
}

#[tokio::test]
async fn a_peer_names_a_door_and_nothing_else() {
    let (_directory, door) = door();
    let (_, taker) = tokens(1);
    for name in ["", ".link", "../a.link", "a/b.link", "/run/other.sock", "a.sock", "a\0.link", "..link"] {
        assert_eq!(fault(door.attach(name, &taker, RING).await), "name", "{name:?}");
    }
    assert_eq!(fault(door.attach(&format!("{}.link", "a".repeat(65)), &taker, RING).await), "name");
    assert_eq!(fault(door.attach("nobody.link", &taker, RING).await), "io");
}

#[tokio::test]
async fn a_door_is_where_nobody_else_can_put_one() {
    let directory = TempDir::new().unwrap();
    let refused = |path: &Path| Door::open(Some(path)).err().map(|error| error.kind());
    let own = directory.path().join("own");
    for mode in [0o777, 0o770, 0o720, 0o1777] {
        std::fs::create_dir_all(&own).unwrap();
        std::fs::set_permissions(&own, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(refused(&own), Some(std::io::ErrorKind::PermissionDenied), "{mode:o}");
    }
    std::fs::set_permissions(&own, PermissionsExt::from_mode(0o700)).unwrap();
    symlink(&own, directory.path().join("elsewhere")).unwrap();
    assert!(refused(&directory.path().join("elsewhere")).is_some(), "no link is followed");
    assert_eq!(refused(&own), None);
    let made = directory.path().join("new/one");
    assert_eq!(refused(&made), None);
    assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn doors_that_were_left_behind_are_removed_and_others_are_not() {
    let directory = TempDir::new().unwrap();
    let names = || {
        let listed = std::fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    drop(StdListener::bind(directory.path().join("left.link")).unwrap());
    drop(StdListener::bind(directory.path().join("not-a-door")).unwrap());
    std::fs::write(directory.path().join("file.link"), "").unwrap();
    let one = Door::open(Some(directory.path())).unwrap();
    let other = Door::open(Some(directory.path())).unwrap();
    let mut expected =
        vec![one.name().to_owned(), other.name().to_owned(), "file.link".into(), "not-a-door".into()];
    expected.sort_unstable();
    assert_eq!(names(), expected);
    drop((one, other));
    assert_eq!(names(), ["file.link", "not-a-door"]);
}

fn fault(outcome: Result<ShmWire, AttachFault>) -> &'static str {
    outcome.err().map_or("none", |fault| fault.label())
}

/// Sends bytes, and descriptors with them.
fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// The descriptor that a door gives to whoever showed the right token.
async fn receive(guest: &UnixStream) -> OwnedFd {
    super::door::take(guest, &tokens(1).1.theirs).await.unwrap()
}
