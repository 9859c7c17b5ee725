//! The admin port, for operators and for whoever scrapes metrics; and the probe port for a kubelet, which has only
//! `/ready`, `/live` and `/drain`.
//!
//! | path | says or does |
//! |---|---|
//! | `GET /ready` | 200 while this sidecar takes traffic, otherwise 503 and why not |
//! | `GET /live` | 200 while the control thread runs |
//! | `GET /metrics` | Prometheus text, or OpenMetrics where the Accept header asks for it |
//! | `GET /routes` | what was counted per route, as JSON |
//! | `GET /clusters` | endpoints with their health and load, as text; `?format=json` as JSON |
//! | `GET /config_dump` | the sidecar's own file, the snapshot in force, and what the control plane tells, as JSON |
//! | `GET /intercept` | the redirecting rules in the kernel and what they counted, as JSON |
//! | `GET /log_level`, `POST /log_level?level=…` | the log filter, such as `info` or `lighter_proxy=debug` |
//! | `GET /links` | open links, the wires that carry them, and what those carried, as JSON |
//! | `POST /links/freeze` | every link goes back to TCP, and to another wire again when its policy says so |
//! | `GET /device` | the functions of its device: how each stands, what they take and who waits, as JSON |
//! | `POST /device/activate?function=…`, `/device/deactivate?function=…` | where functions are planned: this one becomes active, or goes, until there is another plan or others need its room |
//! | `GET /decisions?…` | where requests of rules with an OffloadPolicy went of late, and why: a line of JSON for each; `route=…` and `last=…` say which |
//! | `GET /tap?…` | exchanges as they end, a line of JSON for each, for as long as the client stays; those only that fit what the query says |
//! | `POST /drain` | as SIGTERM; answers at once. On the probe port by GET too, which is all that a preStop hook can send |
//! | `POST /drain?now` | the same, but nobody is let in from then on, and what still runs after a second is cut |
//! | `POST /handover` | `lighter run` starts another process of its sidecar, which takes this one's place; answers at once |
//! | `POST /reload` | as SIGHUP: the resource files are read, and the access log's file is opened anew |
//!
//! It has no password, so it listens on loopback. A web page in a browser on this machine can reach it all the same:
//! hence a request must name the port by an address or as `localhost` (a page's own name that was made to lead here is
//! refused), and one that changes something must not come from another origin. The probe port is reached by more than
//! this machine and under any name; there no page of a browser may ask for anything that changes.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};

use crate::drain::Phase;
use crate::offload;
use crate::telemetry::exposition::Format;
use crate::telemetry::tap::{Filter, MOST_TAPS, Tap};
use crate::telemetry::{access_log, logging, render};
use crate::worker::{By, Shared};

mod clusters;
mod device;
mod dump;
mod origin;
mod server;
mod tapped;

use self::tapped::Tapped;

/// A page, or one that has no end.
type Answer = Response<Either<Full<Bytes>, Tapped>>;

/// Serves the admin port until it is dropped.
pub async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    server::serve(listener, move |request| admin(&shared, request)).await
}

/// Serves the probe port until it is dropped.
pub async fn serve_probe(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    server::serve(listener, move |request| probe(&shared, request)).await
}

fn admin<B>(shared: &Shared, request: &Request<B>) -> Answer {
    if let Err(refusal) = origin::check(request) {
        return text(StatusCode::FORBIDDEN, refusal);
    }
    let query = request.uri().query().unwrap_or_default();
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let method = request.method();
    match request.uri().path() {
        "/" => only_get(method, || text(StatusCode::OK, INDEX)),
        "/metrics" => only_get(method, || metrics(Format::negotiate(accept.unwrap_or_default()))),
        "/routes" => only_get(method, || json(&clusters::routes())),
        "/clusters" => only_get(method, || match argument(query, "format").as_deref() {
            Some("json") => json(&clusters::json(&shared.mesh.load())),
            _ => text(StatusCode::OK, clusters::text(&shared.mesh.load())),
        }),
        "/config_dump" => only_get(method, || {
            json(&dump::dump(&shared.config, &shared.mesh.load(), shared.discover.as_ref()))
        }),
        "/intercept" => only_get(method, || intercept(shared)),
        "/log_level" => log_level(method, argument(query, "level").as_deref()),
        "/links" => only_get(method, || json(&clusters::links(&shared.links.read(usize::MAX)))),
        "/links/freeze" => only_post(method, || {
            shared.rings.give_up_all();
            "links go back to TCP\n"
        }),
        "/device" => only_get(method, || device::read(shared.device.get().map(|device| &**device))),
        "/device/activate" | "/device/deactivate" => {
            let is_to_be = request.uri().path() == "/device/activate";
            device::change(shared.device.get().map(|device| &**device), method, query, is_to_be)
        }
        "/decisions" => only_get(method, || decisions(shared, query)),
        "/tap" => match *method {
            Method::GET => tap(query),
            _ => not_allowed("GET"),
        },
        "/drain" => only_post(method, || drain(shared, query == "now")),
        "/handover" => match *method {
            Method::POST if shared.ask_for_successor() => {
                text(StatusCode::OK, "another process is started\n")
            }
            Method::POST => {
                text(StatusCode::CONFLICT, "nobody here can start one: start it with --takeover\n")
            }
            _ => not_allowed("POST"),
        },
        "/reload" => only_post(method, || {
            shared.reload();
            access_log::reopen();
            "reloading\n"
        }),
        path => health(shared, method, path),
    }
}

