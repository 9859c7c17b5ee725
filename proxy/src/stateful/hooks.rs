//! How an application gives its state and takes it: requests that its Service names, in HTTP/1.1, each on a connection of its
//! own.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lighter_config::snapshot::{Hooks, StateAccess, Stateful};
use tokio::time::{Instant, timeout};

use super::copies::{Gathering, Reading, State, TooLarge};
use super::counts;
use super::redis::{self, RedisFault};
use crate::device::state::{KEY_FIELD, Key};
use crate::dial::{self, SocketFactory};
use crate::error::{ProxyError, Side};

/// What an application can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// All of its state.
    Snapshot,
    /// What has changed since it gave something before.
    Changes,
    /// To take a state in place of its own.
    Restore,
    /// To take what has changed since what it took before.
    Patch,
    /// To change nothing by itself from now on.
    Freeze,
    /// To go on as before.
    Thaw,
}

/// An application did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the {hook} hook {fault}")]
pub struct HookError {
    /// What it was asked for.
    pub hook: Hook,
    /// What went wrong.
    pub fault: HookFault,
}

/// What went wrong with a hook.
#[derive(Debug, thiserror::Error)]
pub enum HookFault {
    /// What the Service names is no path.
    #[error("cannot be asked for: `{0}` is no path")]
    Path(String),
    /// This instance does not have the port of the Service at which it is to be asked.
    #[error("cannot be asked for: this instance has no port {0} of its Service")]
    Nowhere(u16),
    /// The application cannot be connected to.
    #[error("cannot be reached: {0}")]
    Unreached(#[source] ProxyError),
    /// It answered, and not that it did it.
    #[error("was answered {0}")]
    Status(StatusCode),
    /// It does not know any more what has changed since then.
    #[error("was answered that it is not known what has changed since then")]
    Gone,
    /// It did not say from what its changes are to be followed.
    #[error("was answered without `{VERSION}`, or with what is none")]
    Unnamed,
    /// It gave more than its Service allows.
    #[error("gave {0}, which is the most that its Service allows")]
    TooLarge(TooLarge),
    /// Its answer ends with its connection: a part of a state would look like all of it.
    #[error("was answered without a length, and not in chunks")]
    Endless,
    /// The connection was lost, or what came is no HTTP.
    #[error("got no whole answer: {0}")]
    Lost(#[source] hyper::Error),
    /// It is Redis, which did not do it.
    #[error("fails: Redis {0}")]
    Redis(#[from] RedisFault),
    /// It took too long.
    #[error("took longer than {0:?}")]
    Late(Duration),
}

/// Where an application is asked, and how.
#[derive(Clone, Copy)]
pub(crate) struct Application<'a> {
    /// Makes the sockets: those of the sidecar are not intercepted by its own rules.
    pub(crate) sockets: &'a dyn SocketFactory,
    /// Where it listens.
    pub(crate) at: SocketAddr,
    /// What its Service says of it.
    pub(crate) stateful: &'a Stateful,
    /// By which a device knows that this sidecar asks. None: it is another application.
    pub(crate) key: Option<&'a Key>,
}

/// What an application gives.
#[derive(Debug)]
pub(crate) struct Given {
    /// All of its state, or what has changed.
    pub(crate) state: State,
    /// From what its changes are to be followed, if it says so.
    pub(crate) version: Option<Version>,
}

/// What an application calls what it has given: for it alone to know what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version(Arc<str>);

impl Version {
    /// Of a field. None: it is empty, too long, or has what is not visible ASCII.
    pub(crate) fn read(said: &HeaderValue) -> Option<Self> {
        let text = said.to_str().ok()?;
        let is_one =
            (1..=LONGEST_VERSION).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_one.then(|| Version(text.into()))
    }

    /// As a query says it.
    fn escaped(&self) -> String {
        self.0.bytes().fold(String::new(), |mut escaped, byte| {
            match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                true => escaped.push(char::from(byte)),
                false => drop(write!(escaped, "%{byte:02X}")),
            }
            escaped
        })
    }
}

impl Hook {
    /// Each.
    pub const ALL: [Hook; 6] =
        [Hook::Snapshot, Hook::Changes, Hook::Restore, Hook::Patch, Hook::Freeze, Hook::Thaw];

