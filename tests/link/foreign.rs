//! Peers that are not Lighter, on either side of a sidecar.

use std::net::SocketAddr;
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::support::process::{Program, find, free_address, listens};
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::test_where;
use crate::support::wait_until;
use crate::world::{REVIEWS, Root, STRICT, WEB, caller, reviews, workload};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("curl_with_a_certificate_is_a_caller_like_others", curl_with_a_certificate),
        test_where("curl_without_one_is_refused", curl_without_one),
        test_where("tls_that_means_the_application_is_passed_through", tls_for_the_application),
        test_where("nginx_is_an_endpoint_like_others", nginx_is_an_endpoint),
    ]
}

fn need(program: &str) -> Result<(), String> {
    find(program).map(drop)
}

/// Asks `endpoint` with what `arguments` say of certificates.
pub fn curl(endpoint: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    // A SPIFFE ID is no host name: whom it speaks to, curl does not check.
    command.args(["--silent", "--show-error", "--insecure", "--max-time", "20", "-w", "\n%{http_version}"]);
    command.args(arguments).arg(format!("https://{endpoint}/")).output().unwrap()
}

fn curl_with_a_certificate() -> Result<(), String> {
    need("curl")?;
    let (root, app) = (Root::new(), Upstream::answering("at your service"));
    let (workload, endpoint) = workload(&root, "http", app.address, STRICT);
    let (certificate, key) = root.issue(WEB);
    let proof = ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let output = curl(endpoint, &[&proof[..], &[flag]].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            said,
            format!("at your service\n{version}"),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(app.received().matches(&format!("x-forwarded-client-cert: URI={WEB}")).count(), 2);
    let labels = [("security", "mtls"), ("caller", WEB), ("outcome", "served")];
    assert_eq!(workload.metrics().sum("lighter_inbound_connections_total", &labels), 2.0);
    Ok(())
}

fn curl_without_one() -> Result<(), String> {
    need("curl")?;
    let (root, foreign, app) = (Root::new(), Root::new(), Upstream::answering("never"));
    let (workload, endpoint) = workload(&root, "http", app.address, "");
    let (certificate, key) = foreign.issue(WEB);
    let stranger = ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    for proof in [&[][..], &stranger[..]] {
        let output = curl(endpoint, proof);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(app.connections(), 0);
    let labels = [("outcome", "handshake_failed")];
    wait_until("both are counted", || {
        workload.metrics().sum("lighter_inbound_connections_total", &labels) == 2.0
    });
    Ok(())
}

fn tls_for_the_application() -> Result<(), String> {
    need("curl")?;
    // It takes no part in a handshake: what comes is seen, and that is all.
    let app = Upstream::start(|mut peer, _| drop(peer.bytes(64)));
    let root = Root::new();
    let (workload, endpoint) = workload(&root, "auto", app.address, "");
    let named = format!("reviews.example:{}:{}", endpoint.port(), endpoint.ip());
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--insecure", "--max-time", "20", "--resolve", &named]);
    let output = command.arg(format!("https://reviews.example:{}/", endpoint.port())).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let log = std::fs::read_to_string(root.folder().join("reviews.log"));
    // Where curl is slow to begin, the application was called before, in case it speaks first.
    let first = app.seen.lock().unwrap().iter().find_map(|bytes| bytes.first().copied());
    assert_eq!(first, Some(22), "a ClientHello; curl: {said}; the sidecar: {log:?}");
    let labels = [("security", "plaintext"), ("outcome", "served")];
    assert_eq!(workload.metrics().sum("lighter_inbound_connections_total", &labels), 1.0);
    Ok(())
}

fn nginx_is_an_endpoint() -> Result<(), String> {
    need("nginx")?;
    let root = Root::new();
    let (certificate, key) = root.issue(REVIEWS);
    let endpoint = free_address();
    let folder = root.folder().display();
    let config = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n\
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         server {{ listen {endpoint} ssl http2; ssl_certificate {}; ssl_certificate_key {};\n\
         ssl_client_certificate {}; ssl_verify_client on; add_header x-spoken $server_protocol;\n\
         location / {{ return 200 \"$ssl_client_verify\"; }} }}\n}}\n",
        certificate.display(),
        key.display(),
        root.bundle().display()
    );
    let file = root.folder().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-p").arg(root.folder());
    let mut nginx = Program::start(command, root.folder());
    nginx.wait_until("it listens", || listens(endpoint));
    for (protocol, spoken) in [("http", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
        let (_web, listen) = caller(&reviews(protocol, endpoint, REVIEWS), &root.identity(WEB));
        let (head, body) = Peer::connect(listen).exchange("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        assert_eq!((head.status(), body), (200, Body::Whole(b"SUCCESS".into())), "{}", nginx.said());
        assert_eq!(head.get("x-spoken"), Some(spoken));
    }
    Ok(())
}
