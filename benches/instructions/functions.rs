//! Single functions of the request path. This program runs itself under callgrind for them.

use std::hint::black_box;
use std::process::Stdio;

use crate::{Case, callgrind};

pub fn cases() -> Vec<Case> {
    let case = |name: &'static str, unit| Case {
        name,
        unit,
        count: 2000,
        limit: None,
        run: Box::new(move |file, count| {
            let status = callgrind(file, std::env::current_exe().unwrap())
                .args(["--work", name, &count.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(status.unwrap().success(), "{name} does its work");
        }),
    };
    vec![case("parse-request", "head")]
}

/// Does a case's work `count` times.
pub fn work(name: &str, count: u64) {
    match name {
        "parse-request" => parse_request(count),
        other => panic!("no work is called {other}"),
    }
}

/// What a browser sends: a dozen fields.
const HEAD: &[u8] = b"GET /products/42?ref=home HTTP/1.1\r\nHost: shop.example\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef; theme=light\r\n\
Cache-Control: max-age=0\r\nX-Request-Id: 5d3c1a52-9a4e-4b6e-a7a1-6a5a5f7a8b9c\r\n\
Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nPriority: u=0, i\r\n\r\n";

fn parse_request(count: u64) {
    use lighter_proxy::http::h1::head;
    for _ in 0..count {
        let mut room = head::room();
        let request = head::request(black_box(HEAD), &mut room).expect("valid").expect("whole");
        black_box(request.path_and_query());
    }
}
