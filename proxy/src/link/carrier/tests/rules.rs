//! One carrier against what its peer says, and against the clock.

use std::time::{Duration, Instant};

use super::super::outward::MOST_UNSENT;
use super::Open;
use super::wire::End;
use crate::link::carrier::{Cause, Event, Fatal, Finish, In, Kind, Machine, Out, Prove, RECORD_BYTES};
use crate::link::session::Side;
use crate::link::wire::WireFault;

type Carrier = Machine<End, Open>;

/// The opener's, after the handshake.
fn opener() -> Carrier {
    let mut carrier = Machine::new(Side::Opener);
    carrier.establish(Open);
    carrier
}

/// The same, whose way out is on a wire of generation 1, and whose way in too if `both`.
fn switched(both: bool) -> Carrier {
    let mut carrier = opener();
    assert!(carrier.open(1) && carrier.switch(1, End::new(4)));
    carrier.learn_unsent(0);
    if both {
        assert_eq!(carrier.recv(&mut record(Kind::Switch, 1, 0)), Ok(0));
    }
    said(&mut carrier);
    carrier
}

/// A record of the acceptor.
fn record(kind: Kind, generation: u32, offset: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..6].copy_from_slice(&[0x4C, 3, 3, 0, 40, kind as u8]);
    record[9..13].copy_from_slice(&generation.to_be_bytes());
    record[13..21].copy_from_slice(&offset.to_be_bytes());
    record[29..].copy_from_slice(&Open.proof(Side::Acceptor, kind, generation));
    record
}

/// What it has to say: kind and offset of each record.
fn said(carrier: &mut Carrier) -> Vec<(u8, u64)> {
    let bytes = carrier.transmit().to_vec();
    carrier.transmitted(bytes.len());
    let offset = |record: &[u8]| u64::from_be_bytes(record[13..21].try_into().unwrap());
    bytes.chunks(RECORD_BYTES).map(|record| (record[5], offset(record))).collect()
}

fn events(carrier: &mut Carrier) -> Vec<Event> {
    std::iter::from_fn(|| carrier.event()).collect()
}

/// Lets so many milliseconds pass.
fn pass(carrier: &mut Carrier, millis: u64) -> Result<(), Fatal> {
    let now = Instant::now();
    carrier.timeout(|| now);
    assert_eq!(carrier.on_timeout(now + Duration::from_millis(millis - 1)), Ok(()));
    carrier.on_timeout(now + Duration::from_millis(millis))
}

/// Lets a second pass in which there is no room: until its end the wire is not left.
fn stall(carrier: &mut Carrier) {
    let mut now = Instant::now();
    carrier.timeout(|| now);
    for way_out in [Out::Ring, Out::Ring, Out::Ring, Out::Ring, Out::Frozen] {
        now += Duration::from_millis(200);
        assert_eq!((carrier.on_timeout(now), carrier.way_out()), (Ok(()), way_out));
    }
}

/// A record of TLS.
const TLS: [u8; 6] = [23, 3, 3, 0, 1, 9];

#[test]
fn a_link_without_a_wire_costs_no_byte_and_no_alarm() {
    let mut carrier = opener();
    let mut bytes = TLS.repeat(3);
    assert_eq!(carrier.recv(&mut bytes), Ok(bytes.len()));
    assert_eq!(bytes, TLS.repeat(3));
    assert_eq!(carrier.sent([&TLS[..4], &TLS[4..]]), Ok(()));
    assert_eq!(carrier.timeout(|| panic!("nobody looks at the clock")), None);
    assert_eq!(carrier.finish(), Ok(Finish::Shut));
    assert!(carrier.transmit().is_empty());
    assert_eq!(carrier.recv_end(), Ok(()));
    assert!(carrier.is_ended());
}

#[test]
fn a_wire_that_is_not_in_use_within_three_seconds_is_left() {
    let mut carrier = switched(false);
    events(&mut carrier);
    assert_eq!(pass(&mut carrier, 3000), Ok(()));
    assert_eq!(events(&mut carrier), [Event::Frozen(1, Cause::Deadline)]);
    assert_eq!(said(&mut carrier), [(Kind::Resume as u8, 0)]);
    let mut carrier = switched(true);
    assert_eq!(carrier.timeout(Instant::now), None, "both are on it");
}

