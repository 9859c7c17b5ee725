//! A TLS session whose content is sealed and opened here, with no copy between the records and those whose it is.
//!
//! Rustls is at work on all the rest, as in any connection: what is no content is given to it as it came, and a record that
//! cannot be opened too. So it knows of each alert and each new key, answers, and says what is wrong.

use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;

use rustls::{CommonState, Connection, Error};
use tokio::io::ReadBuf;

use super::keys::{HEADER_BYTES, TAG_BYTES, Way, Ways, caught};
use crate::link::carrier::Walk;

/// One end of a TLS 1.3 session whose handshake is done.
pub(super) struct Session {
    tls: Connection,
    out: Arc<Way>,
    inward: Arc<Way>,
    /// Where the record ends of which rustls has a part, from the time of the handshake.
    lead: Walk,
    /// The next record is for rustls, whatever it is. It follows one that was no content: rustls hears that content came
    /// behind it, and judges whether it may.
    aside: bool,
    /// Rustls has content that was not taken.
    holds: bool,
    /// Content that did not fit where it was to go,
    rest: Vec<u8>,
    /// and how much of it was taken.
    taken: usize,
    /// Rustls may have something to say.
    unsaid: bool,
    /// The peer has said that this is its end.
    ended: bool,
    /// A key is replaced once it has sealed so many records.
    rekey: u64,
}

impl Session {
    /// Of `tls`, whose keys these are, and which was given all up to `lead`.
    pub(super) fn new(tls: Connection, [out, inward]: [Arc<Way>; 2], lead: Walk) -> Self {
        Session {
            tls,
            out,
            inward,
            lead,
            aside: true,
            holds: true,
            rest: Vec::new(),
            taken: 0,
            unsaid: true,
            ended: false,
            rekey: REKEY,
        }
    }

    /// What is known of the other side.
    pub(super) fn state(&self) -> &CommonState {
        &self.tls
    }

    /// The session's exporter: see [`rustls::ConnectionCommon::export_keying_material`].
    pub(super) fn export<T: AsMut<[u8]>>(&self, output: T, label: &[u8], context: &[u8]) -> Result<T, Error> {
        self.tls.export_keying_material(output, label, Some(context))
    }

    /// Whether the peer has said that this is its end.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether there may be something to [`say`](Session::say).
    pub(super) fn has_unsaid(&self) -> bool {
        self.unsaid
    }

