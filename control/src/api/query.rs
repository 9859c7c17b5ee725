//! The query of a request's target. A misspelt `dryRun` must not become a change, so unknown words are refused.

/// What can be asked beside the path.
#[derive(Debug, Default, PartialEq)]
pub struct Query {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Remove what the set had and has no longer.
    pub prune: bool,
    /// What is not there need not be removed.
    pub ignore_missing: bool,
    /// Do not wait for what runs.
    pub now: bool,
    /// The set that is pushed.
    pub set: Option<String>,
    /// The namespace of documents that name none, or of resources that are listed.
    pub namespace: Option<String>,
    /// The kind of resources that are listed.
    pub kind: Option<String>,
}

impl Query {
    /// Reads `dryRun=true&set=shop`; `allowed` are the words that this request knows.
    pub fn parse(text: Option<&str>, allowed: &[&str]) -> Result<Query, String> {
        let mut query = Query::default();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (word, value) = pair.split_once('=').unwrap_or((pair, "true"));
            if !allowed.contains(&word) {
                return Err(format!("unknown query parameter `{word}`; known here: {}", allowed.join(", ")));
            }
            match word {
                "dryRun" => query.dry_run = flag(word, value)?,
                "prune" => query.prune = flag(word, value)?,
                "ignoreMissing" => query.ignore_missing = flag(word, value)?,
                "now" => query.now = flag(word, value)?,
                "set" => query.set = Some(name(word, value)?),
                "namespace" => query.namespace = Some(name(word, value)?),
                _ => query.kind = Some(name(word, value)?),
            }
        }
        Ok(query)
    }
}

fn flag(word: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("`{word}` is true or false, not `{value}`"))
}

/// A name. None has a character that would have to be encoded.
fn name(word: &str, value: &str) -> Result<String, String> {
    if is_name(value) {
        Ok(value.to_string())
    } else {
        Err(format!("`{word}` has no such value as `{value}`"))
    }
}

/// Whether this can be a name of a set, kind or namespace: letters, digits, `-`, `_` and `.`, at most 253.
pub fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_refused() {
        let known = ["dryRun", "set"];
        let expected = Query { dry_run: true, set: Some("shop".into()), ..Query::default() };
        assert_eq!(Query::parse(Some("dryRun=true&set=shop"), &known), Ok(expected));
        assert!(Query::parse(Some("dryRun"), &known).unwrap().dry_run);
        assert_eq!(Query::parse(None, &known), Ok(Query::default()));
        for bad in ["dryrun=true", "dryRun=yes", "prune=true", "set=", "set=a%20b"] {
            assert!(Query::parse(Some(bad), &known).is_err(), "{bad}");
        }
    }
}
