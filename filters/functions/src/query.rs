//! The parameters of a request: `where=…&select=…`.

use std::fmt;

use crate::condition::Condition;
use crate::device::Format;
use crate::status::Fault;

/// Longest text, in bytes.
const MOST_BYTES: usize = 16 << 10;
/// Most columns, groups and measures of one request, each.
const MOST_NAMES: usize = 256;

/// What a request asks for, read and checked as far as that goes without the dataset.
#[derive(Debug, Default)]
pub struct Query {
    /// Which rows.
    pub(crate) condition: Option<Condition<String>>,
    /// Which columns, in this order. None: all of them.
    pub(crate) select: Option<Vec<String>>,
    /// How the result is written. None: as CSV if the dataset is that, otherwise as JSON lines.
    pub(crate) format: Option<Format>,
    /// No more rows than these.
    pub(crate) limit: Option<u64>,
    /// What is worked out.
    pub(crate) compute: Vec<Measure>,
    /// By which columns' values.
    pub(crate) by: Vec<String>,
    /// Which sum of the bytes.
    pub(crate) algorithm: Option<Algorithm>,
    /// How bytes are made fewer.
    pub(crate) codec: Option<Codec>,
    /// How much is added.
    pub(crate) add: Option<i64>,
}

/// One value that is worked out over rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    /// How.
    pub(crate) of: Aggregate,
    /// Over the values of which column. None: over rows.
    pub(crate) column: Option<String>,
}

/// How a value is worked out over rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
    Avg,
}

/// How a sum of bytes is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Crc32c,
}

/// How bytes are made fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Gzip,
}

impl Query {
    /// Reads `name=value&…`. Only the names that are `known` may stand there, each once.
    pub fn parse(text: &str, known: &[&str]) -> Result<Query, Fault> {
        if text.len() > MOST_BYTES {
            return Err(Fault::argument(format!("the parameters are longer than {MOST_BYTES} bytes")));
        }
        let mut query = Query::default();
        let mut seen: Vec<String> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&&*name) {
                let known = known.join("`, `");
                let name = name.escape_debug();
                return Err(Fault::argument(format!("there is no parameter `{name}`; known are `{known}`")));
            }
            if seen.contains(&name) {
                return Err(Fault::argument(format!("`{name}` is said twice")));
            }
            query.take(&name, &value)?;
            seen.push(name);
        }
        Ok(query)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        match name {
            "where" => self.condition = Some(Condition::parse(value)?),
            "select" => self.select = Some(names(name, value)?),
            "format" => {
                self.format = Some(one_of(name, value, &[("csv", Format::Csv), ("jsonl", Format::Jsonl)])?)
            }
            "limit" => {
                let limit = value.parse().map_err(|_| {
                    Fault::argument(format!("`limit={}`: expected a number of rows", value.escape_debug()))
                });
                self.limit = Some(limit?);
            }
            "compute" => {
                let measures = names(name, value)?;
                self.compute = measures.iter().map(|text| Measure::parse(text)).collect::<Result<_, _>>()?;
            }
            "by" => self.by = names(name, value)?,
            "algorithm" => {
                let known = [("sha256", Algorithm::Sha256), ("crc32c", Algorithm::Crc32c)];
                self.algorithm = Some(one_of(name, value, &known)?);
            }
            "codec" => self.codec = Some(one_of(name, value, &[("gzip", Codec::Gzip)])?),
            "add" => {
                let add = value.parse().map_err(|_| {
                    Fault::argument(format!("`add={}`: expected a whole number", value.escape_debug()))
                });
                self.add = Some(add?);
            }
            // A function that knows a name that nobody reads is a fault of ours; the caller's words are right.
            _ => {}
        }
        Ok(())
    }
}

impl Measure {
    fn parse(text: &str) -> Result<Self, Fault> {
        let faulty = || {
            let text = text.escape_debug();
            Fault::argument(format!(
                "`compute`: `{text}` is not `count`, or `count`, `sum`, `min`, `max` or `avg` of (a column)"
            ))
        };
        if text == "count" {
            return Ok(Measure { of: Aggregate::Count, column: None });
        }
        let (of, column) = text.strip_suffix(')').and_then(|text| text.split_once('(')).ok_or_else(faulty)?;
        let of = Aggregate::ALL.into_iter().find(|aggregate| aggregate.name() == of).ok_or_else(faulty)?;
        if column.is_empty() {
            return Err(faulty());
        }
        Ok(Measure { of, column: Some(column.to_owned()) })
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            None => f.write_str(self.of.name()),
            Some(column) => write!(f, "{}({column})", self.of.name()),
        }
    }
}

