//! Changes of a request's path.

use std::borrow::Cow;

use lighter_config::snapshot::route::PathChange;

/// `target` with its path changed and its query kept.
///
/// Where a prefix is replaced, slashes are kept single as the Gateway API's table says: `/foo/bar` with `/foo`
/// replaced by `/xyz` or `/xyz/` is `/xyz/bar`; an empty path is `/`. A target that does not have the prefix, which
/// the route's match excludes, stays.
pub(crate) fn change<'a>(target: &[u8], change: &'a PathChange) -> Cow<'a, [u8]> {
    let (path, query) = split(target);
    match change {
        PathChange::ReplaceFull(whole) if query.is_empty() => Cow::Borrowed(whole.as_bytes()),
        PathChange::ReplaceFull(whole) => Cow::Owned([whole.as_bytes(), query].concat()),
        PathChange::ReplacePrefix(new, old) => {
            let Some(rest) = path.strip_prefix(old.as_bytes()) else { return Cow::Owned(target.to_vec()) };
            let new = match new.as_bytes() {
                [front @ .., b'/'] if rest.first() == Some(&b'/') => front,
                whole => whole,
            };
            let missing: &[u8] = if new.is_empty() && rest.is_empty() { b"/" } else { b"" };
            Cow::Owned([new, rest, missing, query].concat())
        }
    }
}

/// The path, and the query with its question mark.
fn split(target: &[u8]) -> (&[u8], &[u8]) {
    target.split_at(target.iter().position(|byte| *byte == b'?').unwrap_or(target.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(target: &str, prefix: &str, new: &str) -> String {
        // As the configuration holds it: without a slash at the end.
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let change_of = PathChange::ReplacePrefix(new.into(), prefix.into());
        String::from_utf8(change(target.as_bytes(), &change_of).into_owned()).unwrap()
    }

    /// The table of `HTTPPathModifier.replacePrefixMatch` in the Gateway API.
    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        for (target, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
            ("/", "/", "/xyz", "/xyz/"),
        ] {
            assert_eq!(replaced(target, prefix, new), expected, "{target} {prefix} {new}");
        }
    }

    #[test]
    fn the_query_stays() {
        assert_eq!(replaced("/foo?a=/foo", "/foo", ""), "/?a=/foo");
        assert_eq!(replaced("/foo/b?a=1", "/foo", "/x/"), "/x/b?a=1");
        let full = PathChange::ReplaceFull("/new".into());
        assert_eq!(*change(b"/old?a=1", &full), *b"/new?a=1");
        assert_eq!(*change(b"/old", &full), *b"/new");
    }
}
