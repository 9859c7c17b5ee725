//! Between what the values of a column lie, as the statistics of a part of a dataset say.

use crate::value::Value;

/// What is known of a column over some rows. What is not known leaves everything open.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Range {
    /// No value is less.
    pub(crate) least: Option<Bound>,
    /// No value is more.
    pub(crate) most: Option<Bound>,
    /// A row may have none.
    pub(crate) has_null: bool,
    /// A row may have one.
    pub(crate) has_value: bool,
}

/// A value that is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bound {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Range {
    /// Nothing is known.
    pub(crate) const OPEN: Range = Range { least: None, most: None, has_null: true, has_value: true };
}

impl Bound {
    /// As a value of a row.
    pub(crate) fn borrow(&self) -> Value<'_> {
        match self {
            Bound::Bool(truth) => Value::Bool(*truth),
            Bound::Int(number) => Value::Int(*number),
            Bound::Float(number) => Value::Float(*number),
            Bound::Text(text) => Value::Text(text),
        }
    }
}
