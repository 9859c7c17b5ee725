//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), read without taking part in the handshake.

/// Bytes of a handshake that are looked at; a ClientHello with post-quantum key shares is below 2 KiB.
pub const MOST_BYTES: usize = 16 * 1024;

/// What is known of a ClientHello so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// It may become one; more bytes are needed.
    Partial,
    /// It is whole. The name is lower case and a valid host name; `None`: the client named nobody, or nobody that
    /// could be a host.
    Whole(Option<String>),
    /// It is none, or larger than anything a client sends.
    Not,
}

/// Whether `prefix` begins a TLS handshake. `None`: too short to tell.
pub fn begins(prefix: &[u8]) -> Option<bool> {
    // Record: type 22, legacy version 3.x, length; then handshake type 1.
    let expected = |at: usize, byte: u8| match at {
        0 => byte == 22,
        1 => byte == 3,
        2 => byte <= 4,
        // A record holds at most 2^14 bytes (and 256 of slack that no first record uses).
        3 => byte <= 0x40,
        4 => true,
        _ => byte == 1,
    };
    if prefix.iter().take(6).enumerate().any(|(at, byte)| !expected(at, *byte)) {
        return Some(false);
    }
    (prefix.len() >= 6).then_some(true)
}

/// Reads what there is of a ClientHello. It may be spread over any number of records.
pub fn parse(prefix: &[u8]) -> Hello {
    let cut = prefix.len() > MOST_BYTES;
    let prefix = &prefix[..prefix.len().min(MOST_BYTES)];
    let answer = match begins(prefix) {
        Some(false) => Hello::Not,
        None => Hello::Partial,
        Some(true) => read(prefix),
    };
    // What is still partial at the limit will not become whole.
    if answer == Hello::Partial && (cut || prefix.len() == MOST_BYTES) { Hello::Not } else { answer }
}

/// The application protocols that a client speaks within TLS, of those that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// `http/1.1`.
    pub http1: bool,
    /// `h2`.
    pub http2: bool,
}

/// What a ClientHello that is whole says of protocols (ALPN, RFC 7301); of anything else, nothing.
pub fn protocols(prefix: &[u8]) -> Protocols {
    let mut found = Protocols::default();
    let prefix = &prefix[..prefix.len().min(MOST_BYTES)];
    if let Ok(Some(hello)) = gather(prefix)
        && let Some(Some(list)) = extension(&hello[4..], 16)
        && let Some(list) = Reader(list).block16()
    {
        let mut list = Reader(list);
        while let Some(name) = list.block8() {
            found.http1 |= name == b"http/1.1";
            found.http2 |= name == b"h2";
        }
    }
    found
}

fn read(prefix: &[u8]) -> Hello {
    match gather(prefix) {
        Ok(Some(hello)) => match server_name(&hello[4..]) {
            Some(name) => Hello::Whole(name),
            None => Hello::Not,
        },
        Ok(None) => Hello::Partial,
        Err(()) => Hello::Not,
    }
}

/// The handshake message, with its own head of four bytes, if it is whole.
fn gather(prefix: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let mut handshake = Vec::with_capacity(prefix.len());
    let mut records = Reader(prefix);
    loop {
        if let Some(needed) = declared(&handshake)
            && handshake.len() >= needed
        {
            handshake.truncate(needed);
            return Ok(Some(handshake));
        }
        match record(&mut records)? {
            Some(fragment) => handshake.extend_from_slice(fragment),
            None => return Ok(None),
        }
    }
}

/// The length of the handshake message with its own head, once that is known.
fn declared(handshake: &[u8]) -> Option<usize> {
    let [_, a, b, c, ..] = *handshake else { return None };
    Some(4 + u32::from_be_bytes([0, a, b, c]) as usize)
}

/// The next record's fragment, or as much as there is of it.
fn record<'a>(records: &mut Reader<'a>) -> Result<Option<&'a [u8]>, ()> {
    let Some(&kind) = records.0.first() else { return Ok(None) };
    if kind != 22 {
        return Err(());
    }
    let Some((head, rest)) = records.0.split_at_checked(5) else { return Ok(None) };
    if head[1] != 3 {
        return Err(());
    }
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    // An empty handshake fragment is forbidden (RFC 8446 §5.1): it would allow endless records.
    if length == 0 || length > 1 << 14 {
        return Err(());
    }
    let (fragment, rest) = rest.split_at(length.min(rest.len()));
    records.0 = rest;
    Ok((!fragment.is_empty()).then_some(fragment))
}

/// The name in the body of a whole ClientHello. The outer `None`: it is malformed.
fn server_name(body: &[u8]) -> Option<Option<String>> {
    let Some(content) = extension(body, 0)? else { return Some(None) };
    let mut names = Reader(Reader(content).block16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.block16()?;
        if kind == 0 {
            return Some(host(name));
        }
    }
    Some(None)
}

