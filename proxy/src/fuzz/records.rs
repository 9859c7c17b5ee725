//! Record layers: one whose peer has the keys and seals anything, over a connection that changes what it likes.

use crate::link::records::pair::Pair;

/// A session whose peer, and whose connection, do what `bytes` say: what is opened is a prefix of what the peer has sealed as
/// content, and nothing is opened behind a fault.
pub(super) fn hostile(bytes: &[u8]) {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let mut pair = Pair::new(choice & 1 == 0, usize::from(choice >> 1), b"", 0);
    let (mut said, mut we_said) = (Vec::new(), Vec::new());
    while let [what, which, behind @ ..] = rest {
        let (part, next) = behind.split_at(behind.len().min(usize::from(which % 64)));
        rest = next;
        match what % 8 {
            0..=2 => {
                pair.their_record(&[part, &[23]].concat());
                said.extend_from_slice(part);
            }
            3 => {
                let end = part.iter().rposition(|byte| *byte != 0);
                if let Some(end) = end.filter(|end| part[*end] == 23) {
                    said.extend_from_slice(&part[..end]);
                }
                pair.their_record(part);
            }
            4 => pair.to_us.extend_from_slice(part),
            5 if !pair.to_us.is_empty() => {
                let at = usize::from(*which) % pair.to_us.len();
                pair.to_us[at] ^= what | 1;
            }
            6 => {
                pair.seal(part);
                we_said.extend_from_slice(part);
                // They may have failed.
                let _ = pair.they_open();
                assert!(we_said.starts_with(&pair.they_got), "they opened something else");
            }
            _ => {
                pair.flush();
                if pair.open(1 + usize::from(*which)).is_err() {
                    // Nothing is opened any more.
                    pair.their_record(b"late\x17");
                    let got = pair.we_got.len();
                    assert!(pair.open(64).is_err() || pair.we_got.len() == got);
                }
            }
        }
        assert!(said.starts_with(&pair.we_got), "something else than was said");
    }
}
