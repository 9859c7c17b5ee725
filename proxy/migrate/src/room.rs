//! How much waits at the sidecar of a caller of what an old place gave back.

use crate::planted::{Plan as Faults, Planted};

/// What waits of the requests to one service, each until its service is reached elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Room {
    requests: u32,
    bytes: u64,
    pub(crate) faults: Faults,
}

impl Room {
    /// One of so many bytes waits, if it and all that do are no more than `most` requests and bytes. Returns whether it does.
    pub fn enter(&mut self, bytes: u64, most: (u32, u64)) -> bool {
        let (requests, all) = (self.requests.saturating_add(1), self.bytes.saturating_add(bytes));
        let has_room = all <= most.1 || self.faults.has(Planted::AnyBytes);
        let fits = requests <= most.0 && has_room || self.faults.has(Planted::Unbounded);
        if fits {
            (self.requests, self.bytes) = (requests, all);
        }
        fits
    }

    /// One that waited with so many bytes does not any more.
    pub fn leave(&mut self, bytes: u64) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// How many wait.
    pub fn requests(&self) -> u32 {
        self.requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_waits_than_may() {
        let mut room = Room::default();
        assert!(room.enter(6, (2, 10)) && !room.enter(5, (2, 10)) && room.enter(4, (2, 10)));
        assert!(!room.enter(0, (2, 10)));
        room.leave(6);
        assert!(room.enter(6, (2, 10)));
        assert_eq!(room.requests(), 2);
    }
}