    /// In a word, as a label.
    pub const fn label(self) -> &'static str {
        match self {
            Hook::Snapshot => "snapshot",
            Hook::Changes => "changes",
            Hook::Restore => "restore",
            Hook::Patch => "patch",
            Hook::Freeze => "freeze",
            Hook::Thaw => "thaw",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl HookFault {
    /// In a word, as a label.
    pub const fn label(&self) -> &'static str {
        match self {
            HookFault::Path(_) => "path",
            HookFault::Nowhere(_) => "nowhere",
            HookFault::Unreached(_) => "unreached",
            HookFault::Status(_) => "status",
            HookFault::Gone => "gone",
            HookFault::Unnamed => "unnamed",
            HookFault::TooLarge(_) => "too_large",
            HookFault::Endless => "endless",
            HookFault::Lost(_) => "lost",
            HookFault::Redis(_) => "redis",
            HookFault::Late(_) => "late",
        }
    }

    /// Whose fault it is.
    pub const fn side(&self) -> Side {
        match self {
            HookFault::Path(_) | HookFault::Nowhere(_) => Side::Control,
            HookFault::Unreached(error) => error.cause.side(),
            HookFault::Status(_)
            | HookFault::Gone
            | HookFault::Unnamed
            | HookFault::TooLarge(_)
            | HookFault::Endless
            | HookFault::Lost(_)
            | HookFault::Redis(_)
            | HookFault::Late(_) => Side::Upstream,
        }
    }
}

impl Application<'_> {
    /// All of its state: what a GET is answered with, if that is 200 and not too long.
    pub(crate) async fn snapshot(&self) -> Result<Given, HookError> {
        match &self.stateful.access {
            StateAccess::Http(hooks) => {
                self.ask(Hook::Snapshot, &hooks.snapshot, None, async |answer| self.gather(answer).await)
                    .await
            }
            StateAccess::Redis => {
                let given = async { Ok(Given { state: redis::snapshot(self).await?, version: None }) };
                self.timed(Hook::Snapshot, given).await
            }
        }
    }

    /// What has changed since it gave what it named so. Fails as [`HookFault::Gone`] where it does not know that any more.
    pub(crate) async fn changes(&self, since: &Version) -> Result<Given, HookError> {
        let path = self.hooks().and_then(|hooks| hooks.changes.as_deref()).unwrap_or_default();
        let path = format!("{path}?since={}", since.escaped());
        self.ask(Hook::Changes, &path, None, async |answer| match answer.status() {
            StatusCode::GONE => Err(HookFault::Gone),
            _ => self.gather(answer).await,
        })
        .await
    }

    /// Has it take `state` in place of its own, by a PUT.
    pub(crate) async fn restore(&self, state: &State) -> Result<(), HookError> {
        match &self.stateful.access {
            StateAccess::Http(hooks) => self.ask(Hook::Restore, &hooks.restore, Some(state), is_done).await,
            StateAccess::Redis => self.timed(Hook::Restore, redis::restore(self, state)).await,
        }
    }

    /// Has it take what has changed, by a PATCH.
    pub(crate) async fn patch(&self, changes: &State) -> Result<(), HookError> {
        let path = self.hooks().map(|hooks| &*hooks.restore).unwrap_or_default();
        self.ask(Hook::Patch, path, Some(changes), is_done).await
    }

    /// Has it change nothing by itself from now on, if its Service has a hook for that.
    pub(crate) async fn freeze(&self) -> Result<(), HookError> {
        match self.hooks().and_then(|hooks| hooks.freeze.as_ref()) {
            Some(path) => self.ask(Hook::Freeze, path, None, is_done).await,
            None => Ok(()),
        }
    }

    /// Has it go on as before, if its Service has a hook for that.
    pub(crate) async fn thaw(&self) -> Result<(), HookError> {
        if self.stateful.access == StateAccess::Redis {
            return self.timed(Hook::Thaw, redis::free(self)).await;
        }
        match self.hooks().and_then(|hooks| hooks.thaw.as_ref()) {
            Some(path) => self.ask(Hook::Thaw, path, None, is_done).await,
            None => Ok(()),
        }
    }

    /// What an answer gives, if it is 200 and not too long.
    async fn gather(&self, answer: Response<Incoming>) -> Result<Given, HookFault> {
        if answer.status() != StatusCode::OK {
            return Err(HookFault::Status(answer.status()));
        }
        let most = self.stateful.max_bytes;
        let version = answer.headers().get(VERSION).and_then(Version::read);
        let in_chunks = answer.headers().contains_key(TRANSFER_ENCODING);
        let (mut body, mut gathering) = (answer.into_body(), Gathering::new(most));
        if !in_chunks && !body.is_end_stream() {
            let bytes = body.size_hint().exact().ok_or(HookFault::Endless)?;
            if bytes > most {
                return Err(HookFault::TooLarge(TooLarge(most)));
            }
        }
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(HookFault::Lost)?.into_data() {
                gathering.push(&bytes).map_err(HookFault::TooLarge)?;
            }
        }
        Ok(Given { state: gathering.finish(), version })
    }

    fn hooks(&self) -> Option<&Hooks> {
        match &self.stateful.access {
            StateAccess::Http(hooks) => Some(hooks),
            StateAccess::Redis => None,
        }
    }

