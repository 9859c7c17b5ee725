//! CSV: a header, and a record a row. A cell without text has no value.

use std::fs::File;
use std::sync::Arc;

use csv_core::{ReadRecordResult, Reader};

use super::{Go, Row, Source, Wanted, places};
use crate::line::Pieces;
use crate::meter::{Held, Meter};
use crate::status::Fault;
use crate::value::Value;

/// Room for a record at first; it grows as far as the run's memory goes.
const FIRST_BYTES: usize = 4 << 10;
const FIRST_CELLS: usize = 64;

pub(super) struct Csv {
    records: Records,
    /// How many cells each record has.
    width: usize,
    /// Which of them are wanted.
    places: Vec<usize>,
    columns: Vec<String>,
    meter: Arc<Meter>,
}

impl Csv {
    pub(super) fn open(file: File, wanted: &Wanted<'_>, meter: &Arc<Meter>) -> Result<Self, Fault> {
        let mut records = Records::new(file, meter)?;
        let header = match records.next()? {
            true => (0..records.count).map(|cell| records.cell(cell).map(str::to_owned)).collect(),
            false => Ok(Vec::new()),
        };
        let header: Vec<String> = header?;
        let places = places(wanted, &header)?;
        let columns = places.iter().map(|place| header[*place].clone()).collect();
        Ok(Csv { records, width: header.len(), places, columns, meter: meter.clone() })
    }
}

impl Source for Csv {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn rows(&mut self, take: &mut dyn FnMut(Row<'_>) -> Result<Go, Fault>) -> Result<(), Fault> {
        while self.records.next()? {
            self.meter.row_in()?;
            let Records { count, number, .. } = self.records;
            if count != self.width {
                return Err(Fault::data(format!(
                    "record {number} has {count} cells, and the header {}",
                    self.width
                )));
            }
            let value = |place: &usize| {
                let cell = self.records.cell(*place)?;
                Ok(if cell.is_empty() { Value::Null } else { Value::Cell(cell) })
            };
            let values: Vec<Value<'_>> = self.places.iter().map(value).collect::<Result<_, Fault>>()?;
            if take(Row { values: &values, line: "" })? == Go::Enough {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The records of a file.
struct Records {
    pieces: Pieces,
    reader: Reader,
    bytes: Vec<u8>,
    /// Where each cell ends in `bytes`.
    ends: Vec<usize>,
    /// Cells of the record that was read last.
    count: usize,
    /// Its number, from 1, the header among them.
    number: u64,
    held: Held,
}

impl Records {
    fn new(file: File, meter: &Arc<Meter>) -> Result<Self, Fault> {
        let mut records = Records {
            pieces: Pieces::new(file, meter)?,
            reader: Reader::new(),
            bytes: vec![0; FIRST_BYTES],
            ends: vec![0; FIRST_CELLS],
            count: 0,
            number: 0,
            held: Held::none(meter),
        };
        records.hold()?;
        Ok(records)
    }

    fn hold(&mut self) -> Result<(), Fault> {
        self.held.exactly((self.bytes.len() + self.ends.len() * size_of::<usize>()) as u64)
    }

    /// Reads the next record. False: there is none.
    fn next(&mut self) -> Result<bool, Fault> {
        let (mut filled, mut cells) = (0, 0);
        loop {
            let piece = self.pieces.get()?;
            let (result, read, wrote, ended) =
                self.reader.read_record(piece, &mut self.bytes[filled..], &mut self.ends[cells..]);
            self.pieces.take(read);
            (filled, cells) = (filled + wrote, cells + ended);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    let more = self.bytes.len();
                    self.held.at_least((2 * more + self.ends.len() * size_of::<usize>()) as u64)?;
                    self.bytes.resize(2 * more, 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    let more = self.ends.len();
                    self.held.at_least((self.bytes.len() + 2 * more * size_of::<usize>()) as u64)?;
                    self.ends.resize(2 * more, 0);
                }
                ReadRecordResult::Record => {
                    self.count = cells;
                    self.number += 1;
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    /// A cell of the record that was read last.
    fn cell(&self, cell: usize) -> Result<&str, Fault> {
        let start = if cell == 0 { 0 } else { self.ends[cell - 1] };
        std::str::from_utf8(&self.bytes[start..self.ends[cell]])
            .map_err(|_| Fault::data(format!("record {}: cell {} is not UTF-8", self.number, cell + 1)))
    }
}
