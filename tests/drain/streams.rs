//! Streams that do not end by themselves as the state of their service is to move.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use libtest_mimic::Trial;

use crate::migrate::is_done;
use crate::places::{Place, SLOW, alone, begin_within, caller, losses, shop};
use crate::registers::App;
use crate::support::raw::Peer;
use crate::support::{http2, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![
        alone("streams::a_stream_that_stays_is_cut_where_its_service_says_so", cut),
        alone("streams::a_call_is_cut_by_whatever_it_is_carried", cut_between_protocols),
    ]
}

/// Asks at a door, and gives the cause of the error that comes.
type Ask = fn(SocketAddr) -> Option<String>;

/// Calls that come by one protocol, and go on to the application by the other.
fn cut_between_protocols() {
    let by_http1 = |door| {
        let head = "POST /stay HTTP/1.1\r\nHost: shop\r\nContent-Type: application/grpc-web\r\nContent-Length: 0\r\n";
        let (head, _) = Peer::connect(door).exchange(format!("{head}Connection: close\r\n\r\n"));
        head.cause().map(str::to_owned)
    };
    let by_http2 = |door| {
        http2::run(async {
            let request = Request::post("http://shop/stay").header("content-type", "application/grpc-web");
            let client = http2::connect(door).await;
            let answer =
                http2::exchange(&client, request.body(Vec::new()).unwrap()).await.expect("an answer");
            answer.head.headers.get("x-lighter-error").map(|cause| cause.to_str().unwrap().to_owned())
        })
    };
    let ways: [(&str, Ask); 2] = [("http", by_http2), ("http2", by_http1)];
    for (protocol, ask) in ways {
        let world = World::new();
        let ports = format!(
            "{{name: shop, port: 80, targetPort: 8080, appProtocol: {protocol}}}, {{name: state, port: 81, targetPort: 8080}}"
        );
        let shop = shop(&format!("{SLOW}, streams: cut, port: 81"));
        world.apply(&shop.replace("{port: 80, targetPort: 8080}", &ports));
        let another = |name| Place::at_ports(&world, name, &[80, 81], Duration::from_secs(180));
        let a = another("a");
        wait_until("the first one serves", || a.serves());
        let b = another("b");
        a.app.tell("hold/stay");
        // A caller's sidecar would speak as the application does.
        let door = a.door();
        let asked = std::thread::spawn(move || ask(door));
        wait_until("it is under way", || a.app.count("stay.waits") == 1);
        begin_within(&world, "cuts", &a, &b, "4s");
        is_done(&world, "cuts");
        assert_eq!(asked.join().unwrap().as_deref(), Some("outcome_unknown"), "{protocol}");
        assert_eq!(a.sidecar.metrics().sum("lighter_state_cut_total", &[]), 1.0, "{protocol}");
        assert!(b.serves() && losses(&world) == 0.0, "{protocol}");
    }
}

fn cut() {
    let world = World::new();
    world.apply(&shop(&format!("{SLOW}, streams: cut")));
    let [a, b] = Place::both(&world, App::start(&world.path(""), "b"));
    let (web, listen) = caller(&world);
    http2::run(async {
        let mut client = http2::connect(listen).await.ready().await.unwrap();
        let request = Request::post("http://shop/registers.Registers/Add").header("te", "trailers");
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        let (answer, mut up) = client.send_request(request, false).unwrap();
        let mut down = answer.await.unwrap().into_body();
        up.send_data(Bytes::from_static(&[0, 0, 0, 0, 1, 7]), false).unwrap();
        assert_eq!(down.data().await.unwrap().unwrap()[..], *b"\0\0\0\0\x011", "it runs");
        let moved = std::thread::spawn(move || {
            begin_within(&world, "cuts", &a, &b, "4s");
            is_done(&world, "cuts");
            (world, a, b)
        });
        // It says nothing, and ends all the same.
        let end = down.data().await;
        assert!(matches!(end, Some(Err(_))), "{end:?}");
        let (world, a, b) = moved.join().unwrap();
        assert!(b.serves() && !a.serves());
        assert_eq!(a.sidecar.metrics().sum("lighter_state_cut_total", &[]), 1.0);
        let unknown = [("direction", "outbound"), ("protocol", "grpc"), ("cause", "outcome_unknown")];
        wait_until("its caller's sidecar counts it", || {
            web.metrics().sum("lighter_requests_total", &unknown) == 1.0
        });
        assert_eq!(losses(&world), 0.0);
        assert_eq!(b.app.register("streamed"), 1, "what it had done is there");
    });
}
