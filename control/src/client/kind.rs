//! Kinds as people write them: `service`, `services`, `svc`, `HTTPRoute`.

use lighter_config::load::RESOURCE_KINDS;

/// The kind that is meant, in its own spelling.
pub fn of(word: &str) -> Result<&'static str, String> {
    let lower = word.to_ascii_lowercase();
    let short = match &*lower {
        "svc" => "service",
        other => other,
    };
    let is_meant = |kind: &&&str| {
        let kind = kind.to_ascii_lowercase();
        let plural = match kind.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{kind}s"),
        };
        short == kind || short == plural
    };
    RESOURCE_KINDS
        .iter()
        .find(is_meant)
        .copied()
        .ok_or_else(|| format!("unknown kind `{word}`; known kinds: {}", RESOURCE_KINDS.join(", ")))
}

/// Kinds and names from `KIND NAME NAME…` or `KIND/NAME KIND/NAME…`.
pub fn names(words: &[String]) -> Result<Vec<(&'static str, &str)>, String> {
    if let [first, names @ ..] = words
        && !first.contains('/')
    {
        let kind = of(first)?;
        if names.is_empty() {
            return Err(format!("which {kind}? name one, as `{first} NAME`"));
        }
        return names.iter().map(|name| Ok((kind, check(name)?))).collect();
    }
    let split = |word: &'_ String| word.find('/');
    words
        .iter()
        .map(|word| match split(word) {
            Some(slash) => Ok((of(&word[..slash])?, check(&word[slash + 1..])?)),
            None => Err(format!("`{word}` is not KIND/NAME")),
        })
        .collect()
}

fn check(name: &str) -> Result<&str, String> {
    if crate::api::is_name(name) { Ok(name) } else { Err(format!("`{name}` is not a name")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_every_name_that_people_use() {
        for (word, kind) in [
            ("svc", "Service"),
            ("services", "Service"),
            ("httproute", "HTTPRoute"),
            ("GRPCRoutes", "GRPCRoute"),
            ("trafficpolicies", "TrafficPolicy"),
        ] {
            assert_eq!(of(word), Ok(kind));
        }
        assert!(of("pods").unwrap_err().contains("known kinds: Service"));
    }

    #[test]
    fn resources_are_named_in_both_of_the_usual_forms() {
        let words = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
        assert_eq!(names(&words("svc a b")), Ok(vec![("Service", "a"), ("Service", "b")]));
        assert_eq!(names(&words("svc/a httproute/r")), Ok(vec![("Service", "a"), ("HTTPRoute", "r")]));
        for bad in ["svc", "svc/a b", "svc a/b", "svc/", "pod/a"] {
            assert!(names(&words(bad)).is_err(), "{bad}");
        }
    }
}
