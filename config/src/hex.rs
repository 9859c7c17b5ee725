//! Bytes as hexadecimal digits, two each.

/// In lower case.
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// What was encoded, in capitals or not. `None` where anything else stands there.
pub fn decode(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_chunks() else { return None };
    pairs.iter().map(byte).collect()
}

/// The same for exactly `N` bytes.
pub fn decode_array<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, []) = digits.as_chunks() else { return None };
    let pairs: &[_; N] = pairs.try_into().ok()?;
    let mut bytes = [0; N];
    for (to, pair) in bytes.iter_mut().zip(pairs) {
        *to = byte(pair)?;
    }
    Some(bytes)
}

fn byte(pair: &[u8; 2]) -> Option<u8> {
    let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
    Some((high? << 4 | low?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_read_and_nothing_else() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encode(&all);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        for text in [text.clone(), text.to_uppercase()] {
            assert_eq!(decode(text.as_bytes()).as_ref(), Some(&all));
            assert_eq!(decode_array::<256>(text.as_bytes()).as_ref().map(|bytes| &bytes[..]), Some(&all[..]));
        }
        assert_eq!(decode(b""), Some(Vec::new()));
        for bad in ["0", "0g", "+1", "0x01", " 1", "é"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!((decode_array::<1>(b""), decode_array::<1>(b"0102")), (None, None));
    }
}
