//! Where the records of TLS end in a direction of the link.

use super::record::RECORD_TYPE;

/// Walks the records of one direction, header by header, on whatever way its bytes come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Walk {
    /// Bytes of the header that were seen.
    seen: u8,
    /// The first byte of the length.
    high: u8,
    /// Bytes of the record's body that are to come.
    left: u16,
}

impl Walk {
    /// Whether a record has just ended, or none has begun.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    /// How many bytes may be walked without passing the end of the record they begin in.
    pub(crate) fn to_boundary(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut at = 0;
        while at < bytes.len() {
            at += ahead.step(&bytes[at..]);
            if ahead.is_at_boundary() {
                break;
            }
        }
        at
    }

    /// Walks over `bytes`.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]);
        }
    }

    /// Walks over the front of `bytes` that lies before a record of the carrier, and says how long it is.
    pub(super) fn pass_tls(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !(self.is_at_boundary() && bytes[at] == RECORD_TYPE) {
            at += self.step(&bytes[at..]);
        }
        at
    }

    /// Walks over the rest of a header or of a body, as far as it is there. `bytes` is not empty.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let passed = bytes.len().min(usize::from(self.left));
            // No more than `left`.
            self.left -= passed as u16;
            return passed;
        }
        if let (0, &[_, _, _, high, low, ..]) = (self.seen, bytes) {
            self.left = u16::from_be_bytes([high, low]);
            return HEADER_BYTES;
        }
        match self.seen {
            3 => self.high = bytes[0],
            4 => self.left = u16::from_be_bytes([std::mem::take(&mut self.high), bytes[0]]),
            _ => {}
        }
        self.seen = (self.seen + 1) % HEADER_BYTES as u8;
        1
    }
}

/// Type, version, length.
const HEADER_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_ends_where_its_header_says() {
        let bytes = [23, 3, 3, 0, 2, 9, 9, 20, 3, 3, 0, 0, 22, 3, 3, 1, 0];
        let mut walk = Walk::default();
        let mut ends = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            walk.pass(&[*byte]);
            if walk.is_at_boundary() {
                ends.push(at + 1);
            }
        }
        assert_eq!(ends, [7, 12]);
        assert_eq!(Walk::default().to_boundary(&bytes), 7);
        assert_eq!(Walk::default().to_boundary(&bytes[7..]), 5);
        assert_eq!(Walk::default().to_boundary(&bytes[12..]), 5, "all there is of it");
    }

    #[test]
    fn a_byte_within_a_record_is_not_taken_for_one_of_the_carrier() {
        let bytes = [23, 3, 3, 0, 1, RECORD_TYPE, RECORD_TYPE, 3];
        let mut walk = Walk::default();
        assert_eq!(walk.pass_tls(&bytes), 6);
        assert!(walk.is_at_boundary());
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            bytes in prop::collection::vec(0u8..4, 0..64),
            cuts in prop::collection::vec(0usize..64, 0..8),
        ) {
            let mut whole = Walk::default();
            whole.pass(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut parts = Walk::default();
            for pair in cuts.windows(2) {
                parts.pass(&bytes[pair[0]..pair[1]]);
            }
            prop_assert_eq!(parts, whole);
        }
    }
}
