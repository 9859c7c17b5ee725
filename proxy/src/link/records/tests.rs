//! The record layer of a link, with rustls at the other end.

use std::io::{IoSlice, Write};

use proptest::prelude::*;
use rustls::{AlertDescription, Error, PeerMisbehaved};

use super::keys::{HEADER_BYTES, caught};
use super::pair::Pair;
use super::session::MOST_CONTENT;

impl Pair {
    fn usual() -> Self {
        let mut pair = Pair::new(true, 0, b"", 0);
        // Behind the handshake one record goes by rustls.
        pair.theirs.writer().write_all(b"first").unwrap();
        pair.flush();
        assert_eq!(pair.open(64), Ok(()));
        assert_eq!(std::mem::take(&mut pair.we_got), b"first");
        pair
    }
}

/// What happens between the two.
#[derive(Clone, Debug)]
enum Does {
    WeSay(usize),
    TheySay(usize),
    TheyRekey,
    /// So many bytes come, and are read with so much room.
    Comes(usize, usize),
}

fn doings() -> impl Strategy<Value = Vec<Does>> {
    let one = prop_oneof![
        (1usize..70_000).prop_map(Does::WeSay),
        (1usize..300).prop_map(Does::WeSay),
        (1usize..40_000).prop_map(Does::TheySay),
        (1usize..300).prop_map(Does::TheySay),
        Just(Does::TheyRekey),
        (1usize..40_000, 1usize..40_000).prop_map(|(comes, room)| Does::Comes(comes, room)),
    ];
    prop::collection::vec(one, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn rustls_and_the_record_layer_read_each_other(
        we_dial: bool,
        suite in 0usize..3,
        early in 1usize..2000,
        cut in 0usize..2000,
        rekey in 1u64..12,
        doings in doings(),
    ) {
        let content: Vec<u8> = (0..70_000).map(|at: u32| (at % 251) as u8).collect();
        let mut pair = Pair::new(we_dial, suite, &content[..early], cut);
        pair.ours.rekey_after(rekey);
        let (mut we_said, mut they_said) = (Vec::new(), content[..early].to_vec());
        for does in doings {
            match does {
                Does::WeSay(bytes) => {
                    pair.seal(&content[..bytes]);
                    we_said.extend_from_slice(&content[..bytes]);
                }
                Does::TheySay(bytes) => {
                    pair.theirs.writer().write_all(&content[..bytes]).unwrap();
                    they_said.extend_from_slice(&content[..bytes]);
                }
                Does::TheyRekey => {
                    let Pair { theirs, their_ways, .. } = &mut pair;
                    caught(their_ways, || theirs.refresh_traffic_keys()).unwrap();
                }
                Does::Comes(bytes, room) => {
                    pair.flush();
                    let later = pair.to_us.split_off(bytes.min(pair.to_us.len()));
                    pair.open(room).unwrap();
                    pair.to_us.extend(later);
                    pair.they_open().unwrap();
                }
            }
        }
        // What either has said of its keys goes before their ends.
        for _ in 0..2 {
            pair.flush();
            pair.open(MOST_CONTENT + 1).unwrap();
            pair.ours.say(&mut pair.to_them).unwrap();
            pair.they_open().unwrap();
        }
        pair.ours.close();
        pair.ours.say(&mut pair.to_them).unwrap();
        pair.they_open().unwrap();
        pair.theirs.send_close_notify();
        pair.flush();
        prop_assert!(!pair.ours.is_ended());
        pair.open(100).unwrap();
        prop_assert!(pair.ours.is_ended());
        prop_assert!(pair.to_us.is_empty());
        prop_assert!(pair.we_got == they_said && pair.they_got == we_said, "what was said is what came");
    }

    #[test]
    fn a_byte_that_was_changed_ends_the_session_and_the_peer_is_told(
        at in 0usize..1000,
        bit in 0u32..8,
        room in 100usize..3000,
    ) {
        let mut pair = Pair::usual();
        pair.theirs.writer().write_all(&[7; 900]).unwrap();
        pair.flush();
        // What stands before the length means nothing.
        let at = 3 + at % (pair.to_us.len() - 3);
        pair.to_us[at] ^= 1 << bit;
        // A length that is greater now is waited for.
        pair.to_us.extend([0; 1 << 16]);
        prop_assert!(pair.open(room).is_err());
        prop_assert!(pair.we_got.is_empty());
        pair.ours.say(&mut pair.to_them).unwrap();
        prop_assert!(matches!(pair.they_open(), Err(Error::AlertReceived(_))));
    }
}

#[test]
fn content_goes_past_rustls() {
    let mut pair = Pair::usual();
    for _ in 0..3 {
        pair.theirs.writer().write_all(&[1; 100]).unwrap();
    }
    pair.flush();
    let (_, inward) = pair.ours.ways();
    let before = inward.count();
    // What rustls were to read it would refuse now.
    pair.open(50).unwrap();
    assert_eq!(pair.ours.ways().1.count(), before + 3);
    assert!(!pair.ours.has_unsaid() || pair.ours.say(&mut pair.to_them).is_ok());
    assert_eq!(pair.we_got, [1; 300]);
}

#[test]
fn half_a_record_waits_for_the_other_half() {
    let mut pair = Pair::usual();
    pair.theirs.writer().write_all(b"whole").unwrap();
    pair.flush();
    let last = pair.to_us.pop().unwrap();
    for _ in 0..2 {
        pair.open(64).unwrap();
        assert!(pair.we_got.is_empty());
    }
    pair.to_us.push(last);
    pair.open(64).unwrap();
    assert_eq!(pair.we_got, b"whole");
}

#[test]
fn padding_is_no_content_and_empty_records_come_to_an_end() {
    let mut pair = Pair::usual();
    pair.their_record(b"padded\x17\0\0\0");
    for _ in 0..5 {
        pair.their_record(&[23]);
        pair.their_record(b"+\x17");
    }
    pair.open(64).unwrap();
    assert_eq!(pair.we_got, b"padded+++++");
    (0..100).for_each(|_| pair.their_record(&[23, 0]));
    let refused = Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments);
    assert_eq!(pair.open(64), Err(refused));
}

