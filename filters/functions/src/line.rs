//! Reading a dataset's file from its start, in pieces.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use crate::meter::{Held, Meter};
use crate::status::Fault;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// A file that is read piece by piece; each is counted, and takes as long as its medium does.
pub(crate) struct Pieces {
    file: File,
    piece: Box<[u8]>,
    /// What of it is to be taken.
    rest: std::ops::Range<usize>,
    ended: bool,
    meter: Arc<Meter>,
    _held: Held,
}

impl Pieces {
    pub(crate) fn new(file: File, meter: &Arc<Meter>) -> Result<Self, Fault> {
        let mut held = Held::none(meter);
        held.exactly(PIECE as u64)?;
        let piece = vec![0; PIECE].into_boxed_slice();
        Ok(Pieces { file, piece, rest: 0..0, ended: false, meter: meter.clone(), _held: held })
    }

    /// What was read and is not taken yet. Empty at the end of the file only.
    pub(crate) fn get(&mut self) -> Result<&[u8], Fault> {
        if self.rest.is_empty() && !self.ended {
            let count = loop {
                match self.file.read(&mut self.piece) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    read => {
                        break read
                            .map_err(|error| Fault::data(format!("the file cannot be read: {error}")))?;
                    }
                }
            };
            self.meter.read(count as u64)?;
            self.rest = 0..count;
            self.ended = count == 0;
        }
        Ok(&self.piece[self.rest.clone()])
    }

    /// So many bytes of that are taken.
    pub(crate) fn take(&mut self, count: usize) {
        self.rest.start = (self.rest.start + count).min(self.rest.end);
    }
}

/// The lines of a file.
pub(crate) struct Lines {
    pieces: Pieces,
    line: Vec<u8>,
    held: Held,
}

impl Lines {
    pub(crate) fn new(file: File, meter: &Arc<Meter>) -> Result<Self, Fault> {
        Ok(Lines { pieces: Pieces::new(file, meter)?, line: Vec::new(), held: Held::none(meter) })
    }

    /// The next line, without its end. None: there is none.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        self.line.clear();
        loop {
            let piece = self.pieces.get()?;
            if piece.is_empty() {
                return Ok((!self.line.is_empty()).then_some(&self.line));
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let part = end.unwrap_or(piece.len());
            self.held.at_least((self.line.len() + part) as u64)?;
            self.line.extend_from_slice(&piece[..part]);
            self.pieces.take(part + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(Some(&self.line));
            }
        }
    }
}
