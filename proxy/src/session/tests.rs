use lighter_config::load::Resources;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::{Locality, Port, Snapshot};

use super::*;
use crate::balance::Outcome;
use crate::http::h2::fields::RequestHead;
use crate::telemetry::Direction;

fn port(endpoints: &[u16]) -> Arc<Port> {
    let endpoints: Vec<_> =
        endpoints.iter().map(|port| format!("{{address: 192.0.2.1, port: {port}}}")).collect();
    let text = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  \
         ports: [{{port: 80, appProtocol: http}}]\n  endpoints: [{}]\n",
        endpoints.join(", ")
    );
    let snapshot = Snapshot::build(&Resources::parse("test.yaml", &text).unwrap()).unwrap();
    snapshot.services.values().next().unwrap().ports[0].clone()
}

fn cookie(permanent: bool) -> Carrier {
    Carrier::Cookie { path: "/a".into(), permanent }
}

/// Sessions of a route of its own, with limits in seconds.
fn sessions(route: &str, carrier: Carrier, limits: [Option<u64>; 2], endpoints: &[u16]) -> Sessions {
    let cluster = Arc::new(Cluster::build(&port(endpoints), &Locality::default(), None));
    let [absolute, idle] = limits.map(|limit| limit.map(Duration::from_secs));
    let said = Arc::new(Persistence { name: "seat".into(), carrier, absolute, idle });
    let key = ServicePort { service: ServiceName::new("session", route), port: 80 };
    let metrics = RouteMetrics::of(Direction::Outbound, &key, route);
    Sessions::new(&said, &route.into(), [&cluster].into_iter(), &metrics)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

/// The value that a new session gets at one of its endpoints, and how a client says it.
fn begun(sessions: &Sessions, port: u16, now: SystemTime) -> RequestHead {
    let (field, said) = sessions.say(Session::default(), address(port), now).unwrap();
    match field {
        b"set-cookie" => {
            let value = said.split(';').next().unwrap();
            RequestHead::with(&[("cookie", &format!("x=1; {value}; y=2"))])
        }
        _ => RequestHead::with(&[("seat", &said)]),
    }
}

fn joined(sessions: &Sessions, request: &RequestHead, now: SystemTime) -> Result<u16, Joined> {
    let session = sessions.find(request, seconds(now))?;
    Ok(sessions.places[&session.place.unwrap()].1.address.port())
}

#[test]
fn a_session_leads_to_its_endpoint_and_nothing_else_does() {
    for carrier in [cookie(false), Carrier::Header] {
        let sessions = sessions("found", carrier.clone(), [None, None], &[1, 2]);
        for port in [1, 2] {
            let request = begun(&sessions, port, at(0));
            assert_eq!(joined(&sessions, &request, at(0)), Ok(port));
            // The client knows it now.
            let session = sessions.find(&request, seconds(at(1))).unwrap();
            assert_eq!(sessions.say(session, address(port), at(1)), None);
            // And is told where the answer came from another one.
            assert!(sessions.say(session, address(3 - port), at(1)).is_some());
            assert_eq!(sessions.say(session, address(9), at(1)), None, "a device is no place for it");
        }
        let elsewhere = self::sessions("other", carrier.clone(), [None, None], &[1, 2]);
        assert_eq!(joined(&elsewhere, &begun(&sessions, 1, at(0)), at(0)), Err(Joined::Gone));
        let fewer = self::sessions("found", carrier.clone(), [None, None], &[2]);
        assert_eq!(joined(&fewer, &begun(&sessions, 1, at(0)), at(0)), Err(Joined::Gone));
        let says = |value: &str| match carrier {
            Carrier::Header => RequestHead::with(&[("seat", value)]),
            _ => RequestHead::with(&[("cookie", &format!("seat={value}"))]),
        };
        for value in ["", "a", "192.0.2.1:1", "MTkyLjAuMi4xOjE=", &"é".repeat(20)] {
            assert_eq!(joined(&sessions, &says(value), at(0)), Err(Joined::Invalid), "{value}");
        }
        assert_eq!(joined(&sessions, &says(&"0".repeat(24)), at(0)), Err(Joined::Gone));
        assert_eq!(joined(&sessions, &RequestHead::with(&[]), at(0)), Err(Joined::New));
    }
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let sessions = sessions("absolute", cookie(true), [Some(10), None], &[1]);
    let request = begun(&sessions, 1, at(0));
    assert_eq!(joined(&sessions, &request, at(9)), Ok(1));
    assert_eq!(joined(&sessions, &request, at(10)), Err(Joined::Expired));
    let (_, said) = sessions.say(Session::default(), address(1), at(0)).unwrap();
    assert!(said.ends_with("; Path=/a; Max-Age=10; HttpOnly"), "{said}");
    // What says that it begins later than now is forged.
    assert_eq!(joined(&sessions, &begun(&sessions, 1, at(1000)), at(0)), Err(Joined::Invalid));
}

#[test]
fn a_session_that_is_used_does_not_idle() {
    let sessions = sessions("idle", cookie(true), [Some(100), Some(10)], &[1]);
    let mut request = begun(&sessions, 1, at(0));
    assert_eq!(joined(&sessions, &request, at(10)), Err(Joined::Expired));
    for now in [9, 18, 27, 95] {
        let used = sessions.find(&request, seconds(at(now)));
        let Ok(session) = used else {
            assert_eq!((used, now), (Err(Joined::Expired), 95));
            break;
        };
        let (_, said) = sessions.say(session, address(1), at(now)).unwrap();
        // The client keeps it no longer than the whole session lasts.
        assert!(said.contains(&format!("Max-Age={};", 100 - now)), "{said}");
        request = RequestHead::with(&[("cookie", &said)]);
        // In the same second there is nothing to say.
        let session = sessions.find(&request, seconds(at(now))).unwrap();
        assert_eq!(sessions.say(session, address(1), at(now)), None);
    }
}

#[test]
fn a_session_leaves_an_endpoint_that_failed_or_takes_no_requests() {
    let sessions = sessions("left", cookie(false), [None, None], &[1, 2]);
    let session = sessions.find(&begun(&sessions, 1, at(0)), seconds(at(0))).unwrap();
    let now = Instant::now();
    let picked = sessions.join(session, (true, None), now).unwrap().unwrap();
    let endpoint = picked.endpoint.clone();
    assert_eq!(endpoint.address, address(1));
    let avoid = || Avoid::after(endpoint.clone(), Cause::UpstreamClosed);
    assert!(sessions.join(session, (false, Some(&avoid())), now).unwrap().is_none());
    // A connection that had rested for too long is no failure of its endpoint.
    let avoid = avoid().with(Outcome::Abandoned);
    drop(sessions.join(session, (false, Some(&avoid)), now).unwrap().unwrap());
    drop(picked);
    for _ in 0..3 {
        Cluster::take(&endpoint, now).finish(Outcome::Failed, Duration::ZERO, now);
    }
    assert!(sessions.join(session, (true, None), now).unwrap().is_none());
}
