//! The port on which functions are asked, on a thread of its own: a run never keeps traffic or the admin port waiting.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lighter_config::sidecar::DeviceConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{LocalSet, spawn_local};

use super::active::Always;
use super::body::Answer;
use super::busy::Busy;
use super::counts::Counts;
use super::hold::Hold;
use super::limits::Limits;
use super::planned::{InUse, LetIn, NotIn, Planned};
use super::run::{Head, Run, Said, Sent, Wanted};
use super::state::{self, Door, Key};
use super::{Contents, Ended, FunctionHost, Held, MainTask};
use crate::admin::decoded;
use crate::error::Cause;
use crate::http::local::ERROR_FIELD;

/// Open connections: those that this sidecar keeps, and one for each request.
const MOST_CONNECTIONS: usize = 4096;
/// How long a request's head may take, and the rest between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the body of a POST may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head, and of a POST's body.
const MOST_HEAD_BYTES: usize = 64 * 1024;
const MOST_BODY_BYTES: usize = 16 * 1024;
/// When a refused request may find room, in seconds. A guess: nobody knows how long runs take.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");
const MANY_RUNS: &str = "as many runs as may be are under way";
/// The field that names the status of a run that gave no result.
const STATUS_FIELD: &str = "x-lighter-status";

/// The device of this sidecar.
struct Device {
    host: Arc<dyn FunctionHost>,
    counts: Arc<Counts>,
    busy: Arc<Busy>,
    places: Arc<Semaphore>,
    /// How many there are of them.
    most: usize,
    hold: Arc<Hold>,
    /// Where functions come and go.
    planned: Option<Arc<Planned>>,
    /// Functions that are programs of their own.
    natives: Vec<String>,
    /// Of this sidecar's own hooks. None: nobody has it.
    key: Option<Arc<Key>>,
}

/// A device that runs, for whoever tells of it.
pub(crate) struct Running {
    /// How busy it is.
    pub(crate) busy: Arc<Busy>,
    /// What can be active here.
    pub(crate) held: Vec<Held>,
    /// Where functions come and go.
    pub(crate) planned: Option<Arc<Planned>>,
    /// Where hooks give and take what functions remember.
    pub(crate) door: Option<Door>,
    host: Arc<dyn FunctionHost>,
    hold: Arc<Hold>,
    most: usize,
    /// Where they do not.
    _always: Option<Always>,
}

/// Accepts callers until this is dropped; those that are there stay.
pub(crate) struct Accepting {
    /// The device.
    pub(crate) running: Arc<Running>,
    _until: oneshot::Sender<Infallible>,
}

/// Serves functions on `listener`, beside `main` where there is one.
pub(crate) fn start(
    config: &DeviceConfig,
    host: Arc<dyn FunctionHost>,
    main: Option<Arc<MainTask>>,
    listener: std::net::TcpListener,
) -> io::Result<Accepting> {
    listener.set_nonblocking(true)?;
    let counts = Arc::new(Counts::new(config));
    let busy = Arc::new(Busy::new(config));
    let places = Arc::new(Semaphore::new(config.limits.runs));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _within = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let hold = Arc::new(Hold::new(config.priority));
    let limits = Limits::new(config, hold.clone(), host.clone(), main);
    let most = config.limits.runs;
    let planned = config
        .planned
        .map(|planned| Planned::new(config, planned, host.clone(), (hold.clone(), places.clone())));
    let held = host.functions();
    let key = Key::new().map(Arc::new);
    let running = Running {
        busy: busy.clone(),
        _always: planned.is_none().then(|| Always::new(&held)),
        held,
        planned: planned.clone(),
        door: key.clone().map(|key| Door { at: config.listen, key }),
        host: host.clone(),
        hold: hold.clone(),
        most,
    };
    let natives = config.natives.iter().map(|native| native.name.clone()).collect();
    let device = Device { host, counts, busy, places, most, hold, planned: planned.clone(), natives, key };
    let device = Arc::new(device);
    let (until, ended) = oneshot::channel();
    let serve = async move {
        // Whoever has this one's place has limits of its own; runs that are still under way here keep to these.
        spawn_local(limits.keep());
        if let Some(planned) = planned {
            spawn_local(planned.keep());
        }
        tokio::select! {
            () = accept(listener, device) => {}
            _ = ended => {}
        }
        std::future::pending::<()>().await
    };
    let serve = move || LocalSet::new().block_on(&runtime, serve);
    std::thread::Builder::new().name("device".into()).spawn(serve)?;
    Ok(Accepting { running: Arc::new(running), _until: until })
}

