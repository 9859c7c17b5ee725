//! Fields that are the sidecars' own: no application is told one, and none can say one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderValue, Request, Response};
use libtest_mimic::Trial;

use crate::links::World;
use crate::over::{is_over_quic, over_quic};
use crate::support::raw::{Peer, Upstream};
use crate::support::{http2, test};
use crate::world::Pair;

pub fn tests() -> Vec<Trial> {
    vec![
        test("what_begins_with_x_lighter_arrives_nowhere", arrives_nowhere),
        over_quic("what_begins_with_x_lighter_arrives_nowhere", arrives_nowhere),
    ]
}

/// What applications say on either side. One that is passed on tells that fields were looked at, and not lost.
const SAID: [(&str, &str); 4] = [
    ("X-Lighter-Error", "denied"),
    ("x-lighter-endpoint", "127.0.0.1:1"),
    ("X-LIGHTER-hint-data-key", "7"),
    ("x-passed-on", "yes"),
];

fn arrives_nowhere() {
    for speaks in ["http", "http2"] {
        let ways = if is_over_quic() { &[true][..] } else { &[true, false] };
        for &linked in ways {
            let (app, told) = application(speaks);
            let (listen, world, _pair) = match linked {
                true => {
                    let world = World::before(speaks, app);
                    (world.listen, Some(world), None)
                }
                false => {
                    let pair = Pair::before(speaks, app);
                    (pair.listen, None, Some(pair))
                }
            };
            for ask in [in_http1, in_http2] {
                let heard = ask(listen).to_ascii_lowercase();
                for (side, said) in [("caller", heard), ("application", told().to_ascii_lowercase())] {
                    let what = format!("{speaks}, {linked}, {side}: {said}");
                    assert!(said.contains("x-passed-on") && !said.contains("x-lighter-"), "{what}");
                }
            }
            if let Some(world) = world {
                assert_eq!(world.streams(), (2.0, 2.0));
            }
        }
    }
}

/// An application that says them in its answers, and all that it is told.
fn application(speaks: &str) -> (SocketAddr, Box<dyn Fn() -> String>) {
    if speaks == "http" {
        let app = Upstream::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                peer.body(&head);
                let fields = lines();
                peer.send(format!(
                    "HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{fields}\r\n"
                ));
            }
        });
        return (app.address, Box::new(move || app.received()));
    }
    let told = Arc::new(Mutex::new(String::new()));
    let tell = told.clone();
    let app = http2::Upstream::start(move |request, mut respond| {
        let tell = tell.clone();
        async move {
            let (head, body) = request.into_parts();
            let rest = http2::read(Response::new(()).into_parts().0, body).await;
            *tell.lock().unwrap() += &format!("{:?}{:?}", head.headers, rest.trailers);
            let mut head = Response::new(());
            *head.headers_mut() = map();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data("ok".into(), false).unwrap();
            stream.send_trailers(map()).unwrap();
        }
    });
    (app.address, Box::new(move || told.lock().unwrap().clone()))
}

/// Asks, and gives all that is heard.
fn in_http1(listen: SocketAddr) -> String {
    let fields = lines();
    let mut peer = Peer::connect(listen);
    peer.send(format!(
        "POST / HTTP/1.1\r\nHost: reviews\r\n{fields}TE: trailers\r\nConnection: close, TE\r\nTransfer-Encoding: \
         chunked\r\n\r\n2\r\nhi\r\n0\r\n{fields}\r\n"
    ));
    String::from_utf8_lossy(&peer.rest()).into_owned()
}

fn in_http2(listen: SocketAddr) -> String {
    http2::run(async {
        let mut client = http2::connect(listen).await.ready().await.unwrap();
        let mut request = Request::post("http://reviews/").body(()).unwrap();
        *request.headers_mut() = map();
        let (answer, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data("hi".into(), false).unwrap();
        stream.send_trailers(map()).unwrap();
        let (head, body) = answer.await.unwrap().into_parts();
        let answer = http2::read(head, body).await;
        assert_eq!((answer.head.status.as_u16(), &*answer.body), (200, &b"ok"[..]));
        format!("{:?}{:?}", answer.head.headers, answer.trailers)
    })
}

fn lines() -> String {
    SAID.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

fn map() -> HeaderMap {
    let field = |(name, value): &(&str, &'static str)| {
        (name.to_ascii_lowercase().parse().unwrap(), HeaderValue::from_static(value))
    };
    SAID.iter().map(field).collect::<Vec<(http::HeaderName, HeaderValue)>>().into_iter().collect()
}
