//! SETTINGS (RFC 9113 §6.5): what this side says, and what the peer has said.

use std::time::Instant;

use super::{Connection, Fault, Side};
use crate::http::h2::frame::{self, Code, Kind};

/// The dynamic table that either side has before anything else is said, bytes.
pub(super) const TABLE: usize = 4096;

/// The window that each stream, and the connection, has before anything else is said, bytes.
pub(super) const WINDOW: u32 = 65_535;

/// The largest frame that may be sent to this side, bytes: it asks for no other.
pub(super) const FRAME: usize = 16_384;

/// No window may become larger.
pub(super) const LARGEST_WINDOW: i64 = (1 << 31) - 1;

/// What the peer has said.
#[derive(Debug)]
pub(super) struct Peer {
    /// Streams at once; `None` before it has said anything.
    pub(super) allowed: Option<u32>,
    /// The window of a new stream.
    pub(super) window: u32,
    /// The largest frame.
    pub(super) frame: usize,
}

impl Default for Peer {
    fn default() -> Self {
        Peer { allowed: None, window: WINDOW, frame: FRAME }
    }
}

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// What a client says before anything else (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Connection {
    /// Says first what has to be said first.
    pub(super) fn greet(&mut self) {
        if self.side == Side::Client {
            self.outbox.copy(PREFACE);
        }
        let role = match self.side {
            Side::Client => (ENABLE_PUSH, 0),
            Side::Server => (MAX_CONCURRENT_STREAMS, self.limits.streams),
        };
        let all = [
            role,
            (INITIAL_WINDOW_SIZE, self.limits.stream_window),
            (MAX_HEADER_LIST_SIZE, self.limits.head_list),
        ];
        self.outbox.put(|out| {
            frame::put_head(out, 6 * all.len(), Kind::Settings, 0, 0);
            for (name, value) in all {
                out.extend_from_slice(&name.to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
        });
        let more = self.limits.window.saturating_sub(WINDOW);
        if more > 0 {
            self.put_window_update(0, more);
        }
    }

    /// SETTINGS have come.
    pub(super) fn settings_came(&mut self, now: Instant, flags: u8, payload: &[u8]) -> Result<(), Fault> {
        if flags & frame::ACK != 0 {
            return match payload.is_empty() {
                true => self.useless(now),
                false => Err(Fault::new(Code::FRAME_SIZE_ERROR, "an acknowledgement says something")),
            };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Fault::new(Code::FRAME_SIZE_ERROR, "SETTINGS of half a setting"));
        }
        if !self.settings_seen.count(now, self.limits.settings_per_second) {
            return Err(Fault::new(Code::ENHANCE_YOUR_CALM, "too many SETTINGS"));
        }
        let mut resized = false;
        for setting in payload.as_chunks::<6>().0 {
            let [n1, n0, value @ ..] = *setting;
            let name = u16::from_be_bytes([n1, n0]);
            // Each concerns every stream, so that a frame with a thousand of them is a thousand SETTINGS.
            let again = name == INITIAL_WINDOW_SIZE && std::mem::replace(&mut resized, true);
            if again && !self.settings_seen.count(now, self.limits.settings_per_second) {
                return Err(Fault::new(Code::ENHANCE_YOUR_CALM, "too many SETTINGS"));
            }
            self.setting_came(name, u32::from_be_bytes(value))?;
        }
        self.peer.allowed.get_or_insert(u32::MAX);
        self.reply(Kind::Settings, frame::ACK, 0, &[])
    }

    fn setting_came(&mut self, name: u16, value: u32) -> Result<(), Fault> {
        match name {
            // A table that is larger than this side wants to keep is its own to use or not.
            HEADER_TABLE_SIZE => self.encoder.resize((value as usize).min(TABLE)),
            ENABLE_PUSH if value > 1 || (value == 1 && self.side == Side::Client) => {
                return Err(Fault::new(Code::PROTOCOL_ERROR, "ENABLE_PUSH that is not 0 or 1"));
            }
            MAX_CONCURRENT_STREAMS => self.peer.allowed = Some(value),
            INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
            MAX_FRAME_SIZE => {
                let size = value as usize;
                if !(FRAME..=frame::LARGEST).contains(&size) {
                    return Err(Fault::new(Code::PROTOCOL_ERROR, "MAX_FRAME_SIZE out of its bounds"));
                }
                self.peer.frame = size;
            }
            // The rest says nothing that this side would do otherwise.
            _ => {}
        }
        Ok(())
    }
}
