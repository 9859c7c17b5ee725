//! The `h2` crate as the other end: what it writes is read here, and what is written here it reads.

use h2::client;
use http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::*;
use super::{Field, read};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_BOTH: u8 = 0x5;

/// Answers each request with the fields of its head, until the client leaves. Returns what it read.
async fn serve(mut io: DuplexStream, table: u32) -> Vec<Vec<Field>> {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(table as usize));
    let mut heads = Vec::new();
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await.unwrap();
    // What both may make of their tables: HEADER_TABLE_SIZE is the first setting.
    let [a, b, c, d] = table.to_be_bytes();
    io.write_all(&frame(SETTINGS, 0, 0, &[0, 1, a, b, c, d])).await.unwrap();
    loop {
        let mut head = [0; 9];
        if io.read_exact(&mut head).await.is_err() {
            return heads;
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        io.read_exact(&mut payload).await.unwrap();
        match kind {
            SETTINGS if flags == 0 => {
                let size = payload.chunks(6).find(|setting| setting[1] == 1).unwrap();
                encoder.resize(u32::from_be_bytes(size[2..].try_into().unwrap()) as usize);
                io.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap();
            }
            HEADERS => {
                assert_eq!(flags, END_BOTH, "a head in one frame");
                let fields = read(&mut decoder, &payload).unwrap();
                let mut block = Vec::new();
                encoder.field(b":status", b"299", false, &mut block);
                for (name, value, never) in fields.iter().filter(|(name, ..)| !name.starts_with(b":")) {
                    encoder.field(name, value, *never, &mut block);
                }
                heads.push(fields);
                io.write_all(&frame(HEADERS, END_BOTH, u32::from_be_bytes(stream), &block)).await.unwrap();
            }
            GOAWAY => return heads,
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    [&[a, b, c, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// Sends heads with these fields, and compares what is read of them, and what comes back.
async fn holds(heads: Vec<Vec<(HeaderName, HeaderValue)>>, ours: u32, theirs: u32) {
    let (near, far) = duplex(1 << 20);
    let served = tokio::spawn(serve(far, ours));
    let (mut client, connection) =
        client::Builder::new().header_table_size(theirs).handshake::<_, bytes::Bytes>(near).await.unwrap();
    let running = tokio::spawn(connection);
    let mut sent = Vec::new();
    for (count, fields) in heads.into_iter().enumerate() {
        let mut request = Request::get(format!("http://a.example/{}", count % 3)).body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(name, value);
        }
        let asked = request.headers().clone();
        client = client.ready().await.unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().headers(), &asked);
        sent.push(asked);
    }
    drop(client);
    running.await.unwrap().unwrap();
    let heads = served.await.unwrap();
    assert_eq!(heads.len(), sent.len());
    for (count, (read, sent)) in heads.iter().zip(&sent).enumerate() {
        let path = format!("/{}", count % 3).into_bytes();
        assert!(read.contains(&(b":path".to_vec(), path, false)));
        let (read, mut sent) = (read.iter().filter(|(name, ..)| !name.starts_with(b":")), sent.iter());
        for (name, value, never) in read {
            let (sent_name, sent_value) = sent.next().unwrap();
            assert_eq!((&name[..], &value[..]), (sent_name.as_str().as_bytes(), sent_value.as_bytes()));
            // The other way round it need not be: the `h2` crate takes an index even for a secret, if there is one.
            assert!(!never || sent_value.is_sensitive());
        }
        assert!(sent.next().is_none());
    }
}

fn any_field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    const NAMES: [&str; 7] =
        ["content-type", "x-a", "grpc-timeout", "cookie", "accept-encoding", "authorization", "if-range"];
    const VALUES: [&str; 5] = ["application/grpc", "1", "", "gzip, deflate", "a=1"];
    let name = prop_oneof![
        4 => prop::sample::select(&NAMES[..]).prop_map(HeaderName::from_static),
        1 => "x-[a-z0-9!#$%&'*+.^_`|~-]{0,30}".prop_map(|name| HeaderName::try_from(name).unwrap()),
    ];
    let value = prop_oneof![
        4 => prop::sample::select(&VALUES[..]).prop_map(HeaderValue::from_static),
        2 => "[a-c]{0,2}".prop_map(|value| HeaderValue::try_from(value).unwrap()),
        1 => prop::collection::vec(prop_oneof![32..127u8, 128..=255u8], 0..1200)
            .prop_map(|value| HeaderValue::from_bytes(&value).unwrap()),
    ];
    (name, value, prop::bool::weighted(0.1)).prop_map(|(name, mut value, sensitive)| {
        value.set_sensitive(sensitive);
        (name, value)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn another_implementation_understands_and_is_understood(
        heads in prop::collection::vec(prop::collection::vec(any_field(), 0..12), 1..20),
        ours in prop_oneof![Just(4096), 0..10_000u32],
        theirs in prop_oneof![Just(4096), 0..10_000u32],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(holds(heads, ours, theirs));
    }
}
