//! Samples of the Prometheus text format. What does not read as one is passed over: a later version may say more.

use std::borrow::Cow;

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// Names and values of labels, as they come.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    value: &'a str,
}

impl Sample<'_> {
    /// The value of a label; empty where there is no such label.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(is, _)| *is == name).map_or("", |(_, value)| value)
    }

    /// The value, if it is one: infinite ones are, and so is none (`NaN`).
    pub fn value(&self) -> Option<f64> {
        self.value.parse().ok()
    }

    /// The value as a number that is one: neither infinite nor none.
    pub fn real(&self) -> Option<f64> {
        self.value().filter(|value| value.is_finite())
    }

    /// The value as a count. One of many digits keeps them all.
    pub fn count(&self) -> Option<u64> {
        let rounded = || self.real().filter(|value| *value >= 0.0).map(|value| value as u64);
        self.value.parse().ok().or_else(rounded)
    }
}

/// The samples whose name is `wanted`. A sidecar has many others, whose labels need not be read.
pub fn samples<'a>(text: &'a str, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = Sample<'a>> {
    text.lines().filter_map(move |line| read(line, &wanted))
}

/// The sample on a line.
pub fn sample(line: &str) -> Option<Sample<'_>> {
    read(line, |_| true)
}

fn read(line: &str, wanted: impl Fn(&str) -> bool) -> Option<Sample<'_>> {
    let line = line.trim_start();
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() || name.starts_with('#') || !wanted(name) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A time may follow.
    let value = rest.split_ascii_whitespace().next()?;
    Some(Sample { name, labels, value })
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// The labels to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after.trim_start().strip_prefix('"')?)?;
        labels.push((name.trim_end(), value));
        rest = after;
    }
}

/// A label's value to the closing quote, and what follows that.
fn value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = text[..end].to_owned();
    let mut chars = text[end..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(value), &text[end + at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c @ ('\\' | '"') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn only(text: &str) -> Sample<'_> {
        let [sample] = samples(text, |_| true).collect::<Vec<_>>().try_into().unwrap();
        sample
    }

    #[test]
    fn a_sample_has_a_name_labels_and_a_value() {
        let sample = only("# HELP a b\n# TYPE a counter\n\na_total{x=\"1\",y=\"\"} 7\n");
        assert_eq!(
            (sample.name, sample.label("x"), sample.label("y"), sample.label("z")),
            ("a_total", "1", "", "")
        );
        assert_eq!((sample.count(), sample.real()), (Some(7), Some(7.0)));
        assert_eq!(only("plain 1.5").real(), Some(1.5));
        assert_eq!(only("a{ x = \"1\" , } 2 1700000000000").label("x"), "1");
    }

    #[test]
    fn labels_may_have_anything_in_them() {
        let sample = only(r#"a{x="q\" b\\ n\n t\t }",y=", {"} 3"#);
        assert_eq!((sample.label("x"), sample.label("y")), ("q\" b\\ n\n t\\t }", ", {"));
        assert_eq!(sample.count(), Some(3));
    }

    #[test]
    fn a_count_is_whole_and_not_below_zero() {
        let count = |value: &str| only(&format!("a {value}")).count();
        assert_eq!(count("18446744073709551615"), Some(u64::MAX));
        assert_eq!((count("1e3"), count("0.9"), count("1e300")), (Some(1000), Some(0), Some(u64::MAX)));
        for none in ["-1", "NaN", "+Inf", "-Inf", "x", "0x10"] {
            assert_eq!(count(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_sample_is_passed_over() {
        let text = "a{x=\"1\n\na{x=\"1\\\na{x=1} 2\na{x} 2\na{\na}\na\na{x=\"1\"}\n{} 1 é\nb 1\nlast 4\n";
        let names: Vec<_> = samples(text, |name| name != "b").map(|sample| sample.name).collect();
        assert_eq!(names, ["last"]);
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "([a-c\"\\\\{}=, \n0-9é\u{0}]|\\PC){0,200}") {
            for sample in samples(&text, |_| true) {
                let _ = (sample.count(), sample.real(), sample.label("a"));
            }
        }

        #[test]
        fn a_label_comes_back_as_it_was(value in "\\PC{0,20}[\n\"\\\\]{0,3}\\PC{0,5}") {
            let shown = lighter_proxy::telemetry::exposition::LabelValue(&value).to_string();
            let text = format!("a{{x=\"{shown}\"}} 1\n");
            let sample = only(&text);
            prop_assert_eq!(sample.label("x"), value);
        }
    }
}
