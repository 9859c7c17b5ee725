//! The record layer of a link, with rustls at the other end.

use std::io::{IoSlice, Read, Write};
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, Error, PeerMisbehaved, RootCertStore,
    ServerConfig, ServerConnection,
};
use tokio::io::ReadBuf;

use super::keys::{HEADER_BYTES, TAG_BYTES, Way, Ways, caught, provider};
use super::session::{MOST_CONTENT, Session};
use crate::link::carrier::Walk;

/// This side, and rustls. The provider of both is the same, so that a test has the keys of both.
struct Pair {
    ours: Session,
    theirs: Connection,
    their_ways: Ways,
    /// Sealed by them, and not opened here.
    to_us: Vec<u8>,
    /// Sealed here, and not opened by them.
    to_them: Vec<u8>,
    /// What either has opened.
    we_got: Vec<u8>,
    they_got: Vec<u8>,
}

/// A certificate, and its key.
static OWN: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
    let own = rcgen::generate_simple_self_signed(vec!["link.test".into()]).unwrap();
    (own.cert.der().clone(), own.signing_key.serialize_der())
});

fn ends(suite: usize) -> [Connection; 2] {
    let mut provider = rustls::crypto::CryptoProvider::clone(&provider());
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.cipher_suites = vec![provider.cipher_suites[suite % 3]];
    let provider = Arc::new(provider);
    let versions = &[&rustls::version::TLS13];
    let (certificate, key) = &*OWN;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let key = PrivateKeyDer::try_from(key.clone()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let name = ServerName::try_from("link.test").unwrap();
    [
        ClientConnection::new(Arc::new(client), name).unwrap().into(),
        ServerConnection::new(Arc::new(server)).unwrap().into(),
    ]
}

impl Pair {
    /// Their first content, `early`, comes with the end of the handshake where they are the client, cut `cut` bytes short.
    fn new(we_dial: bool, suite: usize, early: &[u8], cut: usize) -> Self {
        let [client, server] = ends(suite);
        let [mut ours, mut theirs] = if we_dial { [client, server] } else { [server, client] };
        let (mut our_ways, mut their_ways, mut walk) = (Ways::default(), Ways::default(), Walk::default());
        // What is to go out waits in memory.
        theirs.set_buffer_limit(None);
        let mut said = false;
        let mut late = Vec::new();
        while ours.is_handshaking() || theirs.is_handshaking() || theirs.wants_write() || !said {
            let mut bytes = Vec::new();
            while ours.wants_write() {
                ours.write_tls(&mut bytes).unwrap();
            }
            give(&mut theirs, &mut their_ways, &bytes).unwrap();
            if !theirs.is_handshaking() && !said {
                theirs.writer().write_all(early).unwrap();
                said = true;
            }
            bytes.clear();
            while theirs.wants_write() {
                theirs.write_tls(&mut bytes).unwrap();
            }
            if said {
                late.extend(bytes.split_off(bytes.len().saturating_sub(cut)));
            }
            walk.pass(&bytes);
            give(&mut ours, &mut our_ways, &bytes).unwrap();
            if said && ours.is_handshaking() {
                // It needs all of that.
                walk.pass(&late);
                give(&mut ours, &mut our_ways, &std::mem::take(&mut late)).unwrap();
            }
        }
        Pair {
            ours: Session::new(ours, our_ways.both().unwrap(), walk),
            theirs,
            their_ways,
            to_us: late,
            to_them: Vec::new(),
            we_got: Vec::new(),
            they_got: Vec::new(),
        }
    }

    fn usual() -> Self {
        let mut pair = Pair::new(true, 0, b"", 0);
        // Behind the handshake one record goes by rustls.
        pair.theirs.writer().write_all(b"first").unwrap();
        pair.flush();
        assert_eq!(pair.open(64), Ok(()));
        assert_eq!(std::mem::take(&mut pair.we_got), b"first");
        pair
    }

    /// What they have sealed is on its way.
    fn flush(&mut self) {
        let Pair { theirs, their_ways, to_us, .. } = self;
        caught(their_ways, || theirs.writer().write(&[])).unwrap();
        while theirs.wants_write() {
            theirs.write_tls(to_us).unwrap();
        }
    }

    /// Opens what came, into room for `room` bytes at a time.
    fn open(&mut self, room: usize) -> Result<(), Error> {
        let mut memory = vec![0; room];
        loop {
            let mut to = ReadBuf::new(&mut memory);
            self.ours.take(&mut to);
            let done = self.ours.open(&self.to_us, &mut to)?;
            self.to_us.drain(..done);
            self.we_got.extend_from_slice(to.filled());
            if done == 0 && to.filled().is_empty() {
                return Ok(());
            }
        }
    }

    /// They open what came.
    fn they_open(&mut self) -> Result<(), Error> {
        let came = std::mem::take(&mut self.to_them);
        // It takes no more than a record beyond what was read of it.
        for part in came.chunks(1024) {
            give(&mut self.theirs, &mut self.their_ways, part)?;
            let mut content = [0; 8192];
            while let Ok(read @ 1..) = self.theirs.reader().read(&mut content) {
                self.they_got.extend_from_slice(&content[..read]);
            }
        }
        Ok(())
    }

    fn seal(&mut self, content: &[u8]) {
        let mut left = content;
        while !left.is_empty() {
            let (one, other) = left.split_at(left.len() / 3);
            let slices = [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(other)];
            let sealed = self.ours.seal(&slices, &mut self.to_them).unwrap();
            left = &left[sealed..];
        }
    }

    /// A record of theirs with any content.
    fn their_record(&mut self, content: &[u8]) {
        record(self.their_ways.out.as_ref().unwrap(), content, &mut self.to_us);
    }
}

fn give(tls: &mut Connection, ways: &mut Ways, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() && tls.read_tls(&mut bytes).unwrap() > 0 {
        caught(ways, || tls.process_new_packets())?;
    }
    Ok(())
}

fn record(way: &Way, content: &[u8], to: &mut Vec<u8>) {
    let [high, low] = ((content.len() + TAG_BYTES) as u16).to_be_bytes();
    let header = [23, 3, 3, high, low];
    let mut sealed = content.to_vec();
    let tag = way.seal(header, &mut sealed).unwrap();
    to.extend_from_slice(&header);
    to.extend_from_slice(&sealed);
    to.extend_from_slice(&tag);
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
