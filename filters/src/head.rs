//! Heads of messages on their way through a chain, borrowed until something is changed.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use lighter_config::snapshot::HeaderChanges;
use smallvec::SmallVec;

/// Header fields in order, names in the case in which they came.
pub type Fields<'a> = SmallVec<[(Cow<'a, [u8]>, Cow<'a, [u8]>); 24]>;

/// A request's head on its way through a chain.
pub struct RequestHead<'a> {
    /// `GET`.
    pub method: Cow<'a, [u8]>,
    /// `http` or `https`, as the caller knows it.
    pub scheme: &'static str,
    /// Path and query as they came.
    pub target: Cow<'a, [u8]>,
    /// Host or :authority.
    pub authority: Cow<'a, [u8]>,
    /// Every other field.
    pub fields: Fields<'a>,
    /// What is known of the request beside its head.
    pub facts: Facts<'a>,
    /// What filters want done by whoever carries the request on.
    pub orders: Orders,
}

/// What is known of a request beside its head.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The SPIFFE ID that the caller has proved; empty: none.
    pub caller: &'a str,
    /// Whether it is a call of gRPC, whose answers have a status of their own.
    pub grpc: bool,
    /// The length of its body, if that is known.
    pub body: Option<u64>,
    /// When it came.
    pub now: Instant,
    /// A number at random below a million.
    pub dice: fn() -> u32,
}

/// What filters, which never wait and see no bodies, want done by whoever carries the request on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// It waits so long before anything else happens to it, even before it is answered here.
    pub delay: Duration,
    /// It is refused as [`Refusal::BodyTooLarge`] once its body is longer.
    pub max_body: u64,
    /// A copy of it is sent to these of the route's mirrors: the first is the lowest bit.
    pub mirrors: u64,
}

impl Default for Orders {
    fn default() -> Self {
        Orders { delay: Duration::ZERO, max_body: u64::MAX, mirrors: 0 }
    }
}

impl RequestHead<'_> {
    /// The first value of a field; case does not count in its name.
    pub(crate) fn value(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// Gives a field this value, be it there already or not.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        set(&mut self.fields, Cow::Owned(name.as_bytes().to_vec()), Cow::Owned(value.to_vec()));
    }
}

/// A response's head on its way back through a chain.
pub struct ResponseHead<'a> {
    /// The status.
    pub status: u16,
    /// Every field.
    pub fields: Fields<'a>,
}

/// An answer that a filter gives itself.
#[derive(Debug, PartialEq, Eq)]
pub struct LocalAnswer {
    /// The status.
    pub status: u16,
    /// Fields beside Content-Length.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Why the request is refused; none: it is answered as the route says.
    pub refusal: Option<Refusal>,
    /// The gRPC status that is among the fields.
    pub grpc_status: Option<u8>,
}

/// Why a filter refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A limit of rate is reached.
    RateLimited,
    /// The head is larger than the route allows.
    HeadTooLarge,
    /// The body is larger than the route allows.
    BodyTooLarge,
    /// The route says that it is to fail.
    FaultInjected,
}

impl Refusal {
    /// What it is called: in `x-lighter-error`, in logs and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::RateLimited => "rate_limited",
            Refusal::HeadTooLarge => "head_too_large",
            Refusal::BodyTooLarge => "body_too_large",
            Refusal::FaultInjected => "fault_injected",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Refusal::RateLimited => 429,
            Refusal::HeadTooLarge => 431,
            Refusal::BodyTooLarge => 413,
            Refusal::FaultInjected => 503,
        }
    }

    /// The same in gRPC. Not UNAVAILABLE for a limit, which clients take for a reason to try again at once.
    pub const fn grpc_status(self) -> u8 {
        match self {
            Refusal::RateLimited | Refusal::HeadTooLarge | Refusal::BodyTooLarge => 8,
            Refusal::FaultInjected => 14,
        }
    }
}

