//! What serde says when a type does not fit, in the words of someone who writes YAML.

use crate::suggest::closest;

/// Between the message and the hint of an error that a type of ours makes while it is read.
pub(crate) const HINT: &str = "\nhint: ";

/// An error of type, told to people.
pub(crate) struct Wording<'s> {
    /// What is wrong.
    pub(crate) message: String,
    /// What can be done about it.
    pub(crate) hint: Option<String>,
    /// What exactly is wrong.
    pub(crate) about: About<'s>,
}

/// What is wrong at a path.
#[derive(Clone, Copy)]
pub(crate) enum About<'s> {
    /// The field's key.
    Key,
    /// This word, which is not among those that a list of words has.
    Word(&'s str),
    /// The value.
    Value,
}

impl<'s> Wording<'s> {
    /// The wording of what serde `said`.
    pub(crate) fn of(said: &'s str) -> Self {
        if let Some((word, known)) = unknown(said, "unknown field `") {
            let hint = unsupported(word).unwrap_or_else(|| suggestion(word, &known, "fields"));
            return Wording {
                message: format!("unknown field `{word}`"),
                hint: Some(hint),
                about: About::Key,
            };
        }
        if let Some((word, known)) = unknown(said, "unknown variant `") {
            let hint = unsupported(word).unwrap_or_else(|| suggestion(word, &known, "values"));
            return Wording {
                message: format!("unknown value `{word}`"),
                hint: Some(hint),
                about: About::Word(word),
            };
        }
        let (message, hint) = match said.split_once(HINT) {
            Some((message, hint)) => (message.to_string(), Some(hint.to_string())),
            None => (in_words(said), advice(said).map(str::to_string)),
        };
        Wording { message, hint, about: About::Value }
    }
}

/// The word that serde does not know, and those it does.
fn unknown<'s>(said: &'s str, start: &str) -> Option<(&'s str, Vec<&'s str>)> {
    let (word, rest) = said.strip_prefix(start)?.split_once('`')?;
    Some((word, rest.split('`').skip(1).step_by(2).collect()))
}

fn suggestion(word: &str, known: &[&str], what: &str) -> String {
    match closest(word, known.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None if known.is_empty() => "nothing is allowed here".to_string(),
        None => format!("{what} here: {}", known.join(", ")),
    }
}

/// What the Gateway API has and Lighter does not.
fn unsupported(word: &str) -> Option<String> {
    const THINGS: [&str; 7] = [
        "CORS",
        "cors",
        "ExternalAuth",
        "externalAuth",
        "ExtensionRef",
        "extensionRef",
        "useDefaultGateways",
    ];
    THINGS.contains(&word).then(|| {
        format!("`{word}` is part of the Gateway API, but Lighter does not support it; leave it out")
    })
}

fn advice(said: &str) -> Option<&'static str> {
    if said.starts_with("invalid type: string") && said.contains("expected u") {
        return Some("write the number without quotes");
    }
    if said.starts_with("invalid type: null") {
        return Some("leave the field out, or give it a value");
    }
    let quotes = said.starts_with("invalid type: ") && said.ends_with("expected a string");
    quotes.then_some("put the value in quotes")
}

/// serde's words for types replaced.
fn in_words(said: &str) -> String {
    let mut words = said.to_string();
    for (type_name, meaning) in [
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected a mapping"),
        ("invalid type: map", "invalid type: mapping"),
        ("invalid type: sequence", "invalid type: list"),
    ] {
        words = words.replace(type_name, meaning);
    }
    match words.find("expected struct ") {
        Some(start) => format!("{}expected a mapping", &words[..start]),
        None => words,
    }
}
