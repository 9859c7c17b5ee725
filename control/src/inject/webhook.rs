//! The admission webhook: `POST /inject` on a port of its own, over TLS.
//!
//! An API server shows no proof of who it is unless it is told to, so this port answers everybody. It gives away nothing: what
//! it answers is made of what it is asked.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use lighter_config::control::{Shows, WebhookConfig};
use lighter_config::name::DEFAULT_NAMESPACE;
use rustls::ServerConfig;

use super::review::{self, Reviewed};
use super::wishes::Defaults;
use super::{CONTROL, IMAGE};
use crate::api::answer::{self, Answer};
use crate::api::server::{Answers, Early};
use crate::api::{body, certificate};
use crate::state::{State, Stopping};

/// What answers reviews.
pub struct Webhook {
    state: Arc<State>,
    defaults: Defaults,
}

/// What the port shows: what stands in two files, read again when they change.
pub struct Shown {
    files: [PathBuf; 2],
    current: ArcSwap<(Stamp, Arc<ServerConfig>)>,
}

/// When each of the files was written.
type Stamp = [Option<SystemTime>; 2];

impl Webhook {
    /// With what `config` says of sidecars.
    pub fn new(state: Arc<State>, config: &WebhookConfig) -> Self {
        let defaults = Defaults {
            image: config.image.clone().unwrap_or_else(|| IMAGE.to_owned()),
            control: config.control.clone().unwrap_or_else(|| CONTROL.to_owned()),
            namespace: DEFAULT_NAMESPACE.to_owned(),
        };
        Webhook { state, defaults }
    }

    async fn review(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let body = match body::read(request.into_body(), MOST_BODY_BYTES, BODY_TIMEOUT).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        // A large pod keeps a processor busy for a while, on which others wait.
        let webhook = self.clone();
        let reviewing = tokio::task::spawn_blocking(move || review::answer(&body, &webhook.defaults));
        match reviewing.await {
            Ok(Ok((review, reviewed))) => {
                self.state.metrics.reviewed(reviewed);
                answer::json(StatusCode::OK, &review)
            }
            Ok(Err(fault)) => {
                self.state.metrics.reviewed(Reviewed::Malformed);
                tracing::warn!(%peer, fault, "what came to the webhook is no review");
                answer::refused(StatusCode::BAD_REQUEST, fault)
            }
            Err(error) => {
                tracing::error!(%error, "a review was not answered");
                answer::refused(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "a fault of the control plane; its log says more",
                )
            }
        }
    }
}

impl Answers for Webhook {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => answer::text(StatusCode::OK, "ok\n".into()),
            (&Method::POST, PATH) => self.review(request, peer).await,
            (_, PATH) => answer::refused(StatusCode::METHOD_NOT_ALLOWED, "reviews are asked for by POST"),
            _ => answer::refused(StatusCode::NOT_FOUND, format!("there is only {PATH}")),
        }
    }

    fn stopping(&self) -> Stopping {
        self.state.stopping()
    }

    fn closed_early(&self, why: Early) {
        self.state.metrics.webhook_closed(why);
    }
}

impl Shown {
    /// What `config` says; a certificate of its own, in the state folder, is made where there is none.
    pub fn open(state: &State, config: &WebhookConfig) -> io::Result<Self> {
        let files = match &config.shows {
            Shows::Files { certificate, key } => [certificate.clone(), key.clone()],
            Shows::Own { names } => {
                let [file, key] = OWN.map(|name| state.config.state.join(name));
                if !file.exists() || !key.exists() {
                    certificate::make(&file, &key, names, config.listen.ip())?;
                }
                [file, key]
            }
        };
        let current = ArcSwap::from_pointee((stamp(&files), read(&files)?));
        Ok(Shown { files, current })
    }

    /// For accepting a connection now.
    pub fn config(&self) -> Arc<ServerConfig> {
        let (seen, config) = &**self.current.load();
        let now = stamp(&self.files);
        if *seen == now {
            return config.clone();
        }
        let config = read(&self.files).unwrap_or_else(|error| {
            // Perhaps one of the two is written yet, and then there will be another look.
            tracing::warn!(%error, "the webhook shows the certificate before");
            config.clone()
        });
        self.current.store(Arc::new((now, config.clone())));
        config
    }
}

fn read([certificate, key]: &[PathBuf; 2]) -> io::Result<Arc<ServerConfig>> {
    certificate::anonymous(certificate, key).map(Arc::new)
}

fn stamp(files: &[PathBuf; 2]) -> Stamp {
    files.each_ref().map(|file| std::fs::metadata(file).and_then(|data| data.modified()).ok())
}

/// Where reviews are asked for.
const PATH: &str = "/inject";
/// The certificate that is made, for `caBundle` to have, and its key.
const OWN: [&str; 2] = ["webhook.pem", "webhook-key.pem"];
/// Bytes of a review. An object has at most 1.5 MiB in the API server's store, and a review may have two of them.
const MOST_BODY_BYTES: usize = 8 << 20;
/// How long one may take to arrive; an API server waits 30 s for the answer at most.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
