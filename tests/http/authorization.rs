//! Who may call what: AuthorizationPolicies as the callee's sidecar enforces them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, service};
use crate::support::{http2, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("authorization::what_no_policy_allows_is_refused_and_never_arrives", allow),
        test("authorization::deny_is_stronger_than_allow_over_http_2_too", deny),
        test("authorization::audit_refuses_nothing_and_tells", audit),
        test("authorization::opaque_bytes_do_not_pass_a_rule_about_requests", opaque),
        test("authorization::a_change_holds_for_connections_that_are_open", change),
    ]
}

/// The sidecar of the Service `up` in front of its application, and where callers reach it.
fn callee(upstream: &Upstream, protocol: &str, policies: &str) -> (Sidecar, SocketAddr, String) {
    let listen = free_address();
    let service = service("up", protocol, &[listen]);
    let own = format!(
        "service: up\ninbound: [{{listen: '{listen}', app: '{}', port: 80}}]\nworkers: 1\n",
        upstream.address
    );
    (Sidecar::start(&format!("{service}---\n{policies}"), &own), listen, service)
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{targetRefs: \
         [{{kind: Service, name: up}}], {spec}}}\n---\n"
    )
}

fn decisions(sidecar: &Sidecar, policy: &str, decision: &str) -> f64 {
    let labels = [("policy", policy), ("decision", decision), ("service", "default/up"), ("port", "80")];
    sidecar.metrics().sum("lighter_authorization_decisions_total", &labels)
}

/// The status of a request, and what the mesh says of it.
fn ask(client: &mut Peer, line: &str) -> (u16, Option<String>) {
    let (head, _) = client.exchange(format!("{line} HTTP/1.1\r\nHost: up\r\nX-Team: red\r\n\r\n"));
    (head.status(), head.cause().map(str::to_owned))
}

const GET: &str =
    "rules: [{to: [{methods: [GET], paths: ['/public/*'], headers: [{name: x-team, value: red}]}]}]";

fn allow() {
    let app = Upstream::answering("served");
    let (sidecar, at, _) = callee(&app, "http", &policy("read", GET));
    let denied = (403, Some("denied".to_owned()));
    for _ in 0..3 {
        assert_eq!(ask(&mut Peer::connect(at), "GET /public/a"), (200, None));
    }
    // The last ones would be other paths to many applications.
    for line in ["GET /private", "DELETE /public/a", "GET /public/../private", "GET /public/%2e%2e/private"] {
        assert_eq!(ask(&mut Peer::connect(at), line), denied, "{line}");
    }
    let (head, body) = Peer::connect(at).exchange("GET /public/a HTTP/1.1\r\nHost: up\r\n\r\n");
    assert_eq!(head.status(), 403);
    let Body::Whole(body) = body else { panic!("{body:?}") };
    let body = String::from_utf8(body).unwrap();
    assert!(
        body.starts_with("lighter: denied: ") && !body.contains("read"),
        "a caller is not told which: {body}"
    );
    let received = app.received();
    assert_eq!(received.matches("GET /public/a").count(), 3, "{received}");
    assert!(!received.contains("private") && !received.contains("DELETE"), "{received}");
    assert_eq!(decisions(&sidecar, "default/read/0", "allowed"), 3.0);
    assert_eq!(decisions(&sidecar, "default/read", "denied"), 5.0);
    let counted = [("direction", "inbound"), ("cause", "denied")];
    wait_until("refusals are counted as requests", || {
        sidecar.metrics().sum("lighter_requests_total", &counted) == 5.0
    });
}

fn deny() {
    let app = http2::Upstream::echo();
    let listen = free_address();
    let own = format!(
        "service: up\ninbound: [{{listen: '{listen}', app: '{}', port: 80}}]\nworkers: 1\n",
        app.address
    );
    let policies = policy("all", "rules: [{}]")
        + &policy("no-admin", "action: deny, rules: [{to: [{paths: ['/admin*']}]}]");
    let resources = format!("{}---\n{policies}", service("up", "grpc", &[listen]));
    let sidecar = Sidecar::start(&resources, &own);
    http2::run(async {
        let mut client = http2::connect(listen).await.ready().await.unwrap();
        for (path, status, grpc) in [("/a", 200, None), ("/admin", 403, None), ("/admin/b", 200, Some("7"))] {
            let mut request = http::Request::post(format!("http://up{path}")).body(()).unwrap();
            if grpc.is_some() {
                request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            }
            let (answer, mut body) = client.send_request(request, false).unwrap();
            // An answer may come before the body is wanted.
            let _ = body.send_data("x".into(), true);
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            let field =
                |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(field("grpc-status").as_deref(), grpc, "{path}");
            assert_eq!(field("x-lighter-error").as_deref(), (path != "/a").then_some("denied"), "{path}");
        }
    });
    assert_eq!(decisions(&sidecar, "default/no-admin/0", "denied"), 2.0);
    assert_eq!(decisions(&sidecar, "default/all/0", "allowed"), 1.0);
}

