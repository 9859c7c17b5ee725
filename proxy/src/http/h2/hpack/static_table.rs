//! The table of fields that every connection begins with (RFC 7541, appendix A).

/// A field of the table.
type Field = (&'static [u8], &'static [u8]);

/// Where a field was found. Indices begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nowhere.
    Nothing,
    /// Its name is that of this entry.
    Name(usize),
    /// It is this entry.
    Field(usize),
}

/// How many entries there are.
pub(super) const LEN: usize = FIELDS.len();

/// The entry at `index`, which begins at 1.
#[inline]
pub(super) fn field(index: usize) -> Option<Field> {
    FIELDS.get(index.wrapping_sub(1)).copied()
}

/// Looks for a field.
#[inline]
pub(super) fn find(name: &[u8], value: &[u8]) -> Found {
    let Some(slot) = slot(name) else { return Found::Nothing };
    let first = usize::from(BY_NAME[slot]);
    match field(first) {
        Some((theirs, _)) if theirs == name => {}
        _ => return Found::Nothing,
    }
    // Names with several entries, and those whose value is not empty.
    let same = match first {
        2 | 4 | 6 => first..first + 2,
        8 => 8..15,
        16 => 16..17,
        _ => return Found::Name(first),
    };
    match same.into_iter().find(|index| FIELDS[index - 1].1 == value) {
        Some(index) => Found::Field(index),
        None => Found::Name(first),
    }
}

/// Place of `name` in [`BY_NAME`]: no two names of the table have the same.
#[inline]
const fn slot(name: &[u8]) -> Option<usize> {
    let ([first, ..], [.., last]) = (name, name) else { return None };
    let key = u32::from_be_bytes([name.len() as u8, *first, name[name.len() / 2], *last]);
    // Found by trying odd numbers until the names fell apart.
    Some((key.wrapping_mul(0x0498_3c6d) >> 25) as usize)
}

/// Index of the first entry of each name, by its slot. 0: no name.
const BY_NAME: [u8; 128] = {
    let mut slots = [0; 128];
    let mut index = LEN;
    while index > 0 {
        let name = FIELDS[index - 1].0;
        if let Some(slot) = slot(name) {
            // Backwards, so that the first entry of a name is what stays.
            assert!(slots[slot] == 0 || same(FIELDS[slots[slot] as usize - 1].0, name), "names share a slot");
            slots[slot] = index as u8;
        }
        index -= 1;
    }
    slots
};

/// Equality, where `==` cannot be used yet.
const fn same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

const FIELDS: [Field; 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_where_it_is() {
        for (at, (name, value)) in FIELDS.iter().enumerate() {
            let first = FIELDS.iter().position(|(other, _)| other == name).unwrap() + 1;
            let expected = if value.is_empty() { Found::Name(at + 1) } else { Found::Field(at + 1) };
            assert_eq!(find(name, value), expected);
            assert_eq!(find(name, b"something else"), Found::Name(first));
            assert_eq!(field(at + 1), Some((*name, *value)));
        }
        assert_eq!(field(0), None);
        assert_eq!(field(62), None);
    }

    #[test]
    fn other_names_are_not_found() {
        for name in
            [&b""[..], b"x", b":", b":method2", b"grpc-timeout", b"te", &[b'a'; 300], b"accepted", b"Age"]
        {
            assert_eq!(find(name, b""), Found::Nothing, "{name:?}");
        }
    }
}