/// The last decisions of offload, the oldest first.
fn decisions(shared: &Shared, query: &str) -> Answer {
    let last = match argument(query, "last").map(|last| last.parse()) {
        None => 100,
        Some(Ok(last)) => last,
        Some(Err(_)) => return text(StatusCode::BAD_REQUEST, "`last` is a number\n"),
    };
    let route = argument(query, "route");
    let lines: String = offload::decisions(&shared.mesh.load(), route.as_deref(), last)
        .iter()
        .filter_map(|logged| serde_json::to_string(logged).ok())
        .flat_map(|line| [line, "\n".to_owned()])
        .collect();
    answer(StatusCode::OK, JSON_LINES, lines)
}

fn probe<B>(shared: &Shared, request: &Request<B>) -> Answer {
    match (request.uri().path(), request.method()) {
        ("/drain", _) if origin::is_page(request) => {
            text(StatusCode::FORBIDDEN, "a page in a browser must not change anything here\n")
        }
        ("/drain", &Method::GET | &Method::POST) => text(StatusCode::OK, drain(shared, false)),
        ("/drain", _) => not_allowed("GET, POST"),
        (path, method) => health(shared, method, path),
    }
}

/// What both ports have.
fn health(shared: &Shared, method: &Method, path: &str) -> Answer {
    match path {
        "/ready" => only_get(method, || ready(shared)),
        "/live" => only_get(method, || text(StatusCode::OK, "live\n")),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// `now`: whatever runs is not waited for. The probe port has no such thing, as it is not for operators.
fn drain(shared: &Shared, now: bool) -> String {
    shared.drain(By::Admin, now);
    format!("draining: {} connections are open\n", shared.open_connections())
}

fn ready(shared: &Shared) -> Answer {
    let why_not = match shared.phase() {
        Phase::Serving if shared.is_up() => return text(StatusCode::OK, "ready\n"),
        Phase::Serving => "starting: not everything listens yet, or no configuration is in force\n",
        Phase::Lame => "lame: draining has begun, callers are told to leave\n",
        Phase::Draining => "draining: what runs is finished\n",
        Phase::Closed => "closed\n",
    };
    text(StatusCode::SERVICE_UNAVAILABLE, why_not)
}

fn metrics(format: Format) -> Answer {
    answer(StatusCode::OK, format.content_type(), render(format))
}

/// Exchanges as they end, those that the query asks for.
fn tap(query: &str) -> Answer {
    let filter = match Filter::parse(arguments(query).collect()) {
        Ok(filter) => filter,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    match Tap::open(filter) {
        Some(tap) => respond(StatusCode::OK, JSON_LINES, Either::Right(Tapped::new(tap))),
        None => text(StatusCode::SERVICE_UNAVAILABLE, format!("{MOST_TAPS} look already\n")),
    }
}

fn intercept(shared: &Shared) -> Answer {
    let Some(rules) = shared.rules.get() else {
        return text(StatusCode::NOT_FOUND, "nothing is intercepted by this sidecar\n");
    };
    match rules.counters() {
        Ok(rules) => json(&clusters::rules(&rules)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn log_level(method: &Method, level: Option<&str>) -> Answer {
    match (method, level) {
        (&Method::GET | &Method::HEAD, _) => match logging::level() {
            Some(level) => text(StatusCode::OK, format!("{level}\n")),
            None => text(StatusCode::NOT_FOUND, "this process has no log\n"),
        },
        (&Method::POST, Some(level)) => match logging::set_level(level) {
            Ok(()) => text(StatusCode::OK, format!("{level}\n")),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        (&Method::POST, None) => text(StatusCode::BAD_REQUEST, "say which: ?level=info\n"),
        _ => not_allowed("GET, HEAD, POST"),
    }
}

fn only_get(method: &Method, page: impl FnOnce() -> Answer) -> Answer {
    match *method {
        Method::GET | Method::HEAD => page(),
        _ => not_allowed("GET, HEAD"),
    }
}

fn only_post<B: Into<Bytes>>(method: &Method, act: impl FnOnce() -> B) -> Answer {
    match *method {
        Method::POST => text(StatusCode::OK, act()),
        _ => not_allowed("POST"),
    }
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {methods}\n"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

fn json(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    respond(status, content_type, Either::Left(Full::new(body.into())))
}

fn respond(status: StatusCode, content_type: &'static str, body: Either<Full<Bytes>, Tapped>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// The value of a query parameter.
fn argument(query: &str, name: &str) -> Option<String> {
    arguments(query).find_map(|(key, value)| (key == name).then_some(value))
}

/// The parameters of a query. Those whose value is no text say nothing.
fn arguments(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(key, value)| Some((key.to_owned(), decoded(value)?)))
}

/// What is meant by a parameter's value (RFC 3986 §2.1).
pub(crate) fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = rest.get(1..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

const JSON_LINES: &str = "application/x-ndjson";

const INDEX: &str = "\
GET  /ready                      200 while this sidecar takes traffic
GET  /live                       200 while its control thread runs
GET  /metrics                    Prometheus text or OpenMetrics
GET  /routes                     counts per route (JSON)
GET  /clusters[?format=json]     endpoints with health and load
GET  /links                      open links and their wires (JSON)
POST /links/freeze               sends every link back to TCP
GET  /config_dump                what is in force (JSON)
GET  /intercept                  redirecting rules and their counters (JSON)
GET  /device                     the functions of its device (JSON)
POST /device/activate?function=F has one become active
POST /device/deactivate?function=F has one go
GET  /decisions[?route=R&last=N] where offload sent requests of late, and why (lines of JSON)
GET  /tap[?path=/a&status=5xx…]  exchanges as they end (lines of JSON)
GET  /log_level                  the log filter
POST /log_level?level=FILTER     changes it
POST /drain[?now]                as SIGTERM; now: what still runs after a second is cut
POST /handover                   another process takes this one's place
POST /reload                     as SIGHUP
";

#[cfg(test)]
mod tests;
