//! The examples of RFC 7541, appendix C.

use super::super::*;
use super::{Field, read};

/// Reads blocks in their order, and compares the fields, each given as `name: value`.
fn holds(decoder: &mut Decoder, examples: &[(&str, &str)]) {
    for (hex, fields) in examples {
        let hex: String = hex.split_whitespace().collect();
        let block: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let expected: Vec<Field> = fields
            .lines()
            .map(|line| line.trim().rsplit_once(" = ").unwrap())
            .map(|(name, value)| (name.into(), value.into(), false))
            .collect();
        assert_eq!(read(decoder, &block), Ok(expected), "{hex}");
    }
}

#[test]
fn single_fields_of_c_2() {
    let literal = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    holds(
        &mut Decoder::new(4096),
        &[(literal, "custom-key = custom-header"), ("be", "custom-key = custom-header")],
    );
    holds(&mut Decoder::new(4096), &[("040c 2f73 616d 706c 652f 7061 7468", ":path = /sample/path")]);
    holds(&mut Decoder::new(4096), &[("82", ":method = GET")]);
    let never =
        [0x10, 8, b'p', b'a', b's', b's', b'w', b'o', b'r', b'd', 6, b's', b'e', b'c', b'r', b'e', b't'];
    let expected = vec![(b"password".to_vec(), b"secret".to_vec(), true)];
    let mut decoder = Decoder::new(4096);
    assert_eq!(read(&mut decoder, &never), Ok(expected));
    assert_eq!(read(&mut decoder, &[0xbe]), Err(Malformed::Index));
}

const REQUESTS: [&str; 3] = [
    ":method = GET\n:scheme = http\n:path = /\n:authority = www.example.com",
    ":method = GET\n:scheme = http\n:path = /\n:authority = www.example.com\ncache-control = no-cache",
    ":method = GET\n:scheme = https\n:path = /index.html\n:authority = www.example.com\ncustom-key = custom-value",
];

#[test]
fn requests_of_c_3() {
    let blocks = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    holds(&mut Decoder::new(4096), &std::array::from_fn::<_, 3, _>(|at| (blocks[at], REQUESTS[at])));
}

#[test]
fn requests_in_huffman_code_of_c_4() {
    let blocks = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    holds(&mut Decoder::new(4096), &std::array::from_fn::<_, 3, _>(|at| (blocks[at], REQUESTS[at])));
}

const RESPONSES: [&str; 3] = [
    ":status = 302\ncache-control = private\ndate = Mon, 21 Oct 2013 20:13:21 GMT\nlocation = https://www.example.com",
    ":status = 307\ncache-control = private\ndate = Mon, 21 Oct 2013 20:13:21 GMT\nlocation = https://www.example.com",
    ":status = 200\ncache-control = private\ndate = Mon, 21 Oct 2013 20:13:22 GMT\nlocation = https://www.example.com\n\
     content-encoding = gzip\nset-cookie = foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
];

/// A table of 256 bytes, as the examples have it: the size is set in an empty block before.
fn small() -> Decoder {
    let mut decoder = Decoder::new(4096);
    assert_eq!(read(&mut decoder, &[0x3f, 0xe1, 0x01]), Ok(vec![]));
    decoder
}

#[test]
fn responses_of_c_5() {
    let blocks = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
         474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738
         666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
         3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    holds(&mut small(), &std::array::from_fn::<_, 3, _>(|at| (blocks[at], RESPONSES[at])));
}

#[test]
fn responses_in_huffman_code_of_c_6() {
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718
         63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7
         b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    holds(&mut small(), &std::array::from_fn::<_, 3, _>(|at| (blocks[at], RESPONSES[at])));
}
