//! Flow control (RFC 9113 §5.2): what may be sent, in turn, and what may come.

use super::settings::LARGEST_WINDOW;
use super::{Connection, Fault, Key};
use crate::http::h2::frame::{self, Code, Kind};

/// What of the connection's room is kept for a stream whose turn it is, bytes.
const QUANTUM: usize = 16 * 1024;

impl Connection {
    /// How much of a body may be sent on a stream now, at most `want`. Zero: it is woken when there is room again.
    pub fn capacity(&mut self, key: Key, want: usize) -> usize {
        let (room, queue) = (self.room(), !self.starved.is_empty());
        let Some(stream) = self.streams.get_mut(key.0) else { return 0 };
        if stream.closed || stream.out.ended || want == 0 {
            return 0;
        }
        let out = &mut stream.out;
        let own = usize::try_from(out.window).unwrap_or(0);
        if own == 0 {
            out.blocked = true;
            self.give_back(key.0);
            return 0;
        }
        let shared = match out.grant {
            0 if queue => 0,
            0 => room,
            grant => grant,
        };
        if shared == 0 && !out.starved {
            out.starved = true;
            self.starved.push_back(key.0);
        }
        own.min(shared).min(want)
    }

    /// What of it is used. What was kept for the stream beyond that is for others: it may not send more for hours.
    pub(super) fn use_up(&mut self, key: usize, bytes: usize) {
        self.window_out -= bytes as i64;
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.out.window -= bytes as i64;
        let kept = std::mem::take(&mut stream.out.grant);
        self.granted -= kept;
        if kept > bytes {
            self.feed_starved();
        }
    }

    /// A stream needs no room any more, for now or for ever.
    pub(super) fn give_back(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        self.granted -= std::mem::take(&mut stream.out.grant);
        if std::mem::take(&mut stream.out.starved) {
            self.starved.retain(|other| *other != key);
        }
        self.feed_starved();
    }

    /// Lets those that wait for room have it, in turn.
    pub(super) fn feed_starved(&mut self) {
        while let Some(&key) = self.starved.front() {
            let room = self.room();
            if room == 0 {
                return;
            }
            self.starved.pop_front();
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.out.starved = false;
            stream.out.grant = room.min(QUANTUM);
            self.granted += stream.out.grant;
            self.wake(key);
        }
    }

    /// What may still be sent on the connection, and is not kept for anybody. Not a few bytes at a time, as the socket takes
    /// them: peers count frames that are too small.
    fn room(&self) -> usize {
        let window = usize::try_from(self.window_out).unwrap_or(0).saturating_sub(self.granted);
        match self.limits.unsent.saturating_sub(self.outbox.len() + self.granted) {
            0 => 0,
            unsent => window.min(unsent.max(QUANTUM)),
        }
    }

    /// WINDOW_UPDATE has come for the connection.
    pub(super) fn window_grows(&mut self, more: u32) -> Result<(), Fault> {
        self.window_out += i64::from(more);
        if more == 0 {
            return Err(Fault::new(Code::PROTOCOL_ERROR, "a window grows by nothing"));
        }
        if self.window_out > LARGEST_WINDOW {
            return Err(Fault::new(Code::FLOW_CONTROL_ERROR, "the connection's window is too large"));
        }
        self.feed_starved();
        Ok(())
    }

    /// WINDOW_UPDATE has come for a stream. Which error of that stream it is, if it is one.
    pub(super) fn stream_window_grows(&mut self, key: usize, more: u32) -> Option<Code> {
        let out = &mut self.streams.get_mut(key)?.out;
        if more == 0 {
            return Some(Code::PROTOCOL_ERROR);
        }
        out.window += i64::from(more);
        if out.window > LARGEST_WINDOW {
            return Some(Code::FLOW_CONTROL_ERROR);
        }
        if out.window > 0 && std::mem::take(&mut out.blocked) {
            self.wake(key);
        }
        None
    }

    /// The peer has changed the window with which streams begin: it counts for those that are open, too.
    pub(super) fn resize_windows(&mut self, window: u32) -> Result<(), Fault> {
        let too_large = Fault::new(Code::FLOW_CONTROL_ERROR, "a window is too large");
        if i64::from(window) > LARGEST_WINDOW {
            return Err(too_large);
        }
        let change = i64::from(window) - i64::from(self.peer.window);
        self.peer.window = window;
        let mut grown = Vec::new();
        for (key, stream) in &mut self.streams {
            let out = &mut stream.out;
            out.window += change;
            if out.window > LARGEST_WINDOW {
                return Err(too_large);
            }
            if out.window > 0 && std::mem::take(&mut out.blocked) {
                grown.push(key);
            }
        }
        grown.into_iter().for_each(|key| self.wake(key));
        Ok(())
    }

    /// `bytes` of what was read from a stream are no longer held.
    pub fn release(&mut self, key: Key, bytes: usize) {
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        let inward = &mut stream.inward;
        let bytes = inward.held.min(u32::try_from(bytes).unwrap_or(u32::MAX));
        inward.held -= bytes;
        inward.window.release(bytes);
        self.window.release(bytes);
        let id = stream.id;
        if !inward.ended && !stream.closed && inward.window.is_due() {
            let granted = inward.window.grant();
            self.put_window_update(id, granted);
        }
        self.grant_window();
    }

    /// `bytes` came that nobody will read.
    pub(super) fn release_unread(&mut self, bytes: usize) {
        self.window.release(bytes as u32);
        self.grant_window();
    }

    /// Grants the connection's window anew when that is due.
    pub(super) fn grant_window(&mut self) {
        if self.fault.is_none() && self.window.is_due() {
            let granted = self.window.grant();
            self.put_window_update(0, granted);
        }
    }

    pub(super) fn put_window_update(&mut self, stream: u32, more: u32) {
        self.outbox.put(|out| {
            frame::put_head(out, 4, Kind::WindowUpdate, 0, stream);
            out.extend_from_slice(&more.to_be_bytes());
        });
    }
}
