//! `scan`, and its halves `filter` and `project`: the rows and columns that are asked for.

use std::sync::Arc;

use crate::condition::Condition;
use crate::device::{Dataset, Format, Out};
use crate::encode::Rows;
use crate::meter::Meter;
use crate::query::Query;
use crate::source::{self, Go, Row, Wanted};
use crate::status::Fault;

/// Some rows, all columns.
pub(super) fn filter(
    dataset: &Dataset,
    query: Query,
    meter: &Arc<Meter>,
    out: &mut dyn Out,
) -> Result<(), Fault> {
    if query.condition.is_none() {
        return Err(Fault::argument("`filter` needs `where`"));
    }
    scan(dataset, query, meter, out)
}

/// All rows, some columns.
pub(super) fn project(
    dataset: &Dataset,
    query: Query,
    meter: &Arc<Meter>,
    out: &mut dyn Out,
) -> Result<(), Fault> {
    if query.select.is_none() {
        return Err(Fault::argument("`project` needs `select`"));
    }
    scan(dataset, query, meter, out)
}

/// Some rows, some columns.
pub(super) fn scan(
    dataset: &Dataset,
    query: Query,
    meter: &Arc<Meter>,
    out: &mut dyn Out,
) -> Result<(), Fault> {
    let Query { condition, select, format, limit, .. } = query;
    let format = format.unwrap_or(match dataset.format {
        Format::Csv => Format::Csv,
        Format::Jsonl | Format::Parquet => Format::Jsonl,
    });
    // Lines of JSON as they are need no names of columns, and nobody knows those before the end.
    let as_they_are = select.is_none() && dataset.format == Format::Jsonl;
    if as_they_are && format == Format::Csv {
        return Err(Fault::argument("JSON lines as CSV need `select`: the columns have to be known at once"));
    }
    // Whatever is asked for comes first in a row, what only the condition looks at after it.
    let mut columns: Option<Vec<&str>> =
        select.as_ref().map(|select| select.iter().map(String::as_str).collect());
    if let Some(columns) = &mut columns {
        for name in condition.iter().flat_map(Condition::columns) {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
    }
    let wanted = Wanted { columns, condition: condition.as_ref() };
    let mut source = source::open(dataset, &wanted, meter)?;
    let shown = select.as_ref().map_or(source.columns().len(), Vec::len);
    let condition = condition.map(|condition| bind(&condition, source.columns())).transpose()?;
    let names = if as_they_are { &[] } else { &source.columns()[..shown] };
    let mut rows = Rows::new(out, meter, format, names)?;
    let mut left = limit.unwrap_or(u64::MAX);
    if left > 0 {
        source.rows(&mut |Row { values, line }| {
            if condition.as_ref().is_some_and(|condition| !condition.takes(values)) {
                return Ok(Go::On);
            }
            if as_they_are {
                rows.line(line)?;
            } else {
                rows.row(values[..shown].iter().copied())?;
            }
            left -= 1;
            Ok(if left == 0 { Go::Enough } else { Go::On })
        })?;
    }
    rows.end()
}

/// A condition on the places of these columns.
pub(super) fn bind(condition: &Condition<String>, columns: &[String]) -> Result<Condition<usize>, Fault> {
    condition.map(&mut |name| {
        let place = columns.iter().position(|column| column == name);
        place.ok_or_else(|| Fault::argument(format!("there is no column `{}`", name.escape_debug())))
    })
}