impl LocalAnswer {
    /// An answer as the route says.
    pub fn new(status: u16, fields: Vec<(String, Vec<u8>)>) -> Self {
        LocalAnswer { status, fields, refusal: None, grpc_status: None }
    }

    /// A refusal, as the caller's protocol has it.
    pub(crate) fn refusal(refusal: Refusal, grpc: bool) -> Self {
        if grpc {
            return Self::of_grpc(refusal, refusal.grpc_status());
        }
        let fields = vec![(ERROR_FIELD.to_string(), refusal.label().into())];
        LocalAnswer { refusal: Some(refusal), ..Self::new(refusal.status(), fields) }
    }

    /// A refusal with this status of gRPC: a head and nothing behind it.
    pub(crate) fn of_grpc(refusal: Refusal, status: u8) -> Self {
        let fields = [
            (ERROR_FIELD, refusal.label().to_string()),
            ("content-type", "application/grpc".to_string()),
            ("grpc-status", status.to_string()),
            ("grpc-message", format!("lighter: {}", refusal.label())),
        ];
        let fields = fields.map(|(name, value)| (name.to_string(), value.into_bytes()));
        LocalAnswer { refusal: Some(refusal), grpc_status: Some(status), ..Self::new(200, fields.into()) }
    }
}

/// The field that names the cause of a refusal.
const ERROR_FIELD: &str = "x-lighter-error";

/// Applies `changes` to `fields`. Names are compared without regard to case. A field that is set keeps its place and
/// the name as it came.
pub(crate) fn apply<'a>(changes: &'a HeaderChanges, fields: &mut Fields<'a>) {
    if !changes.remove.is_empty() {
        fields.retain(|(name, _)| {
            !changes.remove.iter().any(|gone| name.eq_ignore_ascii_case(gone.as_bytes()))
        });
    }
    for (name, value) in &changes.set {
        set(fields, Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes()));
    }
    for (name, value) in &changes.add {
        fields.push((Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes())));
    }
}

fn set<'a>(fields: &mut Fields<'a>, name: Cow<'a, [u8]>, value: Cow<'a, [u8]>) {
    let Some(first) = fields.iter().position(|(found, _)| found.eq_ignore_ascii_case(&name)) else {
        fields.push((name, value));
        return;
    };
    fields[first].1 = value;
    let mut place = 0;
    fields.retain(|(found, _)| {
        place += 1;
        place <= first + 1 || !found.eq_ignore_ascii_case(&name)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &HeaderChanges, before: &[(&str, &str)]) -> Vec<(String, String)> {
        let bytes = |text: &str| Cow::Owned(text.as_bytes().to_vec());
        let mut fields: Fields<'_> = before.iter().map(|(n, v)| (bytes(n), bytes(v))).collect();
        apply(changes, &mut fields);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        fields.iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn setting_replaces_every_value_and_keeps_the_place() {
        let changes = HeaderChanges { set: vec![("X-A".into(), "new".into())], ..Default::default() };
        let before = [("a", "0"), ("x-a", "1"), ("b", "2"), ("X-a", "3"), ("c", "4")];
        assert_eq!(changed(&changes, &before), pairs(&[("a", "0"), ("x-a", "new"), ("b", "2"), ("c", "4")]));
        assert_eq!(changed(&changes, &[("b", "2")]), pairs(&[("b", "2"), ("X-A", "new")]));
    }

    #[test]
    fn adding_keeps_what_is_there() {
        let changes = HeaderChanges { add: vec![("x-a".into(), "2".into())], ..Default::default() };
        assert_eq!(changed(&changes, &[("X-A", "1")]), pairs(&[("X-A", "1"), ("x-a", "2")]));
    }

    #[test]
    fn removing_ignores_case_and_comes_first() {
        let changes = HeaderChanges {
            remove: vec!["X-A".into()],
            add: vec![("x-a".into(), "new".into())],
            set: Vec::new(),
        };
        let before = [("x-a", "1"), ("b", "2"), ("X-A", "3")];
        assert_eq!(changed(&changes, &before), pairs(&[("b", "2"), ("x-a", "new")]));
    }
}
