//! Copies between two sidecars, through the port of links as it is.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::sidecar::SidecarConfig;
use lighter_migrate::Copy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use super::super::copies::{Gathering, State};
use super::super::transfer::{FetchError, From, attempt, fetch};
use crate::carry::Call;
use crate::dial::Here;
use crate::identity::Identity;
use crate::identity::tests::Root;
use crate::io::Io;
use crate::link;
use crate::telemetry;
use crate::worker::{Shared, Worker};

pub(crate) const DB: &str = "spiffe://mesh.lighter/ns/shop/sa/db";
const WEB: &str = "spiffe://mesh.lighter/ns/shop/sa/web";
const TOKEN: &[u8] = b"for the two places and no others";

/// A sidecar of which there is no more than a worker and its port of links.
pub(crate) struct Sidecar {
    pub(crate) worker: Rc<Worker>,
    /// The port of links.
    pub(crate) link: SocketAddr,
    accepting: AbortHandle,
}

impl Sidecar {
    pub(crate) async fn new(identity: Arc<Identity>, config: SidecarConfig) -> Self {
        let here = Arc::new(Here::default());
        let shared = Arc::new(Shared::new(config, here.clone(), here));
        let _ = shared.identity.set(identity);
        let worker = Worker::new(0, shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (link, accepts) = (listener.local_addr().unwrap(), worker.clone());
        let accepting = spawn_local(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let ticket = accepts.connections.enter_inbound();
                let call = Call { worker: accepts.clone(), io: Io::new(stream), peer, ticket };
                spawn_local(async move {
                    if let Some(engine) = link::serve::accepted(call).await {
                        engine.await;
                    }
                });
            }
        });
        Sidecar { worker, link, accepting: accepting.abort_handle() }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.worker.shared
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Runs `test` as a worker would.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    telemetry::install(1, Duration::from_secs(600));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
    })
}

/// What goes by between two sockets, of which the first connection is cut once so many bytes went back.
pub(crate) async fn cutting(to: SocketAddr, after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    spawn_local(async move {
        let mut left = Some(after);
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            spawn_local(carry(near, far, left.take()));
        }
    });
    at
}

async fn carry(mut near: TcpStream, mut far: TcpStream, cut: Option<usize>) {
    let Some(mut left) = cut else {
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        return;
    };
    let (mut there, mut back) = (vec![0; 4096], vec![0; 4096]);
    while left > 0 {
        tokio::select! {
            read = near.read(&mut there) => {
                let read = read.unwrap();
                far.write_all(&there[..read]).await.unwrap();
            }
            read = far.read(&mut back) => {
                let read = read.unwrap().min(left);
                near.write_all(&back[..read]).await.unwrap();
                left -= read;
            }
        }
    }
}

fn state(bytes: usize) -> State {
    let mut gathering = Gathering::new(bytes as u64);
    gathering.push(&(0..bytes).map(|at| (at / 3) as u8).collect::<Vec<u8>>()).unwrap();
    gathering.finish()
}

fn copy_of(state: &State) -> Copy {
    Copy { round: 1, base: 0, bytes: state.bytes(), digest: state.digest(), last: true }
}

fn from(at: SocketAddr, state: &State) -> From {
    From { at, migration: 7, copy: copy_of(state), token: TOKEN.to_vec() }
}

/// What is wrong with one try.
async fn fault(shared: &Shared, from: &From) -> String {
    let mut into = Gathering::new(from.copy.bytes);
    attempt(shared, from, &mut None, &mut into, &mut |_, _| true).await.unwrap_err().to_string()
}

fn counted(name: &'static str, label: (&'static str, &'static str)) -> u64 {
    telemetry::counted(name, Some(label), label.0).values().sum()
}

#[test]
fn a_copy_comes_whole_although_its_connection_is_cut_in_the_middle() {
    run(async {
        let root = Root::new();
        let old = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let new = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let state = state(3_000_000);
        old.shared().copies.copies().keep(7, 1, TOKEN.to_vec(), state.clone());
        let lost = || counted("lighter_state_copy_fetches_total", ("outcome", "lost"));
        let received = || counted("lighter_state_copy_bytes_total", ("direction", "received"));
        let before = (lost(), received());
        let at = cutting(old.link, 1_000_000).await;
        let mut into = Gathering::new(state.bytes());
        let mut heard = Vec::new();
        let took = |offset, bytes| {
            heard.push((offset, bytes));
            true
        };
        fetch(new.shared(), &from(at, &state), &mut None, &mut into, took).await.unwrap();
        assert_eq!(into.finish().digest(), state.digest());
        // Each piece follows the one before, so that none came twice.
        let end = heard.iter().fold(0, |end, (offset, bytes)| {
            assert_eq!(*offset, end);
            end + bytes
        });
        assert_eq!(end, state.bytes());
        // Other tests count as well.
        assert!(lost() > before.0 && received() - before.1 >= state.bytes());
    });
}