#[test]
fn a_record_without_a_type_or_with_too_much_in_it_is_refused() {
    for content in [vec![0; 20], vec![], [vec![9; MOST_CONTENT + 1], vec![23]].concat()] {
        let mut pair = Pair::usual();
        pair.their_record(&content);
        assert!(pair.open(20_000).is_err(), "{} bytes", content.len());
        assert!(pair.we_got.is_empty());
    }
    // The longest there is.
    let mut pair = Pair::usual();
    pair.their_record(&[vec![9; MOST_CONTENT], vec![23]].concat());
    pair.open(20_000).unwrap();
    assert_eq!(pair.we_got, vec![9; MOST_CONTENT]);
}

#[test]
fn a_length_that_no_record_has_is_not_waited_for() {
    let mut pair = Pair::usual();
    pair.to_us.extend([23, 3, 3, 0xFF, 0xFF]);
    assert!(pair.open(64).is_err());
}

#[test]
fn an_alert_ends_the_session_under_its_own_name() {
    let mut pair = Pair::usual();
    pair.their_record(&[2, 80, 21]);
    assert_eq!(pair.open(64), Err(Error::AlertReceived(AlertDescription::InternalError)));
}

#[test]
fn content_within_a_message_of_the_handshake_is_refused() {
    let mut pair = Pair::usual();
    // A KeyUpdate of which the last byte is to come.
    pair.their_record(&[24, 0, 0, 1, 22]);
    pair.their_record(b"between\x17");
    assert!(pair.open(64).is_err());
    assert!(pair.we_got.is_empty());
}

#[test]
fn a_key_is_replaced_long_before_it_is_used_up_as_often_as_need_be() {
    let mut pair = Pair::usual();
    let limit = 1 << 23;
    for turn in 0..70u8 {
        pair.ours.ways().0.skip_to(limit - 2);
        pair.their_ways.inward.as_ref().unwrap().skip_to(limit - 2);
        for _ in 0..4 {
            pair.seal(&[turn; 10]);
        }
        assert_eq!(pair.ours.ways().0.count(), 2, "the third is under another key");
        pair.they_open().unwrap();
        // They replace theirs too, as they were asked to.
        pair.theirs.writer().write_all(&[turn; 10]).unwrap();
        pair.flush();
        pair.open(64).unwrap();
    }
    assert_eq!(pair.they_got.len(), 70 * 40);
    assert_eq!(pair.we_got.len(), 70 * 10);
}

#[test]
fn a_key_that_is_used_up_seals_nothing() {
    let mut pair = Pair::usual();
    pair.ours.rekey_after(u64::MAX);
    pair.ours.ways().0.skip_to(1 << 48);
    let mut out = Vec::new();
    assert!(pair.ours.seal(&[IoSlice::new(b"more")], &mut out).is_err());
    assert!(out.is_empty(), "what is not sealed does not go out");
}

#[test]
fn a_ticket_for_a_session_to_come_is_taken() {
    let mut pair = Pair::new(true, 0, b"", 0);
    // A server of rustls's own accord sends two with the end of the handshake.
    pair.theirs.writer().write_all(b"behind").unwrap();
    pair.flush();
    pair.open(64).unwrap();
    assert_eq!(pair.we_got, b"behind");
    assert!(pair.to_us.len() < HEADER_BYTES);
}
