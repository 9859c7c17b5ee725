//! Values as JSON: what kubectl makes of them, and what an API server sends.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{Map, Node, Scalar, Style};

impl Node {
    /// The same as JSON, as kubectl would send it.
    pub fn json(&self) -> Value {
        match self {
            Node::Scalar(scalar) => value(scalar),
            Node::List(items) => items.iter().map(Node::json).collect(),
            Node::Map(map) => map.iter().map(|(name, value)| (name.text.clone(), value.json())).collect(),
        }
    }
}

/// What kubectl, which reads YAML 1.1, takes a scalar for.
pub(super) fn value(scalar: &Scalar) -> Value {
    let text = &*scalar.text;
    if scalar.style != Style::Plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => true.into(),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => false.into(),
        _ => number(text).unwrap_or_else(|| text.into()),
    }
}

fn number(text: &str) -> Option<Value> {
    let (minus, rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if !rest.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let digits = rest.replace('_', "");
    let whole = match (digits.get(..2), digits.strip_prefix('0')) {
        (Some("0x" | "0X"), _) => i128::from_str_radix(&digits[2..], 16),
        (Some("0o" | "0O"), _) => i128::from_str_radix(&digits[2..], 8),
        (Some("0b" | "0B"), _) => i128::from_str_radix(&digits[2..], 2),
        // An octal number of YAML 1.1, which modes of files are.
        (_, Some(octal)) if !octal.is_empty() => i128::from_str_radix(octal, 8),
        _ => digits.parse(),
    };
    if let Ok(whole) = whole {
        let whole = if minus { -whole } else { whole };
        return u64::try_from(whole).map(Value::from).or_else(|_| i64::try_from(whole).map(Value::from)).ok();
    }
    let is_float = |byte: u8| byte.is_ascii_digit() || b".eE+-".contains(&byte);
    let float: f64 = digits.bytes().all(is_float).then(|| digits.parse().ok())??;
    serde_json::Number::from_f64(if minus { -float } else { float }).map(Value::Number)
}

impl<'de> Deserialize<'de> for Node {
    /// With fields in their order, which a JSON value of `serde_json` does not keep.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Scalar::plain("null")))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Scalar::plain(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // With its point or exponent, so that it stays what it was.
        Ok(Node::Scalar(Scalar::plain(Value::from(value).to_string())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut map = Map::default();
        while let Some((name, value)) = fields.next_entry::<String, Node>()? {
            map.take(Scalar::text(name), value).map_err(A::Error::custom)?;
        }
        Ok(Node::Map(map))
    }
}
