//! Taps: exchanges as they end, for whoever looks at them by the admin port.
//!
//! Where nobody looks, nothing is done for it. A worker writes a line for what a tap asks for, and never waits: a tap that
//! is not read misses lines, and is told how many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::access_log::{FIELD_LIMIT, format};
use super::{Direction, Record};

/// What a tap asks for: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    direction: Option<Direction>,
    /// `NAME` in any namespace, or `NAMESPACE/NAME`.
    service: Option<String>,
    route: Option<String>,
    method: Option<String>,
    /// What paths begin with.
    path: Option<String>,
    authority: Option<String>,
    /// What the SPIFFE IDs of callers begin with.
    caller: Option<String>,
    status: Option<Status>,
    /// Only what ended with a cause or a status from 500 on.
    failed: bool,
}

/// Which statuses of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// This one.
    Code(u16),
    /// A hundred of them, by their first digit.
    Class(u16),
}

/// Why a filter says nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    /// It has another name than those there are.
    #[error("there is no `{0}` to choose by: {NAMES}")]
    Unknown(String),
    /// Its value is none.
    #[error("`{name}={value}`: expected {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
}

const NAMES: &str = "direction, service, route, method, path, authority, caller, status or failed";

/// Somebody who looks. Dropped when he goes.
pub(crate) struct Tap {
    listener: Arc<Listener>,
    lines: mpsc::UnboundedReceiver<Bytes>,
}

struct Listener {
    filter: Filter,
    lines: mpsc::UnboundedSender<Bytes>,
    /// Bytes that wait to be read.
    waiting: AtomicUsize,
    /// Lines for which there was no room since it was last said.
    missed: AtomicU64,
}

static TAPS: LazyLock<ArcSwap<Vec<Arc<Listener>>>> = LazyLock::new(ArcSwap::default);
/// Held while the taps are changed.
static CHANGE: Mutex<()> = Mutex::new(());

/// How many there may be at once.
pub(crate) const MOST_TAPS: usize = 8;

/// Most bytes that wait for one tap.
const LIMIT: usize = 1 << 20;

/// Shows an exchange that ended to whoever asked for such ones.
pub(super) fn show(record: &Record<'_>) {
    let mut line: Option<Bytes> = None;
    for listener in TAPS.load().iter().filter(|listener| listener.filter.takes(record)) {
        let line = line.get_or_insert_with(|| {
            let mut line = Vec::with_capacity(512);
            format::json(&mut line, record, SystemTime::now(), FIELD_LIMIT);
            line.into()
        });
        listener.put(line.clone());
    }
}

impl Tap {
    /// Begins to look. None: so many do already that nobody else may.
    pub(crate) fn open(filter: Filter) -> Option<Self> {
        describe();
        let (sender, lines) = mpsc::unbounded_channel();
        let listener = Arc::new(Listener {
            filter,
            lines: sender,
            waiting: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
        });
        let is_room = change(|taps| {
            let is_room = taps.len() < MOST_TAPS;
            if is_room {
                taps.push(listener.clone());
            }
            is_room
        });
        is_room.then(|| {
            super::listens();
            Tap { listener, lines }
        })
    }

    /// The next line.
    pub(crate) fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let missed = self.listener.missed.swap(0, Relaxed);
        if missed > 0 {
            return Poll::Ready(Some(format!("{{\"missed\":{missed}}}\n").into()));
        }
        let line = ready!(self.lines.poll_recv(cx));
        if let Some(line) = &line {
            self.listener.waiting.fetch_sub(line.len(), Relaxed);
        }
        Poll::Ready(line)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        super::listens_no_more();
        change(|taps| taps.retain(|tap| !Arc::ptr_eq(tap, &self.listener)));
    }
}