#[test]
fn a_copy_is_given_to_this_very_workload_if_it_shows_the_token_and_to_nobody_else() {
    run(async {
        let root = Root::new();
        let old = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let new = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let state = state(1000);
        let right = from(old.link, &state);
        assert!(fault(new.shared(), &right).await.ends_with("answers 404 Not Found"), "nothing is there yet");
        old.shared().copies.copies().keep(7, 1, TOKEN.to_vec(), state.clone());
        let wrong = From { token: TOKEN.to_ascii_uppercase(), ..right.clone() };
        assert!(fault(new.shared(), &wrong).await.ends_with("answers 401 Unauthorized"));
        let none = From { token: Vec::new(), ..right.clone() };
        assert!(fault(new.shared(), &none).await.ends_with("answers 401 Unauthorized"));
        let earlier = From { migration: 6, ..right.clone() };
        assert!(fault(new.shared(), &earlier).await.ends_with("answers 404 Not Found"));
        let mut into = Gathering::new(state.bytes());
        fetch(new.shared(), &right, &mut None, &mut into, |_, _| true).await.unwrap();
        assert_eq!(into.finish().digest(), state.digest());
        // Another workload of the mesh has the token, and takes this one for itself: it asks for nobody else.
        let web = Sidecar::new(root.identity(WEB), SidecarConfig::default()).await;
        assert!(fault(web.shared(), &right).await.contains("is not who it is to be"));
    });
}

#[test]
fn another_workload_that_has_the_token_gets_nothing() {
    run(async {
        let root = Root::new();
        let old = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        old.shared().copies.copies().keep(7, 1, TOKEN.to_vec(), state(1000));
        let refused = || counted("lighter_state_copy_requests_total", ("outcome", "identity"));
        let before = refused();
        let web = root.identity(WEB);
        let db = lighter_config::identity::Spiffe::parse(DB).unwrap();
        let config = web.client_config(&db, &[crate::identity::ALPN_STATE]);
        let stream = TcpStream::connect(old.link).await.unwrap();
        let name = rustls::pki_types::ServerName::from(old.link.ip());
        let mut tls = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
        let token: String = TOKEN.iter().map(|byte| format!("{byte:02x}")).collect();
        let asked = format!(
            "GET /copy?migration=7&round=1 HTTP/1.1\r\nhost: db\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        // It may be gone before all of this is said.
        let _ = tls.write_all(asked.as_bytes()).await;
        let mut heard = Vec::new();
        let _ = tls.read_to_end(&mut heard).await;
        assert!(heard.is_empty() && refused() > before, "{}", String::from_utf8_lossy(&heard));
    });
}

#[test]
fn a_sidecar_that_knows_nothing_of_copies_is_said_to() {
    run(async {
        let root = Root::new();
        let new = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        // As the port of links was before.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, old) = (listener.local_addr().unwrap(), root.identity(DB));
        let accepting = spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_rustls::TlsAcceptor::from(old.server_config()).accept(stream).await.is_err()
        });
        let said = fault(new.shared(), &from(at, &state(10))).await;
        assert_eq!(said, FetchError::Older.to_string());
        assert!(accepting.await.unwrap());
    });
}

#[test]
fn a_copy_that_nobody_wants_any_more_is_not_fetched_on() {
    run(async {
        let root = Root::new();
        let old = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let new = Sidecar::new(root.identity(DB), SidecarConfig::default()).await;
        let state = state(3_000_000);
        old.shared().copies.copies().keep(7, 1, TOKEN.to_vec(), state.clone());
        let mut into = Gathering::new(state.bytes());
        let fetched =
            fetch(new.shared(), &from(old.link, &state), &mut None, &mut into, |at, _| at < 1_000_000).await;
        assert!(matches!(fetched, Err(FetchError::Unwanted)));
        assert!(into.bytes() < state.bytes());
    });
}
