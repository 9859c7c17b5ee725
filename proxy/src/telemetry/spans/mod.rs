//! Spans of requests that are sampled, sent to a collector by OTLP.
//!
//! Without a collector a request pays one look at one flag. With one, a request whose trace is not recorded passes as it
//! came; the head of one that is recorded is rewritten, so that the next in line knows the span it comes from.

mod context;
mod export;
pub(crate) mod otlp;

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use lighter_config::hex;
use lighter_config::sidecar::{Propagation, TracingConfig};

use self::context::Asked;
use self::export::Queue;
use super::{Direction, Record};

pub(crate) use self::export::{flush, run};

/// Begins to record spans as `config` says. The second of two in one process has no effect.
pub(crate) fn install(config: &TracingConfig, resource: otlp::Named) {
    let _ = SPANS.set(Spans {
        formats: config.propagation.clone().into(),
        sampled: (config.sampling_percent / 100.0 * u64::MAX as f64) as u64,
        queue: Queue::new(resource),
    });
}

/// A span that has begun: a request is on its way.
#[derive(Debug)]
pub(crate) struct Begun {
    trace: [u8; 16],
    span: [u8; 8],
    parent: Option<[u8; 8]>,
    /// Since 1970, in nanoseconds.
    at: u64,
}

/// Begins a span for a request if one is to be recorded. `header` gives the first value of a header by its name in lower
/// case.
///
/// A request that comes with a trace is recorded if that is. Another one begins a trace by chance; on its way in only if
/// it has no `x-request-id`, as the sidecar of its caller has decided otherwise.
#[inline]
pub(crate) fn begin<'h>(
    direction: Direction,
    header: impl Fn(&str) -> Option<&'h [u8]>,
) -> Option<Box<Begun>> {
    SPANS.get()?.begin(direction, header)
}

impl Begun {
    /// Calls `set` with each header that the next in line has to see in place of those that came.
    pub(crate) fn write(&self, set: impl FnMut(&'static str, &[u8])) {
        if let Some(spans) = SPANS.get() {
            context::write(&spans.formats, (self.trace, self.span, self.parent), set);
        }
    }

    /// The trace, as it is written everywhere.
    pub(super) fn trace_id(&self) -> String {
        hex::encode(&self.trace)
    }
}

/// Reads `value` as every header of each form, and what is made of it once more.
pub(crate) fn reread(value: &[u8]) {
    for format in [Propagation::W3c, Propagation::B3, Propagation::B3Multi] {
        if let Asked::Of(parent) = context::read(&[format], |_| Some(value)) {
            let mut written = Vec::new();
            let ids = (parent.trace, parent.span, Some(parent.span));
            context::write(&[format], ids, |name, value| written.push((name, value.to_vec())));
            let find = |name: &str| written.iter().find(|(is, _)| *is == name).map(|(_, value)| &value[..]);
            let again = context::Parent { sampled: Some(true), ..parent };
            assert_eq!(context::read(&[format], find), Asked::Of(again));
        }
    }
}

#[cfg(test)]
impl Begun {
    /// Of a trace whose id is all of this byte.
    pub(crate) fn of(byte: u8) -> Self {
        Begun { trace: [byte; 16], span: [byte; 8], parent: None, at: 0 }
    }
}

/// Ends the span of an exchange.
#[cold]
pub(super) fn end(begun: &Begun, record: &Record<'_>) {
    if let Some(spans) = SPANS.get() {
        spans.queue.put(otlp::span(begun, record));
    }
}

struct Spans {
    formats: Box<[Propagation]>,
    /// A number by chance that is not above this one begins a trace.
    sampled: u64,
    queue: Queue,
}

static SPANS: OnceLock<Spans> = OnceLock::new();

impl Spans {
    fn begin<'h>(
        &self,
        direction: Direction,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Option<Box<Begun>> {
        let by_chance = || self.sampled > 0 && fastrand::u64(..) <= self.sampled;
        let (trace, parent) = match context::read(&self.formats, &header) {
            Asked::No => return None,
            Asked::Of(parent) if parent.sampled.unwrap_or_else(by_chance) => {
                (parent.trace, Some(parent.span))
            }
            Asked::Of(_) => return None,
            Asked::Nothing if direction == Direction::Inbound && header("x-request-id").is_some() => {
                return None;
            }
            Asked::Nothing if by_chance() => (fastrand::u128(1..).to_be_bytes(), None),
            Asked::Nothing => return None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let span = fastrand::u64(1..).to_be_bytes();
        Some(Box::new(Begun { trace, span, parent, at: now.as_nanos() as u64 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(sampling: f64) -> Spans {
        Spans {
            formats: [Propagation::W3c].into(),
            sampled: (sampling * u64::MAX as f64) as u64,
            queue: Queue::new(otlp::Named::default()),
        }
    }

    #[test]
    fn a_trace_begins_by_chance_and_goes_on_as_it_began() {
        let nothing = |_: &str| None;
        let begun =
            |spans: &Spans| (0..4000).filter(|_| spans.begin(Direction::Outbound, nothing).is_some()).count();
        assert_eq!((begun(&spans(0.0)), begun(&spans(1.0))), (0, 4000));
        assert!((800..1200).contains(&begun(&spans(0.25))));

        let header =
            |said: &'static str| move |name: &str| (name == "traceparent").then_some(said.as_bytes());
        for direction in Direction::ALL {
            assert!(
                spans(1.0)
                    .begin(direction, header("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"))
                    .is_none()
            );
            let begun = spans(0.0)
                .begin(direction, header("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
                .unwrap();
            assert_eq!(begun.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(begun.parent.map(u64::from_be_bytes), Some(0x00f0_67aa_0ba9_02b7));
        }
    }

    #[test]
    fn on_the_way_in_the_callers_sidecar_has_decided() {
        let known = |name: &str| (name == "x-request-id").then_some(&b"1"[..]);
        assert!(spans(1.0).begin(Direction::Inbound, known).is_none());
        assert!(spans(1.0).begin(Direction::Outbound, known).is_some());
        assert!(spans(1.0).begin(Direction::Inbound, |_| None).is_some());
    }
}
