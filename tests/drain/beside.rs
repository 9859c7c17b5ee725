//! What a workload with state is asked for besides, as its own metrics, by a port that its Service does not name.

use std::net::SocketAddr;

use libtest_mimic::Trial;

use crate::places::{Place, alone, shop};
use crate::support::process::free_address;
use crate::support::raw::Peer;
use crate::support::wait_until;
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![alone(
        "beside::a_port_that_the_service_does_not_name_is_no_part_of_its_state",
        answers_wherever_the_state_is,
    )]
}

fn answers_wherever_the_state_is() {
    let world = World::new();
    world.apply(&shop(""));
    let beside_a = free_address();
    let a = Place::another_beside(&world, "a", beside_a);
    wait_until("the first one serves", || a.serves());
    let beside_b = free_address();
    let b = Place::another_beside(&world, "b", beside_b);
    wait_until("the second one is ready", || b.sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0);
    let asked = |door: SocketAddr| {
        let (head, _) =
            Peer::connect(door).exchange("GET /well HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
        (head.status(), head.get("x-lighter-error").map(str::to_owned))
    };
    assert_eq!(asked(a.door()), (200, None));
    let (status, why) = asked(b.door());
    assert!(
        status == 503 && why.is_some(),
        "one that stands by serves nothing of the Service: {status}, {why:?}"
    );
    assert_eq!((asked(beside_a), asked(beside_b)), ((200, None), (200, None)));
    let refused = |of: &Place| of.sidecar.metrics().sum("lighter_state_refused_total", &[]);
    assert_eq!((refused(&a), refused(&b)), (0.0, 1.0));
}
