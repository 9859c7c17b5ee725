//! An application with a state, which it gives and takes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lighter_config::snapshot::{Hooks, OnDrain, Park, StateAccess, StateClass, Stateful, Streams, WhenAlone};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// One that runs until this is dropped.
pub(crate) struct App {
    /// Where it listens.
    pub(crate) at: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _serving: JoinSet<()>,
}

/// What it keeps, and how it does as it is told.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) state: Vec<u8>,
    /// What it calls what it gives, if that is not empty, and what it gives of what has changed: a PATCH of it is put behind the state.
    pub(crate) version: String,
    pub(crate) changes: Vec<u8>,
    /// What it was asked for: method and path.
    pub(crate) asked: Vec<String>,
    /// What it answers to a path instead of doing anything. 0: nothing, ever.
    pub(crate) fails: HashMap<&'static str, u16>,
}

impl App {
    /// One that has this state.
    pub(crate) async fn new(state: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kept = Arc::new(Mutex::new(Kept { state: state.into(), ..Kept::default() }));
        let (at, its) = (listener.local_addr().unwrap(), kept.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let its = its.clone();
                open.spawn(async move {
                    let service = service_fn(|request| answer(request, &its));
                    // Who leaves early is none of its concern.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        App { at, kept, _serving: serving }
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// What it was asked for since this was last called.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.kept().asked)
    }
}

async fn answer(request: Request<Incoming>, kept: &Mutex<Kept>) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = format!("{} {}", request.method(), request.uri());
    let fails = {
        let mut kept = kept.lock().unwrap();
        kept.asked.push(asked.clone());
        kept.fails.get(request.uri().path()).copied()
    };
    let version = kept.lock().unwrap().version.clone();
    let said = |status: u16, body: Bytes| {
        let mut answer = Response::builder().status(status);
        if !version.is_empty() {
            answer = answer.header("x-lighter-state-version", &version);
        }
        Ok(answer.body(Full::new(body)).unwrap())
    };
    match fails {
        Some(0) => std::future::pending().await,
        Some(status) => return said(status, Bytes::from_static(b"not now")),
        None => {}
    }
    match asked.as_str() {
        "GET /state" => said(200, kept.lock().unwrap().state.clone().into()),
        of if of.starts_with("GET /changes?since=") => said(200, kept.lock().unwrap().changes.clone().into()),
        "PATCH /state" => {
            if let Ok(body) = request.into_body().collect().await {
                kept.lock().unwrap().state.extend(body.to_bytes());
            }
            said(204, Bytes::new())
        }
        "PUT /state" => {
            // What does not come to its end changes nothing.
            if let Ok(body) = request.into_body().collect().await {
                kept.lock().unwrap().state = body.to_bytes().to_vec();
            }
            said(204, Bytes::new())
        }
        "POST /freeze" | "POST /thaw" => said(200, Bytes::from_static(b"done")),
        _ => said(404, Bytes::new()),
    }
}

/// How such a Service says that it keeps its state.
pub(crate) fn stateful() -> Stateful {
    let hooks = Hooks {
        snapshot: "/state".into(),
        restore: "/state".into(),
        changes: None,
        freeze: Some("/freeze".into()),
        thaw: Some("/thaw".into()),
    };
    Stateful {
        class: StateClass::Volatile,
        port: 80,
        access: StateAccess::Http(hooks),
        timeout: Duration::from_secs(10),
        max_bytes: 64 << 20,
        park: Park::default(),
        streams: Streams::Wait,
        on_drain: OnDrain::Move,
        when_alone: WhenAlone::Refuse,
        moves: lighter_config::snapshot::Moves::default(),
    }
}
