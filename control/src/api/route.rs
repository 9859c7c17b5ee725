//! From a request to what answers it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use lighter_config::manifest::Key;

use super::answer::{self, Answer, refused};
use super::counters::Counters;
use super::query::Query;
use super::server::{Answers, Early, Shown, Trusted};
use super::{Api, Caller, body};
use crate::state::Stopping;

/// Bytes of a body.
const MOST_BODY_BYTES: usize = 16 << 20;
/// Bytes of a backup.
const MOST_BACKUP_BYTES: usize = 256 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What is asked for.
enum Asked {
    List,
    Get(Key),
    Put(Key),
    Delete(Key),
    Apply,
    DeleteMany,
    Sidecars,
    Devices,
    Migrations,
    /// Which.
    Abort(String),
    /// Which.
    Drain(String),
    Tokens,
    MakeToken,
    /// Which.
    Revoke(String),
    Backup,
    Restore,
}

impl Answers for Api {
    /// Answers one request. Nothing of a body is read before it is known who asks.
    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        Counters::count(&self.counters.requests);
        let (parts, body) = request.into_parts();
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/healthz") => return answer::text(StatusCode::OK, "ok\n".into()),
            (&Method::GET, "/metrics") => return answer::metrics(self.metrics()),
            _ => {}
        }
        let shown = parts.extensions.get::<Shown>().and_then(|shown| shown.0.as_deref());
        let Some(name) = self.caller(bearer(&parts.headers), shown) else {
            Counters::count(&self.counters.unauthorized);
            tracing::warn!(%peer, path = parts.uri.path(), "the operator's token is missing or wrong, and no operator's certificate holds");
            return answer::unauthorized();
        };
        if let Some(trusted) = parts.extensions.get::<Trusted>() {
            trusted.set();
        }
        let asked = match Asked::of(&parts) {
            Ok(asked) => asked,
            Err(answer) => return *answer,
        };
        let query = match Query::parse(parts.uri.query(), asked.words()) {
            Ok(query) => query,
            Err(message) => return refused(StatusCode::BAD_REQUEST, message),
        };
        let body = match asked.read(body).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let caller = Caller { name, peer };
        // Judging and writing keep a processor and a disk busy. A client that goes away stops neither.
        let answering = tokio::task::spawn_blocking(move || match asked {
            Asked::List => self.list(&query),
            Asked::Get(key) => self.get(&key),
            Asked::Put(key) => self.put(&key, &body, &query, &caller),
            Asked::Delete(key) => self.delete(&[key], &query, &caller),
            Asked::Apply => self.apply(&body, &query, &caller),
            Asked::DeleteMany => self.delete_many(&body, &query, &caller),
            Asked::Sidecars => self.sidecars(),
            Asked::Devices => self.devices(&query),
            Asked::Migrations => self.migrations(&query),
            Asked::Abort(name) => self.abort_migration(&name, &caller),
            Asked::Drain(sidecar) => self.drain(&sidecar, &query, &caller),
            Asked::Tokens => self.tokens(),
            Asked::MakeToken => self.make_token(&body, &caller),
            Asked::Revoke(id) => self.revoke(&id, &caller),
            Asked::Backup => self.backup(),
            Asked::Restore => self.restore(&body, &query, &caller),
        });
        answering.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request was not answered");
            refused(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the control plane; its log says more")
        })
    }

    fn stopping(&self) -> Stopping {
        self.state.stopping()
    }

    fn closed_early(&self, why: Early) {
        Counters::count(match why {
            Early::Handshake => &self.counters.handshakes_failed,
            Early::Shed => &self.counters.connections_shed,
        });
    }
}

impl Api {
    fn metrics(&self) -> String {
        let view = self.state.store.view();
        let mut text = crate::metrics::render(&self.state, Instant::now());
        self.counters.write(&mut text, view.generation, view.resources.len());
        text
    }
}

