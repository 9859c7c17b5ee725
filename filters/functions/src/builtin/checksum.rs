//! `checksum`: a sum over the bytes of a dataset's file, so that two copies can be compared without moving either.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::crc32c::Crc32c;
use crate::device::{Dataset, Format, Out};
use crate::encode::Rows;
use crate::line::Pieces;
use crate::meter::Meter;
use crate::query::{Algorithm, Query};
use crate::source;
use crate::status::Fault;
use crate::value::Value;

pub(super) fn checksum(
    dataset: &Dataset,
    query: Query,
    meter: &Arc<Meter>,
    out: &mut dyn Out,
) -> Result<(), Fault> {
    let algorithm = query.algorithm.unwrap_or(Algorithm::Sha256);
    let mut pieces = Pieces::new(source::file(dataset)?, meter)?;
    let (mut sha256, mut crc32c) = (Sha256::new(), Crc32c::default());
    let mut bytes = 0_i64;
    loop {
        let piece = pieces.get()?;
        if piece.is_empty() {
            break;
        }
        match algorithm {
            Algorithm::Sha256 => sha256.update(piece),
            Algorithm::Crc32c => crc32c.update(piece),
        }
        let length = piece.len();
        bytes += length as i64;
        pieces.take(length);
    }
    let digest = match algorithm {
        Algorithm::Sha256 => sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        Algorithm::Crc32c => format!("{:08x}", crc32c.sum()),
    };
    let columns = ["algorithm", "bytes", "digest"].map(str::to_owned);
    let mut rows = Rows::new(out, meter, query.format.unwrap_or(Format::Jsonl), &columns)?;
    let values = [Value::Text(algorithm.name()), Value::Int(bytes), Value::Text(&digest)];
    rows.row(values.into_iter())?;
    rows.end()
}
