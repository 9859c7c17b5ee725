//! Both directions together, the vectors of RFC 7541, and the `h2` crate as the other end.

mod peer;
mod vectors;

use proptest::prelude::*;

use super::huffman::tests::encode as huffman;
use super::*;

type Field = (Vec<u8>, Vec<u8>, bool);

/// Reads a block without a limit.
pub(super) fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, Malformed> {
    read_within(decoder, block, usize::MAX).map_err(|refusal| match refusal {
        Refusal::Malformed(malformed) => malformed,
        _ => unreachable!("nothing else was refused"),
    })
}

fn read_within(decoder: &mut Decoder, block: &[u8], limit: usize) -> Result<Vec<Field>, Refusal<()>> {
    let mut fields = Vec::new();
    decoder.block(block, limit, &mut |name, value, never| {
        fields.push((name.to_vec(), value.to_vec(), never));
        Ok(())
    })?;
    Ok(fields)
}

/// Writes a block.
fn write(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), false, &mut block);
    }
    block
}

fn field(name: &str, value: &str) -> Field {
    (name.into(), value.into(), false)
}

#[test]
fn what_repeats_is_an_index() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(DEFAULT_TABLE));
    let call = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/echo.Echo/Say"),
        (":authority", "echo:8080"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "grpc-rust/1"),
        ("x-made-up", "but always the same"),
    ];
    let expected: Vec<_> = call.iter().map(|(name, value)| field(name, value)).collect();
    let mut lengths = Vec::new();
    for count in 0..1000 {
        let (id, own) = (format!("{count:036}"), format!("{}m", 1000 + count % 50));
        let varying = [("x-request-id", &*id), ("grpc-timeout", &own), ("content-length", &id[30..])];
        let block = write(&mut encoder, &[&call[..], &varying].concat());
        let fields = read(&mut decoder, &block).unwrap();
        assert_eq!(fields[..call.len()], expected);
        assert_eq!(fields[call.len()], field("x-request-id", &id));
        let varying = write(&mut Encoder::new(), &varying).len();
        lengths.push(block.len().saturating_sub(varying));
    }
    assert!(lengths[2..].iter().all(|length| *length <= call.len()), "{lengths:?}");
}

#[test]
fn secrets_are_never_indexed_and_stay_so() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(DEFAULT_TABLE));
    let long = "a=0123456789012345678901234567890123456789";
    for _ in 0..3 {
        let mut block =
            write(&mut encoder, &[("authorization", "Basic eA=="), ("cookie", "a=1"), ("cookie", long)]);
        encoder.field(b"x-key", b"1234", true, &mut block);
        encoder.field(b":path", b"/", true, &mut block);
        let fields = read(&mut decoder, &block).unwrap();
        assert_eq!(
            fields.iter().map(|(_, _, never)| *never).collect::<Vec<_>>(),
            [true, true, false, true, true]
        );
        // One that came so goes on so.
        let (mut next, mut last) = (Encoder::new(), Decoder::new(DEFAULT_TABLE));
        let mut block = Vec::new();
        for (name, value, never) in &fields {
            next.field(name, value, *never, &mut block);
        }
        assert_eq!(read(&mut last, &block).unwrap(), fields);
    }
}

#[test]
fn a_table_is_resized_at_the_next_block() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(DEFAULT_TABLE));
    let fields = [("x-a", "one"), ("x-b", "two")];
    for _ in 0..3 {
        read(&mut decoder, &write(&mut encoder, &fields)).unwrap();
    }
    encoder.resize(0);
    encoder.resize(100);
    let block = write(&mut encoder, &fields);
    assert_eq!(
        block[..4],
        [0x20, 0x3f, 100 - 31, 0x00],
        "first the least size, then the last, then a field as it is"
    );
    read(&mut decoder, &block).unwrap();
    encoder.resize(1 << 20);
    assert_eq!(write(&mut encoder, &fields)[..3], [0x3f, 0xe1, 0x1f], "no more than 4096 bytes");
    encoder.resize(DEFAULT_TABLE);
    assert_eq!(write(&mut encoder, &[(":method", "GET")]), [0x82], "which changed nothing");
}

#[test]
fn a_size_of_a_table_is_only_taken_where_it_may_stand() {
    let mut decoder = Decoder::new(5000);
    assert_eq!(
        read(&mut decoder, &[0x3f, 0xe9, 0x26, 0x20, 0x3f, 0x45, 0x82]),
        Ok(vec![field(":method", "GET")])
    );
    assert_eq!(read(&mut decoder, &[0x3f, 0xea, 0x26, 0x82]), Err(Malformed::Resize), "5001 bytes");
    assert_eq!(read(&mut Decoder::new(0), &[0x82, 0x20]), Err(Malformed::Resize));
    assert_eq!(
        read(&mut Decoder::new(0), &[0x3f, 0xe1, 0x1f]),
        Ok(vec![]),
        "until a smaller one is acknowledged"
    );
}