#[test]
fn a_peer_that_comes_late_to_a_full_wire_has_until_the_deadline() {
    let full = || {
        let mut carrier = switched(false);
        assert_eq!((carrier.write(&TLS), carrier.write(&TLS[4..])), (Ok(4), Ok(0)));
        events(&mut carrier);
        carrier
    };
    let mut carrier = full();
    assert_eq!(pass(&mut carrier, 3000), Ok(()));
    assert_eq!(events(&mut carrier), [Event::Frozen(1, Cause::Deadline)], "and not after two");
    // One that has come is given as long as any other.
    let mut carrier = full();
    let now = Instant::now();
    carrier.timeout(|| now);
    assert_eq!(carrier.on_timeout(now + Duration::from_millis(2900)), Ok(()));
    assert_eq!(carrier.recv(&mut record(Kind::Switch, 1, 0)), Ok(0));
    assert_eq!((carrier.timeout(Instant::now), carrier.write(&TLS[4..])), (None, Ok(0)));
    stall(&mut carrier);
    assert_eq!(events(&mut carrier), [Event::SwitchedIn(1), Event::Frozen(1, Cause::Stall)]);
}

#[test]
fn a_process_that_did_not_run_does_not_take_its_peer_for_one_that_stands_still() {
    let mut carrier = switched(true);
    assert_eq!((carrier.write(&TLS), carrier.write(&TLS[4..])), (Ok(4), Ok(0)));
    let mut now = Instant::now();
    carrier.timeout(|| now);
    for late in [3_000, 101, 60_000, 101, 101, 101] {
        now += Duration::from_millis(200 + late);
        assert_eq!((carrier.on_timeout(now), carrier.way_out()), (Ok(()), Out::Ring));
    }
    // It has as long as ever when this one runs again, a little late or not.
    for late in [0, 100, 50, 0, 7] {
        assert_eq!(carrier.way_out(), Out::Ring);
        now += Duration::from_millis(200 + late);
        assert_eq!(carrier.on_timeout(now), Ok(()));
    }
    assert_eq!(carrier.way_out(), Out::Frozen);
}

#[test]
fn a_link_goes_over_only_with_little_in_tcp() {
    let mut carrier = opener();
    assert!(carrier.open(1) && carrier.switch(1, End::new(4)));
    let now = Instant::now();
    let soon = now + Duration::from_millis(1);
    assert!(carrier.asks_unsent());
    carrier.learn_unsent(MOST_UNSENT + 1);
    assert_eq!(carrier.timeout(|| now), Some(soon), "then it is looked again");
    assert_eq!((carrier.on_timeout(soon), carrier.way_out()), (Ok(()), Out::Tcp));
    assert!(carrier.asks_unsent() && said(&mut carrier).is_empty());
    carrier.learn_unsent(MOST_UNSENT);
    assert_eq!((carrier.way_out(), said(&mut carrier)), (Out::Ring, vec![(Kind::Switch as u8, 0)]));
    assert!(!carrier.asks_unsent());
    // Within a record it is not asked yet.
    let mut carrier = opener();
    assert_eq!(carrier.sent([&TLS[..3]]), Ok(()));
    assert!(carrier.open(1) && carrier.switch(1, End::new(4)) && !carrier.asks_unsent());
    assert_eq!(carrier.sent([&TLS[3..]]), Ok(()));
    assert!(carrier.asks_unsent());
    // One that never holds little stays where it is.
    carrier.learn_unsent(usize::MAX);
    assert_eq!(pass(&mut carrier, 3000), Ok(()));
    assert_eq!(events(&mut carrier), [Event::Frozen(1, Cause::Deadline)]);
    assert_eq!((carrier.way_out(), carrier.asks_unsent()), (Out::Tcp, false));
}

