//! Datasets as rows, whatever they are written in.

use std::fs::File;
use std::sync::Arc;

use crate::condition::Condition;
use crate::device::{Dataset, Format};
use crate::meter::Meter;
use crate::status::{Fault, Status};
use crate::value::Value;

mod csv;
mod jsonl;
mod parquet;

/// What of a dataset is wanted.
pub(crate) struct Wanted<'q> {
    /// The columns whose values are wanted, in this order. None: all of them.
    pub(crate) columns: Option<Vec<&'q str>>,
    /// Rows for which this does not hold may be left out, where that saves reading them.
    pub(crate) condition: Option<&'q Condition<String>>,
}

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'r> {
    /// The values of the source's columns.
    pub(crate) values: &'r [Value<'r>],
    /// The whole record as it stands in the file, where that is a line of JSON.
    pub(crate) line: &'r str,
}

/// Whether more rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    On,
    Enough,
}

/// A dataset that is read.
pub(crate) trait Source {
    /// The names of a row's values.
    fn columns(&self) -> &[String];

    /// Gives `take` every row, in the order of the file, until that has enough.
    fn rows(&mut self, take: &mut dyn FnMut(Row<'_>) -> Result<Go, Fault>) -> Result<(), Fault>;
}

/// Opens a dataset. Faults of what is wanted are told before a row is read.
pub(crate) fn open(
    dataset: &Dataset,
    wanted: &Wanted<'_>,
    meter: &Arc<Meter>,
) -> Result<Box<dyn Source>, Fault> {
    let file = file(dataset)?;
    Ok(match dataset.format {
        Format::Csv => Box::new(csv::Csv::open(file, wanted, meter)?),
        Format::Jsonl => Box::new(jsonl::Jsonl::open(file, wanted, meter)?),
        Format::Parquet => Box::new(parquet::Parquet::open(file, wanted, meter)?),
    })
}

/// Opens a dataset's file.
pub(crate) fn file(dataset: &Dataset) -> Result<File, Fault> {
    let opened = File::open(&dataset.path).and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is not a regular file")),
    });
    opened.map_err(|error| Fault::data(format!("dataset `{}`: {error}", dataset.name)))
}

/// Places of the wanted columns among those that there are.
fn places(wanted: &Wanted<'_>, there: &[String]) -> Result<Vec<usize>, Fault> {
    let Some(wanted) = &wanted.columns else { return Ok((0..there.len()).collect()) };
    let place = |name: &&str| {
        there.iter().position(|column| column == name).ok_or_else(|| {
            let mut known: Vec<&str> = there.iter().take(20).map(String::as_str).collect();
            if there.len() > known.len() {
                known.push("…");
            }
            let (name, known) = (name.escape_debug(), known.join("`, `"));
            Fault::new(Status::InvalidArg, format!("there is no column `{name}`; there are `{known}`"))
        })
    };
    wanted.iter().map(place).collect()
}
