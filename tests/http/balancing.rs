//! Which endpoint takes a request, by policy.

use std::collections::BTreeMap;

use libtest_mimic::Trial;

use crate::support::example::{self, ask};
use crate::support::http2;
use crate::support::raw::{Peer, Upstream};
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("balancing::a_user_stays_with_an_endpoint", a_user_stays),
        test("balancing::requests_of_http_2_hash_as_those_of_http_1", http_2_hashes_alike),
        test("balancing::a_change_of_the_policy_changes_shares", policy_changes_shares),
    ]
}

fn three() -> [Upstream; 3] {
    ["a", "b", "c"].map(Upstream::answering)
}

fn users() -> impl Iterator<Item = String> {
    (0..40).map(|user| format!("x-user: {user}\r\n"))
}

fn a_user_stays() {
    let upstreams = three();
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    let (sidecar, at) = example::sidecar("balancing", &addresses);
    let mut places = BTreeMap::new();
    for round in 0..3 {
        // Whatever connection, and so whatever worker, it comes by.
        let mut client = Peer::connect(at);
        for user in users() {
            let place = ask(&mut client, &user);
            assert_eq!(*places.entry(user).or_insert_with(|| place.clone()), place, "round {round}");
        }
    }
    let used: std::collections::BTreeSet<_> = places.values().collect();
    assert_eq!(used.len(), 3, "all endpoints have users: {places:?}");
    // By cookie, where there is no such header, and otherwise by the caller's address.
    let mut client = Peer::connect(at);
    let by_cookie = |session: u32| format!("cookie: theme=dark; session={session}\r\n");
    let found: std::collections::BTreeSet<_> =
        (0..40).map(|session| ask(&mut client, &by_cookie(session))).collect();
    assert_eq!(found.len(), 3);
    let found: std::collections::BTreeSet<_> = (0..20).map(|_| ask(&mut client, "")).collect();
    assert_eq!(found.len(), 1);

    // Who goes takes his own users along, and hardly anybody else's.
    sidecar.apply(
        &example::policy("balancing", &addresses)
            .replace(&format!("    - {{address: 127.0.0.1, port: {}}}\n", addresses[2].port()), ""),
    );
    wait_until("the third has no users any more", || {
        let mut client = Peer::connect(at);
        users().all(|user| ask(&mut client, &user) != "c")
    });
    let mut client = Peer::connect(at);
    let of_others: Vec<_> = users().filter(|user| places[user] != "c").collect();
    let moved = of_others.iter().filter(|user| ask(&mut client, user) != places[*user]).count();
    assert!(moved * 4 <= of_others.len(), "{moved} of {} moved", of_others.len());
}

fn http_2_hashes_alike() {
    let upstreams = three();
    let (_sidecar, at) =
        example::sidecar("balancing", &upstreams.each_ref().map(|upstream| upstream.address));
    let mut client = Peer::connect(at);
    let by_http_1: Vec<_> = users().map(|user| ask(&mut client, &user)).collect();
    let by_http_2 = http2::run(async {
        let client = http2::connect(at).await;
        let mut found = Vec::new();
        for user in 0..40 {
            let request = http::Request::get("http://shop/").header("x-user", user.to_string());
            let answer = http2::exchange(&client, request.body(Vec::new()).unwrap()).await.unwrap();
            found.push(String::from_utf8(answer.body).unwrap());
        }
        found
    });
    assert_eq!(by_http_1, by_http_2);
}

fn policy_changes_shares() {
    let upstreams = three();
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    let (sidecar, at) = example::sidecar("balancing", &addresses);
    let counted = |address: &std::net::SocketAddr| {
        sidecar.metrics().sum("lighter_endpoint_requests_total", &[("endpoint", &address.to_string())])
    };
    let mut client = Peer::connect(at);
    (0..30).for_each(|_| drop(ask(&mut client, "x-user: one\r\n")));
    assert_eq!(addresses.iter().filter(|address| counted(address) > 0.0).count(), 1);
    let hashed = example::policy("balancing", &addresses);
    let hash = &hashed[hashed.find("    hash:").unwrap()..];
    sidecar.apply(&hashed.replace("policy: maglev", "policy: roundRobin").replace(hash, ""));
    wait_until("requests go round", || {
        let turns: Vec<_> = (0..6).map(|_| ask(&mut client, "x-user: one\r\n")).collect();
        turns[..3] == turns[3..] && turns[0] != turns[1] && turns[1] != turns[2] && turns[0] != turns[2]
    });
}