#[test]
fn what_cannot_be_read_is_malformed() {
    for (block, expected) in [
        (&[0x80][..], Malformed::Index),
        (&[0xbe], Malformed::Index),
        (&[0x7e, 0x00], Malformed::Index),
        (&[0xff], Malformed::Cut),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x00], Malformed::Number),
        (&[0x00], Malformed::Cut),
        (&[0x00, 0x01], Malformed::Cut),
        (&[0x00, 0x01, b'a'], Malformed::Cut),
        (&[0x00, 0x01, b'a', 0x02, b'b'], Malformed::Cut),
        (&[0x00, 0x81, 0xff, 0x00], Malformed::Huffman),
        (&[0x00, 0x7f, 0xff, 0xff, 0xff, 0x7f], Malformed::Cut),
    ] {
        assert_eq!(read(&mut Decoder::new(DEFAULT_TABLE), block), Err(expected), "{block:x?}");
    }
}

#[test]
fn a_bomb_is_not_decoded_and_the_table_stays_in_step() {
    let mut decoder = Decoder::new(DEFAULT_TABLE);
    // One entry as large as the table, asked for again and again.
    let value = "x".repeat(4000);
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    block.extend_from_slice(value.as_bytes());
    block.extend_from_slice(&[0xbe; 10_000]);
    // Past the limit, but entered all the same.
    block.extend_from_slice(&[0x40, 1, b'b', 1, b'c']);
    let mut given = 0;
    let outcome = decoder.block(&block, 16_384, &mut |name, value, _| {
        given += name.len() + value.len() + FIELD_OVERHEAD;
        Ok::<_, ()>(())
    });
    assert_eq!(outcome, Err(Refusal::TooLarge));
    assert!(given <= 16_384);
    assert_eq!(read(&mut decoder, &[0xbe]), Ok(vec![field("b", "c")]));
}

#[test]
fn what_the_sink_refuses_leaves_the_table_in_step() {
    let mut decoder = Decoder::new(DEFAULT_TABLE);
    let mut seen = 0;
    let block = [0x82, 0x40, 1, b'a', 1, b'b', 0x84];
    let outcome = decoder.block(&block, 1000, &mut |_, _, _| {
        seen += 1;
        Err("no")
    });
    assert_eq!((outcome, seen), (Err(Refusal::Field("no")), 1));
    assert_eq!(read(&mut decoder, &[0xbe]), Ok(vec![field("a", "b")]));
}

/// Names and values as they are in real heads: some well known, some that repeat, some of any bytes.
fn any_field() -> impl Strategy<Value = Field> {
    const NAMES: [&str; 8] = [
        "content-type",
        ":path",
        ":status",
        "x-a",
        "grpc-timeout",
        "cookie",
        "accept-encoding",
        "authorization",
    ];
    const VALUES: [&str; 6] = ["application/grpc", "/", "200", "", "gzip, deflate", "a=1"];
    let name = prop_oneof![
        4 => prop::sample::select(&NAMES[..]).prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    let value = prop_oneof![
        4 => prop::sample::select(&VALUES[..]).prop_map(|value| value.as_bytes().to_vec()),
        2 => "[a-c]{0,2}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..1500),
    ];
    (name, value, prop::bool::weighted(0.1))
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        announced in 0..10_000usize,
        blocks in prop::collection::vec(
            (prop::option::weighted(0.2, 0..6000usize), prop::collection::vec(any_field(), 0..20)),
            1..20,
        ),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(announced));
        for (size, fields) in blocks {
            if let Some(size) = size {
                encoder.resize(size);
            }
            let mut block = Vec::new();
            for (name, value, sensitive) in &fields {
                encoder.field(name, value, *sensitive, &mut block);
            }
            let read = read(&mut decoder, &block).unwrap();
            prop_assert_eq!(read.len(), fields.len());
            for (read, field) in read.iter().zip(&fields) {
                prop_assert_eq!((&read.0, &read.1), (&field.0, &field.1));
                prop_assert!(read.2 || !field.2);
            }
        }
    }

    #[test]
    fn strings_are_read_in_either_code(fields in prop::collection::vec(any_field(), 1..20), coded in any::<u64>()) {
        let (mut block, mut decoder) = (Vec::new(), Decoder::new(DEFAULT_TABLE));
        for (at, (name, value, _)) in fields.iter().enumerate() {
            block.push(if coded >> (at + 40) & 1 == 1 { 0x40 } else { 0 });
            for (text, bit) in [(name, 2 * at), (value, 2 * at + 1)] {
                let coded = coded >> (bit % 64) & 1 == 1;
                let text = if coded { huffman(text) } else { text.clone() };
                let flag = if coded { 0x80 } else { 0 };
                let more = text.len().checked_sub(127);
                block.push(flag | text.len().min(127) as u8);
                if let Some(more) = more {
                    block.extend([more as u8 & 0x7f | 0x80, (more >> 7) as u8]);
                }
                block.extend(text);
            }
        }
        let read = read(&mut decoder, &block).unwrap();
        let expected: Vec<_> = fields.into_iter().map(|(name, value, _)| (name, value, false)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5)) {
        let mut decoder = Decoder::new(DEFAULT_TABLE);
        for block in blocks {
            if let Ok(fields) = read_within(&mut decoder, &block, 10_000) {
                let counted: usize = fields.iter().map(|(name, value, _)| name.len() + value.len() + 32).sum();
                prop_assert!(counted <= 10_000);
            }
        }
    }
}
