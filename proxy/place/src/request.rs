//! What is asked, and which places offer to do it.

use serde::{Deserialize, Serialize};

/// A place where requests run: the host, or a device. Numbers are given by a [`Placer`](crate::Placer) and mean something to it only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlaceId(pub(crate) u32);

/// Where the service itself runs. Always a legal choice.
pub const HOST: PlaceId = PlaceId(0);

impl PlaceId {
    /// Its number: 0 is the host, devices follow in the order in which they were added.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What a request does with state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// It reads nothing but itself.
    Stateless,
    /// It reads a data set at this version, which is the one that the host would read.
    Versioned(u64),
    /// It reads or changes what only the host has.
    Stateful,
}

/// What is known of a request before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What it does with state.
    pub work: Work,
    /// Bytes of the request itself.
    pub bytes_in: u64,
    /// Bytes of data that it reads where it runs.
    pub scan_bytes: u64,
}

impl Request {
    /// The bytes that its function works on.
    pub(crate) fn worked_bytes(&self) -> u64 {
        self.bytes_in.saturating_add(self.scan_bytes)
    }
}

/// A device that may run a request, as far as is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The device.
    pub place: PlaceId,
    /// Whether it holds the route's function.
    pub has_function: bool,
    /// The version at which it holds the request's data set. None: it does not.
    pub dataset: Option<u64>,
}

/// Requests of about one size, by the bytes that they work on. Each class is eight times as large as the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SizeClass(u8);

impl SizeClass {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// That of a request.
    pub fn of(request: &Request) -> Self {
        let doublings = u64::BITS - (request.worked_bytes() / SMALLEST_BYTES).leading_zeros();
        SizeClass(doublings.div_ceil(3).min(Self::COUNT as u32 - 1) as u8)
    }

    /// Its place among them.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What is smaller is of the first class.
const SMALLEST_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_eight_times_as_large_as_the_one_before() {
        let of = |scan_bytes| SizeClass::of(&Request { work: Work::Stateless, bytes_in: 0, scan_bytes }).0;
        assert_eq!([0, 4095, 4096, 32 << 10, 256 << 10, 2 << 20].map(of), [0, 0, 1, 2, 3, 4]);
        assert_eq!([(32 << 10) - 1, u64::MAX].map(of), [1, 7]);
    }
}
