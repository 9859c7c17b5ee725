//! Sessions that go to one endpoint.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libtest_mimic::Trial;

use crate::script::Script;
use crate::support::process::find;
use crate::support::raw::{Body, Head, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{example, http2, test, test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("sticky::a_client_with_cookies_stays_with_its_endpoint", cookies),
        test_where("sticky::calls_of_grpc_stay_with_their_server", grpc),
        test("sticky::a_header_does_as_well_in_every_protocol", headers),
        test("sticky::nobody_is_led_where_he_wants", forged),
        test("sticky::a_session_outlives_a_sidecar_and_its_own_connection", outlives),
        test("sticky::a_session_stays_with_a_backend_of_little_weight", split),
        test("sticky::a_request_that_meets_a_crowd_counts_once", crowd),
    ]
}

fn three() -> [Upstream; 3] {
    ["a", "b", "c"].map(Upstream::answering)
}

fn addresses(upstreams: &[Upstream; 3]) -> [SocketAddr; 3] {
    upstreams.each_ref().map(|upstream| upstream.address)
}

fn picks(sidecar: &Sidecar, route: &str, result: &str) -> f64 {
    let route = format!("default/shop/{route}");
    sidecar.metrics().sum("lighter_session_picks_total", &[("route", &route), ("result", result)])
}