fn audit() {
    let app = Upstream::answering("served");
    let (sidecar, at, _) = callee(&app, "http", &policy("try", &format!("mode: audit, {GET}")));
    assert_eq!(ask(&mut Peer::connect(at), "GET /private"), (200, None));
    assert_eq!(ask(&mut Peer::connect(at), "GET /public/a"), (200, None));
    assert_eq!(decisions(&sidecar, "default/try", "audited"), 1.0);
    assert_eq!(decisions(&sidecar, "default/try", "denied"), 0.0);
}

fn opaque() {
    let app = Upstream::answering("served");
    let (_sidecar, at, _) = callee(&app, "auto", &policy("read", GET));
    let mut client = Peer::connect(at);
    client.send("\x00\x01 some other protocol\r\n\r\n");
    let answer = client.head();
    assert!(answer.is_none_or(|head| head.status() == 400), "told in HTTP, if at all");
    assert_eq!(app.received(), "");
    // Addresses are known without a request: by them alone, opaque bytes pass or not.
    for (range, passes) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let echo = Upstream::start(|mut peer, _| {
            let line = peer.line().unwrap_or_default();
            peer.send(format!("{line}\r\n"));
        });
        let rules = format!("rules: [{{from: [{{cidrs: ['{range}']}}]}}]");
        let (sidecar, at, _) = callee(&echo, "tcp", &policy("near", &rules));
        assert_eq!(said(at, "hello\r\n"), passes.then_some(b'h'), "{range}");
        assert_eq!(echo.connections(), usize::from(passes));
        let (name, decision) =
            if passes { ("default/near/0", "allowed") } else { ("default/near", "denied") };
        assert_eq!(decisions(&sidecar, name, decision), 1.0);
        let counted = [("direction", "inbound"), ("cause", "denied")];
        let refused = if passes { 0.0 } else { 1.0 };
        wait_until("a refused connection is counted", || {
            sidecar.metrics().sum("lighter_connections_total", &counted) == refused
        });
    }
}

/// The first byte of what is said to `text`; none if the connection is reset, be it while it is made.
fn said(at: SocketAddr, text: &str) -> Option<u8> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.write_all(text.as_bytes()).ok()?;
    let mut byte = [0];
    (stream.read(&mut byte).ok()? == 1).then_some(byte[0])
}

fn change() {
    let app = Upstream::answering("served");
    let (sidecar, at, service) = callee(&app, "http", "");
    let mut kept = Peer::connect(at);
    assert_eq!(ask(&mut kept, "GET /private"), (200, None));
    sidecar.apply(&format!("{service}---\n{}", policy("none", "rules: []")));
    wait_until("the policy is in force", || {
        sidecar.metrics().sum("lighter_config_loads_total", &[("outcome", "applied")]) >= 2.0
    });
    let told = ask(&mut kept, "GET /private");
    assert_eq!(told, (403, Some("denied".to_owned())), "on the connection that was open before");
    let strict =
        "apiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {name: all}\nspec: {mtls: strict}\n";
    sidecar.apply(&format!("{service}---\n{strict}"));
    wait_until("strict is in force", || {
        sidecar.metrics().sum("lighter_config_loads_total", &[("outcome", "applied")]) >= 3.0
    });
    let told = ask(&mut kept, "GET /private");
    assert_eq!(told, (403, Some("plaintext_refused".to_owned())), "it has not proved who it is");
    // This sidecar has no identity, so that nobody can prove anything to it: a new caller is not let in at all.
    assert_eq!(said(at, "GET / HTTP/1.1\r\nHost: up\r\n\r\n"), None);
    assert_eq!(app.received().matches("GET ").count(), 1);
}