async fn accept(listener: TcpListener, device: Arc<Device>) {
    let open = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // As many as may be: the next one waits in the kernel.
        let Ok(place) = open.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let device = device.clone();
                drop(spawn_local(async move {
                    connection(stream, device).await;
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "the device cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, device: Arc<Device>) {
    // A small answer waits for nothing.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let device = device.clone();
        async move { Ok::<_, Infallible>(device.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MOST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // A cut answer was told of by the run; all else is the caller's affair.
    let _ = pin!(serving).await;
}

impl Running {
    /// The sidecar ends: programs of their own end before it.
    pub(crate) fn end(&self) {
        self.host.end();
    }

    /// What a function remembers, or why that cannot be moved.
    pub(crate) fn contents(&self, function: &str) -> Result<Arc<dyn Contents>, String> {
        self.host.contents(function)
    }

    /// How many runs its limits let there be at once now.
    pub(crate) fn most_runs(&self) -> usize {
        self.hold.most_runs().min(self.most)
    }
}

impl Device {
    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let request = match state::answer(&*self.host, &self.counts, self.key.as_deref(), request).await {
            Ok(answer) => return answer,
            Err(request) => request,
        };
        if let Some(wanted) = self.of_native(&request) {
            return self.run_and_tell(Wanted { sent: Sent::Whole(Box::new(request)), ..wanted }).await;
        }
        let method = request.method().clone();
        if !matches!(method, Method::GET | Method::POST) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST\n");
        }
        match request.uri().path() {
            "/" if method == Method::GET => json(self.host.describe()),
            "/log" if method == Method::GET => json(self.host.log()),
            path => match named(path) {
                Some((function, dataset)) => {
                    let parameters = parameters(&request);
                    match body(request).await {
                        Ok(body) => {
                            let sent = Sent::Body(body);
                            self.run_and_tell(Wanted { function, dataset, parameters, sent }).await
                        }
                        Err(answer) => answer,
                    }
                }
                None => text(StatusCode::NOT_FOUND, "expected /FUNCTION/DATASET\n"),
            },
        }
    }

    /// What a request wants that is for a program of its own: by the first part of its path. What comes behind it, if anything, is
    /// only for those who read the log.
    fn of_native(&self, request: &Request<Incoming>) -> Option<Wanted> {
        let mut parts = request.uri().path().strip_prefix('/')?.split('/');
        let function = decoded(parts.next()?)?;
        let dataset = parts.next().and_then(decoded).unwrap_or_default();
        let sent = Sent::Body(None);
        self.natives.contains(&function).then(|| Wanted {
            function,
            dataset,
            parameters: parameters(request),
            sent,
        })
    }

    async fn run_and_tell(&self, wanted: Wanted) -> Response<Answer> {
        // What a program of its own took nobody knows of one request.
        let is_known = matches!(wanted.sent, Sent::Body(_));
        let under_way = Arc::new(());
        let (mut answer, took) = self.run(wanted, &under_way).await;
        let is_running = Arc::strong_count(&under_way) > 1;
        self.busy.tell(answer.headers_mut(), is_running, took.filter(|_| is_known));
        answer
    }

    /// With the processor time of the run, where that has ended.
    async fn run(&self, wanted: Wanted, under_way: &Arc<()>) -> (Response<Answer>, Option<Duration>) {
        let (place, in_use) = match self.enter(&wanted.function).await {
            Ok(entered) => entered,
            Err(NotIn::Busy(cause)) => return (self.refuse(cause, busy(cause)), None),
            Err(why) => return (self.refuse(Cause::Inactive, inactive(why)), None),
        };
        let (host, counts, busy) = (self.host.clone(), self.counts.clone(), self.busy.clone());
        let (under_way, hold) = (under_way.clone(), self.hold.clone());
        let run = Run { host, counts, busy, under_way, hold, wanted, place, in_use };
        let mut said = match run.start() {
            Ok(said) => said,
            Err(error) => {
                tracing::warn!(%error, "no thread for a run");
                return (self.refuse(Cause::ConcurrencyLimit, MANY_RUNS), None);
            }
        };
        // Until there are bytes, whatever goes wrong can be told in so many words.
        match said.recv().await {
            Some(Said::Piece(Some(head), bytes)) => (headed(head, Answer::begun(bytes, said)), None),
            // Whole from the start, so that nothing can cut it any more.
            Some(Said::Last(Some(head), bytes)) => match said.recv().await {
                Some(Said::End(_, ended)) => told(&ended, head, bytes),
                _ => (gone(), None),
            },
            Some(Said::End(head, ended)) => told(&ended, head, Bytes::new()),
            Some(Said::Piece(None, _) | Said::Last(None, _)) | None => (gone(), None),
        }
    }

    /// A place for a run, and what keeps its function active where that is planned: there it may wait for both.
    async fn enter(&self, function: &str) -> Result<(OwnedSemaphorePermit, Option<InUse>), NotIn> {
        if let Some(planned) = &self.planned {
            let LetIn { place, in_use } = planned.enter(function).await?;
            return Ok((place, Some(in_use)));
        }
        let taken = self.places.clone().try_acquire_owned();
        let place = taken.map_err(|_| NotIn::Busy(Cause::ConcurrencyLimit))?;
        self.hold.admit(self.most - self.places.available_permits()).map_err(NotIn::Busy)?;
        Ok((place, None))
    }

    /// Nothing has run, and the same may be asked elsewhere or later.
    fn refuse(&self, cause: Cause, why: &str) -> Response<Answer> {
        self.counts.refuse(cause);
        let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, format!("CS_DEVICE_NOT_AVAILABLE: {why}\n"));
        let fields = answer.headers_mut();
        fields.insert(ERROR_FIELD, HeaderValue::from_static(cause.label()));
        fields.insert(STATUS_FIELD, HeaderValue::from_static("CS_DEVICE_NOT_AVAILABLE"));
        fields.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        answer
    }
}

fn busy(cause: Cause) -> &'static str {
    match cause {
        Cause::Reserve => "the device's main task needs what functions would take",
        Cause::PowerCap => "functions take all the power that the device may",
        _ => MANY_RUNS,
    }
}

fn inactive(why: NotIn) -> &'static str {
    match why {
        NotIn::Late => "the function did not become active in time",
        NotIn::Busy(cause) => busy(cause),
        NotIn::Failed => "the function cannot be made active now",
        NotIn::Full => "the function is not active, and as many requests as may wait for one",
    }
}

