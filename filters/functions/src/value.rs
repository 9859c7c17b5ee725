//! One value of a row, borrowed from where it was read, and how values compare.

use std::cmp::Ordering;

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// There is none.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(&'a str),
    /// Text that has no type, as the cells of CSV: a number where one is looked for.
    Cell(&'a str),
    /// A number, a list or an object in JSON, as it is written.
    Json(&'a str),
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// A whole one, within 64 bits.
    Int(i64),
    /// Any other.
    Float(f64),
}

impl Number {
    /// Reads a decimal number: a sign, digits, a fraction, an exponent. Nothing else is one, `inf` and `nan` least of all.
    pub(crate) fn parse(text: &str) -> Option<Number> {
        let is_decimal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
        if !text.bytes().all(is_decimal) || !text.bytes().any(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if let Ok(whole) = text.parse() {
            return Some(Number::Int(whole));
        }
        text.parse().ok().filter(|number: &f64| number.is_finite()).map(Number::Float)
    }

    /// Which is more. None: one of them is not a number.
    pub(crate) fn compare(self, other: Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Int(one), Number::Int(other)) => Some(one.cmp(&other)),
            (Number::Float(one), Number::Float(other)) => one.partial_cmp(&other),
            (Number::Int(one), Number::Float(other)) => compare(one, other),
            (Number::Float(one), Number::Int(other)) => compare(other, one).map(Ordering::reverse),
        }
    }
}

/// Without a whole number losing digits on the way.
fn compare(whole: i64, float: f64) -> Option<Ordering> {
    /// Two to the power of 63: the first that is above all whole numbers here.
    const ABOVE: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        None
    } else if float >= ABOVE {
        Some(Ordering::Less)
    } else if float < -ABOVE {
        Some(Ordering::Greater)
    } else {
        let trunk = float.trunc();
        Some(whole.cmp(&(trunk as i64)).then(trunk.partial_cmp(&float)?))
    }
}

impl<'a> Value<'a> {
    /// As a number, if it is one.
    pub(crate) fn number(self) -> Option<Number> {
        match self {
            Value::Int(number) => Some(Number::Int(number)),
            Value::Float(number) => Some(Number::Float(number)),
            Value::Cell(text) | Value::Json(text) => Number::parse(text),
            Value::Null | Value::Bool(_) | Value::Text(_) => None,
        }
    }

    /// As text, if it is that.
    pub(crate) fn text(self) -> Option<&'a str> {
        match self {
            Value::Text(text) | Value::Cell(text) => Some(text),
            _ => None,
        }
    }

    /// As true or false, if it is that.
    pub(crate) fn truth(self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(truth),
            Value::Cell("true") => Some(true),
            Value::Cell("false") => Some(false),
            _ => None,
        }
    }

    /// Whether there is none.
    pub(crate) fn is_null(self) -> bool {
        matches!(self, Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_decimal_numbers_are_numbers() {
        for (text, number) in
            [("0", Number::Int(0)), ("-7", Number::Int(-7)), ("1.5e3", Number::Float(1500.0))]
        {
            assert_eq!(Number::parse(text), Some(number), "{text}");
        }
        assert_eq!(Number::parse("9223372036854775808"), Some(Number::Float(9_223_372_036_854_775_808.0)));
        for text in ["", "-", ".", "e", "inf", "NaN", "0x1", "1 ", "1_0", "1e999", "--1"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_keep_all_their_digits_beside_others() {
        let most = Number::Int(i64::MAX);
        assert_eq!(most.compare(Number::Float(9_223_372_036_854_775_808.0)), Some(Ordering::Less));
        assert_eq!(Number::Float(-9.3e18).compare(Number::Int(i64::MIN)), Some(Ordering::Less));
        assert_eq!(Number::Int(3).compare(Number::Float(3.5)), Some(Ordering::Less));
        assert_eq!(Number::Int(-3).compare(Number::Float(-3.5)), Some(Ordering::Greater));
        assert_eq!(Number::Float(2.0).compare(Number::Int(2)), Some(Ordering::Equal));
        assert_eq!(Number::Int(1).compare(Number::Float(f64::NAN)), None);
    }
}
