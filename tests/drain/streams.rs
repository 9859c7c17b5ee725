//! Streams that do not end by themselves as the state of their service is to move.

use bytes::Bytes;
use http::Request;
use libtest_mimic::Trial;

use crate::migrate::is_done;
use crate::places::{Place, SLOW, alone, begin_within, caller, losses, shop};
use crate::registers::App;
use crate::support::{http2, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![alone("streams::a_stream_that_stays_is_cut_where_its_service_says_so", cut)]
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
