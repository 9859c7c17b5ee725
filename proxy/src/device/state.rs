//! What functions remember, given and taken as the state of this workload's Service: by the hooks of this sidecar alone, which
//! show a key that nobody else has. For everybody else there is nothing at these paths.
//!
//! | request | does |
//! |---|---|
//! | `GET /~state/FUNCTION` | gives all keys and values, with `?since=VERSION` what has changed since then (410: not known) |
//! | `PUT /~state/FUNCTION` | puts others in their place; what is no such thing is answered 400, what is another program's 409, and what is too much 507 |
//! | `PATCH /~state/FUNCTION` | the same with what has changed |
//! | `POST /~state/FUNCTION/freeze`, `…/thaw` | from now on no run changes them; that ends |
//!
//! What is given comes with its version, `x-lighter-state-version`. What cannot be moved is answered 409, with the reason.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use lighter_config::hex;
use lighter_config::snapshot::FUNCTIONS;
use rustls::crypto::aws_lc_rs;
use subtle::ConstantTimeEq;

use super::FunctionHost;
use super::body::Answer;
use super::counts::Counts;
use super::serve::text;

/// The field with the key.
pub(crate) const KEY_FIELD: HeaderName = HeaderName::from_static("x-lighter-state-key");

/// The field with the version.
const VERSION_FIELD: HeaderName = HeaderName::from_static("x-lighter-state-version");

/// What a function remembers, as keys and values in one form.
pub trait Contents: Send + Sync {
    /// SHA-256 of the function's program, in hexadecimal, behind `kept:` where it keeps its memory: only the same one can take what
    /// this one remembers.
    fn digest(&self) -> &str;

    /// What is put in their place is no longer, in bytes.
    fn most_bytes(&self) -> u64;

    /// All of them, and their version; or why they cannot be read. May wait for a run to end, as what follows may.
    fn read(&self) -> Result<(u64, Bytes), String>;

    /// What has changed since that version, and their version now. None: nobody knows. Or why they cannot be read.
    fn changes(&self, since: u64) -> Result<Option<(u64, Bytes)>, String>;

    /// Puts these in their place, or what has changed into them: all of it or nothing. `gone` tells whether whoever asked has left:
    /// what waited for a run until then is not done.
    fn replace(&self, with: &[u8], gone: &dyn Fn() -> bool) -> Result<(), NotReplaced>;

    /// From now on no run changes them, or that ends, though whoever asked may have left.
    fn freeze(&self, is_frozen: bool, gone: &dyn Fn() -> bool);

    /// How many memories have ended while they were given or replaced, since this was asked last.
    fn lost(&self) -> u64 {
        0
    }
}

/// Why keys and values are not taken. Nothing has changed then, but where a memory is said to be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReplaced {
    /// The HTTP status that says so.
    pub http: u16,
    /// Why, for people.
    pub message: String,
}

/// By what this sidecar's own hooks are told from everybody else. It is never written down.
pub(crate) struct Key(HeaderValue);

impl Key {
    /// One that nobody has seen. None: the machine has no chance.
    pub(super) fn new() -> Option<Self> {
        let mut bytes = [0; 32];
        aws_lc_rs::default_provider().secure_random.fill(&mut bytes).ok()?;
        let mut key = HeaderValue::try_from(hex::encode(&bytes)).ok()?;
        key.set_sensitive(true);
        Some(Key(key))
    }

