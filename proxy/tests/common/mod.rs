//! A sidecar in this process, and plain peers on both of its sides.
// Every test binary uses its own part of what it shares with the others.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use lighter_config::sidecar::{ListenerConfig, SidecarConfig};
use lighter_config::snapshot::Protocol;
use lighter_proxy::dial::Here;
use lighter_proxy::worker::{self, Sockets, Start, StartError, Summary};
use tempfile::TempDir;

#[path = "../../../tests/support/ports.rs"]
mod ports;

/// How long anything may take before a test gives up. Nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar that runs. It is drained when this is dropped.
pub struct Sidecar {
    /// Its own file.
    pub config: SidecarConfig,
    folder: TempDir,
    stop: Option<tokio::sync::mpsc::UnboundedSender<worker::Ask>>,
    thread: Option<JoinHandle<Result<Summary, StartError>>>,
}

impl Sidecar {
    /// Starts one with these resources, and whatever `adjust` makes of its file.
    pub fn start(resources: &str, adjust: impl FnOnce(&mut SidecarConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        std::fs::write(&file, resources).unwrap();
        let mut config = SidecarConfig {
            resources: vec![file],
            admin: free_address(),
            workers: 1,
            drain_deadline: PATIENCE,
            ..SidecarConfig::default()
        };
        adjust(&mut config);
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = tokio::sync::mpsc::unbounded_channel();
        let start = Start {
            config: config.clone(),
            sockets: Sockets::default(),
            outside: Arc::new(Here::default()),
            inside: Arc::new(Here::default()),
            ready: Box::new(move || ready.send(()).unwrap()),
            stop: Some(stopped),
            callers_gone: None,
            successor: None,
            functions: None,
        };
        let thread = std::thread::spawn(move || worker::run(start));
        if is_ready.recv_timeout(PATIENCE).is_err() {
            panic!("the sidecar did not start: {:?}", thread.join());
        }
        Sidecar { config, folder, stop: Some(stop), thread: Some(thread) }
    }

    /// The file with the resources.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("mesh.yaml")
    }

    /// Replaces the resources as most programs do: a new file, renamed.
    pub fn replace(&self, resources: &str) {
        let new = self.folder.path().join(".new");
        std::fs::write(&new, resources).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// A connection to its listener `index`.
    pub fn connect(&self, index: usize) -> TcpStream {
        dial(self.config.listeners[index].listen)
    }

    /// Asks its admin port.
    pub fn admin(&self, method: &str, path: &str) -> String {
        let mut admin = dial(self.config.admin);
        let host = self.config.admin;
        write!(
            admin,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        admin.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks it to drain, and does not wait.
    pub fn drain(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Summary {
        self.drain();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.drain();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// A connection whose silence does not hang a test.
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// An address on which nobody listens.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free_port()))
}

/// An explicit listener for port 80 of a Service.
pub fn listener(service: &str, protocol: Protocol) -> ListenerConfig {
    ListenerConfig { listen: free_address(), service: service.into(), port: None, protocol }
}

/// A Service with port 80 and these endpoints. `more` is added to its port, such as `appProtocol: http`.
pub fn service(name: &str, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: String = endpoints
        .iter()
        .map(|endpoint| format!("  - {{address: \"{}\", port: {}}}\n", endpoint.ip(), endpoint.port()))
        .collect();
    let ports = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports:\n  - \
         {{port: 80{ports}}}\n  endpoints:\n{endpoints}"
    )
}

/// A server that hands each connection to `serve`, on a thread of its own.
pub fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A server that answers every connection's bytes, read to their end, with `name: ` before them.
pub fn echo_at_end(name: &'static str) -> SocketAddr {
    server(move |mut stream| {
        let mut heard = Vec::new();
        if stream.read_to_end(&mut heard).is_ok() {
            let _ = stream.write_all(&[name.as_bytes(), b": ", &heard].concat());
        }
    })
}

/// A server that answers each byte at once with `tag` and that byte.
pub fn echo_bytes(tag: u8) -> SocketAddr {
    server(move |mut stream| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[tag, byte[0]]).is_ok() {}
    })
}

/// Sends one byte and returns the tag of the [`echo_bytes`] server that answered.
pub fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    stream.write_all(b"?")?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

/// Tries until it is so.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !is() {
        assert!(std::time::Instant::now() < end, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
