//! Heads and trailers as compact lists of bytes: all text of one in one allocation, and a place for each field.
//!
//! Names are in lower case, as HTTP/2 has them (RFC 9113 §8.2.1). What a field means to a hop is found once, when it is
//! put in.

use lighter_config::snapshot::RequestParts;

use crate::http::hop::{self, Kind};

/// Fields in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    places: Vec<Place>,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// In lower case.
    pub name: &'a [u8],
    /// As it came.
    pub value: &'a [u8],
    /// What it means to a hop.
    pub kind: Kind,
    /// Whether it may stand in no table of HPACK (RFC 7541 §7.1.3).
    pub sensitive: bool,
}

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Every field but the pseudo-fields.
    pub fields: Fields,
    method: Part,
    scheme: Part,
    authority: Part,
    target: Part,
}

/// The head of an answer.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// Every field.
    pub fields: Fields,
}

/// Where a part of a text lies. A part that was never set is empty.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    at: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: u32,
    name: u32,
    value: u32,
    kind: Kind,
    sensitive: bool,
}

/// Room for a usual head.
const TEXT: usize = 480;
const PLACES: usize = 16;

impl Fields {
    /// None, with room for those of a usual head.
    pub fn with_room() -> Self {
        Fields::with_capacity(TEXT, PLACES)
    }

    /// None, with room for so many of them, and so many bytes of text.
    pub fn with_capacity(text: usize, fields: usize) -> Self {
        Fields { text: Vec::with_capacity(text), places: Vec::with_capacity(fields) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// One more, at the end. `name` is in lower case. Text of more than 4 GiB is not kept: no limit lets it come so far.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_as(name, value, false);
    }

    /// The same, for one that may be `sensitive`. Returns what it means to a hop.
    #[inline]
    pub fn push_as(&mut self, name: &[u8], value: &[u8], sensitive: bool) -> Kind {
        let at = self.text.len();
        let kind = hop::classify(name);
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        if let (Ok(at), Ok(_)) = (u32::try_from(at), u32::try_from(self.text.len())) {
            self.places.push(Place {
                at,
                name: name.len() as u32,
                value: value.len() as u32,
                kind,
                sensitive,
            });
        }
        kind
    }

    /// The same, for a name in any case.
    pub fn push_lower(&mut self, name: &[u8], value: &[u8]) {
        let at = self.text.len();
        self.push(name, value);
        self.text[at..at + name.len()].make_ascii_lowercase();
    }

    /// All of them.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.places.iter().map(|place| self.field(place))
    }

    /// The first value of field `name`, which is in lower case.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// Every value of field `name`, which is in lower case.
    pub fn values(&self, name: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |field| field.name == name).map(|field| field.value)
    }

    /// The first value of a field that means `kind`.
    pub fn of(&self, kind: Kind) -> Option<&[u8]> {
        self.all_of(kind).next()
    }

    /// Every value of the fields that mean `kind`.
    pub fn all_of(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        self.places.iter().filter(move |place| place.kind == kind).map(|place| self.field(place).value)
    }

    /// Takes away every field of which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&Field<'_>) -> bool) {
        let Fields { text, places } = self;
        places.retain(|place| keep(&place.field(text)));
    }

    /// Takes away every field that means `kind`.
    pub fn remove(&mut self, kind: Kind) {
        self.places.retain(|place| place.kind != kind);
    }

    /// Makes the first field `name` say `value`, and takes the others away; one that was not there comes last.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let Some(first) = self.iter().position(|field| field.name == name) else {
            return self.push(name, value);
        };
        self.push(name, value);
        let Some(new) = self.places.pop() else { return };
        self.places[first] = new;
        let mut at = 0;
        self.retain(|field| {
            at += 1;
            at <= first + 1 || field.name != name
        });
    }

    /// Keeps the fields that mean `kind` out of the tables of HPACK. Whether there are any.
    pub fn hide(&mut self, kind: Kind) -> bool {
        let mut any = false;
        for place in self.places.iter_mut().filter(|place| place.kind == kind) {
            place.sensitive = true;
            any = true;
        }
        any
    }

    /// What it costs by RFC 9113 §10.5.1: the text, and 32 bytes for each field.
    pub fn size(&self) -> usize {
        self.places.iter().map(|place| (place.name + place.value) as usize + 32).sum()
    }

    #[inline]
    fn field(&self, place: &Place) -> Field<'_> {
        place.field(&self.text)
    }

    fn put(&mut self, text: &[u8]) -> Part {
        let at = self.text.len();
        self.text.extend_from_slice(text);
        match (u32::try_from(at), u32::try_from(self.text.len())) {
            (Ok(at), Ok(_)) => Part { at, len: text.len() as u32 },
            _ => Part::default(),
        }
    }

    fn part(&self, part: Part) -> &[u8] {
        &self.text[part.at as usize..][..part.len as usize]
    }
}