impl Asked {
    fn of(parts: &Parts) -> Result<Asked, Box<Answer>> {
        let path = parts.uri.path();
        let method = &parts.method;
        let allowed = |wanted: &[Method], asked: Asked| match wanted.contains(method) {
            true => Ok(asked),
            false => {
                Err(Box::new(refused(StatusCode::METHOD_NOT_ALLOWED, format!("{path} knows no {method}"))))
            }
        };
        match path {
            "/v1/resources" => allowed(&[Method::GET], Asked::List),
            "/v1/apply" => allowed(&[Method::POST], Asked::Apply),
            "/v1/delete" => allowed(&[Method::POST], Asked::DeleteMany),
            "/v1/sidecars" => allowed(&[Method::GET], Asked::Sidecars),
            "/v1/devices" => allowed(&[Method::GET], Asked::Devices),
            "/v1/migrations" => allowed(&[Method::GET], Asked::Migrations),
            "/v1/tokens" if *method == Method::POST => Ok(Asked::MakeToken),
            "/v1/tokens" => allowed(&[Method::GET], Asked::Tokens),
            "/v1/backup" => allowed(&[Method::GET], Asked::Backup),
            "/v1/restore" => allowed(&[Method::POST], Asked::Restore),
            _ if let Some(id) = path.strip_prefix("/v1/tokens/") => {
                allowed(&[Method::DELETE], Asked::Revoke(id.to_owned()))
            }
            _ if let Some(name) = aborted(path) => allowed(&[Method::POST], Asked::Abort(name.to_owned())),
            _ if let Some(sidecar) = drained(path) => {
                allowed(&[Method::POST], Asked::Drain(sidecar.to_owned()))
            }
            _ => {
                let missing = || Box::new(refused(StatusCode::NOT_FOUND, format!("there is no {path}")));
                let name = path.strip_prefix("/v1/resources/").ok_or_else(missing)?;
                let mut steps = name.split('/');
                let (Some(kind), Some(namespace), Some(name), None) =
                    (steps.next(), steps.next(), steps.next(), steps.next())
                else {
                    return Err(missing());
                };
                let key = Key::new(kind, namespace, name);
                match *method {
                    Method::PUT => Ok(Asked::Put(key)),
                    Method::DELETE => Ok(Asked::Delete(key)),
                    _ => allowed(&[Method::GET], Asked::Get(key)),
                }
            }
        }
    }

    /// The words of its query.
    fn words(&self) -> &'static [&'static str] {
        match self {
            Asked::List => &["kind", "namespace"],
            Asked::Get(_)
            | Asked::Sidecars
            | Asked::Tokens
            | Asked::MakeToken
            | Asked::Revoke(_)
            | Asked::Abort(_)
            | Asked::Backup => &[],
            Asked::Devices | Asked::Migrations => &["namespace"],
            Asked::Drain(_) => &["now"],
            Asked::Put(_) | Asked::Restore => &["dryRun"],
            Asked::Delete(_) | Asked::DeleteMany => &["dryRun", "ignoreMissing"],
            Asked::Apply => &["dryRun", "prune", "set", "namespace"],
        }
    }

    /// The body, whole and in time.
    async fn read(&self, body: Incoming) -> Result<Bytes, Box<Answer>> {
        let most = match self {
            Asked::Restore => MOST_BACKUP_BYTES,
            Asked::Put(_) | Asked::Apply | Asked::DeleteMany | Asked::MakeToken => MOST_BODY_BYTES,
            Asked::List
            | Asked::Get(_)
            | Asked::Delete(_)
            | Asked::Sidecars
            | Asked::Devices
            | Asked::Migrations
            | Asked::Abort(_)
            | Asked::Drain(_)
            | Asked::Tokens
            | Asked::Revoke(_)
            | Asked::Backup => 0,
        };
        body::read(body, most, BODY_TIMEOUT).await
    }
}

/// The sidecar of `/v1/sidecars/ID/drain`. An ID has slashes.
fn drained(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/sidecars/")?.strip_suffix("/drain")
}

/// The migration of `/v1/migrations/NAMESPACE/NAME/abort`.
fn aborted(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/migrations/")?.strip_suffix("/abort")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
