//! Who is refused, on either side, and that nothing falls back to plain text.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::foreign::curl;
use crate::support::process::find;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{test, test_where, wait_until};
use crate::world::{RATINGS, REVIEWS, Root, STRICT, WEB, caller, reviews, workload, workload_as};

pub fn tests() -> Vec<Trial> {
    vec![
        test("an_endpoint_that_is_somebody_else_gets_no_request", an_endpoint_that_is_somebody_else),
        test("why_an_endpoint_is_refused_is_logged_and_counted", why_an_endpoint_is_refused),
        test_where("why_a_caller_is_refused_is_logged_and_counted", why_a_caller_is_refused),
        test("an_endpoint_in_plain_text_gets_no_request", an_endpoint_in_plain_text),
        test("an_endpoint_of_a_foreign_root_gets_no_request", an_endpoint_of_a_foreign_root),
        test("a_caller_without_an_identity_does_not_call", a_caller_without_an_identity),
        test("a_caller_of_a_foreign_root_is_refused", a_caller_of_a_foreign_root),
        test("callers_in_plain_text_are_counted_and_served", callers_in_plain_text_are_counted),
        test("strict_workloads_refuse_callers_in_plain_text", strict_workloads_refuse),
        test("a_policy_goes_by_who_the_caller_proved_to_be", a_policy_goes_by_who_the_caller_proved_to_be),
        test("bytes_that_are_not_http_never_go_out_in_plain_text", opaque_bytes_never_go_out),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

fn an_endpoint_that_is_somebody_else() {
    let (root, app) = (Root::new(), Upstream::answering("never"));
    let (_workload, endpoint) = workload(&root, "http", app.address, "");
    let (web, listen) = caller(&reviews("http", endpoint, RATINGS), &root.identity(WEB));
    let (head, _) = Peer::connect(listen).exchange(GET);
    assert_eq!((head.status(), head.cause()), (502, Some("tls_identity")));
    let labels = [("direction", "outbound"), ("cause", "tls_identity")];
    assert_eq!(web.metrics().sum("lighter_requests_total", &labels), 1.0);
    assert_eq!(app.connections(), 0);
}

fn why_an_endpoint_is_refused() {
    let (root, foreign, old, app) = (Root::new(), Root::new(), Root::new(), Upstream::answering("never"));
    let ended = old.identity_for(REVIEWS, Duration::from_secs(8));
    let (expired, late) = workload_as(&old, &ended, "http", app.address, "");
    let (_elsewhere, there) = workload(&foreign, "http", app.address, "");
    let (_workload, here) = workload(&root, "http", app.address, "");
    // It is good to the end of its last second.
    wait_until("a certificate has ended", || {
        expired.metrics().sum("lighter_identity_seconds_left", &[]) < -1.0
    });
    for (reason, root, endpoint, expected) in [
        ("foreign", &root, there, REVIEWS),
        ("wrong_identity", &root, here, RATINGS),
        ("expired", &old, late, REVIEWS),
    ] {
        let (web, listen) = caller(&reviews("http", endpoint, expected), &root.identity(WEB));
        let (head, _) = Peer::connect(listen).exchange(GET);
        assert_eq!((head.status(), head.cause()), (502, Some("tls_identity")), "{reason}");
        assert_told(&web, reason);
    }
    assert_eq!(app.connections(), 0);
}

fn why_a_caller_is_refused() -> Result<(), String> {
    find("curl")?;
    let (root, foreign, app) = (Root::new(), Root::new(), Upstream::answering("never"));
    let (workload, endpoint) = workload(&root, "http", app.address, STRICT);
    let shown = [
        ("foreign", foreign.issue(WEB)),
        ("foreign_domain", root.issue("spiffe://elsewhere/ns/default/sa/intruder")),
        ("bad_identity", root.issue("https://mesh.lighter/ns/default/sa/nobody")),
        ("expired", root.issue_for(RATINGS, Duration::ZERO)),
    ];
    // A certificate is good to the end of its last second.
    std::thread::sleep(Duration::from_secs(2));
    for (reason, (certificate, key)) in shown {
        let proof = ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
        assert!(!curl(endpoint, &proof).status.success(), "{reason}");
        assert_told(&workload, reason);
    }
    let labels = [("outcome", "handshake_failed")];
    assert_eq!(workload.metrics().sum("lighter_inbound_connections_total", &labels), 4.0);
    assert_eq!(app.connections(), 0);
    Ok(())
}

/// That a sidecar says why it refused somebody.
fn assert_told(sidecar: &Sidecar, reason: &str) {
    let counted = || sidecar.metrics().sum("lighter_identity_refusals_total", &[("reason", reason)]);
    wait_until("it is counted", || counted() >= 1.0);
    let said = sidecar.program.said();
    assert!(
        said.contains("a certificate was refused: ") && said.contains(&format!("reason=\"{reason}\"")),
        "{said}"
    );
}

fn an_endpoint_in_plain_text() {
    // What it hears is no HTTP, and it says so in plain text.
    let app = Upstream::start(|mut peer, _| {
        peer.bytes(1);
        peer.try_send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let root = Root::new();
    for protocol in ["http", "http2"] {
        let (_web, listen) = caller(&reviews(protocol, app.address, REVIEWS), &root.identity(WEB));
        let (head, _) = Peer::connect(listen).exchange(GET);
        assert_eq!((head.status(), head.cause()), (502, Some("tls_failed")), "{protocol}");
    }
    assert!(!app.received().contains("GET"), "{}", app.received());
}

fn an_endpoint_of_a_foreign_root() {
    let (root, foreign, app) = (Root::new(), Root::new(), Upstream::answering("never"));
    let (_workload, endpoint) = workload(&foreign, "http", app.address, "");
    let (_web, listen) = caller(&reviews("http", endpoint, REVIEWS), &root.identity(WEB));
    let (head, _) = Peer::connect(listen).exchange(GET);
    assert_eq!((head.status(), head.cause()), (502, Some("tls_identity")));
    assert_eq!(app.connections(), 0);
}

fn a_caller_without_an_identity() {
    let (root, app) = (Root::new(), Upstream::answering("never"));
    let (workload, endpoint) = workload(&root, "http", app.address, "");
    let (_web, listen) = caller(&reviews("http", endpoint, REVIEWS), "");
    let (head, _) = Peer::connect(listen).exchange(GET);
    assert_eq!((head.status(), head.cause()), (503, Some("no_identity")));
    assert_eq!(app.connections(), 0);
    assert!(!workload.metrics().has("lighter_inbound_connections_total", &[("outcome", "served")]));
}

fn a_caller_of_a_foreign_root() {
    let (root, foreign, app) = (Root::new(), Root::new(), Upstream::answering("never"));
    let (workload, endpoint) = workload(&root, "http", app.address, "");
    // It trusts whom it calls, and shows what nobody there vouches for.
    let (certificate, key) = foreign.issue(WEB);
    let identity = format!(
        "identity: {{certificate: {}, key: {}, bundle: {}}}\n",
        certificate.display(),
        key.display(),
        root.bundle().display()
    );
    let (_web, listen) = caller(&reviews("http", endpoint, REVIEWS), &identity);
    let (head, _) = Peer::connect(listen).exchange(GET);
    assert_eq!(head.status(), 502);
    assert!(head.cause().is_some());
    assert_eq!(app.connections(), 0);
    let metrics = workload.metrics();
    assert!(metrics.sum("lighter_inbound_connections_total", &[("outcome", "handshake_failed")]) >= 1.0);
    assert!(!metrics.has("lighter_inbound_connections_total", &[("outcome", "served")]));
}

fn callers_in_plain_text_are_counted() {
    let (root, app) = (Root::new(), Upstream::answering("welcome"));
    let (workload, endpoint) = workload(&root, "http", app.address, "");
    let request = "GET / HTTP/1.1\r\nHost: reviews\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.lighter/forged\r\n\r\n";
    let (head, body) = Peer::connect(endpoint).exchange(request);
    assert_eq!((head.status(), body), (200, Body::Whole(b"welcome".into())));
    assert!(!app.received().contains("forged"), "{}", app.received());
    let labels = [("service", "default/reviews"), ("security", "plaintext"), ("outcome", "served")];
    assert_eq!(workload.metrics().sum("lighter_inbound_connections_total", &labels), 1.0);
}

fn strict_workloads_refuse() {
    let (root, app) = (Root::new(), Upstream::answering("hello"));
    let (workload, endpoint) = workload(&root, "http", app.address, STRICT);
    let (head, _) = Peer::connect(endpoint).exchange(GET);
    assert_eq!((head.status(), head.cause()), (403, Some("plaintext_refused")));
    // HTTP/2 has no words for it before its preface is answered: the connection is reset.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert_eq!(Peer::connect(endpoint).send(preface).rest(), b"");
    assert_eq!(app.connections(), 0);
    let metrics = workload.metrics();
    let labels = [("security", "plaintext"), ("outcome", "refused")];
    assert_eq!(metrics.sum("lighter_inbound_connections_total", &labels), 2.0);
    assert_eq!(metrics.sum("lighter_connections_total", &[("cause", "plaintext_refused")]), 2.0);
    // Who proves who it is gets in.
    let (_web, listen) = caller(&reviews("http", endpoint, REVIEWS), &root.identity(WEB));
    assert_eq!(Peer::connect(listen).exchange(GET).1, Body::Whole(b"hello".into()));
}

fn opaque_bytes_never_go_out() {
    let (root, app) = (Root::new(), Upstream::answering("never"));
    let (web, listen) = caller(&reviews("tcp", app.address, REVIEWS), &root.identity(WEB));
    if let Some(mut peer) = Peer::connect_where_taken(listen) {
        peer.try_send("secret");
        assert_eq!(peer.rest(), b"");
    }
    assert_eq!(app.connections(), 0);
    let labels = [("direction", "outbound"), ("cause", "unsupported")];
    wait_until("it is counted", || web.metrics().sum("lighter_connections_total", &labels) == 1.0);
}

fn a_policy_goes_by_who_the_caller_proved_to_be() {
    let policy = format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: web-only}}\nspec: \
         {{targetRefs: [{{kind: Service, name: reviews}}], rules: [{{from: [{{principals: ['{WEB}']}}]}}]}}\n"
    );
    let (root, app) = (Root::new(), Upstream::answering("for web"));
    let (_workload, endpoint) = workload(&root, "http", app.address, &policy);
    let resources = reviews("http", endpoint, REVIEWS);
    for (identity, status, cause) in [(WEB, 200, None), (RATINGS, 403, Some("denied"))] {
        let (_caller, listen) = caller(&resources, &root.identity(identity));
        let (head, _) = Peer::connect(listen).exchange(GET);
        assert_eq!((head.status(), head.cause()), (status, cause), "{identity}");
    }
    // Nobody is let in who proves nothing, whatever is said.
    let said = format!("GET / HTTP/1.1\r\nHost: reviews\r\nX-Forwarded-Client-Cert: URI={WEB}\r\n\r\n");
    assert_eq!(Peer::connect(endpoint).exchange(said).0.cause(), Some("denied"));
    assert_eq!(app.connections(), 1);
}