/// `/FUNCTION/DATASET`.
fn named(path: &str) -> Option<(String, String)> {
    let (function, dataset) = path.strip_prefix('/')?.split_once('/')?;
    let named = (decoded(function)?, decoded(dataset)?);
    (!named.0.is_empty() && !named.1.is_empty() && !named.1.contains('/')).then_some(named)
}

fn parameters(request: &Request<Incoming>) -> String {
    request.uri().query().unwrap_or_default().to_owned()
}

/// The body of a POST.
async fn body(request: Request<Incoming>) -> Result<Option<Bytes>, Response<Answer>> {
    if request.method() != Method::POST {
        return Ok(None);
    }
    let body = Limited::new(request.into_body(), MOST_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(Some(body.to_bytes())),
        Ok(Err(_)) => Err(text(StatusCode::PAYLOAD_TOO_LARGE, "the parameters are too long\n")),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the parameters did not come\n")),
    }
}

/// What a function said that its answer is.
fn headed(head: Head, body: Answer) -> Response<Answer> {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::OK);
    if let Some(fields) = head.fields {
        *answer.headers_mut() = *fields;
        return answer;
    }
    let media_type = HeaderValue::try_from(&*head.media_type);
    // A component may have said anything.
    let media_type = media_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

fn answer(media_type: &'static str, body: Answer) -> Response<Answer> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

fn json(body: String) -> Response<Answer> {
    answer("application/json", Answer::whole(body))
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Answer> {
    let mut answer = answer("text/plain; charset=utf-8", Answer::whole(body));
    *answer.status_mut() = status;
    answer
}

fn gone() -> Response<Answer> {
    text(StatusCode::INTERNAL_SERVER_ERROR, "the run is gone\n")
}

fn failed(ended: &Ended) -> Response<Answer> {
    let status = StatusCode::from_u16(ended.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = text(status, format!("{}: {}\n", ended.status, ended.message));
    answer.headers_mut().insert(STATUS_FIELD, HeaderValue::from_static(ended.status));
    answer
}

/// The answer of a run that has ended, of which nothing has gone out yet, and its processor time.
fn told(ended: &Ended, head: Head, bytes: Bytes) -> (Response<Answer>, Option<Duration>) {
    let answer = if ended.http == 200 { headed(head, Answer::whole(bytes)) } else { failed(ended) };
    (answer, Some(ended.took.busy))
}
