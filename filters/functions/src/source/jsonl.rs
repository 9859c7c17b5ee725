//! JSON lines: an object a line. What an object does not have has no value.

use std::borrow::Cow;
use std::fs::File;
use std::sync::Arc;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Go, Row, Source, Wanted};
use crate::line::Lines;
use crate::meter::Meter;
use crate::status::Fault;
use crate::value::Value;

pub(super) struct Jsonl {
    lines: Lines,
    columns: Vec<String>,
    meter: Arc<Meter>,
}

impl Jsonl {
    /// All columns: of lines only those are known that are wanted for something; the rest is in the line itself.
    pub(super) fn open(file: File, wanted: &Wanted<'_>, meter: &Arc<Meter>) -> Result<Self, Fault> {
        let mut columns: Vec<String> = Vec::new();
        match (&wanted.columns, wanted.condition) {
            (Some(wanted), _) => columns.extend(wanted.iter().map(|name| (*name).to_owned())),
            (None, Some(condition)) => {
                for name in condition.columns() {
                    if !columns.iter().any(|column| column == name) {
                        columns.push(name.to_owned());
                    }
                }
            }
            (None, None) => {}
        }
        Ok(Jsonl { lines: Lines::new(file, meter)?, columns, meter: meter.clone() })
    }
}

impl Source for Jsonl {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn rows(&mut self, take: &mut dyn FnMut(Row<'_>) -> Result<Go, Fault>) -> Result<(), Fault> {
        let mut number = 0_u64;
        while let Some(line) = self.lines.next()? {
            number += 1;
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            self.meter.row_in()?;
            let faulty = |why: String| Fault::data(format!("line {number}: {why}"));
            let line = std::str::from_utf8(line).map_err(|_| faulty("it is not UTF-8".into()))?;
            let mut found: Vec<Option<&RawValue>> = vec![None; self.columns.len()];
            let mut reader = serde_json::Deserializer::from_str(line);
            reader
                .deserialize_map(Fields { columns: &self.columns, found: &mut found })
                .and_then(|()| reader.end())
                .map_err(|error| faulty(error.to_string()))?;
            let texts: Vec<Cow<'_, str>> =
                found.iter().map(|raw| text_of(*raw)).collect::<Result<_, _>>().map_err(faulty)?;
            let values = found.iter().zip(&texts).map(|(raw, text)| value(*raw, text));
            let values: Vec<Value<'_>> = values.collect();
            if take(Row { values: &values, line })? == Go::Enough {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Where the fields of an object go that are wanted. Of two of one name the last counts.
struct Fields<'c, 'f, 'de> {
    columns: &'c [String],
    found: &'f mut [Option<&'de RawValue>],
}

impl<'de> Visitor<'de> for Fields<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = fields.next_key::<Name<'de>>()? {
            match self.columns.iter().position(|column| *column == name) {
                Some(place) => self.found[place] = Some(fields.next_value()?),
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A name that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'n>(#[serde(borrow)] Cow<'n, str>);

/// What a string says; of all else, how it is written.
fn text_of(raw: Option<&RawValue>) -> Result<Cow<'_, str>, String> {
    let raw = raw.map_or("null", RawValue::get);
    match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
        Some(inside) if !inside.contains('\\') => Ok(Cow::Borrowed(inside)),
        Some(_) => serde_json::from_str(raw).map(Cow::Owned).map_err(|error| error.to_string()),
        None => Ok(Cow::Borrowed(raw)),
    }
}

fn value<'v>(raw: Option<&RawValue>, text: &'v str) -> Value<'v> {
    match raw.map(|raw| raw.get().as_bytes()) {
        None | Some([b'n', ..]) => Value::Null,
        Some([b't', ..]) => Value::Bool(true),
        Some([b'f', ..]) => Value::Bool(false),
        Some([b'"', ..]) => Value::Text(text),
        Some(_) => Value::Json(text),
    }
}
