//! What a workload with state is asked for besides, as its own metrics, by a port that its Service does not name.

use std::net::SocketAddr;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::places::{Place, alone, shop};
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
    let another = |name| Place::at_ports(&world, name, &[80, 9090], Duration::from_secs(180));
    let a = another("a");
    wait_until("the first one serves", || a.serves());
    let b = another("b");
    wait_until("the second one is ready", || b.sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0);
    let asked = |door: SocketAddr| {
        let (head, _) =
            Peer::connect(door).exchange("GET /well HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
        (head.status(), head.get("x-lighter-error").map(str::to_owned))
    };
    let answered = [&a, &b].map(|place| place.doors().into_iter().map(asked).collect::<Vec<_>>());
    let (well, refused) = ((200, None), (503, Some("not_serving".to_owned())));
    assert_eq!(answered, [[well.clone(), well.clone()], [refused, well]]);
    let refused = [&a, &b].map(|of| of.sidecar.metrics().sum("lighter_state_refused_total", &[]));
    assert_eq!(refused, [0.0, 1.0]);
}