    /// The value of [`KEY_FIELD`].
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    fn is_shown(&self, request: &Request<Incoming>) -> bool {
        let shown = request.headers().get(KEY_FIELD).map(HeaderValue::as_bytes).unwrap_or_default();
        // How long it takes says nothing of how much of it is right.
        self.0.as_bytes().ct_eq(shown).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Where the hooks of a device are asked, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(super) at: SocketAddr,
    pub(super) key: Arc<Key>,
}

impl Door {
    /// The key, for whoever asks at `at`. None: that is another application, which is not to see it.
    pub(crate) fn key_at(&self, at: SocketAddr) -> Option<&Key> {
        (self.at == at).then_some(&*self.key)
    }
}

/// What such a request is answered. The request, if it is none.
pub(super) async fn answer(
    host: &dyn FunctionHost,
    counts: &Arc<Counts>,
    key: Option<&Key>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Request<Incoming>> {
    let Some(asked) = request.uri().path().strip_prefix(FUNCTIONS) else { return Err(request) };
    if !key.is_some_and(|key| key.is_shown(&request)) {
        return Ok(text(StatusCode::NOT_FOUND, "expected /FUNCTION/DATASET\n"));
    }
    let (function, what) =
        asked.split_once('/').map_or((asked, None), |(function, what)| (function, Some(what)));
    let contents = match host.contents(function) {
        Ok(contents) => contents,
        Err(why) => return Ok(text(StatusCode::CONFLICT, format!("not_movable: {why}\n"))),
    };
    let method = request.method().clone();
    let lost = {
        let (counts, contents, function) = (counts.clone(), contents.clone(), function.to_owned());
        move || counts.lost(&function, contents.lost())
    };
    let answer = match (method, what) {
        (Method::GET, None) => {
            let query = request.uri().query().map(str::to_owned);
            let give = move |_: &dyn Fn() -> bool| {
                let answer = give(&*contents, query.as_deref());
                lost();
                answer
            };
            aside(give).await
        }
        (Method::PUT | Method::PATCH, None) => return Ok(take(contents, lost, request).await),
        (Method::POST, Some(what @ ("freeze" | "thaw"))) => {
            let is_frozen = what == "freeze";
            let freeze = move |gone: &dyn Fn() -> bool| {
                contents.freeze(is_frozen, gone);
                done()
            };
            aside(freeze).await
        }
        (_, None | Some("freeze" | "thaw")) => text(StatusCode::METHOD_NOT_ALLOWED, "no such hook\n"),
        _ => text(StatusCode::NOT_FOUND, "no such hook\n"),
    };
    Ok(answer)
}

/// On a thread that may wait for a run to end, and that goes on when this is dropped: `what` is told then that it is.
async fn aside(
    what: impl FnOnce(&dyn Fn() -> bool) -> Response<Answer> + Send + 'static,
) -> Response<Answer> {
    struct Asking(Arc<AtomicBool>);
    impl Drop for Asking {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let gone = Arc::<AtomicBool>::default();
    let _asking = Asking(gone.clone());
    let failed = |error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
    tokio::task::spawn_blocking(move || what(&|| gone.load(Relaxed))).await.unwrap_or_else(failed)
}

fn give(contents: &dyn Contents, query: Option<&str>) -> Response<Answer> {
    let given = match query.map(|query| query.strip_prefix("since=").map(str::parse)) {
        None => contents.read().map(Some),
        Some(Some(Ok(since))) => contents.changes(since),
        Some(_) => return text(StatusCode::BAD_REQUEST, "expected since=VERSION\n"),
    };
    match given {
        Ok(Some((version, bytes))) => {
            let mut answer = Response::new(Answer::whole(bytes));
            answer.headers_mut().insert(VERSION_FIELD, version.into());
            answer
        }
        Ok(None) => text(StatusCode::GONE, "what has changed since then is not known\n"),
        Err(why) => {
            tracing::warn!(why, "what a function remembers is not given");
            text(StatusCode::INTERNAL_SERVER_ERROR, why + "\n")
        }
    }
}

async fn take(
    contents: Arc<dyn Contents>,
    lost: impl FnOnce() + Send + 'static,
    request: Request<Incoming>,
) -> Response<Answer> {
    let most = contents.most_bytes();
    let too_much = || text(StatusCode::INSUFFICIENT_STORAGE, format!("more than {most} bytes\n"));
    if request.body().size_hint().lower() > most {
        return too_much();
    }
    let body = Limited::new(request.into_body(), usize::try_from(most).unwrap_or(usize::MAX));
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return too_much(),
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let replace = move |gone: &dyn Fn() -> bool| {
        let replaced = contents.replace(&bytes, gone);
        lost();
        match replaced {
            Ok(()) => done(),
            Err(NotReplaced { http, message }) => {
                let status = StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                tracing::warn!(status = http, why = message, "what a function is to remember is not taken");
                text(status, message + "\n")
            }
        }
    };
    aside(replace).await
}

fn done() -> Response<Answer> {
    let mut answer = Response::new(Answer::whole(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use lighter_config::sidecar::SidecarConfig;
    use lighter_config::snapshot::{
        Hooks, OnDrain, Park, StateAccess, StateClass, Stateful, Streams, WhenAlone,
    };

    use super::super::{Accepting, Asked, Ended, Held, Results, start};
    use super::*;
    use crate::dial::Here;
    use crate::stateful::copies::{Gathering, State};
    use crate::stateful::hooks::{Application, HookError};

    /// Ten bytes at most, and whether they are frozen.
    #[derive(Default)]
    struct Kept(Mutex<(Vec<u8>, bool)>, Run);

    /// A run for which hooks wait.
    #[derive(Default)]
    struct Run {
        is_under_way: AtomicBool,
        /// A hook saw that nobody waits for it.
        seen: AtomicBool,
    }

    impl Run {
        /// Whether the hook had its turn.
        fn wait(&self, gone: &dyn Fn() -> bool) -> bool {
            while self.is_under_way.load(Relaxed) {
                if gone() {
                    self.seen.store(true, Relaxed);
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            true
        }
    }

    impl Contents for Kept {
        fn digest(&self) -> &str {
            ""
        }

        fn most_bytes(&self) -> u64 {
            20
        }

        fn read(&self) -> Result<(u64, Bytes), String> {
            Ok((7, self.0.lock().unwrap().0.clone().into()))
        }

        fn changes(&self, since: u64) -> Result<Option<(u64, Bytes)>, String> {
            match since {
                7 => Ok(Some((7, Bytes::new()))),
                8 => Err("it broke off".into()),
                _ => Ok(None),
            }
        }

        fn lost(&self) -> u64 {
            1
        }

        fn replace(&self, with: &[u8], gone: &dyn Fn() -> bool) -> Result<(), NotReplaced> {
            if !self.1.wait(gone) {
                return Err(NotReplaced { http: 500, message: "nobody waits".into() });
            }
            if with.len() > 10 {
                return Err(NotReplaced { http: 507, message: "more than ten".into() });
            }
            self.0.lock().unwrap().0 = with.to_vec();
            Ok(())
        }

        fn freeze(&self, is_frozen: bool, gone: &dyn Fn() -> bool) {
            if self.1.wait(gone) {
                self.0.lock().unwrap().1 = is_frozen;
            }
        }
    }

    struct Keeper(Arc<Kept>);

    impl FunctionHost for Keeper {
        fn describe(&self) -> String {
            String::new()
        }

        fn log(&self) -> String {
            String::new()
        }

        fn functions(&self) -> Vec<Held> {
            Vec::new()
        }

        fn activate(&self, _: &str) -> Result<(), String> {
            Ok(())
        }

        fn deactivate(&self, _: &str) -> Result<(), String> {
            Ok(())
        }

        fn run(&self, _: &Asked<'_>, _: &mut dyn Results) -> Ended {
            unreachable!("nobody asks for a function")
        }

        fn contents(&self, function: &str) -> Result<Arc<dyn Contents>, String> {
            match function {
                "keep" => Ok(self.0.clone()),
                other => Err(format!("`{other}` remembers nothing")),
            }
        }
    }

    fn device() -> (Accepting, Arc<Kept>, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let text = format!(
            "service: a\ninbound: [{{listen: '127.0.0.1:1', app: '{at}', protocol: http}}]\n\
             device: {{class: csd, listen: '{at}', datasets: []}}\n"
        );
        let config = SidecarConfig::parse("sidecar.yaml", &text).unwrap().device.unwrap();
        let kept = Arc::<Kept>::default();
        (start(&config, Arc::new(Keeper(kept.clone())), None, listener).unwrap(), kept, at)
    }

    fn stateful(function: &str) -> Stateful {
        Stateful {
            class: StateClass::Volatile,
            port: 80,
            access: StateAccess::Http(Hooks::of_function(function)),
            timeout: Duration::from_secs(20),
            max_bytes: 1 << 20,
            park: Park::default(),
            streams: Streams::Wait,
            on_drain: OnDrain::Move,
            when_alone: WhenAlone::Refuse,
            moves: lighter_config::snapshot::Moves::default(),
        }
    }

    fn state(bytes: &[u8]) -> State {
        let mut gathering = Gathering::new(bytes.len() as u64);
        gathering.push(bytes).unwrap();
        gathering.finish()
    }

    fn status<T: std::fmt::Debug>(result: Result<T, HookError>) -> String {
        result.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_hooks_of_this_sidecar_give_and_take_and_nobody_else() {
        let (accepting, kept, at) = device();
        let (sockets, keep) = (Here::default(), stateful("keep"));
        let door = accepting.running.door.clone().unwrap();
        assert!(door.key_at(SocketAddr::from(([127, 0, 0, 1], 1))).is_none(), "another application");
        let key = door.key_at(at);
        let own = Application { sockets: &sockets, at, stateful: &keep, key };
        own.restore(&state(b"0123456789")).await.unwrap();
        own.freeze().await.unwrap();
        assert_eq!(*kept.0.lock().unwrap(), (b"0123456789".to_vec(), true));
        assert_eq!(own.snapshot().await.unwrap().state.digest(), state(b"0123456789").digest());
        own.thaw().await.unwrap();
        // What is too much is said by whoever keeps it, or before it is read.
        for bytes in [11, 21] {
            let said = status(own.restore(&state(&vec![0; bytes])).await);
            assert!(said.contains("507"), "{said}");
        }
        let other = stateful("other");
        let said = status(Application { stateful: &other, ..own }.snapshot().await);
        assert!(said.contains("409"), "{said}");
        let wrong = Key::new().unwrap();
        for key in [None, Some(&wrong)] {
            let stranger = Application { sockets: &sockets, at, stateful: &keep, key };
            assert!(status(stranger.snapshot().await).contains("404"));
            assert!(status(stranger.restore(&state(b"x")).await).contains("404"));
            assert!(status(stranger.freeze().await).contains("404"));
        }
        assert_eq!(*kept.0.lock().unwrap(), (b"0123456789".to_vec(), false));
    }

    #[tokio::test]
    async fn a_hook_that_waits_sees_that_whoever_asked_has_left() {
        let (accepting, kept, at) = device();
        let short = Stateful { timeout: Duration::from_millis(100), ..stateful("keep") };
        let (sockets, door) = (Here::default(), accepting.running.door.clone().unwrap());
        let own = Application { sockets: &sockets, at, stateful: &short, key: door.key_at(at) };
        let Run { is_under_way, seen } = &kept.1;
        is_under_way.store(true, Relaxed);
        for hook in ["freeze", "restore"] {
            // On a busy machine it may be too late before the device is even asked.
            let mut tries = 0..100;
            while !seen.swap(false, Relaxed) {
                assert!(tries.next().is_some(), "{hook}");
                let late = match hook {
                    "freeze" => own.freeze().await,
                    _ => own.restore(&state(b"late")).await,
                };
                assert!(status(late).contains("took longer"));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        is_under_way.store(false, Relaxed);
    }

    #[test]
    fn what_has_changed_is_given_as_far_as_it_is_known() {
        let ask = |query: Option<&str>| {
            let answer = give(&Kept::default(), query);
            (answer.status().as_u16(), answer.headers().get(VERSION_FIELD).cloned())
        };
        let version = Some(HeaderValue::from_static("7"));
        assert_eq!(ask(None), (200, version.clone()));
        assert_eq!(ask(Some("since=7")), (200, version));
        assert_eq!(ask(Some("since=6")), (410, None));
        assert_eq!(ask(Some("since=8")), (500, None), "who asks for all then would not be told what is lost");
        assert_eq!(ask(Some("since=x")), (400, None));
        assert_eq!(ask(Some("until=7")), (400, None));
    }
}