#[test]
fn a_wire_that_has_no_room_for_long_is_left_and_nothing_of_it_is_lost() {
    let mut carrier = switched(true);
    assert_eq!(carrier.write(&TLS), Ok(4));
    assert_eq!(carrier.write(&TLS[4..]), Ok(0));
    stall(&mut carrier);
    assert!(events(&mut carrier).contains(&Event::Frozen(1, Cause::Stall)));
    assert_eq!(carrier.way_out(), Out::Frozen);
    said(&mut carrier);
    assert_eq!(carrier.recv(&mut record(Kind::Resume, 1, 1)), Ok(0));
    assert_eq!(carrier.transmit(), &TLS[1..4], "what the peer lacks of it");
    assert_eq!((carrier.way_out(), carrier.way_in()), (Out::Tcp, In::Tcp));
    assert_eq!(carrier.next(), Some(2));
}

#[test]
fn a_peer_that_does_not_answer_within_five_seconds_loses_the_link() {
    let mut carrier = switched(true);
    assert_eq!(carrier.freeze(1, Cause::Policy), Ok(()));
    assert_eq!(pass(&mut carrier, 5000), Err(Fatal::Unanswered));
    assert_eq!(carrier.recv(&mut TLS.to_vec()), Err(Fatal::Unanswered));
}

#[test]
fn a_link_without_tcp_lives_thirty_seconds_and_no_longer_than_its_wire() {
    let mut carrier = switched(true);
    assert_eq!(carrier.lose(), Ok(()));
    assert!(events(&mut carrier).contains(&Event::Lame));
    assert_eq!(carrier.write(&TLS[..3]), Ok(3));
    assert_eq!(pass(&mut carrier, 30000), Err(Fatal::Lost));
    let mut carrier = switched(true);
    assert_eq!(carrier.lose(), Ok(()));
    assert_eq!(carrier.freeze(1, Cause::Policy), Err(Fatal::Lost));
    assert_eq!(switched(false).lose(), Err(Fatal::Lost));
}

#[test]
fn a_peer_that_needs_the_memory_of_a_wire_says_so() {
    for (said, heard) in [(Cause::Room, Cause::Room), (Cause::Policy, Cause::Peer)] {
        let mut carrier = switched(true);
        events(&mut carrier);
        let mut resume = record(Kind::Resume, 1, 0);
        resume[6] = said as u8;
        assert_eq!(carrier.recv(&mut resume), Ok(0));
        assert_eq!(events(&mut carrier), [Event::Frozen(1, heard), Event::Closed(1)]);
    }
}

#[test]
fn a_peer_whose_tcp_is_lost_is_asked_again_and_again_whether_it_is_there() {
    let mut carrier = switched(true);
    assert_eq!(carrier.lose(), Ok(()));
    for times in 1..=20 {
        assert_eq!(carrier.wire().unwrap().asked, times);
        assert_eq!(pass(&mut carrier, 200), Ok(()));
    }
    assert_eq!(carrier.fault(WireFault::Gone), Err(Fatal::Lost), "then it is known");
    assert_eq!(carrier.timeout(Instant::now), None);
}

#[test]
fn a_peer_that_is_waited_for_at_the_end_is_waited_for_five_seconds() {
    let mut carrier = switched(true);
    assert_eq!(carrier.write(&TLS[..3]), Ok(3));
    assert_eq!(carrier.finish(), Ok(Finish::Wait));
    assert_eq!(said(&mut carrier), [(Kind::Fin as u8, 3)]);
    assert_eq!(carrier.finish(), Ok(Finish::Wait));
    assert_eq!(pass(&mut carrier, 5000), Ok(()));
    assert_eq!(carrier.finish(), Ok(Finish::Done));
}

#[test]
fn cursors_that_cannot_be_end_the_link() {
    // More than was written, and less than it was.
    for claims in [&[4][..], &[2, 1]] {
        let mut carrier = switched(true);
        assert_eq!(carrier.write(&TLS[..3]), Ok(3));
        assert_eq!(carrier.finish(), Ok(Finish::Wait));
        said(&mut carrier);
        let mut found = Ok(Finish::Wait);
        for count in claims {
            assert_eq!(found, Ok(Finish::Wait));
            carrier.wire().unwrap().claim(*count);
            found = carrier.finish();
        }
        assert_eq!(found, Err(Fatal::Hostile), "{claims:?}");
        assert!(carrier.wire().is_none());
    }
}

