//! Standard output, without a panic when its reader has gone away.

use std::io::{self, Write};

use miette::IntoDiagnostic;
use serde::Serialize;

/// Writes `text` and a newline.
pub fn line(text: impl std::fmt::Display) -> miette::Result<()> {
    writeln!(io::stdout().lock(), "{text}").into_diagnostic()
}

/// Writes `value` as indented JSON and a newline.
pub fn json(value: &impl Serialize) -> miette::Result<()> {
    line(serde_json::to_string_pretty(value).into_diagnostic()?)
}