impl Aggregate {
    const ALL: [Aggregate; 5] =
        [Aggregate::Count, Aggregate::Sum, Aggregate::Min, Aggregate::Max, Aggregate::Avg];

    const fn name(self) -> &'static str {
        match self {
            Aggregate::Count => "count",
            Aggregate::Sum => "sum",
            Aggregate::Min => "min",
            Aggregate::Max => "max",
            Aggregate::Avg => "avg",
        }
    }
}

impl Algorithm {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Crc32c => "crc32c",
        }
    }
}

/// `a,b,c`, of which none is empty and none stands there twice.
fn names(parameter: &str, text: &str) -> Result<Vec<String>, Fault> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.len() > MOST_NAMES {
        return Err(Fault::argument(format!("`{parameter}` has more than {MOST_NAMES} names")));
    }
    for (at, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(Fault::argument(format!("`{parameter}` has an empty name")));
        }
        if names[..at].contains(name) {
            return Err(Fault::argument(format!("`{parameter}` has `{}` twice", name.escape_debug())));
        }
    }
    Ok(names)
}

fn one_of<T: Copy>(parameter: &str, text: &str, known: &[(&str, T)]) -> Result<T, Fault> {
    if let Some((_, found)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*found);
    }
    let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let (text, known) = (text.escape_debug(), known.join("` or `"));
    Err(Fault::argument(format!("`{parameter}={text}`: expected `{known}`")))
}

/// Takes percent-encoding away. As in forms, `+` is a space.
fn decode(text: &str) -> Result<String, Fault> {
    let faulty = || Fault::argument(format!("`{}` is not percent-encoded", text.escape_debug()));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let [high, low, after @ ..] = after else { return Err(faulty()) };
                rest = after;
                let digit = |byte: u8| (byte as char).to_digit(16).ok_or_else(faulty);
                (digit(*high)? * 16 + digit(*low)?) as u8
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).map_err(|_| faulty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 8] = ["where", "select", "format", "limit", "compute", "by", "algorithm", "codec"];

    #[test]
    fn parameters_are_read() {
        let query = Query::parse("where=a%3C10+and+b%3D%27x%26y%27&select=b,%20a&format=csv&limit=3", &ALL);
        let query = query.unwrap();
        assert_eq!(query.condition, Some(Condition::parse("a<10 and b='x&y'").unwrap()));
        assert_eq!(query.select.unwrap(), ["b", "a"]);
        assert_eq!((query.format, query.limit), (Some(Format::Csv), Some(3)));
        let query = Query::parse("compute=count,avg(a%20b)&by=c", &ALL).unwrap();
        let names: Vec<String> = query.compute.iter().map(Measure::to_string).collect();
        assert_eq!(names, ["count", "avg(a b)"]);
    }

    #[test]
    fn faulty_parameters_are_refused_with_what_is_known() {
        for (text, part) in [
            ("wher=a", "there is no parameter `wher`"),
            ("limit=1&limit=2", "said twice"),
            ("limit=many", "expected a number of rows"),
            ("limit=-1", "expected a number of rows"),
            ("format=parquet", "expected `csv` or `jsonl`"),
            ("select=a,,b", "an empty name"),
            ("select=a,a", "twice"),
            ("select", "an empty name"),
            ("compute=median(a)", "is not `count`"),
            ("compute=sum", "is not `count`"),
            ("compute=sum()", "is not `count`"),
            ("where=%zz", "not percent-encoded"),
            ("where=%f", "not percent-encoded"),
            ("where=%ff", "not percent-encoded"),
        ] {
            let fault = Query::parse(text, &ALL).unwrap_err();
            assert!(fault.message.contains(part), "{text}: {fault}");
        }
        assert!(Query::parse("where=a%3D1", &["select"]).is_err());
    }
}
