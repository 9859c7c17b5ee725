//! What is always so. For tests and fuzzers: nothing on the data path asks.

use super::Connection;

impl Connection {
    /// Panics where the accounts do not agree with what is there.
    #[doc(hidden)]
    pub fn assert_sound(&self) {
        let (mut held, mut granted) = (0, 0);
        for (key, stream) in &self.streams {
            let inward = &stream.inward;
            assert!(inward.body.len() <= inward.held as usize, "what waits is held");
            assert!(u64::from(inward.held) <= inward.window.held());
            assert_eq!(self.ids.get(&stream.id) == Some(&key), !stream.closed, "the open ones are found");
            assert_eq!(self.starved.contains(&key), stream.out.starved);
            held += u64::from(inward.held);
            granted += stream.out.grant;
        }
        assert!(self.ids.len() <= self.streams.len());
        assert_eq!(self.granted, granted, "what is kept is kept for streams");
        assert!(self.reset.len() <= super::offence::REMEMBERED);
        if self.fault.is_none() {
            // A DATA frame is charged whole when its header has come.
            assert_eq!(self.window.held(), held + self.inbox.coming() as u64);
        }
    }

    /// Bytes that wait here: bodies to be read, and what is to be written.
    #[doc(hidden)]
    pub fn holds(&self) -> (usize, usize) {
        (self.streams.iter().map(|(_, stream)| stream.inward.body.len()).sum(), self.outbox.len())
    }

    /// Whether nothing is left of what streams had.
    #[doc(hidden)]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.starved.is_empty()
    }
}