impl Place {
    #[inline]
    fn field<'a>(&self, text: &'a [u8]) -> Field<'a> {
        let (name, rest) = text[self.at as usize..].split_at(self.name as usize);
        Field { name, value: &rest[..self.value as usize], kind: self.kind, sensitive: self.sensitive }
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, const N: usize> From<[(&'a str, &'a str); N]> for Fields {
    fn from(list: [(&'a str, &'a str); N]) -> Self {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
        fields
    }
}

impl RequestHead {
    /// Nothing yet, with room for a usual head.
    pub fn with_room() -> Self {
        RequestHead { fields: Fields::with_room(), ..RequestHead::default() }
    }

    /// A request without fields.
    pub fn new(method: &[u8], scheme: &[u8], authority: &[u8], target: &[u8]) -> Self {
        let mut head = RequestHead::with_room();
        head.set_method(method);
        head.set_scheme(scheme);
        head.set_authority(authority);
        head.set_target(target);
        head
    }

    /// `GET`.
    pub fn method(&self) -> &[u8] {
        self.fields.part(self.method)
    }

    /// `http` or `https`, as the caller knows it. Empty with CONNECT.
    pub fn scheme(&self) -> &[u8] {
        self.fields.part(self.scheme)
    }

    /// `host:port`; empty where none was sent.
    pub fn authority(&self) -> &[u8] {
        self.fields.part(self.authority)
    }

    /// Path and query as they came, or `*`. Empty with CONNECT.
    pub fn target(&self) -> &[u8] {
        self.fields.part(self.target)
    }

    /// Another method.
    pub fn set_method(&mut self, method: &[u8]) {
        self.method = self.fields.put(method);
    }

    /// Another scheme.
    pub fn set_scheme(&mut self, scheme: &[u8]) {
        self.scheme = self.fields.put(scheme);
    }

    /// Another authority.
    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = self.fields.put(authority);
    }

    /// Another path and query.
    pub fn set_target(&mut self, target: &[u8]) {
        self.target = self.fields.put(target);
    }
}

#[cfg(test)]
impl RequestHead {
    /// A GET with these fields.
    pub(crate) fn with(fields: &[(&str, &str)]) -> Self {
        let mut head = RequestHead::new(b"GET", b"http", b"shop", b"/");
        fields.iter().for_each(|(name, value)| head.fields.push(name.as_bytes(), value.as_bytes()));
        head
    }
}

impl RequestParts for RequestHead {
    fn method(&self) -> &[u8] {
        self.method()
    }

    fn path(&self) -> &[u8] {
        let whole = self.target();
        memchr::memchr(b'?', whole).map_or(whole, |at| &whole[..at])
    }

    fn query(&self) -> Option<&[u8]> {
        let whole = self.target();
        memchr::memchr(b'?', whole).map(|at| &whole[at + 1..])
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        if name == "host" { Some(self.authority()) } else { self.fields.get(name.as_bytes()) }
    }

    fn header_values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        if name == "host" {
            return see(self.authority());
        }
        self.fields.values(name.as_bytes()).for_each(see);
    }
}

impl ResponseHead {
    /// An answer without fields.
    pub fn new(status: u16) -> Self {
        ResponseHead { status, fields: Fields::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(fields: &Fields) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        fields.iter().map(|field| (text(field.name), text(field.value))).collect()
    }

    #[test]
    fn setting_replaces_every_value_and_keeps_the_place() {
        let mut fields = Fields::from([("a", "0"), ("x-a", "1"), ("b", "2"), ("x-a", "3")]);
        fields.set(b"x-a", b"new");
        assert_eq!(pairs(&fields), [("a", "0"), ("x-a", "new"), ("b", "2")]);
        fields.set(b"c", b"4");
        assert_eq!(pairs(&fields)[3], ("c", "4"));
    }

    #[test]
    fn names_of_http1_become_lower_case_and_mean_what_they_mean() {
        let mut fields = Fields::default();
        fields.push_lower(b"Content-Type", b"Text/Plain");
        assert_eq!(pairs(&fields), [("content-type", "Text/Plain")]);
        assert_eq!(fields.of(Kind::ContentType), Some(&b"Text/Plain"[..]));
        fields.remove(Kind::ContentType);
        assert!(fields.is_empty());
    }

    #[test]
    fn a_requests_parts_can_be_changed_behind_its_fields() {
        let mut head = RequestHead::new(b"GET", b"http", b"a", b"/x?y=1");
        head.fields.push(b"accept", b"*/*");
        head.set_target(b"/longer/than/before");
        assert_eq!((head.method(), head.target()), (&b"GET"[..], &b"/longer/than/before"[..]));
        assert_eq!(head.path(), b"/longer/than/before");
        assert_eq!(head.query(), None);
        assert_eq!(head.header("host"), Some(&b"a"[..]));
        assert_eq!(pairs(&head.fields), [("accept", "*/*")]);
    }

    #[test]
    fn what_is_hidden_is_sensitive() {
        let mut fields = Fields::from([("x-request-id", "1"), ("a", "b")]);
        assert!(fields.hide(Kind::RequestId));
        assert!(!fields.hide(Kind::ClientCert));
        let sensitive: Vec<bool> = fields.iter().map(|field| field.sensitive).collect();
        assert_eq!(sensitive, [true, false]);
    }
}