    async fn ask<T>(
        &self,
        hook: Hook,
        path: &str,
        state: Option<&State>,
        hear: impl AsyncFnOnce(Response<Incoming>) -> Result<T, HookFault>,
    ) -> Result<T, HookError> {
        self.timed(hook, self.exchange(hook, path, state, hear)).await
    }

    /// As long as its Service says, counted.
    async fn timed<T>(
        &self,
        hook: Hook,
        asked: impl Future<Output = Result<T, HookFault>>,
    ) -> Result<T, HookError> {
        let began = Instant::now();
        let within = self.stateful.timeout;
        let asked = timeout(within, asked).await;
        let done = asked.unwrap_or(Err(HookFault::Late(within)));
        counts::hook(hook, done.as_ref().err(), began.elapsed());
        done.map_err(|fault| HookError { hook, fault })
    }

    async fn exchange<T>(
        &self,
        hook: Hook,
        path: &str,
        state: Option<&State>,
        hear: impl AsyncFnOnce(Response<Incoming>) -> Result<T, HookFault>,
    ) -> Result<T, HookFault> {
        let request = self.request(hook, path, state)?;
        let stream = dial::connect(self.sockets, self.at, self.stateful.timeout).await;
        let stream = TokioIo::new(stream.map_err(HookFault::Unreached)?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(HookFault::Lost)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(HookFault::Lost)?;
            hear(answer).await
        };
        driven(connection, exchange).await
    }

    fn request(&self, hook: Hook, path: &str, state: Option<&State>) -> Result<Request<Said>, HookFault> {
        let method = match hook {
            Hook::Snapshot | Hook::Changes => Method::GET,
            Hook::Restore => Method::PUT,
            Hook::Patch => Method::PATCH,
            Hook::Freeze | Hook::Thaw => Method::POST,
        };
        let said = state.map_or(Either::Left(Empty::new()), |state| Either::Right(state.read(0)));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.at.to_string())
            .header(USER_AGENT, concat!("lighter/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close");
        let mut request = request.body(said).map_err(|_| HookFault::Path(path.to_owned()))?;
        if !matches!(hook, Hook::Snapshot | Hook::Changes) {
            // Some want to hear that there is nothing.
            let length = HeaderValue::from(state.map_or(0, State::bytes));
            request.headers_mut().insert(CONTENT_LENGTH, length);
        }
        if let Some(key) = self.key {
            request.headers_mut().insert(KEY_FIELD, key.value());
        }
        if state.is_some() {
            let bytes = HeaderValue::from_static("application/octet-stream");
            request.headers_mut().insert(CONTENT_TYPE, bytes);
        }
        Ok(request)
    }
}

/// The field by which an application says from what its changes are to be followed.
const VERSION: &str = "x-lighter-state-version";
const LONGEST_VERSION: usize = 256;

/// What the application is told beside the head.
type Said = Either<Empty<Bytes>, Reading>;

async fn is_done(answer: Response<Incoming>) -> Result<(), HookFault> {
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(HookFault::Status(status)),
    }
}

