//! Between two sidecars.

use http::Request;
use libtest_mimic::Trial;

use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::smuggling::reach_nobody;
use crate::support::{self, http2, test, wait_until};
use crate::world::{Pair, WEB, bodies_come_back};

pub fn tests() -> Vec<Trial> {
    vec![
        test("an_application_hears_from_its_sidecar_who_calls", an_application_hears_who_calls),
        test("requests_share_connections_that_are_proved_once", requests_share_connections),
        test("http2_callers_are_known_too", http2_callers_are_known_too),
        test("bodies_of_any_size_pass_whole_both_ways", bodies_pass_whole),
        test("a_slow_reader_holds_its_sender_back", a_slow_reader_holds_its_sender_back),
        test("a_cut_answer_stays_cut", a_cut_answer_stays_cut),
        test(
            "a_body_that_ends_with_its_connection_ends_well",
            a_body_that_ends_with_its_connection_ends_well,
        ),
        test("an_upgraded_connection_is_carried", an_upgraded_connection_is_carried),
        test("ambiguous_requests_pass_no_pair", ambiguous_requests_pass_no_pair),
    ]
}

fn an_application_hears_who_calls() {
    let app = Upstream::answering("five stars");
    let pair = Pair::before("http", app.address);
    let request = "GET /r HTTP/1.1\r\nHost: reviews\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.lighter/forged\r\n\r\n";
    let (head, body) = Peer::connect(pair.listen).exchange(request);
    assert_eq!((head.status(), body), (200, Body::Whole(b"five stars".into())));
    let received = app.received();
    assert!(received.contains(&format!("x-forwarded-client-cert: URI={WEB}\r\n")), "{received}");
    assert!(!received.contains("forged"), "{received}");
    assert_eq!((pair.proved(), pair.plain()), (1.0, 0.0));
    let labels =
        |direction| [("direction", direction), ("service", "default/reviews"), ("code_class", "2xx")];
    let counted = |sidecar: &Sidecar, direction| {
        sidecar.metrics().sum("lighter_requests_total", &labels(direction)) == 1.0
    };
    wait_until("both ends count it", || counted(&pair.web, "outbound") && counted(&pair.reviews, "inbound"));
    let log = pair.root.folder().join("reviews.log");
    wait_until("the access log says who called", || {
        std::fs::read_to_string(&log).unwrap_or_default().contains(&format!("\"caller\":\"{WEB}\""))
    });
}

fn requests_share_connections() {
    let app = Upstream::answering("again");
    let pair = Pair::before("http", app.address);
    let mut peer = Peer::connect(pair.listen);
    for _ in 0..20 {
        let (head, body) = peer.exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        assert_eq!((head.status(), body), (200, Body::Whole(b"again".into())));
    }
    // Another caller takes over what the first one left.
    assert_eq!(
        Peer::connect(pair.listen).exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").0.status(),
        200
    );
    assert_eq!((pair.proved(), app.connections()), (1.0, 1));
}

fn http2_callers_are_known_too() {
    let app = http2::Upstream::start(|request, mut respond| async move {
        let (head, body) = request.into_parts();
        let answer = http2::read(http::Response::new(()).into_parts().0, body).await;
        let caller = head.headers.get("x-forwarded-client-cert").cloned().unwrap();
        let head = http::Response::builder().header("x-caller", caller).body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        let _ = stream.send_data(answer.body.into(), true);
    });
    let pair = Pair::before("http2", app.address);
    http2::run(async {
        let client = http2::connect(pair.listen).await;
        for turn in 0..20 {
            let request = Request::post("http://reviews/").body(vec![turn; 100_000]).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert_eq!(answer.head.headers["x-caller"], format!("URI={WEB}"));
            assert!(answer.cut.is_none() && answer.body == vec![turn; 100_000]);
        }
    });
    // A caller in HTTP/1 goes by the same connection.
    let (head, body) = Peer::connect(pair.listen).exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert_eq!((head.get("x-caller"), body), (Some(&*format!("URI={WEB}")), Body::Whole(vec![])));
    assert_eq!((pair.proved(), pair.plain(), app.connections()), (1.0, 0.0, 1));
}

fn bodies_pass_whole() {
    let app = Upstream::echoing();
    let pair = Pair::before("http", app.address);
    bodies_come_back(pair.listen);
    assert_eq!(pair.plain(), 0.0);
}

fn a_slow_reader_holds_its_sender_back() {
    const BYTES: u64 = 256 << 20;
    // Sends much at once, and says how far it came.
    let app = Upstream::start(|mut peer, _| {
        if peer.head().is_none() {
            return;
        }
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
        let part = vec![b'x'; 1 << 20];
        for _ in 0..BYTES >> 20 {
            if !peer.try_send(&part) {
                return;
            }
        }
    });
    let pair = Pair::before("http", app.address);
    let mut peer = Peer::connect(pair.listen);
    peer.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 200);
    // What was passed on comes to rest well before the end: the sockets between are full, and nothing else grows.
    let sent = || pair.reviews.program.resident() + pair.web.program.resident();
    let held = support::at_rest(std::time::Duration::from_millis(200), sent);
    assert!(held < 128 * 1024, "{held} KiB");
    assert_eq!(peer.skip(BYTES), BYTES);
}

fn a_cut_answer_stays_cut() {
    let app = Upstream::start(|mut peer, _| {
        if peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        }
    });
    let pair = Pair::before("http", app.address);
    let (head, body) = Peer::connect(pair.listen).exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert_eq!((head.status(), body), (200, Body::Cut(b"half".into())));
    let labels = [("cause", "upstream_truncated")];
    wait_until("the cut is counted where it came from", || {
        pair.reviews.metrics().sum("lighter_requests_total", &labels) == 1.0
    });
}

fn a_body_that_ends_with_its_connection_ends_well() {
    let app = Upstream::start(|mut peer, _| {
        if peer.head().is_some() {
            peer.send("HTTP/1.0 200 OK\r\n\r\nall of it");
        }
    });
    let pair = Pair::before("http", app.address);
    let (head, body) = Peer::connect(pair.listen).exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert_eq!((head.status(), body), (200, Body::Whole(b"all of it".into())));
    wait_until("it is counted as one that ended well", || {
        let ended = |cause| pair.web.metrics().sum("lighter_requests_total", &[("cause", cause)]);
        ended("") + ended("upstream_truncated") + ended("upstream_reset") == 1.0 && ended("") == 1.0
    });
}

fn ambiguous_requests_pass_no_pair() {
    let app = Upstream::answering("reached");
    let pair = Pair::before("http", app.address);
    reach_nobody("reviews", pair.listen, &app);
    assert_eq!(pair.plain(), 0.0);
}

fn an_upgraded_connection_is_carried() {
    let app = Upstream::start(|mut peer, _| {
        if peer.head().is_none() {
            return;
        }
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello");
        while let Some(line) = peer.line() {
            peer.send(format!("{line}\r\n"));
        }
        peer.send("bye\r\n");
    });
    let pair = Pair::before("http", app.address);
    let mut peer = Peer::connect(pair.listen);
    peer.send("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(peer.expect_head().status(), 101);
    assert_eq!(peer.bytes(5), b"hello");
    for word in ["one", "two"] {
        peer.send(format!("{word}\r\n"));
        assert_eq!(peer.line().as_deref(), Some(word));
    }
    // The end of one way is passed on, and leaves the other open.
    peer.finish();
    assert_eq!(peer.rest(), b"bye\r\n");
}