#[test]
fn a_declined_number_is_offered_again_and_a_closed_one_never() {
    let mut carrier = opener();
    assert!(carrier.open(1) && !carrier.open(1) && !carrier.open(2));
    carrier.withdraw(1);
    assert_eq!(carrier.timeout(Instant::now), None);
    assert!(carrier.open(1));
    assert_eq!(carrier.recv(&mut record(Kind::Resume, 1, 0)), Ok(0));
    assert_eq!(said(&mut carrier), [(Kind::Resume as u8, 0)]);
    assert!(!carrier.open(1) && !carrier.switch(1, End::new(4)));
    assert_eq!(carrier.recv(&mut record(Kind::Resume, 2, 0)), Ok(0), "it need not have heard of it");
    assert_eq!(carrier.next(), Some(3));
    assert_eq!(carrier.recv(&mut record(Kind::Resume, 2, 0)), Err(Fatal::Generation));
}

#[test]
fn a_record_that_must_not_be_ends_the_link() {
    let damaged = |at: usize| {
        let mut record = record(Kind::Switch, 1, 0);
        record[at] ^= 1;
        record.to_vec()
    };
    let wrong = [
        // Version, kind, a byte that is to be zero, generation, proof.
        (damaged(1), Fatal::Malformed),
        ([&[0x4C, 3, 3, 0, 40, 4], &record(Kind::Fin, 1, 0)[6..]].concat(), Fatal::Malformed),
        (damaged(7), Fatal::Malformed),
        (damaged(28), Fatal::Malformed),
        (damaged(12), Fatal::Proof),
        (damaged(44), Fatal::Proof),
        (record(Kind::Switch, 2, 0).to_vec(), Fatal::Generation),
        (record(Kind::Resume, 3, 0).to_vec(), Fatal::Generation),
        (record(Kind::Switch, 1, 1).to_vec(), Fatal::Offset),
        (record(Kind::Resume, 1, 1).to_vec(), Fatal::Offset),
        ([record(Kind::Switch, 1, 0), record(Kind::Switch, 1, 0)].concat(), Fatal::Order),
        ([record(Kind::Fin, 1, 0), record(Kind::Fin, 1, 0)].concat(), Fatal::Order),
        ([record(Kind::Fin, 1, 0), record(Kind::Switch, 1, 0)].concat(), Fatal::Order),
        ([&record(Kind::Switch, 1, 0)[..], &TLS].concat(), Fatal::Stray),
        ([&record(Kind::Fin, 1, 3)[..], &TLS].concat(), Fatal::Stray),
        ([&TLS[..], &record(Kind::Fin, 1, 5)].concat(), Fatal::Offset),
    ];
    for (mut bytes, fatal) in wrong {
        let mut carrier = switched(false);
        let text = format!("{bytes:?}");
        assert_eq!(carrier.recv(&mut bytes), Err(fatal), "{text}");
        assert_eq!(carrier.write(&TLS), Ok(0), "nothing goes on");
    }
    let mut early = Carrier::new(Side::Opener);
    assert_eq!(early.recv(&mut record(Kind::Resume, 1, 0)), Err(Fatal::Early));
}

#[test]
fn a_direction_that_was_on_a_wire_is_not_ended_by_the_end_of_tcp() {
    let mut carrier = switched(true);
    assert_eq!(carrier.freeze(1, Cause::Policy), Ok(()));
    assert_eq!(carrier.recv(&mut record(Kind::Resume, 1, 0)), Ok(0));
    assert_eq!(carrier.recv_end(), Err(Fatal::Truncated));
}

#[test]
fn what_the_peer_says_is_cut_out_wherever_it_is_cut() {
    let switch = record(Kind::Switch, 1, 12);
    let whole = [&TLS[..], &TLS, &switch].concat();
    for cut in 0..whole.len() {
        let mut carrier = switched(false);
        let mut kept = Vec::new();
        for part in [&whole[..cut], &whole[cut..]] {
            let mut part = part.to_vec();
            let taken = carrier.recv(&mut part).unwrap();
            kept.extend_from_slice(&part[..taken]);
        }
        assert_eq!(kept, TLS.repeat(2), "cut at {cut}");
        assert_eq!(carrier.way_in(), In::Ring);
    }
}