/// The answer to a request for `path` with these fields, each with its end of line.
fn get(client: &mut Peer, path: &str, fields: &str) -> (Head, String) {
    let (head, body) = client.exchange(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n"));
    assert_eq!(head.status(), 200, "{head:?}");
    let Body::Whole(body) = body else { panic!("a whole body") };
    (head, String::from_utf8(body).unwrap())
}

/// Removes the endpoint that answers with `name`.
fn without(file: &str, upstreams: &[Upstream; 3], name: &str) -> String {
    let place = ["a", "b", "c"].iter().position(|known| *known == name).unwrap();
    let line = format!("    - {{address: 127.0.0.1, port: {}}}\n", upstreams[place].address.port());
    assert!(file.contains(&line));
    file.replace(&line, "")
}

fn cookies() -> Result<(), String> {
    let curl = find("curl")?;
    let upstreams = three();
    let file = example::policy("sticky", &addresses(&upstreams));
    let (sidecar, at) = example::running(&file);
    let folder = tempfile::tempdir().unwrap();
    let jar = folder.path().join("jar");
    // Each a process and a connection of its own; only the jar is one.
    let ask = || {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--fail", "--max-time", "10", "--noproxy", "*"]);
        command.args(["--cookie".as_ref(), jar.as_os_str(), "--cookie-jar".as_ref(), jar.as_os_str()]);
        let output = command.arg(format!("http://{at}/basket/1")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = ask();
    (0..12).for_each(|_| assert_eq!(ask(), first));
    assert_eq!([picks(&sidecar, "pages", "new"), picks(&sidecar, "pages", "kept")], [1.0, 12.0]);
    let kept = std::fs::read_to_string(&jar).unwrap();
    assert!(kept.contains("\tcart\t") && kept.contains("#HttpOnly_"), "{kept}");
    assert!(!kept.contains("127.0.0.1:") && !kept.contains(":94"), "no address: {kept}");
    // Its endpoint goes; the session moves on, and stays where it is then.
    sidecar.apply(&without(&file, &upstreams, &first));
    wait_until("the endpoint is gone", || ask() != first);
    let second = ask();
    (0..6).for_each(|_| assert_eq!(ask(), second));
    assert_eq!(picks(&sidecar, "pages", "gone"), 1.0);
    Ok(())
}

fn grpc() -> Result<(), String> {
    let mut script = Script::start("grpc", "sticky.py", &[])?;
    let ports = script.hear();
    let at = |port: &String| SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    let file = example::policy("sticky", &[at(&ports[0]), at(&ports[1]), at(&ports[2])])
        .replace("appProtocol: http", "appProtocol: grpc")
        .replace("HTTPRoute", "GRPCRoute")
        .replace("{path: {value: /api}}", "{method: {service: shop.Shop}}");
    let (sidecar, listen) = example::running(&file);
    let stayed = script.tell(&format!("{listen}\ncall 20"));
    assert_eq!(BTreeSet::from_iter(&stayed).len(), 1, "{stayed:?}");
    assert_eq!([picks(&sidecar, "api", "new"), picks(&sidecar, "api", "kept")], [1.0, 19.0]);
    // The server of the session stops: what no server read is asked of another one, and the session is there then.
    script.tell(&format!("stop {}", stayed[0]));
    let moved = script.tell("call 20");
    let places = BTreeSet::from_iter(&moved);
    assert!(places.len() == 1 && !places.contains(&stayed[0]), "{moved:?}");
    assert!(picks(&sidecar, "api", "moved") >= 1.0);
    script.end();
    Ok(())
}

fn headers() {
    let upstreams = three();
    let file = example::policy("sticky", &addresses(&upstreams));
    let (sidecar, at) = example::running(&file);
    let mut client = Peer::connect(at);
    let (head, first) = get(&mut client, "/api/a", "");
    let value = head.get("x-cart").unwrap().to_owned();
    let fields = format!("X-Cart: {value}\r\n");
    (0..20).for_each(|_| assert_eq!(get(&mut client, "/api/b", &fields).1, first));
    // A client of HTTP/2, and one whose request does not come at once, find the same.
    http2::run(async {
        let client = http2::connect(at).await;
        for _ in 0..20 {
            let call = http::Request::get("http://shop/api").header("x-cart", &value);
            let answer = http2::exchange(&client, call.body(Vec::new()).unwrap()).await.unwrap();
            assert_eq!(answer.body, first.as_bytes());
        }
    });
    assert_eq!(picks(&sidecar, "api", "kept"), 40.0);
    // Where endpoints speak HTTP/2, callers of either protocol are told.
    let upstreams = ["a", "b"].map(|name| {
        http2::Upstream::start(move |_, mut respond| async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            let _ = stream.send_data(name.into(), true);
        })
    });
    let file = example::policy("sticky", &upstreams.each_ref().map(|upstream| upstream.address))
        .replace("appProtocol: http", "appProtocol: http2");
    let (sidecar, at) = example::running(&file);
    let mut client = Peer::connect(at);
    let (head, first) = get(&mut client, "/api", "");
    let value = head.get("x-cart").unwrap().to_owned();
    (0..10).for_each(|_| assert_eq!(get(&mut client, "/api", &format!("x-cart: {value}\r\n")).1, first));
    http2::run(async {
        let client = http2::connect(at).await;
        let ask = async |fields: &[(&str, &str)]| {
            let call = fields.iter().fold(http::Request::get("http://shop/page"), |call, (name, value)| {
                call.header(*name, *value)
            });
            http2::exchange(&client, call.body(Vec::new()).unwrap()).await.unwrap()
        };
        let answer = ask(&[]).await;
        let cookie = answer.head.headers["set-cookie"].to_str().unwrap().to_owned();
        let (value, attributes) = cookie.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; Max-Age=28800; HttpOnly");
        for _ in 0..10 {
            assert_eq!(ask(&[("cookie", "a=b"), ("cookie", value)]).await.body, answer.body);
        }
    });
    assert_eq!([picks(&sidecar, "api", "kept"), picks(&sidecar, "pages", "kept")], [10.0, 10.0]);
}

fn forged() {
    let upstreams = three();
    let outside = Upstream::answering("outside");
    let (sidecar, at) = example::sidecar("sticky", &addresses(&upstreams));
    let mut client = Peer::connect(at);
    let (head, _) = get(&mut client, "/api", "");
    let own = head.get("x-cart").unwrap().to_owned();
    // Addresses, as they are and as Envoy writes them; another route's value; half of one; and noise.
    let address = outside.address.to_string();
    let mut said = vec![address, own[..30].to_owned(), "MTI3LjAuMC4xOjk0MDE=".to_owned()];
    said.extend(["f".repeat(40), "%00".to_owned(), "é".to_owned(), "7".repeat(5000)]);
    for value in &said {
        let (head, answer) = get(&mut client, "/page", &format!("Cookie: cart={value}\r\n"));
        assert!(["a", "b", "c"].contains(&&*answer));
        assert!(head.get("set-cookie").unwrap().starts_with("cart="), "{value}");
    }
    let (_, answer) = get(&mut client, "/page", &format!("Cookie: cart={own}\r\n"));
    assert!(["a", "b", "c"].contains(&&*answer));
    assert_eq!(outside.connections(), 0);
    let counted = ["invalid", "gone", "kept"].map(|result| picks(&sidecar, "pages", result));
    assert_eq!(counted.iter().sum::<f64>(), said.len() as f64 + 1.0, "{counted:?}");
    assert_eq!(counted[2], 0.0);
}

fn outlives() {
    // Each answers once a connection, without saying that it closes.
    let upstreams = ["a", "b", "c"].map(|name| {
        Upstream::start(move |mut peer, _| {
            if peer.head().is_some() {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}"));
            }
        })
    });
    let (sidecar, at) = example::sidecar("sticky", &addresses(&upstreams));
    let (head, first) = get(&mut Peer::connect(at), "/api", "");
    let fields = format!("x-cart: {}\r\n", head.get("x-cart").unwrap());
    let stays = |at: SocketAddr| {
        let mut client = Peer::connect(at);
        (0..20).for_each(|_| assert_eq!(get(&mut client, "/api", &fields).1, first));
    };
    stays(at);
    drop(sidecar);
    let (sidecar, at) = example::sidecar("sticky", &addresses(&upstreams));
    stays(at);
    assert_eq!([picks(&sidecar, "api", "kept"), picks(&sidecar, "api", "moved")], [20.0, 0.0]);
}

fn split() {
    let upstreams = ["old", "new"].map(Upstream::answering);
    let file = example::policy("split", &upstreams.each_ref().map(|upstream| upstream.address));
    let rule = "    - name: all\n      sessionPersistence: {type: Header, sessionName: x-seat}\n";
    let file = file.replace("    - name: all\n", rule);
    let (sidecar, at) = example::running(&file);
    let mut client = Peer::connect(at);
    let ask = |client: &mut Peer, fields: &str| get(client, "/", fields);
    let found = (0..1000).map(|_| ask(&mut client, "")).find(|(_, answer)| answer == "new");
    let fields = format!("x-seat: {}\r\n", found.unwrap().0.get("x-seat").unwrap());
    assert!((0..50).all(|_| ask(&mut client, &fields).1 == "new"));
    // Nobody is sent to a backend that weighs nothing.
    sidecar.apply(&file.replace("weight: 10}", "weight: 0}"));
    wait_until("it gets nothing", || ask(&mut client, &fields).1 == "old");
}

fn crowd() {
    let left = Arc::new(AtomicUsize::new(0));
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(10);
    // They refuse streams unread, as those that have too many.
    let upstreams = [(); 3].map(|()| {
        let left = left.clone();
        http2::Upstream::start_with(builder.clone(), move |_, mut respond| {
            let refuses = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
            async move {
                match refuses {
                    true => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    false => drop(respond.send_response(http::Response::new(()), true)),
                }
            }
        })
    });
    let file = example::policy("sticky", &upstreams.each_ref().map(|upstream| upstream.address))
        .replace("appProtocol: http", "appProtocol: http2");
    let (sidecar, at) = example::running(&file);
    http2::run(async {
        let client = http2::connect(at).await;
        let ask = async |value: &str| {
            let call = http::Request::get("http://shop/api").header("x-cart", value).body(Vec::new());
            http2::exchange(&client, call.unwrap()).await.unwrap().head
        };
        let value = ask("").await.headers["x-cart"].to_str().unwrap().to_owned();
        left.store(3, Relaxed);
        assert_eq!(ask(&value).await.status, 200);
    });
    assert_eq!(left.load(Relaxed), 0);
    assert_eq!([picks(&sidecar, "api", "kept"), picks(&sidecar, "api", "moved")], [1.0, 0.0]);
}
