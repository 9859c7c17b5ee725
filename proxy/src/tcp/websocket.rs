//! Where frames of WebSocket begin and end (RFC 6455 §5.2), for whoever has to say something between two of them.

/// One direction of a connection, by its bytes.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The head of a frame, as far as it is known.
    head: [u8; MOST_HEAD_BYTES],
    known: usize,
    /// Bytes of the frame that follow its head.
    left: u64,
    /// A frame has said that it is the last one.
    closed: bool,
}

/// What a server says that goes away: a frame of the kind Close with the code 1001 (RFC 6455 §7.4.1).
pub(crate) const GOING_AWAY: &[u8] = &[0x88, 2, 0x03, 0xe9];

impl Frames {
    /// These bytes are passed on.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]);
        }
    }

    /// How many of `bytes` it takes until no frame is half written; all of them if they do not suffice.
    pub(crate) fn until_whole(&self, bytes: &[u8]) -> usize {
        let mut ahead = Frames { ..*self };
        let mut at = 0;
        while at < bytes.len() && !ahead.is_whole() {
            at += ahead.step(&bytes[at..]);
        }
        at
    }

    /// Whether every frame that began has ended.
    pub(crate) fn is_whole(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// Whether this side has said itself that it closes the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes some bytes, at least one: of one frame, and of its head or of what follows.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= taken as u64;
            return taken;
        }
        self.head[self.known] = bytes[0];
        self.known += 1;
        if self.known == self.head_bytes() {
            self.left = self.content_bytes();
            self.closed |= self.head[0] & 0x0f == CLOSE;
            self.known = 0;
        }
        1
    }

    /// How long the head is, as far as it is known.
    fn head_bytes(&self) -> usize {
        if self.known < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length + mask
    }

    /// What a whole head says of its frame.
    fn content_bytes(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

/// The kind of frame that is the last one.
const CLOSE: u8 = 8;

/// Two bytes, eight of length, four of the mask.
const MOST_HEAD_BYTES: usize = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(content: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match content {
            0..126 => frame.push(content as u8 | mask),
            126..0x10000 => {
                frame.push(126 | mask);
                frame.extend((content as u16).to_be_bytes());
            }
            _ => {
                frame.push(127 | mask);
                frame.extend((content as u64).to_be_bytes());
            }
        }
        frame.extend(vec![7; content + if masked { 4 } else { 0 }]);
        frame
    }

    proptest! {
        /// However the bytes are cut into pieces, a frame is whole where it ends and nowhere else.
        #[test]
        fn ends_are_found(
            frames in prop::collection::vec((prop_oneof![0usize..300, Just(65535), Just(65536)], any::<bool>()), 1..6),
            mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let frames: Vec<Vec<u8>> = frames.into_iter().map(|(content, masked)| frame(content, masked)).collect();
            let ends: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let bytes = frames.concat();
            let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut followed = Frames::default();
            let mut at = 0;
            for cut in cuts {
                followed.pass(&bytes[at..cut]);
                at = cut;
                prop_assert_eq!(followed.is_whole(), at == 0 || ends.contains(&at));
                let next = at + followed.until_whole(&bytes[at..]);
                let end = if followed.is_whole() { at } else { *ends.iter().find(|end| **end > at).unwrap() };
                prop_assert_eq!(next, end);
            }
        }
    }
}
