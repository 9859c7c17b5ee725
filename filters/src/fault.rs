//! Faults that are made on purpose: requests that wait, or fail.

use std::sync::Arc;

use lighter_config::snapshot::Route;
use lighter_config::snapshot::filter::{Abort, Fault as Said};
use lighter_config::snapshot::route::ValueMatch;
use tower::Layer;

use crate::filter::Filter;
use crate::head::{LocalAnswer, Refusal, RequestHead, ResponseHead};

/// Makes [`Fault`] around a filter.
pub struct FaultLayer<'c>(&'c Said);

/// Has requests wait, or fail.
pub struct Fault<S> {
    said: Said,
    inner: S,
}

impl<'c> FaultLayer<'c> {
    /// A layer that makes these faults.
    pub fn new(said: &'c Said) -> Self {
        FaultLayer(said)
    }
}

impl<S> Layer<S> for FaultLayer<'_> {
    type Service = Fault<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Fault { said: self.0.clone(), inner }
    }
}

impl<S: Filter> Filter for Fault<S> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        let asked = |(name, wanted): &(Arc<str>, ValueMatch)| {
            head.value(name.as_bytes()).is_some_and(|found| wanted.takes(found))
        };
        if !self.said.headers.iter().all(asked) {
            return self.inner.on_request(route, head);
        }
        let dice = head.facts.dice;
        if let Some((delay, share)) = self.said.delay
            && share.has(dice())
        {
            head.orders.delay += delay;
        }
        match self.said.abort {
            Some((abort, share)) if share.has(dice()) => Some(answer(abort, head.facts.grpc)),
            _ => self.inner.on_request(route, head),
        }
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
    }
}

fn answer(abort: Abort, grpc: bool) -> LocalAnswer {
    match abort {
        Abort::Http(status) if !grpc => {
            LocalAnswer { status, ..LocalAnswer::refusal(Refusal::FaultInjected, false) }
        }
        // As gRPC's own table has it (HTTP to gRPC status codes).
        Abort::Http(status) => LocalAnswer::of_grpc(
            Refusal::FaultInjected,
            match status {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502 | 503 | 504 => 14,
                _ => 2,
            },
        ),
        // Whoever asks for a status of gRPC gets one.
        Abort::Grpc(status) => LocalAnswer::of_grpc(Refusal::FaultInjected, status),
    }
}
