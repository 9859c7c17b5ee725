use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Mtls, Protocol, RouteTable, TrafficPolicy};

use super::*;

fn limiter(said: Overload, priorities: &[Priority]) -> Arc<Limiter> {
    let key = ServicePort { service: ServiceName::new("overload", "test"), port: 80 };
    let mut routes = RouteTable::single(&key);
    let one = routes.routes[0].clone();
    routes = RouteTable::new(
        priorities
            .iter()
            .map(|priority| lighter_config::snapshot::Route { priority: *priority, ..one.clone() })
            .collect(),
    );
    let port = Port {
        name: None,
        protocol: Protocol::Http,
        target_port: 80,
        routes,
        tcp: Vec::new(),
        tcp_route: "default".into(),
        endpoints: Vec::new(),
        policy: TrafficPolicy { overload: Some(said), ..TrafficPolicy::default() },
        mtls: Mtls::default(),
        guards: Vec::new(),
        key,
    };
    let limiter = Limiter::new(&port, &said, Instant::now());
    limiter.set(&port, &said);
    Arc::new(limiter)
}

fn ten() -> Overload {
    Overload { max_concurrency: 10, ..Overload::default() }
}

#[test]
fn what_is_more_is_refused_until_another_ends() {
    let limiter = limiter(ten(), &[Priority::Default]);
    let mut inside: Vec<_> = (0..10).map(|_| limiter.enter(|| Priority::Default).unwrap()).collect();
    assert_eq!(limiter.enter(|| Priority::Default).err(), Some(Cause::ConcurrencyLimit));
    assert_eq!(limiter.enter(|| Priority::High).err(), Some(Cause::ConcurrencyLimit));
    inside.pop();
    assert!(limiter.enter(|| Priority::Default).is_ok());
    drop(inside);
    assert_eq!(limiter.inside.load(Relaxed), 0);
}

#[test]
fn a_part_is_kept_for_routes_that_go_first() {
    let limiter = limiter(ten(), &[Priority::High, Priority::Default]);
    let inside: Vec<_> = std::iter::from_fn(|| limiter.enter(|| Priority::Default).ok()).collect();
    assert_eq!(inside.len(), 8);
    let first: Vec<_> = std::iter::from_fn(|| limiter.enter(|| Priority::High).ok()).collect();
    assert_eq!(first.len(), 2);
}

#[test]
fn nobody_asks_for_a_priority_while_there_is_room() {
    let limiter = limiter(ten(), &[Priority::High]);
    assert!(limiter.enter(|| unreachable!("there is room")).is_ok());
}

#[test]
fn workers_at_once_never_pass_the_limit_and_lose_nobody() {
    let limiter = limiter(Overload { max_concurrency: 3, ..Overload::default() }, &[Priority::Default]);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if let Ok(admitted) = limiter.enter(|| Priority::Default) {
                        assert!(limiter.inside.load(Relaxed) <= 3);
                        admitted.answered(began, Duration::from_millis(1), began);
                    }
                }
            });
        }
    });
    assert_eq!(limiter.inside.load(Relaxed), 0);
}
