//! Results as bytes: CSV or JSON lines, handed on a piece at a time.

use std::io::Write;
use std::sync::Arc;

use crate::device::{Format, Out, Stop};
use crate::meter::{Held, Meter};
use crate::status::{Fault, Status};
use crate::value::Value;

/// Bytes of a result that are handed on at once.
pub(crate) const PIECE: usize = 32 << 10;

/// Bytes on their way out.
pub(crate) struct Sink<'o> {
    out: &'o mut dyn Out,
    meter: Arc<Meter>,
    buffer: Vec<u8>,
    held: Held,
}

impl<'o> Sink<'o> {
    pub(crate) fn new(
        out: &'o mut dyn Out,
        meter: &Arc<Meter>,
        media_type: &'static str,
    ) -> Result<Self, Fault> {
        let mut held = Held::none(meter);
        // One that is filled, one that is on its way.
        held.exactly(2 * PIECE as u64)?;
        out.begin(media_type);
        Ok(Sink { out, meter: meter.clone(), buffer: Vec::with_capacity(PIECE), held })
    }

    /// Adds bytes, however many they are.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        for part in bytes.chunks(PIECE) {
            self.buffer.extend_from_slice(part);
            self.full()?;
        }
        Ok(())
    }

    /// Hands on what there is, if that is enough.
    fn full(&mut self) -> Result<(), Fault> {
        if self.buffer.len() < PIECE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.meter.bytes_out(self.buffer.len() as u64)?;
        // A row may have been more than a piece.
        self.held.exactly(self.buffer.len().max(PIECE) as u64 + PIECE as u64)?;
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.out.write(piece, self.meter.until()).map_err(|stop| match stop {
            Stop::Gone => Fault::new(Status::NotDone, "whoever asked has left"),
            Stop::Late => self.meter.late(),
        })
    }

    /// Hands on the rest.
    pub(crate) fn end(mut self) -> Result<(), Fault> {
        self.meter.check()?;
        self.out.ends();
        self.flush()
    }
}

/// Rows on their way out.
pub(crate) struct Rows<'o> {
    sink: Sink<'o>,
    format: Format,
    /// Names of the columns, each as it stands before a value in JSON.
    names: Vec<Vec<u8>>,
}

impl<'o> Rows<'o> {
    /// Begins a result with these columns. CSV has a header, even if no row follows.
    pub(crate) fn new(
        out: &'o mut dyn Out,
        meter: &Arc<Meter>,
        format: Format,
        columns: &[String],
    ) -> Result<Self, Fault> {
        let media_type = match format {
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Jsonl | Format::Parquet => "application/jsonl",
        };
        let mut sink = Sink::new(out, meter, media_type)?;
        let mut names = Vec::with_capacity(columns.len());
        for (at, column) in columns.iter().enumerate() {
            let mut name = vec![if at == 0 { b'{' } else { b',' }];
            put_json_text(&mut name, column);
            name.push(b':');
            names.push(name);
            if format == Format::Csv {
                if at > 0 {
                    sink.buffer.push(b',');
                }
                put_cell(&mut sink.buffer, column);
            }
        }
        if format == Format::Csv {
            sink.buffer.push(b'\n');
        }
        Ok(Rows { sink, format, names })
    }

    /// Adds a row.
    pub(crate) fn row<'v>(&mut self, values: impl Iterator<Item = Value<'v>>) -> Result<(), Fault> {
        self.sink.meter.row_out()?;
        let buffer = &mut self.sink.buffer;
        let start = buffer.len();
        for (at, value) in values.enumerate() {
            if self.format == Format::Csv {
                if at > 0 {
                    buffer.push(b',');
                }
                put_csv(buffer, value);
            } else {
                buffer.extend_from_slice(self.names.get(at).map_or(b",", |name| name));
                put_json(buffer, value);
            }
        }
        match self.format {
            // An empty line would be no record.
            Format::Csv if buffer.len() == start => buffer.extend_from_slice(b"\"\""),
            Format::Csv => {}
            _ if self.names.is_empty() => buffer.extend_from_slice(b"{}"),
            _ => buffer.push(b'}'),
        }
        buffer.push(b'\n');
        self.sink.full()
    }

    /// Adds a row that is a line of JSON already.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Fault> {
        self.sink.meter.row_out()?;
        self.sink.buffer.extend_from_slice(line.as_bytes());
        self.sink.buffer.push(b'\n');
        self.sink.full()
    }

    /// Hands on the rest.
    pub(crate) fn end(self) -> Result<(), Fault> {
        self.sink.end()
    }
}

fn put_csv(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Null => {}
        Value::Bool(truth) => out.extend_from_slice(if truth { b"true" } else { b"false" }),
        Value::Int(number) => put_display(out, number),
        Value::Float(number) => put_float(out, number, b""),
        Value::Text(text) | Value::Cell(text) | Value::Json(text) => put_cell(out, text),
    }
}

/// Quotes as RFC 4180 asks for, and where a reader could take a space away.
fn put_cell(out: &mut Vec<u8>, text: &str) {
    if !text.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

fn put_json(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(truth) => out.extend_from_slice(if truth { b"true" } else { b"false" }),
        Value::Int(number) => put_display(out, number),
        Value::Float(number) => put_float(out, number, b"null"),
        Value::Text(text) | Value::Cell(text) => put_json_text(out, text),
        Value::Json(text) => out.extend_from_slice(text.as_bytes()),
    }
}

/// The shortest digits that are read as this number again; `other` for what is none.
fn put_float(out: &mut Vec<u8>, number: f64, other: &[u8]) {
    match serde_json::Number::from_f64(number) {
        Some(number) => put_display(out, number),
        None => out.extend_from_slice(other),
    }
}

fn put_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to memory does not fail.
    let _ = write!(out, "{value}");
}

fn put_json_text(out: &mut Vec<u8>, text: &str) {
    // Text can always be written, and writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