impl Listener {
    fn put(&self, line: Bytes) {
        let length = line.len();
        let is_room = self.waiting.fetch_add(length, Relaxed) + length <= LIMIT;
        if !is_room {
            self.waiting.fetch_sub(length, Relaxed);
            self.missed.fetch_add(1, Relaxed);
        } else if self.lines.send(line).is_err() {
            // He is going just now.
            return;
        }
        let outcome = if is_room { "shown" } else { "missed" };
        metrics::counter!("lighter_tap_lines_total", "outcome" => outcome).increment(1);
    }
}

/// Changes the list of taps.
fn change<T>(change: impl FnOnce(&mut Vec<Arc<Listener>>) -> T) -> T {
    let _changing = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taps = Vec::clone(&TAPS.load());
    let said = change(&mut taps);
    metrics::gauge!("lighter_taps").set(taps.len() as f64);
    TAPS.store(Arc::new(taps));
    said
}

fn describe() {
    metrics::describe_gauge!("lighter_taps", "Taps that are open.");
    metrics::describe_counter!(
        "lighter_tap_lines_total",
        "Exchanges that taps asked for, by what became of them: shown, or missed, as the tap was not read."
    );
}

impl Filter {
    /// The filter that these say, each with its value. What is said twice holds as it is said last.
    pub(crate) fn parse(mut said: HashMap<String, String>) -> Result<Self, FilterError> {
        let direction = read(&mut said, "direction", "`outbound` or `inbound`", |value| {
            Direction::ALL.into_iter().find(|direction| direction.label() == value)
        })?;
        let status =
            read(&mut said, "status", "a status such as `503`, or a class such as `5xx`", Status::parse)?;
        let failed = read(&mut said, "failed", "`true` or `false`", |value| value.parse().ok())?;
        let filter = Filter {
            direction,
            service: said.remove("service"),
            route: said.remove("route"),
            method: said.remove("method"),
            path: said.remove("path"),
            authority: said.remove("authority"),
            caller: said.remove("caller"),
            status,
            failed: failed.unwrap_or(false),
        };
        match said.into_keys().next() {
            Some(name) => Err(FilterError::Unknown(name)),
            None => Ok(filter),
        }
    }

    fn takes(&self, record: &Record<'_>) -> bool {
        fn holds<T: ?Sized>(said: Option<&T>, holds: impl FnOnce(&T) -> bool) -> bool {
            said.is_none_or(holds)
        }
        let metrics = record.metrics;
        holds(self.direction.as_ref(), |direction| *direction == metrics.direction)
            && holds(self.route.as_deref(), |route| *route == *metrics.route)
            && holds(self.service.as_deref(), |said| {
                let service = &metrics.key.service;
                match said.split_once('/') {
                    Some((namespace, name)) => *namespace == *service.namespace && *name == *service.name,
                    None => *said == *service.name,
                }
            })
            && holds(self.method.as_deref(), |method| method.as_bytes() == record.method)
            && holds(self.path.as_deref(), |path| record.path.starts_with(path.as_bytes()))
            && holds(self.authority.as_deref(), |said| said.as_bytes() == record.authority)
            && holds(self.caller.as_deref(), |caller| record.caller.starts_with(caller))
            && holds(self.status.as_ref(), |status| status.is(record.status))
            && (!self.failed || record.cause.is_some() || record.status >= 500)
    }
}

/// What is said by this name, if anything is.
fn read<T>(
    said: &mut HashMap<String, String>,
    name: &'static str,
    expected: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, FilterError> {
    let Some(value) = said.remove(name) else { return Ok(None) };
    match read(&value) {
        Some(meant) => Ok(Some(meant)),
        None => Err(FilterError::Value { name, value, expected }),
    }
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        if let Some(class) = text.strip_suffix("xx") {
            return class.parse().ok().filter(|class| (1..=5).contains(class)).map(Status::Class);
        }
        text.parse().ok().filter(|code| (100..600).contains(code)).map(Status::Code)
    }

    fn is(self, status: u16) -> bool {
        match self {
            Status::Code(code) => status == code,
            Status::Class(class) => status / 100 == class,
        }
    }
}

#[cfg(test)]
mod tests;
