//! The Huffman code of strings (RFC 7541 §5.2, appendix B), which is only ever read here.
//!
//! Nothing is written in it. A field that repeats goes out as an index; of one that does not, such as an id of 36
//! bytes, the code would save a quarter, which costs both ends more instructions than those bytes cost on their way
//! through a data centre.

use super::Malformed;

/// Appends what `coded` stands for.
pub(super) fn decode(coded: &[u8], into: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = into.len();
    // No code is shorter than five bits.
    into.resize(start + coded.len() * 8 / 5, 0);
    let decoded = fill(coded, &mut into[start..]);
    into.truncate(start + decoded.unwrap_or(0));
    decoded.map(|_| ()).ok_or(Malformed::Huffman)
}

/// Decodes into `room`, which is large enough for anything of that length. How many bytes came out.
fn fill(mut coded: &[u8], room: &mut [u8]) -> Option<usize> {
    // The next bits, from the top. Below the `held` ones are either the bits that follow, or zeros.
    let mut bits = 0_u64;
    let mut held = 0;
    let mut len = 0;
    loop {
        if let Some(word) = coded.first_chunk() {
            bits |= u64::from_be_bytes(*word) >> held;
            let taken = (63 - held) / 8;
            coded = &coded[taken as usize..];
            held += taken * 8;
        } else {
            while held < 56
                && let Some((byte, rest)) = coded.split_first()
            {
                bits |= u64::from(*byte) << (56 - held);
                coded = rest;
                held += 8;
            }
            if held < LONGEST {
                break;
            }
        }
        while held >= LONGEST {
            let (symbol, length) = first(bits)?;
            room[len] = symbol;
            len += 1;
            bits <<= length;
            held -= length;
        }
    }
    // What pads the last byte is the beginning of the longest code, which is all ones.
    bits |= u64::MAX >> held;
    while let Some((symbol, length)) = first(bits).filter(|(_, length)| *length <= held) {
        room[len] = symbol;
        len += 1;
        bits <<= length;
        held -= length;
    }
    let padding = held < 8 && bits | u64::MAX >> held == u64::MAX;
    padding.then_some(len)
}

/// The symbol whose code `bits` begin with, and the code's length. None: the end of the string, which is never written.
#[inline]
fn first(bits: u64) -> Option<(u8, u32)> {
    let [symbol, length] = SHORT[(bits >> 56) as usize];
    if length > 0 { Some((symbol, u32::from(length))) } else { first_long(bits) }
}

/// The same, for a code of more than eight bits. Codes of one length follow each other in the order of their symbols, and
/// longer ones are larger.
#[cold]
fn first_long(bits: u64) -> Option<(u8, u32)> {
    let bits = bits >> 32;
    let (length, row) = LONG.iter().enumerate().find(|(_, row)| bits < u64::from(row.end))?;
    let ahead = (u64::from(row.end) - 1 - bits) >> (32 - length);
    Some((BY_CODE[usize::from(row.symbols) - 1 - ahead as usize], length as u32))
}

/// Bits of the longest code.
const LONGEST: u32 = 30;

/// Symbol and length of the code that eight bits begin with. Length 0: it is longer.
static SHORT: [[u8; 2]; 256] = short();

/// By length: the codes that are no longer.
static LONG: [Row; LONGEST as usize + 1] = long();

/// Symbols in the order of their codes.
static BY_CODE: [u8; 256] = by_code();

#[derive(Clone, Copy)]
struct Row {
    /// One more than the last of them, as the top of 32 bits.
    end: u32,
    /// How many there are.
    symbols: u16,
}

const fn short() -> [[u8; 2]; 256] {
    let order = by_code();
    let mut table = [[0; 2]; 256];
    let (mut at, mut filled) = (0, 0);
    while LENGTHS[order[at] as usize] <= 8 {
        let length = LENGTHS[order[at] as usize];
        let mut left = 1 << (8 - length);
        while left > 0 {
            table[filled] = [order[at], length];
            filled += 1;
            left -= 1;
        }
        at += 1;
    }
    table
}

const fn long() -> [Row; LONGEST as usize + 1] {
    let mut rows = [Row { end: 0, symbols: 0 }; LONGEST as usize + 1];
    let (mut length, mut end, mut symbols) = (1, 0, 0);
    while length < rows.len() {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                end += 1 << (32 - length);
                symbols += 1;
            }
            symbol += 1;
        }
        rows[length] = Row { end, symbols };
        length += 1;
    }
    rows
}

const fn by_code() -> [u8; 256] {
    let mut order = [0; 256];
    let (mut length, mut filled) = (1, 0);
    while filled < order.len() {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] == length {
                order[filled] = symbol as u8;
                filled += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    order
}

/// Bits of each symbol's code, from which the codes follow.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes by the book: each code bit for bit.
    pub(in super::super) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let (code, length) = code(*byte);
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    /// A symbol's code: one more than that before it, with zeros behind it where it is longer.
    fn code(symbol: u8) -> (u32, u8) {
        let (mut code, mut length) = (0, LENGTHS[usize::from(BY_CODE[0])]);
        for at in BY_CODE {
            code <<= LENGTHS[usize::from(at)] - length;
            length = LENGTHS[usize::from(at)];
            if at == symbol {
                return (code, length);
            }
            code += 1;
        }
        unreachable!("every byte has a code")
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = b"before".to_vec();
        decode(coded, &mut text).map(|()| text.split_off(6))
    }

    #[test]
    fn codes_are_those_of_appendix_b() {
        for (symbol, expected) in [
            (b'0', (0x0, 5)),
            (b't', (0x9, 5)),
            (b' ', (0x14, 6)),
            (b'Z', (0xfd, 8)),
            (b'!', (0x3f8, 10)),
            (0, (0x1ff8, 13)),
            (b'\\', (0x7fff0, 19)),
            (1, (0x7fffd8, 23)),
            (255, (0x3ffffee, 26)),
            (10, (0x3ffffffc, 30)),
            (22, (0x3ffffffe, 30)),
        ] {
            assert_eq!(code(symbol), expected);
        }
    }

    #[test]
    fn padding_is_less_than_a_byte_of_ones() {
        assert_eq!(decoded(b""), Ok(vec![]));
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        assert_eq!(decoded(&[0b0000_0110]), Err(Malformed::Huffman));
        assert_eq!(decoded(&[0b0000_0011]), Err(Malformed::Huffman));
        assert_eq!(decoded(&[0b1111_1000]), Ok(b"&".to_vec()));
        assert_eq!(decoded(&[0b1111_1000, 0xff]), Err(Malformed::Huffman));
        assert_eq!(decoded(&[0xff]), Err(Malformed::Huffman));
        for ones in 1..20 {
            assert_eq!(
                decoded(&vec![0xff; ones]),
                Err(Malformed::Huffman),
                "the end of the string, in {ones}"
            );
        }
    }

    #[test]
    fn nothing_is_left_of_what_was_refused() {
        let mut text = b"before".to_vec();
        assert_eq!(decode(&[0, 0, 0], &mut text), Err(Malformed::Huffman));
        assert_eq!(text, b"before");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encode(&text)), Ok(text));
        }

        #[test]
        fn text_is_decoded(text in "[ -~]{0,200}") {
            prop_assert_eq!(decoded(&encode(text.as_bytes())), Ok(text.into_bytes()));
        }

        #[test]
        fn what_is_decoded_was_encoded(coded in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(text) = decoded(&coded) {
                prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
