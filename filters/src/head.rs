//! Heads of messages on their way through a chain, borrowed until something is changed.

use std::borrow::Cow;

use lighter_config::snapshot::HeaderChanges;
use smallvec::SmallVec;

/// Header fields in order, names in the case in which they came.
pub type Fields<'a> = SmallVec<[(Cow<'a, [u8]>, Cow<'a, [u8]>); 24]>;

/// A request's head on its way through a chain.
pub struct RequestHead<'a> {
    /// `GET`.
    pub method: Cow<'a, [u8]>,
    /// `http` or `https`, as the caller knows it.
    pub scheme: &'static str,
    /// Path and query as they came.
    pub target: Cow<'a, [u8]>,
    /// Host or :authority.
    pub authority: Cow<'a, [u8]>,
    /// Every other field.
    pub fields: Fields<'a>,
}

/// A response's head on its way back through a chain.
pub struct ResponseHead<'a> {
    /// The status.
    pub status: u16,
    /// Every field.
    pub fields: Fields<'a>,
}

/// An answer that a filter gives itself.
#[derive(Debug, PartialEq, Eq)]
pub struct LocalAnswer {
    /// The status.
    pub status: u16,
    /// Fields beside Content-Length.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// Applies `changes` to `fields`. Names are compared without regard to case. A field that is set keeps its place and
/// the name as it came.
pub(crate) fn apply<'a>(changes: &'a HeaderChanges, fields: &mut Fields<'a>) {
    if !changes.remove.is_empty() {
        fields.retain(|(name, _)| {
            !changes.remove.iter().any(|gone| name.eq_ignore_ascii_case(gone.as_bytes()))
        });
    }
    for (name, value) in &changes.set {
        set(fields, name.as_bytes(), value.as_bytes());
    }
    for (name, value) in &changes.add {
        fields.push((Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes())));
    }
}

fn set<'a>(fields: &mut Fields<'a>, name: &'a [u8], value: &'a [u8]) {
    let Some(first) = fields.iter().position(|(found, _)| found.eq_ignore_ascii_case(name)) else {
        fields.push((Cow::Borrowed(name), Cow::Borrowed(value)));
        return;
    };
    fields[first].1 = Cow::Borrowed(value);
    let mut place = 0;
    fields.retain(|(found, _)| {
        place += 1;
        place <= first + 1 || !found.eq_ignore_ascii_case(name)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &HeaderChanges, before: &[(&str, &str)]) -> Vec<(String, String)> {
        let bytes = |text: &str| Cow::Owned(text.as_bytes().to_vec());
        let mut fields: Fields<'_> = before.iter().map(|(n, v)| (bytes(n), bytes(v))).collect();
        apply(changes, &mut fields);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        fields.iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn setting_replaces_every_value_and_keeps_the_place() {
        let changes = HeaderChanges { set: vec![("X-A".into(), "new".into())], ..Default::default() };
        let before = [("a", "0"), ("x-a", "1"), ("b", "2"), ("X-a", "3"), ("c", "4")];
        assert_eq!(changed(&changes, &before), pairs(&[("a", "0"), ("x-a", "new"), ("b", "2"), ("c", "4")]));
        assert_eq!(changed(&changes, &[("b", "2")]), pairs(&[("b", "2"), ("X-A", "new")]));
    }

    #[test]
    fn adding_keeps_what_is_there() {
        let changes = HeaderChanges { add: vec![("x-a".into(), "2".into())], ..Default::default() };
        assert_eq!(changed(&changes, &[("X-A", "1")]), pairs(&[("X-A", "1"), ("x-a", "2")]));
    }

    #[test]
    fn removing_ignores_case_and_comes_first() {
        let changes = HeaderChanges {
            remove: vec!["X-A".into()],
            add: vec![("x-a".into(), "new".into())],
            set: Vec::new(),
        };
        let before = [("x-a", "1"), ("b", "2"), ("X-A", "3")];
        assert_eq!(changed(&changes, &before), pairs(&[("b", "2"), ("x-a", "new")]));
    }
}
