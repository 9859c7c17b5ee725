//! The prior: what is expected of a place before anything was measured there.

use crate::request::Request;

/// What a place is said to be like. Wrong numbers cost some requests until answers have corrected them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// How fast requests and answers get there and back, in bytes a second.
    pub link_bytes_per_second: f64,
    /// How fast it reads the data, in bytes a second: a device from its own media, the host over its storage link.
    pub data_bytes_per_second: f64,
    /// κ: how many times as long as on the reference host a function takes.
    pub compute_factor: f64,
    /// How many requests it works on at once.
    pub slots: u32,
    /// What it draws while it works, in watts above idle.
    pub busy_watts: f64,
    /// What it costs to move a byte to or from it, in joules.
    pub joules_per_byte: f64,
    /// Whether the data that it reads is moved to it, as that of a host with its storage elsewhere is.
    pub is_data_moved: bool,
}

/// `a + b·bytes`: how long a function takes on the reference host, without reading its data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FunctionCost {
    /// In seconds, whatever the size.
    pub seconds: f64,
    /// In seconds for each byte that it works on.
    pub seconds_per_byte: f64,
}

/// What a request is expected to take at a place, in seconds, before any correction and without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Terms {
    pub(crate) input: f64,
    pub(crate) scan: f64,
    pub(crate) compute: f64,
    pub(crate) output: f64,
}

impl Profile {
    pub(crate) fn terms(&self, request: &Request, bytes_out: f64, cost: &FunctionCost) -> Terms {
        let worked = cost.seconds + cost.seconds_per_byte * request.worked_bytes() as f64;
        Terms {
            input: request.bytes_in as f64 / self.link_bytes_per_second,
            scan: request.scan_bytes as f64 / self.data_bytes_per_second,
            compute: worked * self.compute_factor,
            output: bytes_out / self.link_bytes_per_second,
        }
    }

    /// Bytes that cross the network if the request runs here.
    pub fn moved_bytes(&self, request: &Request, bytes_out: f64) -> f64 {
        let scanned = if self.is_data_moved { request.scan_bytes as f64 } else { 0.0 };
        request.bytes_in as f64 + bytes_out + scanned
    }
}
