//! Durations as the Gateway API writes them (GEP-2257).

use std::borrow::Cow;
use std::{fmt, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::wording::HINT;

/// A duration such as `10ms`, `5s` or `1h30m`: one to four numbers of up to five digits, each with a unit of `h`,
/// `m`, `s` or `ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub time::Duration);

impl Duration {
    /// Parses the text of a duration.
    pub fn parse(text: &str) -> Option<Self> {
        let (mut rest, mut parts, mut sum) = (text, 0, time::Duration::ZERO);
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, unit) = rest.split_at(digits);
            if !(1..=5).contains(&digits) || parts == 4 {
                return None;
            }
            let number: u64 = number.parse().ok()?;
            let (millis, unit_length) = match unit.as_bytes() {
                [b'm', b's', ..] => (1, 2),
                [b's', ..] => (1_000, 1),
                [b'm', ..] => (60_000, 1),
                [b'h', ..] => (3_600_000, 1),
                _ => return None,
            };
            sum += time::Duration::from_millis(number * millis);
            rest = &unit[unit_length..];
            parts += 1;
        }
        (parts > 0).then_some(Duration(sum))
    }

    /// What it limits something to, where `0s` means no limit.
    pub(crate) fn limit(self) -> Option<time::Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DurationVisitor)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as `10ms`, `5s` or `1h30m`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        let not_one = || {
            E::custom(format!("`{text}` is not a duration{HINT}write for example `10ms`, `5s` or `1h30m`"))
        };
        Duration::parse(text).ok_or_else(not_one)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::Duration;

    #[test]
    fn durations_are_read_as_the_gateway_api_writes_them() {
        for (text, millis) in [
            ("0s", 0),
            ("10ms", 10),
            ("5s", 5_000),
            ("1h30m", 5_400_000),
            ("2m1s500ms", 121_500),
            ("1s1s", 2_000),
        ] {
            assert_eq!(Duration::parse(text).unwrap().0.as_millis(), millis, "{text}");
        }
        for text in ["", "5", "s", "1.5s", "-1s", "100000s", "1s1s1s1s1s", "1 s", "1d", "1us", "1S"] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
    }
}
