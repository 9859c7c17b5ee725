//! Standard output, without a panic when its reader has gone away.

use std::io::{self, Write};

use miette::Diagnostic;
use serde::Serialize;

/// Standard output could not be written.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("cannot write to standard output: {0}")]
pub struct OutputError(#[from] pub io::Error);

/// Writes `text` and a newline.
pub fn line(text: impl std::fmt::Display) -> Result<(), OutputError> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Writes `text` as it is.
pub fn text(text: &str) -> Result<(), OutputError> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

/// Writes `value` as indented JSON and a newline.
pub fn json(value: &impl Serialize) -> Result<(), OutputError> {
    line(serde_json::to_string_pretty(value).map_err(io::Error::from)?)
}
