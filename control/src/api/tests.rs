use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use lighter_config::control::{AuditLog, ControlConfig};
use serde_json::{Value, json};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::store::parse_rfc3339;

const SERVICE: &str =
    "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: \
                     [{kind: Service, name: a}]\n  rules: [{backendRefs: [{name: gone, port: 80}]}]\n";

/// An API over pipes in memory; TLS and sockets are shown by the tests of the whole command.
struct World {
    folder: tempfile::TempDir,
    api: Arc<Api>,
    token: String,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let config = ControlConfig {
            state: folder.path().to_path_buf(),
            audit_log: Some(AuditLog::File(folder.path().join("audit"))),
            ..ControlConfig::default()
        };
        let (state, _) = crate::serve::open(config).unwrap();
        let api = Api::open(Arc::new(state)).unwrap();
        let token = std::fs::read_to_string(folder.path().join(TOKEN_FILE)).unwrap().trim().to_string();
        World { folder, api: Arc::new(api), token }
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: Method, target: &str, token: &str, body: String) -> (StatusCode, String) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let peer = "192.0.2.1:1234".parse().unwrap();
        tokio::spawn(server::connection(
            far,
            peer,
            self.api.clone(),
            server::Trusted::default(),
            server::Shown::default(),
        ));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "control")
            .header("authorization", format!("Bearer {token}"))
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn json(&self, method: Method, target: &str, body: String) -> (StatusCode, Value) {
        let (status, body) = self.ask(method, target, &self.token, body).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn apply(&self, query: &str, text: &str) -> (StatusCode, Value) {
        let body = json!({"files": [{"name": "mesh.yaml", "text": text}]}).to_string();
        self.json(Method::POST, &format!("/v1/apply{query}"), body).await
    }

    fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("audit")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn nothing_is_told_to_who_has_no_token() {
    let world = World::new();
    for token in ["", "x", &world.token[1..]] {
        for (method, target) in [
            (Method::GET, "/v1/resources"),
            (Method::POST, "/v1/apply"),
            (Method::GET, "/v1/backup"),
            (Method::GET, "/v1/nothing"),
        ] {
            let (status, body) = world.ask(method, target, token, "{}".into()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{target}: {body}");
        }
    }
    assert_eq!(world.ask(Method::GET, "/healthz", "", String::new()).await.0, StatusCode::OK);
    let (_, metrics) = world.ask(Method::GET, "/metrics", "", String::new()).await;
    assert!(metrics.contains("lighter_control_api_refused_total{cause=\"unauthorized\"} 12\n"), "{metrics}");
}

#[tokio::test]
async fn a_push_is_taken_shown_and_written_down() {
    let world = World::new();
    let (status, done) = world.apply("?set=shop", &format!("{SERVICE}---\n{ROUTE}")).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    assert_eq!(done["generation"], 1);
    assert_eq!(done["changes"][0]["change"], "created");
    assert!(done["warnings"][0]["message"].as_str().unwrap().contains("default/gone"), "{done}");

    let (_, list) = world.json(Method::GET, "/v1/resources?kind=HTTPRoute", String::new()).await;
    let item = &list["items"][0];
    assert_eq!(
        (&item["name"], &item["set"], &item["writtenBy"]),
        (&json!("r"), &json!("shop"), &json!("operator"))
    );
    let conditions = &item["document"]["status"]["parents"][0]["conditions"];
    assert_eq!((&conditions[0]["type"], &conditions[0]["status"]), (&json!("Accepted"), &json!("True")));
    assert_eq!(
        (&conditions[1]["status"], &conditions[1]["reason"]),
        (&json!("False"), &json!("BackendNotFound"))
    );
    assert_eq!(item["document"]["metadata"]["resourceVersion"], "1");
    let made = item["document"]["metadata"]["creationTimestamp"].as_str().unwrap();
    assert!(parse_rfc3339(made).is_some(), "{made}");

    let audit = world.audit();
    assert_eq!(audit.len(), 1);
    assert_eq!((&audit[0]["who"], &audit[0]["peer"]), (&json!("operator"), &json!("192.0.2.1:1234")));
    let expected =
        json!({"resource": "HTTPRoute default/r", "change": "created", "before": null, "after": 1});
    assert_eq!(audit[0]["resources"][1], expected);
    // What changes nothing is not written down.
    world.apply("?set=shop", SERVICE).await;
    world.apply("?dryRun=true", "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 1}]}\n").await;
    assert_eq!(world.audit().len(), 1);
    // Whose it is decides what is pruned later: that is a change, too.
    world.apply("?set=other", SERVICE).await;
    let moved = json!({
        "resource": "Service default/a", "change": "moved",
        "before": 1, "after": 1, "setBefore": "shop", "set": "other",
    });
    assert_eq!(world.audit()[1]["resources"], json!([moved]));
}

#[tokio::test]
async fn many_who_say_nothing_do_not_cut_an_operator_off() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = world.api.tls().unwrap();
    tokio::spawn(server::serve(listener, move || port.config(), world.api.clone()));
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(world.folder.path().join(certificate::FILE)).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (mut operator, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = || {
        let request = Request::builder().uri("/v1/resources").header("host", "control");
        let request = request.header("authorization", format!("Bearer {}", world.token));
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let answer = operator.send_request(request()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // The operator's was the oldest but for the token: this one went in its place.
    let _ = silent[0].read(&mut [0]).await;
    operator.ready().await.unwrap();
    assert_eq!(operator.send_request(request()).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_bad_push_names_its_faults_and_changes_nothing() {
    let world = World::new();
    let (status, refused) = world.apply("", &SERVICE.replace("port: 80", "prot: 80")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let error = &refused["errors"][0];
    assert_eq!((&error["file"], &error["line"]), (&json!("mesh.yaml"), &json!(4)), "{refused}");
    for (query, text) in [("?dryrun=true", SERVICE), ("", ""), ("?set=a/b", SERVICE)] {
        let (status, refused) = world.apply(query, text).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {refused}");
    }
    let (status, _) = world.json(Method::POST, "/v1/apply", "[]".into()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(world.audit().is_empty());
    assert_eq!(world.api.state.store.view().generation, 0);
}

#[tokio::test]
async fn one_resource_is_put_got_and_deleted() {
    let world = World::new();
    let target = "/v1/resources/Service/default/a";
    assert_eq!(world.json(Method::GET, target, String::new()).await.0, StatusCode::NOT_FOUND);
    let (status, done) = world.json(Method::PUT, target, SERVICE.into()).await;
    assert_eq!((status, &done["generation"]), (StatusCode::OK, &json!(1)));
    // What was got can be put again, and only until someone else has changed it.
    let (_, got) = world.json(Method::GET, target, String::new()).await;
    let mut document = got["document"].clone();
    document["spec"]["ports"][0]["port"] = 81.into();
    assert_eq!(world.json(Method::PUT, target, document.to_string()).await.0, StatusCode::OK);
    document["spec"]["ports"][0]["port"] = 82.into();
    assert_eq!(world.json(Method::PUT, target, document.to_string()).await.0, StatusCode::CONFLICT);
    let elsewhere = "/v1/resources/Service/default/b";
    assert_eq!(world.json(Method::PUT, elsewhere, SERVICE.into()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(world.json(Method::DELETE, target, String::new()).await.0, StatusCode::OK);
    assert_eq!(world.json(Method::DELETE, target, String::new()).await.0, StatusCode::NOT_FOUND);
    let (status, done) = world.json(Method::DELETE, &format!("{target}?ignoreMissing"), String::new()).await;
    assert_eq!((status, &done["generation"]), (StatusCode::OK, &json!(3)));
    assert_eq!(world.json(Method::POST, target, String::new()).await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_body_without_end_is_not_taken() {
    let world = World::new();
    let target = "/v1/resources/Service/default/a";
    let (status, _) = world.json(Method::PUT, target, " ".repeat((16 << 20) + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = world.json(Method::GET, target, "x".into()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}
