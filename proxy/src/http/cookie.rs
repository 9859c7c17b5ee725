//! Cookies of requests (RFC 6265 §4.2).

use lighter_config::snapshot::RequestParts;

/// What `read` makes of the first cookie called `name`. A client says the one with the longest path first.
pub(crate) fn read<T>(
    name: &str,
    request: &(impl RequestParts + ?Sized),
    read: impl Fn(&[u8]) -> T,
) -> Option<T> {
    let mut found = None;
    request.header_values("cookie", &mut |value| {
        for pair in value.split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let end = pair.iter().position(|byte| *byte == b'=');
            if let Some(end) = end
                && found.is_none()
                && pair[..end] == *name.as_bytes()
            {
                found = Some(read(&pair[end + 1..]));
            }
        }
    });
    found
}