/// What `exchange` comes to, while `connection` carries it, which ends with it.
pub(super) async fn driven<T, E>(
    connection: impl Future<Output = Result<(), E>>,
    exchange: impl Future<Output = T>,
) -> T {
    let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
    let mut is_over = false;
    loop {
        tokio::select! {
            biased;
            done = &mut exchange => return done,
            // What was wrong with it the exchange is told; and what had come before, it reads.
            _ = &mut connection, if !is_over => is_over = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::app::{App, stateful};
    use super::*;
    use crate::dial::Here;

    async fn with<T>(app: &App, stateful: &Stateful, ask: impl AsyncFnOnce(&Application<'_>) -> T) -> T {
        ask(&Application { sockets: &Here::default(), at: app.at, stateful, key: None }).await
    }

    fn other_hooks(stateful: &Stateful, change: impl FnOnce(&mut Hooks)) -> Stateful {
        let mut stateful = stateful.clone();
        if let StateAccess::Http(hooks) = &mut stateful.access {
            change(hooks);
        }
        stateful
    }

    #[tokio::test]
    async fn an_application_gives_all_of_its_state_and_takes_another() {
        let state: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
        let (one, other, its) = (App::new(state.clone()).await, App::new("old").await, stateful());
        let given = with(&one, &its, async |app| {
            app.freeze().await.unwrap();
            app.snapshot().await.unwrap().state
        })
        .await;
        assert_eq!(given.bytes(), 3_000_000);
        with(&other, &its, async |app| {
            app.restore(&given).await.unwrap();
            app.thaw().await.unwrap();
        })
        .await;
        assert!(other.kept().state == state);
        assert_eq!(one.asked(), ["POST /freeze", "GET /state"]);
        assert_eq!(other.asked(), ["PUT /state", "POST /thaw"]);
        let without = other_hooks(&its, |hooks| (hooks.freeze, hooks.thaw) = (None, None));
        with(&one, &without, async |app| {
            app.freeze().await.unwrap();
            app.thaw().await.unwrap();
        })
        .await;
        assert!(one.asked().is_empty(), "nothing is asked of one that has no such hook");
    }

    #[tokio::test]
    async fn what_goes_wrong_names_the_hook_and_whose_fault_it_is() {
        let (app, its) = (App::new("12345").await, stateful());
        let short = Stateful { max_bytes: 4, ..its.clone() };
        let error = with(&app, &short, async |app| app.snapshot().await).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the snapshot hook gave more than 4 bytes, which is the most that its Service allows"
        );
        assert!(
            with(&app, &Stateful { max_bytes: 5, ..its.clone() }, async |app| app.snapshot().await)
                .await
                .is_ok()
        );
        // Of a state, a part or another thing will not do.
        app.kept().fails = [("/state", 206), ("/freeze", 503)].into();
        let error = with(&app, &its, async |app| app.snapshot().await).await.unwrap_err();
        assert!(matches!(error.fault, HookFault::Status(StatusCode::PARTIAL_CONTENT)), "{error}");
        let error = with(&app, &its, async |app| app.freeze().await).await.unwrap_err();
        assert_eq!(error.to_string(), "the freeze hook was answered 503 Service Unavailable");
        assert_eq!(error.fault.side(), Side::Upstream);
        app.kept().fails = [("/thaw", 0)].into();
        let hasty = Stateful { timeout: Duration::from_millis(50), ..its.clone() };
        let error = with(&app, &hasty, async |app| app.thaw().await).await.unwrap_err();
        assert!(matches!((error.hook, &error.fault), (Hook::Thaw, HookFault::Late(_))), "{error}");
        let no_path = other_hooks(&its, |hooks| hooks.freeze = Some("/a b".into()));
        let error = with(&app, &no_path, async |app| app.freeze().await).await.unwrap_err();
        assert_eq!((error.fault.label(), error.fault.side()), ("path", Side::Control));
        // Bound, and nobody listens.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let at = socket.local_addr().unwrap().as_socket().unwrap();
        let nobody = Application { sockets: &Here::default(), at, stateful: &its, key: None };
        let error = nobody.snapshot().await.unwrap_err();
        assert_eq!((error.fault.label(), error.fault.side()), ("unreached", Side::Upstream));
    }

    #[tokio::test]
    async fn what_has_changed_is_asked_for_by_what_the_application_called_it() {
        let its = other_hooks(&stateful(), |hooks| hooks.changes = Some("/changes".into()));
        let app = App::new("all of it").await;
        app.kept().version = "a/1&%".into();
        let since = with(&app, &its, async |app| app.snapshot().await.unwrap().version).await.unwrap();
        app.kept().changes = b", and more".to_vec();
        let given = with(&app, &its, async |app| {
            let given = app.changes(&since).await.unwrap();
            app.patch(&given.state).await.unwrap();
            given
        })
        .await;
        assert_eq!((given.state.bytes(), given.version), (10, Some(since.clone())));
        assert_eq!(app.kept().state, b"all of it, and more");
        assert_eq!(app.asked(), ["GET /state", "GET /changes?since=a%2F1%26%25", "PATCH /state"]);
        app.kept().fails = [("/changes", 410)].into();
        let error = with(&app, &its, async |app| app.changes(&since).await).await.unwrap_err();
        assert_eq!(error.fault.label(), "gone");
        for (said, is_one) in
            [("", false), ("a b", false), ("\u{e9}", false), (&"7".repeat(257), false), ("7", true)]
        {
            let read = HeaderValue::from_str(said).ok().as_ref().and_then(Version::read);
            assert_eq!(read.is_some(), is_one, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_state_that_ends_before_its_end_is_none() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, its) = (listener.local_addr().unwrap(), stateful());
        let app = Application { sockets: &Here::default(), at, stateful: &its, key: None };
        for (field, label) in
            [("content-length: 10\r\n", "lost"), ("transfer-encoding: chunked\r\n", "lost"), ("", "endless")]
        {
            let cuts = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).await.unwrap() > 0);
                let said = format!("HTTP/1.1 200 OK\r\n{field}\r\n4\r\nhalf\r\n");
                stream.write_all(said.as_bytes()).await.unwrap();
            };
            let (given, ()) = tokio::join!(app.snapshot(), cuts);
            assert_eq!(given.unwrap_err().fault.label(), label);
        }
    }
}
