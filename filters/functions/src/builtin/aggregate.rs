//! `aggregate`: counts, sums, least, most and average, over all rows or by the values of columns.
//!
//! A row without a value in a measure's column does not count for that measure. Groups come in the order in which the
//! dataset has them first, and are told apart by how their values are written. Numbers are added in the order of the
//! rows, whole ones without a loss, so that every device gives the same digits.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::scan::bind;
use crate::condition::Condition;
use crate::device::{Dataset, Format, Out};
use crate::encode::Rows;
use crate::meter::{Held, Meter};
use crate::query::{Aggregate, Measure, Query};
use crate::source::{self, Go, Wanted};
use crate::status::Fault;
use crate::value::{Number, Value};

/// What a group takes beside its values, in bytes, as far as that can be told.
const GROUP: u64 = 128;

pub(super) fn aggregate(
    dataset: &Dataset,
    query: Query,
    meter: &Arc<Meter>,
    out: &mut dyn Out,
) -> Result<(), Fault> {
    let Query { condition, format, compute, by, .. } = query;
    if compute.is_empty() {
        return Err(Fault::argument("`aggregate` needs `compute`, such as `count,sum(amount)`"));
    }
    let mut columns: Vec<&str> = Vec::new();
    let of_measures = compute.iter().filter_map(|measure| measure.column.as_deref());
    let of_condition = condition.iter().flat_map(Condition::columns);
    for name in by.iter().map(String::as_str).chain(of_measures).chain(of_condition) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let wanted = Wanted { columns: Some(columns), condition: condition.as_ref() };
    let mut source = source::open(dataset, &wanted, meter)?;
    let places = Places::of(&by, &compute, source.columns());
    let condition = condition.map(|condition| bind(&condition, source.columns())).transpose()?;
    let mut groups =
        Groups { places, found: HashMap::new(), groups: Vec::new(), held: Held::none(meter), bytes: 0 };
    if by.is_empty() {
        // Of no rows there is something to say too.
        groups.of(&[])?;
    }
    source.rows(&mut |row| {
        if condition.as_ref().is_none_or(|condition| condition.takes(row.values)) {
            groups.add(row.values)?;
        }
        Ok(Go::On)
    })?;
    let format = format.unwrap_or(match dataset.format {
        Format::Csv => Format::Csv,
        Format::Jsonl | Format::Parquet => Format::Jsonl,
    });
    let mut names = by;
    names.extend(compute.iter().map(Measure::to_string));
    let mut rows = Rows::new(out, meter, format, &names)?;
    for group in &groups.groups {
        let measures = compute.iter().zip(&group.states).map(|(measure, state)| state.value(measure));
        rows.row(group.by.iter().map(Kept::borrow).chain(measures))?;
    }
    rows.end()
}

/// Where in a row the values are that count.
struct Places {
    by: Vec<usize>,
    /// For each measure; none where it is over rows.
    measures: Vec<(Aggregate, Option<usize>)>,
}

impl Places {
    fn of(by: &[String], compute: &[Measure], columns: &[String]) -> Self {
        let place = |name: &String| columns.iter().position(|column| column == name);
        Places {
            by: by.iter().filter_map(place).collect(),
            measures: compute.iter().map(|one| (one.of, one.column.as_ref().and_then(place))).collect(),
        }
    }
}

struct Groups {
    places: Places,
    found: HashMap<Box<[u8]>, usize>,
    groups: Vec<Group>,
    held: Held,
    bytes: u64,
}

struct Group {
    by: Vec<Kept>,
    states: Vec<State>,
}

