//! `Retry-After`.

use std::time::Duration;

/// How long the value of `Retry-After` asks to wait, where it says so in seconds. A date would have to be read by a clock
/// that both sides share: it is taken for a long time.
pub(crate) fn retry_after(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) if text.is_empty() => None,
        Err(_) => Some(Duration::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_and_what_is_no_number_is_long() {
        assert_eq!(retry_after(b"2"), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(b" 0 "), Some(Duration::ZERO));
        assert_eq!(retry_after(b"Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::MAX));
        assert_eq!(retry_after(b""), None);
    }
}