    /// Appends to `out` what is to be said beside content: alerts, new keys.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if !std::mem::take(&mut self.unsaid) {
            return Ok(());
        }
        // Rustls says that a key is new, where the peer has asked for it, with whatever is written next.
        // One that has failed says no more than why.
        let _ = self.with(|tls| tls.writer().write(&[]));
        while self.tls.wants_write() {
            self.tls.write_tls(out)?;
        }
        Ok(())
    }

    /// Seals the front of `slices`, one behind the other, and appends the records to `out`. Says how many bytes that is, which
    /// is not all where it is much.
    pub(super) fn seal(&mut self, slices: &[IoSlice<'_>], out: &mut Vec<u8>) -> io::Result<usize> {
        self.say(out)?;
        let (mut parts, mut part) = (slices.iter(), &[][..]);
        let mut left = slices.iter().map(|slice| slice.len()).sum::<usize>().min(MOST_AT_ONCE);
        let all = left;
        while left > 0 {
            if self.out.count() >= self.rekey {
                self.with(Connection::refresh_traffic_keys).map_err(io::Error::other)?;
                self.unsaid = true;
                self.say(out)?;
            }
            let length = left.min(MOST_CONTENT);
            left -= length;
            let sealed = length + 1 + TAG_BYTES;
            let [high, low] = (sealed as u16).to_be_bytes();
            let header = [CONTENT, 3, 3, high, low];
            let before = out.len();
            out.extend_from_slice(&header);
            let start = out.len();
            while out.len() < start + length {
                let (front, behind) = part.split_at(part.len().min(start + length - out.len()));
                out.extend_from_slice(front);
                part = behind;
                if part.is_empty() {
                    let Some(next) = parts.next() else { break };
                    part = next;
                }
            }
            out.push(CONTENT);
            match self.out.seal(header, &mut out[start..]) {
                Ok(tag) => out.extend_from_slice(&tag),
                Err(error) => {
                    // What is not sealed is never to go out.
                    out.truncate(before);
                    return Err(io::Error::other(error));
                }
            }
        }
        Ok(all)
    }

    /// Says that this is this side's end. Nothing is sealed any more.
    pub(super) fn close(&mut self) {
        self.tls.send_close_notify();
        self.unsaid = true;
    }

    /// Takes content that was opened before. To be called before [`open`](Session::open).
    pub(super) fn take(&mut self, to: &mut ReadBuf<'_>) {
        let rest = &self.rest[self.taken..];
        let fitting = rest.len().min(to.remaining());
        to.put_slice(&rest[..fitting]);
        self.taken += fitting;
        if self.taken == self.rest.len() {
            (self.rest, self.taken) = (Vec::new(), 0);
        }
        while self.holds && to.remaining() > 0 {
            let mut reader = self.tls.reader();
            let Ok(chunk @ [_, ..]) = reader.fill_buf() else {
                self.holds = false;
                return;
            };
            let fitting = chunk.len().min(to.remaining());
            to.put_slice(&chunk[..fitting]);
            reader.consume(fitting);
        }
    }

    /// Opens the first record of `came` into `to`, and does what it says. Gives how many bytes of `came` are done with. 0: the
    /// rest of the record is to come first, or room for what was opened before. `is_enough`: what may not fit waits for the next
    /// read, as each that does not is copied once more.
    ///
    /// Fails as rustls does. Nothing can be opened any more then, and the peer is to be told.
    pub(super) fn open(
        &mut self,
        came: &[u8],
        to: &mut ReadBuf<'_>,
        is_enough: bool,
    ) -> Result<usize, Error> {
        if self.holds || !self.rest.is_empty() || to.remaining() == 0 {
            return Ok(0);
        }
        if !self.lead.is_at_boundary() {
            let part = self.lead.to_boundary(came);
            self.lead.pass(&came[..part]);
            self.give(&came[..part])?;
            return Ok(part);
        }
        let Some(&[kind, _, _, high, low]) = came.first_chunk() else { return Ok(0) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MOST_SEALED {
            // It does not have to be waited for.
            self.give(came)?;
            return Ok(came.len());
        }
        let Some(record) = came.get(..HEADER_BYTES + length) else { return Ok(0) };
        if is_enough && length > to.remaining() + TAG_BYTES {
            return Ok(0);
        }
        if kind != CONTENT || self.aside || !self.open_content(record, to) {
            self.give(record)?;
        }
        Ok(record.len())
    }

    /// Opens a record that holds content. False: it is for rustls.
    fn open_content(&mut self, record: &[u8], to: &mut ReadBuf<'_>) -> bool {
        let Some((header, sealed)) = record.split_first_chunk() else { return false };
        let Some(length) = sealed.len().checked_sub(TAG_BYTES) else { return false };
        let fits = length <= to.remaining();
        let room = if fits {
            to.initialize_unfilled_to(length)
        } else {
            self.rest.resize(length, 0);
            &mut self.rest[..]
        };
        let content = self.inward.open(*header, sealed, room).then(|| content_of(room)).flatten();
        if content.is_some() {
            self.inward.opened();
        }
        if fits {
            to.advance(content.unwrap_or(0));
        } else {
            self.rest.truncate(content.unwrap_or(0));
            self.take(to);
        }
        content.is_some()
    }

    /// Gives rustls what came, a record or a part of one.
    fn give(&mut self, mut came: &[u8]) -> Result<(), Error> {
        self.unsaid = true;
        while !came.is_empty() {
            match self.tls.read_tls(&mut came) {
                // Behind the peer's end.
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // It holds too much, which it never does here.
                Err(full) => return Err(Error::General(full.to_string())),
            }
            let state = self.with(Connection::process_new_packets)?;
            self.holds = state.plaintext_bytes_to_read() > 0;
            self.ended |= state.peer_has_closed();
        }
        self.aside = !self.holds;
        Ok(())
    }

    /// Has rustls do something, after which the keys may be others.
    fn with<T>(&mut self, does: impl FnOnce(&mut Connection) -> T) -> T {
        let mut ways = Ways::default();
        let done = caught(&mut ways, || does(&mut self.tls));
        if let Some(out) = ways.out {
            self.out = out;
        }
        if let Some(inward) = ways.inward {
            self.inward = inward;
        }
        done
    }
}

/// How much content stands at the front of what was in a record. None: it is something else, nothing, or too much.
fn content_of(opened: &[u8]) -> Option<usize> {
    let end = opened.iter().rposition(|byte| *byte != 0)?;
    (opened[end] == CONTENT && (1..=MOST_CONTENT).contains(&end)).then_some(end)
}

#[cfg(test)]
impl Session {
    /// A key is replaced once it has sealed so many records.
    pub(super) fn rekey_after(&mut self, records: u64) {
        self.rekey = records;
    }

    /// The keys.
    pub(super) fn ways(&self) -> (&Way, &Way) {
        (&self.out, &self.inward)
    }
}

/// The type of a record that holds content, and of every one that is sealed.
const CONTENT: u8 = 23;

/// Content of one record.
pub(super) const MOST_CONTENT: usize = 16 * 1024;

/// What is sealed at once.
pub(super) const MOST_AT_ONCE: usize = 4 * MOST_CONTENT;

/// The longest record that rustls looks at, its header not counted.
pub(super) const MOST_SEALED: usize = MOST_CONTENT + 2048;

/// Half of what the least of AES-GCM's limits lets a key seal (RFC 8446, 5.5), at 16 KiB 128 GiB.
const REKEY: u64 = 1 << 23;