/// The content of an extension in the body of a whole ClientHello. The outer `None`: it is malformed.
fn extension(body: &[u8], wanted: u16) -> Option<Option<&[u8]>> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?;
    hello.block8()?;
    hello.block16()?;
    hello.block8()?;
    if hello.0.is_empty() {
        // Extensions may be absent before TLS 1.3.
        return Some(None);
    }
    let mut extensions = Reader(hello.block16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.block16()?;
        if kind == wanted {
            return Some(Some(content));
        }
    }
    Some(None)
}

/// A host name in lower case, if it is one. Nothing else comes from here into logs and look-ups.
fn host(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let fits = !name.is_empty()
        && name.len() <= 253
        && name.split(|byte| *byte == b'.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        });
    fits.then(|| name.iter().map(|byte| byte.to_ascii_lowercase() as char).collect())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What stands behind a length of one byte.
    fn block8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// What stands behind a length of two bytes.
    fn block16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// A ClientHello for `name`, cut into records of at most `fragment` bytes.
#[cfg(test)]
pub(crate) fn client_hello(name: Option<&str>, fragment: usize) -> Vec<u8> {
    fn block(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes()[..], content].concat()
    }
    let mut extensions = vec![0x00, 0x2b, 0, 3, 2, 3, 4];
    if let Some(name) = name {
        let list = block(&[&[0u8][..], &block(name.as_bytes())].concat());
        extensions.extend([&[0u8, 0][..], &block(&list)].concat());
    }
    let body = [&[3u8, 3][..], &[9; 32], &[0], &block(&[0x13, 0x01]), &[1, 0], &block(&extensions)].concat();
    let length = (body.len() as u32).to_be_bytes();
    let handshake = [&[1, length[1], length[2], length[3]], &body[..]].concat();
    handshake.chunks(fragment).flat_map(|part| [&[22u8, 3, 1][..], &block(part)].concat()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_is_found_in_lower_case() {
        let hello = client_hello(Some("Reviews.Default.svc"), 1 << 14);
        assert_eq!(parse(&hello), Hello::Whole(Some("reviews.default.svc".into())));
        assert_eq!(parse(&client_hello(None, 1 << 14)), Hello::Whole(None));
    }

    #[test]
    fn protocols_are_found() {
        let connection = rustls::ClientConnection::new(
            {
                let provider = lighter_config::identity::provider();
                let mut config = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                config.alpn_protocols = vec![b"h2".to_vec(), b"x".to_vec()];
                config.into()
            },
            "reviews".try_into().unwrap(),
        );
        let mut hello = Vec::new();
        connection.unwrap().write_tls(&mut hello).unwrap();
        assert_eq!(protocols(&hello), Protocols { http1: false, http2: true });
        assert_eq!(parse(&hello), Hello::Whole(Some("reviews".into())));
        assert_eq!(protocols(&hello[..hello.len() - 1]), Protocols::default());
        assert_eq!(protocols(&client_hello(Some("a.b"), 40)), Protocols::default());
    }

    #[test]
    fn what_is_no_host_name_is_not_taken_for_one() {
        for odd in ["a\nb", "..", "", "a b", &"x".repeat(64)] {
            assert_eq!(parse(&client_hello(Some(odd), 1 << 14)), Hello::Whole(None), "{odd:?}");
        }
    }

    #[test]
    fn other_protocols_are_none() {
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x00\x00\x01", b"\x16\x02", b"\x17\x03\x03"] {
            assert_eq!(parse(other), Hello::Not, "{other:?}");
        }
    }

    #[test]
    fn a_hello_without_end_is_given_up() {
        let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        endless.resize(MOST_BYTES, 0);
        assert_eq!(parse(&endless[..MOST_BYTES - 1]), Hello::Partial);
        assert_eq!(parse(&endless), Hello::Not);
    }

    proptest! {
        /// However it is cut into records and into reads, the same name comes out, and not before it is whole.
        #[test]
        fn segmentation_changes_nothing(
            name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,4}",
            fragment in 1usize..400,
        ) {
            let hello = client_hello(Some(&name), fragment);
            prop_assert_eq!(parse(&hello), Hello::Whole(Some(name)));
            for cut in 0..hello.len() {
                prop_assert_eq!(parse(&hello[..cut]), Hello::Partial);
            }
        }

        /// Whatever comes, nothing panics, and what was decided stays decided.
        #[test]
        fn any_bytes_are_judged_once(
            start in prop::sample::select(vec![vec![], vec![22u8, 3, 1], client_hello(Some("a.b"), 40)]),
            noise in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = start;
            let at = at.index(bytes.len() + 1);
            bytes.splice(at.., noise);
            let mut decided: Option<Hello> = None;
            for upto in 0..=bytes.len() {
                let now = parse(&bytes[..upto]);
                if let Some(decided) = &decided {
                    prop_assert_eq!(&now, decided);
                } else if now != Hello::Partial {
                    decided = Some(now);
                }
            }
        }
    }
}
