//! `compress`: a dataset's file as it is, in fewer bytes.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::device::{Dataset, Out};
use crate::encode::Sink;
use crate::line::Pieces;
use crate::meter::{Held, Meter};
use crate::query::{Codec, Query};
use crate::source;
use crate::status::Fault;

/// What the encoder keeps for itself, in bytes: its window, its tables and what waits to be written.
const ENCODER: u64 = 512 << 10;

pub(super) fn compress(
    dataset: &Dataset,
    query: Query,
    meter: &Arc<Meter>,
    out: &mut dyn Out,
) -> Result<(), Fault> {
    let Codec::Gzip = query.codec.unwrap_or(Codec::Gzip);
    let mut held = Held::none(meter);
    held.exactly(ENCODER)?;
    let mut pieces = Pieces::new(source::file(dataset)?, meter)?;
    let sink = Sink::new(out, meter, "application/gzip")?;
    // No name and no time in the head: the same bytes from every copy.
    let mut encoder = GzEncoder::new(Bridge { sink, fault: None }, Compression::default());
    loop {
        let piece = pieces.get()?;
        if piece.is_empty() {
            break;
        }
        let written = encoder.write_all(piece);
        let length = piece.len();
        if let Err(error) = written {
            return Err(encoder.get_mut().explain(error));
        }
        pieces.take(length);
    }
    if let Err(error) = encoder.try_finish() {
        return Err(encoder.get_mut().explain(error));
    }
    let bridge = encoder.finish().map_err(|error| Fault::data(error.to_string()))?;
    bridge.sink.end()
}

/// A sink as the encoder wants it, which knows no faults of ours.
struct Bridge<'o> {
    sink: Sink<'o>,
    fault: Option<Fault>,
}

impl Bridge<'_> {
    /// What was at fault when the encoder says this.
    fn explain(&mut self, error: io::Error) -> Fault {
        self.fault.take().unwrap_or_else(|| Fault::data(error.to_string()))
    }
}

impl Write for Bridge<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.sink.add(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(fault) => {
                self.fault = Some(fault);
                Err(io::Error::other("no more is taken"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