impl Groups {
    /// The group of a row.
    fn of(&mut self, row: &[Value<'_>]) -> Result<usize, Fault> {
        let by = || self.places.by.iter().map(|place| row.get(*place).copied().unwrap_or(Value::Null));
        let mut key = Vec::new();
        by().for_each(|value| put_key(&mut key, value));
        if let Some(found) = self.found.get(&*key) {
            return Ok(*found);
        }
        let states = vec![State::default(); self.places.measures.len()];
        let group = Group { by: by().map(Kept::of).collect(), states };
        let measures = self.places.measures.len() * size_of::<State>();
        self.bytes += GROUP + 2 * key.len() as u64 + measures as u64;
        self.held.exactly(self.bytes)?;
        self.groups.push(group);
        self.found.insert(key.into(), self.groups.len() - 1);
        Ok(self.groups.len() - 1)
    }

    fn add(&mut self, row: &[Value<'_>]) -> Result<(), Fault> {
        let group = self.of(row)?;
        let states = &mut self.groups[group].states;
        for ((of, place), state) in self.places.measures.iter().zip(states) {
            let value = place.map(|place| row.get(place).copied().unwrap_or(Value::Null));
            match value {
                Some(Value::Null) => {}
                None => state.count += 1,
                Some(value) => {
                    let before = state.bytes();
                    state.add(*of, value)?;
                    self.bytes = self.bytes + state.bytes() - before;
                }
            }
        }
        self.held.exactly(self.bytes)
    }
}

/// What one measure of a group has come to.
#[derive(Clone, Debug, Default)]
struct State {
    count: u64,
    /// Of whole numbers.
    whole: i128,
    /// Of the others, if there was one.
    rest: Option<f64>,
    /// The least or the most so far.
    end: Option<Kept>,
}

impl State {
    /// Adds a value.
    fn add(&mut self, of: Aggregate, value: Value<'_>) -> Result<(), Fault> {
        self.count += 1;
        match of {
            Aggregate::Count => Ok(()),
            Aggregate::Sum | Aggregate::Avg => {
                match value.number() {
                    // Not more than 2^64 rows of 2^63 each: it always fits.
                    Some(Number::Int(number)) => self.whole += i128::from(number),
                    Some(Number::Float(number)) => self.rest = Some(self.rest.unwrap_or(0.0) + number),
                    None => return Err(not_a_number(value)),
                }
                Ok(())
            }
            Aggregate::Min => self.replace(value, Ordering::Less),
            Aggregate::Max => self.replace(value, Ordering::Greater),
        }
    }

    fn replace(&mut self, value: Value<'_>, wanted: Ordering) -> Result<(), Fault> {
        if matches!(value, Value::Json(text) if Number::parse(text).is_none()) {
            return Err(Fault::data("lists and objects have no least and no most"));
        }
        let order = match &self.end {
            None => Some(wanted),
            Some(end) => order(value, end.borrow())?,
        };
        if order == Some(wanted) {
            self.end = Some(Kept::of(value));
        }
        Ok(())
    }

    /// What it takes beside itself.
    fn bytes(&self) -> u64 {
        self.end.as_ref().map_or(0, Kept::bytes)
    }

    fn value(&self, measure: &Measure) -> Value<'_> {
        match measure.of {
            Aggregate::Count => Value::Int(i64::try_from(self.count).unwrap_or(i64::MAX)),
            _ if self.count == 0 => Value::Null,
            Aggregate::Sum => match (self.rest, i64::try_from(self.whole)) {
                (None, Ok(whole)) => Value::Int(whole),
                _ => Value::Float(self.sum()),
            },
            Aggregate::Avg => Value::Float(self.sum() / self.count as f64),
            Aggregate::Min | Aggregate::Max => self.end.as_ref().map_or(Value::Null, Kept::borrow),
        }
    }

    fn sum(&self) -> f64 {
        self.whole as f64 + self.rest.unwrap_or(0.0)
    }
}

/// How two values of a column stand to each other. None: one of them is not a number at all.
fn order(one: Value<'_>, other: Value<'_>) -> Result<Option<Ordering>, Fault> {
    if let (Some(one), Some(other)) = (one.number(), other.number()) {
        return Ok(one.compare(other));
    }
    if let (Some(one), Some(other)) = (one.text(), other.text()) {
        return Ok(Some(one.cmp(other)));
    }
    if let (Some(one), Some(other)) = (one.truth(), other.truth()) {
        return Ok(Some(one.cmp(&other)));
    }
    Err(Fault::data("a column has values of several kinds, which have no least and no most"))
}

fn not_a_number(value: Value<'_>) -> Fault {
    let what = match value {
        Value::Text(text) | Value::Cell(text) => {
            format!("`{}` is not a number", text.chars().take(40).collect::<String>().escape_debug())
        }
        _ => "a value is not a number".to_owned(),
    };
    Fault::data(format!("{what}, and cannot be added"))
}

/// A value that is kept.
#[derive(Clone, Debug)]
enum Kept {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    Cell(Box<str>),
    Json(Box<str>),
}

impl Kept {
    fn of(value: Value<'_>) -> Self {
        match value {
            Value::Null => Kept::Null,
            Value::Bool(truth) => Kept::Bool(truth),
            Value::Int(number) => Kept::Int(number),
            Value::Float(number) => Kept::Float(number),
            Value::Text(text) => Kept::Text(text.into()),
            Value::Cell(text) => Kept::Cell(text.into()),
            Value::Json(text) => Kept::Json(text.into()),
        }
    }

    fn borrow(&self) -> Value<'_> {
        match self {
            Kept::Null => Value::Null,
            Kept::Bool(truth) => Value::Bool(*truth),
            Kept::Int(number) => Value::Int(*number),
            Kept::Float(number) => Value::Float(*number),
            Kept::Text(text) => Value::Text(text),
            Kept::Cell(text) => Value::Cell(text),
            Kept::Json(text) => Value::Json(text),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Kept::Text(text) | Kept::Cell(text) | Kept::Json(text) => text.len() as u64,
            _ => 0,
        }
    }
}

/// Adds to the key of a group, so that no two values, and no two rows of values, have one key.
fn put_key(key: &mut Vec<u8>, value: Value<'_>) {
    let (kind, bytes): (u8, &[u8]) = match value {
        Value::Null => (0, &[]),
        Value::Bool(truth) => (1, if truth { &[1] } else { &[0] }),
        Value::Int(number) => (2, &number.to_le_bytes()),
        Value::Float(number) => (3, &number.to_bits().to_le_bytes()),
        Value::Text(text) => (4, text.as_bytes()),
        Value::Cell(text) => (5, text.as_bytes()),
        Value::Json(text) => (6, text.as_bytes()),
    };
    key.push(kind);
    key.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    key.extend_from_slice(bytes);
}
